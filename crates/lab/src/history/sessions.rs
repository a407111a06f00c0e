//! The session guarantees of Terry, Demers, Petersen, Spreitzer, Theimer and Welch, "Session Guarantees for Weakly
//! Consistent Replicated Data" (1994), judged from outside: by the versions that reads found.
//!
//! With DB(S, t) for what server S has at time t, the paper says, and this checks:
//!
//! * **Read your writes**: if read R follows write W in a session, W is in DB(S, t) of R. *Check:* R does not find a
//!   register below the highest version that its session had written into it before.
//! * **Monotonic reads**: if R1 comes before R2 in a session, what R1 saw is in DB(S2, t2) of R2. *Check:* R2 does
//!   not find a register below the highest version that its session had found in it before.
//! * **Monotonic writes**: if W1 comes before W2 in a session, a server that has W2 has W1, and orders them so.
//!   *Check:* who has seen W2 never finds W1's register below W1 afterwards, nor beside W2 in the same snapshot; and
//!   in one register W2's version is above W1's.
//! * **Writes follow reads**: if R1 comes before W2 in a session, a server that has W2 has what R1 saw, and orders
//!   it before. *Check:* as for monotonic writes, with what R1 saw in the place of W1.
//!
//! The last two speak of one server at one moment. A snapshot of several registers shows just that. Two reads in a
//! row may be of two servers, and then the check needs monotonic reads as well: W2 was seen, so it must still be
//! there, and W1 with it. A level without monotonic reads promises these two only within snapshots, so those are
//! counted on their own too ([`Report::in_snapshots`]).
//!
//! A write adds one to what is there, so it has "read" the version before: its dependencies are passed on
//! (`dependencies`). All of it is sound for PostgreSQL, where every server shows a prefix of one order of commits:
//! what a session saw or wrote before its commit stands before it in the log.

use std::collections::HashMap;
use std::time::Duration;

use super::dependencies::{Dependencies, Dependency, Needs, raise};
use super::operation::{Action, History, Key, Operation, Outcome, Seen, SessionId, Version};
use super::order::Order;
use super::report::{Guarantee, Report};

/// What a session must see from now on: per register and guarantee. `cause` of [`Guarantee::ReadYourWrites`] and
/// [`Guarantee::MonotonicReads`] is the session's own operation.
#[derive(Default)]
struct Session {
    needs: Needs,
    /// The session's read or write that showed it the write of a need of the other two guarantees.
    shown_by: HashMap<usize, usize>,
}

/// Checks all sessions.
pub(super) fn check(history: &History, order: &Order, report: &mut Report) {
    let mut checker =
        Checker { history, order, report, sessions: HashMap::new(), dependencies: Dependencies::default() };
    for event in events(history) {
        let Some(operation) = history.operations.get(event.operation) else { continue };
        match (&operation.action, event.begins) {
            (Action::Write { .. }, true) => checker.write_begins(event.operation, operation),
            (Action::Write { .. }, false) => checker.write_ends(event.operation, operation),
            (Action::Read(seen), false) => checker.read_ends(event.operation, operation, seen),
            (Action::Read(_), true) => {}
        }
    }
}

struct Event {
    at: Duration,
    begins: bool,
    operation: usize,
}

/// Begins and ends in order of time. An end and a begin at the same moment are taken as overlapping.
fn events(history: &History) -> Vec<Event> {
    let mut events = Vec::with_capacity(history.operations.len() * 2);
    for (index, operation) in history.operations.iter().enumerate() {
        events.push(Event { at: operation.invoked, begins: true, operation: index });
        if operation.outcome == Outcome::Ok {
            events.push(Event { at: operation.completed, begins: false, operation: index });
        }
    }
    events.sort_by_key(|event| (event.at, !event.begins, event.operation));
    events
}

struct Checker<'a> {
    history: &'a History,
    order: &'a Order,
    report: &'a mut Report,
    sessions: HashMap<SessionId, Session>,
    dependencies: Dependencies,
}

