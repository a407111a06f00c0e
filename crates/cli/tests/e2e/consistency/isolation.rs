//! Transactions of all regions on lists, judged by `adya`: is what comes out the isolation level that was asked for?
//!
//! `adya` generates the transactions (reads of lists and appends to them), keeps the history and infers from the lists
//! which transaction must have come before which; a cycle is an anomaly. This module is its client for Pangea: one
//! connection per process, processes in turn at the cluster endpoints of the regions. `adya`'s own client for
//! PostgreSQL takes every error in answer to a COMMIT for a rollback; a gateway may also answer that it does not know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adya::r#gen::TxnOp;
use adya::run::{Client, Outcome, RunOpts, parse_list};
use adya::{History, Opts, Report, Valid, Workload};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_postgres::Error;

use super::disturb::{calm, delay_replay};
use super::{ROUND_TRIP, seed};
use crate::support::{AP, Database, EU, Lab, Session, US, code, history_seconds};

const TABLE: &str = "CREATE TABLE lists (key bigint PRIMARY KEY, val text NOT NULL)";
const APPEND: &str = "INSERT INTO lists AS list VALUES ($1, $2::text) \
                      ON CONFLICT (key) DO UPDATE SET val = list.val || ',' || excluded.val";
const READ: &str = "SELECT val FROM lists WHERE key = $1";
/// How many clients there are in all.
const PROCESSES: usize = 24;
/// Few, so that transactions meet.
const KEYS: usize = 4;
const APPENDS_PER_KEY: u64 = 24;
/// What CI gives each level: the one or the other.
const TRANSACTIONS: usize = 500;
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// A longer run gives each level this at most: judging takes longer than recording then.
const SECONDS_MAX: u64 = 45;
/// How late replay is: reads of the secondary regions, where they are allowed, find old lists.
const DELAY_MS: u32 = 100;

/// What one level is asked for and what came of it.
struct Trial {
    history: History,
    level: &'static str,
}

/// Where processes are.
#[derive(Clone)]
struct Seat {
    database: Database,
    /// Between a process's transactions.
    pause: Duration,
    committed: Arc<AtomicUsize>,
}

/// One process.
struct Process {
    runtime: Handle,
    session: Session,
    begin: String,
    seat: Seat,
}

impl Process {
    async fn statements(&self, ops: &[TxnOp]) -> Result<Vec<Option<Vec<i64>>>, Error> {
        self.session.batch_execute(&self.begin).await?;
        let mut reads = Vec::with_capacity(ops.len());
        for op in ops {
            reads.push(match op {
                TxnOp::Append(key, value) | TxnOp::Write(key, value) => {
                    self.session.execute(APPEND, &[key, &value.to_string()]).await?;
                    None
                }
                TxnOp::Read(key) => {
                    let row = self.session.query_opt(READ, &[key]).await?;
                    Some(parse_list(row.as_ref().map(|row| row.get(0))))
                }
            });
        }
        Ok(reads)
    }

    async fn transaction(&self, ops: &[TxnOp]) -> Outcome {
        let reads = match self.statements(ops).await {
            Ok(reads) => reads,
            Err(error) => {
                // A transaction whose COMMIT was never sent has not happened.
                let _ = self.session.batch_execute("ROLLBACK").await;
                return Outcome::Fail(error.to_string());
            }
        };
        match self.session.batch_execute("COMMIT").await {
            Ok(()) => Outcome::Ok(reads),
            Err(error) if code(&error).starts_with("40") => Outcome::Fail(error.to_string()),
            Err(error) => Outcome::Info(error.to_string()),
        }
    }
}

