//! Faults of all kinds while clients of all regions write.
//!
//! `PANGEA_CHAOS_ROUNDS` is how many rounds there are, `PANGEA_CHAOS_SEED` the seed of the first; the others count up
//! from it, so that a round is repeated by its own seed and one round. `PANGEA_CHAOS_FAULT=text` has in every round a
//! fault with the text in its name. `PANGEA_CHAOS_DISKS=1` gives each region a small disk that can be full (root only).
//! A long run:
//! `PANGEA_CHAOS_ROUNDS=200 cargo test -p pangea-cli --test e2e chaos::rounds -- --nocapture`

mod disks;

use std::time::Duration;

use pangea_control::Policy;
use pangea_lab::chaos::{Chaos, Fault, Invariant, Menu, Plan, Timed};
use pangea_lab::wan::{Distance, Table};
use pangea_lab::{Cluster, ClusterOptions, WanChoice};
use pangea_node::FailoverConfig;

use crate::support::{AP, EU, US, block_on, finish, id, scratch};

/// The fast profile.
const LEASE: Duration = Duration::from_millis(1500);
/// Rounds of an ordinary test run, and the seed of the first of them.
const ROUNDS: u32 = 4;
const SEED: u64 = 20;

fn given<T: std::str::FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is not {text:?}"))
}

fn options(data_dir: &std::path::Path) -> ClusterOptions {
    let distance = Distance { round_trip: Duration::from_millis(4), jitter: Duration::ZERO, bandwidth: None };
    let lease_ttl_ms = u64::try_from(LEASE.as_millis()).unwrap();
    // Failovers are as frequent as the faults.
    let policy = Policy { flap_limit: 1_000_000, ..Policy::default() };
    ClusterOptions {
        regions: Some([US, EU, AP].map(id).to_vec()),
        port_base: Some(0),
        wan: Some(WanChoice::Off),
        wan_table: Some(Table::uniform(distance)),
        failover: Some(FailoverConfig { lease_ttl_ms, policy }),
        // A power cut is not among the faults here.
        postgres_settings: vec!["fsync = off".to_owned()],
        ..ClusterOptions::new(data_dir.to_owned(), env!("CARGO_BIN_EXE_pangea").into())
    }
}

/// Runs a test on a cluster; its files are kept when there are failures.
fn on_a_cluster(with_disks: bool, test: impl AsyncFnOnce(&Cluster) -> Vec<String>) {
    let scratch = scratch();
    let data_dir = scratch.path().join("data");
    let mut disks = Vec::new();
    let failures = block_on(async {
        let mut cluster = Cluster::start(options(&data_dir), &mut |_| {}).await.unwrap();
        if with_disks {
            cluster.stop().await;
            disks = [US, EU, AP].map(|region| disks::Disk::beneath(&data_dir.join(region))).into();
            cluster = Cluster::start(options(&data_dir), &mut |_| {}).await.unwrap();
        }
        let failures = test(&cluster).await;
        cluster.stop().await;
        failures
    });
    if !failures.is_empty() {
        disks.iter().for_each(disks::Disk::keep);
    }
    drop(disks);
    finish(scratch, &failures);
}

#[test]
fn rounds() {
    let (rounds, first) = (given("PANGEA_CHAOS_ROUNDS", ROUNDS), given("PANGEA_CHAOS_SEED", SEED));
    let disks = given("PANGEA_CHAOS_DISKS", 0) > 0;
    let menu = Menu { lease: LEASE, disks, wanted: given("PANGEA_CHAOS_FAULT", String::new()) };
    on_a_cluster(disks, async |cluster| {
        let mut chaos = Chaos::begin(cluster, LEASE).await.unwrap();
        let mut failures = Vec::new();
        for seed in (first..).take(rounds as usize) {
            let report = chaos.round(Plan::new(seed, &menu)).await.unwrap();
            eprintln!("  {report}");
            if report.verdict.holds() {
                continue;
            }
            failures.push(format!("PANGEA_CHAOS_SEED={seed} PANGEA_CHAOS_ROUNDS=1 repeats it: {report}"));
            if let Err(error) = chaos.reset().await {
                failures.push(error.to_string());
                break;
            }
        }
        failures
    });
}

#[test]
fn a_cluster_without_fencing_is_found_out() {
    on_a_cluster(false, async |cluster| {
        let mut chaos = Chaos::begin(cluster, LEASE).await.unwrap();
        let (after, lasts) = (Duration::from_millis(500), LEASE * 3);
        let faults = vec![Timed { after, lasts, fault: Fault::Unfenced }];
        let report = chaos.round(Plan { seed: 0, sync: false, faults }).await.unwrap();
        eprintln!("  {report}");
        let two_writers = report.verdict.count(Invariant::OneWriter) > 0;
        if two_writers { Vec::new() } else { vec![format!("two writers were not noticed: {report}")] }
    });
}
