//! A WAN on one machine: TCP between regions passes through a user-space emulator that makes it as slow as
//! the distance between them, and that can cut it.
//!
//! For each ordered pair of regions there is a loopback listener: the first region dials it to reach the second.
//! What it sends there takes the one-way delay of (first, second), the answers that of (second, first), so a fault
//! can be put into one direction alone. `tc netem` was rejected: it needs root and a network namespace.

mod connection;
mod direction;
mod table;
mod timer;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pangea_base::RegionId;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use direction::Behaviour;
pub use table::{AWS_REGIONS, Distance, Table, TableError};

use connection::Path;
use direction::Direction;

/// Connections at one time over one link; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;

/// Why the emulator does not start or does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// A distance is missing.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No listener.
    #[error("cannot listen for the link from {from} to {to}")]
    Listen {
        /// Who dials.
        from: RegionId,
        /// Who is reached.
        to: RegionId,
        /// What the system says.
        source: std::io::Error,
    },
    /// No such link.
    #[error("there is no link from {from} to {to}: `pangea wan show` lists them")]
    NoLink {
        /// One end.
        from: RegionId,
        /// The other.
        to: RegionId,
    },
    /// A value that a link cannot have.
    #[error("{0}")]
    Value(String),
}

/// A running emulator; its links end when it is dropped.
#[derive(Debug)]
pub struct Wan(Mutex<Network>);

#[derive(Debug, Default)]
struct Network {
    /// Where each region is reached without the emulator.
    targets: BTreeMap<RegionId, SocketAddr>,
    links: BTreeMap<(RegionId, RegionId), Link>,
    listeners: BTreeMap<(RegionId, RegionId), JoinHandle<()>>,
    /// Links that were ever made.
    made: u64,
}

/// One direction between two regions.
#[derive(Debug, Clone)]
pub struct Link {
    address: SocketAddr,
    direction: Arc<Direction>,
}

/// What to change about a direction; what is absent stays.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Time from one end to the other.
    pub delay_ms: Option<f64>,
    /// Up to this much more at random.
    pub jitter_ms: Option<f64>,
    /// Megabits per second; 0 for unlimited.
    pub bandwidth_mbit: Option<f64>,
}

/// A direction, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    /// From here.
    pub from: RegionId,
    /// To there.
    pub to: RegionId,
    /// Where `from` dials to reach `to`.
    pub address: SocketAddr,
    /// Time from one end to the other.
    pub delay_ms: f64,
    /// Up to this much more at random.
    pub jitter_ms: f64,
    /// Megabits per second, when limited.
    pub bandwidth_mbit: Option<f64>,
    /// Whether nothing passes.
    pub cut: bool,
}

impl Wan {
    /// Connects every region with every other. `targets` says where each is reached without the emulator.
    ///
    /// # Errors
    /// When the table lacks a pair or no listener can be made.
    pub async fn start(table: &Table, targets: &BTreeMap<RegionId, SocketAddr>) -> Result<Self, WanError> {
        let wan = Self(Mutex::default());
        let pairs = targets.keys().flat_map(|from| targets.keys().map(move |to| (from.clone(), to.clone())));
        wan.connect(table, pairs.filter(|(from, to)| from != to).collect(), targets.clone()).await?;
        Ok(wan)
    }

    /// Connects one more region, which is reached at `target`, with every other; nothing is done when it is connected.
    ///
    /// # Errors
    /// When the table lacks a pair or no listener can be made; nothing is changed then.
    pub async fn add(&self, table: &Table, region: &RegionId, target: SocketAddr) -> Result<(), WanError> {
        let others: Vec<RegionId> = self.network().targets.keys().cloned().collect();
        if others.contains(region) {
            return Ok(());
        }
        let ways = |other: &RegionId| [(other.clone(), region.clone()), (region.clone(), other.clone())];
        let pairs = others.iter().flat_map(ways).collect();
        self.connect(table, pairs, BTreeMap::from([(region.clone(), target)])).await
    }

    /// Takes a region and its links away, with all that runs over them.
    pub fn remove(&self, region: &RegionId) {
        let mut network = self.network();
        network.targets.remove(region);
        network.links.retain(|(from, to), _| from != region && to != region);
        network.listeners.retain(|(from, to), listener| {
            let stays = from != region && to != region;
            if !stays {
                listener.abort();
            }
            stays
        });
    }

