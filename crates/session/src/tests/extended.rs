//! Extended messages: Flush, portals, errors up to the Sync.

use super::rig::Rig;
use super::wire::{extended, query, unnamed};
use crate::Leg;

#[test]
fn a_flushed_answer_is_passed_on() {
    let mut rig = Rig::new();
    let mut part = unnamed("SELECT id FROM t");
    part.extend_from_slice(&extended("H"));
    assert_eq!(rig.ask(&part), "1 | 2 | C:SELECT 0");
    assert_eq!(rig.ask(&extended("S")), "Z:I");
    assert_eq!(rig.sent(Leg::Primary), "");
}

#[test]
fn a_unit_that_writes_after_a_flush_goes_on_at_the_primary() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&extended("P r SELECT 1; D S r; H")), "1 | t | T");
    let mut rest = unnamed("INSERT INTO t VALUES (1)");
    rest.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&rest), "1 | 2 | C:INSERT 0 1 | Z:I");
    assert_eq!(rig.sent(Leg::Local), "P:r:SELECT 1 | D:Sr | H | S");
    assert_eq!(rig.sent(Leg::Primary), "startup | P::INSERT INTO t VALUES (1) | B:: | E: | S | position");
    rig.replay();
    assert_eq!(rig.ask(&extended("B - r; E - 0; S")), "2 | D:1 | C:SELECT 1 | Z:I");
}

#[test]
fn a_statement_prepared_before_a_flush_may_write_after_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&extended("P - INSERT INTO t VALUES ($1); D S -; H")), "1 | t | n");
    assert_eq!(rig.ask(&extended("B - - 4; E - 0; S")), "2 | C:INSERT 0 1 | Z:I");
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (4)"], "AT-MOST-ONCE");
}

#[test]
fn after_an_error_everything_is_skipped_up_to_the_sync() {
    let mut rig = Rig::new();
    let mut unit = unnamed("SELECT 1/0");
    unit.extend_from_slice(&unnamed("INSERT INTO t VALUES (1)"));
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | E:22012 | Z:I");
    let mut unit = unnamed("SELECT 1/0");
    unit.extend_from_slice(&extended("H"));
    assert_eq!(rig.ask(&unit), "1 | 2 | E:22012");
    let mut rest = unnamed("INSERT INTO t VALUES (1)");
    rest.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&rest), "Z:I");
    assert!(rig.writes().is_empty());
}

#[test]
fn statements_that_failed_to_parse_are_not_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&extended("P a SYNTAX; S")), "E:42601 | Z:I");
    assert_eq!(rig.ask(&extended("B - a; S")), "E:26000 | Z:I");
    assert_eq!(
        rig.ask(&extended("P a SELECT 1; S; B - a; E - 0; S")),
        "1 | Z:I | 2 | D:1 | C:SELECT 1 | Z:I"
    );
}

#[test]
fn portals_are_read_in_parts() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"]);
    let mut unit = extended("P - SELECT id FROM t; B p -; E p 1; E p 1; E p 1; S");
    assert_eq!(rig.ask(&unit), "1 | 2 | D:1 | s | D:2 | s | C:SELECT 0 | Z:I");
    rig.given(&["BEGIN"]);
    unit = extended("P - SELECT id FROM t; B p -; E p 1; S");
    assert_eq!(rig.ask(&unit), "1 | 2 | D:1 | s | Z:T");
    // The transaction has to be where its portal is.
    assert_eq!(rig.ask(&query("INSERT INTO t VALUES (3)")), "C:INSERT 0 1 | Z:T");
    assert_eq!(rig.ask(&extended("E p 0; S")), "D:2 | C:SELECT 1 | Z:T");
}

#[test]
fn unnamed_statements_live_until_a_query() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&extended("P - SELECT 1; S")), "1 | Z:I");
    assert_eq!(rig.ask(&extended("B - -; E - 0; S")), "2 | D:1 | C:SELECT 1 | Z:I");
    rig.given(&["SELECT 1"]);
    assert_eq!(rig.ask(&extended("B - -; E - 0; S")), "E:26000 | Z:I");
    // The session's own statements on the primary do not end it.
    rig.given(&["INSERT INTO t VALUES (1)"]);
    assert_eq!(
        rig.ask(&extended("P - INSERT INTO t VALUES ($1); S; B - - 2; E - 0; S")),
        "1 | Z:I | 2 | C:INSERT 0 1 | Z:I"
    );
    assert_eq!(rig.ask(&extended("B - - 3; E - 0; S")), "2 | C:INSERT 0 1 | Z:I");
}

/// DDL may have been there since it was described here.
#[test]
fn a_statement_has_the_types_that_were_told_on_the_other_server() {
    let mut rig = Rig::new();
    let prepare = "P w INSERT INTO t VALUES ($1); D S w; P r SELECT nextval('sq'); D S r; P q SELECT nextval('sq'); D S q; S";
    assert_eq!(rig.ask(&extended(prepare)), "1 | t | n | 1 | t | T | 1 | t | T | Z:I");
    // What has no columns need not be asked about: its parameters are as told.
    assert_eq!(rig.ask(&extended("B - w 4; E - 0; S")), "2 | C:INSERT 0 1 | Z:I");
    let insert = "startup | P:w:INSERT INTO t VALUES ($1) | S | B::w | E: | S | position";
    assert_eq!(rig.sent(Leg::Primary), insert);
    assert_eq!(rig.ask(&extended("B - r; E - 0; S")), "2 | D:1 | C:SELECT 1 | Z:I");
    let select = "P:r:SELECT nextval('sq') | D:Sr | S | B::r | E: | S | position";
    assert_eq!(rig.sent(Leg::Primary), select);
    rig.database.borrow_mut().types = 1;
    for _ in 0..2 {
        assert_eq!(rig.ask(&extended("B - q; E - 0; S")), "E:0A000 | Z:I");
    }
    assert_eq!(rig.query("BEGIN"), "C:BEGIN | Z:T");
    assert_eq!(rig.ask(&extended("B - w 5; E - 0; S")), "2 | C:INSERT 0 1 | Z:T");
    assert_eq!(rig.ask(&extended("B - q; E - 0; S")), "E:0A000 | Z:E");
    assert_eq!(rig.query("ROLLBACK"), "C:ROLLBACK | Z:I");
    // q has never run.
    let writes = ["INSERT INTO t VALUES (4)", "SELECT nextval('sq')", "INSERT INTO t VALUES (5)"];
    assert_eq!(rig.writes(), writes);
}
