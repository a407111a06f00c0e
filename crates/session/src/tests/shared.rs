//! Servers that sessions share.

use bytes::BytesMut;

use super::rig::Rig;
use super::wire::{self, extended, frame};
use crate::shared_statements::{Age, SharedStatements, name_of};
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
    assert!(
        statements.has(&names[0], &Age::new(2), Leg::Local)
            && !statements.has(&names[1], &Age::new(2), Leg::Local)
    );
}

#[test]
fn what_was_read_before_its_own_parse_was_is_not_a_sessions_statement() {
    let name = name_of(b"SELECT 1", b"\0\0", None);
    let mut statements = SharedStatements::default();
    let mut age = Age::new(5);
    // Its own, and no other, as long as it is not known when that was read.
    for (made, serves) in [(4, false), (5, true), (6, false)] {
        statements.insert(name.clone(), made);
        assert_eq!(statements.has(&name, &age, Leg::Local), serves, "{made}");
    }
    // It was read before the number 8 was given; on the other server nothing is known of what others have.
    age.is_read(Leg::Local, 7);
    for (made, serves) in [(4, false), (5, true), (6, false), (7, false), (8, true), (9, true)] {
        statements.insert(name.clone(), made);
        assert_eq!(statements.has(&name, &age, Leg::Local), serves, "{made}");
        assert_eq!(statements.has(&name, &age, Leg::Primary), made == 5, "{made}");
    }
}

/// Another session has prepared it before, and the catalogue may have been changed since.
#[test]
fn a_parse_of_the_clients_own_is_read_anew() {
    let mut rig = Rig::shared(Access::Primary, 1);
    assert_eq!(rig.ask(&extended("P a SELECT 1; B - a; E - 0; S")), "1 | 2 | D:1 | C:SELECT 1 | Z:I");
    rig.sent(Leg::Primary);
    assert_eq!(rig.ask(&extended("P b SELECT 1; S")), "1 | Z:I");
    let sent = rig.sent(Leg::Primary);
    let made: Vec<_> = sent.split(" | ").map(|frame| &frame[..1]).collect();
    assert_eq!(made, ["C", "P", "S"], "{sent}");
}