impl Checker<'_> {
    /// What the session has seen and written up to now is what the write depends on.
    fn write_begins(&mut self, write: usize, operation: &Operation) {
        if self.order.version(write).is_none() {
            return;
        }
        let mut dependencies = self.earlier_in_transaction(write, operation);
        if let Some(session) = self.sessions.get(&operation.session) {
            dependencies.extend(session.needs.values().map(|need| {
                let guarantee = match need.guarantee {
                    Guarantee::ReadYourWrites => Guarantee::MonotonicWrites,
                    // What was seen by seeing another write was seen.
                    _ => Guarantee::WritesFollowReads,
                };
                Dependency { guarantee, write, ..*need }
            }));
        }
        self.dependencies.put(write, dependencies);
    }

    /// Writes of the same transaction that came before: they are not over, but they commit together.
    fn earlier_in_transaction(&self, write: usize, operation: &Operation) -> Vec<Dependency> {
        let Some(transaction) = operation.transaction else { return Vec::new() };
        let earlier = self.history.operations.iter().enumerate().take(write).rev();
        // A transaction's operations stand together but for those of other sessions: a bounded look back is a loop
        // over what the session did meanwhile, and a transaction has few statements.
        let mut own = earlier.filter(|(_, other)| other.session == operation.session);
        let mut found = Vec::new();
        while let Some((cause, other)) =
            own.next().filter(|(_, other)| other.transaction == Some(transaction))
        {
            if let (Action::Write { key, .. }, Some(version)) = (&other.action, self.order.version(cause)) {
                let guarantee = Guarantee::MonotonicWrites;
                found.push(Dependency { key: *key, version, guarantee, cause, write });
            }
        }
        found
    }

    fn write_ends(&mut self, write: usize, operation: &Operation) {
        let (Action::Write { key, .. }, Some(version)) = (&operation.action, self.order.version(write))
        else {
            return;
        };
        let session = self.sessions.entry(operation.session).or_default();
        for guarantee in Guarantee::SESSION {
            let Some(need) = session.needs.get(&(*key, guarantee)).filter(|need| need.version >= version)
            else {
                continue;
            };
            let (broken, what) = match guarantee {
                Guarantee::ReadYourWrites => {
                    (Guarantee::MonotonicWrites, "a write came before an earlier one of its session")
                }
                _ => (Guarantee::WritesFollowReads, "a write came before what its session had seen"),
            };
            self.report.add(broken, vec![need.cause, write], what);
        }
        let own =
            Dependency { key: *key, version, guarantee: Guarantee::ReadYourWrites, cause: write, write };
        raise(&mut session.needs, own);
        self.learn(operation.session, write, *key, version);
    }

    fn read_ends(&mut self, read: usize, operation: &Operation, seen: &[Seen]) {
        let session = self.sessions.entry(operation.session).or_default();
        for seen in seen {
            for guarantee in Guarantee::SESSION {
                let Some(need) = session.needs.get(&(seen.key, guarantee)) else { continue };
                if need.version <= seen.version {
                    continue;
                }
                let shown_by = session.shown_by.get(&need.write).copied();
                let (operations, what) = match guarantee {
                    Guarantee::ReadYourWrites => {
                        (vec![need.cause, read], "a read missed its session's write")
                    }
                    Guarantee::MonotonicReads => {
                        (vec![need.cause, read], "a read missed what one before it saw")
                    }
                    _ => (
                        [Some(need.cause), Some(need.write), shown_by, Some(read)]
                            .into_iter()
                            .flatten()
                            .collect(),
                        "a read missed what a write that its session had seen depends on",
                    ),
                };
                self.report.add(guarantee, operations, what);
            }
        }
        self.check_snapshot(read, seen);
        for seen in seen {
            let session = self.sessions.entry(operation.session).or_default();
            let (key, version) = (seen.key, seen.version);
            let guarantee = Guarantee::MonotonicReads;
            raise(&mut session.needs, Dependency { key, version, guarantee, cause: read, write: read });
            self.learn(operation.session, read, key, version);
        }
    }

    /// Within one snapshot a register has one version, and whatever a write depends on is there as well.
    fn check_snapshot(&mut self, read: usize, seen: &[Seen]) {
        for (write, other) in seen.iter().flat_map(|write| seen.iter().map(move |other| (write, other))) {
            if write.key == other.key {
                if write.version < other.version {
                    let what = "one snapshot has a register in two versions";
                    let writer = self.order.writer(other.key, other.version);
                    self.report.add(Guarantee::OneSnapshot, writer.into_iter().chain([read]).collect(), what);
                }
                continue;
            }
            let Some(needs) = self.dependencies.of(self.order, write.key, write.version) else { continue };
            for guarantee in [Guarantee::MonotonicWrites, Guarantee::WritesFollowReads] {
                let Some(need) = needs.get(&(other.key, guarantee)) else { continue };
                if need.version > other.version {
                    let what = "one snapshot has a write without what it depends on";
                    self.report.add(guarantee, vec![need.cause, need.write, read], what);
                    self.report.add_snapshot();
                }
            }
        }
    }

    /// A session that has seen a version must from now on see what the writes up to it depend on.
    fn learn(&mut self, id: SessionId, by: usize, key: Key, version: Version) {
        let session = self.sessions.entry(id).or_default();
        for need in self.dependencies.of(self.order, key, version).into_iter().flat_map(Needs::values) {
            // What its own writes depend on the session has seen or written itself: that is in its needs already,
            // under the guarantee that is to blame.
            let own = self.history.operations.get(need.write).is_some_and(|write| write.session == id);
            if !own {
                session.shown_by.entry(need.write).or_insert(by);
                raise(&mut session.needs, *need);
            }
        }
    }
}
