//! What all connections of a gateway share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pangea_base::{Epoch, RegionId};
use pangea_session::ParseNumbers;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::admin::AdminConnection;
use crate::cancel::CancelRegistry;
use crate::catalogs::Catalogs;
use crate::config::GatewayConfig;
use crate::console::Clients;
use crate::freshness::Freshness;
use crate::gate::GateWatch;
use crate::heartbeat::Control;
use crate::links::Route;
use crate::listener::Listeners;
use crate::peers::{Links, Peers};
use crate::pool::Pools;
use crate::position::PositionWatch;
use crate::tls::Tls;

/// What all connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) gate: GateWatch,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) tls: Tls,
    pub(crate) links: Links,
    /// Their tasks hold what is shared: [`Peers::stop`] ends them.
    pub(crate) peers: Peers,
    pub(crate) admin: AdminConnection,
    pub(crate) cancels: CancelRegistry,
    /// Of the region's own writer-capable server.
    pub(crate) position: Arc<PositionWatch>,
    /// Of the in-region readers, in the order of the configuration.
    pub(crate) readers: Vec<Arc<PositionWatch>>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) catalogs: Catalogs,
    /// Makes the salts of roles that do not exist look like others.
    pub(crate) mock_secret: [u8; 32],
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) clients: Semaphore,
    pub(crate) pools: Arc<Pools>,
    pub(crate) listeners: Listeners,
    /// Who the clients are, and what of theirs is paused.
    pub(crate) console: Arc<Clients>,
    /// Places of consoles.
    pub(crate) consoles: Semaphore,
    pub(crate) forwarded: AtomicUsize,
    /// Counts what clients of shared servers prepare.
    pub(crate) parse_numbers: ParseNumbers,
    pub(crate) next_reader: AtomicUsize,
}

impl Shared {
    /// Whether the writable server is this region's.
    pub(crate) fn is_primary(&self) -> bool {
        self.gate.is_primary()
    }

    /// How the primary's server is reached from here.
    pub(crate) fn primary_route(&self) -> Route {
        let gate = self.gate.now();
        self.route_to(&gate.primary, gate.epoch)
    }

    /// How the server of a region is reached from here that is primary of an epoch.
    pub(crate) fn route_to(&self, primary: &RegionId, epoch: Epoch) -> Route {
        match self.links.get(primary) {
            Some(link) => Route::Link(link, epoch),
            None if *primary == self.config.region => self.local_route(),
            None => Route::Unlinked(primary.clone()),
        }
    }

    /// The region's own writer-capable server.
    pub(crate) fn local_route(&self) -> Route {
        Route::Local(self.config.server_dir.clone())
    }

    /// The in-region readers and their positions, beginning with another one each time.
    pub(crate) fn readers_in_turn(&self) -> Vec<(Route, Arc<PositionWatch>)> {
        let turn = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let routes = self.config.reader_dirs.iter().cloned().map(Route::Local);
        let mut readers: Vec<_> = routes.zip(self.readers.iter().cloned()).collect();
        let count = readers.len().max(1);
        readers.rotate_left(turn % count);
        readers
    }

    /// Returns when the gateway stops.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the gateway itself is gone, which is the same.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    /// A place for one more client, while there is one.
    pub(crate) fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.clients.try_acquire().ok()
    }
}
