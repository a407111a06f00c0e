//! Servers that sessions share.

use super::rig::Rig;
use super::wire;
use crate::shared::{SharedStatements, name_of};
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
        assert_eq!(statements.insert(name.clone()), None);
    }
    assert!(statements.touch(&names[0]));
    assert_eq!(statements.insert(names[200].clone()), Some(names[1].clone()));
    assert!(statements.has(&names[0]) && !statements.touch(&names[1]));
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