impl Client for Process {
    fn txn(&mut self, ops: &[TxnOp]) -> Outcome {
        let outcome = self.runtime.clone().block_on(async {
            sleep(self.seat.pause).await;
            self.transaction(ops).await
        });
        if matches!(outcome, Outcome::Ok(_)) {
            self.seat.committed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn healthy(&mut self) -> bool {
        !self.session.is_closed()
    }
}

/// Runs transactions at a level by several databases in turn. `adya` has threads; so have its clients.
async fn record(lab: &Lab, seats: Vec<Seat>, level: &'static str) -> Trial {
    let us = lab.connect(US).await;
    us.run(&format!("DROP TABLE IF EXISTS lists; {TABLE}")).await;
    for region in [EU, AP] {
        lab.replicated(region, "SELECT 'lists'::regclass::oid").await;
    }
    delay_replay(lab, DELAY_MS).await;
    let runtime = Handle::current();
    let seed = seed();
    let longer = history_seconds().map(|seconds| Duration::from_secs(seconds.min(SECONDS_MAX)));
    let opts = RunOpts {
        processes: PROCESSES,
        txns: if longer.is_some() { usize::MAX } else { TRANSACTIONS },
        time_limit: Some(longer.unwrap_or(TIME_LIMIT)),
        r#gen: adya::r#gen::GenOpts {
            key_count: KEYS,
            max_writes_per_key: APPENDS_PER_KEY,
            ..adya::r#gen::GenOpts::default()
        },
        seed,
        nemesis: None,
    };
    let began = Instant::now();
    let committed: Vec<_> = seats.iter().map(|seat| seat.committed.clone()).collect();
    let run = tokio::task::spawn_blocking(move || {
        let next = AtomicUsize::new(0);
        let connect = || -> Result<Box<dyn Client>, adya::Error> {
            let seat = seats[next.fetch_add(1, Ordering::Relaxed) % seats.len()].clone();
            let session = runtime.block_on(seat.database.try_connect());
            let session = session.map_err(|error| adya::Error::new(error.to_string()))?;
            let begin = format!("BEGIN ISOLATION LEVEL {level}");
            Ok(Box::new(Process { runtime: runtime.clone(), session, begin, seat }))
        };
        adya::run::run(&connect, &opts)
    });
    let (history, stats) = run.await.unwrap().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    calm(lab).await;
    eprintln!(
        "    {level}: {} committed {committed:?}, {} rolled back, {} unknown in {seconds:.1} s, seed {seed}",
        stats.ok, stats.fail, stats.info
    );
    Trial { history: History::parse(&history).unwrap(), level }
}

impl Trial {
    /// Judges the history by a model of consistency.
    fn judge(&self, model: &str) -> Report {
        assert!(adya::model::canonical(model).is_some(), "{model}");
        let opts =
            Opts { models: vec![model.to_owned()], timeout: Duration::from_secs(20), ..Opts::default() };
        adya::check(&self.history, Workload::ListAppend, &opts)
    }

    fn must_be(&self, model: &str) {
        let report = self.judge(model);
        let shown = report.anomalies.values().filter_map(|found| found.first());
        let shown: Vec<&str> = shown.map(|anomaly| anomaly.explanation.as_str()).collect();
        assert_eq!(
            report.valid,
            Valid::True,
            "{} is not {model}: {:?}\n{}",
            self.level,
            report.anomaly_types,
            shown.join("\n")
        );
    }

    /// What the history shows when nothing is allowed to be amiss but the order in real time.
    fn anomalies(&self) -> BTreeSet<String> {
        self.judge("serializable").anomaly_types.into_iter().collect()
    }
}

/// Processes in all regions. Those of the primary region have no way to go and would do nearly all of the work: they
/// pause for as long as the others travel.
fn everywhere(lab: &Lab) -> Vec<Seat> {
    let seat = |region| Seat {
        database: lab.at(region),
        pause: if region == US { ROUND_TRIP } else { Duration::ZERO },
        committed: Arc::default(),
    };
    [US, EU, AP].map(seat).to_vec()
}

/// For comparison: as many processes at the primary's server itself.
fn directly(lab: &Lab) -> Vec<Seat> {
    vec![Seat { database: lab.server(US), pause: Duration::ZERO, committed: Arc::default() }]
}

pub(super) async fn serializable_transactions_of_all_regions_are_that(lab: &Lab) {
    let trial = record(lab, everywhere(lab), "SERIALIZABLE").await;
    trial.must_be("serializable");
}

pub(super) async fn repeatable_read_transactions_of_all_regions_have_snapshots(lab: &Lab) {
    let trial = record(lab, everywhere(lab), "REPEATABLE READ").await;
    trial.must_be("snapshot-isolation");
    let found = trial.anomalies();
    let direct = record(lab, directly(lab), "REPEATABLE READ").await;
    direct.must_be("snapshot-isolation");
    eprintln!("    anomalies: {found:?}; PostgreSQL itself: {:?}", direct.anomalies());
    // Write skew, which PostgreSQL allows here: the level is not a higher one in disguise, and the checker sees.
    assert_eq!(found, BTreeSet::from(["G2-item".to_owned()]));
}

pub(super) async fn read_committed_transactions_of_all_regions_read_what_is_committed(lab: &Lab) {
    let trial = record(lab, everywhere(lab), "READ COMMITTED").await;
    trial.must_be("read-committed");
    let found = trial.anomalies();
    let direct = record(lab, directly(lab), "READ COMMITTED").await;
    direct.must_be("read-committed");
    eprintln!("    anomalies: {found:?}; PostgreSQL itself: {:?}", direct.anomalies());
    // Two statements of a transaction may see different data: this is no higher level either.
    assert!(!found.is_empty());
}
