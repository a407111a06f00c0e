//! What the console shows, and to whom.

use super::{NOBODY, WATCHER, client, console_of, number, rows, state};
use crate::support::{AP, Database, EU, Lab, US, code, eventually};

const SHOWS: [&str; 11] = [
    "POOLS",
    "CLIENTS",
    "SERVERS",
    "STATS",
    "CONFIG",
    "DATABASES",
    "LISTS",
    "VERSION",
    "REGIONS",
    "LAG",
    "HELP",
];

pub(super) async fn every_list_on_every_endpoint(lab: &Lab) {
    let _session = lab.connect(EU).await;
    let entry = lab.entry(EU);
    for address in [entry.cluster, entry.reader, entry.writer] {
        let console = Database::tcp(address, lab.cluster.password()).database("pangea").connect().await;
        for what in SHOWS {
            for command in [format!("SHOW {what}"), format!("show {};", what.to_lowercase())] {
                assert!(!rows(&console, &command).await.is_empty(), "{command}");
            }
        }
    }
    let console = console_of(lab, EU).await;
    console.expect("SHOW VERSION", format!("Pangea {}", env!("CARGO_PKG_VERSION"))).await;
    // Two in one query, and none.
    assert!(rows(&console, "SHOW VERSION; SHOW VERSION;").await.len() == 2);
    assert!(rows(&console, "").await.is_empty());
}

pub(super) async fn by_the_extended_protocol(lab: &Lab) {
    let console = console_of(lab, US).await;
    let session = lab.connect(US).await;
    session.run("SELECT 1").await;
    // Asked for in binary.
    for what in SHOWS {
        let statement = console.prepare(&format!("SHOW {what}")).await.unwrap();
        let found = console.query(&statement, &[]).await.unwrap();
        assert!(!found.is_empty(), "{what}");
        assert!(found.iter().all(|row| row.len() == statement.columns().len()), "{what}");
    }
    let lists = console.query("SHOW LISTS", &[]).await.unwrap();
    let consoles = lists.iter().find(|row| row.get::<_, &str>(0) == "consoles").unwrap();
    assert!(consoles.get::<_, i64>(1) >= 1);
    let error = console.query("SHOW NOTHING", &[]).await.unwrap_err();
    assert_eq!(code(&error), "42601");
    assert_eq!(console.query("SHOW VERSION", &[]).await.unwrap().len(), 1);
}

pub(super) async fn clients_their_servers_and_what_they_have_done(lab: &Lab) {
    let console = console_of(lab, EU).await;
    let stats = async || {
        let found = rows(&console, "SHOW STATS").await.into_iter().find(|row| row.get(0) == Some("postgres"));
        found.map_or((0, 0), |row| {
            let count = |column| number(&row, column).unwrap_or_default();
            (count("total_xact_count"), count("total_query_count"))
        })
    };
    let (transactions, queries) = stats().await;
    let session = lab.at(EU).named("shown").connect().await;
    eventually("the client is idle", async || (state(&console, "shown").await? == "idle").then_some(()))
        .await;
    session.run("SELECT 1").await;
    for statement in ["BEGIN", "SELECT 1", "SELECT 2"] {
        session.run(statement).await;
    }
    eventually("it is in a transaction", async || {
        (state(&console, "shown").await? == "active").then_some(())
    })
    .await;
    let row = client(&console, "shown").await.unwrap();
    assert_eq!((row.get("type"), row.get("user")), (Some("C"), Some("postgres")));
    assert_eq!((row.get("endpoint"), row.get("tls")), (Some("cluster"), Some("")));
    let id = row.get("id").map(str::to_owned);
    let servers = rows(&console, "SHOW SERVERS").await;
    let linked: Vec<_> = servers.iter().filter(|server| server.get("link") == id.as_deref()).collect();
    assert!(
        linked.iter().any(|server| server.get("region") == Some(EU) && server.get("remote_pid").is_some())
    );
    let pools = rows(&console, "SHOW POOLS").await;
    let pool = pools.iter().find(|pool| pool.get("endpoint") == Some("cluster")).unwrap();
    assert!(number(pool, "cl_active") >= Some(1) && number(pool, "sv_active") >= Some(1));
    assert_eq!(pool.get("pool_mode"), Some("session"));
    session.run("COMMIT").await;
    // A pipeline is as many queries as there are in it.
    let pipeline = futures_util::join!(session.simple_query("SELECT 1"), session.simple_query("SELECT 2"));
    assert!(pipeline.0.is_ok() && pipeline.1.is_ok());
    eventually("everything is counted", async || {
        let (after_transactions, after_queries) = stats().await;
        let done = (after_transactions - transactions, after_queries - queries);
        (done == (4, 7)).then_some(())
    })
    .await;
}

