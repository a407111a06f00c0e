//! The primary moves while something is under way.

use super::rig::{Rig, check};
use super::wire::extended;
use crate::Leg;

#[test]
fn a_statement_is_closed_while_the_primary_is_left() {
    let mut rig = Rig::new();
    rig.ask(&extended("P s INSERT INTO t VALUES (1); B - s; E - 0; S"));
    rig.say(&extended("C S s; S"));
    rig.session.hold_primary(true);
    rig.advance();
    assert!(!rig.session.primary_is_open(), "nothing is under way there");
    rig.close(Leg::Primary);
    rig.session.hold_primary(false);
    rig.settle();
    assert_eq!(rig.heard(), "3 | Z:I");
    check(&mut rig, &[("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:I")]);
    assert_eq!(rig.ask(&extended("B - s; S")), "E:26000 | Z:I");
}
