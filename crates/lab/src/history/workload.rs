//! Sessions in all regions that read and write registers at random, and the record of what they were told.
//!
//! A session is a task with one connection. It thinks, chooses an operation, records what came of it and when, and
//! ends after a while; another takes its place. Both protocols, statements alone, several in one string, explicit
//! transactions of every kind that may run on either server.
//!
//! What is recorded errs on the side of not knowing: a write counts as failed only where PostgreSQL itself has said
//! that it rolled back, or where its commit was never sent.

mod connection;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pangea_base::RegionId;
use tokio::task::JoinSet;
use tokio_postgres::{Config, NoTls};

use super::operation::{Action, History, Operation, Outcome, PlaceId, SessionId, TransactionId, WriteId};
use super::rng::Rng;

/// The registers. `writer` is 0 in the beginning.
const TABLE: &str =
    "CREATE TABLE register (key int PRIMARY KEY, version bigint NOT NULL, writer bigint NOT NULL)";

/// What a session may do at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Read and write.
    Cluster,
    /// Read only.
    Reader,
}

/// Where sessions connect.
#[derive(Debug, Clone)]
pub struct Place {
    /// Whose endpoint it is.
    pub region: RegionId,
    /// Which of the region's.
    pub endpoint: Endpoint,
    /// Its address.
    pub address: SocketAddr,
}

/// A workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The same seed chooses the same operations; how they meet is the machine's.
    pub seed: u64,
    /// How long new operations begin.
    pub length: Duration,
    /// How many registers there are. Few make sessions meet.
    pub keys: u16,
    /// `pangea.read_consistency` of the sessions.
    pub level: String,
    /// Where sessions are.
    pub places: Vec<Place>,
    /// How many at each.
    pub sessions_per_place: u16,
    /// Who connects, to what database; addresses are the places'.
    pub login: Config,
}

/// What a workload has left.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// What happened.
    pub history: History,
    /// How often each SQLSTATE was met; `client` where there was none.
    pub errors: BTreeMap<String, usize>,
}

/// Makes the table of registers, by a connection that may write.
///
/// # Errors
/// What the server says.
pub async fn create_registers(login: &Config, keys: u16) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = login.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let fill = format!("INSERT INTO register SELECT key, 0, 0 FROM generate_series(1, {keys}) AS key");
    let done = client.batch_execute(&format!("DROP TABLE IF EXISTS register; {TABLE}; {fill}")).await;
    drop(client);
    // It ends with its client, and has told its errors there.
    let _ = connection.await;
    done
}

impl Workload {
    /// Runs it to its end. The registers must be fresh, see [`create_registers`], and known everywhere.
    pub async fn run(self) -> Recording {
        let mut rng = Rng::new(self.seed);
        let places = self.places.iter().map(|place| {
            let endpoint = match place.endpoint {
                Endpoint::Cluster => "cluster",
                Endpoint::Reader => "reader",
            };
            format!("{} {endpoint}", place.region)
        });
        let places = places.collect();
        let recorder = Recorder {
            began: Instant::now(),
            state: Mutex::new(State {
                history: History { places, ..History::default() },
                ..State::default()
            }),
        };
        let (workload, recorder) = (Arc::new(self), Arc::new(recorder));
        let mut tasks = JoinSet::new();
        for place in 0..workload.places.len() {
            for _ in 0..workload.sessions_per_place {
                let (workload, recorder) = (Arc::clone(&workload), Arc::clone(&recorder));
                tasks.spawn(session::sessions(workload, recorder, rng.fork(), PlaceId(place)));
            }
        }
        tasks.join_all().await;
        let state = std::mem::take(&mut *recorder.state());
        Recording { history: state.history, errors: state.errors }
    }
}

/// Where all sessions write down what they did.
struct Recorder {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    errors: BTreeMap<String, usize>,
    sessions: u32,
    transactions: u32,
    writes: i64,
}

impl Recorder {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panicking session has left is whole: it only appends.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> SessionId {
        let mut state = self.state();
        state.sessions += 1;
        SessionId(state.sessions)
    }

    fn transaction(&self) -> TransactionId {
        let mut state = self.state();
        state.transactions += 1;
        TransactionId(state.transactions)
    }

    fn write(&self) -> WriteId {
        let mut state = self.state();
        state.writes += 1;
        WriteId(state.writes)
    }

    fn put(&self, operations: Vec<Operation>) {
        self.state().history.operations.extend(operations);
    }

    fn error(&self, code: &str) {
        *self.state().errors.entry(code.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for Recording {
    /// How many operations of each kind there were, by place, and the errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<(PlaceId, bool, Outcome), usize> = BTreeMap::new();
        for operation in &self.history.operations {
            let writes = matches!(operation.action, Action::Write { .. });
            *counts.entry((operation.place, writes, operation.outcome)).or_default() += 1;
        }
        let count =
            |place, writes, outcome| counts.get(&(place, writes, outcome)).copied().unwrap_or_default();
        for (place, name) in self.history.places.iter().enumerate() {
            let place = PlaceId(place);
            let (reads, writes) = (count(place, false, Outcome::Ok), count(place, true, Outcome::Ok));
            let (failed, unknown) =
                (count(place, true, Outcome::Failed), count(place, true, Outcome::Unknown));
            writeln!(
                f,
                "  {name:<24} {reads:>7} reads {writes:>7} writes {failed:>5} rolled back {unknown:>4} unknown"
            )?;
        }
        let sessions = self.history.operations.iter().map(|operation| operation.session.0).max();
        write!(f, "  {} sessions, errors: {:?}", sessions.unwrap_or_default(), self.errors)
    }
}
