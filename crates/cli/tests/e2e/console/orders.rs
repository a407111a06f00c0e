//! PAUSE, RESUME, KILL, RECONNECT and RELOAD, with clients that are in the way.

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{client, console_of, number, rows, state};
use crate::support::{AP, EU, Lab, Session, US, cancel, code, eventually};

/// A client waits.
async fn waits(console: &Session, name: &str) {
    eventually(&format!("{name} waits"), async || (state(console, name).await? == "waiting").then_some(()))
        .await;
}

/// Whether a database is paused.
async fn is_paused(console: &Session, database: &str) -> bool {
    let rows = rows(console, "SHOW DATABASES").await;
    rows.iter().any(|row| row.get("name") == Some(database) && row.get("paused") == Some("1"))
}

pub(super) async fn a_pause_waits_for_transactions_and_holds_new_ones(lab: &Lab) {
    // The primary's region, where all runs on one server; and another, where a session has two.
    for region in [US, EU] {
        let (console, watch) = (console_of(lab, region).await, console_of(lab, region).await);
        let (busy, other) =
            (lab.at(region).named("busy").connect().await, lab.at(region).named("other").connect().await);
        busy.run("CREATE TABLE IF NOT EXISTS paused (id int)").await;
        busy.run("BEGIN").await;
        busy.run("INSERT INTO paused VALUES (1)").await;
        let pause = console.simple_query("PAUSE postgres");
        tokio::pin!(pause);
        // The statement that is held goes on after the look at it.
        #[expect(clippy::async_yields_async, reason = "what is held is waited for later")]
        let is_held = async {
            eventually("the database is paused", async || is_paused(&watch, "postgres").await.then_some(()))
                .await;
            let mut held = Box::pin(other.simple_query("SELECT 1"));
            tokio::select! {
                _ = &mut held => panic!("a statement ran while its database was paused"),
                () = waits(&watch, "other") => {}
            }
            // What is open goes on.
            busy.run("INSERT INTO paused VALUES (2)").await;
            held
        };
        let held = tokio::select! {
            _ = &mut pause => panic!("PAUSE did not wait for a transaction"),
            held = is_held => held,
        };
        let (ended, paused) = futures_util::join!(busy.simple_query("COMMIT"), &mut pause);
        assert!(ended.is_ok() && paused.is_ok());
        let new = async { lab.at(region).named("new").connect().await.text("SELECT 3").await };
        let resume = async {
            waits(&watch, "new").await;
            assert!(number(&client(&watch, "new").await.unwrap(), "wait_us").is_some());
            watch.run("RESUME postgres").await;
        };
        let (held, new, ()) = futures_util::join!(held, new, resume);
        assert!(held.is_ok());
        assert_eq!(new, "3");
        busy.expect("SELECT count(*) FROM paused", 2).await;
        busy.run("DROP TABLE paused").await;
    }
}

pub(super) async fn a_pause_does_not_wait_for_ever(lab: &Lab) {
    let (console, session) = (console_of(lab, AP).await, lab.connect(AP).await);
    console.run("PAUSE").await;
    let outside = lab.at(AP);
    let (told, refused) = futures_util::join!(session.simple_query("SELECT 1"), outside.try_connect());
    let told = told.unwrap_err();
    assert_eq!(code(&told), "57P03");
    assert!(told.as_db_error().is_some_and(|told| told.hint().is_some_and(|hint| hint.contains("RESUME"))));
    assert_eq!(refused.err().map(|error| code(&error)), Some("57P03".to_owned()));
    assert_eq!(console.fails("RESUME postgres").await, "55000");
    console.run("RESUME").await;
    session.expect("SELECT 1", 1).await;
}

pub(super) async fn a_pause_can_be_cancelled(lab: &Lab) {
    let (console, session) = (console_of(lab, AP).await, lab.connect(AP).await);
    session.run("BEGIN").await;
    let token = console.cancel_token();
    let request = async {
        let watch = console_of(lab, AP).await;
        eventually("the database is paused", async || is_paused(&watch, "postgres").await.then_some(()))
            .await;
        cancel(&token, lab.entry(AP).cluster).await;
        watch
    };
    let (outcome, watch) = futures_util::join!(console.simple_query("PAUSE"), request);
    assert_eq!(code(&outcome.unwrap_err()), "57014");
    assert!(!is_paused(&watch, "postgres").await);
    // Neither is one whose operator has gone.
    let gone = console_of(lab, AP).await;
    let paused = timeout(Duration::from_millis(100), gone.simple_query("PAUSE")).await;
    assert!(paused.is_err());
    gone.vanish().await;
    eventually("nothing is paused", async || (!is_paused(&watch, "postgres").await).then_some(())).await;
    session.run("COMMIT").await;
}

