//! Faults of all kinds while clients of all regions write.
//!
//! `PANGEA_CHAOS_ROUNDS` is how many rounds there are, `PANGEA_CHAOS_SEED` the seed of the first; the others count up
//! from it, so that a round is repeated by its own seed and one round. `PANGEA_CHAOS_FAULT=text` has in every round a
//! fault with the text in its name. Each region has a wall clock that can be set (`PANGEA_CHAOS_CLOCKS=0`: not), and,
//! where file systems can be mounted, a small disk that can be full (`PANGEA_CHAOS_DISKS`: 0 never, 1 in any case).
//! A long run:
//! `PANGEA_CHAOS_ROUNDS=200 cargo test -p pangea-cli --test e2e chaos::rounds -- --nocapture`

mod disks;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pangea_control::{Cause, Policy};
use pangea_lab::chaos::{Chaos, Fault, Invariant, Menu, Part, Plan, Target, Timed};
use pangea_lab::wan::{Distance, Table};
use pangea_lab::{Cluster, ClusterOptions, FakeTime, WanChoice, request_reload};
use pangea_node::FailoverConfig;

use crate::support::{AP, Database, EU, US, block_on, finish, id, scratch};

/// The fast profile.
const LEASE: Duration = Duration::from_millis(1500);
/// Rounds of an ordinary test run, and the seed of the first of them.
const ROUNDS: u32 = 4;
const SEED: u64 = 20;

fn given<T: std::str::FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is not {text:?}"))
}

fn options(data_dir: &std::path::Path, clocks: bool) -> ClusterOptions {
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
        clocks: clocks
            .then(|| FakeTime::find().unwrap_or_else(|e| panic!("{e}; or set PANGEA_CHAOS_CLOCKS=0"))),
        // A power cut is not among the faults here.
        postgres_settings: vec!["fsync = off".to_owned()],
        ..ClusterOptions::new(data_dir.to_owned(), env!("CARGO_BIN_EXE_pangea").into())
    }
}

/// What regions have of their own beside their processes.
#[derive(Default)]
struct Extras {
    disks: bool,
    clocks: bool,
}

/// Runs a test on a cluster; its files are kept when there are failures.
fn on_a_cluster(extras: &Extras, test: impl AsyncFnOnce(&Cluster) -> Vec<String>) {
    let scratch = scratch();
    let data_dir = scratch.path().join("data");
    let mut disks = Vec::new();
    let failures = block_on(async {
        let options = || options(&data_dir, extras.clocks);
        let mut cluster = Cluster::start(options(), &mut |_| {}).await.unwrap();
        if extras.disks {
            cluster.stop().await;
            disks = [US, EU, AP].map(|region| disks::Disk::beneath(&data_dir.join(region))).into();
            cluster = Cluster::start(options(), &mut |_| {}).await.unwrap();
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
    let possible = disks::possible();
    if !possible && std::env::var_os("PANGEA_CHAOS_DISKS").is_none() {
        eprintln!("  no round has a full disk: file systems cannot be mounted here, which needs root");
    }
    let disks = given("PANGEA_CHAOS_DISKS", u8::from(possible)) > 0;
    let clocks = given("PANGEA_CHAOS_CLOCKS", 1) > 0;
    let menu = Menu { lease: LEASE, disks, clocks, wanted: given("PANGEA_CHAOS_FAULT", String::new()) };
    on_a_cluster(&Extras { disks, clocks }, async |cluster| {
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
    on_a_cluster(&Extras::default(), async |cluster| {
        let mut chaos = Chaos::begin(cluster, LEASE).await.unwrap();
        let (after, lasts) = (Duration::from_millis(500), LEASE * 3);
        let faults = vec![Timed { after, lasts, fault: Fault::Unfenced }];
        let report = chaos.round(Plan { seed: 0, sync: false, faults }).await.unwrap();
        eprintln!("  {report}");
        let two_writers = report.verdict.count(Invariant::OneWriter) > 0;
        if two_writers { Vec::new() } else { vec![format!("two writers were not noticed: {report}")] }
    });
}

#[test]
fn the_primary_moves_past_clocks_that_differ_and_a_server_that_hangs() {
    on_a_cluster(&Extras { disks: false, clocks: true }, async |cluster| {
        let mut chaos = Chaos::begin(cluster, LEASE).await.unwrap();
        let mut failures = Vec::new();
        let ahead = |part| Fault::ClockStep(part, 3600);
        for fault in [ahead(Part::Primary), ahead(Part::First), Fault::Stop(Target::Server, Part::Second)] {
            let (after, lasts) = (Duration::from_millis(100), Duration::from_secs(6));
            let first = Timed { after, lasts, fault };
            let switchover = Timed { after: after * 5, lasts, fault: Fault::Switchover(Part::First) };
            let report = chaos.round(Plan { seed: 0, sync: false, faults: vec![first, switchover] }).await;
            let report = report.unwrap();
            eprintln!("  {report}");
            if !report.verdict.holds() || report.causes != [Cause::Switchover] {
                failures.push(report.to_string());
            }
        }
        failures
    });
}

/// The clock that the server goes by, and that of the last line of the region's log, in seconds since 1970.
async fn clocks(cluster: &Cluster) -> [i64; 2] {
    let session = Database::socket(&cluster.layout().region(&id(EU)).join("run")).connect().await;
    let log = std::fs::read_to_string(cluster.layout().region_log(&id(EU))).unwrap();
    let last = log.lines().last().and_then(|line| line.split(' ').next()).unwrap();
    let query = format!(
        "SELECT extract(epoch FROM now())::bigint, extract(epoch FROM '{last}'::timestamptz)::bigint"
    );
    let row = session.query_one(&query, &[]).await.unwrap();
    [row.get(0), row.get(1)]
}

#[test]
fn a_step_of_a_clock_is_seen_by_the_server_and_in_the_log() {
    const STEP_S: i32 = -10 * 3600;
    on_a_cluster(&Extras { disks: false, clocks: true }, async |cluster| {
        let mut failures = Vec::new();
        for offset_s in [STEP_S, -STEP_S, 0] {
            cluster.set_clock(&id(EU), offset_s).unwrap();
            request_reload(cluster.layout(), &id(EU)).await.unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let expected = i64::try_from(now).unwrap() + i64::from(offset_s);
            for (whose, found) in ["server", "log"].into_iter().zip(clocks(cluster).await) {
                if (found - expected).abs() > 30 {
                    failures.push(format!("{offset_s:+} s: the {whose} is at {found}, not {expected}"));
                }
            }
        }
        failures
    });
}
