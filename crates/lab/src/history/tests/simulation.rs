//! A primary and replicas that replay its commits late, in order: the store that the checks are meant for, as a
//! simulation in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use proptest::prelude::*;

use crate::history::rng::Rng;
use crate::history::{
    Action, Guarantee, History, Key, Operation, Outcome, PlaceId, Report, Seen, SessionId, TransactionId,
    Version, WriteId, check,
};

const KEYS: u32 = 4;
const REPLICAS: u32 = 3;
const CLIENTS: u32 = 8;
const STEPS: usize = 300;
/// A client's way to a server, in virtual milliseconds; replay takes up to ten times that.
const WAY_MS: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Reads at once, of whatever replica.
    Eventual,
    /// Waits for what the session knows of.
    Session,
    /// Waits for what is committed when the read arrives.
    Global,
}

struct Commit {
    changes: Vec<(Key, Version, WriteId)>,
    /// When each replica shows it.
    shown: Vec<Duration>,
}

#[derive(Default)]
struct Client {
    id: u32,
    /// Commits that its next read must include.
    token: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begin,
    /// Writes these registers at the primary.
    Write(Vec<Key>, Duration),
    /// Asks the primary how far it is.
    Ask(Vec<Key>, Duration),
    /// Reads when the replica is so far.
    Read(Vec<Key>, Duration, usize),
}

struct Store {
    rng: Rng,
    level: Level,
    commits: Vec<Commit>,
    latest: BTreeMap<Key, Version>,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<(Duration, u32, Step)>>,
    history: History,
    /// Sessions, writes and transactions that have been named.
    named: u32,
}

/// A history of a store at this level.
fn simulate(level: Level, seed: u64) -> History {
    let mut store = Store {
        rng: Rng::new(seed),
        level,
        commits: Vec::new(),
        latest: BTreeMap::new(),
        clients: Vec::new(),
        queue: BinaryHeap::new(),
        history: History::default(),
        named: 0,
    };
    for client in 0..CLIENTS {
        let id = store.name();
        store.clients.push(Client { id, token: 0 });
        store.queue.push(Reverse((Duration::ZERO, client, Step::Begin)));
    }
    while store.history.operations.len() < STEPS
        && let Some(Reverse((now, client, step))) = store.queue.pop()
    {
        store.step(now, client, step);
    }
    store.history
}

impl Store {
    fn name(&mut self) -> u32 {
        self.named += 1;
        self.named
    }

    fn step(&mut self, now: Duration, client: u32, step: Step) {
        let next = match step {
            Step::Begin => {
                let begin = now + self.rng.up_to_ms(WAY_MS);
                let mut keys: Vec<Key> =
                    (0..=self.rng.below(2)).map(|_| Key(self.rng.below(KEYS) as i32)).collect();
                keys.sort_unstable();
                keys.dedup();
                let arrives = begin + self.rng.up_to_ms(WAY_MS);
                let step = match self.level {
                    _ if self.rng.percent(40) => Step::Write(keys, begin),
                    Level::Global => Step::Ask(keys, begin),
                    Level::Eventual | Level::Session => Step::Read(keys, begin, REPLICAS as usize),
                };
                (arrives, step)
            }
            Step::Write(keys, begin) => (self.write(now, client, &keys, begin), Step::Begin),
            Step::Ask(keys, begin) => {
                self.clients[client as usize].token = self.commits.len();
                (now + self.rng.up_to_ms(WAY_MS), Step::Read(keys, begin, REPLICAS as usize))
            }
            // Chooses the replica, and waits there; each read may be at another one.
            Step::Read(keys, begin, unchosen) if unchosen == REPLICAS as usize => {
                let replica = self.rng.below(REPLICAS) as usize;
                let needed = self.clients[client as usize].token.checked_sub(1);
                let there = needed.map_or(now, |commit| now.max(self.commits[commit].shown[replica]));
                (if self.level == Level::Eventual { now } else { there }, Step::Read(keys, begin, replica))
            }
            Step::Read(keys, begin, replica) => (self.read(now, client, &keys, begin, replica), Step::Begin),
        };
        self.queue.push(Reverse((next.0, client, next.1)));
    }

