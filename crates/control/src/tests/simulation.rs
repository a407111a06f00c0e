//! Seeded schedules of faults against the real controllers.
//!
//! `PANGEA_SEEDS=100000` runs more of them, `PANGEA_SEED=7` one, with everything that happens in it;
//! with `PANGEA_ALL=1` the search goes on after what it finds, and prints it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::invariants::{Invariant, Violation};
use super::world::{Flaw, Totals, World};

/// Schedules of a usual run.
const SEEDS: u64 = 100_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Says which seed it was when the model itself panics.
struct NamedPanic(u64);

impl Drop for NamedPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} panicked", self.0);
        }
    }
}

/// When a search ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// With the lowest seed that violates something.
    Found,
    /// With the last seed.
    Last,
}

/// Runs seeds; gives back those that violate something, lowest first.
fn search(seeds: u64, flaw: Flaw, until: Until) -> (Totals, Vec<(u64, Violation)>) {
    let next = AtomicU64::new(0);
    let lowest = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let run = || {
        let mut totals = Totals::default();
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || (until == Until::Found && seed > lowest.load(Ordering::Relaxed)) {
                return (totals, found);
            }
            let _named = NamedPanic(seed);
            match World::new(seed, flaw, false).run() {
                Ok(one) => totals.add(one),
                Err(violation) => {
                    lowest.fetch_min(seed, Ordering::Relaxed);
                    found.push((seed, violation));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let (mut totals, mut found) = (Totals::default(), Vec::new());
        for worker in workers {
            let (one, its) = worker.join().unwrap();
            totals.add(one);
            found.extend(its);
        }
        found.sort_by_key(|(seed, _)| *seed);
        (totals, found)
    })
}

#[test]
fn no_schedule_violates_anything() {
    if let Some(seed) = number("PANGEA_SEED") {
        let mut world = World::new(seed, Flaw::None, true);
        let outcome = world.run();
        world.log.iter().flatten().for_each(|line| println!("{line}"));
        println!("{outcome:?}");
        return assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
    let began = Instant::now();
    let seeds = number("PANGEA_SEEDS").unwrap_or(SEEDS);
    let until = if number("PANGEA_ALL").is_some() { Until::Last } else { Until::Found };
    let (totals, found) = search(seeds, Flaw::None, until);
    if until == Until::Last {
        found.iter().for_each(|(seed, violation)| println!("{seed}: {violation:?}"));
    }
    if let Some((seed, Violation { invariant, what })) = found.into_iter().next() {
        panic!("seed {seed} violates {invariant:?}: {what}\nsee it all with PANGEA_SEED={seed} --nocapture");
    }
    println!("{totals:?} in {:?}", began.elapsed());
    assert!(totals.promotions > seeds && totals.acknowledged > seeds && totals.lost > 0, "{totals:?}");
}

/// What is switched off in the model is found, as what it is.
#[test]
fn what_is_wrong_is_found() {
    let expected = [
        (Flaw::NoFencing, &[Invariant::OneWriter, Invariant::LeaseBeforeWrite][..]),
        (Flaw::EmptyPromises, &[Invariant::OneWriter, Invariant::LeaseBeforeWrite][..]),
        (Flaw::NoCheckpointWait, &[Invariant::NoLossSwitchover][..]),
    ];
    for (flaw, invariants) in expected {
        let (_, found) = search(SEEDS, flaw, Until::Found);
        let found = found.into_iter().next();
        let (seed, violation) = found.unwrap_or_else(|| panic!("{flaw:?} was not found in {SEEDS} seeds"));
        println!("{flaw:?}: seed {seed}, {:?}: {}", violation.invariant, violation.what);
        assert!(invariants.contains(&violation.invariant), "{flaw:?}, seed {seed}: {violation:?}");
    }
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.promotions += other.promotions;
        self.epochs += other.epochs;
    }
}
