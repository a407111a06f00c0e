//! A cluster under test, and the scenarios that run on it.

mod command;
mod database;
mod raw;
mod tls;

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use pangea_base::RegionId;
use pangea_lab::{Cluster, ClusterOptions, RegionEntry, WanChoice};
use pangea_node::Health;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub(crate) use command::{Pangea, Run, make_file, snapshot};
pub(crate) use database::{Database, Session, code};
pub(crate) use raw::{Raw, cancel, frame, startup};
pub(crate) use tls::Tls;

/// The primary region of every cluster here.
pub(crate) const US: &str = "us-east-1";
/// A secondary region.
pub(crate) const EU: &str = "eu-west-1";
/// Another one.
pub(crate) const AP: &str = "ap-southeast-1";

/// Longest time that a scenario may take: whatever hangs ends here.
const SCENARIO_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for something that has to become true.
const SOON: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// A step of a test.
pub(crate) type Scenario = for<'a> fn(&'a Lab) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Names scenarios for [`run`].
macro_rules! scenarios {
    ($($name:path),* $(,)?) => {
        &[$((stringify!($name), |lab| Box::pin($name(lab)))),*]
    };
}
pub(crate) use scenarios;

/// What a region's log may hold when a test is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logs {
    /// Nothing was disturbed: no warning and no error.
    Quiet,
    /// The test broke something on purpose; panics still count.
    Faults,
}

/// A running cluster.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
}

/// Starts a cluster of three regions, runs the scenarios on it, stops it.
pub(crate) fn run(logs: Logs, adjust: impl FnOnce(&mut ClusterOptions), scenarios: &[(&str, Scenario)]) {
    let scratch = scratch();
    let data_dir = scratch.path().join("data");
    let mut options = ClusterOptions {
        regions: Some([US, EU, AP].map(id).to_vec()),
        port_base: Some(0),
        wan: Some(WanChoice::Off),
        // A power cut is not among the faults here, and the disk is shared with other tests.
        postgres_settings: vec!["fsync = off".to_owned()],
        ..ClusterOptions::new(data_dir.clone(), env!("CARGO_BIN_EXE_pangea").into())
    };
    adjust(&mut options);
    let mut failures = block_on(async {
        let cluster = match Cluster::start(options, &mut |_| {}).await {
            Ok(cluster) => cluster,
            Err(error) => return vec![format!("the cluster did not start: {error}")],
        };
        let lab = Lab { cluster };
        let failures = run_scenarios(&lab, scenarios).await;
        match timeout(STOP_TIMEOUT, lab.cluster.stop()).await {
            Ok(()) => failures,
            Err(_) => [failures, vec!["the cluster did not stop".to_owned()]].concat(),
        }
    });
    for region in [US, EU, AP] {
        failures.extend(complaints(&data_dir.join(region).join("log/region.log"), logs));
    }
    finish(scratch, &failures);
}

/// How long histories are to be recorded, where a longer run than CI's was asked for.
pub(crate) fn history_seconds() -> Option<u64> {
    seconds("PANGEA_HISTORY_SECONDS")
}

/// The same of strangers on shared servers.
pub(crate) fn pool_seconds() -> Option<u64> {
    seconds("PANGEA_POOL_SECONDS")
}

fn seconds(name: &str) -> Option<u64> {
    let given = std::env::var(name).ok()?;
    Some(given.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

async fn run_scenarios(lab: &Lab, scenarios: &[(&str, Scenario)]) -> Vec<String> {
    let only = std::env::var("PANGEA_E2E_ONLY").unwrap_or_default();
    let limit =
        SCENARIO_TIMEOUT + Duration::from_secs(history_seconds().or(pool_seconds()).unwrap_or_default());
    let mut failures = Vec::new();
    for (name, scenario) in scenarios.iter().filter(|(name, _)| name.contains(&only)) {
        let began = Instant::now();
        let problem = match AssertUnwindSafe(timeout(limit, scenario(lab))).catch_unwind().await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("{name}: hangs, not done after {limit:?}")),
            Err(panic) => Some(format!("{name}: {}", panic_text(panic.as_ref()))),
        };
        let word = if problem.is_none() { "ok" } else { "FAILED" };
        eprintln!("  {word:<6} {name} ({:.1} s)", began.elapsed().as_secs_f64());
        failures.extend(problem);
    }
    failures
}

