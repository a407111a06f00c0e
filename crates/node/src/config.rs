//! The configuration of one region process: a TOML file, read by `pangea region run --config FILE`.

mod contradictions;
mod document;
mod pool;
mod problem;
mod review;
mod schema;
mod shape;
mod surroundings;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use pangea_base::RegionId;
use pangea_consistency::{SETTING_NAMES, Setting};
use pangea_control::Policy;
use pangea_store::StoreConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use pool::{PoolConfig, PoolMode, PoolUserConfig};
pub use problem::{ConfigError, Problem, Severity};
pub use review::Review;
pub use schema::region_schema;

/// The configuration of one Pangea region, as `pangea region run --config FILE` reads it. Other paths than `data_dir`
/// are taken from there when they are relative.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Name of the global cluster.
    pub cluster: String,
    /// Name of this region.
    pub region: RegionId,
    /// The region that is primary when the cluster is made. Later the store says which it is.
    pub primary: RegionId,
    /// Where the topology and the lease are kept. All regions of a cluster name the same place.
    pub store: StoreConfig,
    /// When other regions take over.
    #[serde(default)]
    pub failover: FailoverConfig,
    /// Answers DNS queries about where the primary is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
    /// Where clients reach this region; the address of the cluster endpoint when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Directory of this region. Holds `pgdata`, `run` (sockets), `log`.
    pub data_dir: PathBuf,
    /// Directory with `postgres`, `initdb`, `pg_basebackup`; found when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_bin: Option<PathBuf>,
    /// OS user that the process becomes when it was started as root. PostgreSQL refuses to run as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_user: Option<String>,
    /// Number of in-region readers beside the writer-capable server.
    #[serde(default)]
    pub readers: u8,
    /// File with the password of the `postgres` role. Read once, when the primary region's data is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_password_file: Option<PathBuf>,
    /// Further lines for `postgresql.conf`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postgres_settings: Vec<String>,
    /// Where the gateway listens.
    pub listen: ListenConfig,
    /// Certificates of the link and, for clients, of the endpoints.
    pub tls: TlsConfig,
    /// How fresh reads are when sessions do not say.
    #[serde(default, skip_serializing_if = "ReadConsistencyConfig::is_empty")]
    pub read_consistency: ReadConsistencyConfig,
    /// How clients prove who they are.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Most clients at a time.
    #[schemars(range(min = 1))]
    #[serde(default = "clients_max_default")]
    pub clients_max: usize,
    /// Longest time, in seconds, from a client's connection to its proven identity.
    #[schemars(range(min = 1, max = Self::AUTHENTICATION_TIMEOUT_S_MAX))]
    #[serde(default = "authentication_timeout_default")]
    pub authentication_timeout_s: u64,
    /// Roles that may give every command on the console (the database `pangea`), beside superusers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admin_users: Vec<String>,
    /// Roles that may SHOW on the console.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats_users: Vec<String>,
    /// Which server connections sessions share.
    #[serde(default)]
    pub pool: PoolConfig,
    /// The other regions.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
}

fn clients_max_default() -> usize {
    RegionConfig::CLIENTS_MAX
}

fn authentication_timeout_default() -> u64 {
    RegionConfig::AUTHENTICATION_TIMEOUT_S
}

/// When other regions take over.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailoverConfig {
    /// How long, in milliseconds, a primary may write after it has renewed its lease. About as long, and half a second,
    /// writes are away when a region dies. The same in all regions.
    #[schemars(range(min = Self::LEASE_TTL_MS_MIN, max = Self::LEASE_TTL_MS_MAX))]
    pub lease_ttl_ms: u64,
    /// What a new cluster begins with; later `pangea policy` changes it.
    pub policy: Policy,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self { lease_ttl_ms: 3000, policy: Policy::default() }
    }
}

impl FailoverConfig {
    /// Leases that are shorter, in milliseconds, would end for want of a moment's patience.
    pub const LEASE_TTL_MS_MIN: u64 = 600;
    /// With longer ones nobody would wait for a failover.
    pub const LEASE_TTL_MS_MAX: u64 = 600_000;
}

