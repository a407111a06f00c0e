//! Links to the gateways of other regions: ordinary PostgreSQL connections over mutual TLS.
//!
//! Connections to the primary's gateway are kept warm (TCP and TLS done), and a start-up message is sent together
//! with the first statements, so that even the first write of a session costs one round trip.
//!
//! A heartbeat runs over each link. When it is not answered the peer counts as lost: every session that uses the
//! link is told (never a hang), and warm connections are dropped.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_control::Gate;
use pangea_pgwire::startup::{CancelKey, Startup};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::stream::Stream;

/// Warm connections kept for each peer that is asked for connections.
const WARM: usize = 4;

/// A warm connection older than this is replaced: middleboxes forget idle connections.
const WARM_AGE_MAX: Duration = Duration::from_secs(240);

/// Longest wait for TCP and TLS: several round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Wait after a failed attempt to warm a connection.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Start-up parameters of links, which the accepting gateway takes out.
pub(crate) mod parameter {
    /// What the connection is for.
    pub(crate) const KIND: &str = "pangea.kind";
    /// The epoch that the sender believes in.
    pub(crate) const EPOCH: &str = "pangea.epoch";
    /// The sender's region.
    pub(crate) const ORIGIN: &str = "pangea.origin";
}

/// What a link connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A forwarded client session.
    Session,
    /// One that begins when the region has become primary in the epoch that it names.
    Ahead,
    /// Replication, base backup, rewind: the other region's own server or tools.
    Uplink,
    /// Health and positions.
    Heartbeat,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Ahead => "ahead",
            Self::Uplink => "uplink",
            Self::Heartbeat => "heartbeat",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Session, Self::Ahead, Self::Uplink, Self::Heartbeat]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// The link to one peer.
pub(crate) struct Link {
    pub(crate) region: RegionId,
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    origin: RegionId,
    warm: Mutex<VecDeque<(Instant, Stream)>>,
    wanted: Notify,
    /// Grows each time the peer is lost.
    lost: watch::Sender<u64>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} at {})", self.region, self.address)
    }
}

