//! Composition root of one region process: gateway, servers, status.
//!
//! Order matters. Privileges go first, because PostgreSQL refuses to run as root and nothing else here needs
//! it. The gateway comes before the servers, because a secondary's server is cloned through the gateway's
//! uplink. On the way down the gateway goes first, so that clients are told before their server is gone.

mod config;
mod control;
mod dns;
mod lag;
mod privileges;
mod region;
mod reload;
mod status;
mod status_file;
mod status_server;

pub use config::{
    ClientAuth, ConfigError, DnsConfig, FailoverConfig, ListenConfig, PeerConfig, PoolConfig, PoolMode,
    PoolUserConfig, Problem, ReadConsistencyConfig, RegionConfig, Review, Severity, TlsConfig, region_schema,
};
pub use control::{ControlStatus, FailoverRequest, SwitchoverAnswer, watch};
pub use privileges::{PrivilegeError, lookup_user};
pub use region::{NodeError, RunOptions, StopWith, run};
pub use reload::Reloaded;
pub use status::{Endpoints, Health, PeerView, PrimaryHeard, ReaderStatus, RegionStatus, Role};

/// Name of the socket, below `run`, on which a region tells its status.
pub const STATUS_SOCKET: &str = "status.sock";
/// Name of the file, below `run`, that a region's process holds locked.
pub const LOCK_FILE: &str = "region.lock";
