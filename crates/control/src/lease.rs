//! The primary's lease: a document that its holder writes anew before it ends.
//!
//! Rejected: leases of etcd, which are whole seconds, have a floor of two, and tell an observer nothing that it could
//! time by itself; and deadlines in the document, which need synchronised clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use serde::{Deserialize, Serialize};

/// The lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The epoch of its holder.
    pub epoch: Epoch,
    /// The region that holds it.
    pub holder: RegionId,
    /// The process that holds it: another one of the same region is another holder.
    pub process: u64,
    /// Grows with each renewal and claim; a holder uses no number twice, not even for a write that failed.
    pub renewal: u64,
    /// How long it is good for after a renewal, in milliseconds.
    pub ttl_ms: u64,
}

impl Lease {
    /// How long it is good for after a renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// What a holder knows of its own lease. Times are its process's.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// When the last renewal that succeeded was begun.
    renewed: Option<Duration>,
    /// When the last attempt was begun.
    pub(crate) tried: Option<Duration>,
    /// When each other region was asked that has confirmed last.
    confirmed: BTreeMap<RegionId, Duration>,
}

impl Keeper {
    pub(crate) fn renewed(&mut self, began: Duration) {
        self.renewed = self.renewed.max(Some(began));
    }

    pub(crate) fn was_held(&self) -> bool {
        self.renewed.is_some()
    }

    pub(crate) fn confirmed(&mut self, by: RegionId, asked: Duration) {
        let known = self.confirmed.entry(by).or_default();
        *known = asked.max(*known);
    }

    /// The time at which whatever the lease allows must have ended, `margin` before others may take over. `None`: it
    /// was never held. Fail-safe: when the store is away the word of *all* other regions, none of which takes over
    /// within `ttl` of giving it, is as good as a renewal.
    pub(crate) fn until<'a>(
        &self,
        others: impl Iterator<Item = &'a RegionId>,
        ttl: Duration,
        margin: Duration,
    ) -> Option<Duration> {
        let mut confirmed = self.renewed;
        let mut everyone = Some(Duration::MAX);
        for other in others {
            everyone = everyone.min(self.confirmed.get(other).copied());
        }
        // The word of others prolongs a lease; it does not make one.
        if self.renewed.is_some() {
            confirmed = confirmed.max(everyone);
        }
        confirmed.map(|since| since.saturating_add(ttl).saturating_sub(margin))
    }

    /// Whether the last renewal is so old that the others should be asked for their word.
    pub(crate) fn needs_confirmation(&self, now: Duration, ttl: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) > ttl / 2)
    }
}

/// What another region than the holder knows of the lease. Times are its process's.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    seen: Option<(u64, Duration, Duration)>,
    /// This region has given its word not to take over before.
    pub(crate) promised: Duration,
}

impl Observer {
    /// The store holds this version of a lease that is good for `ttl`.
    pub(crate) fn saw(&mut self, now: Duration, version: u64, ttl: Duration) {
        match &mut self.seen {
            Some((known, ..)) if *known == version => {}
            seen => *seen = Some((version, now, ttl)),
        }
    }

    /// When the lease ends if it is not renewed; `None` when none was seen.
    pub(crate) fn ends(&self) -> Option<Duration> {
        let (_, since, ttl) = self.seen?;
        Some(since.saturating_add(ttl).max(self.promised))
    }
}
