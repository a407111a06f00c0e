//! An in-region reader takes the place of its region's server, and the primary stays where it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{primary_at, settled, topology};
use crate::support::{AP, EU, Lab, US, eventually, id};

fn pgdata(lab: &Lab, region: &str) -> PathBuf {
    lab.cluster.layout().region(&id(region)).join("pgdata")
}

/// Every region has its reader, and it streams.
async fn readers_stream(lab: &Lab) {
    for region in [US, EU, AP] {
        eventually(&format!("the reader of {region} streams"), async || {
            let status = lab.cluster.status(&id(region)).await.ok()?;
            status.readers.iter().all(|reader| reader.streaming).then_some(())
        })
        .await;
    }
}

/// Its control file is gone, so it cannot start again; its log is there.
async fn break_server(lab: &Lab, region: &str) {
    let data = pgdata(lab, region);
    std::fs::remove_file(data.join("global/pg_control")).unwrap();
    pangea_agent::kill_leftover(&data).await;
}

async fn timeline(lab: &Lab, region: &str) -> Option<u32> {
    Some(lab.cluster.status(&id(region)).await.ok()?.position?.timeline.0)
}

pub(super) async fn takes_the_primarys_place_and_nothing_is_lost(lab: &Lab) {
    primary_at(lab, US).await;
    readers_stream(lab).await;
    let (epoch, before) = (topology(lab).await["epoch"].clone(), timeline(lab, US).await.unwrap());
    let setup = lab.connect(US).await;
    setup.run("CREATE TABLE kept (n int PRIMARY KEY)").await;
    // Its reader receives nothing from here on: what is written now, only the server's own log has.
    let reader = lab.cluster.layout().region(&id(US)).join("reader1");
    let receiver = "SELECT pid::text FROM pg_stat_replication WHERE application_name = 'us-east-1-reader1'";
    let sender: i32 = setup.text(receiver).await.parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sender), nix::sys::signal::Signal::SIGSTOP).unwrap();
    setup.run("INSERT INTO kept SELECT -n FROM generate_series(1, 20000) n").await;
    let (stop, session) = (Arc::new(AtomicBool::new(false)), lab.connect(EU).await);
    let stopped = stop.clone();
    // Until its session breaks, if it does.
    let writer = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in 1.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            match session.batch_execute(&format!("INSERT INTO kept VALUES ({n})")).await {
                Ok(()) => acknowledged.push(n),
                Err(_) => break,
            }
        }
        acknowledged
    });
    eventually("something is written", async || {
        let written = lab.connect(EU).await.text("SELECT (count(*) > 20000)::text FROM kept").await;
        (written == "true").then_some(())
    })
    .await;
    break_server(lab, US).await;
    eventually("the reader is primary, in the same region", async || {
        (timeline(lab, US).await? > before).then_some(())
    })
    .await;
    eventually("it is written there", async || {
        let session = lab.at(AP).try_connect().await.ok()?;
        session.batch_execute("INSERT INTO kept VALUES (0)").await.ok()
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    let list = acknowledged.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let missing =
        format!("SELECT count(*) FROM unnest('{{{list}}}'::int[]) a WHERE a NOT IN (SELECT n FROM kept)");
    for region in [US, EU, AP] {
        let session = lab.connect(region).await;
        session.run("SET pangea.read_consistency = 'global'").await;
        session.expect(&missing, 0).await;
        session.expect("SELECT count(*) FROM kept WHERE n < 0", 20000).await;
    }
    let after = topology(lab).await;
    assert_eq!((&after["primary"], &after["epoch"]), (&US.into(), &epoch));
    assert!(reader.with_file_name("pgdata.failed").exists(), "the failed data are kept");
    settled(lab, US).await;
    readers_stream(lab).await;
    lab.connect(US).await.run("DROP TABLE kept").await;
}

pub(super) async fn takes_the_place_when_it_has_everything(lab: &Lab) {
    primary_at(lab, US).await;
    readers_stream(lab).await;
    let before = timeline(lab, US).await.unwrap();
    break_server(lab, US).await;
    eventually("the reader is primary, in the same region", async || {
        (timeline(lab, US).await? > before).then_some(())
    })
    .await;
    settled(lab, US).await;
    readers_stream(lab).await;
}

pub(super) async fn takes_the_place_of_a_secondarys_server(lab: &Lab) {
    primary_at(lab, US).await;
    readers_stream(lab).await;
    let session = lab.connect(EU).await;
    session.run("CREATE TABLE kept (n int)").await;
    let data = pgdata(lab, EU);
    std::fs::rename(&data, data.with_extension("gone")).unwrap();
    pangea_agent::kill_leftover(&data.with_extension("gone")).await;
    session.run("INSERT INTO kept VALUES (1)").await;
    session.expect("SELECT count(*) FROM kept", 1).await;
    settled(lab, US).await;
    readers_stream(lab).await;
    lab.replicated(EU, "SELECT count(*) FROM kept").await;
    std::fs::remove_dir_all(data.with_extension("gone")).unwrap();
    session.run("DROP TABLE kept").await;
}

pub(super) async fn readers_follow_a_failover(lab: &Lab) {
    primary_at(lab, US).await;
    readers_stream(lab).await;
    lab.cluster.kill_region(&id(US)).await.unwrap();
    let primary = eventually("another region is primary", async || {
        let primary = topology(lab).await["primary"].as_str()?.to_owned();
        (primary != US).then_some(primary)
    })
    .await;
    lab.cluster.start_region(&id(US)).await.unwrap();
    settled(lab, &primary).await;
    readers_stream(lab).await;
    primary_at(lab, US).await;
    readers_stream(lab).await;
}
