//! Clients, servers and links that go away in the middle.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{AP, EU, Lab, Session, US, code, eventually, id};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS kept (id int)";

async fn named(lab: &Lab, name: &str) -> Session {
    lab.at(EU).named(name).connect().await
}

/// Waits until no server has a session with this name that is in a transaction or in a statement.
async fn nothing_left(lab: &Lab, name: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = '{name}' AND (state <> 'idle' OR xact_start IS NOT NULL)"
    );
    for region in [US, EU] {
        let server = lab.server(region).connect().await;
        eventually(&format!("{name} has left nothing open in {region}"), async || {
            (server.text(&query).await == "0").then_some(())
        })
        .await;
    }
}

pub(super) async fn a_client_that_vanishes_leaves_no_transaction(lab: &Lab) {
    let watcher = lab.connect(US).await;
    watcher.run(TABLE).await;
    lab.replicated(EU, "SELECT count(*) FROM kept").await;
    for statements in [
        &["BEGIN", "SELECT count(*) FROM kept"][..],
        &["BEGIN", "INSERT INTO kept VALUES (1)"],
        &["BEGIN", "SELECT count(*) FROM kept", "LOCK TABLE kept", "SELECT count(*) FROM kept"],
        &["BEGIN", "DECLARE c CURSOR FOR SELECT 1", "FETCH c"],
    ] {
        let session = named(lab, "vanish").await;
        for statement in statements {
            session.run(statement).await;
        }
        session.vanish().await;
        nothing_left(lab, "vanish").await;
        // No lock either.
        watcher.run("BEGIN; LOCK TABLE kept NOWAIT; ROLLBACK").await;
    }
    watcher.expect("SELECT count(*) FROM kept", 0).await;
}

pub(super) async fn a_client_that_vanishes_in_a_statement_leaves_nothing_running(lab: &Lab) {
    lab.connect(US).await.run(TABLE).await;
    for (region, statement) in
        [(EU, "SELECT pg_sleep(1000)"), (US, "INSERT INTO kept SELECT 1 FROM pg_sleep(1000)")]
    {
        let session = named(lab, "vanish_busy").await;
        {
            let statement = session.simple_query(statement);
            tokio::select! {
                done = statement => panic!("{done:?}"),
                () = lab.sleeping(region, "vanish_busy") => {}
            }
        }
        session.vanish().await;
        nothing_left(lab, "vanish_busy").await;
    }
    lab.connect(US).await.expect("SELECT count(*) FROM kept", 0).await;
}

/// Terminates what a region's server has for the sessions with this name.
async fn terminate(lab: &Lab, region: &str, name: &str) {
    let query = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    lab.server(region).connect().await.expect(&query, 1).await;
}

pub(super) async fn a_terminated_local_backend_ends_the_session(lab: &Lab) {
    // Idle, in a transaction, in a statement.
    let mut session = named(lab, "ended").await;
    session.expect("SELECT 1", 1).await;
    terminate(lab, EU, "ended").await;
    assert_eq!(session.end().await, "57P01");

    let mut session = named(lab, "ended").await;
    session.run("BEGIN; SELECT 1").await;
    terminate(lab, EU, "ended").await;
    assert_eq!(session.end().await, "57P01");

    let session = named(lab, "ended").await;
    let end = async {
        lab.sleeping(EU, "ended").await;
        terminate(lab, EU, "ended").await;
    };
    let (done, ()) = futures_util::join!(session.simple_query("SELECT pg_sleep(1000)"), end);
    assert_eq!(code(&done.unwrap_err()), "57P01");
    named(lab, "ended").await.expect("SELECT 1", 1).await;
}

pub(super) async fn a_terminated_backend_on_the_primary_fails_the_statement(lab: &Lab) {
    lab.connect(US).await.run(TABLE).await;
    let session = named(lab, "ended_there").await;
    let end = async {
        lab.sleeping(US, "ended_there").await;
        terminate(lab, US, "ended_there").await;
    };
    let statement = session.simple_query("INSERT INTO kept SELECT 1 FROM pg_sleep(1000)");
    let (done, ()) = futures_util::join!(statement, end);
    assert_eq!(code(&done.unwrap_err()), "57P01");
    let session = named(lab, "ended_there").await;
    session.run("BEGIN; INSERT INTO kept VALUES (1); ROLLBACK").await;
}

