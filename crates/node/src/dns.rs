//! Tells DNS clients where the primary is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_discovery::{Discovery, DiscoveryConfig, DiscoveryError, Records};
use tokio::sync::watch;

use crate::{PeerConfig, RegionConfig};

/// The listener, and what it answers.
#[derive(Debug)]
pub(crate) struct Dns {
    _discovery: Discovery,
    records: watch::Sender<Option<Records>>,
    own: (RegionId, Vec<IpAddr>),
    /// This region and its peers.
    regions: Mutex<BTreeMap<RegionId, Vec<IpAddr>>>,
}

impl Dns {
    /// Listens, if the configuration says so.
    pub(crate) async fn start(config: &RegionConfig) -> Result<Option<Arc<Self>>, DiscoveryError> {
        let Some(dns) = &config.dns else { return Ok(None) };
        let (records, known) = watch::channel(None);
        let ttl = Duration::from_secs(dns.ttl_s);
        let listener = DiscoveryConfig { listen: dns.listen, zone: dns.zone.clone(), ttl };
        let discovery = Discovery::start(listener, known).await?;
        let own = (config.region.clone(), or(&config.addresses, config.listen.cluster.ip()));
        let found = Self { _discovery: discovery, records, own, regions: Mutex::default() };
        found.set_peers(&config.peers);
        Ok(Some(Arc::new(found)))
    }

    /// These are the other regions from now on; it is told with the next [`Self::tell`].
    pub(crate) fn set_peers(&self, peers: &[PeerConfig]) {
        let peers = peers.iter().map(|peer| (peer.region.clone(), or(&peer.addresses, peer.link.ip())));
        let regions = peers.chain([self.own.clone()]).collect();
        *self.regions.lock().unwrap_or_else(PoisonError::into_inner) = regions;
    }

    /// The primary is this region from now on.
    pub(crate) fn tell(&self, epoch: Epoch, primary: &RegionId) {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let addresses = |region: &RegionId| regions.get(region).cloned().unwrap_or_default();
        let named = regions.iter().map(|(name, addresses)| (name.to_string(), addresses.clone()));
        let records = Records {
            epoch: epoch.0,
            primary: primary.to_string(),
            writer: addresses(primary),
            readers: addresses(&self.own.0),
            regions: named.collect(),
        };
        self.records.send_if_modified(|known| {
            let news = known.as_ref() != Some(&records);
            *known = Some(records);
            news
        });
    }
}

fn or(addresses: &[IpAddr], other: IpAddr) -> Vec<IpAddr> {
    if addresses.is_empty() { vec![other] } else { addresses.to_vec() }
}
