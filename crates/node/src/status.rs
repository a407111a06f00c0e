//! What a region tells about itself: the JSON of `GET /v1/status`.
//!
//! What is not known is `null`, never 0 (LAG-IS-NEVER-GUESSED).

use std::net::SocketAddr;

use pangea_base::{Epoch, Lsn, Position, RegionId};
use serde::{Deserialize, Serialize};

/// A region's status.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Name of the global cluster.
    pub cluster: String,
    /// The region.
    pub region: RegionId,
    /// What it is.
    pub role: Role,
    /// The region whose server is writable, as this one knows it.
    pub primary: RegionId,
    /// The epoch of that.
    pub epoch: Epoch,
    /// How it is.
    pub health: Health,
    /// What is happening or wrong, in words.
    pub detail: String,
    /// Version of its PostgreSQL.
    pub postgres: String,
    /// Flush position of a primary, replay position of a secondary.
    pub position: Option<Position>,
    /// What a secondary has received.
    pub received: Option<Lsn>,
    /// When the last replayed transaction was committed, in seconds since 1970 by the primary's clock.
    pub last_replayed_at: Option<f64>,
    /// Bytes of WAL that the primary has and this server has not replayed. 0 for the primary itself.
    pub replication_lag_bytes: Option<u64>,
    /// How long ago the primary was first heard of beyond what is replayed here. 0 for the primary itself.
    pub replication_lag_seconds: Option<f64>,
    /// Where the primary of another region was when it was heard of last; kept when it is gone.
    #[serde(default)]
    pub primary_heard: Option<PrimaryHeard>,
    /// Client sessions now.
    pub sessions: usize,
    /// Sessions forwarded here by other gateways now.
    pub forwarded_sessions: usize,
    /// Process id of the region.
    pub pid: u32,
    /// Where it listens.
    pub endpoints: Endpoints,
    /// In-region readers.
    pub readers: Vec<ReaderStatus>,
    /// The other regions as seen from here.
    pub peers: Vec<PeerView>,
}

/// What was heard of a primary last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrimaryHeard {
    /// The region that was primary.
    pub region: RegionId,
    /// Its flush position.
    pub position: Position,
    /// How long ago that was heard, in seconds: it may have written since.
    pub seconds_ago: f64,
}

/// What a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its server is writable.
    Primary,
    /// Its server follows the primary's.
    Secondary,
}

/// How a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Has not been ready yet.
    Starting,
    /// Serves, and follows the primary.
    Healthy,
    /// Was ready; now something is missing.
    Degraded,
}

/// Where a region listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// Reads here, writes on the primary.
    pub cluster: SocketAddr,
    /// Read-only.
    pub reader: SocketAddr,
    /// Always the primary.
    pub writer: SocketAddr,
    /// For other gateways.
    pub link: SocketAddr,
}

/// An in-region reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub phase: String,
    /// Its replay position.
    pub position: Option<Position>,
    /// Whether it streams.
    pub streaming: bool,
}

/// Another region as seen from here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub region: RegionId,
    /// Whether its last heartbeat was answered in time.
    pub reachable: bool,
    /// Its epoch.
    pub epoch: Option<Epoch>,
    /// How far its server is.
    pub position: Option<Position>,
    /// What it has received, when it is a secondary that answers.
    pub received: Option<Lsn>,
    /// Round trip of the last heartbeat.
    pub round_trip_ms: Option<f64>,
}
