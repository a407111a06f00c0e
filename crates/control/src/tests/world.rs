//! A cluster in a seeded, simulated world: the real controllers, and models of all that is around them.
//!
//! Real time is in microseconds. Each region's process has a clock of its own, which begins anywhere and runs up to
//! half a percent fast or slow. Everything that happens is an event; what concerns a process that is paused happens
//! when it goes on, what concerns one that has ended does not.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use pangea_base::{Lsn, RegionId};

use crate::{
    Controller, Durability, Gate, Hold, Loaded, Member, Output, PeerState, Policy, Scope, Server, Settings,
    StoreWrite, Topology, TopologyChange, Written,
};

use super::invariants::{Invariant, Violation, Witness, violated};
use super::rng::Rng;
use super::schedule::{Fault, Schedule};
use super::server::Postgres;
use super::store::Store;

/// What is switched off in the model, so that the invariants are seen to find it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Flaw {
    #[default]
    None,
    /// A server is not stopped when the lease ends.
    NoFencing,
    /// Regions give their word not to take over without keeping it.
    EmptyPromises,
    /// The target of a switchover does not wait for the shutdown checkpoint: it is told of an earlier position.
    NoCheckpointWait,
}

#[derive(Debug)]
pub(super) enum Event {
    Tick { region: usize, process: u64 },
    StoreArrives { region: usize, process: u64, number: u32, write: Option<Box<StoreWrite>> },
    StoreAnswers { region: usize, process: u64, number: u32, answer: Result<Written, Box<Loaded>> },
    StoreTimeout { region: usize, process: u64, number: u32 },
    Question { from: usize, to: usize, process: u64, asked: Duration, state: Box<PeerState> },
    Answer { from: usize, to: usize, process: u64, asked: Duration, state: Box<PeerState> },
    Prepared { region: usize, process: u64, transition: u64 },
    ServerDone { region: usize, generation: u32 },
    Watchdog { region: usize, deadline: u64 },
    Ship { from: usize, to: usize, connection: u32, entries: usize, last: bool },
    Flushed { from: usize, to: usize, generation: u32, entries: usize },
    Client { region: usize },
    WriteArrives { from: usize, to: usize, epoch: u64 },
    Fault(Fault),
    Check,
}

struct Timed {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// A region: its process, its clock, its server.
pub(super) struct Region {
    pub(super) id: RegionId,
    pub(super) process: u64,
    pub(super) controller: Option<Controller>,
    pub(super) paused_until: u64,
    pub(super) destroyed: bool,
    /// What the process's clock shows at real time 0, and how fast it is, in parts per million.
    offset: u64,
    rate: u64,
    pub(super) wall: u64,
    pub(super) gate: Option<Gate>,
    pub(super) lease_until: Option<Duration>,
    pub(super) state: Option<Box<PeerState>>,
    /// The watchdog stops the server then, whatever the process does.
    pub(super) deadline: Option<u64>,
    ticks: u32,
    /// When each other region has answered last.
    answered: [u64; 8],
    pub(super) store_request: u32,
    pub(super) writing: Option<u32>,
    pub(super) loading: Option<u32>,
    preparing: Option<u64>,
    /// Writes of this region's clients that are under way.
    pub(super) under_way: u32,
    /// The transition before which its clients' transaction blocks have ended.
    quiet: Option<u64>,
    pub(super) server: Postgres,
}

impl Region {
    pub(super) fn local(&self, real: u64) -> Duration {
        Duration::from_micros(self.offset + real * self.rate / 1_000_000)
    }

    fn real(&self, local: Duration) -> u64 {
        // The lease of a region that is alone has no end.
        let micros = u64::try_from(local.as_micros()).unwrap_or(u64::MAX).min(u64::MAX / 1_000_000);
        micros.saturating_sub(self.offset) * 1_000_000 / self.rate
    }

    pub(super) fn writable(&self, real: u64) -> bool {
        let open = self.gate.as_ref().is_some_and(|gate| gate.holds() != Some(Scope::All));
        open && self.controller.is_some() && self.lease_until.is_some_and(|until| self.local(real) < until)
    }
}

pub(super) struct World {
    pub(super) now: u64,
    sequence: u64,
    events: BinaryHeap<Timed>,
    pub(super) rng: Rng,
    pub(super) flaw: Flaw,
    pub(super) regions: Vec<Region>,
    pub(super) store: Store,
    /// By sender, a bit for each region that does not get what is sent.
    pub(super) cut: [u8; 8],
    pub(super) witness: Witness,
    pub(super) timelines: u32,
    pub(super) connections: u32,
    pub(super) ttl: Duration,
    /// All faults are over.
    pub(super) healed: Option<u64>,
    pub(super) done: bool,
    pub(super) handled: u64,
    /// The last request for a failover in each region allowed no loss.
    pub(super) careful: [bool; 8],
    pub(super) log: Option<Vec<String>>,
}

/// What a run came to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub(super) runs: u64,
    pub(super) events: u64,
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
    pub(super) promotions: u64,
    pub(super) epochs: u64,
}

