//! Tells DNS clients where the primary is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_discovery::{Discovery, DiscoveryConfig, DiscoveryError, Records};
use tokio::sync::watch;

use crate::RegionConfig;

/// The listener, and what it answers.
#[derive(Debug)]
pub(crate) struct Dns {
    _discovery: Discovery,
    records: watch::Sender<Option<Records>>,
    own: RegionId,
    regions: BTreeMap<RegionId, Vec<IpAddr>>,
}

impl Dns {
    /// Listens, if the configuration says so.
    pub(crate) async fn start(config: &RegionConfig) -> Result<Option<Self>, DiscoveryError> {
        let Some(dns) = &config.dns else { return Ok(None) };
        let (records, known) = watch::channel(None);
        let ttl = Duration::from_secs(dns.ttl_s);
        let listener = DiscoveryConfig { listen: dns.listen, zone: dns.zone.clone(), ttl };
        let discovery = Discovery::start(listener, known).await?;
        let or = |addresses: &[IpAddr], other: IpAddr| {
            if addresses.is_empty() { vec![other] } else { addresses.to_vec() }
        };
        let own = (config.region.clone(), or(&config.addresses, config.listen.cluster.ip()));
        let peers =
            config.peers.iter().map(|peer| (peer.region.clone(), or(&peer.addresses, peer.link.ip())));
        let regions = peers.chain([own]).collect();
        Ok(Some(Self { _discovery: discovery, records, own: config.region.clone(), regions }))
    }

    /// The primary is this region from now on.
    pub(crate) fn tell(&self, epoch: Epoch, primary: &RegionId) {
        let addresses = |region: &RegionId| self.regions.get(region).cloned().unwrap_or_default();
        let named = self.regions.iter().map(|(name, addresses)| (name.to_string(), addresses.clone()));
        let records = Records {
            epoch: epoch.0,
            primary: primary.to_string(),
            writer: addresses(primary),
            readers: addresses(&self.own),
            regions: named.collect(),
        };
        self.records.send_if_modified(|known| {
            let news = known.as_ref() != Some(&records);
            *known = Some(records);
            news
        });
    }
}
