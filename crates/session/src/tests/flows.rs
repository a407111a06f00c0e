//! Where single units go, and what it costs.

use super::rig::{Rig, check};
use super::wire::{extended, query, unnamed};
use crate::Leg;

#[test]
fn a_read_runs_locally() {
    let mut rig = Rig::new();
    assert_eq!(rig.query("SELECT 1"), "T | D:1 | C:SELECT 1 | Z:I");
    assert_eq!(rig.sent(Leg::Local), "Q:SELECT 1");
    assert_eq!(rig.sent(Leg::Primary), "");
}

#[test]
fn a_write_and_its_position_are_one_flight() {
    let mut rig = Rig::new();
    rig.say(&query("INSERT INTO t VALUES (1)"));
    // No server has answered: the connection, the write and the question go together.
    assert_eq!(rig.sent(Leg::Primary), "startup | Q:INSERT INTO t VALUES (1) | position");
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I", "PASS-THROUGH: the session's own answers are its own");
    assert_eq!(rig.sent(Leg::Local), "");
}

#[test]
fn one_write_takes_its_whole_unit_along() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.query("SELECT 1; INSERT INTO t VALUES (1); SELECT id FROM t"),
        "T | D:1 | C:SELECT 1 | C:INSERT 0 1 | T | D:1 | C:SELECT 1 | Z:I"
    );
    let mut unit = unnamed("SELECT id FROM t");
    unit.extend_from_slice(&unnamed("UPDATE t SET n = n + 1"));
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | D:1 | C:SELECT 1 | 1 | 2 | C:UPDATE 1 | Z:I");
    assert_eq!(rig.sent(Leg::Local), "");
}

#[test]
fn units_are_answered_in_their_order() {
    let mut rig = Rig::new();
    let mut bytes = Vec::new();
    for text in ["SELECT 1", "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "SELECT id FROM t"] {
        bytes.extend_from_slice(&unnamed(text));
        bytes.extend_from_slice(&extended("S"));
    }
    rig.say(&bytes);
    assert_eq!(rig.sent(Leg::Local), "P::SELECT 1 | B:: | E: | S");
    rig.run(Leg::Local);
    let sent = rig.sent(Leg::Primary);
    assert_eq!(sent.matches("INSERT").count(), 2, "writes that follow one another are one flight: {sent}");
    rig.settle();
    rig.replay();
    rig.settle();
    assert_eq!(
        rig.heard(),
        "1 | 2 | D:1 | C:SELECT 1 | Z:I | 1 | 2 | C:INSERT 0 1 | Z:I | 1 | 2 | C:INSERT 0 1 | Z:I | \
         1 | 2 | D:1 | D:2 | C:SELECT 2 | Z:I"
    );
}

#[test]
fn what_a_standby_refuses_runs_on_the_primary_once() {
    let mut rig = Rig::new();
    rig.say(&query("SELECT reader()"));
    rig.run(Leg::Local);
    assert_eq!(rig.heard(), "", "nothing is passed on before it is known who answers");
    assert_eq!(rig.sent(Leg::Primary), "startup | Q:SELECT reader() | position");
    rig.settle();
    assert_eq!(rig.heard(), "T | D:7 | C:SELECT 1 | Z:I");
    assert_eq!(rig.writes(), ["SELECT reader()"], "AT-MOST-ONCE");
    rig.replay();
    let mut unit = unnamed("SELECT reader()");
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | D:7 | C:SELECT 1 | Z:I");
    assert_eq!(rig.writes().len(), 2, "AT-MOST-ONCE");
}

#[test]
fn after_a_row_nothing_runs_again() {
    let mut rig = Rig::new();
    assert_eq!(rig.query("SELECT * FROM rows_of(1)"), "T | D:1 | E:25006 | Z:I");
    assert_eq!(rig.sent(Leg::Primary), "", "AT-MOST-ONCE: part of its answer was passed on");
    // The error is the statement's; the session goes on.
    check(&mut rig, &[("SELECT 1", "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn errors_are_the_servers_own() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("SELECT 1/0", "E:22012 | Z:I"),
            ("SYNTAX ERROR", "E:42601 | Z:I"),
            ("", "I | Z:I"),
            ("INSERT INTO t VALUES (1); SELECT 1/0", "C:INSERT 0 1 | E:22012 | Z:I"),
            ("SELECT id FROM t", "T | C:SELECT 0 | Z:I"),
        ],
    );
}

#[test]
fn every_byte_may_come_alone() {
    let mut rig = Rig::new();
    let mut bytes = query("INSERT INTO t VALUES (1)").to_vec();
    bytes.extend_from_slice(&unnamed("SELECT id FROM t"));
    bytes.extend_from_slice(&extended("H; S"));
    for byte in bytes {
        rig.say(&[byte]);
        rig.settle();
        rig.replay();
    }
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I | 1 | 2 | D:1 | C:SELECT 1 | Z:I");
}

#[test]
fn function_calls_run_on_the_primary() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&super::wire::frame(b'F', &[&[0; 10]])), "V | Z:I");
    assert_eq!(rig.sent(Leg::Primary), "startup | F | position");
}

#[test]
fn tables_made_by_the_session_are_found() {
    let mut rig = Rig::new();
    rig.ask(&query("CREATE TABLE n1 (a int)"));
    // The standby has not replayed it, and the catalogue does not know it.
    rig.say(&query("SELECT a FROM n1"));
    rig.settle();
    assert_eq!(rig.heard(), "T | C:SELECT 0 | Z:I");
}

#[test]
fn terminate_reaches_both_servers() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1)"]);
    rig.say(&extended("X"));
    assert!(rig.session.is_over());
    assert_eq!((rig.sent(Leg::Local), rig.sent(Leg::Primary)), ("X".to_owned(), "X".to_owned()));
}

#[test]
fn what_was_said_before_terminate_is_finished() {
    let mut rig = Rig::new();
    let mut bytes = query("INSERT INTO t VALUES (1)");
    bytes.extend_from_slice(&extended("X"));
    rig.say(&bytes);
    assert!(rig.session.is_leaving() && !rig.session.is_over());
    rig.settle();
    assert!(rig.session.is_over());
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (1)"], "AT-MOST-ONCE");
}
