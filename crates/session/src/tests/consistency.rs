//! READ-YOUR-WRITES: what reads wait for.

use super::rig::{Rig, check};
use super::wire::{extended, query, unnamed};
use crate::Leg;

const READ: &str = "SELECT id FROM t";

#[test]
fn a_read_waits_for_the_sessions_own_write() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    assert_eq!(rig.session.waits_for(), None);
    assert_eq!(rig.ask(&query(READ)), "");
    let wanted = rig.session.waits_for().expect("READ-YOUR-WRITES: the standby has not replayed the write");
    assert_eq!(wanted.lsn.0, rig.database.borrow().newest().0);
    rig.replay();
    rig.settle();
    assert_eq!(rig.session.waits_for(), None);
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:I");
    assert_eq!(rig.sent(Leg::Local), format!("Q:{READ}"));
}

#[test]
fn unknown_lag_is_not_fresh() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1)"]);
    rig.world.lag_is_known = false;
    assert_eq!(rig.ask(&query(READ)), "", "LAG-IS-NEVER-GUESSED");
    assert!(rig.session.waits_for().is_some());
    rig.world.lag_is_known = true;
    rig.settle();
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:I");
}

#[test]
fn a_read_that_has_waited_enough_runs_on_the_primary() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    rig.say(&query(READ));
    rig.session.give_up_waiting();
    rig.settle();
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:I");
    // The next one waits again.
    assert_eq!(rig.ask(&query(READ)), "");
    assert!(rig.session.waits_for().is_some());
}

#[test]
fn what_reads_nothing_does_not_wait() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    assert_eq!(rig.ask(&query("BEGIN")), "C:BEGIN | Z:T");
    assert_eq!(rig.ask(&query("SAVEPOINT a")), "C:SAVEPOINT | Z:T");
    assert_eq!(rig.ask(&query("COMMIT")), "C:COMMIT | Z:I");
    assert_eq!(rig.session.waits_for(), None);
}

#[test]
fn reads_in_transactions_and_flushed_parts_wait_too() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    rig.ask(&query("BEGIN"));
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES");
    rig.replay();
    rig.settle();
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:T");
    rig.given(&["INSERT INTO t VALUES (2)"]);
    rig.ask(&query("COMMIT"));
    let mut part = unnamed(READ);
    part.extend_from_slice(&extended("H"));
    assert_eq!(rig.ask(&part), "", "READ-YOUR-WRITES");
    rig.replay();
    rig.settle();
    assert_eq!(rig.heard(), "1 | 2 | D:1 | D:2 | C:SELECT 2");
}

#[test]
fn a_transaction_that_failed_here_does_not_wait() {
    let mut rig = Rig::new();
    rig.ask(&query("BEGIN"));
    rig.ask(&query("SELECT 1/0"));
    rig.world.lag_is_known = false;
    assert_eq!(rig.ask(&query(READ)), "E:25P02 | Z:E");
}

#[test]
fn cancelling_while_waiting() {
    let mut rig = Rig::new();
    assert!(!rig.session.cancel_waiting());
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    rig.say(&query(READ));
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
    rig.replay();
    check(&mut rig, &[(READ, "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn cancelling_while_waiting_fails_the_transaction() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    rig.ask(&query("BEGIN"));
    rig.say(&query(READ));
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:E");
    check(
        &mut rig,
        &[
            ("SELECT 1", "E:25P02 | Z:E"),
            ("COMMIT", "C:ROLLBACK | Z:I"),
            ("SELECT 1", "T | D:1 | C:SELECT 1 | Z:I"),
        ],
    );
}

#[test]
fn cancelling_a_flushed_part_skips_up_to_the_sync() {
    let mut rig = Rig::new();
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    let mut part = unnamed(READ);
    part.extend_from_slice(&extended("H"));
    rig.say(&part);
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014");
    assert_eq!(rig.ask(&extended("P - SELECT 1; S")), "Z:I");
}

#[test]
fn nothing_is_sent_while_a_cancel_request_is_on_its_way() {
    let mut rig = Rig::new();
    rig.session.set_on_hold(true);
    rig.say(&query(READ));
    assert_eq!(rig.sent(Leg::Local), "");
    rig.session.set_on_hold(false);
    rig.settle();
    assert_eq!(rig.heard(), "T | C:SELECT 0 | Z:I");
}

#[test]
fn who_is_busy_is_known() {
    let mut rig = Rig::new();
    assert!(rig.session.busy().is_none());
    rig.given(&["INSERT INTO t VALUES (1)"]);
    rig.say(&query("UPDATE t SET n = n + 1"));
    let (leg, key) = rig.session.busy().unwrap();
    assert_eq!((leg, key.unwrap().process), (Leg::Primary, 22));
    assert_eq!(rig.session.client_key().unwrap().process, 11);
}

#[test]
fn levels_of_consistency() {
    let mut rig = Rig::at("eventual");
    rig.ask(&query("INSERT INTO t VALUES (1)"));
    assert_eq!(rig.ask(&query(READ)), "T | C:SELECT 0 | Z:I", "eventual: whatever is here");
    let mut rig = Rig::at("primary");
    assert_eq!(rig.ask(&query(READ)), "T | C:SELECT 0 | Z:I");
    assert_eq!(rig.sent(Leg::Local), "");
    let mut rig = Rig::at("global");
    rig.say(&query(READ));
    assert_eq!(rig.sent(Leg::Primary), "startup | position");
    assert_eq!(rig.sent(Leg::Local), "");
    rig.settle();
    assert_eq!(rig.heard(), "T | C:SELECT 0 | Z:I");
    assert_eq!(rig.sent(Leg::Local), format!("Q:{READ}"));
}
