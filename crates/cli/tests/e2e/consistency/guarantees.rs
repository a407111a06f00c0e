//! Random sessions on registers, judged by `pangea_lab::history`.

use std::time::Duration;

use pangea_lab::history::workload::{Endpoint, Place, Recording, Workload, create_registers};
use pangea_lab::history::{
    Action, Guarantee, Key, Operation, Outcome, PlaceId, Report, Rng, Seen, SessionId, Version, WriteId,
    check,
};
use tokio_postgres::Config;

use super::disturb::{calm, disturb};
use super::seed;
use crate::support::{AP, EU, Lab, US, eventually, history_seconds, id};

const KEYS: u16 = 8;
const SESSIONS_PER_PLACE: u16 = 4;
/// What CI gives each level.
const SECONDS: u64 = 8;
/// Finding that `eventual` is eventual takes no longer.
const SECONDS_EVENTUAL_MAX: u64 = 60;

fn places(lab: &Lab) -> Vec<Place> {
    let mut places = Vec::new();
    for region in [US, EU, AP] {
        let entry = lab.entry(region);
        let region = || id(region);
        places.push(Place { region: region(), endpoint: Endpoint::Cluster, address: entry.cluster });
        places.push(Place { region: region(), endpoint: Endpoint::Reader, address: entry.reader });
    }
    places
}

/// Runs a workload at a level, and judges it.
async fn trial(lab: &Lab, level: &str, seconds: u64) -> (Recording, Report) {
    let seed = seed();
    eprintln!("  {level}: {seconds} s, PANGEA_HISTORY_SEED={seed}");
    create_registers(&lab.at(US).0, KEYS).await.unwrap();
    for region in [EU, AP] {
        known(lab, region).await;
    }
    let mut login = Config::new();
    login.user("postgres").password(lab.cluster.password()).dbname("postgres");
    login.ssl_mode(tokio_postgres::config::SslMode::Disable).connect_timeout(Duration::from_secs(5));
    let places = places(lab);
    let workload = Workload {
        seed,
        length: Duration::from_secs(seconds),
        keys: KEYS,
        level: level.to_owned(),
        places,
        sessions_per_place: SESSIONS_PER_PLACE,
        login,
    };
    let scans = [scans(lab, EU).await, scans(lab, AP).await];
    let mut recording = tokio::select! {
        recording = tokio::spawn(workload.run()) => recording.unwrap(),
        never = disturb(lab, Rng::new(seed)) => never,
    };
    calm(lab).await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT sum(version) FROM register").await;
    }
    audit(lab, &mut recording).await;
    let report = check(&recording.history);
    eprintln!("{recording}\n  violations: {report}, in one snapshot {}", report.in_snapshots());
    for (region, before) in [EU, AP].into_iter().zip(scans) {
        eprintln!(
            "  {region}: {} scans of the table by the local server",
            self::scans(lab, region).await - before
        );
    }
    (recording, report)
}

/// Waits until sessions of a region read the registers on their own server.
async fn known(lab: &Lab, region: &str) {
    // This table, not one of the name from an earlier trial.
    lab.replicated(region, "SELECT 'register'::regclass::oid, count(*) FROM register").await;
    let before = scans(lab, region).await;
    eventually(&format!("{region} reads the registers locally"), async || {
        lab.connect(region).await.expect("SELECT count(*) FROM register WHERE key = 1", 1).await;
        (scans(lab, region).await > before).then_some(())
    })
    .await;
}

/// How often a region's server has looked into the table. Processes of the server hand in what they have counted when
/// they end.
async fn scans(lab: &Lab, region: &str) -> i64 {
    let query = "SELECT coalesce(sum(seq_scan + idx_scan), 0)::text FROM pg_stat_user_tables \
                 WHERE relname = 'register'";
    lab.server(region).connect().await.text(query).await.parse().unwrap()
}

