//! What a gateway knows, for people and for the status of the region.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pangea_base::{Epoch, Lsn, Position, RegionId};
use serde::Serialize;

use crate::heartbeat::Pulse;
use crate::shared::Shared;

/// What a gateway knows now.
#[derive(Debug, Clone, Serialize)]
pub struct GatewayStatus {
    /// Client sessions now.
    pub sessions: usize,
    /// Connections that other gateways have forwarded here: sessions and uplinks.
    pub forwarded_sessions: usize,
    /// The other regions as seen by heartbeats.
    pub peers: Vec<PeerStatus>,
}

/// Another region as seen from here.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub region: RegionId,
    /// Whether its last heartbeat was answered in time.
    pub reachable: bool,
    /// Its epoch, when it has answered.
    pub epoch: Option<Epoch>,
    /// How far its server is, when known: the flush position of a primary, the replay position of a standby.
    pub position: Option<Position>,
    /// What a standby has received, when known.
    pub received: Option<Lsn>,
    /// Round-trip time of the last heartbeat.
    pub round_trip: Option<Duration>,
}

impl GatewayStatus {
    pub(crate) fn new(shared: &Shared, pulses: Vec<(RegionId, Pulse)>) -> Self {
        let peer = |(region, pulse)| {
            let Pulse { reachable, epoch, position, received, round_trip } = pulse;
            PeerStatus { region, reachable, epoch, position, received, round_trip }
        };
        Self {
            sessions: shared.config.clients_max.saturating_sub(shared.clients.available_permits()),
            forwarded_sessions: shared.forwarded.load(Ordering::Relaxed),
            peers: pulses.into_iter().map(peer).collect(),
        }
    }
}
