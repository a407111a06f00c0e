//! Limits of pools and of idle clients, each set by reloading the configuration.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pangea_node::{PoolConfig, PoolMode, PoolUserConfig};
use tokio_postgres::AsyncMessage;
use tokio_postgres::error::DbError;

use crate::support::{Database, EU, Lab, Raw, Session, US, code, eventually, frame, id, startup};

/// Users with pools of the default size.
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// A user with a pool of one connection.
const FEW: &str = "few";
/// A user who does not share connections.
const KEEPER: &str = "keeper";
/// A database that nobody else uses.
const SHOP: &str = "shop";

/// Longer than any timeout that is set here, shorter than what anybody would wait for.
const LONG: Duration = Duration::from_secs(30);

pub(super) fn configuration() -> PoolConfig {
    let few = PoolUserConfig { pool_size: Some(1), ..PoolUserConfig::default() };
    let keeper = PoolUserConfig { pool_mode: Some(PoolMode::Session), ..PoolUserConfig::default() };
    let users = [(FEW, few), (KEEPER, keeper)].map(|(name, user)| (name.to_owned(), user));
    PoolConfig { pool_mode: PoolMode::Transaction, users: users.into(), ..PoolConfig::default() }
}

/// Makes these the settings of `[pool]`, and all others the defaults.
async fn configure(lab: &Lab, changes: &[(&str, usize)]) -> Session {
    configure_at(lab, US, changes).await
}

async fn configure_at(lab: &Lab, region: &str, changes: &[(&str, usize)]) -> Session {
    let defaults = [
        ("default_pool_size", 20),
        ("max_db_connections", 0),
        ("max_user_connections", 0),
        ("query_wait_timeout_s", 30),
        ("client_idle_timeout_s", 0),
        ("idle_transaction_timeout_s", 0),
    ];
    let file = lab.cluster.layout().region_config(&id(region));
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (key, value) in defaults.iter().chain(changes) {
        let lines = text.lines().map(|line| match line.split_once(" = ") {
            Some((found, _)) if found == *key => format!("{key} = {value}"),
            _ => line.to_owned(),
        });
        text = lines.collect::<Vec<_>>().join("\n");
        assert!(text.contains(&format!("{key} = {value}")), "{key}: {text}");
    }
    std::fs::write(&file, text).unwrap();
    let console = lab.at(region).database("pangea").connect().await;
    console.run("RELOAD").await;
    for (key, value) in changes {
        assert_eq!(setting(&console, &format!("pool.{key}")).await.as_deref(), Some(&*value.to_string()));
    }
    console
}

/// A value of SHOW CONFIG.
async fn setting(console: &Session, key: &str) -> Option<String> {
    let rows = rows(console, "SHOW CONFIG").await;
    rows.into_iter().find(|row| row.first().is_some_and(|name| name == key)).map(|row| row[1].clone())
}

async fn rows(console: &Session, command: &str) -> Vec<Vec<String>> {
    let answer = console.simple_query(command).await.unwrap();
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            let row: tokio_postgres::SimpleQueryRow = row;
            Some((0..row.len()).map(|column| row.get(column).unwrap_or("NULL").to_owned()).collect())
        }
        _ => None,
    };
    answer.into_iter().filter_map(row).collect()
}

/// The gateway has no more connections to [`SHOP`]. One that is given back may be seen twice for a moment.
async fn at_most_two(console: &Session) {
    eventually("two connections at most", async || {
        let servers = rows(console, "SHOW SERVERS").await;
        let found = servers.iter().filter(|server| server.get(2).is_some_and(|database| database == SHOP));
        (found.count() <= 2).then_some(())
    })
    .await;
}

fn shop(lab: &Lab, user: &str) -> Database {
    lab.at(US).user(user, user).database(SHOP)
}

/// The error of a statement that waits for a connection in vain.
async fn waits_in_vain(session: &Session) -> DbError {
    let began = Instant::now();
    let error = session.simple_query("SELECT 1").await.unwrap_err();
    assert!(began.elapsed() < LONG, "it took {:?}", began.elapsed());
    assert_eq!(code(&error), "53300");
    error.as_db_error().unwrap().clone()
}

