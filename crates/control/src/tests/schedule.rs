//! What goes wrong when, what operators ask for, and how all must be in the end.

use crate::{Durability, Member, SwitchoverRequest, TopologyChange};

use super::invariants::{Invariant, Violation, violated};
use super::rng::Rng;
use super::server::Mode;
use super::world::{Event, World};

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The process ends and another one starts after a while; the server ends with it, or goes on.
    EndProcess {
        region: usize,
        with_server: bool,
        away: u64,
    },
    StartProcess {
        region: usize,
    },
    Pause {
        region: usize,
        lasts: u64,
    },
    CrashServer {
        region: usize,
    },
    Cut {
        from: u8,
        to: u8,
        lasts: u64,
    },
    Mend {
        from: u8,
        to: u8,
    },
    StoreAway {
        requests: u8,
        answers: u8,
        lasts: u64,
    },
    StoreBack,
    Switchover {
        to: usize,
    },
    Failover {
        region: usize,
        allow_data_loss: bool,
    },
    Durability(Durability),
    Drain {
        region: usize,
        drained: bool,
    },
    /// A region is taken out of the topology, or put into it.
    Membership {
        region: usize,
        member: bool,
    },
    StepWall {
        region: usize,
        to: u64,
    },
    /// The region never comes back.
    Destroy {
        region: usize,
    },
    HealAll,
}

pub(super) struct Schedule {
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) ends: u64,
}

/// Longest time from the last fault until all is well, in microseconds.
const RECOVERY_MAX: u64 = 60_000_000;
/// An operator decides when nothing has happened for as long.
const OPERATOR_AFTER: u64 = 12_000_000;

impl Schedule {
    pub(super) fn new(rng: &mut Rng, count: usize) -> Self {
        let number = rng.between(1, 8);
        let span = rng.between(1_500_000, 7_000_000);
        let mut faults = Vec::new();
        for _ in 0..number {
            let at = rng.between(600_000, span);
            faults.push((at, Self::fault(rng, count)));
        }
        if count > 2 && rng.percent(8) {
            let region = rng.index(count);
            faults.push((rng.between(1_000_000, span), Fault::Destroy { region }));
        }
        Self { faults, ends: span + rng.below(2_000_000) }
    }

    fn fault(rng: &mut Rng, count: usize) -> Fault {
        let region = if rng.percent(50) { 0 } else { rng.index(count) };
        let all = (1 << count) - 1;
        let one = 1u8 << region;
        let lasts =
            if rng.percent(50) { rng.between(50_000, 1_000_000) } else { rng.between(1_000_000, 6_000_000) };
        match rng.below(26) {
            0 | 1 => Fault::EndProcess { region, with_server: rng.percent(50), away: lasts },
            2..=4 => Fault::Pause { region, lasts },
            5 => Fault::CrashServer { region },
            6 | 7 => Fault::Cut { from: one, to: all & !one, lasts },
            8 => Fault::Cut { from: all & !one, to: one, lasts },
            9 | 10 => {
                let other = 1u8 << rng.index(count);
                Fault::Cut { from: one | other, to: one | other, lasts }
            }
            11 => Fault::StoreAway { requests: all, answers: all, lasts },
            12 | 13 => Fault::StoreAway { requests: one, answers: one, lasts },
            14 => Fault::StoreAway { requests: 0, answers: one, lasts },
            15..=17 => Fault::Switchover { to: rng.index(count) },
            18 => Fault::Failover { region: rng.index(count), allow_data_loss: true },
            19 => Fault::Failover { region: rng.index(count), allow_data_loss: false },
            20 => Fault::Durability(
                [Durability::Async, Durability::Sync { regions: 1 }, Durability::Sync { regions: 2 }]
                    [rng.index(3)],
            ),
            21 => Fault::Drain { region: rng.index(count), drained: rng.percent(60) },
            22 => Fault::StepWall { region, to: [0, 2_000_000][rng.index(2)] },
            // One region comes and goes: with no other left nobody could take over from one that is destroyed.
            23 | 24 => Fault::Membership { region: count - 1, member: rng.percent(40) },
            _ => Fault::StoreAway { requests: all & !one, answers: one, lasts },
        }
    }
}

fn each(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |bit| mask >> bit & 1 == 1)
}

