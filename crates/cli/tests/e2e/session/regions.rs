//! Three regions, one database.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::{AP, Database, EU, Lab, US, eventually};

pub(crate) async fn a_table_made_in_one_region_is_used_in_the_others(lab: &Lab) {
    let ap = lab.connect(AP).await;
    ap.run("CREATE TABLE travel (id int PRIMARY KEY, place text NOT NULL)").await;
    let eu = lab.connect(EU).await;
    eu.run("INSERT INTO travel VALUES (1, 'Dublin')").await;
    lab.connect(US).await.expect("SELECT place FROM travel", "Dublin").await;
    // Sessions of other regions see it when it has got there.
    eventually("the row is in ap-southeast-1", async || {
        (ap.text("SELECT count(*) FROM travel").await == "1").then_some(())
    })
    .await;
    eu.expect("SELECT place FROM travel WHERE id = 1", "Dublin").await;
    ap.run("DROP TABLE travel").await;
}

const ROUNDS: i64 = 300;

/// After it a server process hands in what it has counted with its next statement.
const HANDED_IN: Duration = Duration::from_millis(1100);

pub(crate) async fn reads_see_own_writes_while_replay_is_slow(lab: &Lab) {
    // By another session: one that has just made a table reads on the primary for a while.
    lab.connect(US).await.run("CREATE TABLE written (id bigint PRIMARY KEY, half bigint)").await;
    let eu = lab.connect(EU).await;
    let server = lab.server(EU).connect().await;
    lab.replicated(EU, "SELECT count(*) FROM written").await;
    server.run("ALTER SYSTEM SET recovery_min_apply_delay = '20ms'").await;
    server.run("SELECT pg_reload_conf()").await;
    let scans = "SELECT coalesce(sum(seq_scan + idx_scan), 0)::text FROM pg_stat_user_tables \
                 WHERE relname = 'written'";
    let count = async || server.text(scans).await.parse::<i64>().unwrap();
    // Until the gateway has read of the table in the catalogue, reads of it run on the primary. A server process
    // hands in its counts with a statement, once a second.
    eventually("reads of the table run here", async || {
        eu.expect("SELECT count(*) FROM written", 0).await;
        (count().await > 0).then_some(())
    })
    .await;
    sleep(HANDED_IN).await;
    eu.expect("SELECT 1", 1).await;
    let before = count().await;
    let insert = eu.prepare("INSERT INTO written VALUES ($1, $2)").await.unwrap();
    let select = eu.prepare("SELECT half FROM written WHERE id = $1").await.unwrap();
    for id in 0..ROUNDS {
        // Both protocols, both ways round.
        if id % 2 == 0 {
            assert_eq!(eu.execute(&insert, &[&id, &(id / 2)]).await.unwrap(), 1);
            eu.expect(&format!("SELECT half FROM written WHERE id = {id}"), id / 2).await;
        } else {
            eu.run(&format!("INSERT INTO written VALUES ({id}, {})", id / 2)).await;
            let row = eu.query_one(&select, &[&id]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), id / 2);
        }
    }
    // The reads ran here and not on the primary: each has scanned the local table once.
    eventually("the local server has counted the reads", async || {
        eu.expect("SELECT 1", 1).await;
        (count().await - before >= ROUNDS).then_some(())
    })
    .await;
    // An update in a transaction counts as well.
    for round in 0..20 {
        eu.run(&format!("BEGIN; UPDATE written SET half = {round} WHERE id = 7; COMMIT")).await;
        eu.expect("SELECT half FROM written WHERE id = 7", round).await;
    }
    server.run("ALTER SYSTEM RESET recovery_min_apply_delay").await;
    server.run("SELECT pg_reload_conf()").await;
    eu.run("DROP TABLE written").await;
}

