//! Replication lag from positions alone. Pure.
//!
//! The clock of the primary is not asked: what counts is when *this* region first heard of a position that its
//! server has not replayed. That needs no synchronised clocks, and an idle primary makes no false lag (the time
//! of the last replayed transaction would). It is as fine as the heartbeats are frequent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pangea_base::Lsn;

/// Observations kept: at two a second more than half an hour. Beyond it the lag is told as at least that.
const OBSERVATIONS_MAX: usize = 4096;

/// What the primary's position was, and when that was first heard.
#[derive(Debug, Default)]
pub(crate) struct LagTracker {
    /// Positions and times both strictly grow.
    heard: VecDeque<(Instant, Lsn)>,
}

impl LagTracker {
    /// The primary is at `position`, heard at `now`.
    pub(crate) fn hear(&mut self, now: Instant, position: Lsn) {
        match self.heard.back() {
            // A position that goes back is another primary's: what was heard of the former says nothing.
            Some((_, last)) if *last > position => self.heard.clear(),
            Some((_, last)) if *last == position => return,
            _ => {}
        }
        if self.heard.len() == OBSERVATIONS_MAX {
            // Thinned out rather than cut off: the oldest observation is what a long lag is measured from.
            let mut keep = false;
            self.heard.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.heard.push_back((now, position));
    }

    /// How long ago the primary was first heard of beyond `replayed`; zero when it never was, unknown when
    /// the primary was not heard of at all.
    pub(crate) fn lag(&mut self, now: Instant, replayed: Lsn) -> Option<Duration> {
        let newest = *self.heard.back()?;
        while self.heard.front().is_some_and(|(_, position)| *position <= replayed) {
            self.heard.pop_front();
        }
        let lag = self.heard.front().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at));
        if self.heard.is_empty() {
            self.heard.push_back(newest);
        }
        Some(lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn unknown_until_heard_then_measured_from_the_first_missing_position() {
        let start = Instant::now();
        let mut tracker = LagTracker::default();
        assert_eq!(tracker.lag(start, Lsn(10)), None);
        tracker.hear(start, Lsn(10));
        assert_eq!(tracker.lag(start + seconds(9), Lsn(10)), Some(seconds(0)));
        tracker.hear(start + seconds(10), Lsn(20));
        tracker.hear(start + seconds(12), Lsn(30));
        assert_eq!(tracker.lag(start + seconds(15), Lsn(15)), Some(seconds(5)));
        assert_eq!(tracker.lag(start + seconds(15), Lsn(20)), Some(seconds(3)));
        assert_eq!(tracker.lag(start + seconds(15), Lsn(31)), Some(seconds(0)));
        tracker.hear(start + seconds(16), Lsn(30));
        assert_eq!(tracker.lag(start + seconds(20), Lsn(31)), Some(seconds(0)));
    }

    #[test]
    fn another_primary_starts_anew_and_memory_is_bounded() {
        let start = Instant::now();
        let mut tracker = LagTracker::default();
        for n in 0..10_000_u64 {
            tracker.hear(start + seconds(n), Lsn(n));
            assert!(tracker.heard.len() <= OBSERVATIONS_MAX);
        }
        assert_eq!(tracker.lag(start + seconds(10_000), Lsn(0)).map(|lag| lag >= seconds(9_990)), Some(true));
        tracker.hear(start + seconds(10_000), Lsn(5));
        assert_eq!(tracker.heard.len(), 1);
    }
}
