//! Pangea's own settings: levels, tokens, time limits, and what a session of one server alone does.

use std::time::Duration;

use pangea_base::{Position, Timeline};
use pangea_consistency::History;

use super::rig::{Rig, check};
use super::wire::{extended, query, unnamed};
use crate::{Access, Leg};

const READ: &str = "SELECT id FROM t";
const WRITE: &str = "INSERT INTO t VALUES (1)";

fn set(setting: &str) -> String {
    format!("SET pangea.{setting}")
}

#[test]
fn the_client_has_its_token_before_it_is_ready() {
    let mut rig = Rig::new();
    rig.ask(&query(WRITE));
    let newest = rig.database.borrow().newest().0;
    assert_eq!(rig.token, format!("S:pangea.token=1:{}", pangea_base::Lsn(newest)));
    // In the order of the bytes.
    rig.say(&query(WRITE));
    rig.settle();
    let heard = rig.heard_bytes();
    let at = |needle: &[u8]| heard.windows(needle.len()).position(|window| window == needle).unwrap();
    assert!(at(b"pangea.token") < at(b"Z\0\0\0\x05I"), "{heard:?}");
}

#[test]
fn levels_follow_transactions_and_savepoints() {
    let mut rig = Rig::new();
    rig.ask(&query(WRITE));
    let eventual = set("read_consistency = eventual");
    let local = eventual.replace("SET", "SET LOCAL");
    for statement in ["BEGIN", "SAVEPOINT a", &local] {
        rig.ask(&query(statement));
    }
    assert_eq!(rig.ask(&query(READ)), "T | C:SELECT 0 | Z:T", "eventual");
    rig.ask(&query("ROLLBACK TO a"));
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES: session again");
    rig.replay();
    rig.settle();
    assert_eq!(rig.heard(), "T | D:1 | C:SELECT 1 | Z:T");
    for statement in ["ROLLBACK", WRITE, "BEGIN", &eventual, "ROLLBACK"] {
        rig.ask(&query(statement));
    }
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES: the setting was rolled back");
    rig.replay();
    rig.settle();
    for statement in ["BEGIN", &eventual, "COMMIT", WRITE] {
        rig.ask(&query(statement));
    }
    assert_eq!(rig.ask(&query(READ)), "T | D:1 | D:1 | C:SELECT 2 | Z:I", "eventual");
    rig.ask(&query("RESET ALL"));
    assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES: session again");
}

#[test]
fn other_values_are_refused_as_postgresql_does() {
    let mut rig = Rig::new();
    let bad = set("read_consistency = bogus");
    check(
        &mut rig,
        &[(bad.as_str(), "E:22023 | Z:I"), ("SHOW pangea.read_consistency", "T | D:session | C:SHOW | Z:I")],
    );
    check(
        &mut rig,
        &[("SET pangea.nonsense = 1", "E:42704 | Z:I"), ("SET pangea.token = 7", "E:22023 | Z:I")],
    );
    rig.query("BEGIN");
    assert_eq!(rig.query(&bad), "E:22023 | Z:E");
    assert_eq!(rig.query("SELECT 1"), "E:25P02 | Z:E");
    rig.query("ROLLBACK");
    // Through the extended protocol, and among others.
    let mut unit = unnamed(&bad);
    unit.extend_from_slice(&extended("S"));
    assert_eq!(rig.ask(&unit), "1 | 2 | E:22023 | Z:I");
    assert_eq!(rig.query(&format!("SELECT 1; {bad}; SELECT 1")), "T | D:1 | C:SELECT 1 | E:22023 | Z:I");
}

