//! Carries faults out, and undoes them.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pangea_base::RegionId;
use pangea_control::{StepKind, SwitchoverRequest};
use pangea_node::FailoverRequest;

use super::plan::{Fault, Part, SwitchoverStep, Target};
use super::processes;
use crate::http::{region_control, request_failover, request_switchover};
use crate::{Cluster, ClusterError};

/// How long transactions may keep a switchover waiting.
const SWITCHOVER_TIMEOUT_MS: u64 = 3000;
/// Longest wait for a step of a switchover to be seen.
const STEP_TIMEOUT: Duration = Duration::from_secs(6);
/// The name of the file that fills a disk.
const FILLER: &str = "filler";

/// What undoes a fault.
#[derive(Debug)]
pub(super) enum Undo {
    Nothing,
    Start(RegionId),
    Continue(Vec<Pid>),
    Restore(Vec<(RegionId, RegionId)>),
    Store(Vec<RegionId>),
    Disk(RegionId),
    Clock(RegionId),
}

/// The regions by their parts at a moment.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    pub(super) primary: RegionId,
    pub(super) others: Vec<RegionId>,
}

impl Cast {
    pub(super) fn region(&self, part: Part) -> &RegionId {
        let other = |index: usize| self.others.get(index).unwrap_or(&self.primary);
        match part {
            Part::Primary => &self.primary,
            Part::First => other(0),
            Part::Second => other(1),
        }
    }

    fn all(&self) -> Vec<RegionId> {
        [&self.primary].into_iter().chain(&self.others).cloned().collect()
    }
}

/// Who does it, to whom.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) cast: &'a Cast,
}

impl Stage<'_> {
    /// Lets a fault begin; what was done, and what undoes it.
    pub(super) async fn begin(&self, fault: Fault) -> Result<(String, Undo), ClusterError> {
        let name = |part: Part| self.cast.region(part).clone();
        Ok(match fault {
            Fault::Kill(target, part) => (String::new(), self.kill(target, &name(part)).await?),
            Fault::Stop(target, part) => (String::new(), self.stop(target, &name(part))),
            Fault::CutOneWay(from, to) => (String::new(), self.cut(vec![(name(from), name(to))])),
            Fault::CutBothWays(from, to) => {
                (String::new(), self.cut(vec![(name(from), name(to)), (name(to), name(from))]))
            }
            Fault::Isolate(part) => {
                let (own, all) = (name(part), self.cast.all());
                let others = all.iter().filter(|other| **other != own);
                let both =
                    others.flat_map(|other| [(own.clone(), other.clone()), (other.clone(), own.clone())]);
                (String::new(), self.cut(both.collect()))
            }
            Fault::StoreAway(part) => self.store_away(vec![name(part)]),
            Fault::StoreAwayForAll => self.store_away(self.cast.all()),
            Fault::DiskFull(part) => self.fill_disk(&name(part)).await,
            Fault::ClockStep(part, seconds) => {
                self.cluster.set_clock(&name(part), seconds)?;
                (String::new(), Undo::Clock(name(part)))
            }
            Fault::Switchover(to) => (self.switchover(&name(to)).await, Undo::Nothing),
            Fault::CrashAt(step, target, part) => self.crash_at(step, target, &name(part)).await?,
            Fault::ForcedFailover(part) => {
                let request = FailoverRequest { allow_data_loss: true };
                let answer = request_failover(self.cluster.layout(), &name(part), &request).await;
                (answer.unwrap_or_else(|error| error.to_string()), Undo::Nothing)
            }
            Fault::Unfenced => {
                let undo = self.stop(Target::Process, &self.cast.primary);
                let watchdog = processes::watchdog(&self.pgdata(&self.cast.primary));
                processes::signal(watchdog.as_slice(), Signal::SIGKILL);
                (format!("watchdog {watchdog:?} killed"), undo)
            }
        })
    }

    fn pgdata(&self, region: &RegionId) -> std::path::PathBuf {
        self.cluster.layout().region(region).join("pgdata")
    }

    async fn kill(&self, target: Target, region: &RegionId) -> Result<Undo, ClusterError> {
        match target {
            Target::Region => {
                self.cluster.kill_region(region).await?;
                Ok(Undo::Start(region.clone()))
            }
            Target::Process => {
                processes::signal(self.process(region).as_slice(), Signal::SIGKILL);
                Ok(Undo::Nothing)
            }
            Target::Server => {
                pangea_agent::kill_leftover(&self.pgdata(region)).await;
                Ok(Undo::Nothing)
            }
        }
    }

    fn process(&self, region: &RegionId) -> Option<Pid> {
        self.cluster.process_id(region).map(Pid::from_raw)
    }

    fn stop(&self, target: Target, region: &RegionId) -> Undo {
        let process = self.process(region).into_iter();
        let pids: Vec<Pid> = match target {
            Target::Region => process.chain(processes::servers(&self.pgdata(region))).collect(),
            Target::Process => process.collect(),
            Target::Server => processes::servers(&self.pgdata(region)),
        };
        processes::signal(&pids, Signal::SIGSTOP);
        Undo::Continue(pids)
    }

    fn cut(&self, directions: Vec<(RegionId, RegionId)>) -> Undo {
        for (from, to) in &directions {
            if let Some(link) = self.cluster.wan().and_then(|wan| wan.link(from, to).ok()) {
                link.cut();
            }
        }
        Undo::Restore(directions)
    }

    fn store_away(&self, regions: Vec<RegionId>) -> (String, Undo) {
        let problems = regions.iter().filter_map(|region| {
            self.cluster.layout().lead_store_astray(region).err().map(|error| error.to_string())
        });
        (problems.collect(), Undo::Store(regions))
    }

    async fn fill_disk(&self, region: &RegionId) -> (String, Undo) {
        let dir = self.cluster.layout().region(region);
        let filled = tokio::task::spawn_blocking(move || fill(&dir)).await;
        let said = match filled {
            Ok(Ok(bytes)) => format!("{} MiB were left", bytes >> 20),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        (said, Undo::Disk(region.clone()))
    }

    async fn switchover(&self, to: &RegionId) -> String {
        let request = SwitchoverRequest { to: to.clone(), timeout_ms: SWITCHOVER_TIMEOUT_MS, dry_run: false };
        match request_switchover(self.cluster.layout(), &self.cast.primary, &request).await {
            Ok(answer) if answer.transition.is_some() => format!("from {}, begins", self.cast.primary),
            Ok(answer) => {
                let failed = answer.checks.into_iter().filter(|check| !check.passed);
                failed.map(|check| format!("{}: {} ", check.name, check.found)).collect()
            }
            Err(error) => error.to_string(),
        }
    }

    async fn crash_at(
        &self,
        step: SwitchoverStep,
        target: Target,
        region: &RegionId,
    ) -> Result<(String, Undo), ClusterError> {
        let to = self.cast.region(Part::First);
        let told_by = match step {
            SwitchoverStep::Began
            | SwitchoverStep::Prepared
            | SwitchoverStep::Quiet
            | SwitchoverStep::Held
            | SwitchoverStep::Stopped => &self.cast.primary,
            SwitchoverStep::CaughtUp | SwitchoverStep::Claimed | SwitchoverStep::Writable => to,
        };
        let known = self.last_step(told_by).await;
        let said = self.switchover(to).await;
        let deadline = Instant::now() + STEP_TIMEOUT;
        while Instant::now() < deadline {
            let control = region_control(self.cluster.layout(), told_by).await;
            let steps = control.map(|control| control.steps).unwrap_or_default();
            if steps.iter().any(|found| found.at_us > known && is(&found.kind, step)) {
                let undo = self.kill(target, region).await?;
                return Ok((format!("{said}; {step} seen, killed {target} of {region}"), undo));
            }
        }
        Ok((format!("{said}; {step} not seen"), Undo::Nothing))
    }

    async fn last_step(&self, region: &RegionId) -> u64 {
        let control = region_control(self.cluster.layout(), region).await;
        control.ok().and_then(|control| Some(control.steps.last()?.at_us)).unwrap_or_default()
    }
}