    fn write(&mut self, now: Duration, client: u32, keys: &[Key], begin: Duration) -> Duration {
        let end = now + self.rng.up_to_ms(WAY_MS);
        let transaction = TransactionId(self.name());
        let known = !self.rng.percent(10);
        let happens = known || self.rng.percent(50);
        let mut changes = Vec::new();
        for key in keys {
            let id = WriteId(i64::from(self.name()));
            let version = Version(self.latest.get(key).map_or(1, |version| version.0 + 1));
            changes.push((*key, version, id));
            let version = known.then_some(version);
            let action = Action::Write { key: *key, id, version };
            let outcome = if known { Outcome::Ok } else { Outcome::Unknown };
            let transaction = Some(transaction);
            self.record(client, transaction, action, (begin, end), outcome);
        }
        if happens {
            self.latest.extend(changes.iter().map(|(key, version, _)| (*key, *version)));
            let shown = (0..REPLICAS as usize).map(|replica| {
                let before = self.commits.last().map_or(Duration::ZERO, |commit| commit.shown[replica]);
                // The first replica is the primary.
                let late = if replica == 0 { Duration::ZERO } else { self.rng.up_to_ms(WAY_MS * 10) };
                before.max(now + late)
            });
            let shown = shown.collect();
            self.commits.push(Commit { changes, shown });
        }
        if known {
            self.clients[client as usize].token = self.commits.len();
        } else {
            // Its connection is lost, and with it what it knew.
            let id = self.name();
            self.clients[client as usize] = Client { id, token: 0 };
        }
        end
    }

    fn read(
        &mut self,
        now: Duration,
        client: u32,
        keys: &[Key],
        begin: Duration,
        replica: usize,
    ) -> Duration {
        let end = now + self.rng.up_to_ms(WAY_MS);
        let shown = self.commits.partition_point(|commit| commit.shown[replica] <= now);
        let find = |key: &Key| {
            let mut changes = self.commits[..shown].iter().rev().flat_map(|commit| &commit.changes);
            let (version, writer) = changes
                .find(|(changed, _, _)| changed == key)
                .map_or((Version(0), WriteId::INITIAL), |(_, version, writer)| (*version, *writer));
            Seen { key: *key, version, writer }
        };
        let seen = keys.iter().map(find).collect();
        self.record(client, None, Action::Read(seen), (begin, end), Outcome::Ok);
        let client = &mut self.clients[client as usize];
        client.token = client.token.max(shown);
        end
    }

    fn record(
        &mut self,
        client: u32,
        transaction: Option<TransactionId>,
        action: Action,
        (invoked, completed): (Duration, Duration),
        outcome: Outcome,
    ) {
        let session = SessionId(self.clients[client as usize].id);
        let place = PlaceId(0);
        let operation = Operation { session, place, transaction, action, invoked, completed, outcome };
        self.history.operations.push(operation);
    }
}

fn all(history: &History) -> Report {
    check(history)
}

fn session_violations(report: &Report) -> usize {
    Guarantee::SESSION.into_iter().map(|guarantee| report.count(guarantee)).sum()
}

