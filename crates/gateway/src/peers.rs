//! The other regions that a gateway keeps links to: a set that changes while it runs.
//!
//! A peer that stays as it is keeps its link, and whatever runs over it notices nothing. One that is gone is told of
//! as lost, which ends the sessions over its link.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use pangea_base::RegionId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Peer;
use crate::heartbeat::{self, Pulse};
use crate::links::Link;
use crate::shared::Shared;
use crate::tls;

/// All links of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Links(RwLock<HashMap<RegionId, Arc<Link>>>);

impl Links {
    /// The link to a region, when it is a peer.
    pub(crate) fn get(&self, region: &RegionId) -> Option<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(region).cloned()
    }

    /// Where each peer's gateway is reached, in the order of their names.
    pub(crate) fn addresses(&self) -> Vec<(RegionId, SocketAddr)> {
        let links = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let addresses = links.values().map(|link| (link.region.clone(), link.address()));
        addresses.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    fn put(&self, link: &Arc<Link>) {
        let mut links = self.0.write().unwrap_or_else(PoisonError::into_inner);
        links.insert(link.region.clone(), link.clone());
    }

    fn remove(&self, region: &RegionId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(region);
    }
}

/// A link and what cares for it. Its tasks end when it is dropped.
struct Watched {
    link: Arc<Link>,
    pulse: watch::Receiver<Pulse>,
    tasks: JoinSet<()>,
}

impl Watched {
    fn start(shared: &Arc<Shared>, link: Arc<Link>) -> Self {
        let (sender, pulse) = watch::channel(Pulse::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat::watch_peer(link.clone(), sender, shared.clone()));
        tasks.spawn(link.clone().keep_warm(shared.gate.changes()));
        Self { link, pulse, tasks }
    }
}

/// The peers of a gateway.
#[derive(Default)]
pub(crate) struct Peers(Mutex<BTreeMap<RegionId, Watched>>);

/// Which peers are new and which are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// New ones, and those that are reached elsewhere now.
    pub added: Vec<RegionId>,
    /// Gone ones.
    pub removed: Vec<RegionId>,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RegionId, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes these the peers. With an error nothing is changed.
    pub(crate) fn set(&self, shared: &Arc<Shared>, peers: &[Peer]) -> Result<PeerChanges, String> {
        let mut watched = self.lock();
        let mut fresh = Vec::new();
        for peer in peers {
            if watched.get(&peer.region).is_none_or(|known| known.link.address() != peer.link) {
                fresh.push(link(shared, peer)?);
            }
        }
        let is_gone = |region: &RegionId| peers.iter().all(|peer| peer.region != *region);
        let removed: Vec<RegionId> = watched.keys().filter(|region| is_gone(region)).cloned().collect();
        for region in &removed {
            shared.links.remove(region);
        }
        for link in &fresh {
            shared.links.put(link);
        }
        // After its link can no longer be found: nothing begins on it once its sessions have been told.
        for region in removed.iter().chain(fresh.iter().map(|link| &link.region)) {
            if let Some(Watched { link, tasks, .. }) = watched.remove(region) {
                drop(tasks);
                link.report_lost();
                shared.pools.renew_region(region);
                shared.control.lost(region);
            }
        }
        let added = fresh.iter().map(|link| link.region.clone()).collect();
        for link in fresh {
            watched.insert(link.region.clone(), Watched::start(shared, link));
        }
        Ok(PeerChanges { added, removed })
    }

    /// What each peer said last.
    pub(crate) fn pulses(&self) -> Vec<(RegionId, Pulse)> {
        self.lock().iter().map(|(region, watched)| (region.clone(), *watched.pulse.borrow())).collect()
    }

    /// Ends what cares for them.
    pub(crate) async fn stop(&self) {
        let all = std::mem::take(&mut *self.lock());
        for (_, mut watched) in all {
            watched.tasks.shutdown().await;
        }
    }
}

fn link(shared: &Shared, peer: &Peer) -> Result<Arc<Link>, String> {
    let config = &shared.config;
    let name = tls::gateway_name(&config.cluster_name, &peer.region)?;
    let connector = shared.tls.link_connector.clone();
    Ok(Link::new(peer.region.clone(), peer.link, name, connector, config.region.clone()))
}
