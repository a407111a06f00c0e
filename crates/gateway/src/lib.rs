//! Sockets, TLS, authentication, links: the data plane of a region.

mod config;

pub use config::{Auth, GatewayConfig, Peer, TlsFiles};

use std::time::Duration;

use pangea_base::{Epoch, Lsn, RegionId};

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be listened on.
    #[error("cannot listen on {address} ({purpose})")]
    Listen {
        /// The address.
        address: String,
        /// Which endpoint.
        purpose: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Certificates cannot be used.
    #[error("cannot use the certificates: {0}")]
    Tls(String),
}

/// What a gateway knows, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GatewayStatus {
    /// Client sessions now.
    pub sessions: usize,
    /// Sessions forwarded here by other gateways now.
    pub forwarded_sessions: usize,
    /// The other regions as seen by heartbeats.
    pub peers: Vec<PeerStatus>,
}

/// Another region as seen from here.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub region: RegionId,
    /// Whether its last heartbeat was answered in time.
    pub reachable: bool,
    /// Its epoch, when it has answered.
    pub epoch: Option<Epoch>,
    /// How far its server is, when known: the flush position of a primary, the replay position of a standby.
    pub position: Option<Lsn>,
    /// Round-trip time of the last heartbeat.
    pub round_trip: Option<Duration>,
}

impl Gateway {
    /// Listens and serves. The region's own server need not be up: clients are told so (57P03) until it is.
    ///
    /// # Errors
    /// When a port is taken or a certificate is unusable.
    pub async fn start(_config: GatewayConfig) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// What it knows now.
    #[must_use]
    pub fn status(&self) -> GatewayStatus {
        GatewayStatus { sessions: 0, forwarded_sessions: 0, peers: Vec::new() }
    }

    /// Refuses new clients, ends the sessions with 57P01 and returns when they are gone, within 5 s.
    pub async fn stop(self) {}
}
