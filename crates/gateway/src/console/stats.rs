//! What clients have done: counters of each session, their sums by database, and averages over the last minute.
//!
//! A session writes only counters of its own, by plain stores: no two sessions share a cache line for it, and nothing
//! is locked. Who wants sums adds them up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause between two samples.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples that are kept: averages are over this many intervals.
const SAMPLES_MAX: usize = 60;

/// What is counted. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Transactions,
    Queries,
    Received,
    Sent,
    TransactionTime,
    QueryTime,
    WaitTime,
}

/// Number of counters.
const COUNTERS: usize = 7;

/// The counters of one session. Only the session itself writes them.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; COUNTERS]);

impl Counters {
    /// Adds to a counter. Not atomic as a whole, and need not be: there is one writer.
    pub(crate) fn add(&self, counter: Counter, amount: u64) {
        let value = &self.0[counter as usize];
        value.store(value.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        Counts(std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed)))
    }
}

/// Values of all counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts([u64; COUNTERS]);

impl Counts {
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(value);
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index].saturating_sub(earlier.0[index])))
    }
}

/// Sums by database.
pub(crate) type Totals = BTreeMap<String, Counts>;

/// What was counted in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    counts: Counts,
    stretch: Duration,
}

impl Rates {
    /// So many a second; unknown before any time has passed.
    pub(crate) fn per_second(&self, counter: Counter) -> Option<u64> {
        let micros = u64::try_from(self.stretch.as_micros()).unwrap_or(u64::MAX);
        let count = u128::from(self.counts.get(counter)) * 1_000_000;
        u64::try_from(count.checked_div(micros.into())?).ok()
    }

    /// The time of one; unknown when there was none.
    pub(crate) fn time_of_one(&self, time: Counter, of: Counter) -> Option<u64> {
        self.counts.get(time).checked_div(self.counts.get(of))
    }
}

/// Sums at the ends of the last intervals.
#[derive(Debug)]
pub(crate) struct Samples(VecDeque<(Instant, Totals)>);

impl Samples {
    pub(crate) fn new(start: Instant) -> Self {
        Self(VecDeque::from([(start, Totals::new())]))
    }

    pub(crate) fn take(&mut self, now: Instant, totals: Totals) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, totals));
    }

    /// What a database's clients have done since the oldest sample.
    pub(crate) fn rates(&self, now: Instant, database: &str, total: &Counts) -> Rates {
        let oldest = self.0.front();
        let before = oldest.and_then(|(_, totals)| totals.get(database)).copied().unwrap_or_default();
        let stretch = oldest.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at));
        Rates { counts: total.since(&before), stretch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(transactions: u64, time: Duration) -> Counts {
        let counters = Counters::default();
        counters.add(Counter::Transactions, transactions);
        counters.add(Counter::TransactionTime, u64::try_from(time.as_micros()).unwrap());
        counters.read()
    }

    #[test]
    fn averages_are_over_the_samples_that_are_kept() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut samples = Samples::new(start);
        let total = counts(30, Duration::from_millis(60));
        let rates = samples.rates(at(10), "a", &total);
        assert_eq!(rates.per_second(Counter::Transactions), Some(3));
        assert_eq!(rates.time_of_one(Counter::TransactionTime, Counter::Transactions), Some(2000));
        for second in 1..=200 {
            samples.take(at(second), Totals::from([("a".to_owned(), total)]));
            assert!(samples.0.len() <= SAMPLES_MAX);
        }
        let mut later = total;
        later.add(&counts(59, Duration::from_millis(59)));
        let rates = samples.rates(at(200), "a", &later);
        assert_eq!(rates.per_second(Counter::Transactions), Some(1));
        assert_eq!(rates.time_of_one(Counter::TransactionTime, Counter::Transactions), Some(1000));
    }

    #[test]
    fn the_average_of_nothing_is_not_known() {
        let start = Instant::now();
        let rates = Samples::new(start).rates(start, "a", &Counts::default());
        assert_eq!(rates.per_second(Counter::Queries), None);
        assert_eq!(rates.time_of_one(Counter::QueryTime, Counter::Queries), None);
    }
}
