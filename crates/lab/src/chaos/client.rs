//! Clients that write, and remember what they were told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::record::{Outcome, Reign, RowId, Via, Write, WriterId};
use crate::history::Rng;
use crate::trouble::Trouble;

/// Longest wait for an answer: longer than writes are held in a failover.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a failure: a client that hammered at a dead endpoint would only take the processor from the others.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two writes, in milliseconds.
const PAUSE_MS_MAX: u32 = 40;
/// Digits of a timeline in the name of a log file.
const TIMELINE_LEN: usize = 8;

/// The tables. The ledger has no key: what is written twice must be seen to be there twice.
pub(super) const TABLES: &str = "DROP TABLE IF EXISTS chaos_ledger, chaos_counter; \
     CREATE TABLE chaos_ledger (id bigint NOT NULL, writer int NOT NULL); \
     CREATE TABLE chaos_counter (writer int PRIMARY KEY, n bigint NOT NULL)";
/// The name of the ledger.
pub(super) const LEDGER: &str = "chaos_ledger";

/// What all clients share.
#[derive(Debug)]
pub(super) struct Log {
    began: Instant,
    next: AtomicI64,
    writes: Mutex<Vec<Write>>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), next: AtomicI64::new(1), writes: Mutex::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn take(&self, count: i64) -> Vec<RowId> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(RowId).collect()
    }

    pub(super) fn writes(&self) -> MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub(super) struct Address(Config);

impl Address {
    pub(super) fn endpoint(address: SocketAddr, password: &str) -> Self {
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port()).user("postgres").dbname("postgres");
        config.password(password).application_name("chaos");
        Self(config)
    }

    pub(super) fn server(socket_dir: &Path) -> Self {
        let mut config = Config::new();
        config.host_path(socket_dir).port(pangea_agent::SOCKET_PORT).user("postgres").dbname("postgres");
        config.application_name("chaos");
        Self(config)
    }
}

/// A session. It vanishes when dropped, without a farewell.
pub(super) struct Session {
    client: Client,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    pub(super) async fn open(address: &Address) -> Result<Self, Trouble> {
        let connected = timeout(CONNECT_TIMEOUT, address.0.connect(NoTls)).await;
        let (client, connection) = connected.map_err(|_| Trouble::Silence)?.map_err(Trouble::Error)?;
        let task = tokio::spawn(async move {
            // The client's calls fail as well then, and tell it better.
            let _ = connection.await;
        });
        Ok(Self { client, task })
    }