/// Fails the test if anything failed, keeping its files; else removes them.
pub(crate) fn finish(scratch: TempDir, failures: &[String]) {
    if failures.is_empty() {
        return;
    }
    let kept = scratch.keep();
    panic!("{} failed; everything is kept in {}\n{}", failures.len(), kept.display(), failures.join("\n"));
}

/// Runs a test without a [`Lab`], keeping its files when it fails.
pub(crate) fn in_scratch(test: impl AsyncFnOnce(&Path)) {
    let scratch = scratch();
    let path = scratch.path().to_owned();
    let outcome = block_on(async {
        let test = timeout(SCENARIO_TIMEOUT * 2, test(&path));
        AssertUnwindSafe(test).catch_unwind().await
    });
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("hangs".to_owned()),
        Err(panic) => Some(panic_text(panic.as_ref())),
    };
    finish(scratch, failure.as_slice());
}

/// A directory that the servers' user can enter, with a path short enough for sockets in it.
pub(crate) fn scratch() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix("pangea-e2e-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Lines of a region's log that should not be there.
fn complaints(log: &Path, logs: Logs) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let wrong = |line: &&str| {
        // Regions that are taken down together see one another go: they close. Silence is another matter.
        let silent = line.contains("timed out") || line.contains("deadline has elapsed");
        let farewell = line.contains("peer region does not answer") && !silent;
        let disturbed = (line.contains(" WARN ") && !farewell) || line.contains(" ERROR ");
        line.contains("panicked at") || (logs == Logs::Quiet && disturbed)
    };
    text.lines().filter(wrong).map(|line| format!("{}: {line}", log.display())).collect()
}

/// A region's name.
pub(crate) fn id(name: &str) -> RegionId {
    name.parse().unwrap()
}

/// Waits until `probe` gives something, and says what was waited for if it never does.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match timeout(SOON, probe()).await {
            Ok(Some(found)) => return found,
            _ if Instant::now() >= deadline => panic!("not within {SOON:?}: {what}"),
            _ => sleep(POLL).await,
        }
    }
}

impl Lab {
    /// Runs the `pangea` command on the cluster to its end.
    pub(crate) async fn pangea(&self, arguments: &[&str]) -> Run {
        Run::of(self.cluster.layout().data_dir(), arguments).await
    }

    /// The addresses of a region.
    pub(crate) fn entry(&self, region: &str) -> RegionEntry {
        self.cluster.endpoint(&id(region)).unwrap()
    }

    /// The database `postgres` by a region's cluster endpoint.
    pub(crate) fn at(&self, region: &str) -> Database {
        Database::tcp(self.entry(region).cluster, self.cluster.password())
    }

    /// The same by the reader endpoint.
    pub(crate) fn reader(&self, region: &str) -> Database {
        Database::tcp(self.entry(region).reader, self.cluster.password())
    }

    /// The region's PostgreSQL itself, past Pangea.
    pub(crate) fn server(&self, region: &str) -> Database {
        Database::socket(&self.cluster.layout().region(&id(region)).join("run"))
    }

    /// A session at a region's cluster endpoint.
    pub(crate) async fn connect(&self, region: &str) -> Session {
        self.at(region).connect().await
    }

    /// Waits until a region's server executes `pg_sleep` for a session with this name.
    pub(crate) async fn sleeping(&self, region: &str, name: &str) {
        let query = format!(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event = 'PgSleep'"
        );
        let server = self.server(region).connect().await;
        eventually(&format!("{name} sleeps in {region}"), async || {
            (server.text(&query).await == "1").then_some(())
        })
        .await;
    }

    /// Process id of a region.
    pub(crate) async fn pid(&self, region: &str) -> u32 {
        self.cluster.status(&id(region)).await.unwrap().pid
    }

    /// Waits until every region is healthy.
    pub(crate) async fn healthy(&self) {
        for entry in &self.cluster.manifest().regions {
            eventually(&format!("{} is healthy", entry.name), async || {
                let status = self.cluster.status(&entry.name).await.ok()?;
                (status.health == Health::Healthy).then_some(())
            })
            .await;
        }
    }

    /// Waits until a query gives the same text by a region's own server as by the primary's.
    pub(crate) async fn replicated(&self, region: &str, query: &str) {
        let expected = self.server(US).connect().await.text(query).await;
        let server = self.server(region).connect().await;
        eventually(&format!("{region} has {expected:?} for {query}"), async || {
            (server.try_text(query).await.ok()? == expected).then_some(())
        })
        .await;
    }
}
