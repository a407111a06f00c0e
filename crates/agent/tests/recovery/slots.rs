use std::time::{Duration, Instant};

use pangea_agent::recovery::keep_slots;

use crate::support::{Node, Role, delegated, scratch, standby_of};

const SLOTS: &str = "SELECT string_agg(database, ',' ORDER BY database) FROM pg_replication_slots \
     WHERE slot_name LIKE 'pangea\\_lost\\_%'";

#[tokio::test(flavor = "multi_thread")]
async fn slots_follow_the_primary_and_are_in_nobodys_way() {
    if delegated("slots::slots_follow_the_primary_and_are_in_nobodys_way") {
        return;
    }
    let dir = scratch();
    let mut a = Node::new(dir.path(), "a", Role::Primary);
    a.start().await;
    let mut b = Node::new(dir.path(), "b", standby_of(&a));
    b.start().await;
    tokio::spawn(keep_slots(a.spec.socket_dir.clone(), |_| false));
    let at_b = tokio::spawn(keep_slots(b.spec.socket_dir.clone(), |_| false));
    let sql = a.connect("postgres").await;
    sql.run("CREATE DATABASE \"it's \"\"x\"\"\"").await;
    sql.until(SLOTS, "it's \"x\",postgres").await;

    // Kept at what the standby has, in a quiet database too.
    sql.run("CREATE TABLE t AS SELECT generate_series(1, 1000) i").await;
    let target = sql.value("SELECT pg_current_wal_flush_lsn()").await;
    let moved = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pangea%' AND confirmed_flush_lsn >= '{target}'"
    );
    sql.until(&moved, "2").await;

    // DROP DATABASE succeeds at any time, also while a slot is being made.
    let began = Instant::now();
    for number in 0..7 {
        sql.run("CREATE DATABASE short").await;
        if number % 3 == 0 {
            sql.until(SLOTS, "it's \"x\",postgres,short").await;
        } else {
            tokio::time::sleep(Duration::from_millis(150 * number)).await;
        }
        sql.run("DROP DATABASE short").await;
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    sql.until(SLOTS, "it's \"x\",postgres").await;

    // A standby has none, and a promoted one has them at once.
    let standby = b.connect("postgres").await;
    standby.until(SLOTS, "-").await;
    a.kill().await;
    standby.run("SELECT pg_promote(false)").await;
    standby.until("SELECT pg_is_in_recovery()", "f").await;
    let promoted = Instant::now();
    standby.until(SLOTS, "it's \"x\",postgres").await;
    assert!(promoted.elapsed() < Duration::from_secs(3), "{:?}", promoted.elapsed());

    // One that the log has left behind is made anew.
    standby.run("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    standby.run("ALTER SYSTEM SET wal_keep_size = 0").await;
    standby.run("SELECT pg_reload_conf()").await;
    for number in 0..4 {
        standby.run(&format!("CREATE TABLE s{number} ()")).await;
        standby.run("SELECT pg_switch_wal()").await;
    }
    let target = standby.value("SELECT pg_current_wal_flush_lsn()").await;
    standby.run("CHECKPOINT").await;
    let anew = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE wal_status <> 'lost' AND confirmed_flush_lsn >= '{target}'"
    );
    standby.until(&anew, "2").await;
    at_b.abort();
    b.stop().await;

    // As long as it follows nobody they are kept: what it has may turn out to be lost.
    std::fs::write(b.spec.pgdata.join("standby.signal"), "").unwrap();
    b.role = standby_of(&a);
    b.start().await;
    let standby = b.connect("postgres").await;
    assert_eq!(standby.value(SLOTS).await, "it's \"x\",postgres");
    tokio::spawn(keep_slots(b.spec.socket_dir.clone(), |_| false));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(standby.value(SLOTS).await, "it's \"x\",postgres");
    b.stop().await;
}
