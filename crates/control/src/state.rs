//! What regions tell one another, several times a second and at every change.

use pangea_base::{Epoch, Lsn, Position, RegionId, Timeline};
use serde::{Deserialize, Serialize};

use crate::interface::Hold;

/// How a region's own server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Server {
    /// Not running, or not to be asked.
    #[default]
    Down,
    /// In recovery.
    Standby {
        /// The timeline that it is on.
        timeline: Option<Timeline>,
        /// What is safe on its disk.
        received: Option<Lsn>,
        /// What it has replayed.
        replayed: Option<Lsn>,
        /// Whether it receives from the primary now.
        streaming: bool,
    },
    /// Out of recovery.
    Primary {
        /// What is safe on its disk.
        position: Option<Position>,
        /// How it came out of recovery, when it did so in this process's time.
        promotion: Option<Promotion>,
    },
    /// Shut down in order after it was primary: nothing is written past this checkpoint, where the next record begins.
    Stopped {
        /// Where the shutdown checkpoint begins.
        checkpoint: Position,
    },
}

/// Where a promotion left the timeline before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The new timeline.
    pub timeline: Timeline,
    /// Where it leaves the one before.
    pub fork: Lsn,
}

/// The old primary's word to the target of a switchover: it has stopped here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The transition.
    pub transition: u64,
    /// Where the shutdown checkpoint begins.
    pub checkpoint: Position,
}

/// What a region tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// The region.
    pub region: RegionId,
    /// Its process.
    pub process: u64,
    /// When it said this, in microseconds of that process.
    pub at_us: u64,
    /// The newest epoch that it knows of.
    pub epoch: Epoch,
    /// The primary of that epoch.
    pub primary: RegionId,
    /// Its own server.
    pub server: Server,
    /// It is the primary, holds the lease, and its server takes writes.
    pub writable: bool,
    /// Whether it hears the primary, and that takes writes.
    pub hears_primary: bool,
    /// As the primary it asks all regions to hold their clients' writes.
    pub hold: Option<Hold>,
    /// It holds its clients' writes so, and none of what the hold is for is under way.
    pub held: Option<Hold>,
    /// Client sessions that keep it from that.
    pub busy: u32,
    /// It has stopped for the target of a switchover.
    pub offer: Option<Offer>,
    /// As the primary without the store it asks for the word of all others not to take over for so many milliseconds.
    pub confirm_ms: Option<u64>,
    /// In an answer: that word, for this epoch.
    pub confirms: Option<Epoch>,
}
