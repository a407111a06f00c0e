//! What flows: the stream of the log, and clients' writes.

use crate::{Durability, Scope, TopologyChange};

use super::invariants::Violation;
use super::server::{Action, Mode};
use super::world::{Event, World};

impl World {
    fn primary_of(&self, index: usize) -> Option<(usize, u64)> {
        let gate = self.regions[index].gate.as_ref()?;
        let primary = self.regions.iter().position(|region| region.id == gate.primary)?;
        Some((primary, gate.epoch.0))
    }

    fn process_runs(&self, index: usize) -> bool {
        let region = &self.regions[index];
        region.controller.is_some() && region.paused_until <= self.now
    }

    /// A standby connects to the primary that its gateway knows, through that one's gateway.
    pub(super) fn stream(&mut self, index: usize) -> Result<(), Violation> {
        let server = &self.regions[index].server;
        if server.mode != Mode::Standby || server.action.is_some() {
            return Ok(());
        }
        let Some((primary, epoch)) = self.primary_of(index) else { return Ok(()) };
        let open = primary != index
            && self.process_runs(primary)
            && self.connected(index, primary)
            && self.primary_of(primary) == Some((primary, epoch))
            && self.regions[primary].server.mode == Mode::Primary;
        if !open {
            self.regions[index].server.upstream = None;
            return Ok(());
        }
        if self.regions[index].server.upstream.is_some() {
            return Ok(());
        }
        let theirs = &self.regions[primary].server.wal;
        let (common, own) = (server.common(theirs), server.wal.len());
        if common < own {
            // What it has and the primary has not is kept, and taken off its disk.
            self.log(|| format!("r{index} has diverged from r{primary} at {common} of {own}"));
            let lost = self.regions[index].server.wal[common..].to_vec();
            self.witness.diverged(&lost);
            self.kill(index);
            self.begin(index, Action::Rewind(common));
            return Ok(());
        }
        self.connections += 1;
        let connection = self.connections;
        self.regions[index].server.upstream = Some((primary, connection));
        self.regions[index].server.shipping = false;
        self.send(primary, index);
        Ok(())
    }

    /// Sends what the standby has not, when nothing is on its way to it.
    fn send(&mut self, from: usize, to: usize) {
        let entries = self.regions[from].server.wal.len();
        let Some((upstream, connection)) = self.regions[to].server.upstream else { return };
        if upstream == from && !self.regions[to].server.shipping {
            self.regions[to].server.shipping = true;
            let delay = self.delay();
            self.schedule(delay, Event::Ship { from, to, connection, entries, last: false });
        }
    }

    pub(super) fn ship(&mut self, from: usize, to: usize, connection: u32, entries: usize, last: bool) {
        if self.regions[to].server.upstream != Some((from, connection)) {
            return;
        }
        let over = self.regions[from].controller.is_none()
            || self.regions[to].controller.is_none()
            || !self.connected(from, to)
            || (self.regions[from].server.mode != Mode::Primary && !last);
        if over {
            self.regions[to].server.upstream = None;
            return;
        }
        let paused = self.regions[from].paused_until.max(self.regions[to].paused_until);
        if paused > self.now {
            let after = paused - self.now;
            return self.schedule(after, Event::Ship { from, to, connection, entries, last });
        }
        let received = std::mem::take(&mut self.regions[from].server.wal);
        let standby = &mut self.regions[to].server;
        standby.shipping = false;
        if entries <= received.len() && standby.wal.len() <= entries {
            debug_assert_eq!(standby.common(&received), standby.wal.len());
            standby.receive(&received[..entries]);
        }
        let entries = standby.wal.len();
        let more = received.len() > entries;
        self.regions[from].server.wal = received;
        if last {
            self.regions[to].server.upstream = None;
            return;
        }
        let generation = self.regions[from].server.generation;
        let delay = self.delay();
        self.schedule(delay, Event::Flushed { from: to, to: from, generation, entries });
        if more {
            self.send(from, to);
        }
    }

    pub(super) fn flushed(&mut self, from: usize, to: usize, generation: u32, entries: usize) {
        let server = &mut self.regions[to].server;
        if server.generation == generation && server.mode == Mode::Primary {
            server.flushed[from] = server.flushed[from].max(entries);
            self.acknowledge(to);
        }
    }

