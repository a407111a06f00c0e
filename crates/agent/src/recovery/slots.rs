//! The logical slots from which lost transactions are decoded after a crash.
//!
//! A slot cannot be made afterwards for log that is already written, so every database of the writable server has
//! one, `pangea_lost_<oid>`, made right after a promotion or the creation of the database and kept at what the
//! standbys have received. On a server that follows a primary these slots only hold log back: they are dropped there.
//! Not before it follows: a former primary that was fenced starts in recovery as long as nobody else is primary, and
//! what it has may turn out to be lost.
//!
//! DROP DATABASE: PostgreSQL drops the *inactive* slots of a database with it and refuses (55006) only while one is
//! active. A slot is active for the moment in which it is made or moved. For that moment we hold a lock on the
//! database, so that DROP DATABASE waits and then succeeds, and the connection is closed at once afterwards
//! (DROP DATABASE waits up to 5 s for other connections to end). So nobody has to do anything before dropping a
//! database, and nothing has to be intercepted.
//!
//! Limits, all of them told in the report (`complete: false`):
//! * transactions that commit before the slot is there, and those that began before: a slot begins when all
//!   transactions that run at that time have ended;
//! * log past `max_slot_wal_keep_size` while no standby is connected: the slot is lost, and made anew;
//! * a standby that was away for longer than [`FORGET`] and is promoted all the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pangea_base::Lsn;
use tokio_postgres::Config;

use super::session::{Session, literal};
use crate::SOCKET_PORT;