fn tells(error: &DbError, detail: &str, setting: &str) {
    assert_eq!(error.message(), "no server connection became free within 1 s");
    assert!(error.detail().is_some_and(|told| told.starts_with(detail)), "{error:?}");
    assert!(error.detail().is_some_and(|told| told.ends_with("Nothing was executed.")), "{error:?}");
    assert!(error.hint().is_some_and(|told| told.contains(setting)), "{error:?}");
}

pub(super) async fn set_up(lab: &Lab) {
    let session = lab.connect(US).await;
    for user in USERS.iter().chain(&[FEW, KEEPER]) {
        session.run(&format!("CREATE ROLE {user} LOGIN PASSWORD '{user}'")).await;
    }
    session.run(&format!("CREATE DATABASE {SHOP}")).await;
    let shop = lab.at(US).database(SHOP).connect().await;
    shop.run("CREATE TABLE sold (id int); GRANT ALL ON sold TO PUBLIC").await;
}

pub(super) async fn a_statement_does_not_wait_for_ever(lab: &Lab) {
    configure(lab, &[("default_pool_size", 1), ("query_wait_timeout_s", 1)]).await;
    let (holder, waiting) = (shop(lab, "alice").connect().await, shop(lab, "alice").connect().await);
    holder.run("BEGIN").await;
    let error = waits_in_vain(&waiting).await;
    let detail = "All 1 connections of user \"alice\" to database \"shop\" are in use.";
    tells(&error, detail, "pool.default_pool_size");
    // Others have pools of their own, and the session goes on when there is room.
    shop(lab, "bob").connect().await.expect("SELECT 1", 1).await;
    holder.run("COMMIT").await;
    waiting.expect("SELECT 2", 2).await;
}

pub(super) async fn a_user_has_a_pool_size_of_its_own(lab: &Lab) {
    let console = configure(lab, &[("query_wait_timeout_s", 1)]).await;
    assert_eq!(setting(&console, "pool.users.few.pool_size").await.as_deref(), Some("1"));
    let (holder, waiting) = (shop(lab, FEW).connect().await, shop(lab, FEW).connect().await);
    holder.run("BEGIN").await;
    tells(&waits_in_vain(&waiting).await, "All 1 connections of user \"few\" to", "pool.users");
    let (one, two) = (shop(lab, "alice").connect().await, shop(lab, "alice").connect().await);
    one.run("BEGIN").await;
    two.expect("SELECT 1", 1).await;
    // More, while somebody waits.
    configure(lab, &[]).await;
    let statement = waiting.simple_query("SELECT 1");
    let (ran, ended) = futures_util::join!(statement, holder.simple_query("COMMIT"));
    assert!(ran.is_ok() && ended.is_ok());
}

pub(super) async fn more_connections_are_given_to_those_who_wait(lab: &Lab) {
    configure(lab, &[("default_pool_size", 1)]).await;
    let (holder, waiting) = (shop(lab, "alice").connect().await, shop(lab, "alice").connect().await);
    holder.run("BEGIN").await;
    let (ran, _) =
        futures_util::join!(waiting.simple_query("SELECT 1"), configure(lab, &[("default_pool_size", 2)]));
    assert!(ran.is_ok());
    holder.run("COMMIT").await;
}

pub(super) async fn connections_to_a_database_are_limited(lab: &Lab) {
    let limits = [("max_db_connections", 2), ("query_wait_timeout_s", 1)];
    let console = configure(lab, &limits).await;
    let mut sessions = Vec::new();
    // Each finds the connections of the others idle, and gets one of their places.
    for user in USERS.iter().cycle().take(9) {
        let session = shop(lab, user).connect().await;
        session.expect("SELECT current_user", user).await;
        at_most_two(&console).await;
        sessions.push(session);
    }
    let (alice, bob, carol) = (&sessions[0], &sessions[1], &sessions[2]);
    alice.run("BEGIN").await;
    bob.run("BEGIN").await;
    tells(
        &waits_in_vain(carol).await,
        "All 2 connections to database \"shop\" are",
        "pool.max_db_connections",
    );
    // Other databases have room.
    lab.at(US).user("carol", "carol").connect().await.expect("SELECT 1", 1).await;
    let databases = rows(&console, "SHOW DATABASES").await;
    let row = databases.iter().find(|row| row[0] == SHOP).unwrap();
    assert_eq!((&*row[2], &*row[4], &*row[5]), ("20", "2", "2"));

    configure(lab, &[("max_db_connections", 2)]).await;
    let (ran, ended) = futures_util::join!(carol.simple_query("SELECT 1"), alice.simple_query("COMMIT"));
    assert!(ran.is_ok() && ended.is_ok());
    at_most_two(&console).await;
    bob.run("COMMIT").await;
    let server = lab.server(US).connect().await;
    let users = "'alice', 'bob', 'carol'";
    let sql = format!(
        "SELECT count(*) <= 2 FROM pg_stat_activity WHERE datname = '{SHOP}' AND usename IN ({users})"
    );
    eventually("the server has no more", async || (server.text(&sql).await == "t").then_some(())).await;
}

