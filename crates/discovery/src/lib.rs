//! An authoritative DNS listener of a region: whoever can look up a name finds the primary, the servers that read,
//! and the gateways of each region.
//!
//! | name | type | answer |
//! |---|---|---|
//! | `writer.<zone>`, `reader.<zone>`, `<region>.<zone>` | A, AAAA | the addresses in [`Records`], in their order |
//! | `<zone>`, `primary.<zone>` | TXT | one string, `region=eu-west-1;max-age=10;epoch=42` |
//! | `<zone>` | SOA, NS | serial = epoch; one name server per region, `<region>.<zone>` |
//!
//! What it guarantees: answers never go back to an epoch before one that was served; before anything is known the
//! answer is SERVFAIL, never a guess; and once something is known it is served until something newer is.
//!
//! A resolver keeps what it was told for the time to live, so that is how long a client may still go to the former
//! primary's region, whose gateway leads it on.
//!
//! Rejected: the crate hickory-server, which puts no limit on the connections it accepts, and whose catalogues and
//! zones are made to be changed record by record, where here everything changes at once. Messages are read and
//! written by hickory-proto, on which it stands.

mod server;
mod zone;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;

use server::Server;
use zone::Zone;

pub use zone::TTL_SECONDS_MAX;

/// Whether names can be made in a zone.
///
/// # Errors
/// [`DiscoveryError::Zone`].
pub fn check_zone(zone: &str) -> Result<(), DiscoveryError> {
    Zone::new(zone, Duration::ZERO).map(drop)
}

/// Where and what a listener answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// For UDP and TCP. Port 0: any that is free for both. On a host with several addresses one of them, not all:
    /// over UDP a client takes an answer only from the address it has asked.
    pub listen: SocketAddr,
    /// What the names end with, `mydb.pangea.internal`.
    pub zone: String,
    /// How long a resolver may keep an answer; whole seconds count, at most 2^31 - 1 of them.
    pub ttl: Duration,
}

/// What is answered from. All of it changes at once. Of each list the first 500 count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Grows with each change of the primary; records of a smaller one than was served are ignored.
    pub epoch: u64,
    /// The primary region.
    pub primary: String,
    /// Addresses of `writer`.
    pub writer: Vec<IpAddr>,
    /// Addresses of `reader`.
    pub readers: Vec<IpAddr>,
    /// Addresses of each region's gateway, by the region's name, which is one label of DNS. The names `writer`,
    /// `reader` and `primary` are taken.
    pub regions: BTreeMap<String, Vec<IpAddr>>,
}

/// Why a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// No zone of DNS that leaves room for names.
    #[error("{zone:?} is no DNS zone: {why}")]
    Zone {
        /// As configured.
        zone: String,
        /// What is wrong with it.
        why: String,
    },
    /// Longer than DNS can say.
    #[error("a time to live of {0:?} is longer than DNS can say")]
    Ttl(Duration),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen} for DNS")]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A listener that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Discovery {
    server: Server,
}

impl Discovery {
    /// Listens, and answers from the latest of `records`. It goes on with what it has if the sender goes away.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError`].
    pub async fn start(
        config: DiscoveryConfig,
        records: watch::Receiver<Option<Records>>,
    ) -> Result<Self, DiscoveryError> {
        let zone = Zone::new(&config.zone, config.ttl)?;
        let server = Server::start(config.listen, zone, records)
            .await
            .map_err(|source| DiscoveryError::Listen { listen: config.listen, source })?;
        Ok(Self { server })
    }

    /// Of UDP and TCP both.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Returns when the sockets are closed. Connections are cut: a resolver asks again.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}
