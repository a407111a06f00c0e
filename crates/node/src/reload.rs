//! The configuration is read again while the region runs, on `POST /v1/reload` and SIGHUP: its peers take effect.
//!
//! Only they do. What a region is (its name, its directory, where it listens) is fixed while it runs; other settings
//! that have changed are named, and wait for the next start.

use std::path::Path;

use pangea_base::RegionId;
use pangea_gateway::{Gateway, Peer};
use serde::{Deserialize, Serialize};

use crate::RegionConfig;
use crate::dns::Dns;

/// What a reload has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Peers that are new, or are reached elsewhere now.
    pub added: Vec<RegionId>,
    /// Peers that are gone.
    pub removed: Vec<RegionId>,
    /// Settings that have changed and take effect at the next start.
    pub at_next_start: Vec<String>,
}

/// Reads `file` again for the region that was started with `running`. With an error nothing is changed.
pub(crate) fn reload(
    file: &Path,
    running: &RegionConfig,
    gateway: &Gateway,
    dns: Option<&Dns>,
) -> Result<Reloaded, String> {
    let config = RegionConfig::load(file).map_err(|error| error.to_string())?;
    if config.region != running.region {
        let (found, own) = (&config.region, &running.region);
        return Err(format!("{} is the configuration of region {found}, not of {own}", file.display()));
    }
    let changes = gateway.set_peers(&gateway_peers(&config))?;
    if let Some(dns) = dns {
        dns.set_peers(&config.peers);
    }
    let at_next_start = differences(running, &config);
    tracing::info!(
        added = ?changes.added, removed = ?changes.removed, ?at_next_start, "the configuration was read again"
    );
    Ok(Reloaded { added: changes.added, removed: changes.removed, at_next_start })
}

/// The peers as the gateway is told them.
pub(crate) fn gateway_peers(config: &RegionConfig) -> Vec<Peer> {
    config.peers.iter().map(|peer| Peer { region: peer.region.clone(), link: peer.link }).collect()
}

/// Names of the settings, the peers apart, that differ.
fn differences(running: &RegionConfig, found: &RegionConfig) -> Vec<String> {
    let table = |config: &RegionConfig| {
        let mut table = toml::Table::try_from(config).unwrap_or_default();
        table.remove("peers");
        // What the cluster began with; it is read no more once there is a topology.
        table.remove("primary");
        table
    };
    let (before, after) = (table(running), table(found));
    let mut names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| before.get(name) != after.get(name));
    names
}
