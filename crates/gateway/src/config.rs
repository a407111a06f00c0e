//! What a gateway is told at its start.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pangea_base::RegionId;

use crate::endpoint::Endpoint;
use crate::pool::PoolLimits;

/// A gateway's configuration.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Name of the global cluster: part of the names in the gateways' certificates.
    pub cluster_name: String,
    /// The region that it serves.
    pub region: RegionId,
    /// The region whose server is writable in the beginning, until the control plane says which it is.
    pub primary: RegionId,
    /// Cluster endpoint.
    pub cluster: SocketAddr,
    /// Reader endpoint.
    pub reader: SocketAddr,
    /// Writer endpoint.
    pub writer: SocketAddr,
    /// Link listener.
    pub link: SocketAddr,
    /// Directory of the socket `.s.PGSQL.5432` of the region's writer-capable server.
    pub server_dir: PathBuf,
    /// Directories of the sockets of in-region readers.
    pub reader_dirs: Vec<PathBuf>,
    /// Directory in which to offer a socket `.s.PGSQL.5432` that leads to the primary's server.
    pub uplink_dir: PathBuf,
    /// Certificates.
    pub tls: TlsFiles,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Longest time from a client's connection to its proven identity.
    pub authentication_timeout: Duration,
    /// Most clients at a time.
    pub clients_max: usize,
    /// Roles that may give every command of the console, beside superusers.
    pub admin_users: Vec<String>,
    /// Roles that may look at what the console shows.
    pub stats_users: Vec<String>,
    /// What sessions have as `pangea.read_consistency` when they do not say.
    pub levels: EndpointLevels,
    /// Which server connections sessions share, and how many.
    pub pooling: Pooling,
    /// The other regions.
    pub peers: Vec<Peer>,
}

/// How long a session keeps a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolMode {
    /// As long as it lasts.
    #[default]
    Session,
    /// While a transaction runs.
    Transaction,
}

impl PoolMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
        }
    }
}

/// Which server connections sessions share, and how many.
#[derive(Debug, Clone)]
pub struct Pooling {
    /// Where nothing else is said.
    pub mode: PoolMode,
    /// By endpoint: cluster, reader, writer.
    pub endpoints: [Option<PoolMode>; 3],
    /// By user; comes before the endpoint.
    pub users: HashMap<String, PoolMode>,
    /// What can be changed while the gateway runs.
    pub limits: PoolLimits,
}

impl Pooling {
    pub(crate) fn mode(&self, endpoint: Endpoint, user: &str) -> PoolMode {
        let [cluster, reader, writer] = self.endpoints;
        let of_endpoint = match endpoint {
            Endpoint::Cluster => cluster,
            Endpoint::Reader => reader,
            Endpoint::Writer => writer,
        };
        self.users.get(user).copied().or(of_endpoint).unwrap_or(self.mode)
    }
}

/// The read consistency of sessions by endpoint; where none is given it is what their server says.
#[derive(Debug, Clone, Default)]
pub struct EndpointLevels {
    /// Of the cluster endpoint.
    pub cluster: Option<String>,
    /// Of the reader endpoint.
    pub reader: Option<String>,
    /// Of the writer endpoint.
    pub writer: Option<String>,
}

impl EndpointLevels {
    pub(crate) fn of(&self, endpoint: Endpoint) -> Option<&str> {
        match endpoint {
            Endpoint::Cluster => self.cluster.as_deref(),
            Endpoint::Reader => self.reader.as_deref(),
            Endpoint::Writer => self.writer.as_deref(),
        }
    }
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate authority of the cluster.
    pub ca: PathBuf,
    /// This gateway's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// SCRAM-SHA-256 against `pg_authid`.
    Scram,
    /// Nothing asked.
    Trust,
}

/// Another region.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name.
    pub region: RegionId,
    /// Its link address as reached from here.
    pub link: SocketAddr,
}