    /// Acknowledges the writes that are as safe as they must be.
    fn acknowledge(&mut self, index: usize) {
        let server = &mut self.regions[index].server;
        let pending = std::mem::take(&mut server.pending);
        let (safe, wait) = pending.into_iter().partition(|(entries, ..)| server.safe(*entries));
        server.pending = wait;
        let safe: Vec<(usize, u32, usize)> = safe;
        for (_, write, from) in safe {
            self.witness.acknowledge(write);
            self.write_ends(from);
        }
    }

    /// The server has shut down in order.
    pub(super) fn stopped(&mut self, index: usize) {
        if self.regions[index].server.mode == Mode::Primary {
            self.regions[index].server.shut_down(self.connections);
            let entries = self.regions[index].server.wal.len();
            for other in 0..self.regions.len() {
                if let Some((upstream, connection)) = self.regions[other].server.upstream
                    && upstream == index
                {
                    let delay = self.delay();
                    let last = true;
                    self.schedule(delay, Event::Ship { from: index, to: other, connection, entries, last });
                }
            }
        }
        self.kill(index);
    }

    /// A primary's commits wait for as many regions as the topology says.
    pub(super) fn configure(&mut self, index: usize) {
        let count = self.regions.len();
        let region = &mut self.regions[index];
        let Some(topology) = region.controller.as_ref().and_then(|it| it.topology()) else { return };
        let wanted = match topology.durability {
            Durability::Async | Durability::Bounded { .. } => (0, 0),
            Durability::Sync { regions } => {
                let counts = |other: usize| {
                    let member = topology.members.get(&super::world::name(other));
                    u8::from(other != index && member.is_some_and(|member| !member.drained)) << other
                };
                (regions, (0..count).map(counts).sum())
            }
        };
        if region.server.sync != wanted {
            region.server.sync = wanted;
            region.server.sync_since = region.server.wal.len();
        }
    }

    /// The primary's agent follows the topology's durability, and says when that is in force.
    pub(super) fn put_in_force(&mut self, index: usize) {
        if self.regions[index].server.mode != Mode::Primary || !self.regions[index].writable(self.now) {
            return;
        }
        self.configure(index);
        self.acknowledge(index);
        let region = &self.regions[index];
        let Some(topology) = region.controller.as_ref().and_then(|it| it.topology()) else { return };
        if !topology.durability_in_force && region.server.safe(region.server.sync_since) {
            let durability = topology.durability;
            self.change(index, TopologyChange::InForce(durability));
        }
    }

    /// A client writes.
    pub(super) fn client(&mut self, index: usize) {
        if self.healed.is_none_or(|healed| self.now < healed + 1_000_000) {
            let pause = self.rng.between(60_000, 400_000);
            self.schedule(pause, Event::Client { region: index });
        }
        if !self.process_runs(index) {
            return;
        }
        let Some((primary, epoch)) = self.primary_of(index) else { return };
        if self.regions[index]
            .gate
            .as_ref()
            .is_some_and(|gate| gate.hold.is_some_and(|hold| hold.scope == Scope::All))
        {
            return;
        }
        self.regions[index].under_way += 1;
        if primary == index {
            self.write_arrives(index, primary, epoch);
        } else if self.connected(index, primary) {
            let delay = self.delay();
            self.schedule(delay, Event::WriteArrives { from: index, to: primary, epoch });
        } else {
            self.write_ends(index);
        }
    }

    pub(super) fn write_arrives(&mut self, from: usize, to: usize, epoch: u64) {
        let region = &mut self.regions[to];
        // A hold lets through what was under way.
        let open = region.gate.as_ref().is_some_and(|gate| gate.open && gate.epoch.0 == epoch)
            && region.lease_until.is_some_and(|until| region.local(self.now) < until);
        if !open || !region.server.idle_primary() {
            return self.write_ends(from);
        }
        let write = self.witness.new_write();
        region.server.wal.push(write);
        let entries = region.server.wal.len();
        region.server.pending.push((entries, write, from));
        self.acknowledge(to);
        for other in 0..self.regions.len() {
            self.send(to, other);
        }
    }

    pub(super) fn write_ends(&mut self, from: usize) {
        let region = &mut self.regions[from];
        region.under_way = region.under_way.saturating_sub(1);
    }
}
