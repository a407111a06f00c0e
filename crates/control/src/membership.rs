//! Who is a region of the cluster, and when a region's data may go.
//!
//! Only the primary's region adds one, and counts it among those whose word fail-safe mode needs from before the write
//! on. Else a region that it does not know of could take over by the word of one that has given its own to the primary.

use std::time::Duration;

use pangea_base::RegionId;

use crate::change::TopologyChange;
use crate::controller::{Controller, Purpose};
use crate::topology::{Durability, Topology};

/// Why a region cannot be taken out of the topology now, and what to do; `None` when nothing stands in the way.
#[must_use]
pub fn removal_objection(topology: &Topology, region: &RegionId) -> Option<String> {
    let member = topology.members.get(region)?;
    if topology.primary == *region {
        return Some(format!(
            "{region} is the primary: move that first, with `pangea switchover --to REGION`"
        ));
    }
    if let Some(transition) = &topology.transition {
        return Some(format!(
            "a switchover to {} is under way: wait until it has ended, see `pangea status`",
            transition.to
        ));
    }
    let counts = |other: &RegionId| *other != topology.primary && *other != *region;
    let left = topology.members.iter().filter(|(other, member)| counts(other) && !member.drained).count();
    let needed = match topology.durability {
        Durability::Async => 0,
        Durability::Bounded { .. } => 1,
        Durability::Sync { regions } => usize::from(regions),
    };
    (!member.drained && left < needed).then(|| {
        format!(
            "{} needs {needed} secondary regions that are not drained, and without {region} there are {left}: choose \
             another with `pangea durability`, or add a region first",
            topology.durability
        )
    })
}

impl Controller {
    /// Whether this region writes such a change.
    pub(crate) fn may_write(&self, change: &TopologyChange) -> bool {
        let known = |region| self.topology().is_some_and(|topology| topology.members.contains_key(region));
        change.member().is_none_or(|region| known(region) || self.is_primary())
    }

    /// Asks for the data of this region's server to be made anew from the primary's: the number of the request, which
    /// [`Self::rebuilt`] is told when they are gone. Until then this region does not take over.
    ///
    /// # Errors
    /// Why it is refused: what is here may be needed.
    pub fn rebuild(&mut self, now: Duration) -> Result<u64, String> {
        let me = &self.settings.me;
        let (Some(topology), Some((_, primary))) = (self.topology(), &self.newest) else {
            return Err("the store has not been read yet: try again in a moment".to_owned());
        };
        if let Some(number) = self.rebuilding {
            return Ok(number);
        }
        if topology.primary == *me || primary == me {
            return Err(format!(
                "{me} is the primary: its data are what the others are made from; move the primary first, with \
                 `pangea switchover --to REGION`"
            ));
        }
        if let Some(transition) = &topology.transition {
            let to = &transition.to;
            return Err(format!("a switchover to {to} is under way: wait until it has ended"));
        }
        let claims = |purpose: &Option<(Purpose, Duration)>| {
            purpose.as_ref().is_some_and(|(purpose, _)| matches!(purpose, Purpose::Claim { .. }))
        };
        if self.forced.is_some() || claims(&self.writing) || claims(&self.unsure) {
            return Err(format!("{me} is about to take over: see `pangea status`"));
        }
        if !self.hears_primary(now) {
            return Err(format!(
                "{primary}, the primary, does not answer or takes no writes: what {me} has may be the best that is left, \
                 and there is nothing to copy. Try again when it does"
            ));
        }
        self.rebuilds += 1;
        self.rebuilding = Some(self.rebuilds);
        Ok(self.rebuilds)
    }

    /// The number of the last request to make the server's data anew; 0 when there was none.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.rebuilds
    }

    /// Whether the server's data are to go, and are not gone yet.
    #[must_use]
    pub fn is_rebuilding(&self) -> bool {
        self.rebuilding.is_some()
    }

    /// The server has stopped and its data are gone, as was asked for by this number.
    pub fn rebuilt(&mut self, number: u64) {
        self.rebuilding = self.rebuilding.filter(|asked| *asked > number);
    }
}
