//! `pangea region rebuild`.

use std::path::PathBuf;

use super::Writer;
use crate::support::{AP, EU, Lab, US, eventually, id, make_file};

fn pgdata(lab: &Lab, region: &str) -> PathBuf {
    lab.cluster.layout().region(&id(region)).join("pgdata")
}

pub(super) async fn is_refused_where_data_are_needed(lab: &Lab) {
    lab.pangea(&["region", "rebuild", US]).await.ended(6).refused(&["is the primary", "pangea switchover"]);
    lab.pangea(&["region", "rebuild", "moon"]).await.ended(2).refused(&["no region moon"]);
    for region in [US, AP] {
        lab.cluster.wan().unwrap().link(&id(EU), &id(region)).unwrap().cut();
    }
    eventually("the region does not hear the primary", async || {
        let status = lab.cluster.status(&id(EU)).await.ok()?;
        status.peers.iter().all(|peer| !peer.reachable).then_some(())
    })
    .await;
    lab.pangea(&["region", "rebuild", EU]).await.ended(6).refused(&["does not answer"]);
    lab.cluster.wan().unwrap().rejoin(&id(EU));
    lab.healthy().await;
}

pub(super) async fn of_a_secondary(lab: &Lab) {
    let mark = pgdata(lab, EU).join("old");
    let report = lab.cluster.layout().region(&id(EU)).join("recovery/kept");
    for path in [&mark, &report] {
        make_file(path, "");
    }
    let writers = [Writer::writing(lab, EU).await, Writer::start(lab, AP).await];
    let run = lab.pangea(&["region", "rebuild", EU]).await.ended(0);
    assert!(run.err.contains("base backup") && run.err.contains("has the primary's data"), "{run:?}");
    assert!(!mark.exists() && report.exists());
    for writer in writers {
        writer.end().await;
    }
    lab.healthy().await;
    lab.replicated(EU, "SELECT count(*) FROM work").await;
    std::fs::remove_file(&report).unwrap();
    // Again, to the end, by the same process.
    lab.pangea(&["region", "rebuild", EU]).await.ended(0);
}

pub(super) async fn of_a_broken_server(lab: &Lab) {
    let dir = pgdata(lab, AP);
    let process = std::fs::read_to_string(dir.join("postmaster.pid")).unwrap();
    std::fs::remove_file(dir.join("global/pg_control")).unwrap();
    let process = nix::unistd::Pid::from_raw(process.lines().next().unwrap().parse().unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the region says that its server is gone", async || {
        let status = lab.cluster.status(&id(AP)).await.ok()?;
        (status.health == pangea_node::Health::Degraded).then_some(())
    })
    .await;
    let run = lab.pangea(&["region", "rebuild", AP]).await.ended(0);
    assert!(run.err.contains("streams"), "{run:?}");
    lab.healthy().await;
    let session = lab.connect(AP).await;
    session.run("INSERT INTO work DEFAULT VALUES").await;
    lab.replicated(AP, "SELECT count(*) FROM work").await;
}