pub(super) async fn lag_and_regions(lab: &Lab) {
    for region in [US, EU] {
        let console = console_of(lab, region).await;
        eventually(&format!("{region} knows everything"), async || {
            let lag = rows(&console, "SHOW LAG").await;
            let known = lag.iter().all(|row| number(row, "lag_bytes").is_some());
            (known && lag.len() == 3).then_some(())
        })
        .await;
        let regions = rows(&console, "SHOW REGIONS").await;
        let of = |name: &str| regions.iter().find(|row| row.get("region") == Some(name)).unwrap();
        assert_eq!(regions.len(), 3);
        assert_eq!((of(US).get("role"), of(AP).get("role")), (Some("primary"), Some("secondary")));
        // To itself there is no round trip, and of how stale others are it does not know.
        assert_eq!((of(region).get("here"), of(region).get("round_trip_us")), (Some("1"), None));
        assert!(number(of(AP), "round_trip_us").is_some());
        let lag = rows(&console, "SHOW LAG").await;
        assert!(lag.iter().all(|row| row.get("region") == Some(region) || row.get("staleness_us").is_none()));
    }
}

pub(super) async fn wrong_commands(lab: &Lab) {
    let console = console_of(lab, US).await;
    for wrong in ["SELECT 1", "SHOW ME", "PAUSE a b", "KILL"] {
        let error = console.simple_query(wrong).await.unwrap_err();
        let told = error.as_db_error().unwrap();
        assert_eq!(told.code().code(), "42601", "{wrong}");
        assert!(told.hint().is_some_and(|hint| hint.contains("SHOW POOLS|CLIENTS")), "{wrong}");
    }
    assert_eq!(console.fails("PAUSE no_such_database").await, "3D000");
    assert_eq!(console.fails("KILL no_such_database").await, "3D000");
    assert_eq!(console.fails("RESUME postgres").await, "55000");
    assert_eq!(console.fails("RESUME").await, "55000");
    assert_eq!(console.fails("KILL CLIENT 4000000000").await, "42704");
    console.run("SET application_name = 'still here'").await;
}

pub(super) async fn is_for_those_who_may(lab: &Lab) {
    let roles = [WATCHER, NOBODY].map(|role| format!("CREATE ROLE {role} LOGIN PASSWORD '{role}'"));
    lab.connect(US).await.run(&roles.join(";")).await;
    lab.replicated(EU, &format!("SELECT count(*) FROM pg_roles WHERE rolname IN ('{WATCHER}', '{NOBODY}')"))
        .await;
    let at = |user: &str| lab.at(EU).user(user, user).database("pangea");
    let watcher = at(WATCHER).connect().await;
    assert!(!rows(&watcher, "SHOW CLIENTS").await.is_empty());
    for order in ["PAUSE", "RESUME", "RECONNECT", "KILL postgres", "KILL CLIENT 1", "RELOAD"] {
        let error = watcher.simple_query(order).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{order}");
        assert!(error.as_db_error().is_some_and(|told| told.hint().is_some()), "{order}");
    }
    let refused = at(NOBODY).try_connect().await.err().unwrap();
    assert_eq!(code(&refused), "42501");
    assert!(refused.as_db_error().is_some_and(|told| told.hint().is_some()));
    let wrong = lab.at(EU).user(WATCHER, "guess").database("pangea").try_connect().await.err().unwrap();
    assert_eq!(code(&wrong), "28P01");
    lab.connect(US).await.run(&format!("DROP ROLE {WATCHER}; DROP ROLE {NOBODY}")).await;
}
