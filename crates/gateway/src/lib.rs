//! The data plane of a region: sockets, TLS, authentication, links, and the sessions on them.
//!
//! A client's connection becomes a session, whose decisions are the pure machine of `pangea-session`: reads here and
//! writes on the primary, or all on one of them. What other gateways forward, and replication, is relayed to one
//! server, bytes as they are.

mod admin;
mod auth;
mod buffer;
mod cancel;
mod catalogs;
mod config;
mod console;
mod endpoint;
mod freshness;
mod gate;
mod heartbeat;
mod link_server;
mod links;
mod listener;
mod peers;
mod pool;
mod position;
mod relay;
mod server;
mod session;
mod shared;
mod status;
mod stream;
mod tls;
mod tls_check;
mod uplink;

pub use config::{Auth, EndpointLevels, GatewayConfig, Peer, PoolMode, Pooling, TlsFiles};
pub use heartbeat::Control;
pub use peers::PeerChanges;
pub use pool::{IdleTimeouts, PoolLimits};
pub use status::{GatewayStatus, PeerStatus};
pub use tls_check::{TlsFault, TlsFile, TlsProblem, check_name, check_tls};

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::BytesMut;
use pangea_control::{Gate, Hold};
use pangea_pgwire::ErrorFields;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::Endpoint;
use crate::peers::{Links, Peers};
use crate::shared::Shared;
use crate::tls::Tls;

/// Longest wait for a client to take the gateway's last words.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the sessions to end when the gateway stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after an accept that failed for want of descriptors or memory: the listener stays.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    /// Listeners and pollers.
    services: Mutex<JoinSet<()>>,
    /// The threads that all of it runs on.
    threads: Handle,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({})", self.shared.config.region)
    }
}

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
    /// The system has no randomness to give.
    #[error("cannot get random bytes from the system: {0}")]
    Random(String),
}

impl Gateway {
    /// Listens and serves. The region's own server need not be up: clients are told so (57P03) until it is.
    ///
    /// # Errors
    /// When a port is taken or a certificate is unusable.
    pub async fn start(config: GatewayConfig, control: Arc<dyn Control>) -> Result<Self, StartError> {
        let tls = Tls::load(&config.tls).map_err(StartError::Tls)?;
        let listeners = [
            (listen(config.cluster, "cluster endpoint").await?, Some(Endpoint::Cluster)),
            (listen(config.reader, "reader endpoint").await?, Some(Endpoint::Reader)),
            (listen(config.writer, "writer endpoint").await?, Some(Endpoint::Writer)),
            (listen(config.link, "link").await?, None),
        ];
        let uplink = listen_uplink(&config)?;
        let mut mock_secret = [0; 32];
        getrandom::fill(&mut mock_secret).map_err(|error| StartError::Random(error.to_string()))?;
        let (stop, stopping) = watch::channel(false);
        let dir = config.server_dir.clone();
        let position = position::PositionWatch::new(dir.clone());
        let readers: Vec<_> = config.reader_dirs.iter().cloned().map(position::PositionWatch::new).collect();
        let servers = readers.iter().chain([&position]).cloned().collect();
        let shared = Arc::new(Shared {
            gate: gate::GateWatch::new(config.region.clone(), config.primary.clone()),
            control,
            tls,
            links: Links::default(),
            peers: Peers::default(),
            admin: admin::AdminConnection::new(dir.clone(), "postgres"),
            cancels: cancel::CancelRegistry::default(),
            catalogs: catalogs::Catalogs::new(dir, position.clone()),
            position,
            readers,
            freshness: Arc::new(freshness::Freshness::new(servers)),
            mock_secret,
            stopping,
            clients: Semaphore::new(config.clients_max),
            pools: Arc::new(pool::Pools::new(config.pooling.limits.clone())),
            listeners: listener::Listeners::default(),
            console: Arc::default(),
            consoles: Semaphore::new(console::CONSOLES_MAX),
            forwarded: AtomicUsize::new(0),
            parse_numbers: pangea_session::ParseNumbers::default(),
            next_reader: AtomicUsize::new(0),
            config,
        });
        let mut services = JoinSet::new();
        for (listener, endpoint) in listeners {
            services.spawn(accept_tcp(shared.clone(), listener, endpoint));
        }
        services.spawn(accept_uplink(shared.clone(), uplink));
        services.spawn(shared.pools.clone().tend());
        for position in shared.readers.iter().chain([&shared.position]) {
            services.spawn(position.clone().poll());
        }
        services.spawn(shared.console.clone().sample());
        shared.console.set_idle_timeouts(shared.config.pooling.limits.client_idle);
        services.spawn(shared.console.clone().sweep());
        shared.peers.set(&shared, &shared.config.peers).map_err(StartError::Tls)?;
        Ok(Self { shared, stop, services: Mutex::new(services), threads: Handle::current() })
    }