pub(super) fn name(region: usize) -> RegionId {
    ["ra", "rb", "rc", "rd", "re"][region].parse().unwrap()
}

impl World {
    pub(super) fn new(seed: u64, flaw: Flaw, logged: bool) -> Self {
        let mut rng = Rng::new(seed);
        let count = [3, 3, 3, 3, 3, 3, 2, 4, 4, 5][rng.index(10)];
        let ttl = Duration::from_millis([1200, 2000, 3000][rng.index(3)]);
        let schedule = Schedule::new(&mut rng, count);
        let members: BTreeMap<RegionId, Member> = (0..count)
            .map(|region| {
                let priority = if rng.percent(15) { [0, 50, 200][rng.index(3)] } else { 100 };
                (name(region), Member { priority, drained: false })
            })
            .collect();
        let mut topology = Topology::new("sim".to_owned(), name(0), members, 1_000_000);
        topology.policy = Policy {
            automatic: !rng.percent(5),
            loss_bytes_max: [None, Some(0), Some(64 << 20)][rng.index(3)],
            flap_back_off_s: rng.between(1, 6),
            ..Policy::default()
        };
        if rng.percent(50) {
            let regions = if count > 3 && rng.percent(30) { 2 } else { 1 };
            topology.durability = Durability::Sync { regions };
        }
        let mut world = Self {
            now: 0,
            sequence: 0,
            events: BinaryHeap::with_capacity(256),
            rng,
            flaw,
            regions: Vec::with_capacity(count),
            store: Store::default(),
            cut: [0; 8],
            witness: Witness::default(),
            timelines: 1,
            connections: 0,
            ttl,
            healed: None,
            done: false,
            handled: 0,
            careful: [false; 8],
            log: logged.then(Vec::new),
        };
        for index in 0..count {
            world.regions.push(Region::new(index, &mut world.rng));
            let bootstrap = (index == 0).then(|| topology.clone());
            world.start_process(index, bootstrap);
            world.schedule(index as u64, Event::Client { region: index });
        }
        world.regions[0].server.primary_in = Some(1);
        for (at, fault) in schedule.faults {
            world.schedule(at, Event::Fault(fault));
        }
        world.schedule(schedule.ends, Event::Fault(Fault::HealAll));
        world
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<Totals, Violation> {
        while let Some(timed) = self.events.pop() {
            debug_assert!(timed.at >= self.now);
            self.now = timed.at;
            self.handled += 1;
            self.handle(timed.event)?;
            if self.done {
                break;
            }
        }
        Ok(Totals {
            runs: 1,
            events: self.handled,
            acknowledged: u64::from(self.witness.acknowledged),
            lost: u64::from(self.witness.lost),
            promotions: u64::from(self.witness.promotions),
            epochs: self.witness.epochs.len() as u64,
        })
    }

    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>10.3} ms  {}", self.now as f64 / 1000.0, line()));
        }
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Timed { at: self.now + after, sequence: self.sequence, event });
    }

    /// How long a message travels.
    pub(super) fn delay(&mut self) -> u64 {
        if self.rng.percent(2) { self.rng.between(50_000, 900_000) } else { self.rng.between(500, 40_000) }
    }

    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        self.cut[from] >> to & 1 == 0
    }

    pub(super) fn connected(&self, one: usize, other: usize) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    /// Whether the process is there to take an event; one for a paused process is put off.
    fn awake(&mut self, region: usize, process: u64, event: Event) -> Option<Event> {
        let it = &self.regions[region];
        if it.controller.is_none() || it.process != process {
            return None;
        }
        if it.paused_until > self.now {
            let after = it.paused_until - self.now;
            self.schedule(after, event);
            return None;
        }
        Some(event)
    }

    /// Whether the process that an event concerns is there to take it.
    fn concerns(&mut self, event: Event) -> Option<Event> {
        let concerned = match &event {
            Event::Tick { region, process }
            | Event::StoreAnswers { region, process, .. }
            | Event::StoreTimeout { region, process, .. }
            | Event::Prepared { region, process, .. } => Some((*region, *process)),
            Event::Answer { to, process, .. } => Some((*to, *process)),
            Event::Question { to, .. } | Event::WriteArrives { to, .. } | Event::Flushed { to, .. } => {
                Some((*to, self.regions[*to].process))
            }
            Event::StoreArrives { .. }
            | Event::ServerDone { .. }
            | Event::Watchdog { .. }
            | Event::Ship { .. }
            | Event::Client { .. }
            | Event::Fault(_)
            | Event::Check => None,
        };
        let dropped = match &event {
            Event::WriteArrives { from, .. } => Some(*from),
            _ => None,
        };
        match concerned {
            Some((region, process)) => {
                let absent = self.regions[region].controller.is_none();
                match self.awake(region, process, event) {
                    Some(event) => Some(event),
                    None => {
                        if let Some(from) = dropped.filter(|_| absent) {
                            self.write_ends(from);
                        }
                        None
                    }
                }
            }
            None => Some(event),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        let Some(event) = self.concerns(event) else { return Ok(()) };
        match event {
            Event::Tick { region, .. } => self.tick(region),
            Event::StoreArrives { region, process, number, write } => {
                self.store_arrives(region, process, number, write)
            }
            Event::StoreAnswers { region, number, answer, .. } => self.store_answers(region, number, answer),
            Event::StoreTimeout { region, number, .. } => self.store_timeout(region, number),
            Event::Question { from, to, process, asked, state } => {
                self.question(from, to, process, asked, *state)
            }
            Event::Answer { from, to, asked, state, .. } => {
                let now = self.now;
                let region = &mut self.regions[to];
                region.answered[from] = now;
                if let Some(controller) = &mut region.controller {
                    controller.heard(asked, *state);
                }
                self.poll(to)
            }
            Event::Prepared { region, transition, .. } => {
                if let Some(controller) = &mut self.regions[region].controller {
                    controller.prepared(transition);
                }
                self.poll(region)
            }
            Event::ServerDone { region, generation } => self.server_done(region, generation),
            Event::Watchdog { region, deadline } => {
                if self.regions[region].deadline == Some(deadline) {
                    self.bite(region);
                }
                Ok(())
            }
            Event::Ship { from, to, connection, entries, last } => {
                self.ship(from, to, connection, entries, last);
                Ok(())
            }
            Event::Flushed { from, to, generation, entries } => {
                self.flushed(from, to, generation, entries);
                Ok(())
            }
            Event::Client { region } => {
                self.client(region);
                Ok(())
            }
            Event::WriteArrives { from, to, epoch } => {
                self.write_arrives(from, to, epoch);
                Ok(())
            }
            Event::Fault(fault) => self.strike(fault),
            Event::Check => self.check(),
        }
    }

    /// A new process of the region.
    pub(super) fn start_process(&mut self, index: usize, bootstrap: Option<Topology>) {
        let offset = self.rng.between(0, 10_000_000);
        let rate = self.rng.between(995_000, 1_005_001);
        let ttl = self.ttl;
        let region = &mut self.regions[index];
        if region.deadline.is_some() {
            // The watchdog's clock goes on.
            region.deadline = region.deadline.map(|deadline| deadline.max(self.now));
        }
        (region.offset, region.rate) = (offset, rate);
        region.process += 1;
        region.paused_until = 0;
        (region.writing, region.loading, region.preparing) = (None, None, None);
        (region.gate, region.state, region.lease_until) = (None, None, None);
        region.under_way = 0;
        region.answered = [self.now; 8];
        region.controller = Some(Controller::new(Settings {
            cluster: "sim".to_owned(),
            me: region.id.clone(),
            process: region.process,
            ttl,
            bootstrap,
        }));
        let process = region.process;
        self.schedule(0, Event::Tick { region: index, process });
    }

    pub(super) fn report(&mut self, index: usize) {
        let region = &mut self.regions[index];
        let mut report = region.server.report();
        if let Server::Stopped { checkpoint } = &mut report
            && self.flaw == Flaw::NoCheckpointWait
        {
            checkpoint.lsn = Lsn(0);
        }
        if let Some(controller) = &mut region.controller {
            controller.server(report);
        }
    }

    fn tick(&mut self, index: usize) -> Result<(), Violation> {
        let pause = u64::try_from(self.ttl.as_micros()).unwrap() / 20;
        let pause = self.rng.between(pause / 2, pause);
        let process = self.regions[index].process;
        self.schedule(pause, Event::Tick { region: index, process });
        self.regions[index].ticks += 1;
        let ticks = self.regions[index].ticks;
        if ticks % 8 == 1 {
            self.load(index);
        }
        self.stream(index)?;
        self.report(index);
        self.poll(index)?;
        if ticks % 4 == 2 {
            self.ask_all(index);
        }
        if ticks.is_multiple_of(4) {
            self.put_in_force(index);
        }
        Ok(())
    }

    /// Asks all other regions.
    fn ask_all(&mut self, index: usize) {
        for other in (0..self.regions.len()).filter(|other| *other != index) {
            let late = u64::try_from(self.ttl.as_micros()).unwrap() / 2;
            if self.now > self.regions[index].answered[other] + late {
                let id = self.regions[other].id.clone();
                if let Some(controller) = &mut self.regions[index].controller {
                    controller.lost(&id);
                }
            }
            let region = &self.regions[index];
            let Some(state) = region.state.clone() else { continue };
            let (process, asked) = (region.process, region.local(self.now));
            let delay = self.delay();
            if self.passes(index, other) {
                self.schedule(delay, Event::Question { from: index, to: other, process, asked, state });
            }
        }
    }

    fn question(
        &mut self,
        from: usize,
        to: usize,
        process: u64,
        asked: Duration,
        state: PeerState,
    ) -> Result<(), Violation> {
        let now = self.regions[to].local(self.now);
        let promise = (self.flaw == Flaw::EmptyPromises).then_some(state.epoch);
        let state = match promise {
            Some(_) => PeerState { confirm_ms: None, ..state },
            None => state,
        };
        let answer = self.regions[to].controller.as_mut().and_then(|it| it.asked(now, state));
        if let Some(mut answer) = answer {
            answer.confirms = answer.confirms.or(promise.filter(|epoch| *epoch == answer.epoch));
            let delay = self.delay();
            if self.passes(to, from) {
                let state = Box::new(answer);
                self.schedule(delay, Event::Answer { from: to, to: from, process, asked, state });
            }
        }
        self.poll(to)
    }

    pub(super) fn poll(&mut self, index: usize) -> Result<(), Violation> {
        let real = self.now;
        let region = &mut self.regions[index];
        let (now, wall) = (region.local(real), region.wall + real / 1_000_000);
        let Some(controller) = &mut region.controller else { return Ok(()) };
        let hold = region.gate.as_ref().and_then(|gate| gate.hold);
        let ended = |hold: &Hold| match hold.scope {
            Scope::Blocks => {
                // Blocks that the model knows nothing of end when they like.
                if self.rng.between(0, 2) == 0 {
                    region.quiet = Some(hold.transition);
                }
                region.quiet == Some(hold.transition)
            }
            Scope::All => region.under_way == 0,
        };
        controller.gateway(hold.filter(ended), region.under_way);
        let output = controller.poll(now, wall);
        self.apply(index, output)
    }

    fn apply(&mut self, index: usize, output: Output) -> Result<(), Violation> {
        let Output { write, desired, prepare, gate, lease_until, state, again: _ } = output;
        let region = &mut self.regions[index];
        let known = region.gate.as_ref().map_or(0, |gate| gate.epoch.0);
        let epoch = gate.as_ref().map_or(0, |gate| gate.epoch.0);
        if epoch < known {
            return violated(Invariant::EpochGrows, format!("r{index} went from epoch {known} to {epoch}"));
        }
        if epoch != known {
            region.server.upstream = None;
        }
        let news = |state: &PeerState| (state.hold, state.held, state.offer, state.writable);
        let told = region.state.as_deref().map(news);
        let fresh = state.as_ref().map(news);
        (region.gate, region.lease_until) = (gate, lease_until);
        region.state = state.map(Box::new);
        if let Some(until) = lease_until {
            let deadline = region.real(until);
            if region.deadline != Some(deadline) {
                region.deadline = Some(deadline);
                let after = deadline.saturating_sub(self.now);
                self.schedule(after, Event::Watchdog { region: index, deadline });
            }
        }
        if let Some(write) = write {
            self.write(index, write);
        }
        if let Some(transition) = prepare
            && self.regions[index].preparing != Some(transition)
        {
            self.regions[index].preparing = Some(transition);
            let process = self.regions[index].process;
            let after = self.rng.between(5_000, 120_000);
            self.schedule(after, Event::Prepared { region: index, process, transition });
        }
        self.drive(index, desired);
        if told != fresh {
            self.log(|| format!("r{index} {fresh:?} {desired:?}"));
            self.ask_all(index);
        }
        Ok(())
    }

    pub(super) fn change(&mut self, index: usize, change: TopologyChange) {
        if let Some(controller) = &mut self.regions[index].controller {
            let _ = controller.change(change);
        }
    }
}

impl Region {
    fn new(index: usize, rng: &mut Rng) -> Self {
        Self {
            id: name(index),
            process: rng.below(100),
            controller: None,
            paused_until: 0,
            destroyed: false,
            offset: 0,
            rate: 1_000_000,
            wall: 1_000_000 + rng.below(5),
            gate: None,
            lease_until: None,
            state: None,
            deadline: None,
            ticks: 0,
            answered: [0; 8],
            store_request: 0,
            writing: None,
            loading: None,
            preparing: None,
            under_way: 0,
            quiet: None,
            server: Postgres::new(),
        }
    }
}
