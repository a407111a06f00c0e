//! Histories made by hand that violate one guarantee each, and histories of a simulated store.

mod simulation;

use std::time::Duration;

use super::{
    Action, Guarantee, History, Key, Operation, Outcome, PlaceId, Report, Seen, SessionId, TransactionId,
    Version, WriteId, check,
};

/// Writes a history: one operation after the other, none overlapping unless told.
#[derive(Default)]
struct Script {
    history: History,
    now: u64,
}

const A: i32 = 1;
const B: i32 = 2;

impl Script {
    fn add(&mut self, session: u32, action: Action) -> &mut Operation {
        self.now += 10;
        self.history.operations.push(Operation {
            session: SessionId(session),
            place: PlaceId(0),
            transaction: None,
            action,
            invoked: Duration::from_millis(self.now),
            completed: Duration::from_millis(self.now + 5),
            outcome: Outcome::Ok,
        });
        self.history.operations.last_mut().unwrap()
    }

    /// The id of a write is made of register and version, so that reads need not name it.
    fn write(&mut self, session: u32, key: i32, version: i64) -> &mut Operation {
        let id = id(key, version);
        self.add(session, Action::Write { key: Key(key), id, version: Some(Version(version)) })
    }

    fn read(&mut self, session: u32, seen: &[(i32, i64)]) -> &mut Operation {
        let seen = seen.iter().map(|&(key, version)| Seen {
            key: Key(key),
            version: Version(version),
            writer: if version == 0 { WriteId::INITIAL } else { id(key, version) },
        });
        let seen = seen.collect();
        self.add(session, Action::Read(seen))
    }

    fn report(&self) -> Report {
        check(&self.history)
    }

    /// Checks that the session guarantees that are violated are these, once each.
    fn session_violations(&self, expected: &[Guarantee]) {
        let report = self.report();
        for guarantee in Guarantee::SESSION {
            let count = usize::from(expected.contains(&guarantee));
            assert_eq!(report.count(guarantee), count, "{}", report.explain(&self.history, &Guarantee::ALL));
        }
        assert_eq!(report.count(Guarantee::VersionOrder), 0, "{report}");
    }
}

fn id(key: i32, version: i64) -> WriteId {
    WriteId(i64::from(key) * 1_000_000 + version)
}

#[test]
fn a_read_that_misses_its_sessions_write() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.read(2, &[(A, 0)]);
    script.read(1, &[(A, 0)]);
    script.session_violations(&[Guarantee::ReadYourWrites]);
    // Both reads are stale where reads promise linearizability, and nowhere else.
    assert_eq!(script.report().count(Guarantee::Linearizability), 2);
}

#[test]
fn a_read_that_goes_back() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.read(2, &[(A, 1)]);
    script.read(2, &[(A, 0)]);
    script.session_violations(&[Guarantee::MonotonicReads]);
}

#[test]
fn a_later_write_seen_without_an_earlier_one_of_its_session() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.write(1, B, 1);
    script.read(2, &[(B, 1)]);
    script.read(2, &[(A, 0)]);
    script.session_violations(&[Guarantee::MonotonicWrites]);
    assert_eq!(script.report().in_snapshots(), 0);
    let what = script.report().explain(&script.history, &[Guarantee::MonotonicWrites]);
    let shown: Vec<&str> = what.lines().map(|line| line.trim_start().split(' ').next().unwrap()).collect();
    // Cause, what depends on it, who showed that, who missed the cause.
    assert_eq!(shown, ["monotonic", "#0", "#1", "#2", "#3"], "{what}");
}

#[test]
fn a_snapshot_with_a_later_write_and_without_an_earlier_one() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.write(1, B, 1);
    script.read(2, &[(A, 0), (B, 1)]);
    script.session_violations(&[Guarantee::MonotonicWrites]);
    assert_eq!(script.report().in_snapshots(), 1);
}

#[test]
fn a_snapshot_that_changes() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.read(2, &[(A, 0), (B, 0), (A, 1)]);
    assert_eq!(script.report().count(Guarantee::OneSnapshot), 1);
    script.session_violations(&[]);
}

#[test]
fn half_of_a_transaction() {
    let mut script = Script::default();
    script.write(1, A, 1).transaction = Some(TransactionId(1));
    let commit = Duration::from_millis(40);
    script.write(1, B, 1).transaction = Some(TransactionId(1));
    for write in &mut script.history.operations {
        write.completed = commit;
    }
    script.now = 50;
    script.read(2, &[(A, 0), (B, 1)]);
    script.session_violations(&[Guarantee::MonotonicWrites]);
}

#[test]
fn writes_of_a_session_in_the_wrong_order() {
    let mut script = Script::default();
    script.write(1, A, 2);
    script.write(1, A, 1);
    script.session_violations(&[Guarantee::MonotonicWrites]);
}

#[test]
fn a_write_seen_without_what_its_session_had_read() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.read(2, &[(A, 1)]);
    script.write(2, B, 1);
    script.read(3, &[(B, 1)]);
    script.read(3, &[(A, 0)]);
    script.session_violations(&[Guarantee::WritesFollowReads]);
}