impl World {
    /// A fault happens.
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        self.log(|| format!("---- {fault:?}"));
        match fault {
            Fault::EndProcess { region, with_server, away } => {
                self.end_process(region, with_server);
                self.schedule(away, Event::Fault(Fault::StartProcess { region }));
            }
            Fault::StartProcess { region } => {
                if !self.regions[region].destroyed && self.regions[region].controller.is_none() {
                    self.start_process(region, None);
                }
            }
            Fault::Pause { region, lasts } => self.regions[region].paused_until = self.now + lasts,
            Fault::CrashServer { region } => self.kill(region),
            Fault::Cut { from, to, lasts } => {
                each(from).for_each(|one| self.cut[one] |= to & !(1 << one));
                self.schedule(lasts, Event::Fault(Fault::Mend { from, to }));
            }
            Fault::Mend { from, to } => each(from).for_each(|one| self.cut[one] &= !to),
            Fault::StoreAway { requests, answers, lasts } => {
                (self.store.requests_cut, self.store.answers_cut) = (requests, answers);
                self.schedule(lasts, Event::Fault(Fault::StoreBack));
            }
            Fault::StoreBack => (self.store.requests_cut, self.store.answers_cut) = (0, 0),
            Fault::StepWall { region, to } => self.regions[region].wall = to,
            Fault::Destroy { region } => {
                self.end_process(region, true);
                self.regions[region].destroyed = true;
            }
            Fault::Switchover { .. }
            | Fault::Failover { .. }
            | Fault::Durability(_)
            | Fault::Drain { .. }
            | Fault::Membership { .. } => return self.operate(fault),
            Fault::HealAll => {
                self.cut = [0; 8];
                (self.store.requests_cut, self.store.answers_cut) = (0, 0);
                for region in 0..self.regions.len() {
                    self.regions[region].paused_until = 0;
                    if self.regions[region].controller.is_none() && !self.regions[region].destroyed {
                        self.start_process(region, None);
                    }
                }
                self.healed = Some(self.now);
                self.schedule(0, Event::Check);
            }
        }
        Ok(())
    }

    fn end_process(&mut self, index: usize, with_server: bool) {
        let region = &mut self.regions[index];
        region.controller = None;
        region.server.upstream = None;
        if with_server {
            self.kill(index);
        } else {
            // Its clients' connections are gone; what they wrote may be on its disk all the same.
            let pending = std::mem::take(&mut self.regions[index].server.pending);
            pending.into_iter().for_each(|(_, _, from)| self.write_ends(from));
        }
    }

    /// What an operator asks for.
    fn operate(&mut self, fault: Fault) -> Result<(), Violation> {
        let now = self.now;
        let asked = match fault {
            Fault::Failover { region, .. } => Some(region),
            _ => self.regions.iter().position(|region| {
                // What a destroyed region knew last says nothing.
                let knows = region.gate.as_ref().is_some_and(|gate| gate.primary == region.id);
                knows && !region.destroyed
            }),
        };
        let Some(index) = asked else { return Ok(()) };
        let region = &mut self.regions[index];
        let local = region.local(now);
        let Some(controller) = region.controller.as_mut().filter(|_| region.paused_until <= now) else {
            return Ok(());
        };
        match fault {
            Fault::Switchover { to } => {
                let to = super::world::name(to);
                let request = SwitchoverRequest { to, timeout_ms: 1500, dry_run: false };
                let checks = controller.switchover(local, now, &request);
                self.log(|| {
                    let failed: Vec<_> = checks.into_iter().filter(|check| !check.passed).collect();
                    format!("r{index} switchover: {failed:?}")
                });
            }
            Fault::Failover { allow_data_loss, .. } => {
                let answer = controller.failover(local, allow_data_loss);
                if answer.is_ok() {
                    self.careful[index] = !allow_data_loss;
                }
                self.log(|| format!("r{index} failover: {answer:?}"));
            }
            Fault::Durability(durability) => self.change(index, TopologyChange::Durability(durability)),
            Fault::Drain { region, drained } => {
                let id = super::world::name(region);
                let priority = controller.topology().and_then(|it| it.members.get(&id)).map(|it| it.priority);
                let member = Member { priority: priority.unwrap_or(100), drained };
                self.change(index, TopologyChange::Member(id, member));
            }
            Fault::Membership { region, member } => {
                let id = super::world::name(region);
                let known = controller.topology().is_some_and(|it| it.members.contains_key(&id));
                match member {
                    false => self.change(index, TopologyChange::Remove(id)),
                    true if known => {}
                    true => self.change(index, TopologyChange::Member(id, Member::default())),
                }
            }
            _ => {}
        }
        self.poll(index)
    }

    /// Whether all is as it should be, some time after the last fault.
    pub(super) fn check(&mut self) -> Result<(), Violation> {
        for region in 0..self.regions.len() {
            let away = self
                .store
                .topology
                .as_ref()
                .is_some_and(|(_, it)| !it.members.contains_key(&self.regions[region].id));
            if away && !self.regions[region].destroyed {
                self.operate(Fault::Membership { region, member: true })?;
            }
        }
        let problem = self.problem();
        let Some(problem) = problem else {
            let all_back = self.regions.iter().all(|region| !region.destroyed);
            let primary = self.regions.iter().position(|region| region.server.mode == Mode::Primary);
            let wal = &self.regions[primary.unwrap()].server.wal;
            self.done = true;
            return self.witness.judge_reports(wal, all_back);
        };
        let since = self.now - self.healed.unwrap_or(self.now);
        if since > RECOVERY_MAX {
            let last = self.regions.iter().map(|region| {
                region.controller.as_ref().and_then(|it| it.objection()).map(ToOwned::to_owned)
            });
            let last: Vec<Option<String>> = last.collect();
            return violated(Invariant::Liveness, format!("{problem}; objections: {last:?}"));
        }
        if since > OPERATOR_AFTER && since % 3_000_000 < 200_000 {
            self.decide_for_them()?;
        }
        self.schedule(200_000, Event::Check);
        Ok(())
    }

    /// The primary's region is gone for good, and the others may not decide: an operator does.
    fn decide_for_them(&mut self) -> Result<(), Violation> {
        let Some((_, topology)) = &self.store.topology else { return Ok(()) };
        let gone = self.regions.iter().any(|region| region.destroyed && region.id == topology.primary);
        let there = (0..self.regions.len()).filter(|region| {
            let region = &self.regions[*region];
            !region.destroyed && topology.members.contains_key(&region.id)
        });
        let best = there.max_by_key(|region| {
            let server = &self.regions[*region].server;
            (server.mode == Mode::Standby, server.timeline, server.wal.len())
        });
        match best {
            Some(region) if gone => self.operate(Fault::Failover { region, allow_data_loss: true }),
            _ => Ok(()),
        }
    }

    fn problem(&self) -> Option<String> {
        let Some((_, topology)) = &self.store.topology else { return Some("no topology".to_owned()) };
        if let Some(transition) = &topology.transition {
            return Some(format!("{transition:?} is under way"));
        }
        let primary = self.regions.iter().position(|region| region.id == topology.primary)?;
        let length = self.regions[primary].server.wal.len();
        for (index, region) in self.regions.iter().enumerate().filter(|(_, region)| !region.destroyed) {
            if !topology.members.contains_key(&region.id) {
                return Some(format!("r{index} is not in the topology"));
            }
            let Some(gate) = &region.gate else { return Some(format!("r{index} knows nothing")) };
            if gate.epoch != topology.epoch || gate.primary != topology.primary {
                return Some(format!("r{index} is in epoch {} of {}", gate.epoch, gate.primary));
            }
            if gate.hold.is_some() {
                return Some(format!("r{index} holds its clients"));
            }
            if index == primary && (!region.writable(self.now) || !region.server.idle_primary()) {
                return Some(format!("r{index} takes no writes: {:?}", region.server.mode));
            }
            let follows = region.server.upstream.is_some() && region.server.wal.len() == length;
            if index != primary && !follows {
                return Some(format!(
                    "r{index} has {} of {length} and streams from {:?}",
                    region.server.wal.len(),
                    region.server.upstream
                ));
            }
        }
        if self.regions[primary].destroyed {
            return Some("the primary is gone for good".to_owned());
        }
        let recent = self.healed.is_some_and(|healed| self.now < healed + 300_000);
        recent.then(|| "it is early".to_owned())
    }
}
