//! Changes of the topology that operators and the primary ask for.

use pangea_base::RegionId;
use serde::{Deserialize, Serialize};

use crate::membership::removal_objection;
use crate::topology::{Durability, Member, Policy, Topology, Transition};

/// A change of the topology that is no change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopologyChange {
    /// A switchover begins.
    Transition(Transition),
    /// How safe commits are to be.
    Durability(Durability),
    /// That is so now.
    InForce(Durability),
    /// When other regions take over.
    Policy(Policy),
    /// A region is new, or is another now.
    Member(RegionId, Member),
    /// A region is gone.
    Remove(RegionId),
    /// The data have been made, and have this identifier.
    System(u64),
}

impl TopologyChange {
    /// The region that it adds or changes.
    pub(crate) fn member(&self) -> Option<&RegionId> {
        match self {
            Self::Member(region, _) => Some(region),
            Self::Transition(_)
            | Self::Durability(_)
            | Self::InForce(_)
            | Self::Policy(_)
            | Self::Remove(_)
            | Self::System(_) => None,
        }
    }

    /// The topology after it; `None` when nothing would change, or it is too late for it.
    pub(crate) fn apply(self, topology: &Topology) -> Option<Topology> {
        let mut next = topology.clone();
        match self {
            Self::Transition(transition) => {
                let over = next.last_transition.as_ref().is_some_and(|(last, _)| last.id == transition.id);
                let timely = next.transition.is_none() && next.primary == transition.from && !over;
                next.transition = timely.then_some(transition).or(next.transition);
            }
            Self::Durability(durability) => {
                // What is promised less is in force at once.
                next.durability_in_force &= next.durability == durability;
                next.durability_in_force |= durability == Durability::Async;
                next.durability = durability;
            }
            Self::InForce(durability) => next.durability_in_force |= next.durability == durability,
            Self::Policy(policy) => next.policy = policy,
            Self::System(system) => next.system = next.system.or(Some(system)),
            Self::Member(region, member) => drop(next.members.insert(region, member)),
            Self::Remove(region) => {
                if removal_objection(topology, &region).is_none() {
                    next.members.remove(&region);
                }
            }
        }
        let counts = |topology: &Topology, region| topology.members.get(region).is_some_and(|it| !it.drained);
        let fewer = topology.members.keys().any(|it| counts(topology, it) && !counts(&next, it));
        if fewer && matches!(next.durability, Durability::Sync { .. }) {
            // What was acknowledged may be on the region that counts no more, and on no other.
            next.durability_in_force = false;
        }
        (next != *topology).then_some(next)
    }
}
