//! The unnamed statement of servers that sessions share: what is not sent, and that nobody sees it.

use super::rig::Rig;
use super::wire::extended;
use crate::{Access, Leg};

const READ: &str = "P - SELECT id FROM t; B - -; E - 0; S";
const HEARD: &str = "1 | 2 | C:SELECT 0 | Z:I";
const WHOLE: &str = "P::SELECT id FROM t | B:: | E: | S";
const REST: &str = "B:: | E: | S";

/// Runs the read, and tells what the server was sent for it.
fn read(rig: &mut Rig, leg: Leg) -> String {
    assert_eq!(rig.ask(&extended(READ)), HEARD);
    rig.sent(leg)
}

#[test]
fn a_text_is_parsed_once_for_five_executions() {
    for (access, leg) in [(Access::Primary, Leg::Primary), (Access::Local, Leg::Local)] {
        let mut rig = Rig::shared_alone(access);
        for round in 0..12 {
            let expected = if round % 5 == 0 { WHOLE } else { REST };
            assert_eq!(read(&mut rig, leg), expected, "{access:?}, round {round}");
        }
    }
}

#[test]
fn what_ends_or_replaces_the_statement_has_it_parsed_again() {
    let between = [
        "P - SELECT 1; B - -; E - 0; S",
        "P - INSERT INTO t VALUES (1); B - -; E - 0; S",
        "P - SET work_mem = big; B - -; E - 0; S",
        "C S -; S",
        "P - SYNTAX; S",
        "P n SELECT 1/0; B - n; E - 0; S",
    ];
    for between in between {
        let mut rig = Rig::shared_alone(Access::Primary);
        assert_eq!(read(&mut rig, Leg::Primary), WHOLE);
        assert_eq!(read(&mut rig, Leg::Primary), REST);
        rig.ask(&extended(between));
        rig.sent(Leg::Primary);
        rig.ask(&extended(READ));
        assert!(rig.sent(Leg::Primary).ends_with(WHOLE), "after {between}");
    }
    let mut rig = Rig::shared_alone(Access::Primary);
    read(&mut rig, Leg::Primary);
    rig.query("SELECT 1");
    rig.sent(Leg::Primary);
    assert_eq!(read(&mut rig, Leg::Primary), WHOLE);
    rig.world.version += 1;
    assert_eq!(read(&mut rig, Leg::Primary), WHOLE, "the catalogue is another");
}

/// Else the units behind it could not wait for what becomes of it.
#[test]
fn units_of_a_pipeline_are_sent_whole() {
    let mut rig = Rig::shared_alone(Access::Primary);
    read(&mut rig, Leg::Primary);
    let heard = rig.ask(&extended(&[READ, READ].join(";")));
    assert_eq!(heard, [HEARD, HEARD].join(" | "));
    assert_eq!(rig.sent(Leg::Primary), [WHOLE, WHOLE].join(" | "));
}

#[test]
fn in_a_transaction_it_is_sent_whole() {
    let mut rig = Rig::shared_alone(Access::Primary);
    read(&mut rig, Leg::Primary);
    rig.ask(&extended("P b BEGIN; B - b; E - 0; S"));
    rig.sent(Leg::Primary);
    let heard = rig.ask(&extended(READ));
    assert_eq!(heard, "1 | 2 | C:SELECT 0 | Z:T");
    assert_eq!(rig.sent(Leg::Primary), WHOLE);
}

/// PostgreSQL refuses to bind what has other columns by now, say (AT-MOST-ONCE: nothing was executed).
#[test]
fn a_unit_that_fails_without_its_parse_runs_again_with_it() {
    for (access, leg) in [(Access::Primary, Leg::Primary), (Access::Local, Leg::Local)] {
        let mut rig = Rig::shared_alone(access);
        read(&mut rig, leg);
        let server = if leg == Leg::Primary { &mut rig.primary } else { &mut rig.local };
        server.engine.prepared.remove("");
        assert_eq!(read(&mut rig, leg), [REST, WHOLE].join(" | "), "{access:?}");
        assert_eq!(read(&mut rig, leg), REST, "{access:?}");
    }
}

#[test]
fn what_a_parse_reads_as_of_now_is_parsed_each_time() {
    let mut rig = Rig::shared_alone(Access::Primary);
    for _ in 0..3 {
        rig.ask(&extended("P - SELECT 'now'; B - -; E - 0; S"));
        assert_eq!(rig.sent(Leg::Primary), "P::SELECT 'now' | B:: | E: | S");
    }
}

/// The statement is the client's own as well: it may be bound without another Parse.
#[test]
fn the_statement_that_was_not_parsed_again_is_there() {
    let mut rig = Rig::shared_alone(Access::Primary);
    read(&mut rig, Leg::Primary);
    read(&mut rig, Leg::Primary);
    assert_eq!(rig.ask(&extended("B - -; E - 0; S")), "2 | C:SELECT 0 | Z:I");
    assert_eq!(rig.sent(Leg::Primary), "P::SELECT id FROM t | S | B:: | E: | S");
}
