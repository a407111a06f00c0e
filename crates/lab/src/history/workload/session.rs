//! The life of sessions: one after the other, an operation at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::connection::{Connection, Protocol};
use super::{Endpoint, Recorder, Workload};
use crate::history::operation::{Action, Key, Operation, Outcome, PlaceId, SessionId, TransactionId};
use crate::history::rng::Rng;
use crate::trouble::Trouble;

/// Operations of one connection: so many and up to as many more.
const OPERATIONS: u32 = 15;
/// Longest pause between operations. Most are short: what an operation must see is what was done just before.
const THINK_MS: u32 = 40;
/// Before another attempt to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Most registers that a statement reads, and most statements of a transaction.
const STATEMENTS: u32 = 3;

/// Lives sessions until the workload is over.
pub(super) async fn sessions(workload: Arc<Workload>, recorder: Arc<Recorder>, mut rng: Rng, home: PlaceId) {
    let mut carried: Option<(SessionId, String)> = None;
    let mut place = home;
    while recorder.now() < workload.length {
        let Some(there) = workload.places.get(place.0) else { return };
        let writes = there.endpoint == Endpoint::Cluster;
        let connection = match Connection::open(&workload, there, writes).await {
            Ok(connection) => connection,
            Err(trouble) => {
                recorder.error(trouble.code());
                sleep(PAUSE).await;
                continue;
            }
        };
        let id = match carried.take() {
            Some((id, token)) if connection.continue_from(&token).await.is_ok() => id,
            _ => recorder.session(),
        };
        let session = Session { workload: &workload, recorder: &recorder, connection, id, place, writes };
        let ended = session.live(&mut rng).await;
        // A session whose connection ended in order goes on at another place.
        if ended.is_some() {
            let places = u32::try_from(workload.places.len()).unwrap_or(u32::MAX);
            (carried, place) = (ended, PlaceId(rng.below(places) as usize));
        } else {
            place = home;
        }
    }
}

struct Session<'a> {
    workload: &'a Workload,
    recorder: &'a Recorder,
    connection: Connection,
    id: SessionId,
    place: PlaceId,
    writes: bool,
}

/// A transaction that is being done, with what is to be recorded of it.
struct Open {
    id: TransactionId,
    operations: Vec<Operation>,
    /// All statements see the snapshot of the first.
    one_snapshot: bool,
    /// When the first statement was under way.
    first: Option<(Duration, Duration)>,
}