#[test]
fn dependencies_are_passed_on_by_sessions_and_by_later_versions() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.read(2, &[(A, 1)]);
    script.write(2, B, 1);
    // Knows of A only through B.
    script.read(3, &[(B, 1)]);
    script.write(3, 3, 1);
    // Knows nothing; its write stands on top of one that does.
    script.write(4, 3, 2);
    script.read(5, &[(3, 2)]);
    script.read(5, &[(A, 0)]);
    script.session_violations(&[Guarantee::WritesFollowReads]);
}

#[test]
fn a_write_below_what_its_session_had_read() {
    let mut script = Script::default();
    script.write(1, A, 2);
    script.read(2, &[(A, 2)]);
    script.write(2, A, 1);
    script.session_violations(&[Guarantee::WritesFollowReads]);
}

#[test]
fn what_a_write_did_not_follow_may_be_missing() {
    let mut script = Script::default();
    script.write(1, A, 1);
    script.write(2, B, 1);
    script.read(2, &[(A, 1)]);
    script.read(3, &[(B, 1)]);
    script.read(3, &[(A, 0)]);
    // A new session owes nothing to an old one.
    script.read(4, &[(A, 0), (B, 0)]);
    script.session_violations(&[]);
}

/// Whether it writes, its version, its begin and its end.
type Access = (bool, i64, u64, u64);

/// One register, one line per history, each operation of a session of its own; and how many violations there are.
#[test]
fn linearizability_is_about_real_time() {
    let cases: &[(&str, &[Access], usize)] = &[
        ("a write that overlaps may be seen", &[(true, 1, 0, 10), (false, 1, 2, 4)], 0),
        ("or not yet", &[(true, 1, 0, 10), (false, 0, 2, 4)], 0),
        ("but not first and then not", &[(true, 1, 0, 10), (false, 1, 2, 4), (false, 0, 5, 6)], 1),
        ("reads that overlap may differ", &[(true, 1, 0, 10), (false, 1, 2, 5), (false, 0, 4, 6)], 0),
        ("a write that is over is seen", &[(true, 1, 0, 10), (false, 0, 11, 12)], 1),
        ("nothing is read before it is written", &[(false, 1, 0, 1), (true, 1, 2, 3)], 1),
        ("writes that overlap have any order", &[(true, 2, 0, 10), (true, 1, 1, 9)], 0),
        ("others have that of time", &[(true, 2, 0, 1), (true, 1, 2, 3)], 1),
        ("the highest counts, not the last", &[(true, 2, 0, 2), (true, 1, 0, 9), (false, 1, 10, 11)], 1),
    ];
    for (name, operations, violations) in cases {
        let mut script = Script::default();
        for (session, &(writes, version, begin, end)) in (0..).zip(*operations) {
            let operation = if writes {
                script.write(session, A, version)
            } else {
                script.read(session, &[(A, version)])
            };
            operation.invoked = Duration::from_millis(begin);
            operation.completed = Duration::from_millis(end);
        }
        let report = script.report();
        assert_eq!(report.count(Guarantee::Linearizability), *violations, "{name}");
    }
}

#[test]
fn unknown_writes_count_once_they_are_seen() {
    let unknown = |seen: i64| {
        let mut script = Script::default();
        let write = script.write(1, A, 1);
        write.outcome = Outcome::Unknown;
        let Action::Write { version, .. } = &mut write.action else { unreachable!() };
        *version = None;
        script.read(2, &[(A, seen)]);
        script
    };
    // Not seen: it may never have happened, or not yet.
    unknown(0).session_violations(&[]);
    assert_eq!(unknown(0).report().count(Guarantee::Linearizability), 0);
    let mut script = unknown(1);
    script.session_violations(&[]);
    // Seen, and then not.
    script.read(3, &[(A, 0)]);
    assert_eq!(script.report().count(Guarantee::Linearizability), 1);
}

#[test]
fn the_order_of_versions_is_checked() {
    let mut lost = Script::default();
    lost.write(1, A, 1);
    lost.write(2, A, 1);
    let Action::Write { id, .. } = &mut lost.history.operations[1].action else { unreachable!() };
    *id = WriteId(7);
    assert_eq!(lost.report().count(Guarantee::VersionOrder), 1);

    let mut dirty = Script::default();
    dirty.write(1, A, 1).outcome = Outcome::Failed;
    dirty.read(2, &[(A, 1)]);
    assert_eq!(dirty.report().count(Guarantee::VersionOrder), 1);

    let mut invented = Script::default();
    invented.read(2, &[(A, 1)]);
    assert_eq!(invented.report().count(Guarantee::VersionOrder), 1);

    let mut twice = Script::default();
    let write = twice.write(1, A, 1);
    write.outcome = Outcome::Unknown;
    let Action::Write { version, .. } = &mut write.action else { unreachable!() };
    *version = None;
    for version in [1, 2] {
        let writer = WriteId(1_000_001);
        let seen = Seen { key: Key(A), version: Version(version), writer };
        twice.add(2, Action::Read(vec![seen]));
    }
    assert_eq!(twice.report().count(Guarantee::VersionOrder), 1);
}
