//! Read consistency as sessions set it, tokens, and what SQL tells of the regions.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

use crate::support::{AP, Database, EU, Lab, Session, US, code, eventually};

impl Database {
    fn option(mut self, option: &str) -> Self {
        self.0.options(format!("-c {option}"));
        self
    }

    fn writer(lab: &Lab, region: &str) -> Self {
        Self::tcp(lab.entry(region).writer, lab.cluster.password())
    }
}

/// Replay in a region is late from here on by this much; `0` ends it.
async fn delay(lab: &Lab, region: &str, milliseconds: u32) {
    let server = lab.server(region).connect().await;
    server.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = {milliseconds}")).await;
    server.run("SELECT pg_reload_conf()").await;
    eventually("the server knows of it", async || {
        (server.text("SHOW recovery_min_apply_delay").await == display(milliseconds)).then_some(())
    })
    .await;
}

fn display(milliseconds: u32) -> String {
    match milliseconds {
        0 => "0".to_owned(),
        whole if whole.is_multiple_of(1000) => format!("{}s", whole / 1000),
        other => format!("{other}ms"),
    }
}

async fn level(session: &Session) -> String {
    session.text("SHOW pangea.read_consistency").await
}

pub(super) async fn levels_are_settings_like_others(lab: &Lab) {
    let us = lab.connect(US).await;
    us.run("CREATE ROLE quick LOGIN PASSWORD 'q'; ALTER ROLE quick SET pangea.read_consistency = 'eventual'")
        .await;
    us.run(
        "CREATE ROLE lax LOGIN PASSWORD 'l'; ALTER ROLE lax SET apg_write_forward.consistency_mode = 'OFF'",
    )
    .await;
    us.run("CREATE ROLE wrong LOGIN PASSWORD 'w'; ALTER ROLE wrong SET pangea.read_consistency = 'bogus'")
        .await;
    lab.replicated(EU, "SELECT count(*) FROM pg_db_role_setting").await;
    lab.replicated(EU, "SELECT count(*) FROM pg_authid").await;
    for region in [US, EU] {
        let session = lab.connect(region).await;
        assert_eq!(level(&session).await, "session");
        assert_eq!(session.fails("SET pangea.read_consistency = 'bogus'").await, "22023");
        assert_eq!(session.fails("SET pangea.max_staleness = '1 fortnight'").await, "22023");
        assert_eq!(session.fails("SET pangea.no_such_thing = 1").await, "42704");
        session.run("SET apg_write_forward.consistency_mode = 'GLOBAL'").await;
        assert_eq!(level(&session).await, "global");
        session.expect("SHOW apg_write_forward.consistency_mode", "GLOBAL").await;
        session.run("BEGIN; SET LOCAL aurora_replica_read_consistency = 'eventual'").await;
        assert_eq!(level(&session).await, "eventual");
        session.run("COMMIT").await;
        assert_eq!(level(&session).await, "global");
        session.run("RESET pangea.read_consistency").await;
        assert_eq!(level(&session).await, "session");
        // The extended protocol, with a parameter.
        let set = session.prepare("SELECT set_config('pangea.read_consistency', $1, false)").await.unwrap();
        session.query(&set, &[&"bounded"]).await.unwrap();
        assert_eq!(level(&session).await, "bounded");
        for (user, password, expected) in
            [("quick", "q", "eventual"), ("lax", "l", "off"), ("wrong", "w", "bogus")]
        {
            let session = lab.at(region).user(user, password).connect().await;
            assert_eq!(level(&session).await, expected, "{region}");
        }
        let session = lab.at(region).option("pangea.read_consistency=global").connect().await;
        assert_eq!(level(&session).await, "global");
        let refused = lab.at(region).option("pangea.read_consistency=bogus").try_connect().await;
        assert_eq!(code(&refused.err().unwrap()), "22023");
    }
    us.run("DROP ROLE quick; DROP ROLE lax; DROP ROLE wrong").await;
}

pub(super) async fn a_token_carries_a_view_to_another_region(lab: &Lab) {
    lab.connect(US).await.run("CREATE TABLE hop (id int PRIMARY KEY)").await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM hop").await;
    }
    let server = lab.server(EU).connect().await;
    for id in 0..4 {
        server.run("SELECT pg_wal_replay_pause()").await;
        let from = if id % 2 == 0 { lab.connect(AP).await } else { lab.connect(US).await };
        from.run(&format!("INSERT INTO hop VALUES ({id})")).await;
        let token = from.text("SHOW pangea.token").await;
        let there = format!("SELECT count(*) FROM hop WHERE id = {id}");
        // A session of its own is not told: this shows that the wait is the token's doing.
        lab.reader(EU).connect().await.expect(&there, 0).await;
        let option = format!("pangea.token={token}");
        let session = match id {
            0 => lab.reader(EU).option(&option).connect().await,
            1 => lab.at(EU).option(&option).connect().await,
            _ => lab.reader(EU).connect().await,
        };
        if id > 1 {
            session.run(&format!("SET pangea.token = '{token}'")).await;
        }
        let resume = async {
            sleep(Duration::from_millis(100)).await;
            server.run("SELECT pg_wal_replay_resume()").await;
        };
        futures_util::join!(session.expect(&there, 1), resume);
    }
    lab.connect(US).await.run("DROP TABLE hop").await;
}

