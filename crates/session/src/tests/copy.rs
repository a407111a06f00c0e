//! COPY, and frames too large to be collected.

use super::rig::{Rig, check};
use super::wire::{extended, query, unnamed};
use crate::{Leg, UNIT_LEN_MAX};

#[test]
fn copy_in_with_a_query() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&query("COPY t FROM STDIN")), "G");
    assert_eq!(rig.sent(Leg::Primary), "startup | Q:COPY t FROM STDIN");
    rig.say(&extended("d 1; d 2; c"));
    assert_eq!(
        rig.sent(Leg::Primary),
        "d | d | c | position",
        "the position is asked in the flight of the end"
    );
    rig.settle();
    assert_eq!(rig.heard(), "C:COPY 2 | Z:I");
    rig.replay();
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | D:2 | C:SELECT 2 | Z:I")]);
    assert_eq!(rig.sent(Leg::Local), "Q:SELECT id FROM t");
}

#[test]
fn copy_in_that_the_client_ends_with_an_error() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&query("COPY t FROM STDIN")), "G");
    assert_eq!(rig.ask(&extended("d 1; f")), "E:57014 | Z:I");
    check(&mut rig, &[("SELECT id FROM t", "T | C:SELECT 0 | Z:I")]);
}

#[test]
fn a_statement_behind_an_abandoned_copy_runs() {
    let mut rig = Rig::new();
    let mut unit = unnamed("COPY t FROM STDIN");
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | G");
    rig.say(&extended("d 1; f; S"));
    rig.say(&query("SELECT 1"));
    // The error arrives apart from the ReadyForQuery behind it.
    while rig.primary.step() {}
    let mut output = rig.primary.output.split();
    let error = super::wire::take_frame(&mut output).unwrap();
    rig.session.server_input(Leg::Primary).extend_from_slice(&error);
    rig.advance();
    rig.session.server_input(Leg::Primary).extend_from_slice(&output);
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I | T | D:1 | C:SELECT 1 | Z:I");
}

#[test]
fn copy_in_with_extended_messages() {
    let mut rig = Rig::new();
    // As libpq does it: with a Sync before the data, which the server ignores, and one after.
    let mut unit = unnamed("COPY t FROM STDIN");
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | G");
    assert_eq!(rig.ask(&extended("d 1; c; S")), "C:COPY 1 | Z:I");
    rig.replay();
    // And without.
    let mut unit = unnamed("COPY t FROM STDIN");
    unit.extend_from_slice(&extended("H"));
    assert_eq!(rig.ask(&unit), "1 | 2 | G");
    assert_eq!(rig.ask(&extended("d 2; c; S")), "C:COPY 1 | Z:I");
    rig.replay();
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | D:2 | C:SELECT 2 | Z:I")]);
}

#[test]
fn copy_in_with_its_data_in_the_same_flight() {
    let mut rig = Rig::new();
    let mut unit = unnamed("COPY t FROM STDIN");
    unit.extend_from_slice(&extended("d 1; d 2; c; S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | G | C:COPY 2 | Z:I");
    rig.replay();
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | D:2 | C:SELECT 2 | Z:I")]);
}

#[test]
fn copy_in_moves_a_transaction() {
    let mut rig = Rig::new();
    rig.given(&["BEGIN"]);
    assert_eq!(rig.ask(&query("COPY t FROM STDIN")), "G");
    assert_eq!(rig.ask(&extended("d 1; c")), "C:COPY 1 | Z:T");
    check(&mut rig, &[("COMMIT", "C:COMMIT | Z:I"), ("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn copy_out_runs_locally() {
    let mut rig = Rig::new();
    rig.given(&["INSERT INTO t VALUES (1)"]);
    check(&mut rig, &[("COPY t TO STDOUT", "H | d:1 | c | C:COPY 1 | Z:I")]);
    assert_eq!(rig.sent(Leg::Local), "Q:COPY t TO STDOUT");
}

#[test]
fn large_queries_are_streamed_to_the_primary() {
    let mut rig = Rig::new();
    let bytes = query(&format!("INSERT INTO t VALUES ({}1)", "0".repeat(UNIT_LEN_MAX)));
    let mut most = 0;
    for chunk in bytes.chunks(64 << 10) {
        assert!(rig.session.takes_client_input(), "BOUNDED: it is passed on, not collected");
        rig.session.client_input().extend_from_slice(chunk);
        rig.advance();
        most = most.max(rig.session.client_input().len());
    }
    assert!(most <= 64 << 10, "BOUNDED: {most} bytes were kept");
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I");
    rig.replay();
    check(&mut rig, &[("SELECT id FROM t", "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn large_rows_pass_without_being_kept() {
    let mut rig = Rig::new();
    rig.say(&query("SELECT 1"));
    rig.sent(Leg::Local);
    let body = vec![b'x'; 1 << 20];
    let mut frames = super::wire::frame(b'T', &[&[0, 0]]);
    frames.extend_from_slice(&super::wire::frame(b'D', &[&[0, 1], &[0, 16, 0, 0], &body]));
    let mut passed = 0;
    for chunk in frames.chunks(10_000) {
        rig.session.server_input(Leg::Local).extend_from_slice(chunk);
        rig.session.advance(&mut rig.world);
        passed += rig.session.client_output().split().len();
        assert!(rig.session.server_input(Leg::Local).len() <= 10_000, "BOUNDED");
    }
    assert_eq!(passed, frames.len(), "PASS-THROUGH");
}

#[test]
fn a_client_that_does_not_read_stops_the_servers() {
    let mut rig = Rig::new();
    rig.say(&query("SELECT 1"));
    let row = super::wire::frame(b'D', &[&[0, 1], &[0, 0, 4, 0], &[b'x'; 1024]]);
    for _ in 0..10_000 {
        if !rig.session.takes_server_input(Leg::Local) {
            break;
        }
        rig.session.server_input(Leg::Local).extend_from_slice(&row);
        rig.session.advance(&mut rig.world);
    }
    assert!(!rig.session.takes_server_input(Leg::Local), "BOUNDED: back-pressure");
    assert!(rig.session.client_output().len() < 512 << 10, "BOUNDED");
}