/// Kills a region's PostgreSQL.
fn kill_server(lab: &Lab, region: &str) {
    let file = lab.cluster.layout().region(&id(region)).join("pgdata/postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap();
    let pid: i32 = text.lines().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn assert_connection_error(found: &str) {
    // `client`: the connection ended, which every driver tells as a lost connection.
    assert!(found.starts_with("08") || found.starts_with("57"), "{found}");
}

/// Waits until a new session can write.
async fn writes_work(lab: &Lab, region: &str) {
    eventually(&format!("writes work in {region}"), async || {
        let session = lab.at(region).try_connect().await.ok()?;
        session.batch_execute("BEGIN; INSERT INTO kept VALUES (0); ROLLBACK").await.ok()
    })
    .await;
}

pub(super) async fn a_killed_primary_server_fails_the_write_and_comes_back(lab: &Lab) {
    let keeper = lab.connect(EU).await;
    keeper.run(TABLE).await;
    keeper.run("INSERT INTO kept VALUES (42)").await;
    let session = named(lab, "bereft").await;
    let idle = lab.connect(EU).await;
    idle.expect("SELECT 1", 1).await;
    let death = async {
        lab.sleeping(US, "bereft").await;
        kill_server(lab, US);
    };
    let statement = session.simple_query("INSERT INTO kept SELECT 1 FROM pg_sleep(1000)");
    let (done, ()) = futures_util::join!(statement, death);
    assert_connection_error(&code(&done.unwrap_err()));
    // A session that had nothing there goes on reading.
    idle.expect("SELECT count(*) FROM generate_series(1, 3)", 3).await;
    writes_work(lab, EU).await;
    writes_work(lab, US).await;
    lab.healthy().await;
    let found = lab.connect(EU).await;
    found.run("DELETE FROM kept WHERE id = 42").await;
    found.expect("SELECT count(*) FROM kept", 0).await;
}

pub(super) async fn a_killed_local_server_fails_the_read_and_comes_back(lab: &Lab) {
    let session = named(lab, "bereft_here").await;
    let death = async {
        lab.sleeping(EU, "bereft_here").await;
        kill_server(lab, EU);
    };
    let (done, ()) = futures_util::join!(session.simple_query("SELECT pg_sleep(1000)"), death);
    assert_connection_error(&code(&done.unwrap_err()));
    writes_work(lab, EU).await;
    lab.healthy().await;
    lab.connect(EU).await.expect("SELECT 1", 1).await;
}

/// Cuts the way from one region to the other.
fn cut(lab: &Lab, from: &str, to: &str) {
    lab.cluster.wan().unwrap().link(&id(from), &id(to)).unwrap().cut();
}

fn restore_all(lab: &Lab) {
    for (from, to) in [(EU, US), (US, EU)] {
        lab.cluster.wan().unwrap().link(&id(from), &id(to)).unwrap().restore();
    }
}

/// Sends a write whose answer never comes, and looks around while the link is cut.
async fn write_into_a_cut(lab: &Lab, ways: &[(&str, &str)], name: &str) {
    let writer = lab.connect(US).await;
    writer.run(TABLE).await;
    writer.run("TRUNCATE kept; INSERT INTO kept VALUES (1)").await;
    lab.replicated(EU, "SELECT sum(id) FROM kept").await;
    let session = named(lab, name).await;
    let reader = lab.connect(EU).await;
    reader.expect("SELECT sum(id) FROM kept", 1).await;
    let fault = async {
        lab.sleeping(US, name).await;
        for (from, to) in ways {
            cut(lab, from, to);
        }
        reader.expect("SELECT sum(id) FROM kept", 1).await;
    };
    let statement = session.simple_query("INSERT INTO kept SELECT 2 FROM pg_sleep(20)");
    let (done, ()) = futures_util::join!(statement, fault);
    assert_eq!(code(&done.unwrap_err()), "08006");
    // Local reads: of a session that was there, and of a new one.
    reader.expect("SELECT sum(id) FROM kept", 1).await;
    let newcomer = lab.connect(EU).await;
    newcomer.expect("SELECT sum(id) FROM kept", 1).await;
    // A write is refused and does not hang; other regions are not concerned.
    assert_connection_error(&newcomer.fails("INSERT INTO kept VALUES (3)").await);
    lab.connect(AP).await.run("INSERT INTO kept VALUES (4)").await;
    restore_all(lab);
    writes_work(lab, EU).await;
    lab.healthy().await;
    nothing_left(lab, name).await;
    let found = lab.connect(EU).await;
    found.run("INSERT INTO kept VALUES (5)").await;
    // What was interrupted has happened once or not at all.
    let sum: i64 = found.text("SELECT sum(id) FROM kept").await.parse().unwrap();
    assert!([10, 12].contains(&sum), "{sum}");
}

pub(super) async fn a_cut_link_fails_the_write_and_local_reads_go_on(lab: &Lab) {
    write_into_a_cut(lab, &[(EU, US), (US, EU)], "cut_both").await;
}

pub(super) async fn a_link_cut_one_way_fails_the_write(lab: &Lab) {
    write_into_a_cut(lab, &[(EU, US)], "cut_forth").await;
    write_into_a_cut(lab, &[(US, EU)], "cut_back").await;
}

pub(super) async fn an_open_transaction_does_not_outlive_a_cut_link(lab: &Lab) {
    let watcher = lab.connect(US).await;
    watcher.run(TABLE).await;
    let session = named(lab, "cut_open").await;
    session.run("BEGIN; INSERT INTO kept VALUES (6)").await;
    cut(lab, EU, US);
    cut(lab, US, EU);
    // The primary's side must let go of the locks while the link is still cut.
    nothing_left(lab, "cut_open").await;
    watcher.run("BEGIN; LOCK TABLE kept NOWAIT; ROLLBACK").await;
    let error = session.simple_query("INSERT INTO kept VALUES (7)").await.unwrap_err();
    // Told when the link was lost, before this statement.
    assert!(error.is_closed() || code(&error).starts_with("08") || code(&error) == "25P02", "{error:?}");
    restore_all(lab);
    writes_work(lab, EU).await;
    watcher.expect("SELECT count(*) FROM kept WHERE id IN (6, 7)", 0).await;
}