#[test]
fn auroras_names() {
    let mut rig = Rig::new();
    rig.ask(&query(WRITE));
    for name in ["apg_write_forward.consistency_mode", "aurora_replica_read_consistency"] {
        assert_eq!(rig.ask(&query(&format!("SET {name} = 'EVENTUAL'"))), "C:SET | Z:I");
        assert_eq!(rig.ask(&query("SHOW pangea.read_consistency")), "T | D:eventual | C:SHOW | Z:I");
        assert_eq!(rig.ask(&query(READ)), "T | C:SELECT 0 | Z:I");
        assert_eq!(rig.ask(&query(&format!("SET {name} = 'sometimes'"))), "E:22023 | Z:I");
        assert_eq!(rig.ask(&query(&format!("SET {name} TO DEFAULT"))), "C:SET | Z:I");
        assert_eq!(rig.ask(&query(READ)), "", "READ-YOUR-WRITES");
        rig.session.cancel_waiting();
        rig.settle();
        rig.heard();
    }
}

#[test]
fn off_refuses_writes() {
    let mut rig = Rig::at("off");
    check(
        &mut rig,
        &[
            (WRITE, "E:25006 | Z:I"),
            (READ, "T | C:SELECT 0 | Z:I"),
            ("SELECT reader()", "T | E:25006 | Z:I"),
            ("BEGIN", "C:BEGIN | Z:T"),
            (WRITE, "E:25006 | Z:E"),
            (READ, "E:25P02 | Z:E"),
            ("ROLLBACK", "C:ROLLBACK | Z:I"),
            ("RESET pangea.read_consistency", "C:RESET | Z:I"),
            (WRITE, "C:INSERT 0 1 | Z:I"),
        ],
    );
}

#[test]
fn bounded_reads_here_only_while_staleness_is_known_and_small() {
    let mut rig = Rig::at("bounded");
    rig.given(&[&set("max_staleness = 100")]);
    let mut runs_on = |staleness: Option<u64>| {
        rig.world.staleness = staleness.map(Duration::from_millis);
        rig.ask(&query(READ));
        match (rig.sent(Leg::Local).contains(READ), rig.sent(Leg::Primary).contains(READ)) {
            (true, false) => Leg::Local,
            (false, true) => Leg::Primary,
            both => panic!("{both:?}"),
        }
    };
    assert_eq!(runs_on(None), Leg::Primary, "LAG-IS-NEVER-GUESSED");
    assert_eq!(runs_on(Some(100)), Leg::Local);
    assert_eq!(runs_on(Some(101)), Leg::Primary);
}

