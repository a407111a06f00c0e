//! What a session keeps: settings, prepared statements, LISTEN.

use super::rig::{Rig, check};
use super::wire::{extended, query};
use crate::Leg;

#[test]
fn settings_are_made_on_the_primary_before_anything_runs_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.query("SET application_name = x"), "C:SET | S:application_name=x | Z:I");
    rig.given(&["SET work_mem = low", "SET work_mem = mid", "SET LOCAL work_mem = top"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    assert_eq!(
        rig.sent(Leg::Primary),
        "startup | Q:SET application_name = x | Q:SET work_mem = mid | Q:INSERT INTO t VALUES (1) | position"
    );
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I", "PASS-THROUGH: what the client knows is not told again");
    // Only what is new goes there.
    rig.given(&["SET work_mem = high"]);
    rig.say(&query("INSERT INTO t VALUES (2)"));
    assert_eq!(rig.sent(Leg::Primary), "Q:SET work_mem = high | Q:INSERT INTO t VALUES (2) | position");
}

#[test]
fn settings_made_on_the_primary_are_made_here() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("SET application_name = x", "C:SET | S:application_name=x | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
        ],
    );
    rig.sent(Leg::Local);
    check(&mut rig, &[("SELECT 1", "T | D:1 | C:SELECT 1 | Z:I")]);
    assert_eq!(rig.sent(Leg::Local), "Q:SET application_name = x | Q:SELECT 1");
}

#[test]
fn settings_of_a_transaction_that_is_rolled_back_are_gone() {
    let mut rig = Rig::new();
    rig.given(&["SET work_mem = low", "BEGIN", "SET work_mem = mid", "ROLLBACK"]);
    rig.given(&["BEGIN", "SAVEPOINT a", "SET work_mem = high", "ROLLBACK TO a", "COMMIT"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    let sent = rig.sent(Leg::Primary);
    assert_eq!(sent, "startup | Q:SET work_mem = low | Q:INSERT INTO t VALUES (1) | position");
}

#[test]
fn a_setting_made_and_rolled_back_on_the_primary_is_told() {
    let mut rig = Rig::new();
    check(
        &mut rig,
        &[
            ("BEGIN", "C:BEGIN | Z:T"),
            ("SET application_name = x", "C:SET | S:application_name=x | Z:T"),
            ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T"),
            ("SHOW application_name", "T | D:x | C:SHOW | Z:T"),
            ("ROLLBACK", "C:ROLLBACK | S:application_name= | Z:I"),
            ("SHOW application_name", "T | D: | C:SHOW | Z:I"),
        ],
    );
}

#[test]
fn who_the_session_is_must_be_confirmed_before_anything_runs() {
    let mut rig = Rig::new();
    rig.given(&["SET ROLE = bob"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    assert!(!rig.sent(Leg::Primary).contains("INSERT"), "the role is not confirmed");
    rig.settle();
    assert_eq!(rig.sent(Leg::Primary), "Q:INSERT INTO t VALUES (1) | position");
}

#[test]
fn prepared_statements_are_provided_where_they_run() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&extended("P i INSERT INTO t VALUES ($1); D S i; S")), "1 | t | n | Z:I");
    assert_eq!(rig.ask(&extended("P r SELECT id FROM t WHERE id = $1; S")), "1 | Z:I");
    assert_eq!(rig.sent(Leg::Primary), "", "to prepare needs no primary");
    rig.say(&extended("B - i 5; E - 0; S"));
    assert_eq!(
        rig.sent(Leg::Primary),
        "startup | P:i:INSERT INTO t VALUES ($1) | S | B::i | E: | S | position"
    );
    rig.settle();
    assert_eq!(
        rig.heard(),
        "2 | C:INSERT 0 1 | Z:I",
        "PASS-THROUGH: no ParseComplete that was not asked for"
    );
    rig.replay();
    rig.sent(Leg::Primary);
    rig.say(&extended("B - i 6; E - 0; S"));
    assert_eq!(rig.sent(Leg::Primary), "B::i | E: | S | position", "it is there now");
    rig.settle();
    rig.replay();
    rig.heard();
    assert_eq!(rig.ask(&extended("B - r 6; E - 0; S")), "2 | D:6 | C:SELECT 1 | Z:I");
}

#[test]
fn prepared_statements_of_sql_and_protocol_are_the_same() {
    let mut rig = Rig::new();
    assert_eq!(rig.query("PREPARE i AS INSERT INTO t VALUES (1)"), "C:PREPARE | Z:I");
    assert_eq!(rig.sent(Leg::Primary), "");
    check(&mut rig, &[("EXECUTE i", "C:INSERT 0 1 | Z:I")]);
    assert_eq!(rig.ask(&extended("B - i; E - 0; S")), "2 | C:INSERT 0 1 | Z:I");
    rig.replay();
    check(
        &mut rig,
        &[
            ("PREPARE i AS SELECT 1", "E:42P05 | Z:I"),
            ("DEALLOCATE i", "C:DEALLOCATE | Z:I"),
            ("EXECUTE i", "E:26000 | Z:I"),
            ("PREPARE i AS SELECT 1", "C:PREPARE | Z:I"),
            ("EXECUTE i", "T | D:1 | C:SELECT 1 | Z:I"),
        ],
    );
    assert_eq!(rig.ask(&extended("P i SELECT 1; S")), "E:42P05 | Z:I");
    assert_eq!(rig.ask(&extended("C S i; S")), "3 | Z:I");
    assert_eq!(rig.ask(&extended("B - i; S")), "E:26000 | Z:I");
    assert_eq!(rig.writes().len(), 2, "AT-MOST-ONCE");
}

#[test]
fn deallocate_all_is_for_both_servers() {
    let mut rig = Rig::new();
    rig.given(&["PREPARE i AS INSERT INTO t VALUES (1)", "EXECUTE i"]);
    check(&mut rig, &[("DEALLOCATE ALL", "C:DEALLOCATE ALL | Z:I")]);
    check(
        &mut rig,
        &[("PREPARE i AS UPDATE t SET n = n + 1", "C:PREPARE | Z:I"), ("EXECUTE i", "C:UPDATE 1 | Z:I")],
    );
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (1)", "UPDATE t SET n = n + 1"]);
}

#[test]
fn discard_all_is_for_both_servers() {
    let mut rig = Rig::new();
    rig.given(&["SET application_name = x", "INSERT INTO t VALUES (1)", "LISTEN ch"]);
    check(
        &mut rig,
        &[
            ("DISCARD ALL", "C:DISCARD ALL | S:application_name= | Z:I"),
            ("SHOW application_name", "T | D: | C:SHOW | Z:I"),
            ("UPDATE t SET n = n + 1", "C:UPDATE 1 | Z:I"),
            ("NOTIFY ch", "C:NOTIFY | Z:I"),
        ],
    );
    assert_eq!(rig.primary.engine.setting("application_name"), "");
    assert_eq!(rig.local.engine.setting("application_name"), "");
}

#[test]
fn listening_is_done_on_the_primary() {
    let mut rig = Rig::new();
    check(&mut rig, &[("LISTEN ch", "C:LISTEN | Z:I"), ("NOTIFY ch", "C:NOTIFY | A | Z:I")]);
    rig.sent(Leg::Local);
    check(&mut rig, &[("SELECT id FROM t", "T | C:SELECT 0 | Z:I")]);
    assert_eq!(rig.sent(Leg::Local), "Q:SELECT id FROM t", "listening does not end local reads");
    check(&mut rig, &[("UNLISTEN *", "C:UNLISTEN | Z:I"), ("NOTIFY ch", "C:NOTIFY | Z:I")]);
}