/// Adds what is there in the end to the history, and compares the number of writes: each has happened once, or its
/// outcome was unknown.
async fn audit(lab: &Lab, recording: &mut Recording) {
    let session = lab.connect(US).await;
    let invoked = recording.history.operations.iter().map(|operation| operation.completed).max().unwrap();
    let rows = session.query("SELECT key, version, writer FROM register ORDER BY key", &[]).await.unwrap();
    let seen: Vec<Seen> = rows
        .iter()
        .map(|row| Seen { key: Key(row.get(0)), version: Version(row.get(1)), writer: WriteId(row.get(2)) })
        .collect();
    let writes = |outcome| {
        let operations = recording.history.operations.iter();
        let writes = operations.filter(|operation| matches!(operation.action, Action::Write { .. }));
        i64::try_from(writes.filter(|operation| operation.outcome == outcome).count()).unwrap()
    };
    let total: i64 = seen.iter().map(|seen| seen.version.0).sum();
    let certain = writes(Outcome::Ok);
    let possible = certain + writes(Outcome::Unknown);
    assert!(
        (certain..=possible).contains(&total),
        "{total} writes happened, {certain} to {possible} were told"
    );
    let place = PlaceId(recording.history.places.len());
    recording.history.places.push("in the end".to_owned());
    let invoked = invoked + Duration::from_millis(1);
    recording.history.operations.push(Operation {
        session: SessionId(
            1 + recording.history.operations.iter().map(|operation| operation.session.0).max().unwrap(),
        ),
        place,
        transaction: None,
        action: Action::Read(seen),
        invoked,
        completed: invoked,
        outcome: Outcome::Ok,
    });
}

fn assert_none(recording: &Recording, report: &Report, guarantees: &[Guarantee]) {
    for guarantee in guarantees {
        let found = report.count(*guarantee);
        assert_eq!(found, 0, "{guarantee}:\n{}", report.explain(&recording.history, guarantees));
    }
}

/// A checker that never fires is none: where sessions wait for nothing, it must find that.
pub(super) async fn eventual_is_found_to_be_that(lab: &Lab) {
    let seconds = history_seconds().unwrap_or(SECONDS).min(SECONDS_EVENTUAL_MAX);
    let (recording, report) = trial(lab, "eventual", seconds).await;
    let found = [Guarantee::ReadYourWrites, Guarantee::MonotonicReads, Guarantee::Linearizability];
    eprintln!("{}", report.explain(&recording.history, &found));
    for guarantee in found {
        assert!(report.count(guarantee) > 0, "{guarantee}: not violated");
    }
    // What a standby shows is a state that the primary has been in.
    assert_eq!(report.in_snapshots(), 0, "{}", report.explain(&recording.history, &Guarantee::SESSION));
    assert_none(&recording, &report, &[Guarantee::OneSnapshot, Guarantee::VersionOrder]);
}

pub(super) async fn session_gives_the_session_guarantees(lab: &Lab) {
    let (recording, report) = trial(lab, "session", history_seconds().unwrap_or(SECONDS)).await;
    assert_none(&recording, &report, &Guarantee::SESSION);
    assert_none(&recording, &report, &[Guarantee::OneSnapshot, Guarantee::VersionOrder]);
    // Other sessions' writes are late, or the test has disturbed nothing.
    assert!(report.count(Guarantee::Linearizability) > 0, "every read was fresh");
}

pub(super) async fn bounded_gives_the_session_guarantees(lab: &Lab) {
    let (recording, report) = trial(lab, "bounded", history_seconds().unwrap_or(SECONDS)).await;
    assert_none(&recording, &report, &Guarantee::SESSION);
    assert_none(&recording, &report, &[Guarantee::OneSnapshot, Guarantee::VersionOrder]);
    // Other sessions' writes are late, or the test has disturbed nothing.
    assert!(report.count(Guarantee::Linearizability) > 0, "every read was fresh");
}

pub(super) async fn global_is_linearizable_for_each_register(lab: &Lab) {
    let (recording, report) = trial(lab, "global", history_seconds().unwrap_or(SECONDS)).await;
    assert_none(&recording, &report, &Guarantee::ALL);
}