pub(super) async fn a_held_statement_can_be_cancelled(lab: &Lab) {
    let (console, session) = (console_of(lab, EU).await, lab.at(EU).named("held").connect().await);
    console.run("PAUSE postgres").await;
    let token = session.cancel_token();
    let request = async {
        waits(&console, "held").await;
        cancel(&token, lab.entry(EU).cluster).await;
    };
    let (outcome, ()) = futures_util::join!(session.simple_query("SELECT 1"), request);
    assert_eq!(code(&outcome.unwrap_err()), "57014");
    console.run("RESUME postgres").await;
    session.expect("SELECT 1", 1).await;
}

/// A client that never pauses by itself comes to rest; one that has something to say yet may.
pub(super) async fn a_pause_holds_pipelines_and_lets_copies_end(lab: &Lab) {
    let (console, session) = (console_of(lab, US).await, lab.connect(US).await);
    session.run("CREATE TABLE copied (line text)").await;
    let sink = session.copy_in::<_, Bytes>("COPY copied FROM STDIN").await.unwrap();
    tokio::pin!(sink);
    sink.send(Bytes::from_static(b"one\n")).await.unwrap();
    let piped = lab.at(US).named("piped").connect().await;
    let pipeline = join_all((0..5000).map(|_| piped.simple_query("SELECT 1")));
    let copy = async {
        let watch = console_of(lab, US).await;
        eventually("the database is paused", async || is_paused(&watch, "postgres").await.then_some(()))
            .await;
        sink.send(Bytes::from_static(b"two\n")).await.unwrap();
        sink.close().await.unwrap();
    };
    let resume = async {
        futures_util::join!(copy, async { console.run("PAUSE postgres").await });
        // At rest it stays.
        let counted = rows(&console, "SHOW STATS").await;
        let again = rows(&console, "SHOW STATS").await;
        let queries = |rows: &[tokio_postgres::SimpleQueryRow]| {
            rows.iter()
                .find(|row| row.get(0) == Some("postgres"))
                .and_then(|row| number(row, "total_query_count"))
        };
        assert_eq!(queries(&counted), queries(&again));
        console.run("RESUME postgres").await;
    };
    let (answers, ()) = futures_util::join!(pipeline, resume);
    assert!(answers.iter().all(Result::is_ok));
    session.expect("SELECT count(*) FROM copied", 2).await;
    session.run("DROP TABLE copied").await;
}

pub(super) async fn a_kill_ends_sessions_until_the_database_is_resumed(lab: &Lab) {
    let console = console_of(lab, EU).await;
    let mut idle = lab.connect(EU).await;
    let busy = lab.at(EU).named("killed").connect().await;
    let elsewhere = lab.at(EU).database("template1").connect().await;
    let kill = async {
        lab.sleeping(EU, "killed").await;
        console.run("KILL postgres").await;
    };
    let (outcome, ()) = futures_util::join!(busy.simple_query("SELECT pg_sleep(100)"), kill);
    assert_eq!(code(&outcome.unwrap_err()), "57P01");
    assert_eq!(idle.end().await, "57P01");
    elsewhere.expect("SELECT 1", 1).await;
    assert!(is_paused(&console, "postgres").await);
    let new = async { lab.at(EU).named("after").connect().await.text("SELECT 1").await };
    let resume = async {
        waits(&console, "after").await;
        console.run("RESUME postgres").await;
    };
    assert_eq!(futures_util::join!(new, resume).0, "1");
}

pub(super) async fn a_client_is_killed_by_its_number(lab: &Lab) {
    let console = console_of(lab, US).await;
    let (mut one, other) = (lab.at(US).named("one").connect().await, lab.connect(US).await);
    let id = client(&console, "one").await.and_then(|row| number(&row, "id")).unwrap();
    console.run(&format!("KILL CLIENT {id}")).await;
    assert_eq!(one.end().await, "57P01");
    other.expect("SELECT 1", 1).await;
    eventually("it is gone", async || client(&console, "one").await.is_none().then_some(())).await;
    assert_eq!(console.fails(&format!("KILL_CLIENT {id}")).await, "42704");
}

pub(super) async fn connections_are_made_anew(lab: &Lab) {
    for region in [US, EU] {
        let (console, session) = (console_of(lab, region).await, lab.connect(region).await);
        session.run("SET application_name = 'anew'").await;
        let statement = session.prepare("SELECT pg_backend_pid()").await.unwrap();
        let process = async || session.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0);
        let before = process().await;
        session.run("BEGIN").await;
        console.run("RECONNECT postgres").await;
        // Not in a transaction.
        assert_eq!(process().await, before);
        session.run("COMMIT").await;
        eventually("another process serves it", async || (process().await != before).then_some(())).await;
        session.expect("SHOW application_name", "anew").await;
    }
    // State that cannot be made elsewhere stays.
    let (console, session) = (console_of(lab, US).await, lab.connect(US).await);
    session.run("CREATE TEMPORARY TABLE kept (id int)").await;
    console.run("RECONNECT").await;
    session.expect("SELECT count(*) FROM kept", 0).await;
}

pub(super) async fn the_configuration_is_read_again(lab: &Lab) {
    let console = console_of(lab, EU).await;
    console.run("RELOAD").await;
}
