//! pgbench through a secondary region, and the sums that it keeps.

use std::process::Stdio;
use std::time::Duration;

use pangea_agent::PgBin;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{AP, EU, Lab, Logs, US, eventually, run, scenarios};

const RUN_TIMEOUT: Duration = Duration::from_secs(100);
const CLIENTS: u32 = 8;
const TRANSACTIONS: u32 = 100;

#[test]
fn pgbench() {
    run(
        Logs::Quiet,
        |_| {},
        scenarios![
            makes_its_tables,
            runs_with_the_simple_protocol,
            runs_with_the_extended_protocol,
            runs_with_prepared_statements,
            sums_are_equal_in_every_region,
        ],
    );
}

async fn pgbench_at(lab: &Lab, region: &str, arguments: &[&str]) -> String {
    let beside = PgBin::find(None).unwrap().program("pgbench");
    let program = if beside.is_file() { beside } else { "pgbench".into() };
    let address = lab.entry(region).cluster;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres").env("PGPASSWORD", lab.cluster.password());
    let output = timeout(RUN_TIMEOUT, command.output());
    let output = output.await.unwrap_or_else(|_| panic!("pgbench {arguments:?} hangs")).unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbench {arguments:?}: {}\n{said}", output.status);
    assert!(!said.contains("aborted"), "pgbench {arguments:?}\n{said}");
    said
}

async fn makes_its_tables(lab: &Lab) {
    pgbench_at(lab, EU, &["-i", "-s", "2", "--foreign-keys"]).await;
}

async fn runs_with_the_simple_protocol(lab: &Lab) {
    runs_each_script(lab, "simple").await;
}

async fn runs_with_the_extended_protocol(lab: &Lab) {
    runs_each_script(lab, "extended").await;
}

async fn runs_with_prepared_statements(lab: &Lab) {
    runs_each_script(lab, "prepared").await;
}

async fn runs_each_script(lab: &Lab, protocol: &str) {
    let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
    for script in ["tpcb-like", "simple-update", "select-only"] {
        // -n: a run that vacuums first also empties pgbench_history, and the sums with it.
        let arguments = ["-n", "-M", protocol, "-b", script, "-c", &clients, "-t", &transactions];
        let said = pgbench_at(lab, EU, &arguments).await;
        let processed = format!("actually processed: {0}/{0}", CLIENTS * TRANSACTIONS);
        assert!(said.contains(&processed), "{protocol} {script}\n{said}");
        if let Some(line) = said.lines().find(|line| line.contains("failed transactions")) {
            assert!(line.contains(": 0 "), "{protocol} {script}\n{said}");
        }
    }
}

async fn sums_are_equal_in_every_region(lab: &Lab) {
    // simple-update leaves tellers and branches alone: what it did is in the history and the accounts.
    let sums = "SELECT (SELECT count(*) FROM pgbench_history) || ' ' || (SELECT sum(delta) FROM pgbench_history) \
                || ' ' || (SELECT sum(abalance) FROM pgbench_accounts) \
                || ' ' || (SELECT sum(tbalance) FROM pgbench_tellers) \
                || ' ' || (SELECT sum(bbalance) FROM pgbench_branches)";
    let primary = lab.connect(US).await.text(sums).await;
    let parts: Vec<i64> = primary.split(' ').map(|part| part.parse().unwrap()).collect();
    let [count, delta, accounts, tellers, branches] = parts[..] else { panic!("{primary}") };
    assert_eq!(count, i64::from(3 * 2 * CLIENTS * TRANSACTIONS), "rows of history");
    assert_eq!((delta, tellers), (accounts, branches), "{primary}");
    for region in [US, EU, AP] {
        let reader = lab.reader(region).connect().await;
        eventually(&format!("{region} has the sums of the primary"), async || {
            (reader.text(sums).await == primary).then_some(())
        })
        .await;
    }
    // TPC-B alone, from another region: all four sums move by the same amount.
    let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
    pgbench_at(lab, AP, &["-n", "-c", &clients, "-t", &transactions]).await;
    let moved = lab.connect(US).await.text(sums).await;
    let moved: Vec<i64> = moved.split(' ').map(|part| part.parse().unwrap()).collect();
    let by: Vec<i64> = moved.iter().zip(&parts).skip(1).map(|(now, then)| now - then).collect();
    assert!(by.windows(2).all(|pair| pair[0] == pair[1]), "{by:?}");
}
