//! What drives a region's server: the agent, which follows its controller, and the watchdog, which follows the lease.

use crate::Desired;

use super::invariants::Violation;
use super::server::{Action, Mode};
use super::world::{Event, Flaw, World};

impl World {
    /// Makes the server what it is to be.
    pub(super) fn drive(&mut self, index: usize, desired: Desired) {
        let flaw = self.flaw;
        let region = &self.regions[index];
        let (epoch, own) =
            region.gate.as_ref().map_or((0, false), |gate| (gate.epoch.0, gate.primary == region.id));
        let (mode, action) = (region.server.mode, region.server.action);
        let begin = match (desired, mode, action) {
            (Desired::Undecided, ..) => None,
            (Desired::Standby, Mode::Primary, _) if flaw == Flaw::NoFencing && own => None,
            (Desired::Standby, Mode::Primary, Some(Action::Kill)) => None,
            (Desired::Standby, Mode::Primary, _)
            | (Desired::Standby | Desired::Stopped, _, Some(Action::Promote | Action::StartPrimary)) => {
                Some(Action::Kill)
            }
            (_, _, Some(_)) => None,
            (Desired::Primary, Mode::Down, None) if region.server.primary_in == Some(epoch) => {
                Some(Action::StartPrimary)
            }
            (Desired::Primary | Desired::Standby, Mode::Down, None) => Some(Action::StartStandby),
            (Desired::Primary, Mode::Standby, None) => Some(Action::Promote),
            (Desired::Stopped, Mode::Primary | Mode::Standby, None) => Some(Action::Stop),
            (Desired::Primary, Mode::Primary, None)
            | (Desired::Standby, Mode::Standby, None)
            | (Desired::Stopped, Mode::Down, None) => None,
        };
        if let Some(action) = begin {
            self.begin(index, action);
        }
    }

    pub(super) fn begin(&mut self, index: usize, action: Action) {
        let takes = match action {
            Action::Kill => self.rng.between(0, 30_000),
            Action::Stop if self.rng.percent(5) => self.rng.between(500_000, 2_000_000),
            _ => self.rng.between(10_000, 200_000),
        };
        self.log(|| format!("r{index} {action:?} takes {} ms", takes / 1000));
        let generation = self.regions[index].server.begin(action);
        self.schedule(takes, Event::ServerDone { region: index, generation });
    }

    pub(super) fn server_done(&mut self, index: usize, generation: u32) -> Result<(), Violation> {
        if self.regions[index].server.generation != generation {
            return Ok(());
        }
        let Some(action) = self.regions[index].server.action.take() else { return Ok(()) };
        let now = self.now;
        let region = &mut self.regions[index];
        let server = &mut region.server;
        match action {
            Action::StartStandby => {
                server.as_standby();
                server.mode = Mode::Standby;
            }
            Action::Rewind(to) => {
                server.rewind(to);
                server.mode = Mode::Standby;
            }
            Action::Kill => self.kill(index),
            Action::Stop => self.stopped(index),
            Action::StartPrimary | Action::Promote => {
                let late = region.deadline.is_none_or(|deadline| deadline <= now);
                if late && self.flaw != Flaw::NoFencing {
                    self.kill(index);
                } else {
                    self.out_of_recovery(index, action == Action::Promote)?;
                }
            }
        }
        let region = &self.regions[index];
        if region.controller.is_some() && region.paused_until <= self.now {
            self.report(index);
            return self.poll(index);
        }
        Ok(())
    }

    fn out_of_recovery(&mut self, index: usize, promoted: bool) -> Result<(), Violation> {
        let region = &mut self.regions[index];
        // A promotion goes on when the process ends; then nobody else knows its epoch.
        let epoch = region.gate.as_ref().map(|gate| gate.epoch.0);
        let Some(epoch) = epoch else {
            self.kill(index);
            return Ok(());
        };
        self.timelines += u32::from(promoted);
        region.server.become_primary(epoch, promoted.then_some(self.timelines));
        self.configure(index);
        self.log(|| format!("r{index} out of recovery in epoch {epoch}"));
        let (regions, wal) = (&self.regions, &self.regions[index].server.wal);
        let servers = regions.iter().map(|region| &region.server).enumerate();
        self.witness.writable(index, epoch, servers, wal)
    }

    /// The watchdog.
    pub(super) fn bite(&mut self, index: usize) {
        let server = &self.regions[index].server;
        let writes = server.mode == Mode::Primary
            || matches!(server.action, Some(Action::Promote | Action::StartPrimary));
        if writes && self.flaw != Flaw::NoFencing {
            self.log(|| format!("r{index} watchdog"));
            self.kill(index);
        }
    }

    pub(super) fn kill(&mut self, index: usize) {
        for (_, _, from) in self.regions[index].server.die() {
            self.write_ends(from);
        }
        // Whoever streams from it notices, even when it is back before anybody looks.
        for region in &mut self.regions {
            region.server.upstream = region.server.upstream.filter(|(upstream, _)| *upstream != index);
        }
    }
}
