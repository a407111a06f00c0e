//! Which server connections sessions share: the `[pool]` table.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long a session keeps a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// As long as the client is connected: each has a connection of its own.
    #[default]
    Session,
    /// While a transaction runs: then another session gets it.
    Transaction,
}

/// Which server connections sessions share, and how many there are. The words are those of PgBouncer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// How long a session keeps a server connection.
    pub pool_mode: PoolMode,
    /// The same on the cluster endpoint, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<PoolMode>,
    /// The same on the reader endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<PoolMode>,
    /// The same on the writer endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<PoolMode>,
    /// The same by user; comes before the endpoint.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, PoolMode>,
    /// Most server connections of one user to one database of one server, in transaction pooling.
    #[schemars(range(min = 1))]
    pub default_pool_size: usize,
    /// Longest wait, in seconds, of a transaction for a server connection. Then it fails with 53300; nothing of it has
    /// run.
    #[schemars(range(min = 1))]
    pub query_wait_timeout_s: u64,
    /// An idle server connection is closed after this time, in seconds.
    #[schemars(range(min = 1))]
    pub server_idle_timeout_s: u64,
    /// A server connection that is older, in seconds, is closed when its transaction is over.
    #[schemars(range(min = 1))]
    pub server_lifetime_s: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            pool_mode: PoolMode::default(),
            cluster: None,
            reader: None,
            writer: None,
            users: BTreeMap::new(),
            default_pool_size: 20,
            query_wait_timeout_s: 120,
            server_idle_timeout_s: 600,
            server_lifetime_s: 3600,
        }
    }
}
