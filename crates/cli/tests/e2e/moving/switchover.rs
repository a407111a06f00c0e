//! `pangea switchover`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{primary_at, settled, switch, topology};
use crate::support::{AP, EU, Lab, US, eventually, id};

pub(super) async fn is_refused_with_the_reason(lab: &Lab) {
    primary_at(lab, US).await;
    let before = topology(lab).await;
    for (to, said) in [("moon", "there is no region moon: choose one of"), (US, "is the primary already")] {
        lab.pangea(&["switchover", "--to", to]).await.ended(6).refused(&[said]);
    }
    lab.pangea(&["region", "drain", EU]).await.ended(0);
    lab.pangea(&["switchover", "--to", EU]).await.ended(6).refused(&["eu-west-1 is drained", "undrain"]);
    lab.pangea(&["region", "undrain", EU]).await.ended(0);
    assert_eq!(topology(lab).await, before);

    lab.cluster.stop_region(&id(AP)).await.unwrap();
    eventually("the primary misses the region", async || {
        let run = lab.pangea(&["switchover", "--to", AP, "--dry-run"]).await;
        (run.code == Some(6) && run.err.contains("ap-southeast-1 does not answer")).then_some(())
    })
    .await;
    let run = lab.pangea(&["switchover", "--to", AP]).await.ended(6);
    assert!(run.out.contains("✗ target answers"), "{run:?}");
    // To another region it could be made: the one that is away follows later.
    let run = lab.pangea(&["switchover", "--to", EU, "--dry-run"]).await.ended(0);
    assert!(run.out.contains("will follow when it is back"), "{run:?}");
    lab.cluster.start_region(&id(AP)).await.unwrap();
    settled(lab, US).await;
    assert_eq!(topology(lab).await, before);
}

pub(super) async fn a_dry_run_changes_nothing(lab: &Lab) {
    primary_at(lab, US).await;
    let before = topology(lab).await;
    let run = lab.pangea(&["switchover", "--to", EU, "--dry-run"]).await.ended(0);
    assert!(run.out.contains("✓ target follows") && run.err.contains("nothing was changed"), "{run:?}");
    let report = lab.pangea(&["switchover", "--to", EU, "--dry-run", "--json"]).await.ended(0).json();
    assert_eq!(report["outcome"], "possible");
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true), "{report}");
    assert_eq!(topology(lab).await, before);
}

pub(super) async fn tells_what_happened(lab: &Lab) {
    primary_at(lab, US).await;
    let epoch = topology(lab).await["epoch"].as_u64().unwrap();
    let run = lab.pangea(&["switchover", "--to", EU]).await.ended(0);
    for said in ["has shut down", "has replayed all of it", "takes writes"] {
        assert!(run.err.contains(said), "no {said:?} in {run:?}");
    }
    assert!(run.out.contains("done: eu-west-1 is primary"), "{run:?}");
    settled(lab, EU).await;
    let run = lab.pangea(&["status"]).await.ended(0);
    assert!(run.out.contains("switchover to eu-west-1 in epoch"), "{run:?}");

    let report = lab.pangea(&["switchover", "--to", US, "--json"]).await.ended(0).json();
    assert_eq!(report["outcome"], "done");
    assert_eq!((&report["former"], &report["primary"]), (&EU.into(), &US.into()));
    assert_eq!(report["epoch"].as_u64(), Some(epoch + 2));
    let (held, took) = (report["held_us"].as_u64().unwrap(), report["took_us"].as_u64().unwrap());
    assert!(0 < held && held <= took, "{report}");
    assert!(report["checkpoint"].is_string() || report["checkpoint"].is_object(), "{report}");
    let steps: Vec<&str> =
        report["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["began", "prepared", "quiet", "held", "stopped", "caught_up", "claimed", "writable"]);
    settled(lab, US).await;
}

pub(super) async fn there_and_back_loses_nothing(lab: &Lab) {
    primary_at(lab, US).await;
    lab.connect(US).await.run("CREATE TABLE ledger (writer text, n int, PRIMARY KEY (writer, n))").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for region in [US, EU, AP] {
        for number in 0..2 {
            let (session, stop) = (lab.connect(region).await, stop.clone());
            let name = format!("{region} {number}");
            writers.spawn(async move {
                let insert = session.prepare("INSERT INTO ledger VALUES ($1, $2)").await.unwrap();
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    let done = match number {
                        0 => session.execute(&insert, &[&name, &n]).await,
                        _ => session.execute("INSERT INTO ledger VALUES ($1, $2)", &[&name, &n]).await,
                    };
                    assert_eq!(done.unwrap_or_else(|error| panic!("{name} {n}: {error:?}")), 1);
                    sleep(Duration::from_millis(3)).await;
                }
                (name, n)
            });
        }
    }
    for to in [EU, US, AP, US] {
        sleep(Duration::from_millis(300)).await;
        switch(lab, to).await;
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::SeqCst);
    let primary = lab.server(US).connect().await;
    while let Some(writer) = writers.join_next().await {
        let (name, n) = writer.unwrap();
        let kept = format!("SELECT count(*) || ' ' || max(n) FROM ledger WHERE writer = '{name}'");
        primary.expect(&kept, format!("{n} {n}")).await;
    }
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM ledger").await;
    }
    lab.connect(US).await.run("DROP TABLE ledger").await;
}

pub(super) async fn waits_for_a_transaction(lab: &Lab) {
    primary_at(lab, US).await;
    let session = lab.connect(AP).await;
    session.run("CREATE TABLE slow (n int)").await;
    session.run("BEGIN; INSERT INTO slow VALUES (1)").await;
    let finish = async {
        sleep(Duration::from_millis(700)).await;
        session.run("INSERT INTO slow VALUES (2); COMMIT").await;
    };
    let (run, ()) = futures_util::join!(lab.pangea(&["switchover", "--to", EU, "--timeout", "20s"]), finish);
    run.ended(0);
    session.expect("SELECT sum(n) FROM slow", 3).await;
    session.run("DROP TABLE slow").await;
    settled(lab, EU).await;
}

pub(super) async fn is_rolled_back_when_a_transaction_does_not_end(lab: &Lab) {
    primary_at(lab, US).await;
    let before = topology(lab).await;
    let open = lab.connect(AP).await;
    open.run("CREATE TABLE endless (n int)").await;
    open.run("BEGIN; INSERT INTO endless VALUES (1)").await;
    let waiting = lab.connect(EU).await;
    let write = async {
        sleep(Duration::from_millis(300)).await;
        waiting.run("INSERT INTO endless VALUES (2)").await;
    };
    let (run, ()) = futures_util::join!(lab.pangea(&["switchover", "--to", EU, "--timeout", "800ms"]), write);
    let run = run.ended(7);
    assert!(run.out.contains("rolled back: us-east-1 is primary"), "{run:?}");
    assert!(run.out.contains("transactions did not end within 800ms: 1 session in"), "{run:?}");
    // The transaction was not disturbed.
    open.run("INSERT INTO endless VALUES (3); COMMIT").await;
    open.expect("SELECT sum(n) FROM endless", 6).await;
    open.run("DROP TABLE endless").await;
    let after = topology(lab).await;
    assert_eq!((&after["epoch"], &after["primary"]), (&before["epoch"], &before["primary"]));
    let status = lab.pangea(&["status"]).await.ended(0);
    assert!(status.out.contains("the last switchover, to eu-west-1: transactions did not end"), "{status:?}");
}