pub(super) async fn a_busy_pool_leaves_something_to_others(lab: &Lab) {
    configure(lab, &[("max_db_connections", 1)]).await;
    let bob = shop(lab, "bob").connect().await;
    let busy = join_all((0..3).map(|_| async { shop(lab, "alice").connect().await })).await;
    let done = AtomicBool::new(false);
    let statements = busy.iter().map(|session| async {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            session.run("SELECT pg_sleep(0.005)").await;
            count += 1;
        }
        count
    });
    let others = async {
        for number in 0..5 {
            bob.expect(&format!("SELECT {number}"), number).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let (counts, ()) = futures_util::join!(join_all(statements), others);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

pub(super) async fn connections_of_a_user_are_limited(lab: &Lab) {
    configure(lab, &[("max_user_connections", 1), ("query_wait_timeout_s", 1)]).await;
    let here = shop(lab, "alice").connect().await;
    let there = lab.at(US).user("alice", "alice").connect().await;
    for _ in 0..3 {
        here.expect("SELECT current_database()", SHOP).await;
        there.expect("SELECT current_database()", "postgres").await;
    }
    here.run("BEGIN").await;
    tells(
        &waits_in_vain(&there).await,
        "All 1 connections of user \"alice\" are",
        "pool.max_user_connections",
    );
    shop(lab, "bob").connect().await.expect("SELECT 1", 1).await;
    here.run("COMMIT").await;
    there.expect("SELECT 1", 1).await;
}

/// A client that learns too late that its COPY has failed: what it has sent meanwhile is not answered.
async fn failed_copy(lab: &Lab, user: &str) -> Raw {
    let mut client = Raw::dial(lab.entry(US).cluster).await;
    client.log_in(&startup(196_608, &[("user", user), ("database", SHOP)]), user).await;
    client.send(&frame(b'Q', b"COPY sold FROM STDIN\0")).await;
    client.until(b'G').await;
    client.send(&frame(b'd', b"no number\n")).await;
    assert_eq!(client.error().await.map(|(code, _)| code).as_deref(), Some("22P02"));
    client.until(b'Z').await;
    client.send(&[frame(b'd', b"1\n"), frame(b'c', b"")].concat()).await;
    client
}

pub(super) async fn idle_clients_are_disconnected(lab: &Lab) {
    configure(lab, &[("client_idle_timeout_s", 2)]).await;
    for user in ["alice", KEEPER] {
        let idle = shop(lab, user).named("idle");
        let mut never_asked = idle.connect().await;
        let mut failed = failed_copy(lab, user).await;
        let mut asked = idle.connect().await;
        asked.run("SET app.me = 'here'").await;
        let open = idle.connect().await;
        open.run("BEGIN; INSERT INTO sold VALUES (1)").await;
        let busy = idle.connect().await;
        // For longer than a client may be idle.
        let long = busy.simple_query("SELECT pg_sleep(4)");
        let (never_asked, asked, failed, ran) =
            futures_util::join!(never_asked.end(), asked.end(), failed.error(), long);
        let failed = failed.map(|(code, _)| code).unwrap_or_default();
        assert_eq!([&*never_asked, &*asked, &*failed], ["57P05"; 3], "{user}");
        assert!(ran.is_ok(), "{user}: {ran:?}");
        open.run("ROLLBACK").await;
    }
    configure(lab, &[]).await;
}

pub(super) async fn idle_transactions_are_rolled_back(lab: &Lab) {
    configure(lab, &[("default_pool_size", 1), ("idle_transaction_timeout_s", 2)]).await;
    for user in ["alice", KEEPER] {
        let (outside, mut inside) = (shop(lab, user).connect().await, shop(lab, user).connect().await);
        inside.run("BEGIN; INSERT INTO sold VALUES (2)").await;
        // The first gets the connection's place, where they share it.
        let (ended, ran) = futures_util::join!(inside.end(), outside.simple_query("SELECT 1"));
        assert_eq!(ended, "25P03", "{user}");
        assert!(ran.is_ok(), "{user}: {ran:?}");
        outside.expect("SELECT count(*) FROM sold", 0).await;
        let failed = shop(lab, user).connect().await;
        failed.run("BEGIN").await;
        assert_eq!(failed.fails("SELECT 1/0").await, "22012");
        let mut failed = failed;
        assert_eq!(failed.end().await, "25P03", "{user}");
        outside.expect("SELECT count(*) FROM sold", 0).await;
    }
    let server = lab.server(US).connect().await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'";
    eventually("no transaction is left open", async || (server.text(sql).await == "0").then_some(())).await;
    configure(lab, &[]).await;
}

/// Where reads and writes have servers of their own.
pub(super) async fn the_limits_hold_in_another_region(lab: &Lab) {
    configure_at(lab, EU, &[("default_pool_size", 1), ("query_wait_timeout_s", 1)]).await;
    let at = |user: &str| lab.at(EU).user(user, user).database(SHOP);
    lab.replicated(EU, "SELECT count(*) FROM pg_database WHERE datname = 'shop'").await;
    let (holder, mut other) = (at("alice").connect().await, at("alice").connect().await);
    holder.run("BEGIN; INSERT INTO sold VALUES (3)").await;
    let error = other.simple_query("DELETE FROM sold").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    // Reads are on another server.
    other.expect("SELECT count(*) FROM sold", 0).await;
    holder.run("ROLLBACK").await;

    let limits = [("default_pool_size", 1), ("client_idle_timeout_s", 4), ("idle_transaction_timeout_s", 2)];
    configure_at(lab, EU, &limits).await;
    for user in ["alice", KEEPER] {
        let mut inside = at(user).connect().await;
        inside.run("BEGIN").await;
        inside.expect("SELECT count(*) FROM sold", 0).await;
        inside.run("INSERT INTO sold VALUES (4)").await;
        assert_eq!(inside.end().await, "25P03", "{user}");
        let after = at(user).connect().await;
        after.run("INSERT INTO sold VALUES (5); DELETE FROM sold WHERE id = 5").await;
        after.expect("SELECT count(*) FROM sold", 0).await;
    }
    assert_eq!(other.end().await, "57P05");
    configure_at(lab, EU, &[]).await;
}

pub(super) async fn what_a_reload_does_not_change_is_told(lab: &Lab) {
    let mut console = configure(lab, &[]).await;
    let file = lab.cluster.layout().region_config(&id(US));
    let before = std::fs::read_to_string(&file).unwrap();
    let after = before.replace("pool_mode = \"session\"", "pool_mode = \"transaction\"");
    let after = after.replace("default_pool_size = 20", "default_pool_size = 7\nreader = \"session\"");
    std::fs::write(&file, after).unwrap();
    console.run("RELOAD").await;
    let told = loop {
        if let AsyncMessage::Notice(told) = console.message().await {
            break told.message().to_owned();
        }
    };
    assert!(told.ends_with(": pool.reader, pool.users.keeper.pool_mode"), "{told}");
    assert_eq!(setting(&console, "pool.default_pool_size").await.as_deref(), Some("7"));
    assert_eq!(setting(&console, "pool.reader").await.as_deref(), Some(""));
    // With an error nothing changes.
    std::fs::write(&file, before.replace("default_pool_size = 20", "default_pool_size = 0")).unwrap();
    assert_eq!(console.fails("RELOAD").await, "F0000");
    assert_eq!(setting(&console, "pool.default_pool_size").await.as_deref(), Some("7"));
    std::fs::write(&file, before).unwrap();
    console.run("RELOAD").await;
    assert_eq!(setting(&console, "pool.default_pool_size").await.as_deref(), Some("20"));
}
