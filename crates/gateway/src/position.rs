//! How far a server of this region is: one poller for all who want to know.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pangea_base::{Lsn, Position, Timeline};
use pangea_consistency::{History, Reach, Staleness, Waiters};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, Statement};

/// Least pause between two questions while a session waits.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause while a session waits.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What a pause may add to a wait: this part of it.
const PAUSE_SHARE: u32 = 8;

/// Pause while nobody waits: fresh enough for heartbeats and status.
const PAUSE_IDLE: Duration = Duration::from_millis(100);

/// Pause before the server is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A server that does not answer for so long is one whose position is not known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Position first, timeline after it: what has been replayed is then on that timeline or on one before it. A standby
/// without connection to its primary tells none.
const POSITION_SQL: &str = "SELECT t.standby, (CASE WHEN t.standby THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text, CASE WHEN t.standby THEN \
     (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver()) ELSE \
     ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
     ::pg_catalog.bit(32)::int END, CASE WHEN t.standby THEN pg_catalog.pg_last_wal_receive_lsn() END::text \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) t";

/// The newest timeline that the server has heard of. Nothing of a timeline is replayed before its history is here.
const NEWEST_TIMELINE_SQL: &str = "SELECT coalesce(max(('x' || pg_catalog.substr(name, 1, 8))\
     ::pg_catalog.bit(32)::int), 1) FROM pg_catalog.pg_ls_dir('pg_wal') name WHERE name ~ '^[0-9A-F]{8}\\.history$'";

const HISTORY_SQL: &str = "SELECT pg_catalog.pg_read_file('pg_wal/' || pg_catalog.lpad(\
     pg_catalog.upper(pg_catalog.to_hex($1::int)), 8, '0') || '.history')";

/// What the server said last.
#[derive(Debug, Clone)]
pub(crate) struct ServerPosition {
    /// Whether it is a standby.
    pub(crate) in_recovery: bool,
    /// Replay position of a standby, flush position of a primary.
    pub(crate) lsn: Lsn,
    /// What a standby has received and flushed.
    pub(crate) received: Option<Lsn>,
    /// The timelines that lead to it.
    pub(crate) history: Arc<History>,
    /// When the server was asked.
    pub(crate) asked: Instant,
}

impl ServerPosition {
    pub(crate) fn position(&self) -> Position {
        Position { timeline: self.history.current(), lsn: self.lsn }
    }
}

/// The position of a server, kept fresh by [`PositionWatch::poll`].
#[derive(Debug)]
pub(crate) struct PositionWatch {
    dir: PathBuf,
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiters: Waiters<oneshot::Sender<()>>,
    known: Option<ServerPosition>,
    staleness: Staleness,
    /// When a wait began or ended last.
    stirred: Option<Instant>,
}

/// Why the position could not be read.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    History(#[from] pangea_consistency::InvalidHistory),
}

