//! Read consistency at its edges: asynchronous commits, pipelines, snapshots and cursors, tokens given and reset.

use bytes::BytesMut;
use pangea_pgwire::build;

use super::rig::Rig;
use super::wire::{extended, query};
use crate::dispatch::IN_FLIGHT_MAX;
use crate::moving::Held;
use crate::{Access, Leg};

const READ: &str = "SELECT id FROM t";
const WRITE: &str = "INSERT INTO t VALUES (1)";

fn newest(rig: &Rig) -> String {
    format!("S:pangea.token=1:{}", pangea_base::Lsn(rig.database.borrow().newest().0))
}

#[test]
fn asynchronous_commits_are_remembered_when_the_primary_is_connected_to_anew() {
    let mut rig = Rig::new();
    rig.given(&["SET synchronous_commit = off", WRITE]);
    rig.close(Leg::Primary);
    rig.sent(Leg::Primary);
    rig.ask(&query(WRITE));
    let sent = rig.sent(Leg::Primary);
    assert!(sent.contains("insert_position"), "{sent}");
}

#[test]
fn asynchronous_commits_inside_one_string_are_noticed() {
    let mut rig = Rig::new();
    rig.given(&[WRITE]);
    rig.ask(&query("BEGIN; SET LOCAL synchronous_commit = off; INSERT INTO t VALUES (1); COMMIT"));
    rig.sent(Leg::Primary);
    rig.ask(&query(READ));
    let sent = rig.sent(Leg::Primary);
    assert!(sent.contains("insert_position"), "{sent}");
}

#[test]
fn asynchronous_commits_by_several_settings_at_once_are_noticed() {
    let mut rig = Rig::new();
    rig.given(&[WRITE]);
    rig.ask(&query(
        "SELECT set_config('synchronous_commit', 'off', false), set_config('work_mem', '1MB', false)",
    ));
    rig.ask(&query(WRITE));
    let sent = rig.sent(Leg::Primary);
    assert!(sent.contains("insert_position"), "{sent}");
}

#[test]
fn a_refused_write_is_answered_in_its_turn() {
    let mut rig = Rig::at("off");
    let mut both = query(READ);
    both.extend_from_slice(&query(WRITE));
    assert_eq!(rig.ask(&both), "T | C:SELECT 0 | Z:I | E:25006 | Z:I");
}

#[test]
fn a_lost_token_is_told_in_its_turn() {
    let mut rig = Rig::with(Access::Primary);
    rig.given(&["SET pangea.token = '1:0/FFFF'"]);
    rig.world.history = pangea_consistency::History::parse(pangea_base::Timeline(2), "1\t0/FE\t").unwrap();
    let mut both = query(WRITE);
    both.extend_from_slice(&query(READ));
    assert_eq!(rig.ask(&both), "C:INSERT 0 1 | Z:I | E:PGA02 | Z:I");
}

#[test]
fn a_string_that_sets_a_token_reads_with_it() {
    let mut rig = Rig::new();
    let newest = rig.database.borrow().newest().0;
    let token = pangea_base::Lsn(newest + 10);
    let heard = rig.ask(&query(&format!("SET pangea.token = '1:{token}'; {READ}")));
    assert!(!rig.sent(Leg::Local).contains(READ), "{heard}");
}

#[test]
fn the_end_of_a_token_given_for_a_transaction_forgets_no_write() {
    let mut rig = Rig::new();
    let token = "SET LOCAL pangea.token = '1:0/1'";
    for statement in ["BEGIN", token, WRITE, "COMMIT"] {
        rig.ask(&query(statement));
    }
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES");
}

#[test]
fn reset_all_forgets_no_write() {
    let mut rig = Rig::new();
    for statement in ["SET pangea.token = '1:0/1'", WRITE, "RESET ALL"] {
        rig.ask(&query(statement));
    }
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES");
}

#[test]
fn a_snapshot_is_never_changed_for_freshness() {
    let mut rig = Rig::at("bounded");
    rig.world.staleness = Some(std::time::Duration::ZERO);
    for statement in ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", READ] {
        rig.ask(&query(statement));
    }
    rig.sent(Leg::Primary);
    rig.world.staleness = None;
    rig.ask(&query(READ));
    assert_eq!(rig.sent(Leg::Primary), "", "the snapshot was changed");
}

#[test]
fn a_cursor_is_never_lost_for_freshness() {
    let mut rig = Rig::at("bounded");
    rig.world.staleness = Some(std::time::Duration::ZERO);
    for statement in ["BEGIN READ ONLY", "DECLARE c CURSOR FOR SELECT id FROM t"] {
        rig.ask(&query(statement));
    }
    rig.sent(Leg::Primary);
    rig.world.staleness = None;
    rig.ask(&query(READ));
    assert_eq!(rig.sent(Leg::Primary), "", "the cursor is lost");
}