/// Names of slots: this and the number of the database.
pub(crate) const SLOT_PREFIX: &str = "pangea_lost_";

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two looks at a server in recovery: a promotion is to be noticed soon.
const STANDBY_INTERVAL: Duration = Duration::from_millis(100);
/// Pause after a failure: the server may be starting.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A slot that is behind is moved this often. To move it is to read the log from its last restart point again, in
/// every database: not at every look.
const MOVE_INTERVAL: Duration = Duration::from_secs(10);
/// A slot that is further behind is moved at the next look.
const MOVE_BYTES: u64 = 16 << 20;
/// To make a slot is to wait for running transactions; DROP DATABASE waits for us meanwhile.
const CREATE_TIMEOUT: &str = "5s";
/// The other transactions of a database wait for nothing here.
const MOVE_TIMEOUT: &str = "60s";
/// A standby that has been away for so long no longer holds the slots back.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// Keeps the slots of the server whose socket is in `socket_dir`, for ever. Standbys, by their `application_name`, that
/// are `forgotten` hold nothing back: their region is none of the cluster's.
pub async fn keep_slots(socket_dir: PathBuf, forgotten: impl Fn(&str) -> bool + Send + Sync + 'static) {
    let mut config = Config::new();
    config.host_path(&socket_dir).port(SOCKET_PORT).user("postgres").application_name("pangea-agent");
    let forgotten = Box::new(forgotten);
    let mut keeper = Keeper { config, forgotten, standbys: HashMap::new(), moved: HashMap::new() };
    loop {
        let error = match Session::open(&keeper.config, "postgres").await {
            Ok(session) => keeper.watch(&session).await,
            Err(error) => error,
        };
        tracing::debug!(%error, socket_dir = %Path::display(&socket_dir), "cannot look after the slots for lost transactions");
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

struct Keeper {
    config: Config,
    forgotten: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// By `application_name`: what it had flushed when it was seen last, and when that was.
    standbys: HashMap<String, (Lsn, Instant)>,
    /// When the slot of a database was moved last.
    moved: HashMap<String, Instant>,
}

/// A database and its slot.
struct Database {
    name: String,
    slot_name: String,
    slot: Option<Slot>,
}

struct Slot {
    lost: bool,
    active: bool,
    confirmed: Option<Lsn>,
}

const DATABASES_SQL: &str = "SELECT d.datname, 'pangea_lost_' || d.oid, s.slot_name IS NOT NULL, s.wal_status = 'lost', \
     s.active, s.confirmed_flush_lsn FROM pg_database d LEFT JOIN pg_replication_slots s \
     ON s.slot_name = 'pangea_lost_' || d.oid AND s.datoid = d.oid \
     WHERE d.datallowconn AND NOT d.datistemplate ORDER BY d.oid";

/// Walsenders of logical replication say what a subscriber has, not what a standby has.
const STANDBYS_SQL: &str = "SELECT application_name, min(flush_lsn) FROM pg_stat_replication r \
     WHERE state = 'streaming' AND flush_lsn IS NOT NULL AND NOT EXISTS (SELECT FROM pg_replication_slots s \
     WHERE s.active_pid = r.pid AND s.slot_type = 'logical') GROUP BY application_name";

/// Where the primary has all that the server has: one that has left the primary's line streams too, but never as far
/// as it has come. `LIKE` without a pattern: the underscore is one.
const DROP_SQL: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
     WHERE starts_with(slot_name, 'pangea_lost_') AND NOT active AND EXISTS (SELECT \
     FROM pg_stat_get_wal_receiver() WHERE status = 'streaming' AND flushed_lsn >= pg_last_wal_replay_lsn())";

impl Keeper {
    /// Looks again and again until something fails.
    async fn watch(&mut self, session: &Session) -> tokio_postgres::Error {
        loop {
            let pause = match self.look(session).await {
                Ok(pause) => pause,
                Err(error) => return error,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&mut self, session: &Session) -> Result<Duration, tokio_postgres::Error> {
        if session.value("SELECT pg_is_in_recovery()").await?.as_deref() != Some("f") {
            self.standbys.clear();
            self.moved.clear();
            session.client.batch_execute(DROP_SQL).await?;
            return Ok(STANDBY_INTERVAL);
        }
        let target = self.target(session).await?;
        for database in databases(session).await? {
            // One that takes no connection, or where a transaction runs for hours, must not keep the others from
            // theirs.
            if let Err(error) = self.keep(session, &database, target).await {
                tracing::debug!(%error, database = database.name, "cannot keep the slot for lost transactions");
            }
        }
        Ok(LOOK_INTERVAL)
    }

    /// What every standby has that may be promoted; `None` when none is known.
    async fn target(&mut self, session: &Session) -> Result<Option<Lsn>, tokio_postgres::Error> {
        let now = Instant::now();
        let rows = session.rows(STANDBYS_SQL).await?;
        let mut connected = false;
        for row in rows.iter().filter(|row| row.get(0).is_none_or(|name| !(self.forgotten)(name))) {
            connected = true;
            let flushed = row.get(1).and_then(|lsn| lsn.parse().ok());
            if let (Some(name), Some(flushed)) = (row.get(0), flushed) {
                self.standbys.insert(name.to_owned(), (flushed, now));
            }
        }
        let forgotten = &self.forgotten;
        self.standbys.retain(|name, (_, seen)| now.duration_since(*seen) < FORGET && !forgotten(name));
        Ok(self.standbys.values().map(|(flushed, _)| *flushed).min().filter(|_| connected))
    }

    async fn keep(
        &mut self,
        session: &Session,
        database: &Database,
        target: Option<Lsn>,
    ) -> Result<(), tokio_postgres::Error> {
        let slot_name = literal(&database.slot_name);
        let create = format!("SELECT pg_create_logical_replication_slot({slot_name}, 'test_decoding')");
        match &database.slot {
            None => self.on_database(&database.name, CREATE_TIMEOUT, &create).await,
            Some(slot) if slot.lost => {
                tracing::warn!(
                    database = database.name,
                    "the slot for lost transactions fell behind max_slot_wal_keep_size and is made anew: what commits \
                     meanwhile could be reported without its rows"
                );
                let drop = format!("SELECT pg_drop_replication_slot({slot_name})");
                session.client.batch_execute(&drop).await?;
                self.on_database(&database.name, CREATE_TIMEOUT, &create).await
            }
            Some(Slot { active: true, .. } | Slot { confirmed: None, .. }) => Ok(()),
            Some(Slot { confirmed: Some(confirmed), .. }) => {
                let Some(target) = target.filter(|target| target > confirmed) else { return Ok(()) };
                let recent = self.moved.get(&database.name).is_some_and(|at| at.elapsed() < MOVE_INTERVAL);
                if recent && target.bytes_since(*confirmed) < MOVE_BYTES {
                    return Ok(());
                }
                let advance = format!("SELECT pg_replication_slot_advance({slot_name}, '{target}')");
                self.on_database(&database.name, MOVE_TIMEOUT, &advance).await?;
                self.moved.insert(database.name.clone(), Instant::now());
                Ok(())
            }
        }
    }

    /// Runs `sql` in a database, where DROP DATABASE waits for it instead of failing.
    async fn on_database(
        &self,
        database: &str,
        timeout: &str,
        sql: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let session = Session::open(&self.config, database).await?;
        let name = literal(database);
        // It locks what it looks up, and writes nothing: a slot cannot be made in a transaction that has written.
        let lock = format!("SELECT pg_get_object_address('database', ARRAY[{name}], '{{}}')");
        let result = session
            .client
            .batch_execute(&format!(
                "BEGIN; SET LOCAL statement_timeout = '{timeout}'; {lock}; {sql}; COMMIT"
            ))
            .await;
        session.close().await;
        result
    }
}

async fn databases(session: &Session) -> Result<Vec<Database>, tokio_postgres::Error> {
    let rows = session.rows(DATABASES_SQL).await?;
    let read = |row: &tokio_postgres::SimpleQueryRow| {
        let slot = (row.get(2)? == "t").then(|| Slot {
            lost: row.get(3) == Some("t"),
            active: row.get(4) == Some("t"),
            confirmed: row.get(5).and_then(|lsn| lsn.parse().ok()),
        });
        Some(Database { name: row.get(0)?.to_owned(), slot_name: row.get(1)?.to_owned(), slot })
    };
    Ok(rows.iter().filter_map(read).collect())
}
