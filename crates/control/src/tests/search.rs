//! All orders of events of a small model of lease, claim and promotion.
//!
//! The simulation drives the real controllers through some orders; this goes through all of them, of a model by hand
//! that is small enough. What corresponds to what:
//!
//! | here | in the controller |
//! |---|---|
//! | a tick, on which every counter goes down | time. All clocks are one: the margin between them is left out, and to the simulation |
//! | `until` | `Keeper::until`: counted from before the renewal, or the question |
//! | `ends` | `Observer::ends` without the promise: counted from when a new version was seen |
//! | `promised`, [`Event::Word`] | `Observer::promised`, `Controller::asked` |
//! | `wait` | `Controller::promote_from` |
//! | `stepped`, `Store::formers` | `Controller::promotes_from` |
//! | `flight`, `stray`, `wrote` | `writing` and `unsure`; a write that was given up and may still be made; `attempt` |
//! | `watch` | the watchdog's deadline: it outlives the process |
//!
//! A pause needs no event of its own: nothing makes a region do anything while time goes on. What is left out: the
//! election, which only makes claims rarer, and switchovers, whose claims need a server that has stopped.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

const TTL: u8 = 2;
const REGIONS_MAX: usize = 3;

/// A rule of the controller that is left out, to see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A region keeps its word: it neither claims nor is promoted before its end.
    Promise,
    /// A region that finds itself primary waits for the end of its word.
    WaitForPromise,
    /// A process does as if an earlier one had given its word when it read the store first.
    InheritedPromise,
    /// A forced claim waits for the former lease.
    WaitWhenForced,
    /// All who may still write must have stepped down, not the former primary alone.
    AllFormers,
    /// No two attempts have one number.
    Attempts,
    /// Only who has read the store gives its word.
    ReadBeforeWord,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Write {
    claims: bool,
    forced: bool,
    expects: (u8, u8),
    age: u8,
    /// It has arrived.
    arrived: bool,
    /// It wrote the lease that is there.
    wrote: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Region {
    /// Epoch, primary, version of the lease, as loaded; epoch 0: not yet.
    known: (u8, u8, u8),
    newest: u8,
    held: bool,
    until: u8,
    ends: u8,
    promised: u8,
    wait: u8,
    stepped: u8,
    flight: Option<Write>,
    stray: Option<Write>,
    /// How long ago the others were asked for their word, and who has given it.
    asked: Option<(u8, u8)>,
    writes: bool,
    watch: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Store {
    epoch: u8,
    primary: u8,
    version: u8,
    /// Who wrote the lease, and over which version, where attempts are not told apart.
    lease: (u8, u8),
    forced: bool,
    /// The promotion of this epoch is in the topology.
    recorded: bool,
    /// Who may still write in an earlier epoch.
    formers: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    store: Store,
    regions: [Region; REGIONS_MAX],
    forced: u8,
    restarts: u8,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick,
    Renew(usize),
    Claim(usize),
    Force(usize),
    /// A write arrives at the store: the one under way, or one given up.
    Arrive(usize),
    ArriveLate(usize),
    /// The answer, or the end of the wait for it, and what is loaded then.
    Settle(usize),
    Load(usize),
    Ask(usize),
    Word(usize, usize),
    Hear(usize),
    /// The first is told the newest epoch that the second knows, and whether it writes.
    Told(usize, usize),
    Promote(usize),
    Record(usize),
    Restart(usize),
}

/// How far the search goes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    regions: usize,
    epochs: u8,
    versions: u8,
    forced: u8,
    restarts: u8,
    words: bool,
}

impl State {
    fn new(regions: usize) -> Self {
        let store = Store { epoch: 1, version: 1, recorded: true, ..Store::default() };
        let mut it = Self { store, regions: [Region::default(); REGIONS_MAX], forced: 0, restarts: 0 };
        for (index, region) in it.regions.iter_mut().enumerate().take(regions) {
            region.known = (1, 0, 1);
            region.newest = 1;
            region.ends = if index == 0 { 0 } else { TTL };
        }
        let holder = &mut it.regions[0];
        (holder.held, holder.until, holder.watch, holder.writes) = (true, TTL, TTL, true);
        it
    }

    fn writers(&self) -> usize {
        self.regions.iter().filter(|region| region.writes).count()
    }

    fn load(&mut self, index: usize, without: Without) {
        let Store { epoch, primary, version, lease: last, .. } = self.store;
        let (forced, recorded) = (self.store.forced, self.store.recorded);
        let region = &mut self.regions[index];
        if region.known.0 == 0 && without != Without::InheritedPromise {
            region.promised = TTL;
        }
        if region.known.2 != version || region.known.0 == 0 {
            region.ends = TTL;
        }
        if region.known.0 != epoch {
            region.stepped = 0;
            region.asked = None;
            region.wait = 0;
            if usize::from(primary) == index && !recorded {
                let ignored = matches!(without, Without::Promise | Without::WaitForPromise);
                let promised = if ignored { 0 } else { region.promised };
                let lease = if forced && without != Without::WaitWhenForced { TTL } else { 0 };
                region.wait = promised.max(lease);
            }
        }
        region.known = (epoch, primary, version);
        region.newest = region.newest.max(epoch);
        let flight = region.flight.take();
        if let Some(write) = flight {
            let taken = without == Without::Attempts && last == (as_bit(index), write.expects.1);
            if write.wrote || taken {
                region.held = true;
                region.until = region.until.max(TTL.saturating_sub(write.age));
                region.watch = region.watch.max(region.until);
            }
            if !write.arrived {
                region.stray = Some(write);
            }
        }
        region.fence(index);
    }

    fn arrive(&mut self, index: usize, mut write: Write, without: Without) -> Write {
        write.arrived = true;
        if !self.store.takes(&write) {
            return write;
        }
        for region in &mut self.regions {
            if let Some(other) = &mut region.flight {
                other.wrote = false;
            }
        }
        write.wrote = true;
        let store = &mut self.store;
        if without == Without::Attempts {
            store.lease = (as_bit(index), store.version);
        }
        store.version += 1;
        if write.claims {
            let former = 1 << store.primary;
            store.formers = if store.recorded { former } else { store.formers | former };
            (store.epoch, store.primary) = (store.epoch + 1, u8::try_from(index).unwrap());
            (store.forced, store.recorded) = (write.forced, false);
        }
        write
    }

    /// Without what makes no difference any more.
    fn plain(mut self) -> Self {
        let store = self.store;
        for (index, region) in self.regions.iter_mut().enumerate() {
            region.stray = region.stray.filter(|write| store.takes(write));
            if let Some(stray) = &mut region.stray {
                stray.age = 0;
            }
            region.asked = region.asked.filter(|(age, _)| *age < TTL);
            if region.leads(index) {
                region.ends = 0;
            } else {
                (region.stepped, region.wait, region.asked) = (0, 0, None);
            }
            if !region.writes {
                region.watch = 0;
            }
        }
        self
    }

    fn tick(&mut self) {
        for region in &mut self.regions {
            for counter in [
                &mut region.until,
                &mut region.ends,
                &mut region.promised,
                &mut region.wait,
                &mut region.watch,
            ] {
                *counter = counter.saturating_sub(1);
            }
            let write = region.flight.as_mut().map(|write| &mut write.age);
            for age in write.into_iter().chain(region.asked.as_mut().map(|(age, _)| age)) {
                *age = (*age + 1).min(TTL);
            }
            region.writes &= region.watch > 0;
        }
    }

    /// The state after an event; `None` when it cannot happen.
    fn after(&self, event: Event, without: Without, bounds: Bounds) -> Option<Self> {
        let mut next = *self;
        match event {
            Event::Tick => next.tick(),
            Event::Renew(index) | Event::Claim(index) | Event::Force(index) => {
                next.send(index, event, without, bounds)?;
            }
            Event::Arrive(index) => {
                let write = next.regions[index].flight.filter(|write| !write.arrived)?;
                next.regions[index].flight = Some(next.arrive(index, write, without));
            }
            Event::ArriveLate(index) => {
                let write = next.regions[index].stray.take()?;
                next.arrive(index, write, without);
            }
            Event::Settle(index) => {
                let region = &next.regions[index];
                region.flight.filter(|write| write.arrived || region.stray.is_none())?;
                next.load(index, without);
            }
            Event::Load(index) => {
                let region = &next.regions[index];
                let news = (region.known.0, region.known.2) != (next.store.epoch, next.store.version);
                (news && region.flight.is_none()).then(|| next.load(index, without))?;
            }
            Event::Ask(_) | Event::Word(..) | Event::Hear(_) => next.words(event, without, bounds)?,
            Event::Told(index, by) => {
                let (newest, writes) = (self.regions[by].newest, self.regions[by].writes);
                let region = &mut next.regions[index];
                region.newest = region.newest.max(newest);
                if newest >= region.known.0 && !writes {
                    region.stepped |= 1 << by;
                }
                region.fence(index);
            }
            Event::Promote(index) => {
                let region = &mut next.regions[index];
                let formers = if without == Without::AllFormers {
                    1 << next.store.formers.checked_ilog2().unwrap_or(0)
                } else {
                    next.store.formers
                };
                let stopped = region.stepped | 1 << index;
                let may = region.known.0 == next.store.epoch && formers & !stopped == 0;
                let may = region.leads(index) && (region.wait == 0 || may) && region.until > 0;
                (may && !region.writes).then(|| (region.writes, region.watch) = (true, region.until))?;
            }
            Event::Record(index) => {
                let region = &next.regions[index];
                let may = region.writes && region.leads(index) && region.known.0 == next.store.epoch;
                (may && !next.store.recorded).then(|| next.store.recorded = true)?;
            }
            Event::Restart(index) => {
                (next.restarts < bounds.restarts).then_some(())?;
                next.restarts += 1;
                let Region { writes, watch, flight, stray, .. } = next.regions[index];
                let stray = stray.or(flight.filter(|write| !write.arrived));
                next.regions[index] = Region { writes, watch, stray, ..Region::default() };
            }
        }
        Some(next.plain())
    }

    fn send(&mut self, index: usize, event: Event, without: Without, bounds: Bounds) -> Option<()> {
        let (epoch, version) = (self.store.epoch, self.store.version);
        let region = &mut self.regions[index];
        let leads = region.leads(index);
        let current = region.known.0 != 0 && region.newest == region.known.0;
        let ended = region.ends == 0 && (region.promised == 0 || without == Without::Promise);
        let (claims, forced) = match event {
            Event::Renew(_) => (leads && version < bounds.versions).then_some((false, false))?,
            Event::Claim(_) => {
                (current && !leads && ended && epoch < bounds.epochs).then_some((true, false))?
            }
            _ => {
                let may = current && !leads && epoch < bounds.epochs && self.forced < bounds.forced;
                self.forced += u8::from(may);
                may.then_some((true, true))?
            }
        };
        region.flight.is_none().then_some(())?;
        let expects = (region.known.0, region.known.2);
        region.flight = Some(Write { claims, forced, expects, age: 0, arrived: false, wrote: false });
        Some(())
    }

    fn words(&mut self, event: Event, without: Without, bounds: Bounds) -> Option<()> {
        bounds.words.then_some(())?;
        match event {
            Event::Ask(index) => {
                let region = &mut self.regions[index];
                (region.leads(index) && region.held && region.asked.is_none_or(|(age, _)| age > 0))
                    .then(|| region.asked = Some((0, 0)))
            }
            Event::Word(index, to) => {
                let (_, given) = self.regions[to].asked?;
                let epoch = self.regions[to].known.0;
                let region = &mut self.regions[index];
                let read =
                    region.known.0 == epoch || without == Without::ReadBeforeWord && region.known.0 == 0;
                let free = region.flight.is_none() && region.newest.max(epoch) == epoch && read;
                (free && given >> index & 1 == 0).then_some(())?;
                (region.promised, region.newest) = (TTL, epoch);
                self.regions[to].asked.as_mut()?.1 |= 1 << index;
                Some(())
            }
            _ => {
                let Event::Hear(index) = event else { return None };
                let region = &mut self.regions[index];
                let (age, given) = region.asked?;
                let others = ((1u8 << bounds.regions) - 1) & !(1 << index);
                (given == others && region.leads(index)).then_some(())?;
                region.asked = None;
                region.until = region.until.max(TTL.saturating_sub(age));
                region.watch = region.watch.max(region.until);
                Some(())
            }
        }
    }
}

/// A region as something other than 0.
fn as_bit(index: usize) -> u8 {
    1 << index
}

impl Store {
    /// Whether the conditions of a write hold.
    fn takes(&self, write: &Write) -> bool {
        (write.forced || write.expects.1 == self.version) && (!write.claims || write.expects.0 == self.epoch)
    }
}

impl Region {
    fn leads(&self, index: usize) -> bool {
        self.known.0 != 0 && self.newest == self.known.0 && usize::from(self.known.1) == index
    }

    /// A server out of recovery is stopped when its region is known not to be the primary.
    fn fence(&mut self, index: usize) {
        if !self.leads(index) {
            (self.writes, self.until, self.held) = (false, 0, false);
        }
    }
}

/// A state is remembered by 64 well mixed bits.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(u8::try_from(number).unwrap());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^ (mixed >> 32)
    }
}

