//! Servers that sessions share.

use super::rig::Rig;
use super::wire::{self, extended};
use crate::shared::{Age, SharedStatements, name_of};
use crate::{Access, Leg};

#[test]
fn a_statement_is_called_by_what_it_is() {
    let name = name_of(b"SELECT 1", b"\0\0", None);
    assert_eq!(name, name_of(b"SELECT 1", b"\0\0", None));
    assert_ne!(name, name_of(b"SELECT 2", b"\0\0", None));
    assert_ne!(name, name_of(b"SELECT 1", b"\0\x01\0\0\0\x17", None));
    // Literals are read by the settings of the moment in which they are prepared.
    assert_ne!(name, name_of(b"SELECT 1", b"\0\0", Some([1; 32])));
    assert_eq!(name.len(), 39);
}

#[test]
fn the_statement_used_longest_ago_goes() {
    let mut statements = SharedStatements::default();
    let names: Vec<_> =
        (0..201).map(|number| name_of(format!("SELECT {number}").as_bytes(), b"", None)).collect();
    for name in &names[..200] {
        assert_eq!(statements.insert(name.clone(), 2), None);
    }
    statements.touch(&names[0]);
    assert_eq!(statements.insert(names[200].clone(), 2), Some(names[1].clone()));
    assert!(statements.has(&names[0], Age::new(1)) && !statements.has(&names[1], Age::new(1)));
}

#[test]
fn what_was_read_before_its_own_parse_was_is_not_a_sessions_statement() {
    let name = name_of(b"SELECT 1", b"\0\0", None);
    let of_others = |number| Age::new(number).of_preparation();
    let mut statements = SharedStatements::default();
    let mut age = Age::new(5);
    // Its own; that of nobody else, as long as it is not known whether its own was read before.
    for (made, serves) in [(4, false), (5, true), (6, false)] {
        statements.insert(name.clone(), of_others(made));
        assert_eq!(statements.has(&name, age), serves, "{made}");
    }
    age.is_read(7);
    // It was read after the numbers up to 7 were given, but before all that come.
    for (made, serves) in [(4, false), (5, true), (6, false), (7, false), (8, true), (9, true)] {
        statements.insert(name.clone(), of_others(made));
        assert_eq!(statements.has(&name, age), serves, "{made}");
    }
    // What it prepares elsewhere serves it there, and whoever is older.
    statements.insert(name.clone(), age.of_preparation());
    let mut younger = Age::new(8);
    younger.is_read(8);
    assert!(statements.has(&name, age) && !statements.has(&name, younger));
}

/// Another session has prepared it before, and the catalogue may have been changed since.
#[test]
fn a_parse_of_the_clients_own_is_read_anew() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.world.parses = 10;
    assert_eq!(rig.ask(&extended("P a SELECT 1; B - a; E - 0; S")), "1 | 2 | D:1 | C:SELECT 1 | Z:I");
    rig.sent(Leg::Primary);
    assert_eq!(rig.ask(&extended("P b SELECT 1; S")), "1 | Z:I");
    let sent = rig.sent(Leg::Primary);
    let made: Vec<_> = sent.split(" | ").map(|frame| &frame[..1]).collect();
    assert_eq!(made, ["C", "P", "S"], "{sent}");
}

#[test]
fn a_connection_is_kept_while_it_has_what_only_it_has() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.query("SELECT 1");
    assert!(!rig.session.keeps_servers() && !rig.session.primary_is_open());
    rig.query("LISTEN ch");
    assert!(rig.session.keeps_servers() && rig.session.primary_is_open());
    rig.query("UNLISTEN ch");
    assert!(!rig.session.keeps_servers() && !rig.session.primary_is_open());
    rig.query("BEGIN");
    assert!(rig.session.primary_is_open());
    rig.query("COMMIT");
    assert!(!rig.session.primary_is_open());
}

/// The cancel request of one session must not hit the next.
#[test]
fn a_connection_is_kept_while_a_cancel_request_is_on_its_way() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.say(&wire::query("SELECT id FROM t"));
    rig.session.set_cancelling(true);
    rig.settle();
    assert!(rig.session.primary_is_open());
    rig.session.set_cancelling(false);
    assert!(rig.session.release(Leg::Primary).is_some());
}