#[test]
fn a_wait_that_takes_too_long_is_an_error_if_the_session_says_so() {
    let mut rig = Rig::new();
    rig.given(&[&set("consistency_timeout_action = error"), &set("consistency_timeout = 20")]);
    rig.ask(&query(WRITE));
    rig.say(&query(READ));
    assert!(rig.session.waits_for().is_some());
    assert_eq!(rig.session.wait_timeout(), Duration::from_millis(20));
    rig.session.give_up_waiting();
    rig.settle();
    assert_eq!(rig.heard(), "E:PGA01 | Z:I");
    rig.replay();
    check(&mut rig, &[(READ, "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn a_token_continues_another_sessions_view() {
    let mut rig = Rig::new();
    let newest = rig.database.borrow().newest().0;
    let token = Position { timeline: Timeline(1), lsn: pangea_base::Lsn(newest + 10) };
    assert_eq!(rig.ask(&query(&set(&format!("token = '{token}'")))), "C:SET | Z:I");
    rig.ask(&query(READ));
    assert_eq!(rig.session.waits_for(), Some(token));
    rig.world.replayed.set(newest + 10);
    rig.settle();
    assert_eq!(rig.heard(), "T | C:SELECT 0 | Z:I");
}

#[test]
fn what_was_lost_is_never_treated_as_seen() {
    let mut rig = Rig::new();
    rig.given(&[&set("token = '1:0/FF'")]);
    rig.world.history = History::parse(Timeline(2), "1\t0/FE\t").unwrap();
    rig.world.replayed.set(0x1000);
    assert_eq!(rig.query(READ), "E:PGA02 | Z:I");
    assert_eq!(rig.query(WRITE), "C:INSERT 0 1 | Z:I");
    assert_eq!(rig.query(READ), "E:PGA02 | Z:I", "not covered by what was written since");
    assert_eq!(rig.query("RESET pangea.token"), "C:RESET | Z:I");
    assert!(rig.query(READ).starts_with("T | D:1"), "the session goes on");
}

#[test]
fn a_session_of_the_primary() {
    let mut rig = Rig::with(Access::Primary);
    check(
        &mut rig,
        &[
            (WRITE, "C:INSERT 0 1 | Z:I"),
            (READ, "T | D:1 | C:SELECT 1 | Z:I"),
            ("BEGIN", "C:BEGIN | Z:T"),
            (READ, "T | D:1 | C:SELECT 1 | Z:T"),
            ("COMMIT", "C:COMMIT | Z:I"),
        ],
    );
    let sent = format!("startup | Q:{WRITE} | position | Q:{READ} | Q:BEGIN | Q:{READ} | Q:COMMIT");
    assert_eq!(rig.sent(Leg::Primary), sent, "only a write asks for a position");
    assert_eq!(rig.sent(Leg::Local), "");
    assert!(rig.token.starts_with("S:pangea.token=1:"), "{}", rig.token);
    assert_eq!(rig.session.client_key().unwrap().process, 22);
    // Nothing was under way there: it is opened again with the next statement.
    rig.close(Leg::Primary);
    assert_eq!(rig.heard(), "");
    check(&mut rig, &[(READ, "T | D:1 | C:SELECT 1 | Z:I")]);
}

#[test]
fn a_session_of_the_local_server() {
    let mut rig = Rig::with(Access::Local);
    check(&mut rig, &[(WRITE, "E:25006 | Z:I"), (READ, "T | C:SELECT 0 | Z:I")]);
    assert_eq!(rig.sent(Leg::Primary), "", "nothing is forwarded");
    let newest = rig.database.borrow().newest().0;
    let token = set(&format!("token = '1:{}'", pangea_base::Lsn(newest + 1)));
    rig.given(&[&token]);
    assert_eq!(rig.ask(&query(READ)), "", "MONOTONIC-READS");
    rig.session.give_up_waiting();
    rig.settle();
    assert_eq!(rig.heard(), "T | C:SELECT 0 | Z:I");
    assert_eq!(rig.sent(Leg::Primary), format!("startup | Q:{token} | Q:{READ} | position"));
}

#[test]
fn a_session_that_loses_its_reader_goes_on_at_another_and_never_back_in_time() {
    let mut rig = Rig::with(Access::Local);
    rig.given(&["SET work_mem = low"]);
    rig.world.replayed.set(rig.database.borrow().newest().0);
    rig.database.borrow_mut().write_elsewhere(7);
    rig.replay();
    check(&mut rig, &[(READ, "T | D:7 | C:SELECT 1 | Z:I")]);
    rig.sent(Leg::Local);
    // The next one is behind.
    let behind = rig.lose_reader();
    assert_eq!(rig.heard(), "");
    assert_eq!(rig.ask(&query(READ)), "", "MONOTONIC-READS: what the first has shown");
    assert_eq!(rig.sent(Leg::Primary), "startup | position");
    assert!(rig.session.waits_for().is_some_and(|position| position.lsn.0 > behind));
    rig.replay();
    rig.settle();
    assert_eq!(rig.heard(), "T | D:7 | C:SELECT 1 | Z:I");
    assert_eq!(rig.sent(Leg::Local), format!("startup | Q:SET work_mem = low | Q:{READ}"));
    // A read that was under way runs again.
    rig.say(&query(READ));
    assert_eq!(rig.sent(Leg::Local), format!("Q:{READ}"));
    rig.lose_reader();
    rig.replay();
    rig.settle();
    assert_eq!(rig.heard(), "T | D:7 | C:SELECT 1 | Z:I");
    // In a transaction there is no going on.
    rig.query("BEGIN");
    rig.lose_reader();
    assert_eq!(rig.heard(), "FATAL:08006");
}
