//! Faults of all kinds against a real cluster whose clients go on writing, and whether the invariants held.
//!
//! A round: writers in all regions; one or two faults ([`Plan`], chosen by a seed); everything is healed; within a
//! bounded time one region must take writes and all others stream from it, with nobody's help; then what clients were
//! told is compared with what the servers hold and what was reported as lost ([`check()`]).
//!
//! The choices of a round are repeatable by its seed, their timing is not: processes run as they please.

mod check;
mod client;
mod faults;
mod plan;
mod processes;
mod record;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pangea_base::RegionId;
use pangea_control::Cause;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

pub use check::{Evidence, Invariant, Table, Verdict, check};
pub use plan::{Fault, Menu, Part, Plan, SwitchoverStep, Target, Timed};
pub use record::{Outcome, Reign, RowId, Via, Write, WriterId};

use crate::history::Rng;
use crate::{Cluster, ClusterError};
use client::{Address, Log, Session, Writer};
use faults::{Cast, Stage, Undo};
use state::Newest;

/// Writers in each region.
const WRITERS: usize = 2;
/// The numbers of those that hold on to the server of a region whose process is stopped, and of all counters.
const HOLDERS: std::ops::Range<i32> = 90..93;
const COUNTERS: i32 = 100;
/// Longest wait for the cluster to be whole again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Writers go on for so long once it is.
const AFTERMATH: Duration = Duration::from_millis(300);

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A fault could not be carried out.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cluster was not whole to begin with.
    #[error("the cluster is not as it should be before a round: {0}")]
    NotReady(String),
}

/// What a round was like.
#[derive(Debug)]
pub struct RoundReport {
    /// Its number.
    pub number: u32,
    /// What was to be done.
    pub plan: Plan,
    /// What was done, with the time since the round began.
    pub notes: Vec<String>,
    /// Whether the invariants held.
    pub verdict: Verdict,
    /// Writes that were acknowledged, failed, and of unknown outcome.
    pub writes: [usize; 3],
    /// What clients were told instead of an acknowledgement, and how often.
    pub troubles: BTreeMap<String, usize>,
    /// Acknowledged rows that this round has lost, and rows that it has reported.
    pub lost: [usize; 2],
    /// How the primary changed.
    pub causes: Vec<Cause>,
    /// How long the cluster took to be whole again.
    pub settled: Duration,
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [acknowledged, failed, unknown] = self.writes;
        let [lost, reported] = self.lost;
        let word = if self.verdict.holds() { "ok" } else { "VIOLATED" };
        write!(f, "{word} round {} {} moves {:?}, ", self.number, self.plan, self.causes)?;
        write!(f, "writes {acknowledged}+{failed}+{unknown}?, lost {lost}, reported {reported}, ")?;
        write!(f, "whole after {:.1} s", self.settled.as_secs_f64())?;
        for (said, count) in &self.troubles {
            write!(f, "\n        {count} times: {said}")?;
        }
        if !self.verdict.holds() {
            write!(f, "\n{}", self.verdict)?;
            for note in &self.notes {
                write!(f, "\n    {note}")?;
            }
        }
        Ok(())
    }
}

/// Rounds against one cluster.
#[derive(Debug)]
pub struct Chaos<'a> {
    cluster: &'a Cluster,
    lease: Duration,
    log: Arc<Log>,
    round: u32,
    lost: BTreeSet<RowId>,
    /// Rows that earlier rounds have reported.
    reported: usize,
    /// Reports of before the tables were made.
    old_reports: BTreeSet<String>,
}

impl<'a> Chaos<'a> {
    /// Makes the tables. `lease` is how long the cluster's are good for.
    ///
    /// # Errors
    /// When the cluster does not work.
    pub async fn begin(cluster: &'a Cluster, lease: Duration) -> Result<Self, ChaosError> {
        let mut chaos = Self {
            cluster,
            lease,
            log: Arc::new(Log::new()),
            round: 0,
            lost: BTreeSet::new(),
            reported: 0,
            old_reports: BTreeSet::new(),
        };
        chaos.reset().await?;
        Ok(chaos)
    }

