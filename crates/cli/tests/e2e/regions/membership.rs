//! `pangea region add` and `remove`.

use super::{WEST, Writer};
use crate::moving::{settled, switch, topology};
use crate::support::{AP, EU, Lab, Pangea, US, eventually, id, in_scratch};

const COUNT: &str = "SELECT count(*) FROM work";

/// The peers that a region has.
async fn peers(lab: &Lab, region: &str) -> Vec<String> {
    let status = lab.cluster.status(&id(region)).await.unwrap();
    status.peers.iter().map(|peer| peer.region.to_string()).collect()
}

pub(super) async fn a_region_is_added_while_clients_write(lab: &Lab) {
    lab.pangea(&["region", "add", EU]).await.ended(6).refused(&["is a region of this cluster already"]);
    lab.pangea(&["region", "add", "store"]).await.ended(6).refused(&["a directory of the cluster"]);
    let writers = [Writer::start(lab, US).await, Writer::start(lab, EU).await];
    let run = lab.pangea(&["region", "add", WEST]).await.ended(0);
    assert!(run.err.contains("base backup") && run.err.contains("its cluster endpoint is"), "{run:?}");
    for region in [US, EU, AP] {
        assert!(peers(lab, region).await.contains(&WEST.to_owned()), "{region}");
    }
    assert_eq!(topology(lab).await["members"][WEST]["priority"], 100);
    for writer in writers {
        writer.end().await;
    }
    lab.replicated(WEST, COUNT).await;
    let west = lab.connect(WEST).await;
    west.run("INSERT INTO work DEFAULT VALUES").await;
    let seen = west.text(COUNT).await;
    lab.replicated(US, COUNT).await;
    assert_eq!(lab.connect(US).await.text(COUNT).await, seen);
    let links = lab.pangea(&["wan", "show", "--json"]).await.ended(0).json();
    assert_eq!(links.as_array().map(Vec::len), Some(12), "{links}");
}

pub(super) async fn the_new_region_becomes_primary_and_back(lab: &Lab) {
    let mut before = Vec::new();
    for region in [US, EU, AP, WEST] {
        before.push(lab.connect(region).await);
    }
    switch(lab, WEST).await;
    lab.pangea(&["region", "remove", WEST]).await.ended(6).refused(&["is the primary", "pangea switchover"]);
    for session in &before {
        session.run("INSERT INTO work DEFAULT VALUES").await;
    }
    switch(lab, US).await;
    for session in &before {
        session.run("INSERT INTO work DEFAULT VALUES").await;
    }
}

pub(super) async fn removals_that_would_harm_are_refused(lab: &Lab) {
    lab.pangea(&["region", "remove", US]).await.ended(6).refused(&["is the primary"]);
    lab.pangea(&["region", "remove", "moon"]).await.ended(2).refused(&["no region moon"]);
    lab.pangea(&["durability", "sync(3)"]).await.ended(0);
    lab.pangea(&["region", "remove", WEST]).await.ended(6).refused(&["sync(3) needs 3", "there are 2"]);
    lab.pangea(&["durability", "async"]).await.ended(0);
    assert_eq!(topology(lab).await["members"].as_object().map(serde_json::Map::len), Some(4));
}

pub(super) async fn a_region_is_removed_while_clients_write(lab: &Lab) {
    let writers = [Writer::start(lab, US).await, Writer::start(lab, AP).await];
    let dir = lab.cluster.layout().region(&id(WEST));
    let run = lab.pangea(&["region", "remove", WEST]).await.ended(0);
    assert!(run.err.contains(&dir.display().to_string()), "{run:?}");
    assert!(dir.join("pgdata/PG_VERSION").exists());
    for writer in writers {
        writer.end().await;
    }
    for region in [US, EU, AP] {
        assert!(!peers(lab, region).await.contains(&WEST.to_owned()), "{region}");
    }
    assert_eq!(topology(lab).await["members"].as_object().map(serde_json::Map::len), Some(3));
    let primary = lab.server(US).connect().await;
    eventually("its standby is gone", async || {
        let standbys = primary.text("SELECT count(*) FROM pg_stat_replication").await;
        (standbys == "2").then_some(())
    })
    .await;
    lab.pangea(&["region", "remove", WEST]).await.ended(2).refused(&["no region"]);
    lab.pangea(&["region", "add", WEST]).await.ended(6).refused(&["the data of an earlier region"]);
    // Nobody waits for it any more.
    switch(lab, EU).await;
    switch(lab, US).await;
}

pub(super) async fn a_region_comes_again_and_goes_with_its_data(lab: &Lab) {
    let dir = lab.cluster.layout().region(&id(WEST));
    std::fs::remove_dir_all(&dir).unwrap();
    lab.pangea(&["region", "add", WEST]).await.ended(0);
    settled(lab, US).await;
    lab.replicated(WEST, COUNT).await;
    // Where the primary moves the region that the cluster began with is removed like any other.
    switch(lab, WEST).await;
    switch(lab, EU).await;
    let session = lab.connect(AP).await;
    let run = lab.pangea(&["region", "remove", WEST, "--delete"]).await.ended(0);
    assert!(run.err.contains("its data are deleted") && !dir.exists(), "{run:?}");
    session.run("INSERT INTO work DEFAULT VALUES").await;
    switch(lab, US).await;
}

/// The supervisor's own process: what it was told is there after it was stopped and started.
#[test]
fn stay_over_a_restart() {
    in_scratch(async |scratch| {
        let dir = scratch.join("data");
        let pangea = Pangea::new(&dir);
        pangea.run(&["region", "add", EU]).await.ended(3);
        pangea.up_well().await;
        pangea.run(&["region", "add", EU]).await.ended(0);
        pangea.run(&["region", "add", AP]).await.ended(0);
        pangea.run(&["switchover", "--to", EU]).await.ended(0);
        // The cluster began with it; its place is taken.
        pangea.run(&["region", "remove", US]).await.ended(0);
        pangea.down().await;
        pangea.run(&["region", "remove", AP]).await.ended(3).refused(&["not running"]);
        let up = pangea.run(&["up", "--detach", "--json"]).await.ended(0).json();
        let regions: Vec<_> = up["regions"].as_array().unwrap().iter().map(|it| &it["region"]).collect();
        assert_eq!(regions, [EU, AP]);
        let status = pangea.run(&["status", "--json"]).await.ended(0).json();
        assert_eq!(status["topology"]["primary"], EU);
        pangea.run(&["down", "--delete"]).await.ended(0);
        assert!(!dir.exists(), "what was removed before goes with the rest");
    });
}
