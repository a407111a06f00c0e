//! Transactions: begun here, moved by their first write.

use super::rig::{Rig, check};
use super::wire::{extended, query, unnamed};
use crate::Leg;

#[test]
fn begin_and_reads_stay_here() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("SELECT id FROM t", "T | C:SELECT 0 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
        ],
    );
    assert_eq!(rig.sent(Leg::Primary), "");
}

#[test]
fn the_first_write_moves_the_transaction_in_one_flight() {
    let mut rig = Rig::new();
    rig.given(&["BEGIN", "SET LOCAL work_mem = low", "SAVEPOINT a", "SELECT 1"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    assert_eq!(
        rig.sent(Leg::Primary),
        "startup | Q:BEGIN | Q:SET LOCAL work_mem = low | Q:SAVEPOINT a | Q:INSERT INTO t VALUES (1)"
    );
    assert_eq!(rig.sent(Leg::Local), "Q:ROLLBACK");
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:T");
    // From here on it stays there, reads included, and what was set up is there.
    check(
        &mut rig,
        &[
            ("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:T"),
            ("SELECT id FROM t", "T | D:1 | D:2 | C:SELECT 2 | Z:T"),
            ("SHOW work_mem", "T | D:low | C:SHOW | Z:T"),
            ("ROLLBACK TO a", "C:ROLLBACK | Z:T"),
            ("INSERT INTO t VALUES (3)", "C:INSERT 0 1 | Z:T"),
        ],
    );
    rig.sent(Leg::Primary);
    rig.say(&query("COMMIT"));
    assert_eq!(rig.sent(Leg::Primary), "Q:COMMIT | position", "the position is asked in the commit's flight");
    rig.settle();
    rig.replay();
    check(&mut rig, &[("SELECT id FROM t", "C:COMMIT | Z:I | T | D:3 | C:SELECT 1 | Z:I")]);
    assert_eq!(rig.sent(Leg::Local), "Q:SELECT id FROM t", "READ-YOUR-WRITES: replayed, so read here");
}

#[test]
fn writes_of_a_transaction_do_not_wait_for_one_another() {
    let mut rig = Rig::new();
    rig.given(&["BEGIN", "INSERT INTO t VALUES (1)"]);
    let mut bytes = query("INSERT INTO t VALUES (2)").to_vec();
    bytes.extend_from_slice(&query("INSERT INTO t VALUES (3)"));
    bytes.extend_from_slice(&query("COMMIT"));
    rig.say(&bytes);
    assert_eq!(
        rig.sent(Leg::Primary),
        "Q:INSERT INTO t VALUES (2) | Q:INSERT INTO t VALUES (3) | Q:COMMIT | position"
    );
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:T | C:INSERT 0 1 | Z:T | C:COMMIT | Z:I");
}

#[test]
fn begin_with_its_first_write_in_one_pipeline() {
    let mut rig = Rig::new();
    let mut unit = unnamed("BEGIN");
    unit.extend_from_slice(&unnamed("INSERT INTO t VALUES (1)"));
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | C:BEGIN | 1 | 2 | C:INSERT 0 1 | Z:T");
    check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I"), ("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn read_only_transactions_stay_here() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN READ ONLY", "C:BEGIN | Z:T"),
            ("SELECT id FROM t", "T | C:SELECT 0 | Z:T"),
            ("DECLARE c CURSOR FOR SELECT 1", "C:DECLARE CURSOR | Z:T"),
            ("FETCH c", "T | D:1 | C:FETCH 1 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
            ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "C:BEGIN | Z:T"),
            ("SELECT id FROM t", "T | C:SELECT 0 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
        ],
    );
    assert_eq!(rig.sent(Leg::Primary), "");
}

#[test]
fn a_write_in_a_read_only_transaction_is_refused_as_by_the_primary() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN READ ONLY", "C:BEGIN | Z:T"),
            ("INSERT INTO t VALUES (1)", "E:25006 | Z:E"),
            ("SELECT 1", "E:25P02 | Z:E"),
            ("COMMIT", "C:ROLLBACK | Z:I"),
        ],
    );
    assert!(rig.writes().is_empty());
}