    async fn connect(
        &self,
        table: &Table,
        pairs: Vec<(RegionId, RegionId)>,
        targets: BTreeMap<RegionId, SocketAddr>,
    ) -> Result<(), WanError> {
        let mut made = self.network().made;
        let mut fresh = Vec::new();
        for (from, to) in pairs {
            let distance = table.distance(&from, &to)?;
            let listen = |source| WanError::Listen { from: from.clone(), to: to.clone(), source };
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(listen)?;
            let address = socket.local_addr().map_err(listen)?;
            let behaviour = Behaviour {
                delay: distance.round_trip / 2,
                jitter: distance.jitter,
                bandwidth: distance.bandwidth,
                cut: false,
            };
            made += 1;
            // A fixed seed per link: the same cluster has the same jitter in every run.
            let seed = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(made);
            let direction = Arc::new(Direction::new(behaviour, seed));
            fresh.push((from, to, Link { address, direction }, socket));
        }
        let mut network = self.network();
        network.made = made;
        network.targets.extend(targets);
        let mut sockets = Vec::new();
        for (from, to, link, socket) in fresh {
            network.links.insert((from.clone(), to.clone()), link);
            sockets.push((from, to, socket));
        }
        for (from, to, socket) in sockets {
            let ends = (from, to);
            let back = (ends.1.clone(), ends.0.clone());
            let ways = (network.links.get(&ends), network.links.get(&back));
            let (Some(forth), Some(back), Some(target)) = (ways.0, ways.1, network.targets.get(&ends.1))
            else {
                continue;
            };
            let path = Path { forth: Arc::clone(&forth.direction), back: Arc::clone(&back.direction) };
            let listener = tokio::spawn(accept(socket, *target, path));
            network.listeners.insert(ends, listener);
        }
        Ok(())
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The direction from one region to another.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&self, from: &RegionId, to: &RegionId) -> Result<Link, WanError> {
        let link = self.network().links.get(&(from.clone(), to.clone())).cloned();
        link.ok_or_else(|| WanError::NoLink { from: from.clone(), to: to.clone() })
    }

    /// Cuts a region off from all others, both ways.
    pub fn isolate(&self, region: &RegionId) {
        self.links_of(region).iter().for_each(Link::cut);
    }

    /// Undoes [`Wan::isolate`].
    pub fn rejoin(&self, region: &RegionId) {
        self.links_of(region).iter().for_each(Link::restore);
    }

    fn links_of(&self, region: &RegionId) -> Vec<Link> {
        let network = self.network();
        let touches = |(from, to): &(RegionId, RegionId)| from == region || to == region;
        network.links.iter().filter(|(ends, _)| touches(ends)).map(|(_, link)| link.clone()).collect()
    }

    /// All directions.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        self.network().links.iter().map(|((from, to), link)| link.status(from, to)).collect()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.network().listeners.values().for_each(JoinHandle::abort);
    }
}

impl Link {
    /// Where the first region dials to reach the second.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it behaves now.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        self.direction.behaviour()
    }

    /// Nothing passes any more: connections hang, new ones are silent.
    pub fn cut(&self) {
        self.direction.change(|behaviour| behaviour.cut = true);
    }

    /// What was held passes again.
    pub fn restore(&self) {
        self.direction.change(|behaviour| behaviour.cut = false);
    }

    /// Changes what is sent from now on.
    ///
    /// # Errors
    /// When a number is one that no link can have; nothing is changed then.
    pub fn set(&self, change: Change) -> Result<(), WanError> {
        let milliseconds = |value: Option<f64>| match value {
            Some(value) if (0.0..=60_000.0).contains(&value) => {
                Ok(Some(Duration::from_secs_f64(value / 1000.0)))
            }
            Some(value) => Err(WanError::Value(format!("{value} ms is out of range: use 0 to 60000"))),
            None => Ok(None),
        };
        let (delay, jitter) = (milliseconds(change.delay_ms)?, milliseconds(change.jitter_ms)?);
        let bandwidth = match change.bandwidth_mbit {
            None => None,
            Some(0.0) => Some(None),
            Some(megabits) => Some(Some(table::bits(megabits).map_err(WanError::Value)?)),
        };
        self.direction.change(|behaviour| {
            behaviour.delay = delay.unwrap_or(behaviour.delay);
            behaviour.jitter = jitter.unwrap_or(behaviour.jitter);
            behaviour.bandwidth = bandwidth.unwrap_or(behaviour.bandwidth);
        });
        Ok(())
    }

    fn status(&self, from: &RegionId, to: &RegionId) -> LinkStatus {
        let behaviour = self.behaviour();
        LinkStatus {
            from: from.clone(),
            to: to.clone(),
            address: self.address,
            delay_ms: behaviour.delay.as_secs_f64() * 1000.0,
            jitter_ms: behaviour.jitter.as_secs_f64() * 1000.0,
            bandwidth_mbit: behaviour.bandwidth.map(|bits| bits as f64 / 1e6),
            cut: behaviour.cut,
        }
    }
}

async fn accept(socket: TcpListener, target: SocketAddr, path: Path) {
    // Dropped with the listener's task, and with it every connection that it carries.
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connection::carry(client, target, path.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "an emulated link cannot accept a connection");
                    // Out of descriptors: trying at once would only spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