impl Session<'_> {
    /// Until the connection has had enough, or is lost. Returns what carries the session on.
    async fn live(self, rng: &mut Rng) -> Option<(SessionId, String)> {
        let mut left = OPERATIONS + rng.below(OPERATIONS);
        let mut lost = false;
        while left > 0 && !lost && self.recorder.now() < self.workload.length {
            left -= 1;
            if rng.percent(60) {
                let most = if rng.percent(25) { THINK_MS } else { THINK_MS / 10 };
                sleep(rng.up_to_ms(most)).await;
            }
            if let Err(trouble) = self.operation(rng).await {
                self.recorder.error(trouble.code());
                // A transaction that has failed was rolled back; whatever else happened, the connection is suspect.
                lost = !trouble.rolled_back();
            }
        }
        let token = if lost { None } else { self.connection.token().await.ok() };
        self.connection.close().await;
        token.map(|token| (self.id, token))
    }

    async fn operation(&self, rng: &mut Rng) -> Result<(), Trouble> {
        match rng.below(100) {
            0..45 => self.read(rng).await,
            45..75 if self.writes => self.write(rng).await,
            75..80 if self.writes => self.write_two(rng).await,
            80..85 if self.writes => self.read_locking(rng).await,
            _ => self.transaction(rng).await,
        }
    }

    async fn read(&self, rng: &mut Rng) -> Result<(), Trouble> {
        let keys = self.keys(rng);
        self.read_of(&keys, protocol(rng)).await
    }

    async fn read_of(&self, keys: &[Key], protocol: Protocol) -> Result<(), Trouble> {
        let invoked = self.recorder.now();
        let seen = self.connection.read(keys, protocol).await?;
        let span = (invoked, self.recorder.now());
        self.recorder.put(vec![self.done(None, Action::Read(seen), span)]);
        Ok(())
    }

    /// Reads on the primary, and then where reads are read: the second must not be behind the first.
    async fn read_locking(&self, rng: &mut Rng) -> Result<(), Trouble> {
        let key = self.key(rng);
        let invoked = self.recorder.now();
        let seen = self.connection.read_locking(key).await?;
        let span = (invoked, self.recorder.now());
        self.recorder.put(vec![self.done(None, Action::Read(seen), span)]);
        self.read_of(&[key], protocol(rng)).await
    }

    async fn write(&self, rng: &mut Rng) -> Result<(), Trouble> {
        let (key, id, protocol) = (self.key(rng), self.recorder.write(), protocol(rng));
        let invoked = self.recorder.now();
        let written = self.connection.write(key, id, protocol).await;
        let span = (invoked, self.recorder.now());
        let action = Action::Write { key, id, version: written.as_ref().ok().copied() };
        let outcome = written.as_ref().map_or_else(outcome, |_| Outcome::Ok);
        self.recorder.put(vec![Operation { outcome, ..self.done(None, action, span) }]);
        written.map(drop)
    }

    /// Two registers by one string of statements.
    async fn write_two(&self, rng: &mut Rng) -> Result<(), Trouble> {
        let mut keys = [self.key(rng), self.key(rng)];
        // In one order everywhere: deadlocks teach nothing here.
        keys.sort_unstable();
        let transaction = Some(self.recorder.transaction());
        let writes = keys.map(|key| (key, self.recorder.write()));
        let invoked = self.recorder.now();
        let written = self.connection.write_all(&writes).await;
        let span = (invoked, self.recorder.now());
        let outcome = written.as_ref().map_or_else(outcome, |_| Outcome::Ok);
        let versions = written.as_deref().unwrap_or_default();
        let operations = writes.iter().enumerate().map(|(number, &(key, id))| {
            let action = Action::Write { key, id, version: versions.get(number).copied() };
            Operation { outcome, ..self.done(transaction, action, span) }
        });
        self.recorder.put(operations.collect());
        written.map(drop)
    }

    async fn transaction(&self, rng: &mut Rng) -> Result<(), Trouble> {
        let read_only = !self.writes || rng.percent(35);
        let one_snapshot = rng.percent(30);
        let level = if one_snapshot { " ISOLATION LEVEL REPEATABLE READ" } else { "" };
        let begin = format!("BEGIN{level}{}", if read_only { " READ ONLY" } else { "" });
        let id = self.recorder.transaction();
        let mut open = Open { id, operations: Vec::new(), one_snapshot, first: None };
        let done = self.statements(rng, &begin, read_only, &mut open).await;
        // Nothing of it can have happened unless its commit was sent.
        let outcome = match &done {
            Ok(()) if rng.percent(10) => {
                let ended = self.connection.run("ROLLBACK").await;
                self.end(open, Outcome::Failed);
                return ended;
            }
            Ok(()) => {
                let committed = self.connection.run("COMMIT").await;
                self.end(open, committed.as_ref().map_or_else(outcome, |()| Outcome::Ok));
                return committed;
            }
            Err(_) => Outcome::Failed,
        };
        self.end(open, outcome);
        if done.as_ref().is_err_and(Trouble::rolled_back) {
            self.connection.run("ROLLBACK").await?;
        }
        done
    }

    async fn statements(
        &self,
        rng: &mut Rng,
        begin: &str,
        read_only: bool,
        open: &mut Open,
    ) -> Result<(), Trouble> {
        self.connection.run(begin).await?;
        let mut lowest = 0;
        for _ in 0..=rng.below(STATEMENTS) {
            let protocol = protocol(rng);
            if read_only || rng.percent(55) {
                let keys = self.keys(rng);
                let invoked = self.recorder.now();
                let seen = self.connection.read(&keys, protocol).await?;
                let span = open.span((invoked, self.recorder.now()));
                // What it has written itself nobody else could see.
                let own = |key: Key| open.operations.iter().any(|other| writes_to(other, key));
                let seen = seen.into_iter().filter(|seen| !own(seen.key)).collect();
                open.operations.push(self.done(Some(open.id), Action::Read(seen), span));
            } else {
                let key = self.key(rng);
                if key.0 < lowest {
                    continue;
                }
                lowest = key.0;
                let id = self.recorder.write();
                let invoked = self.recorder.now();
                let written = self.connection.write(key, id, protocol).await;
                let span = (invoked, self.recorder.now());
                open.span(span);
                let action = Action::Write { key, id, version: written.as_ref().ok().copied() };
                open.operations.push(self.done(Some(open.id), action, span));
                written?;
            }
        }
        Ok(())
    }

    /// Records a transaction. What its reads found they found, even if it was rolled back.
    fn end(&self, mut open: Open, outcome: Outcome) {
        if open.one_snapshot {
            open.merge_reads();
        }
        let ended = self.recorder.now();
        for operation in &mut open.operations {
            if let Action::Write { .. } = operation.action {
                operation.outcome = outcome;
                operation.completed = ended;
            }
        }
        self.recorder.put(open.operations);
    }

    fn done(
        &self,
        transaction: Option<TransactionId>,
        action: Action,
        span: (Duration, Duration),
    ) -> Operation {
        let (invoked, completed) = span;
        let (session, place, outcome) = (self.id, self.place, Outcome::Ok);
        Operation { session, place, transaction, action, invoked, completed, outcome }
    }

    fn key(&self, rng: &mut Rng) -> Key {
        Key(1 + i32::try_from(rng.below(u32::from(self.workload.keys))).unwrap_or_default())
    }

    fn keys(&self, rng: &mut Rng) -> Vec<Key> {
        let count = if rng.percent(50) { 1 } else { 1 + rng.below(STATEMENTS) };
        let mut keys: Vec<Key> = (0..count).map(|_| self.key(rng)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl Open {
    /// When a statement has looked at the data: with one snapshot, while the first was under way.
    fn span(&mut self, span: (Duration, Duration)) -> (Duration, Duration) {
        let first = *self.first.get_or_insert(span);
        if self.one_snapshot { first } else { span }
    }

    /// All reads of one snapshot are one read.
    fn merge_reads(&mut self) {
        let mut all: Option<usize> = None;
        let mut merged: Vec<Operation> = Vec::new();
        for operation in self.operations.drain(..) {
            let before = all.and_then(|index| merged.get_mut(index)).map(|read| &mut read.action);
            match (&operation.action, before) {
                (Action::Read(seen), Some(Action::Read(before))) => before.extend(seen),
                (Action::Read(_), _) => {
                    all = Some(merged.len());
                    merged.push(operation);
                }
                (Action::Write { .. }, _) => merged.push(operation),
            }
        }
        self.operations = merged;
    }
}

fn writes_to(operation: &Operation, register: Key) -> bool {
    matches!(operation.action, Action::Write { key, .. } if key == register)
}

fn outcome(trouble: &Trouble) -> Outcome {
    if trouble.rolled_back() { Outcome::Failed } else { Outcome::Unknown }
}

fn protocol(rng: &mut Rng) -> Protocol {
    if rng.percent(50) { Protocol::Simple } else { Protocol::Extended }
}