pub(super) async fn a_token_of_elsewhere_is_refused(lab: &Lab) {
    for session in [lab.at(US), lab.at(EU), lab.reader(EU), Database::writer(lab, AP)] {
        let session = session.connect().await;
        assert_eq!(session.fails("SET pangea.token = 'x'").await, "22023");
        session.run("SET pangea.token = '7:0/1'").await;
        assert_eq!(session.fails("SELECT count(*) FROM pg_class").await, "PGA02");
        session.run("RESET pangea.token").await;
        session.text("SELECT count(*) FROM pg_class").await;
    }
    // Beyond the end of the primary's log: nobody has it.
    let us = lab.connect(US).await;
    us.run("SET pangea.consistency_timeout = '50ms'; SET pangea.token = '1:FF/0'").await;
    assert_eq!(us.fails("SELECT count(*) FROM pg_class").await, "PGA01");
}

pub(super) async fn a_wait_ends_as_the_session_has_set(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE late (id int PRIMARY KEY)").await;
    lab.replicated(EU, "SELECT count(*) FROM late").await;
    // Until the gateway has read of the table, reads of it run on the primary.
    let scans = "SELECT coalesce(sum(seq_scan), 0)::text FROM pg_stat_user_tables WHERE relname = 'late'";
    let server = lab.server(EU).connect().await;
    let before = server.text(scans).await;
    eventually("the gateway knows the table", async || {
        eu.expect("SELECT count(*) FROM late", 0).await;
        (server.text(scans).await != before).then_some(())
    })
    .await;
    delay(lab, EU, 3000).await;
    eu.run("SET pangea.consistency_timeout = 50; INSERT INTO late VALUES (1)").await;
    // It runs on the primary then.
    eu.expect("SELECT count(*) FROM late", 1).await;
    eu.run("SET pangea.consistency_timeout_action = 'error'; INSERT INTO late VALUES (2)").await;
    assert_eq!(eu.fails("SELECT count(*) FROM late").await, "PGA01");
    eu.run("SET pangea.read_consistency = 'eventual'").await;
    assert_ne!(eu.text("SELECT count(*) FROM late").await, "2");
    eu.run("SET pangea.read_consistency = 'bounded'; SET pangea.max_staleness = '1s'").await;
    let bounded = lab.at(EU).option("pangea.read_consistency=bounded").connect().await;
    bounded.run("SET pangea.max_staleness = '1s'").await;
    eventually("a read that may be a second old is not older", async || {
        (bounded.text("SELECT count(*) FROM late").await == "2").then_some(())
    })
    .await;
    delay(lab, EU, 0).await;
    eu.run("SET pangea.read_consistency = 'off'").await;
    assert_eq!(eu.fails("INSERT INTO late VALUES (3)").await, "25006");
    eu.run("RESET pangea.read_consistency").await;
    eu.run("DROP TABLE late").await;
}

pub(super) async fn sql_tells_of_the_regions(lab: &Lab) {
    lab.connect(US).await.run("CREATE ROLE nobody_much LOGIN PASSWORD 'n'").await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM pg_authid").await;
    }
    for database in [lab.at(US), lab.at(EU), lab.reader(AP), Database::writer(lab, AP)] {
        let session = database.user("nobody_much", "n").connect().await;
        let regions = "SELECT string_agg(region || ' ' || role, ', ' ORDER BY role, region) FROM pangea.status() \
                       WHERE reachable AND epoch = 1 AND rpo_lag < '1 minute' AND replay_lag < '1 minute'";
        let expected = format!("{US} primary, {AP} secondary, {EU} secondary");
        eventually("all regions are known", async || {
            (session.try_text(regions).await.ok()? == expected).then_some(())
        })
        .await;
        let aurora = "SELECT count(*) FROM aurora_global_db_status() WHERE rpo_lag_in_msec IS NOT NULL";
        session.expect(aurora, 3).await;
        let primary = "SELECT aws_region FROM aurora_global_db_status() WHERE durability_lag_in_msec = -1";
        session.expect(primary, US).await;
        let instances = "SELECT count(*) FROM aurora_global_db_instance_status() WHERE durable_lsn > 0 \
                         AND visibility_lag_in_msec < 60000";
        session.expect(instances, 3).await;
    }
    lab.connect(US).await.run("DROP ROLE nobody_much").await;
}

/// Until a gateway has read the names of new tables, with some to spare: it looks once a second.
const NAMES_ARE_READ: Duration = Duration::from_secs(3);

/// On a cluster with two readers in each region.
pub(super) async fn a_session_outlives_its_reader(lab: &Lab) {
    let us = lab.connect(US).await;
    us.run("CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (0)").await;
    let session = lab.reader(EU).connect().await;
    session.run("SET application_name = 'kept'").await;
    eventually("the table is there", async || session.try_text("SELECT n FROM counter").await.ok()).await;
    // A name that the gateway has not read in the catalogue yet may stand for something that must not run twice.
    sleep(NAMES_ARE_READ).await;
    let mut last = 0;
    for round in 1..=40_i64 {
        us.run(&format!("UPDATE counter SET n = {round}")).await;
        if round % 10 == 5 {
            kill_reader_of(&session).await;
        }
        // What has arrived is not known here, but it never goes back (MONOTONIC-READS).
        let seen: i64 = session.text("SELECT coalesce(max(n), 0) FROM counter").await.parse().unwrap();
        assert!(seen >= last && seen <= round, "{seen} after {last} in round {round}");
        last = seen;
    }
    session.expect("SHOW application_name", "kept").await;
    us.run("DROP TABLE counter").await;
}

/// Kills the server that a session of the reader endpoint is connected to.
async fn kill_reader_of(session: &Session) {
    let data = session.text("SELECT current_setting('data_directory')").await;
    let pid = std::fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}
