//! Why a cluster does not come up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_agent::PgBinError;
use pangea_base::RegionId;
use pangea_node::PrivilegeError;

use crate::wan::{TableError, WanError};

/// Why a cluster does not come up or cannot be worked on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file or directory operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The directory has files, and not ours.
    #[error(
        "{path} is not empty and holds no Pangea cluster; it was not touched: name another with --data-dir"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// There is no cluster.
    #[error(
        "there is no cluster in {path}: start one with `pangea up`, or name its directory with --data-dir"
    )]
    NoCluster {
        /// The directory.
        path: PathBuf,
    },
    /// The marker cannot be understood.
    #[error("{path} is not valid")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// The marker is of another version of Pangea.
    #[error(
        "{path} has format {found}, this program knows format {known}: use the version of pangea that wrote it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// An option contradicts what exists, or itself.
    #[error("{0}")]
    Options(String),
    /// Clocks cannot be set.
    #[error(
        "wall clocks that can be set need libfaketime, which is not installed: apt-get install libfaketime"
    )]
    NoFakeTime,
    /// Another supervisor is at work.
    #[error("the cluster in {path} is already running: see `pangea status`, stop it with `pangea down`")]
    Running {
        /// The directory.
        path: PathBuf,
    },
    /// A port is taken.
    #[error("port {port} ({purpose} of {region}) is in use: choose another range with --port-base")]
    PortInUse {
        /// The port.
        port: u16,
        /// Which endpoint.
        purpose: &'static str,
        /// Of which region.
        region: RegionId,
    },
    /// The path of a socket does not fit.
    #[error("the socket path {path} has {length} bytes, but the system allows 107: use a shorter --data-dir")]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The unprivileged user cannot reach the directory.
    #[error(
        "the OS user {user}, who runs PostgreSQL, cannot enter {blocked}, and so not reach {path}: \
         name another place with --data-dir"
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The directory that is closed to it.
        blocked: PathBuf,
        /// What it should reach.
        path: PathBuf,
    },
    /// The user does not exist or is root.
    #[error(transparent)]
    User(#[from] PrivilegeError),
    /// No usable PostgreSQL.
    #[error(transparent)]
    PgBin(#[from] PgBinError),
    /// The emulator does not start.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// The table of distances is unusable.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Certificates cannot be made.
    #[error("cannot make the certificates of the cluster")]
    Certificates(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// A region process ended instead of becoming ready.
    #[error("region {region} did not start: {said}\n(its log: {log})")]
    Region {
        /// The region.
        region: RegionId,
        /// What it said.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// A region does not become ready.
    #[error("region {region} is not ready after {waited:?}: {state} (its logs: {log_dir})")]
    NotReady {
        /// The region.
        region: RegionId,
        /// How long it was waited for.
        waited: Duration,
        /// Its state.
        state: String,
        /// Its logs.
        log_dir: PathBuf,
    },
    /// No such region.
    #[error("there is no region {region}; this cluster has {known}")]
    NoRegion {
        /// What was asked for.
        region: RegionId,
        /// What there is.
        known: String,
    },
    /// A supervisor does not stop.
    #[error(
        "the supervisor (process {pid}) does not stop within {waited:?}: look at its regions with `pangea status`"
    )]
    DoesNotStop {
        /// Its process id.
        pid: i32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A server that a killed region left running does not stop.
    #[error(transparent)]
    Leftover(#[from] pangea_agent::ServerError),
}

impl ClusterError {
    /// For `map_err`: names the operation and its object.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
