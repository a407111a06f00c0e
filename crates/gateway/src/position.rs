//! How far the region's own server is: one poller for all who want to know.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pangea_base::Lsn;
use pangea_consistency::Waiters;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

/// Pause between two questions while a session waits.
const POLL_BUSY: Duration = Duration::from_millis(1);

/// Pause while nobody waits: fresh enough for heartbeats and status.
const POLL_IDLE: Duration = Duration::from_millis(250);

/// Pause before the server is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A server that does not answer for so long is one whose position is not known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

const POSITION_SQL: &str = "SELECT pg_catalog.pg_is_in_recovery(), (CASE WHEN pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text";

/// What the server said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerPosition {
    /// Whether it is a standby.
    pub(crate) in_recovery: bool,
    /// Replay position of a standby, flush position of a primary.
    pub(crate) lsn: Lsn,
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
}

impl PositionWatch {
    /// Watches the server whose socket is in `dir`.
    pub(crate) fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { dir, state: Mutex::default(), wanted: Notify::new() })
    }

    /// What the server said last; `None` when it does not answer.
    pub(crate) fn known(&self) -> Option<ServerPosition> {
        self.lock().known
    }

    /// Waits until the server has replayed `lsn`. Dropping the future ends the wait.
    pub(crate) async fn replayed(&self, lsn: Lsn) {
        let (reached, reach) = oneshot::channel();
        if self.lock().waiters.wait(lsn, reached).is_err() {
            return;
        }
        self.wanted.notify_one();
        // The sender is dropped only together with the watch itself, that is when the gateway stops.
        if reach.await.is_err() {
            std::future::pending::<()>().await;
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

    async fn poll_connection(&self) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = crate::server::admin_config(&self.dir, "postgres").connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let statement = client.prepare(POSITION_SQL).await?;
        while let Ok(answer) = timeout(ANSWER_TIMEOUT, client.query_one(&statement, &[])).await {
            let row = answer?;
            let lsn: Option<&str> = row.get(1);
            // A standby that has replayed nothing yet has no position.
            let lsn = lsn.and_then(|text| text.parse().ok());
            self.learn(lsn.map(|lsn| ServerPosition { in_recovery: row.get(0), lsn }));
            if self.lock().waiters.is_empty() {
                let _ = timeout(POLL_IDLE, self.wanted.notified()).await;
            } else {
                sleep(POLL_BUSY).await;
            }
        }
        connection.abort();
        Ok(())
    }

    fn learn(&self, known: Option<ServerPosition>) {
        let mut state = self.lock();
        state.known = known;
        state.waiters.retain(|waiter| !waiter.is_closed());
        for reached in state.waiters.advance(known.map(|position| position.lsn)) {
            // Who no longer waits need not know.
            let _ = reached.send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