/// Of another session's table, which has not arrived here: what only the primary knows is prepared there.
pub(crate) async fn a_table_that_has_not_arrived_can_be_used(lab: &Lab) {
    let server = lab.server(EU).connect().await;
    server.run("ALTER SYSTEM SET recovery_min_apply_delay = '2s'").await;
    server.run("SELECT pg_reload_conf()").await;
    let (simple, extended) = (lab.connect(EU).await, lab.connect(EU).await);
    lab.connect(US).await.run("CREATE TABLE fresh (id int PRIMARY KEY)").await;
    simple.run("INSERT INTO fresh VALUES (1)").await;
    let insert = extended.prepare("INSERT INTO fresh VALUES ($1)").await;
    let count = extended.prepare("SELECT count(*) FROM fresh").await;
    server.run("ALTER SYSTEM RESET recovery_min_apply_delay").await;
    server.run("SELECT pg_reload_conf()").await;
    extended.execute(&insert.unwrap(), &[&2]).await.unwrap();
    let row = extended.query_one(&count.unwrap(), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
    extended.run("DROP TABLE fresh").await;
}

pub(crate) async fn notifications_cross_regions(lab: &Lab) {
    let (mut eu, mut ap) = (lab.connect(EU).await, lab.connect(AP).await);
    eu.run("LISTEN news").await;
    ap.run("LISTEN news; LISTEN \"Other News\"").await;
    let us = lab.connect(US).await;
    us.run("NOTIFY news, 'from the primary'").await;
    ap.run("NOTIFY news, 'from afar'").await;
    for session in [&mut eu, &mut ap] {
        assert_eq!(session.notification().await, ("news".to_owned(), "from the primary".to_owned()));
        assert_eq!(session.notification().await, ("news".to_owned(), "from afar".to_owned()));
    }
    // Also to itself, also by the function, and only when the transaction commits.
    eu.run("BEGIN; NOTIFY news, 'never'; ROLLBACK").await;
    eu.run("BEGIN; SELECT pg_notify('news', 'committed'); COMMIT").await;
    assert_eq!(eu.notification().await.1, "committed");
    assert_eq!(ap.notification().await.1, "committed");
    eu.run("UNLISTEN news").await;
    us.run("NOTIFY news, 'unheard'; NOTIFY \"Other News\", 'heard'").await;
    assert_eq!(ap.notification().await.1, "unheard");
    assert_eq!(ap.notification().await, ("Other News".to_owned(), "heard".to_owned()));
    eu.run("LISTEN news; NOTIFY news, 'again'").await;
    assert_eq!(eu.notification().await.1, "again");
}

pub(crate) async fn two_phase_commit_spans_regions(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE parcel (id int)").await;
    eu.run("BEGIN; INSERT INTO parcel VALUES (1); PREPARE TRANSACTION 'parcel one'").await;
    eu.expect("SELECT count(*) FROM parcel", 0).await;
    let ap = lab.connect(AP).await;
    ap.run("COMMIT PREPARED 'parcel one'").await;
    ap.expect("SELECT count(*) FROM parcel", 1).await;
    assert_eq!(ap.fails("ROLLBACK PREPARED 'parcel one'").await, "42704");
    ap.run("DROP TABLE parcel").await;
}

pub(crate) async fn ddl_counts_at_once_for_the_session_that_did_it(lab: &Lab) {
    let eu = lab.connect(EU).await;
    for round in 0..10 {
        eu.run(&format!("CREATE TABLE changing (a int); INSERT INTO changing VALUES ({round})")).await;
        eu.expect("SELECT * FROM changing", round).await;
        eu.run("ALTER TABLE changing ADD COLUMN b int DEFAULT 5").await;
        eu.expect("SELECT a + b FROM changing", round + 5).await;
        // A function that reads today writes tomorrow.
        eu.run(
            "CREATE FUNCTION peek() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM changing'",
        )
        .await;
        eu.expect("SELECT peek()", 1).await;
        eu.run(
            "CREATE OR REPLACE FUNCTION peek() RETURNS bigint VOLATILE LANGUAGE sql AS \
             'INSERT INTO changing VALUES (9); SELECT count(*) FROM changing'",
        )
        .await;
        eu.expect("SELECT peek()", 2).await;
        eu.expect("SELECT count(*) FROM changing", 2).await;
        eu.run("DROP FUNCTION peek(); DROP TABLE changing").await;
        assert_eq!(eu.fails("SELECT * FROM changing").await, "42P01");
    }
}

pub(crate) async fn the_three_endpoints(lab: &Lab) {
    let recovery = "SELECT pg_is_in_recovery()";
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE doors (id int)").await;
    eu.expect(recovery, "f").await;
    for region in [US, EU, AP] {
        let writer = Database::tcp(lab.entry(region).writer, lab.cluster.password());
        let writer = writer.connect().await;
        writer.expect(recovery, "f").await;
        writer.run("INSERT INTO doors VALUES (1)").await;
        let reader = lab.reader(region).connect().await;
        reader.expect(recovery, if region == US { "f" } else { "t" }).await;
        eventually("the reader knows the table", async || reader.try_text("TABLE doors").await.ok()).await;
        assert_eq!(reader.fails("INSERT INTO doors VALUES (2)").await, "25006", "{region}");
        let mut database = lab.reader(region);
        database.0.options("-c application_name=by_option");
        database.connect().await.expect("SHOW application_name", "by_option").await;
    }
    lab.connect(US).await.expect("SELECT count(*) FROM doors", 3).await;
    eu.run("DROP TABLE doors").await;
}