    /// Makes the tables anew: what was found once is not found again in the next round.
    ///
    /// # Errors
    /// When the cluster does not work.
    pub async fn reset(&mut self) -> Result<(), ChaosError> {
        self.wait_whole().await.map_err(ChaosError::NotReady)?;
        let cast = self.cast().await.ok_or_else(|| ChaosError::NotReady("no primary".to_owned()))?;
        let counters = format!(
            "{}; INSERT INTO chaos_counter SELECT writer, 0 FROM generate_series(0, {}) AS writer",
            client::TABLES,
            COUNTERS - 1
        );
        let made = async { Session::open(&self.address(&cast.primary)).await?.rows(&counters).await };
        made.await.map_err(|trouble| ChaosError::NotReady(trouble.to_string()))?;
        self.log.writes().clear();
        (self.lost, self.reported) = (BTreeSet::new(), 0);
        self.old_reports = state::reports(self.cluster).into_keys().collect();
        Ok(())
    }

    fn address(&self, region: &RegionId) -> Address {
        match self.cluster.endpoint(region) {
            Ok(entry) => Address::endpoint(entry.cluster, self.cluster.password()),
            Err(_) => self.server(region),
        }
    }

    fn server(&self, region: &RegionId) -> Address {
        Address::server(&self.cluster.layout().region(region).join("run"))
    }

    /// The parts as they are now, as far as is known.
    async fn cast(&self) -> Option<Cast> {
        let primary = state::newest(self.cluster).await?.primary;
        let manifest = self.cluster.manifest();
        let regions = manifest.regions.iter().map(|entry| entry.name.clone());
        let mut others: Vec<RegionId> = regions.filter(|region| *region != primary).collect();
        others.sort();
        Some(Cast { primary, others })
    }

