//! The primary moves while something is under way.

use super::rig::{Rig, check};
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