#[test]
fn transactions_with_one_snapshot_start_at_the_primary() {
    for begin in
        ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN READ WRITE"]
    {
        let mut rig = Rig::new();
        rig.given(&["SELECT 1"]);
        check(&mut rig, &[(begin, "C:BEGIN | Z:T")]);
        assert_eq!(rig.sent(Leg::Primary), "", "{begin}: answered without a round trip");
        check(&mut rig, &[("SELECT id FROM t", "T | C:SELECT 0 | Z:T")]);
        assert_eq!(rig.sent(Leg::Primary), format!("startup | Q:{begin} | Q:SELECT id FROM t"));
        check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I")]);
    }
}

#[test]
fn cursors_of_read_write_transactions_are_on_the_primary() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("DECLARE c CURSOR FOR SELECT 1", "C:DECLARE CURSOR | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("FETCH c", "T | D:1 | C:FETCH 1 | Z:T"),
            ("CLOSE c", "C:CLOSE CURSOR | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
        ],
    );
}

#[test]
fn a_failed_transaction_stays_where_it_failed() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("SAVEPOINT a", "C:SAVEPOINT | Z:T"),
            ("SELECT 1/0", "E:22012 | Z:E"),
            ("INSERT INTO t VALUES (1)", "E:25P02 | Z:E"),
        ],
    );
    assert_eq!(rig.sent(Leg::Primary), "");
    check(
        &mut rig,
        &[
            ("ROLLBACK TO a", "C:ROLLBACK | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
            ("BEGIN", "C:BEGIN | Z:T"),
            ("SELECT 1/0", "E:22012 | Z:E"),
            ("COMMIT", "C:ROLLBACK | Z:I"),
        ],
    );
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (1)"], "AT-MOST-ONCE");
}

#[test]
fn a_refusal_in_a_transaction_moves_it() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("SELECT id FROM t", "T | C:SELECT 0 | Z:T"),
            ("SELECT reader()", "T | D:7 | C:SELECT 1 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
            ("SELECT sum(n) FROM t", "T | D:1 | C:SELECT 1 | Z:I"),
        ],
    );
    assert_eq!(rig.writes(), ["SELECT reader()"], "AT-MOST-ONCE");
}

#[test]
fn a_chain_goes_on_where_it_is() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("COMMIT AND CHAIN", "C:COMMIT | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("COMMIT AND CHAIN", "C:COMMIT | Z:T"),
            ("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:T"),
            ("ROLLBACK", "C:ROLLBACK | Z:I"),
            ("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I"),
        ],
    );
}

#[test]
fn warnings_about_transactions_pass() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("COMMIT", "N:25P01 | C:COMMIT | Z:I"),
            ("BEGIN", "C:BEGIN | Z:T"),
            ("BEGIN", "N:25001 | C:BEGIN | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("BEGIN", "N:25001 | C:BEGIN | Z:T"),
            ("ROLLBACK", "C:ROLLBACK | Z:I"),
            ("SAVEPOINT a", "E:25P01 | Z:I"),
        ],
    );
}

#[test]
fn transaction_control_inside_one_query() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN; INSERT INTO t VALUES (1); COMMIT", "C:BEGIN | C:INSERT 0 1 | C:COMMIT | Z:I"),
            ("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I"),
            ("BEGIN; SELECT 1", "C:BEGIN | T | D:1 | C:SELECT 1 | Z:T"),
            ("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:T"),
            ("COMMIT; SELECT 1", "C:COMMIT | T | D:1 | C:SELECT 1 | Z:I"),
            ("SELECT id FROM t", "T | D:1 | D:2 | C:SELECT 2 | Z:I"),
            ("BEGIN", "C:BEGIN | Z:T"),
            ("COMMIT; INSERT INTO t VALUES (3)", "C:COMMIT | C:INSERT 0 1 | Z:I"),
            ("SELECT id FROM t", "T | D:1 | D:2 | D:3 | C:SELECT 3 | Z:I"),
        ],
    );
}
