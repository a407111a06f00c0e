//! The clock that leases are timed by.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Time since this machine was started, sleep included: a machine that was suspended must not believe on waking that
/// its lease still has as long to run as before. The wall clock has no part in it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock;

impl Clock {
    pub(crate) fn now(self) -> Duration {
        match clock_gettime(ClockId::CLOCK_BOOTTIME) {
            Ok(time) => Duration::from(time),
            // Every Linux since 2.6.39 has it.
            Err(_) => Duration::ZERO,
        }
    }

    /// The time at which `instant` was.
    pub(crate) fn at(self, instant: Instant) -> Duration {
        self.now().saturating_sub(instant.elapsed())
    }

    /// Seconds since 1970: for people, and for counting failovers.
    pub(crate) fn wall(self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