/// A client that has described a statement takes its rows and its parameters for what they were then.
#[test]
fn what_a_client_was_told_of_a_statement_holds_on_every_connection() {
    let mut seen = [0; 2];
    for (seed, access) in (0..60).flat_map(|seed| [(seed, Access::Primary), (seed, Access::Local)]) {
        let mut rig = Rig::shared(access, seed);
        let shared = name_of(b"SELECT id FROM t", b"\0\0", None);
        // The unnamed statement is one too.
        let (name, there) = if seed % 4 == 0 { ("-", &b""[..]) } else { ("a", &shared[..]) };
        let parse = extended(&format!("P {name} SELECT id FROM t; D S {name}; S"));
        let bind = extended(&format!("B - {name}; E - 0; S"));
        // The client was told of the first ones, and then of others.
        for (told, now) in [(0, 0), (0, 1), (1, 1)] {
            rig.database.borrow_mut().types = now;
            if told == now {
                rig.ask(&extended(&format!("C S {name}; S")));
                assert_eq!(rig.ask(&parse), "1 | t | T | Z:I");
            }
            for _ in 0..6 {
                let said = rig.ask(&bind);
                let server = if access == Access::Primary { &rig.primary } else { &rig.local };
                let fits = server.types_of(there) == told;
                let expected = if fits { "2 | C:SELECT 0 | Z:I" } else { "E:0A000 | Z:I" };
                assert_eq!(said, expected, "seed {seed}, told {told}, now {now}");
                seen[usize::from(fits)] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

/// Two names of one statement, each asked about where the other was prepared last.
#[test]
fn each_statement_of_a_unit_is_asked_about_once() {
    for seed in 0..20 {
        let mut rig = Rig::shared(Access::Primary, seed);
        rig.query("BEGIN");
        for name in ["a", "b"] {
            assert_eq!(rig.ask(&extended(&format!("P {name} SELECT 1; D S {name}; S"))), "1 | t | T | Z:T");
        }
        let both = extended("B - a; E - 0; B - b; E - 0; S");
        assert_eq!(rig.ask(&both), "2 | D:1 | C:SELECT 1 | 2 | D:1 | C:SELECT 1 | Z:T");
        rig.query("COMMIT");
        assert_eq!(rig.ask(&both), "2 | D:1 | C:SELECT 1 | 2 | D:1 | C:SELECT 1 | Z:I");
    }
}

#[test]
fn a_refusal_comes_after_the_answers_before_it() {
    let mut refused = 0;
    for seed in 0..20 {
        let mut rig = Rig::shared(Access::Primary, seed);
        rig.ask(&extended("P a SELECT id FROM t; D S a; S; P b SELECT 1; S"));
        rig.database.borrow_mut().types = 1;
        for _ in 0..4 {
            let said = rig.ask(&extended("B - b; E - 0; S; B - a; E - 0; S; B - b; E - 0; S"));
            let ran = "2 | D:1 | C:SELECT 1 | Z:I";
            refused += usize::from(said == format!("{ran} | E:0A000 | Z:I | {ran}"));
            assert!(said.starts_with(ran) && said.ends_with(ran), "{seed}: {said}");
        }
    }
    assert!(refused > 10, "{refused}");
}

/// The last one is evicted in a unit that was flushed: the connection must not be given away before that is closed.
#[test]
fn what_has_to_go_is_closed_before_the_connection_is_given_away() {
    let mut rig = Rig::shared(Access::Primary, 1);
    let text = |number: usize| format!("SELECT{}id FROM t", " ".repeat(number + 1));
    let bind = |number: usize| extended(&format!("B - s{number}; E - 0; S"));
    rig.query("BEGIN");
    for number in 0..200 {
        assert_eq!(rig.ask(&extended(&format!("P s{number} {}; S", text(number)))), "1 | Z:T");
    }
    assert_eq!(rig.ask(&extended(&format!("P s200 {}; H", text(200)))), "1");
    rig.sent(Leg::Primary);
    assert_eq!(rig.ask(&bind(200)), "2 | C:SELECT 0 | Z:T");
    assert!(rig.sent(Leg::Primary).contains("C:Spangea"));
    rig.query("COMMIT");
    assert!(!rig.session.primary_is_open());
    for number in 0..=200 {
        assert_eq!(rig.ask(&bind(number)), "2 | C:SELECT 0 | Z:I");
    }
}

#[test]
fn the_end_of_a_failed_transaction_is_prepared_again() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.query("BEGIN");
    rig.query("SELECT 1/0");
    for name in ["a", "b", "c"] {
        assert_eq!(rig.ask(&extended(&format!("P {name} ROLLBACK; S"))), "1 | Z:E");
    }
    assert_eq!(rig.ask(&extended("B - b; E - 0; S")), "2 | C:ROLLBACK | Z:I");
}

/// Nobody's name for a statement is that of another's.
#[test]
fn the_names_on_the_server_are_nobodys() {
    let mut rig = Rig::shared(Access::Primary, 1);
    assert_eq!(rig.ask(&extended("P a SELECT 1; S")), "1 | Z:I");
    let shared = name_of(b"SELECT 1", b"\0\0", None);
    let synced = |frame: BytesMut| [&frame[..], &extended("S")].concat();
    let bind = |name: &[u8]| synced(frame(b'B', &[b"\0", name, b"\0\0\0\0\0\0\0"]));
    let parse = |name: &[u8], text: &[u8]| synced(frame(b'P', &[name, b"\0", text, b"\0\0\0"]));
    assert_eq!(rig.ask(&bind(&shared)), "E:26000 | Z:I");
    assert_eq!(rig.ask(&synced(frame(b'D', &[b"S", &shared, b"\0"]))), "E:26000 | Z:I");
    assert_eq!(rig.ask(&synced(frame(b'C', &[b"S", &shared, b"\0"]))), "3 | Z:I");
    assert_eq!(rig.ask(&extended("B - a; E - 0; S")), "2 | D:1 | C:SELECT 1 | Z:I");
    assert_eq!(rig.ask(&parse(b"pangea_x", b"SELECT 1")), "1 | Z:I");
    assert_eq!(rig.ask(&parse(b"pangea_x", b"SELECT 2")), "E:42P05 | Z:I");
    assert_eq!(rig.ask(&bind(b"pangea_x")), "2 | Z:I");
}

#[test]
fn a_connection_is_kept_while_it_has_what_only_it_has() {
    let mut rig = Rig::shared(Access::Primary, 1);
    rig.query("SELECT 1");
    assert!(!rig.session.keeps_servers() && !rig.session.primary_is_open());
    rig.query("PREPARE p AS SELECT 1");
    assert!(rig.session.keeps_servers() && rig.session.primary_is_open());
    rig.query("DEALLOCATE p");
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