impl PositionWatch {
    /// Watches the server whose socket is in `dir`.
    pub(crate) fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { dir, state: Mutex::default(), wanted: Notify::new() })
    }

    /// What the server said last; `None` when it does not answer.
    pub(crate) fn known(&self) -> Option<ServerPosition> {
        self.lock().known.clone()
    }

    /// What the server knows of a position.
    pub(crate) fn reach(&self, position: Position) -> Reach {
        self.lock().reach(position)
    }

    /// The primary was at this position at a time, counted as in [`Self::staleness`].
    pub(crate) fn primary_was_at(&self, covers: Duration, position: Position) {
        self.lock().staleness.learn(covers, position);
    }

    /// How stale reads are at most at a time; `None` when that is not known.
    pub(crate) fn staleness(&self, now: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let State { known, staleness, .. } = &mut *state;
        let known = known.as_ref()?;
        if !known.in_recovery {
            return Some(Duration::ZERO);
        }
        staleness.replayed(&known.history, Some(known.lsn));
        staleness.at(now)
    }

    /// Waits until the server has replayed a position, or has left its timeline. Dropping the future ends the wait.
    pub(crate) async fn replayed(&self, position: Position) {
        loop {
            let (reached, reach) = oneshot::channel();
            {
                let mut state = self.lock();
                if state.reach(position) != Reach::Behind {
                    return;
                }
                let current = state.known.as_ref().map(|known| known.history.current());
                // On a timeline that the server has yet to follow: a change of timeline ends all waits.
                let ahead = current.is_some_and(|current| position.timeline > current);
                let lsn = if ahead { Lsn(u64::MAX) } else { position.lsn };
                state.stirred = Some(Instant::now());
                if state.waiters.wait(lsn, reached).is_err() {
                    return;
                }
            }
            self.wanted.notify_one();
            // Reached, or to be judged anew.
            let _ = reach.await;
        }
    }

    /// Asks the server, for ever.
    pub(crate) async fn poll(self: Arc<Self>) {
        loop {
            if let Err(error) = self.poll_connection().await {
                tracing::debug!(%error, "position of the server is not known");
            }
            self.learn(None);
            sleep(RETRY_DELAY).await;
        }
    }

    async fn poll_connection(&self) -> Result<(), PollError> {
        let (client, connection) = crate::server::admin_config(&self.dir, "postgres").connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let result = self.poll_client(&client).await;
        connection.abort();
        result
    }

    async fn poll_client(&self, client: &Client) -> Result<(), PollError> {
        let statement = client.prepare(POSITION_SQL).await?;
        while let Ok(answer) = timeout(ANSWER_TIMEOUT, self.ask(client, &statement)).await {
            self.learn(answer?);
            let pause = self.lock().pause();
            match pause {
                Some(pause) => sleep(pause).await,
                None => drop(timeout(PAUSE_IDLE, self.wanted.notified()).await),
            }
        }
        Ok(())
    }

    async fn ask(&self, client: &Client, statement: &Statement) -> Result<Option<ServerPosition>, PollError> {
        let asked = Instant::now();
        let row = client.query_one(statement, &[]).await?;
        let lsn: Option<&str> = row.get(1);
        // A standby that has replayed nothing yet has no position.
        let Some(lsn) = lsn.and_then(|text| text.parse().ok()) else { return Ok(None) };
        let timeline = match row.get::<_, Option<i32>>(2) {
            Some(timeline) => timeline,
            None => client.query_one(NEWEST_TIMELINE_SQL, &[]).await?.get(0),
        };
        let timeline = Timeline(timeline.unsigned_abs());
        let known = self.lock().known.as_ref().map(|known| known.history.clone());
        let history = match known.filter(|history| history.current() == timeline) {
            Some(history) => history,
            None => Arc::new(read_history(client, timeline).await?),
        };
        let received = row.get::<_, Option<&str>>(3).and_then(|text| text.parse().ok());
        Ok(Some(ServerPosition { in_recovery: row.get(0), lsn, received, history, asked }))
    }

    fn learn(&self, known: Option<ServerPosition>) {
        let mut state = self.lock();
        let timeline = |known: &Option<ServerPosition>| known.as_ref().map(|known| known.history.current());
        let moved = known.is_some() && timeline(&known) != timeline(&state.known);
        state.waiters.retain(|waiter| !moved && !waiter.is_closed());
        let lsn = known.as_ref().map(|known| known.lsn);
        if lsn.is_none() || state.known.as_ref().is_some_and(|last| lsn < Some(last.lsn)) {
            // It may come back behind where it was.
            state.staleness = Staleness::default();
        }
        state.known = known;
        for reached in state.waiters.advance(lsn) {
            state.stirred = Some(Instant::now());
            // Who no longer waits need not know.
            let _ = reached.send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reach(&self, position: Position) -> Reach {
        match &self.known {
            Some(known) => known.history.judge(position, Some(known.lsn)),
            None => Reach::Behind,
        }
    }

    /// How long to wait before the next question; `None` while nobody waits. The longer the wait, the longer the
    /// pause: thousands that wait for a server that is far behind cost no more than one.
    fn pause(&self) -> Option<Duration> {
        if self.waiters.is_empty() {
            return None;
        }
        let waited = self.stirred.map_or(Duration::ZERO, |since| since.elapsed());
        Some((waited / PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX))
    }
}

async fn read_history(client: &Client, timeline: Timeline) -> Result<History, PollError> {
    if timeline.0 <= 1 {
        return Ok(History::new(timeline));
    }
    let row = client.query_one(HISTORY_SQL, &[&timeline.0.cast_signed()]).await?;
    Ok(History::parse(timeline, row.get(0))?)
}