/// The DNS listener of a region.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Where it listens, UDP and TCP.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// The zone that it answers for, as in `mydb.example.com`: `writer`, `reader` and the regions' names are in it.
    pub zone: String,
    /// How long, in seconds, answers may be kept.
    #[schemars(range(max = pangea_discovery::TTL_SECONDS_MAX))]
    #[serde(default = "dns_ttl_default")]
    pub ttl_s: u64,
}

fn dns_ttl_default() -> u64 {
    DnsConfig::TTL_S
}

impl DnsConfig {
    /// Seconds that answers may be kept, when the file does not say.
    pub const TTL_S: u64 = 10;
}

/// Addresses of the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Cluster endpoint: reads here, writes on the primary.
    #[schemars(extend("format" = "socket-address"))]
    pub cluster: SocketAddr,
    /// Reader endpoint: read-only, served in this region.
    #[schemars(extend("format" = "socket-address"))]
    pub reader: SocketAddr,
    /// Writer endpoint: always the primary.
    #[schemars(extend("format" = "socket-address"))]
    pub writer: SocketAddr,
    /// Where other gateways connect, over mTLS.
    #[schemars(extend("format" = "socket-address"))]
    pub link: SocketAddr,
}

/// PEM files.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate authority of the cluster: every gateway's certificate is signed by it.
    pub ca: PathBuf,
    /// This gateway's certificate; its subject alternative name is `<region>.<cluster>.pangea.internal`.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The defaults of Pangea's own settings in this region's sessions, as SET takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadConsistencyConfig {
    /// `pangea.read_consistency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// `pangea.read_consistency` on the cluster endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `pangea.read_consistency` on the reader endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// `pangea.read_consistency` on the writer endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// `pangea.max_staleness`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness: Option<String>,
    /// `pangea.consistency_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// `pangea.consistency_timeout_action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_action: Option<String>,
}

impl ReadConsistencyConfig {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What the region's servers are told: every setting and its value.
    pub(crate) fn server_settings(&self) -> Vec<(String, String)> {
        let value = |setting: Setting| {
            let given = match setting {
                Setting::ReadConsistency => &self.level,
                Setting::MaxStaleness => &self.max_staleness,
                Setting::ConsistencyTimeout => &self.timeout,
                Setting::ConsistencyTimeoutAction => &self.timeout_action,
                Setting::Token => &None,
            };
            given.as_deref().unwrap_or(setting.default_value()).to_owned()
        };
        let mut settings: Vec<(String, String)> =
            SETTING_NAMES.iter().map(|(name, setting)| ((*name).to_owned(), value(*setting))).collect();
        // So that SHOW knows it; roles and databases may have it set.
        settings.push((AURORA_MODE.to_owned(), String::new()));
        settings
    }
}

/// Aurora's name of the level, which start-up options, roles and databases may use.
const AURORA_MODE: &str = "apg_write_forward.consistency_mode";

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// SCRAM-SHA-256 against the verifiers in `pg_authid`.
    #[default]
    Scram,
    /// No proof asked. For local emulation only.
    Trust,
}

/// Another region.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its name.
    pub region: RegionId,
    /// Address of its link listener, as reached from here.
    #[schemars(extend("format" = "socket-address"))]
    pub link: SocketAddr,
    /// Where clients reach it; the address of the link when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

impl RegionConfig {
    /// Most clients at a time, when the file does not say.
    pub const CLIENTS_MAX: usize = 1000;
    /// Seconds to prove one's identity, when the file does not say: PostgreSQL's own default.
    pub const AUTHENTICATION_TIMEOUT_S: u64 = 60;

    /// Longest time, in seconds, that `authentication_timeout_s` can be: what PostgreSQL's own setting allows.
    pub const AUTHENTICATION_TIMEOUT_S_MAX: u64 = 600;

    /// Reads a file and checks what it says, but not the files that it names.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is wrong: all of that is told.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Review::of_content(path).into_config()
    }

    /// PostgreSQL's data directory.
    #[must_use]
    pub fn pgdata(&self) -> PathBuf {
        self.data_dir.join("pgdata")
    }

    /// Directory (0700) of PostgreSQL's socket and of the status socket.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.data_dir.join("run")
    }

    /// Directory of the socket on which the gateway offers the primary's server to this region's own
    /// server: replication, base backup, rewind.
    #[must_use]
    pub fn uplink_dir(&self) -> PathBuf {
        self.data_dir.join("run").join("uplink")
    }
}