#[test]
fn a_readers_transaction_that_went_to_the_primary_ends_there() {
    let mut rig = Rig::with(Access::Local);
    rig.given(&["SET pangea.read_consistency = 'primary'"]);
    for statement in ["BEGIN", READ, "COMMIT"] {
        rig.ask(&query(statement));
    }
    let sent = rig.sent(Leg::Primary);
    assert!(sent.contains("COMMIT"), "{sent}");
}

#[test]
fn a_token_is_past_the_commit_when_begin_is_pipelined() {
    let mut rig = Rig::with(Access::Primary);
    let mut all = query("BEGIN");
    all.extend_from_slice(&query(WRITE));
    rig.ask(&all);
    rig.ask(&query("COMMIT"));
    assert_eq!(rig.token, newest(&rig));
}

#[test]
fn a_token_is_past_the_commit_when_all_of_it_is_pipelined() {
    let mut rig = Rig::with(Access::Primary);
    let mut all = query("BEGIN");
    all.extend_from_slice(&query(WRITE));
    all.extend_from_slice(&query("COMMIT"));
    rig.ask(&all);
    assert_eq!(rig.token, newest(&rig));
}

#[test]
fn a_long_pipeline_goes_out_in_parts() {
    let mut rig = Rig::with(Access::Primary);
    let units = 2 * IN_FLIGHT_MAX + 10;
    rig.say(&query(READ).repeat(units));
    assert_eq!(rig.sent(Leg::Primary).matches(READ).count(), IN_FLIGHT_MAX);
    rig.settle();
    assert_eq!(rig.heard().matches("Z:I").count(), units);
}

#[test]
fn what_the_primary_has_told_it_need_not_catch_up_with() {
    let mut rig = Rig::with(Access::Primary);
    rig.world.primary = true;
    rig.ask(&query(WRITE));
    assert_eq!(
        rig.ask(&query(READ)),
        "T | D:1 | C:SELECT 1 | Z:I",
        "waits for {:?}",
        rig.session.waits_for()
    );
}

#[test]
fn a_reader_says_that_it_is_a_standby() {
    let rig = Rig::with(Access::Local);
    assert!(rig.greeting.contains("in_hot_standby=on"), "{}", rig.greeting);
}

/// The connection was opened while its server was a standby.
#[test]
fn a_primary_that_has_been_a_standby_is_none() {
    for access in [Access::Primary, Access::Split] {
        let mut rig = Rig::with(access);
        let mut frame = BytesMut::new();
        build::parameter_status(&mut frame, "in_hot_standby", "on");
        rig.session.report_parameter(&frame.freeze());
        assert_eq!(rig.heard(), "", "{access:?}");
    }
}

#[test]
fn off_refuses_what_begins_as_a_writing_transaction() {
    let mut rig = Rig::at("off");
    rig.ask(&query("BEGIN READ WRITE"));
    assert_eq!(rig.ask(&query("SELECT 1")), "E:25006 | Z:E");
    assert_eq!(rig.ask(&query(WRITE)), "E:25P02 | Z:E");
}

#[test]
fn a_cancelled_wait_is_answered_in_its_turn() {
    let mut rig = Rig::with(Access::Primary);
    rig.world.primary = true;
    let newest = rig.database.borrow().newest().0;
    rig.given(&[&format!("SET pangea.token = '1:{}'", pangea_base::Lsn(newest + 0x1000))]);
    rig.say(&query(WRITE));
    rig.say(&query(READ));
    assert!(!rig.session.cancel_waiting(), "the write is not answered yet");
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I");
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
}

#[test]
fn what_is_held_behind_an_answer_that_is_due_is_cancelled_in_its_turn() {
    let mut rig = Rig::with(Access::Primary);
    rig.say(&query(WRITE));
    rig.session.hold_primary(Held::All);
    rig.say(&query(READ));
    assert!(!rig.session.is_held_back(), "the write is not answered yet");
    assert!(!rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "C:INSERT 0 1 | Z:I");
    assert!(rig.session.is_held_back());
    assert!(rig.session.cancel_waiting());
    rig.settle();
    assert_eq!(rig.heard(), "E:57014 | Z:I");
}

#[test]
fn what_is_prepared_in_a_transaction_of_the_primary_takes_no_snapshot_here() {
    let mut rig = Rig::new();
    rig.ask(&query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"));
    rig.ask(&extended("P s SELECT id FROM t; D S s; S"));
    rig.sent(Leg::Primary);
    rig.ask(&extended("B - s; E - 0; S"));
    assert!(rig.sent(Leg::Primary).contains("B::s"), "it was begun to run there");
}

#[test]
fn a_snapshot_on_a_reader_is_never_changed_either() {
    let mut rig = Rig::with(Access::Local);
    rig.given(&["SET pangea.read_consistency = 'bounded'"]);
    rig.world.staleness = Some(std::time::Duration::ZERO);
    for statement in ["BEGIN ISOLATION LEVEL REPEATABLE READ", READ] {
        rig.ask(&query(statement));
    }
    rig.world.staleness = None;
    rig.sent(Leg::Local);
    rig.ask(&query(READ));
    assert_eq!((rig.sent(Leg::Local), rig.sent(Leg::Primary)), (format!("Q:{READ}"), String::new()));
}
