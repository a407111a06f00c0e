//! Servers that cannot be reached, go away, or say what they may not.

use super::rig::{Rig, check, lost};
use super::wire::{extended, query, unnamed};
use crate::Leg;

/// The primary cannot be reached: the gateway says so.
fn refuse(rig: &mut Rig) {
    assert!(rig.session.wants_primary());
    rig.session.primary_failed(&lost());
    rig.settle();
}

#[test]
fn a_session_survives_a_primary_that_cannot_be_reached() {
    let mut rig = Rig::new();
    rig.primary_is_up = false;
    rig.say(&query("INSERT INTO t VALUES (1)"));
    refuse(&mut rig);
    assert_eq!(rig.heard(), "E:08006 | Z:I", "an ERROR, not FATAL");
    rig.primary_is_up = true;
    check(&mut rig, &[("SELECT 1", "T | D:1 | C:SELECT 1 | Z:I")]);
    check(&mut rig, &[("INSERT INTO t VALUES (2)", "C:INSERT 0 1 | Z:I")]);
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (2)"], "AT-MOST-ONCE");
}

#[test]
fn statements_of_a_refused_unit_are_not_there() {
    let mut rig = Rig::new();
    rig.primary_is_up = false;
    let mut unit = extended("P i INSERT INTO t VALUES (1); B - i; E - 0; S");
    unit.extend_from_slice(&extended("P j INSERT INTO t VALUES (1); B - j; E - 0; S"));
    rig.say(&unit);
    refuse(&mut rig);
    while rig.session.wants_primary() {
        refuse(&mut rig);
    }
    assert_eq!(rig.heard(), "E:08006 | Z:I | E:08006 | Z:I");
    rig.primary_is_up = true;
    assert_eq!(rig.ask(&extended("B - i; S")), "E:26000 | Z:I");
}

#[test]
fn a_transaction_whose_move_fails_is_over() {
    let mut rig = Rig::new();
    rig.primary_is_up = false;
    rig.given(&["BEGIN"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    refuse(&mut rig);
    let heard = rig.heard();
    assert!(heard == "FATAL:08006" && rig.session.is_over() || heard == "E:08006 | Z:E", "{heard}");
}

#[test]
fn a_primary_lost_in_a_transaction_is_fatal() {
    let mut rig = Rig::new();
    rig.given(&["BEGIN", "INSERT INTO t VALUES (1)"]);
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "FATAL:08006");
    assert!(rig.session.is_over());
}

#[test]
fn a_primary_lost_under_a_write_is_fatal() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1)"]);
    rig.say(&query("INSERT INTO t VALUES (2)"));
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "FATAL:08006", "AT-MOST-ONCE: nobody knows whether it took effect");
    assert!(rig.session.is_over());
}

#[test]
fn an_idle_primary_may_come_and_go() {
    let mut rig = Rig::new();
    rig.given(&["SET work_mem = low", "PREPARE i AS INSERT INTO t VALUES (1)", "EXECUTE i"]);
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "");
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I")]);
    rig.say(&query("EXECUTE i"));
    assert_eq!(
        rig.sent(Leg::Primary),
        "startup | Q:SET work_mem = low | Q:PREPARE i AS INSERT INTO t VALUES (1) | Q:EXECUTE i | position"
    );
}

#[test]
fn an_idle_primary_that_says_goodbye_is_not_missed() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1)"]);
    rig.primary.shut_down();
    rig.run(Leg::Primary);
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "");
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn a_position_that_is_lost_is_asked_again() {
    let mut rig = Rig::new();
    rig.given(&["SELECT 1"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    // The connection breaks between the write's answer and the position's: start-up, questions, the write.
    for _ in 0..3 {
        rig.primary.step();
    }
    let bytes = rig.primary.output.split();
    rig.session.server_input(Leg::Primary).extend_from_slice(&bytes);
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I");
    rig.sent(Leg::Primary);
    assert_eq!(rig.ask(&query("SELECT id FROM t")), "T | D:1 | C:SELECT 1 | Z:I", "READ-YOUR-WRITES");
    assert_eq!(rig.sent(Leg::Primary), "startup | Q:SELECT id FROM t | position");
}

#[test]
fn a_client_that_leaves_is_told_the_end_of_its_answer() {
    let mut rig = Rig::new();
    rig.given(&["SELECT 1"]);
    rig.say(&query("INSERT INTO t VALUES (1)"));
    rig.session.client_closed();
    for _ in 0..3 {
        rig.primary.step();
    }
    // Its position comes in another read than the answer.
    let bytes = rig.primary.output.split();
    rig.session.server_input(Leg::Primary).extend_from_slice(&bytes);
    rig.advance();
    assert_eq!(rig.heard(), "C:INSERT 0 1");
    rig.settle();
    assert_eq!(rig.heard(), "Z:I");
    assert!(rig.session.is_over());
}

#[test]
fn a_session_outlives_its_local_server() {
    let mut rig = Rig::new();
    rig.lose_reader();
    rig.world.replayed.set(1 << 40);
    assert_eq!(rig.heard(), "");
    let answer = rig.ask(&query("SELECT id FROM t"));
    assert!(answer.ends_with("Z:I") && !answer.contains("E:"), "{answer}");
    assert!(!rig.session.is_over());
}

#[test]
fn a_listening_session_must_know_that_its_primary_is_gone() {
    let mut rig = Rig::new();
    rig.given(&["LISTEN ch"]);
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "FATAL:08006");
}

#[test]
fn no_error_is_put_into_the_middle_of_a_frame() {
    let mut rig = Rig::new();
    rig.say(&query("SELECT 1"));
    let row = super::wire::frame(b'D', &[&[0, 1], &[0, 0, 4, 0], &[b'x'; 1024]]);
    rig.session.server_input(Leg::Local).extend_from_slice(&row[..500]);
    rig.session.advance(&mut rig.world);
    rig.session.server_closed(Leg::Local, &lost());
    assert!(rig.session.is_over());
    assert_eq!(rig.session.client_output().split(), row[..500], "PASS-THROUGH");
}

#[test]
fn messages_that_the_protocol_does_not_have_end_the_session() {
    for bytes in [&b"!\0\0\0\x04"[..], b"Q\0\0\0\x03", b"S\0\0\x27\x11", b"Q\0\0\0\x05x", b"D\0\0\0\x06Xa"] {
        let mut rig = Rig::new();
        rig.say(bytes);
        assert_eq!(rig.heard(), "FATAL:08P01", "{bytes:?}");
        assert!(rig.session.is_over());
    }
    let mut rig = Rig::new();
    rig.session.server_input(Leg::Local).extend_from_slice(b"T\0\0\0\0");
    rig.advance();
    assert_eq!(rig.heard(), "FATAL:08P01");
}

#[test]
fn a_client_that_goes_away_has_its_last_words_heard() {
    let mut rig = Rig::new();
    let mut unit = unnamed("INSERT INTO t VALUES (1)");
    unit.extend_from_slice(&extended("S"));
    rig.session.client_input().extend_from_slice(&unit);
    rig.session.client_closed();
    rig.settle();
    assert!(rig.session.is_over());
    assert_eq!(rig.writes(), ["INSERT INTO t VALUES (1)"], "AT-MOST-ONCE");
}
