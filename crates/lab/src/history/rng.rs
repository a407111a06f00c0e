//! Repeatable randomness: the same seed gives the same workload.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): one number of state, good enough to choose operations.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one of several tasks, unrelated to those of the others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end.max(1))).unwrap_or_default()
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, cases: u32) -> bool {
        self.below(100) < cases
    }

    /// One of several things.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let length = u32::try_from(from.len()).unwrap_or(u32::MAX);
        from.get(self.below(length) as usize)
    }

    /// A time up to so many milliseconds.
    pub fn up_to_ms(&mut self, milliseconds: u32) -> Duration {
        Duration::from_micros(u64::from(self.below(milliseconds.saturating_mul(1000).saturating_add(1))))
    }
}