fn is(kind: &StepKind, step: SwitchoverStep) -> bool {
    match kind {
        StepKind::Began => step == SwitchoverStep::Began,
        StepKind::Prepared => step == SwitchoverStep::Prepared,
        StepKind::Quiet => step == SwitchoverStep::Quiet,
        StepKind::Held => step == SwitchoverStep::Held,
        StepKind::Stopped { .. } => step == SwitchoverStep::Stopped,
        StepKind::CaughtUp => step == SwitchoverStep::CaughtUp,
        StepKind::Claimed { .. } => step == SwitchoverStep::Claimed,
        StepKind::Writable => step == SwitchoverStep::Writable,
        StepKind::RolledBack { .. } | StepKind::Fenced { .. } => false,
    }
}

/// Undoes a fault. Does no harm when there is nothing to undo.
pub(super) async fn end(cluster: &Cluster, undo: &Undo) -> Result<(), ClusterError> {
    match undo {
        Undo::Nothing => {}
        Undo::Start(region) => cluster.start_region(region).await?,
        Undo::Continue(pids) => processes::signal(pids, Signal::SIGCONT),
        Undo::Restore(directions) => {
            let links = directions.iter().filter_map(|(from, to)| cluster.wan()?.link(from, to).ok());
            links.for_each(|link| link.restore());
        }
        Undo::Store(regions) => {
            for region in regions {
                cluster.layout().lead_store(region)?;
            }
        }
        Undo::Disk(region) => {
            let _ = std::fs::remove_file(cluster.layout().region(region).join(FILLER));
        }
        Undo::Clock(region) => cluster.set_clock(region, 0)?,
    }
    Ok(())
}

/// Takes what is left of a disk; how many bytes that was. A disk that others use too is left alone.
fn fill(dir: &Path) -> std::io::Result<usize> {
    use std::os::unix::fs::MetadataExt as _;
    let above = dir.parent().unwrap_or(dir);
    if std::fs::metadata(dir)?.dev() == std::fs::metadata(above)?.dev() {
        return Err(std::io::Error::other("it has no disk of its own"));
    }
    let mut file = std::fs::File::create(dir.join(FILLER))?;
    let mut bytes = 0;
    for size in [1 << 20, 4096, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {
            bytes += size;
        }
    }
    Ok(bytes)
}