impl Link {
    pub(crate) fn new(
        region: RegionId,
        address: SocketAddr,
        name: ServerName<'static>,
        connector: TlsConnector,
        origin: RegionId,
    ) -> Arc<Self> {
        let (lost, _) = watch::channel(0);
        let (warm, wanted) = (Mutex::default(), Notify::new());
        Arc::new(Self { region, address, name, connector, origin, warm, wanted, lost })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection on which nothing has been sent yet: a warm one when there is one.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        loop {
            let taken = self.warm().pop_front();
            self.wanted.notify_one();
            match taken {
                Some((since, mut stream)) if since.elapsed() < WARM_AGE_MAX => {
                    if is_quiet(&mut stream) {
                        return Ok(stream);
                    }
                }
                Some(_) => {}
                None => return self.connect().await,
            }
        }
    }

    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let work = async {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            let tls = self.connector.connect(self.name.clone(), tcp).await?;
            Ok(Stream::TlsClient(Box::new(tls)))
        };
        timeout(CONNECT_TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Adds what the accepting gateway has to know.
    pub(crate) fn label(&self, startup: &mut Startup, kind: Kind, epoch: Epoch) {
        let mut add = |name: &str, value: String| startup.parameters.push((name.to_owned(), value));
        add(parameter::KIND, kind.as_str().to_owned());
        add(parameter::EPOCH, epoch.to_string());
        add(parameter::ORIGIN, self.origin.to_string());
    }

    /// Keeps warm connections while the peer is primary, for ever.
    pub(crate) async fn keep_warm(self: Arc<Self>, mut gate: watch::Receiver<Gate>) {
        loop {
            if gate.borrow_and_update().primary != self.region {
                self.warm().clear();
                if gate.changed().await.is_err() {
                    return;
                }
                continue;
            }
            self.warm().retain(|(since, _)| since.elapsed() < WARM_AGE_MAX);
            let missing = WARM.saturating_sub(self.warm().len());
            if missing == 0 {
                // Woken by a taken connection; the timeout replaces old ones.
                tokio::select! {
                    _ = timeout(WARM_AGE_MAX / 4, self.wanted.notified()) => {}
                    _ = gate.changed() => {}
                }
                continue;
            }
            match self.connect().await {
                Ok(stream) => self.warm().push_back((Instant::now(), stream)),
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    /// Tells when the peer is lost from now on.
    pub(crate) fn generation(&self) -> Generation {
        Generation(Some(self.lost.subscribe()))
    }

    /// The peer does not answer: ends what runs over the link.
    pub(crate) fn report_lost(&self) {
        self.warm().clear();
        self.lost.send_modify(|generation| *generation += 1);
    }

    fn warm(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Stream)>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing has arrived on a warm connection: an end of stream or an error would have.
pub(crate) fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut read = std::pin::pin!(stream.read(&mut byte));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    std::future::Future::poll(read.as_mut(), &mut cx).is_pending()
}

/// Where a server is reached.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// In this region, by its socket's directory.
    Local(PathBuf),
    /// Through the gateway of another region, which is primary in this epoch.
    Link(Arc<Link>, Epoch),
    /// Nowhere: this region is primary, and this one's configuration does not name it.
    Unlinked(RegionId),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("the database server of this region"),
            Self::Link(link, _) => write!(f, "the primary region {}", link.region),
            Self::Unlinked(region) => write!(f, "the primary region {region}"),
        }
    }
}

impl Route {
    /// Opens a connection; nothing has been sent on it.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        match self {
            Self::Local(dir) => crate::server::connect(dir).await,
            Self::Link(link, _) => link.open().await,
            Self::Unlinked(_) => {
                Err(io::Error::other("it is not among the peers in this region's configuration"))
            }
        }
    }

    /// Whether it leads to the same server in the same way.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local(dir), Self::Local(other)) => dir == other,
            (Self::Link(link, epoch), Self::Link(other, of)) => Arc::ptr_eq(link, other) && epoch == of,
            (Self::Unlinked(region), Self::Unlinked(other)) => region == other,
            _ => false,
        }
    }

    /// What to send as start-up message on it.
    pub(crate) fn startup(&self, client: &Startup, kind: Kind) -> Startup {
        let mut startup = crate::endpoint::server_startup(client);
        self.label(&mut startup, kind);
        startup
    }

    /// Addresses a start-up message to this server, whomever it was for.
    pub(crate) fn label(&self, startup: &mut Startup, kind: Kind) {
        use parameter::{EPOCH, KIND, ORIGIN};
        startup.parameters.retain(|(name, _)| ![EPOCH, KIND, ORIGIN].contains(&name.as_str()));
        if let Self::Link(link, epoch) = self {
            link.label(startup, kind, *epoch);
        }
    }

    /// Passes a cancel request on; whether it has been taken. If not, it may still be.
    pub(crate) async fn cancel(&self, key: &CancelKey) -> bool {
        let work = async { crate::server::cancel(self.open().await?, key).await };
        match timeout(CONNECT_TIMEOUT, work).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, route = %self, "cancel request not delivered");
                false
            }
            Err(_) => {
                tracing::debug!(route = %self, "cancel request not delivered in time");
                false
            }
        }
    }

    /// Tells when the link is lost from now on.
    pub(crate) fn generation(&self) -> Generation {
        match self {
            Self::Local(_) | Self::Unlinked(_) => Generation::never(),
            Self::Link(link, _) => link.generation(),
        }
    }
}

/// Tells when a link is lost. A local server needs no heartbeat: the kernel tells when it is gone.
#[derive(Debug)]
pub(crate) struct Generation(Option<watch::Receiver<u64>>);

impl Generation {
    /// Is never lost.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Returns when the link has been lost since this value was made; else never.
    pub(crate) async fn lost(&mut self) {
        let changed = match &mut self.0 {
            Some(receiver) => receiver.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }
}
