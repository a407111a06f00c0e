//! `pangea failover`, and failovers that nobody asked for.

use super::{primary_at, settled, topology};
use crate::support::{AP, EU, Lab, US, eventually, id};

pub(super) async fn by_hand_needs_the_word_for_it(lab: &Lab) {
    primary_at(lab, US).await;
    let before = topology(lab).await;
    let run = lab.pangea(&["failover", "--to", EU]).await.ended(6);
    run.refused(&["cannot be excluded", "--allow-data-loss", "pangea switchover --to eu-west-1"]);
    assert!(run.out.contains("us-east-1       primary"), "{run:?}");
    lab.pangea(&["failover", "--to", US]).await.ended(6).refused(&["is the primary already"]);
    lab.pangea(&["failover", "--to", "moon"]).await.ended(2).refused(&["no region moon"]);
    assert_eq!(topology(lab).await, before);
}

pub(super) async fn by_hand_when_the_primary_is_gone(lab: &Lab) {
    primary_at(lab, US).await;
    lab.pangea(&["policy", "--automatic", "off"]).await.ended(0);
    let session = lab.connect(EU).await;
    session.run("CREATE TABLE saved (n int); INSERT INTO saved VALUES (1)").await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM saved").await;
    }
    let epoch = topology(lab).await["epoch"].as_u64().unwrap();
    lab.cluster.kill_region(&id(US)).await.unwrap();
    let run = lab.pangea(&["switchover", "--to", EU]).await.ended(6);
    run.refused(&["us-east-1, the primary, does not answer", "pangea failover --to eu-west-1"]);
    lab.pangea(&["failover", "--to", EU]).await.ended(6).refused(&["--allow-data-loss"]);
    eventually("the status says why nobody takes over", async || {
        let run = lab.pangea(&["status"]).await.ended(5);
        run.out.contains("to eu-west-1: automatic failover is switched off").then_some(())
    })
    .await;
    let run = lab.pangea(&["failover", "--to", EU, "--allow-data-loss"]).await.ended(0);
    assert!(run.out.contains("does not answer") && run.out.contains("done: eu-west-1 is primary"), "{run:?}");
    assert!(run.err.contains("writes may be lost"), "{run:?}");
    let after = topology(lab).await;
    assert_eq!(after["epoch"].as_u64(), Some(epoch + 1));
    assert_eq!(after["changes"].as_array().unwrap().last().unwrap()["cause"], "forced");
    session.run("INSERT INTO saved VALUES (2)").await;
    let elsewhere = lab.connect(AP).await;
    elsewhere.run("INSERT INTO saved VALUES (3)").await;
    elsewhere.expect("SELECT sum(n) FROM saved", 6).await;
    returns(lab, US, EU).await;
    lab.connect(US).await.expect("SELECT sum(n) FROM saved", 6).await;
    lab.connect(US).await.run("DROP TABLE saved").await;
    lab.pangea(&["policy", "--automatic", "on"]).await.ended(0);
}

pub(super) async fn by_itself_when_the_primary_dies(lab: &Lab) {
    primary_at(lab, US).await;
    let session = lab.connect(AP).await;
    session.run("CREATE TABLE saved (n int); INSERT INTO saved VALUES (1)").await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM saved").await;
    }
    lab.cluster.kill_region(&id(US)).await.unwrap();
    let write = async || match lab.at(EU).try_connect().await {
        Ok(session) => session.batch_execute("INSERT INTO saved VALUES (2)").await.ok(),
        Err(_) => None,
    };
    eventually("a write works", write).await;
    let after = topology(lab).await;
    assert_eq!(after["changes"].as_array().unwrap().last().unwrap()["cause"], "failover");
    let primary = after["primary"].as_str().unwrap().to_owned();
    session.run("INSERT INTO saved VALUES (3)").await;
    session.expect("SELECT count(DISTINCT n) FROM saved", 3).await;
    let status = lab.pangea(&["status"]).await.ended(5);
    assert!(status.out.contains(&format!("failover to {primary} in epoch")), "{status:?}");
    returns(lab, US, &primary).await;
    primary_at(lab, US).await;
    lab.connect(US).await.run("DROP TABLE saved").await;
}

/// Two regions are promoted from the same timeline, one after the other and without knowing of each other's log.
pub(super) async fn a_standby_of_another_line_is_noticed(lab: &Lab) {
    primary_at(lab, US).await;
    lab.connect(US).await.run("CREATE TABLE lines (n int)").await;
    lab.pangea(&["policy", "--automatic", "off"]).await.ended(0);
    for region in [EU, AP] {
        lab.replicated(region, "SELECT count(*) FROM lines").await;
    }
    for region in [AP, US] {
        lab.cluster.kill_region(&id(region)).await.unwrap();
    }
    lab.pangea(&["failover", "--to", EU, "--allow-data-loss"]).await.ended(0);
    lab.connect(EU).await.run("INSERT INTO lines VALUES (1)").await;
    lab.cluster.start_region(&id(US)).await.unwrap();
    has_only(lab, US, "{1}").await;
    let followed = lab.cluster.status(&id(EU)).await.unwrap().position.unwrap().timeline.0;
    let note = lab.cluster.layout().region(&id(US)).join("pgdata/pangea.line");
    eventually("it has noted what it follows", async || {
        let text = std::fs::read_to_string(&note).ok()?;
        text.starts_with(&format!("{followed} ")).then_some(())
    })
    .await;
    for region in [EU, US] {
        lab.cluster.kill_region(&id(region)).await.unwrap();
    }
    lab.cluster.start_region(&id(AP)).await.unwrap();
    eventually("the failover to the one that knows nothing of it is done", async || {
        let run = lab.pangea(&["failover", "--to", AP, "--allow-data-loss"]).await;
        (run.code == Some(0)).then_some(())
    })
    .await;
    lab.connect(AP).await.run("INSERT INTO lines VALUES (2)").await;
    for region in [US, EU] {
        lab.cluster.start_region(&id(region)).await.unwrap();
    }
    settled(lab, AP).await;
    for region in [US, EU, AP] {
        has_only(lab, region, "{2}").await;
    }
    primary_at(lab, US).await;
    lab.connect(US).await.run("DROP TABLE lines").await;
    lab.pangea(&["policy", "--automatic", "on"]).await.ended(0);
}

/// The region's own server has these rows.
async fn has_only(lab: &Lab, region: &str, rows: &str) {
    eventually(&format!("{region} has the rows {rows}"), async || {
        let session = lab.at(region).try_connect().await.ok()?;
        session.batch_execute("SET pangea.read_consistency = 'eventual'").await.ok()?;
        let found = session.query_one("SELECT array_agg(n)::text FROM lines", &[]).await.ok()?;
        (found.get::<_, Option<&str>>(0) == Some(rows)).then_some(())
    })
    .await;
}

/// PostgreSQL refuses to start with its data: they are put aside and it is cloned.
pub(super) async fn a_standby_that_cannot_recover_is_cloned(lab: &Lab) {
    primary_at(lab, US).await;
    lab.cluster.kill_region(&id(EU)).await.unwrap();
    let data = lab.cluster.layout().region(&id(EU)).join("pgdata");
    std::fs::write(data.join("backup_label"), "not a label\n").unwrap();
    lab.cluster.start_region(&id(EU)).await.unwrap();
    settled(lab, US).await;
    assert!(data.with_extension("failed").join("backup_label").exists());
}

/// The former primary comes back, and follows.
async fn returns(lab: &Lab, former: &str, primary: &str) {
    lab.cluster.start_region(&id(former)).await.unwrap();
    settled(lab, primary).await;
}