/// Makes a read return the version before the one that it returned; `must` says which reads must not.
fn make_stale(history: &mut History, must: impl Fn(&History, usize, &Seen) -> bool) -> Option<usize> {
    let reads =
        history.operations.iter().enumerate().filter_map(|(index, operation)| match &operation.action {
            Action::Read(seen) => Some((index, seen.first().copied()?)),
            Action::Write { .. } => None,
        });
    let (index, seen) = reads
        .filter(|(_, seen)| seen.version > Version(0))
        .filter(|(index, seen)| must(history, *index, seen))
        .nth(3)?;
    let version = Version(seen.version.0 - 1);
    let mut before = history.operations.iter().flat_map(|operation| match &operation.action {
        Action::Read(seen) => seen.clone(),
        Action::Write { key, id, version } => {
            version.iter().map(|version| Seen { key: *key, version: *version, writer: *id }).collect()
        }
    });
    let writer = before.find(|other| other.key == seen.key && other.version == version);
    let writer = writer.map_or(WriteId::INITIAL, |found| found.writer);
    if version > Version(0) && writer == WriteId::INITIAL {
        return None;
    }
    let Action::Read(found) = &mut history.operations[index].action else { return None };
    found[0] = Seen { key: seen.key, version, writer };
    Some(index)
}

/// Whether the session has had this version, or a later one, in its hands before.
fn known_to_session(history: &History, read: usize, seen: &Seen) -> bool {
    let session = history.operations[read].session;
    let earlier = history.operations[..read].iter().filter(|other| other.session == session);
    earlier.filter(|other| other.outcome == Outcome::Ok).any(|other| match &other.action {
        Action::Read(found) => {
            found.iter().any(|found| found.key == seen.key && found.version >= seen.version)
        }
        Action::Write { key, version, .. } => *key == seen.key && *version >= Some(seen.version),
    })
}

/// Whether the write of this version was over before the read began.
fn written_before(history: &History, read: usize, seen: &Seen) -> bool {
    let begins = history.operations[read].invoked;
    history.operations.iter().any(|other| match &other.action {
        Action::Write { key, version, .. } => {
            *key == seen.key
                && *version == Some(seen.version)
                && other.outcome == Outcome::Ok
                && other.completed < begins
        }
        Action::Read(_) => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_correct_store_is_never_blamed(seed: u64) {
        let history = simulate(Level::Session, seed);
        let report = all(&history);
        prop_assert_eq!(session_violations(&report), 0, "{}", report.explain(&history, &Guarantee::ALL));
        prop_assert_eq!(report.count(Guarantee::VersionOrder), 0);

        let history = simulate(Level::Global, seed);
        let report = all(&history);
        for guarantee in Guarantee::ALL {
            prop_assert_eq!(report.count(guarantee), 0, "{}", report.explain(&history, &Guarantee::ALL));
        }

        // Even there every snapshot is a prefix of the commits.
        let report = all(&simulate(Level::Eventual, seed));
        prop_assert_eq!(report.count(Guarantee::VersionOrder), 0);
        prop_assert_eq!(report.in_snapshots(), 0);
    }

    #[test]
    fn a_stale_read_is_found(seed: u64) {
        let mut history = simulate(Level::Session, seed);
        if make_stale(&mut history, known_to_session).is_some() {
            prop_assert!(session_violations(&all(&history)) > 0);
        }
        let mut history = simulate(Level::Global, seed);
        if make_stale(&mut history, written_before).is_some() {
            prop_assert!(all(&history).count(Guarantee::Linearizability) > 0);
        }
    }
}

/// The two properties above would hold of a checker or a simulation that does nothing.
#[test]
fn a_store_without_waits_violates_everything() {
    let mut counts = BTreeMap::new();
    let mut stale = 0;
    for seed in 0..20 {
        let report = all(&simulate(Level::Eventual, seed));
        for guarantee in Guarantee::ALL {
            *counts.entry(guarantee).or_insert(0) += report.count(guarantee);
        }
        stale += usize::from(make_stale(&mut simulate(Level::Session, seed), known_to_session).is_some());
        stale += usize::from(make_stale(&mut simulate(Level::Global, seed), written_before).is_some());
        assert!(all(&simulate(Level::Session, seed)).count(Guarantee::Linearizability) > 0);
    }
    for guarantee in Guarantee::SESSION.into_iter().chain([Guarantee::Linearizability]) {
        assert!(counts[&guarantee] > 20, "{guarantee}: {counts:?}");
    }
    assert!(stale > 30, "{stale}");
}