    /// The rows of an answer, as text.
    pub(super) async fn rows(&self, statement: &str) -> Result<Vec<Vec<String>>, Trouble> {
        let answer = timeout(ANSWER_TIMEOUT, self.client.simple_query(statement)).await;
        let messages = answer.map_err(|_| Trouble::Silence)?.map_err(Trouble::Error)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
        };
        Ok(rows.map(text).collect())
    }

    async fn write(&self, statement: &str, protocol: Protocol) -> Result<Reign, Trouble> {
        let (file, server) = match protocol {
            Protocol::Simple => {
                let rows = self.rows(statement).await?;
                let mut row = rows.into_iter().next().ok_or(Trouble::Nonsense)?.into_iter();
                (row.next().unwrap_or_default(), row.next().unwrap_or_default())
            }
            Protocol::Extended => {
                let answer = timeout(ANSWER_TIMEOUT, self.client.query(statement, &[])).await;
                let rows = answer.map_err(|_| Trouble::Silence)?.map_err(Trouble::Error)?;
                let row = rows.first().ok_or(Trouble::Nonsense)?;
                (row.get(0), row.get(1))
            }
        };
        let digits = file.get(..TIMELINE_LEN).ok_or(Trouble::Nonsense)?;
        let timeline = u32::from_str_radix(digits, 16).map_err(|_| Trouble::Nonsense)?;
        Ok(Reign { timeline, server })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

/// One client.
pub(super) struct Writer {
    pub(super) log: Arc<Log>,
    pub(super) round: u32,
    pub(super) id: WriterId,
    pub(super) via: Via,
    pub(super) address: Address,
}

/// A statement that writes rows and counts them, and tells where. `source` gives rows with a column `id`.
fn statement(writer: WriterId, count: usize, source: &str) -> String {
    let WriterId(writer) = writer;
    format!(
        "WITH counted AS (UPDATE chaos_counter SET n = n + {count} WHERE writer = {writer}), source AS ({source}) \
         INSERT INTO chaos_ledger (id, writer) SELECT id, {writer} FROM source \
         RETURNING pg_walfile_name(pg_current_wal_insert_lsn()), current_setting('cluster_name')"
    )
}

fn values(ids: &[RowId]) -> String {
    let list: Vec<String> = ids.iter().map(|id| format!("({}::bigint)", id.0)).collect();
    format!("SELECT * FROM (VALUES {}) AS given (id)", list.join(", "))
}

impl Writer {
    fn note(&self, ids: Vec<RowId>, sent: Duration, result: Result<Reign, (Trouble, Sent)>) -> bool {
        let (outcome, said) = match result {
            Ok(reign) => (Outcome::Acknowledged(reign), String::new()),
            Err((trouble, Sent::No)) => (Outcome::Failed, format!("its commit was never sent: {trouble}")),
            Err((trouble, Sent::Yes)) if trouble.rolled_back() => (Outcome::Failed, trouble.to_string()),
            Err((trouble, Sent::Yes)) => (Outcome::Unknown, trouble.to_string()),
        };
        let well = matches!(outcome, Outcome::Acknowledged(_));
        let (round, writer, via, ended) = (self.round, self.id, self.via.clone(), self.log.now());
        self.log.writes().push(Write { round, writer, ids, via, sent, ended, outcome, said });
        well
    }

    /// Writes until it is told to stop.
    pub(super) async fn run(self, mut rng: Rng, stop: watch::Receiver<bool>) {
        let mut session = None;
        while !*stop.borrow() {
            let current = match session.take() {
                Some(session) => session,
                None => match Session::open(&self.address).await {
                    Ok(session) => session,
                    Err(_) => {
                        sleep(FAILURE_PAUSE).await;
                        continue;
                    }
                },
            };
            let well = match rng.below(4) {
                0 => self.one(&current, Protocol::Simple, 1).await,
                1 => self.one(&current, Protocol::Extended, 1).await,
                2 => self.one(&current, Protocol::Simple, 3).await,
                _ => self.transaction(&current).await,
            };
            if well {
                session = Some(current);
                sleep(rng.up_to_ms(PAUSE_MS_MAX)).await;
            } else {
                drop(current);
                sleep(FAILURE_PAUSE).await;
            }
        }
    }

    async fn one(&self, session: &Session, protocol: Protocol, count: i64) -> bool {
        let ids = self.log.take(count);
        let statement = statement(self.id, ids.len(), &values(&ids));
        let sent = self.log.now();
        let result = session.write(&statement, protocol).await;
        self.note(ids, sent, result.map_err(|trouble| (trouble, Sent::Yes)))
    }

    async fn transaction(&self, session: &Session) -> bool {
        self.transaction_with_pause(session, Duration::ZERO).await
    }

    /// BEGIN, two inserts, COMMIT, with a pause before the last.
    async fn transaction_with_pause(&self, session: &Session, pause: Duration) -> bool {
        let ids = self.log.take(2);
        let began = self.log.now();
        let open = async {
            session.rows("BEGIN").await?;
            let mut reign = Err(Trouble::Nonsense);
            for id in &ids {
                reign = Ok(session.write(&statement(self.id, 1, &values(&[*id])), Protocol::Simple).await?);
            }
            sleep(pause).await;
            reign
        };
        let reign = match open.await {
            Ok(reign) => reign,
            Err(trouble) => return self.note(ids, began, Err((trouble, Sent::No))),
        };
        let sent = self.log.now();
        let done = session.rows("COMMIT").await;
        self.note(ids, sent, done.map(|_| reign).map_err(|trouble| (trouble, Sent::Yes)))
    }

    /// Writes as fast as the server answers, until it does no more or that long has passed.
    pub(super) async fn hold_on(self, session: Session, lasts: Duration) {
        let until = self.log.now() + lasts;
        while self.log.now() < until && self.one(&session, Protocol::Simple, 1).await {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// One statement that runs for so long and writes at its end.
    pub(super) async fn hold_statement(self, session: Session, runs: Duration) {
        let ids = self.log.take(1);
        let slow = format!("{} , pg_sleep({})", values(&ids), runs.as_secs_f64());
        let slow = slow.replacen("SELECT *", "SELECT id", 1);
        // The sleep begins after this, and the write after the sleep.
        let sent = self.log.now() + runs;
        let result = session.write(&statement(self.id, 1, &slow), Protocol::Simple).await;
        self.note(ids, sent, result.map_err(|trouble| (trouble, Sent::Yes)));
    }

    /// One transaction that is open for so long.
    pub(super) async fn hold_transaction(self, session: Session, open: Duration) {
        self.transaction_with_pause(&session, open).await;
    }
}

/// Whether the commit was.
enum Sent {
    Yes,
    No,
}
