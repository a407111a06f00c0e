//! `pangea durability`, `policy`, `region`.

use crate::support::{AP, EU, Lab, US};

pub(super) async fn durability_is_shown_and_set(lab: &Lab) {
    let run = lab.pangea(&["durability"]).await.ended(0);
    assert!(run.out.starts_with("async, in force: "), "{run:?}");
    lab.pangea(&["durability", "sync(3)"]).await.ended(6).refused(&["there are 2"]);
    lab.pangea(&["durability", "sync(0)"]).await.ended(2).refused(&["sync(1)"]);
    lab.pangea(&["durability", "sometimes"]).await.ended(2).refused(&["bounded(SECONDS)"]);
    let shown = lab.pangea(&["durability", "--json"]).await.ended(0).json();
    assert_eq!((&shown["durability"], &shown["in_force"]), (&"async".into(), &true.into()));
}

pub(super) async fn a_policy_is_shown_and_set(lab: &Lab) {
    let before = lab.pangea(&["policy", "--json"]).await.ended(0).json();
    assert_eq!(before["automatic"], true);
    let all = [
        "policy",
        "--automatic",
        "off",
        "--max-loss-bytes",
        "none",
        "--min-observers",
        "1",
        "--flap-limit",
        "7",
        "--json",
    ];
    let set = lab.pangea(&all).await.ended(0).json();
    assert_eq!((&set["automatic"], &set["loss_bytes_max"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!((&set["observers_min"], &set["flap_limit"]), (&1.into(), &7.into()));
    assert_eq!(set["flap_window_s"], before["flap_window_s"]);
    let status = lab.pangea(&["status"]).await.ended(0);
    assert!(status.out.contains("automatic failover is switched off"), "{status:?}");
    lab.pangea(&["policy", "--min-observers", "3"]).await.ended(6).refused(&["2 secondary regions"]);
    lab.pangea(&["policy", "--automatic", "maybe"]).await.ended(2).refused(&["on or off"]);
    let run = lab.pangea(&["policy", "--automatic", "on"]).await.ended(0);
    assert!(run.err.contains("fewer than a majority"), "{run:?}");
    let back = ["policy", "--max-loss-bytes", "67108864", "--min-observers", "majority", "--flap-limit", "3"];
    let run = lab.pangea(&back).await.ended(0);
    assert!(run.out.contains("majority (2)") && run.err.is_empty(), "{run:?}");
    assert_eq!(lab.pangea(&["policy", "--json"]).await.ended(0).json(), before);
}

pub(super) async fn regions_are_drained_and_ranked(lab: &Lab) {
    lab.pangea(&["region", "drain", US]).await.ended(6).refused(&["is the primary", "pangea switchover"]);
    lab.pangea(&["region", "drain", "moon"]).await.ended(2).refused(&["no region moon", EU]);
    lab.pangea(&["region", "drain", AP]).await.ended(0);
    lab.pangea(&["region", "drain", AP]).await.ended(0);
    lab.pangea(&["region", "priority", EU, "0"]).await.ended(0);
    let status = lab.pangea(&["status"]).await.ended(0);
    assert!(status.out.contains("drained") && status.out.contains("never primary"), "{status:?}");
    lab.pangea(&["durability", "sync(2)"]).await.ended(6).refused(&["there are 1"]);
    lab.pangea(&["region", "undrain", AP]).await.ended(0);
    lab.pangea(&["region", "priority", EU, "100"]).await.ended(0);
    let status = lab.pangea(&["status", "--json"]).await.ended(0).json();
    let members = &status["topology"]["members"];
    assert_eq!(members[AP], members[EU]);
    assert_eq!(members[AP]["drained"], false);
    assert_eq!(status["regions"][0]["control"]["own"]["writable"], true);
}

/// What a database, a role or a start-up option sets is not a way around `sync`, nor is what hides its warnings.
pub(super) async fn sync_is_not_gone_around(lab: &Lab) {
    let setup = lab.connect(US).await;
    setup.run("CREATE DATABASE lax").await;
    setup.run("ALTER DATABASE lax SET synchronous_commit = local").await;
    setup.run("ALTER DATABASE lax SET client_min_messages = error").await;
    lab.pangea(&["durability", "sync(1)"]).await.ended(0);
    for region in [US, EU] {
        lab.replicated(region, "SELECT count(*) FROM pg_database WHERE datname = 'lax'").await;
        let session = lab.at(region).database("lax").connect().await;
        for way in ["SELECT 1", "RESET ALL", "SET synchronous_commit TO DEFAULT", "DISCARD ALL"] {
            session.run(way).await;
            session.run("CREATE TEMP TABLE IF NOT EXISTS written (n int)").await;
            session.expect("SHOW synchronous_commit", "on").await;
            session.expect("SHOW client_min_messages", "warning").await;
        }
        for way in ["SET synchronous_commit = off", "SET client_min_messages = error"] {
            assert_eq!(session.fails(way).await, "42501", "{way}");
        }
    }
    lab.pangea(&["durability", "async"]).await.ended(0);
    lab.at(US).database("lax").connect().await.expect("SHOW synchronous_commit", "local").await;
    setup.run("DROP DATABASE lax WITH (FORCE)").await;
}
