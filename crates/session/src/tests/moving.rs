//! The primary moves while something is under way.

use bytes::Bytes;

use super::engine::{Engine, Role};
use super::rig::{Rig, check};
use super::server::Server;
use super::wire::{extended, query};
use crate::{Access, Held, Leg};

#[test]
fn a_statement_is_closed_while_the_primary_is_left() {
    let mut rig = Rig::new();
    rig.ask(&extended("P s INSERT INTO t VALUES (1); B - s; E - 0; S"));
    rig.say(&extended("C S s; S"));
    rig.session.hold_primary(Held::All);
    rig.advance();
    assert!(!rig.session.primary_is_open(), "nothing is under way there");
    rig.close(Leg::Primary);
    rig.session.hold_primary(Held::Nothing);
    rig.settle();
    assert_eq!(rig.heard(), "3 | Z:I");
    check(&mut rig, &[("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:I")]);
    assert_eq!(rig.ask(&extended("B - s; S")), "E:26000 | Z:I");
}

#[test]
fn a_hold_of_blocks_lets_open_ones_end_and_statements_run() {
    let mut rig = Rig::new();
    check(&mut rig, &[("BEGIN", "C:BEGIN | Z:T"), ("INSERT INTO t VALUES (1)", "C:INSERT 0 1 | Z:T")]);
    assert_eq!(rig.world.blocks, 1);
    rig.session.hold_primary(Held::Blocks);
    check(&mut rig, &[("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:T"), ("COMMIT", "C:COMMIT | Z:I")]);
    assert_eq!(rig.world.blocks, 0);
    check(&mut rig, &[("INSERT INTO t VALUES (3)", "C:INSERT 0 1 | Z:I"), ("BEGIN", "C:BEGIN | Z:T")]);
    assert_eq!(rig.world.blocks, 0, "it is open on the standby");
    assert_eq!(rig.ask(&query("INSERT INTO t VALUES (4)")), "");
    assert!(rig.session.waits_for_primary());
    assert!(!rig.session.primary_is_open(), "it waits with a block, and will leave anyway");
    rig.close(Leg::Primary);
    rig.session.hold_primary(Held::Nothing);
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:T");
    check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I")]);
}

#[test]
fn reads_of_a_primary_are_no_blocks() {
    let mut rig = Rig::with(Access::Local);
    rig.world.primary = true;
    rig.say(&query("SELECT 1"));
    assert_eq!((rig.world.users, rig.world.blocks), (1, 0), "it is under way");
    rig.settle();
    rig.heard();
    check(&mut rig, &[("BEGIN", "C:BEGIN | Z:T")]);
    assert_eq!(rig.world.blocks, 1);
    check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I")]);
    assert_eq!((rig.world.users, rig.world.blocks), (0, 0));
}

/// A session whose primary is in another region, with a block whose first write the region does not let begin there.
fn with_write_refused(rig: &mut Rig) {
    rig.given(&["BEGIN"]);
    rig.relay.as_mut().unwrap().is_closed = true;
    assert_eq!(rig.ask(&query("INSERT INTO t VALUES (1)")), "");
    rig.session.hold_primary(Held::All);
    assert!(rig.refuse());
    rig.advance();
    assert_eq!(rig.heard(), "");
}

#[test]
fn what_the_primary_was_not_given_goes_to_the_next_one() {
    let mut rig = Rig::new().with_relay();
    with_write_refused(&mut rig);
    assert!(rig.writes().is_empty());
    rig.session.hold_primary(Held::Nothing);
    assert_eq!(rig.ask(b""), "C:INSERT 0 1 | Z:T");
    check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I")]);
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (1)"]);
}

#[test]
fn a_block_whose_statement_was_cancelled_before_it_began_has_failed() {
    let mut rig = Rig::new().with_relay();
    with_write_refused(&mut rig);
    assert!(rig.session.cancel_waiting());
    assert_eq!(rig.heard(), "E:57014 | Z:E");
    rig.session.hold_primary(Held::Nothing);
    let (failed, ended) = ("E:25P02 | Z:E", "C:ROLLBACK | Z:I");
    check(&mut rig, &[("INSERT INTO t VALUES (2)", failed), ("COMMIT", ended)]);
    assert!(rig.writes().is_empty());
    check(&mut rig, &[("INSERT INTO t VALUES (3)", "C:INSERT 0 1 | Z:I")]);
}

#[test]
fn a_cancelled_statement_that_was_not_begun_does_not_begin_later() {
    let mut rig = Rig::new().with_relay();
    rig.relay.as_mut().unwrap().is_closed = true;
    assert_eq!(rig.ask(&query("INSERT INTO t VALUES (1)")), "");
    rig.session.note_cancel();
    assert!(rig.refuse());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
    assert!(rig.writes().is_empty());
}

#[test]
fn what_would_have_bound_the_session_to_the_primary_does_so_when_it_has_run() {
    let mut rig = Rig::new().with_relay();
    rig.relay.as_mut().unwrap().is_closed = true;
    assert_eq!(rig.ask(&query("LISTEN ch")), "");
    assert!(rig.refuse());
    rig.settle();
    assert_eq!(rig.heard(), "C:LISTEN | Z:I");
    // Bound now: what it would miss elsewhere its client has to know of.
    rig.session.is_refused(&Bytes::new());
    assert!(rig.heard().starts_with("FATAL:57P01"));
}

#[test]
fn a_session_that_begins_on_a_primary_which_refuses_begins_on_the_next_one() {
    let mut rig = Rig::with(Access::Primary).with_relay();
    rig.session.begin_again();
    rig.primary = Server::new(Engine::new(Role::Primary, rig.database.clone(), 24));
    rig.settle();
    assert_eq!(rig.heard(), "", "its client has been greeted");
    check(&mut rig, &[("SHOW pangea.read_consistency", "T | D:session | C:SHOW | Z:I")]);
}

#[test]
fn a_block_begins_anew_behind_what_else_a_connection_needs() {
    let mut rig = Rig::new().with_relay();
    rig.given(&["SET ROLE joe"]);
    with_write_refused(&mut rig);
    // The primary is in this region now.
    rig.session.set_primary_may_refuse(false);
    rig.relay = None;
    rig.session.hold_primary(Held::Nothing);
    assert_eq!(rig.ask(b""), "C:INSERT 0 1 | Z:T");
    check(&mut rig, &[("ROLLBACK", "C:ROLLBACK | Z:I")]);
}
