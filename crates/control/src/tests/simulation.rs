//! Seeded schedules of faults against the real controllers.
//!
//! `PANGEA_SEEDS=100000` runs more of them, `PANGEA_SEED=7` one, with everything that happens in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::invariants::{Invariant, Violation};
use super::world::{Flaw, Totals, World};

/// Schedules of a usual run.
const SEEDS: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs seeds until one violates something.
fn search(seeds: u64, flaw: Flaw) -> (Totals, Option<(u64, Violation)>) {
    let next = AtomicU64::new(0);
    let first = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let run = || {
        let mut totals = Totals::default();
        let mut found: Option<(u64, Violation)> = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || seed > first.load(Ordering::Relaxed) {
                return (totals, found);
            }
            match World::new(seed, flaw, false).run() {
                Ok(one) => totals.add(one),
                Err(violation) => {
                    first.fetch_min(seed, Ordering::Relaxed);
                    if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                        found = Some((seed, violation));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let mut totals = Totals::default();
        let mut found: Option<(u64, Violation)> = None;
        for worker in workers {
            let (one, its) = worker.join().unwrap();
            totals.add(one);
            found = match (found, its) {
                (Some(known), Some(its)) => Some(if its.0 < known.0 { its } else { known }),
                (known, its) => known.or(its),
            };
        }
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
    let (totals, found) = search(seeds, Flaw::None);
    if let Some((seed, Violation { invariant, what })) = found {
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
        let (_, found) = search(SEEDS, flaw);
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