    async fn wait_whole(&self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            match state::whole(self.cluster).await {
                Ok(()) => return Ok(began.elapsed()),
                Err(problem) if began.elapsed() >= SETTLE_TIMEOUT => return Err(problem),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Carries out a plan, heals everything and checks.
    ///
    /// # Errors
    /// When the round could not be carried out. What it did to the cluster is no error but a verdict.
    pub async fn round(&mut self, plan: Plan) -> Result<RoundReport, ChaosError> {
        self.round += 1;
        let ready = self.wait_whole().await;
        ready.map_err(ChaosError::NotReady)?;
        let before = state::newest(self.cluster).await;
        let before = before.ok_or_else(|| ChaosError::NotReady("no primary".to_owned()))?;
        let sync = state::set_durability(self.cluster, plan.sync).await && plan.sync;
        let mut notes = Vec::new();
        if plan.sync && !sync {
            notes.push("sync did not come into force".to_owned());
        }
        let (stop, told) = watch::channel(false);
        let mut clients = self.writers(plan.seed, &told);
        let carried_out = self.carry_out(&plan, &mut clients, &mut notes).await;
        let healed = Instant::now();
        let whole = self.wait_whole().await;
        sleep(AFTERMATH).await;
        stop.send_replace(true);
        clients.join_all().await;
        carried_out?;
        let tables = match whole {
            Ok(_) => self.tables(healed).await,
            Err(problem) => Err(problem),
        };
        Ok(self.judge(plan, notes, &before, sync, tables, healed.elapsed()).await)
    }

    /// What all servers hold, once they can be asked; within the time that the cluster has to be whole again.
    async fn tables(&self, healed: Instant) -> Result<BTreeMap<RegionId, Table>, String> {
        loop {
            match state::tables(self.cluster, |region| self.server(region)).await {
                Ok(tables) => return Ok(tables),
                Err(problem) if healed.elapsed() >= SETTLE_TIMEOUT => return Err(problem),
                Err(_) => self.wait_whole().await?,
            };
        }
    }

    fn writers(&self, seed: u64, told: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let mut writers = JoinSet::new();
        let manifest = self.cluster.manifest();
        let regions = &manifest.regions;
        let places = regions.iter().flat_map(|entry| std::iter::repeat_n(&entry.name, WRITERS));
        for (number, region) in (0..).zip(places) {
            let via = Via::Endpoint(region.clone());
            let writer = self.writer(number, via, self.address(region));
            writers.spawn(writer.run(rng.fork(), told.clone()));
        }
        writers
    }

    fn writer(&self, number: i32, via: Via, address: Address) -> Writer {
        let log = Arc::clone(&self.log);
        Writer { log, round: self.round, id: WriterId(number), via, address }
    }

    async fn carry_out(
        &self,
        plan: &Plan,
        clients: &mut JoinSet<()>,
        notes: &mut Vec<String>,
    ) -> Result<(), ClusterError> {
        let began = Instant::now();
        let mut undos: Vec<(Duration, String, Undo)> = Vec::new();
        let mut faults = plan.faults.iter().peekable();
        let mut problem = None;
        loop {
            undos.sort_by_key(|(due, ..)| *due);
            let next_end = undos.first().map(|(due, ..)| *due);
            let next_begin = faults.peek().map(|timed| timed.after);
            let Some(due) = next_end.into_iter().chain(next_begin).min() else { break };
            sleep_until((began + due).into()).await;
            let at = |text: String| format!("{:6.3} s  {text}", began.elapsed().as_secs_f64());
            if next_end == Some(due) {
                let (_, name, undo) = undos.remove(0);
                notes.push(at(format!("{name} ends")));
                problem = faults::end(self.cluster, &undo).await.err().or(problem);
            } else if let Some(Timed { lasts, fault, .. }) = faults.next() {
                let Some(cast) = self.cast().await else { continue };
                if matches!(fault, Fault::Stop(Target::Process, Part::Primary) | Fault::Unfenced) {
                    self.hold(&cast.primary, *lasts, clients).await;
                }
                notes.push(at(format!("{fault}, {} being the primary", cast.primary)));
                match (Stage { cluster: self.cluster, cast: &cast }).begin(*fault).await {
                    Ok((said, undo)) => {
                        notes.push(at(said));
                        undos.push((began.elapsed() + *lasts, fault.to_string(), undo));
                    }
                    Err(error) => problem = Some(error),
                }
            }
        }
        // Two faults may have overlapped, and a region that was killed may have been stopped.
        for entry in &self.cluster.manifest().regions {
            self.cluster.start_region(&entry.name).await?;
        }
        problem.map_or(Ok(()), Err)
    }

    /// Sessions at the server of a region whose process is about to be stopped: whatever keeps it from writing must
    /// do so without the process.
    async fn hold(&self, region: &RegionId, lasts: Duration, clients: &mut JoinSet<()>) {
        let (via, address) = (Via::Server(region.clone()), self.server(region));
        let mut sessions = Vec::new();
        for number in HOLDERS {
            if let Ok(session) = Session::open(&address).await {
                sessions.push((self.writer(number, via.clone(), address.clone()), session));
            }
        }
        let late = self.lease + self.lease / 2;
        for (number, (writer, session)) in sessions.into_iter().enumerate() {
            match number {
                0 => clients.spawn(writer.hold_on(session, lasts)),
                1 => clients.spawn(writer.hold_statement(session, late)),
                _ => clients.spawn(writer.hold_transaction(session, late)),
            };
        }
    }

    async fn judge(
        &mut self,
        plan: Plan,
        mut notes: Vec<String>,
        before: &Newest,
        sync: bool,
        tables: Result<BTreeMap<RegionId, Table>, String>,
        settled: Duration,
    ) -> RoundReport {
        let (tables, problem) = match tables {
            Ok(tables) => (tables, None),
            Err(problem) => (BTreeMap::new(), Some(problem)),
        };
        let mut reports = state::reports(self.cluster);
        reports.retain(|name, _| !self.old_reports.contains(name));
        let reported: Vec<(String, RowId)> = reports
            .into_iter()
            .flat_map(|(name, rows)| rows.into_iter().map(move |row| (name.clone(), row)))
            .collect();
        let causes = state::causes_since(self.cluster, before.epoch).await;
        let writes = self.log.writes().clone();
        let (round, lost_before) = (self.round, &self.lost);
        let evidence = Evidence {
            round,
            writes: &writes,
            tables: &tables,
            reported: &reported,
            lost_before,
            causes: &causes,
            sync,
        };
        let mut verdict = check(&evidence);
        if let Some(problem) = problem {
            verdict.add(Invariant::Recovers, problem);
        }
        let of_round = || writes.iter().filter(|write| write.round == round);
        let count = |wanted: fn(&Outcome) -> bool| of_round().filter(|write| wanted(&write.outcome)).count();
        let mut troubles = BTreeMap::new();
        for write in of_round().filter(|write| write.reign().is_none()) {
            *troubles.entry(write.said.clone()).or_default() += 1;
        }
        let lost = [verdict.lost.difference(lost_before).count(), reported.len() - self.reported];
        self.reported = reported.len();
        self.lost.clone_from(&verdict.lost);
        notes.push(format!("epoch {} before, {:?} since", before.epoch.0, causes));
        RoundReport {
            number: round,
            plan,
            notes,
            verdict,
            writes: [
                count(|outcome| matches!(outcome, Outcome::Acknowledged(_))),
                count(|outcome| *outcome == Outcome::Failed),
                count(|outcome| *outcome == Outcome::Unknown),
            ],
            troubles,
            lost,
            causes,
            settled,
        }
    }
}