/// Goes through all states; gives back how many there are, and the shortest way to two writers.
fn search(bounds: Bounds, without: Without) -> (usize, Option<Vec<Event>>) {
    let events = all_events(bounds);
    let hasher = BuildHasherDefault::<Mix>::default();
    let mut seen = HashSet::with_hasher(hasher.clone());
    let first = State::new(bounds.regions);
    seen.insert(hasher.hash_one(first));
    let mut ways: Vec<(u32, u8)> = vec![(0, 0)];
    let mut queue = VecDeque::from([(first, 0u32)]);
    while let Some((state, at)) = queue.pop_front() {
        for (number, event) in events.iter().enumerate() {
            let Some(next) = state.after(*event, without, bounds) else { continue };
            if !seen.insert(hasher.hash_one(next)) {
                continue;
            }
            ways.push((at, u8::try_from(number).unwrap()));
            if next.writers() > 1 {
                let mut way = Vec::new();
                let mut at = ways.len() - 1;
                while at != 0 {
                    way.push(events[usize::from(ways[at].1)]);
                    at = ways[at].0 as usize;
                }
                way.reverse();
                return (seen.len(), Some(way));
            }
            queue.push_back((next, u32::try_from(ways.len() - 1).unwrap()));
        }
    }
    (seen.len(), None)
}

