//! Regions that stop, die and start.

use std::path::Path;

use crate::support::{EU, Lab, Pangea, US, code, eventually, id, in_scratch};

/// Starts what is down. An earlier scenario that failed may have left another one down.
async fn start_all(lab: &Lab) {
    for entry in &lab.cluster.manifest().regions {
        lab.cluster.start_region(&entry.name).await.unwrap();
    }
    lab.healthy().await;
}

pub(super) async fn a_stopping_region_tells_its_sessions(lab: &Lab) {
    start_all(lab).await;
    let mut idle = lab.connect(EU).await;
    let mut open = lab.connect(EU).await;
    open.run("CREATE TABLE kept (id int)").await;
    open.run("BEGIN; INSERT INTO kept VALUES (1)").await;
    let mut reading = lab.connect(EU).await;
    reading.run("BEGIN; SELECT 1").await;
    let mut reader = lab.reader(EU).connect().await;
    let busy = lab.at(EU).named("busy").connect().await;
    let stop = async {
        lab.sleeping(EU, "busy").await;
        lab.cluster.stop_region(&id(EU)).await.unwrap();
    };
    let (done, ()) = futures_util::join!(busy.simple_query("SELECT pg_sleep(1000)"), stop);
    assert_eq!(code(&done.unwrap_err()), "57P01");
    for session in [&mut idle, &mut open, &mut reading, &mut reader] {
        assert_eq!(session.end().await, "57P01");
    }
    assert!(lab.at(EU).try_connect().await.is_err());
    lab.connect(US).await.run("INSERT INTO kept VALUES (2)").await;
    start_all(lab).await;
    let found = lab.connect(EU).await;
    eventually("the row is here", async || {
        (found.text("SELECT sum(id) FROM kept").await == "2").then_some(())
    })
    .await;
    found.run("DROP TABLE kept").await;
}

pub(super) async fn a_stopping_primary_tells_sessions_of_other_regions(lab: &Lab) {
    start_all(lab).await;
    let session = lab.at(EU).named("forwarded").connect().await;
    session.run("CREATE TABLE kept (id int)").await;
    let reader = lab.connect(EU).await;
    let stop = async {
        lab.sleeping(US, "forwarded").await;
        lab.cluster.stop_region(&id(US)).await.unwrap();
    };
    let statement = session.simple_query("INSERT INTO kept SELECT 1 FROM pg_sleep(1000)");
    let (done, ()) = futures_util::join!(statement, stop);
    assert_eq!(code(&done.unwrap_err()), "57P01");
    reader.expect("SELECT count(*) FROM generate_series(1, 3)", 3).await;
    let refused = reader.fails("INSERT INTO kept VALUES (1)").await;
    assert!(refused.starts_with("08") || refused.starts_with("57"), "{refused}");
    start_all(lab).await;
    let session = lab.connect(EU).await;
    session.run("INSERT INTO kept VALUES (1)").await;
    session.expect("SELECT count(*) FROM kept", 1).await;
    session.run("DROP TABLE kept").await;
}

pub(super) async fn a_killed_region_comes_back(lab: &Lab) {
    start_all(lab).await;
    for region in [EU, US] {
        let session = lab.connect(region).await;
        session.run("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await;
        lab.replicated(EU, "SELECT count(*) FROM kept").await;
        lab.cluster.kill_region(&id(region)).await.unwrap();
        assert!(session.simple_query("SELECT 1").await.is_err());
        start_all(lab).await;
        let session = lab.connect(region).await;
        session.run("INSERT INTO kept VALUES (2)").await;
        session.expect("SELECT sum(id) FROM kept", 3).await;
        session.run("DROP TABLE kept").await;
    }
}

#[test]
fn up_finds_the_data_again_and_delete_removes_it() {
    in_scratch(up_down_up_delete);
}

async fn up_down_up_delete(scratch: &Path) {
    let data_dir = scratch.join("data");
    let pangea = Pangea::new(&data_dir);
    let session = pangea.up_well().await.connect().await;
    session.run("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await;
    // A second supervisor is refused, and the first one is not disturbed.
    let second = pangea.up(&[]).await;
    assert_eq!(second.code, Some(4), "{second:?}");
    session.expect("SELECT id FROM kept", 7).await;
    let status = pangea.run(&["status", "--json"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let stopped = pangea.run(&["down"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(session.simple_query("SELECT 1").await.is_err());

    let session = pangea.up_well().await.connect().await;
    session.expect("SELECT id FROM kept", 7).await;
    // Other regions than it was made with.
    drop(session);
    pangea.down().await;
    let run = pangea.run(&["up", "--regions", "us-east-1,eu-west-1", "--detach"]).await;
    run.refused(&["us-east-1,eu-west-1", "--data-dir"]);
    assert_eq!(run.code, Some(2));

    std::fs::write(data_dir.join("notes.txt"), "mine").unwrap();
    let deleted = pangea.run(&["down", "--delete"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let left: Vec<_> =
        std::fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"], "what is not Pangea's stays");
    let again = pangea.run(&["down"]).await;
    assert_eq!(again.code, Some(3), "{again:?}");
}
