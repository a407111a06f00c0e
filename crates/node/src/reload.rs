//! The configuration is read again while the region runs, on `POST /v1/reload` and SIGHUP: its peers and the limits of
//! its pools take effect.
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
    gateway.set_pool_limits(config.pool.limits());
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

/// Names of the settings that differ, without those that take effect at once.
fn differences(running: &RegionConfig, found: &RegionConfig) -> Vec<String> {
    let table = |config: &RegionConfig| {
        let mut table = toml::Table::try_from(config).unwrap_or_default();
        table.remove("peers");
        table.remove("pool");
        for (name, mode) in config.pool.fixed() {
            table.insert(name, toml::Value::try_from(mode).unwrap_or(toml::Value::Boolean(false)));
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const FILE: &str = "cluster = 'orders'\nregion = 'a'\nprimary = 'a'\ndata_dir = '/d'\n\
        [store]\nkind = 'embedded'\npath = 's'\n\
        [listen]\ncluster = '127.0.0.1:1'\nreader = '127.0.0.1:2'\nwriter = '127.0.0.1:3'\nlink = '127.0.0.1:4'\n\
        [tls]\nca = 'ca.pem'\ncert = 'cert.pem'\nkey = 'key.pem'\n";

    fn config(more: &str) -> Result<RegionConfig, Box<dyn std::error::Error>> {
        let mut file = tempfile::NamedTempFile::new()?;
        write!(file, "{FILE}{more}")?;
        Ok(RegionConfig::load(file.path())?)
    }

    #[test]
    fn what_waits_for_the_next_start_is_named() -> Result<(), Box<dyn std::error::Error>> {
        let before = config("[pool]\npool_mode = 'transaction'\n[pool.users.b]\npool_mode = 'session'\n")?;
        let waits = |more: &str| Ok::<_, Box<dyn std::error::Error>>(differences(&before, &config(more)?));
        let same = "[pool]\npool_mode = 'transaction'\ndefault_pool_size = 5\nmax_db_connections = 6\n\
                    client_idle_timeout_s = 7\n[pool.users.b]\npool_mode = 'session'\n[pool.users.c]\npool_size = 2\n\
                    [[peers]]\nregion = 'b'\nlink = '127.0.0.2:4'\n";
        assert!(waits(same)?.is_empty());
        let other = "[pool]\nreader = 'session'\n[pool.users.b]\npool_size = 2\n[pool.users.c]\npool_mode = 'session'\n\
                     [failover]\nlease_ttl_ms = 5000\n";
        let named =
            ["failover", "pool.pool_mode", "pool.reader", "pool.users.b.pool_mode", "pool.users.c.pool_mode"];
        assert_eq!(waits(other)?, named);
        Ok(())
    }
}
