//! The configuration of one region process: a TOML file, read by `pangea region run --config FILE`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pangea_base::RegionId;
use serde::{Deserialize, Serialize};

/// One region.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Name of the global cluster.
    pub cluster: String,
    /// Name of this region.
    pub region: RegionId,
    /// The region whose server is writable.
    pub primary: RegionId,
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
    /// How clients prove who they are.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Most clients at a time.
    #[serde(default = "clients_max_default")]
    pub clients_max: usize,
    /// Longest time, in seconds, from a client's connection to its proven identity.
    #[serde(default = "authentication_timeout_default")]
    pub authentication_timeout_s: u64,
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

/// Addresses of the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Cluster endpoint: reads here, writes on the primary.
    pub cluster: SocketAddr,
    /// Reader endpoint: read-only, served in this region.
    pub reader: SocketAddr,
    /// Writer endpoint: always the primary.
    pub writer: SocketAddr,
    /// Where other gateways connect, over mTLS.
    pub link: SocketAddr,
}

/// PEM files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate authority of the cluster: every gateway's certificate is signed by it.
    pub ca: PathBuf,
    /// This gateway's certificate; its subject alternative name is `<region>.<cluster>.pangea.internal`.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// SCRAM-SHA-256 against the verifiers in `pg_authid`.
    #[default]
    Scram,
    /// No proof asked. For local emulation only.
    Trust,
}

/// Another region.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its name.
    pub region: RegionId,
    /// Address of its link listener, as reached from here.
    pub link: SocketAddr,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("the configuration {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// The parts contradict one another.
    #[error("the configuration {path} is not valid: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl RegionConfig {
    /// Most clients at a time, when the file does not say.
    pub const CLIENTS_MAX: usize = 1000;
    /// Seconds to prove one's identity, when the file does not say: PostgreSQL's own default.
    pub const AUTHENTICATION_TIMEOUT_S: u64 = 60;

    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML of this form, or names a primary that is neither this region nor a peer.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let known =
            config.primary == config.region || config.peers.iter().any(|p| p.region == config.primary);
        if !known {
            let problem = format!("primary {} is neither this region nor one of its peers", config.primary);
            return Err(ConfigError::Invalid { path: path.to_owned(), problem });
        }
        Ok(config)
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