    /// Says who is primary, and whether clients' writes are held.
    pub fn set_gate(&self, gate: Gate) {
        let before = self.shared.gate.now();
        // Before, so that no session that is told gets an old connection; after, so that none is left that was opened meanwhile.
        let renew = gate.epoch != before.epoch || (gate.open && !before.open);
        if renew {
            self.shared.pools.renew();
        }
        self.shared.gate.set(gate);
        if renew {
            self.shared.pools.renew();
        }
    }

    /// Makes these the other regions that it is linked with. Those that stay as they are notice nothing.
    ///
    /// # Errors
    /// When a region's name cannot be that of a gateway; nothing is changed then.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<PeerChanges, String> {
        let _on_its_threads = self.threads.enter();
        self.shared.peers.set(&self.shared, peers)
    }

    /// Makes these the limits of pools and clients. Connections that there are go on; when there may be fewer than before,
    /// they are replaced as they come back.
    pub fn set_pool_limits(&self, limits: PoolLimits) {
        self.shared.console.set_idle_timeouts(limits.client_idle);
        self.shared.pools.set_limits(limits);
    }

    /// What is held of clients' writes, once nothing of that is under way; and the number of sessions that keep it from
    /// that.
    #[must_use]
    pub fn held(&self) -> (Option<Hold>, u32) {
        self.shared.gate.held()
    }

    /// Told when [`Self::held`] may have changed.
    #[must_use]
    pub fn emptied(&self) -> Arc<Notify> {
        self.shared.gate.emptied()
    }

    /// What it knows now.
    #[must_use]
    pub fn status(&self) -> GatewayStatus {
        GatewayStatus::new(&self.shared, self.shared.peers.pulses())
    }

    /// Refuses new clients, ends the sessions with 57P01 and returns when they are gone, within 5 s.
    pub async fn stop(&self) {
        self.services.lock().await.shutdown().await;
        self.shared.peers.stop().await;
        self.stop.send_replace(true);
        self.shared.pools.renew();
        // Each session holds a receiver of `stopping` besides the one in `Shared`.
        let gone = async {
            while Arc::strong_count(&self.shared) > 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(STOP_TIMEOUT, gone).await.is_err() {
            tracing::warn!("sessions did not end in time");
        }
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen {
        address: address.to_string(),
        purpose,
        source,
    })
}

fn listen_uplink(config: &GatewayConfig) -> Result<UnixListener, StartError> {
    let path = server::socket_path(&config.uplink_dir);
    let failed =
        |source| StartError::Listen { address: path.display().to_string(), purpose: "uplink", source };
    std::fs::create_dir_all(&config.uplink_dir).map_err(failed)?;
    std::fs::set_permissions(&config.uplink_dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(&path).map_err(failed)
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener, endpoint: Option<Endpoint>) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                if let Err(error) = prepare(&tcp) {
                    tracing::debug!(%error, "connection lost before it was served");
                    continue;
                }
                match endpoint {
                    Some(endpoint) => drop(tokio::spawn(endpoint::serve(shared.clone(), tcp, endpoint))),
                    None => drop(tokio::spawn(link_server::serve(shared.clone(), tcp))),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// No delay for small messages; keepalives, as PostgreSQL sets them, so that a vanished host is noticed.
fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    nix::sys::socket::setsockopt(tcp, nix::sys::socket::sockopt::KeepAlive, &true)?;
    Ok(())
}

async fn accept_uplink(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((unix, _)) => drop(tokio::spawn(uplink::serve(shared.clone(), unix))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the uplink");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Writes an error and closes.
async fn say_goodbye(mut stream: stream::Stream, error: &ErrorFields) {
    let mut out = BytesMut::new();
    error.write(&mut out);
    let words = async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    };
    let _ = timeout(FAREWELL_TIMEOUT, words).await;
}

/// [`say_goodbye`] to another gateway, which may be sending meanwhile: what meets a closed socket is answered with a reset,
/// which would overtake the words.
async fn refuse(mut stream: stream::Stream, mut words: BytesMut) {
    let mut unread = BytesMut::new();
    let parting = async {
        stream.write_all_buf(&mut words).await?;
        stream.shutdown().await?;
        while stream.read_buf(&mut unread).await? > 0 {
            unread.clear();
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(FAREWELL_TIMEOUT, parting).await;
}

/// The error that sessions end with when the gateway stops.
fn shutting_down() -> ErrorFields {
    ErrorFields::terminated()
        .with_hint("The gateway of this region is stopping: connect again, or to another region.")
}
