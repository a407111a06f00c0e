//! The old primary's side of a switchover.

use std::time::Duration;

use pangea_base::{Epoch, Lsn, Position, RegionId};
use serde::{Deserialize, Serialize};

use crate::interface::{Hold, Scope};

/// Where a switchover is, at the old primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A checkpoint is written while clients go on, so that the one at shutdown is small.
    Preparing,
    /// All gateways keep new transaction blocks waiting; those under way may end, and statements outside of blocks go on.
    Quiescing,
    /// All gateways hold whatever is new; what is under way at the primary may end.
    Holding,
    /// The server shuts down.
    Stopping,
    /// It writes nothing past this; the target may claim when it has that.
    Offered(Position),
    /// The transition is being taken out of the topology.
    RollingBack(String),
}

/// A switchover under way.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) id: u64,
    pub(crate) to: RegionId,
    pub(crate) timeout: Duration,
    pub(crate) stage: Stage,
    /// When the stage began; once it is offered: when the target has last received more of the log.
    pub(crate) since: Duration,
    /// Until then nothing of the clients may be under way any more.
    pub(crate) deadline: Duration,
    /// How much of the log the target had then.
    pub(crate) received: Option<Lsn>,
    /// The target may have been told that the server has stopped: until the transition is out of the topology it may
    /// claim.
    pub(crate) offered: bool,
}

impl Handover {
    pub(crate) fn enter(&mut self, now: Duration, stage: Stage) {
        self.offered |= matches!(stage, Stage::Offered(_));
        if stage == Stage::Quiescing {
            self.deadline = now + self.timeout;
        }
        (self.stage, self.since) = (stage, now);
    }

    /// Whether the server must not write.
    pub(crate) fn stops(&self) -> bool {
        match self.stage {
            Stage::Preparing | Stage::Quiescing | Stage::Holding => false,
            Stage::Stopping | Stage::Offered(_) => true,
            Stage::RollingBack(_) => self.offered,
        }
    }

    /// What of the clients is held.
    pub(crate) fn hold(&self) -> Option<Hold> {
        let scope = match self.stage {
            Stage::Quiescing => Scope::Blocks,
            Stage::Holding => Scope::All,
            _ if self.stops() => Scope::All,
            _ => return None,
        };
        Some(Hold { transition: self.id, scope })
    }
}

/// Something that happened in a change of primary, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The transition that it belongs to; `None` for a failover.
    pub transition: Option<u64>,
    /// When, in microseconds of the region's process.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub kind: StepKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepKind {
    /// The transition was found in the topology.
    Began,
    /// The checkpoint ahead of the hold is written.
    Prepared,
    /// No client of any region has a transaction block open.
    Quiet,
    /// The primary's server executes nothing of any client.
    Held,
    /// The server has shut down; its last checkpoint begins here.
    Stopped {
        /// The position.
        checkpoint: Position,
    },
    /// The target has replayed that checkpoint.
    CaughtUp,
    /// The region is primary of this epoch.
    Claimed {
        /// The epoch.
        epoch: Epoch,
    },
    /// The server takes writes.
    Writable,
    /// The old primary goes on.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// The region has stopped to accept writes.
    Fenced {
        /// Why.
        reason: String,
    },
}
