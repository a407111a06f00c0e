//! What a controller is told and what it says.

use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use serde::{Deserialize, Serialize};

use crate::lease::Lease;
use crate::state::PeerState;
use crate::topology::{Durability, Topology};

/// What the store holds: versions and documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The topology.
    pub topology: Option<(u64, Topology)>,
    /// The lease.
    pub lease: Option<(u64, Lease)>,
}

impl Loaded {
    /// The versions of topology and lease; 0 for what is not there.
    pub(crate) fn versions(&self) -> (u64, u64) {
        let topology = self.topology.as_ref().map_or(0, |(version, _)| *version);
        (topology, self.lease.as_ref().map_or(0, |(version, _)| *version))
    }
}

/// A conditional write: both documents must have these versions (0: not exist), where one is given.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreWrite {
    /// The version that the topology must have.
    pub expect_topology: Option<u64>,
    /// The version that the lease must have.
    pub expect_lease: Option<u64>,
    /// The topology to write.
    pub topology: Option<Topology>,
    /// The lease to write.
    pub lease: Option<Lease>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was made; what was written is to be loaded next.
    Done,
    /// A condition did not hold; nothing was written.
    Conflict,
    /// It was certainly not made.
    Failed,
    /// It may have been made.
    Unknown,
}

/// The role that a region's server is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// Not known yet: nothing is started, nothing stopped.
    Undecided,
    /// The writable server. A standby is promoted.
    Primary,
    /// A standby of the primary region. A server that is out of recovery is stopped *at once*: it must not write.
    Standby,
    /// Shut down in order.
    Stopped,
}

/// What is to wait while the primary is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// New transaction blocks: they may last for many round trips. Statements outside of blocks go on.
    Blocks,
    /// All that is new.
    All,
}

/// A hold of clients' writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The transition that it is for.
    pub transition: u64,
    /// What waits.
    pub scope: Scope,
}

/// What a region's gateway is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The epoch.
    pub epoch: Epoch,
    /// The primary of it.
    pub primary: RegionId,
    /// The primary takes writes, as far as is known.
    pub open: bool,
    /// What of clients' writes is held.
    pub hold: Option<Hold>,
    /// The region that a switchover is to make primary of the next epoch.
    pub successor: Option<RegionId>,
    /// How safe commits are to be.
    pub durability: Durability,
}

impl Gate {
    /// What may not begin on the primary.
    #[must_use]
    pub fn holds(&self) -> Option<Scope> {
        if self.open { self.hold.map(|hold| hold.scope) } else { Some(Scope::All) }
    }
}

/// What is to be so now.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// A write to the store, to be begun now. Until it is reported no other is given out.
    pub write: Option<StoreWrite>,
    /// The server's role.
    pub desired: Desired,
    /// The server is to write a checkpoint now, for this transition.
    pub prepare: Option<u64>,
    /// What the gateway does; `None` while the topology is not known.
    pub gate: Option<Gate>,
    /// Whatever the lease allows must have ended by then; `None`: it allows nothing.
    pub lease_until: Option<Duration>,
    /// What the other regions are told.
    pub state: Option<PeerState>,
    /// When to ask again, at the latest, if nothing happens.
    pub again: Duration,
}