fn all_events(bounds: Bounds) -> Vec<Event> {
    let mut events = vec![Event::Tick];
    let each = [
        Event::Renew,
        Event::Claim,
        Event::Force,
        Event::Arrive,
        Event::ArriveLate,
        Event::Settle,
        Event::Load,
        Event::Ask,
        Event::Hear,
        Event::Promote,
        Event::Record,
        Event::Restart,
    ];
    for index in 0..bounds.regions {
        events.extend(each.iter().map(|event| event(index)));
        let others = (0..bounds.regions).filter(|other| *other != index);
        events.extend(others.flat_map(|other| [Event::Word(index, other), Event::Told(index, other)]));
    }
    events
}

const RENEWALS: Bounds = Bounds { regions: 2, epochs: 3, versions: 4, forced: 0, restarts: 0, words: false };
const WORDS: Bounds = Bounds { regions: 2, epochs: 2, versions: 3, forced: 1, restarts: 1, words: true };
const FORCED: Bounds = Bounds { regions: 3, epochs: 3, versions: 1, forced: 2, restarts: 0, words: false };

#[test]
fn no_order_of_events_makes_two_writers() {
    for bounds in [RENEWALS, WORDS, FORCED] {
        let (states, way) = search(bounds, Without::Nothing);
        println!("{bounds:?}: {states} states");
        assert!(way.is_none(), "{way:?}");
        assert!(states > 1_000);
    }
}

#[test]
fn every_rule_is_needed() {
    let table = [
        (Without::Promise, WORDS),
        (Without::WaitForPromise, WORDS),
        (Without::InheritedPromise, WORDS),
        (Without::WaitWhenForced, WORDS),
        (Without::AllFormers, FORCED),
        (Without::Attempts, RENEWALS),
        (Without::ReadBeforeWord, WORDS),
    ];
    for (without, bounds) in table {
        let (states, way) = search(bounds, without);
        println!("without {without:?}: {states} states, {way:?}");
        assert!(way.is_some(), "without {without:?} nothing goes wrong");
    }
}
