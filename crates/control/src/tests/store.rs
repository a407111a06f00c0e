//! The store: linearizable, at the end of connections that delay, lose, and are cut.

use crate::{Cause, Durability, Lease, Loaded, StoreWrite, Topology, Written};

use super::invariants::{Claimed, Invariant, Violation, violated};
use super::server::Mode;
use super::world::{Event, World};

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) topology: Option<(u64, Topology)>,
    lease: Option<(u64, Lease)>,
    version: u64,
    /// A bit for each region whose requests, and whose answers, are lost.
    pub(super) requests_cut: u8,
    pub(super) answers_cut: u8,
}

impl World {
    pub(super) fn write(&mut self, index: usize, write: StoreWrite) {
        let region = &mut self.regions[index];
        region.store_request += 1;
        let (number, process) = (region.store_request, region.process);
        region.writing = Some(number);
        self.log(|| {
            let to =
                write.topology.as_ref().map(|it| (it.epoch, it.primary.clone(), it.transition.is_some()));
            format!("r{index} writes {to:?} {:?}", write.lease.as_ref().map(|lease| lease.renewal))
        });
        if self.store.requests_cut >> index & 1 == 1 && self.rng.percent(50) {
            // Refused at once.
            let after = self.rng.between(100, 20_000);
            let answer = Ok(Written::Failed);
            return self.schedule(after, Event::StoreAnswers { region: index, process, number, answer });
        }
        self.request(index, number, Some(Box::new(write)));
    }

    pub(super) fn load(&mut self, index: usize) {
        let region = &mut self.regions[index];
        region.store_request += 1;
        let number = region.store_request;
        region.loading = Some(number);
        self.request(index, number, None);
    }

    fn request(&mut self, index: usize, number: u32, write: Option<Box<StoreWrite>>) {
        let process = self.regions[index].process;
        let timeout = self.rng.between(200_000, 600_000);
        if write.is_some() {
            self.schedule(timeout, Event::StoreTimeout { region: index, process, number });
        }
        if self.store.requests_cut >> index & 1 == 0 {
            let delay = if self.rng.percent(2) { self.rng.between(50_000, 4_000_000) } else { self.delay() };
            self.schedule(delay, Event::StoreArrives { region: index, process, number, write });
        }
    }

    pub(super) fn store_arrives(
        &mut self,
        index: usize,
        process: u64,
        number: u32,
        write: Option<Box<StoreWrite>>,
    ) -> Result<(), Violation> {
        let answer = match write {
            Some(write) => Ok(self.store_writes(index, *write)?),
            None => Err(Box::new(Loaded {
                topology: self.store.topology.clone(),
                lease: self.store.lease.clone(),
            })),
        };
        if self.store.answers_cut >> index & 1 == 0 && !self.rng.percent(1) {
            let delay = self.delay();
            self.schedule(delay, Event::StoreAnswers { region: index, process, number, answer });
        }
        Ok(())
    }

    fn store_writes(&mut self, index: usize, write: StoreWrite) -> Result<Written, Violation> {
        let version = |known: Option<u64>| known.unwrap_or(0);
        let topology = version(self.store.topology.as_ref().map(|(version, _)| *version));
        let lease = version(self.store.lease.as_ref().map(|(version, _)| *version));
        if write.expect_topology.is_some_and(|expected| expected != topology)
            || write.expect_lease.is_some_and(|expected| expected != lease)
        {
            return Ok(Written::Conflict);
        }
        if let Some(next) = &write.topology {
            self.judge_topology(index, next)?;
        }
        self.store.version += 1;
        let version = self.store.version;
        if let Some(next) = write.topology {
            self.log(|| {
                format!(
                    "   store {version}: {} {} {:?} by r{index}",
                    next.epoch, next.primary, next.transition
                )
            });
            self.store.topology = Some((version, next));
        }
        if let Some(next) = write.lease {
            self.store.lease = Some((version, next));
        }
        Ok(Written::Done)
    }

    /// Looks at a topology that is being written.
    fn judge_topology(&mut self, index: usize, next: &Topology) -> Result<(), Violation> {
        let before = self.store.topology.as_ref().map(|(_, topology)| topology);
        let was = before.map_or(0, |topology| topology.epoch.0);
        let claims = next.epoch.0 == was + 1;
        if next.epoch.0 != was && !claims {
            let what = format!("r{index} writes epoch {} after {was}", next.epoch);
            return violated(Invariant::EpochGrows, what);
        }
        if !claims {
            return Ok(());
        }
        if before.is_some_and(|topology| !topology.members.contains_key(&self.regions[index].id)) {
            return violated(Invariant::OneWriter, format!("r{index} claims and was removed"));
        }
        let cause = next.changes.last().map_or(Cause::Forced, |change| change.cause);
        if cause == Cause::Failover
            && let Some(writer) = (0..self.regions.len())
                .find(|other| *other != index && self.regions[*other].server.mode == Mode::Primary)
        {
            let what =
                format!("r{index} takes the lease in epoch {} while r{writer} takes writes", next.epoch);
            return violated(Invariant::LeaseBeforeWrite, what);
        }
        let sync = before.is_some_and(|topology| {
            topology.durability_in_force && matches!(topology.durability, Durability::Sync { .. })
        });
        // What is decided without an operator may lose what the policy allows.
        let asked_for = cause == Cause::Forced || self.regions.len() == 2 || !next.policy.automatic;
        let claimed = Claimed { by: index, cause, sync, careful: asked_for && self.careful[index] };
        let epochs = &mut self.witness.epochs;
        if epochs.is_empty() {
            epochs.push(claimed);
        }
        epochs.push(claimed);
        Ok(())
    }

    pub(super) fn store_answers(
        &mut self,
        index: usize,
        number: u32,
        answer: Result<Written, Box<Loaded>>,
    ) -> Result<(), Violation> {
        let now = self.now;
        let region = &mut self.regions[index];
        let local = region.local(now);
        let Some(controller) = &mut region.controller else { return Ok(()) };
        match answer {
            Err(loaded) => {
                controller.loaded(local, *loaded);
                if region.loading == Some(number) {
                    region.loading = None;
                }
            }
            Ok(written) if region.writing == Some(number) => {
                region.writing = None;
                controller.written(written);
                self.load(index);
            }
            Ok(_) => {}
        }
        self.poll(index)
    }

    pub(super) fn store_timeout(&mut self, index: usize, number: u32) -> Result<(), Violation> {
        if self.regions[index].writing == Some(number) {
            return self.store_answers(index, number, Ok(Written::Unknown));
        }
        Ok(())
    }
}
