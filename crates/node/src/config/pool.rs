//! Which server connections sessions share: the `[pool]` table.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_gateway::{IdleTimeouts, PoolLimits, PoolMode as GatewayPoolMode, Pooling};
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
    /// Most server connections of one user to one database of one server, in transaction pooling.
    #[schemars(range(min = 1))]
    pub default_pool_size: usize,
    /// Most server connections to one database of one server, whoever the users are, in transaction pooling. 0: no limit.
    pub max_db_connections: usize,
    /// Most server connections of one user to one server, whatever the databases are, in transaction pooling. 0: no
    /// limit.
    pub max_user_connections: usize,
    /// Longest wait, in seconds, of a transaction for a server connection. Then it fails with 53300; nothing of it has
    /// run.
    #[schemars(range(min = 1))]
    pub query_wait_timeout_s: u64,
    /// A client that asks for nothing for this time, in seconds, outside of a transaction is disconnected with 57P05. 0:
    /// never.
    pub client_idle_timeout_s: u64,
    /// A client that asks for nothing for this time, in seconds, within a transaction is disconnected with 25P03, and the
    /// transaction is rolled back. 0: never.
    pub idle_transaction_timeout_s: u64,
    /// An idle server connection is closed after this time, in seconds.
    #[schemars(range(min = 1))]
    pub server_idle_timeout_s: u64,
    /// A server connection that is older, in seconds, is closed when its transaction is over.
    #[schemars(range(min = 1))]
    pub server_lifetime_s: u64,
    /// What is different for some users.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, PoolUserConfig>,
}

/// What is different for a user.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolUserConfig {
    /// How long the user's sessions keep a server connection, whatever the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// Most server connections of the user to one database of one server, in transaction pooling.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<usize>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            pool_mode: PoolMode::default(),
            cluster: None,
            reader: None,
            writer: None,
            default_pool_size: 20,
            max_db_connections: 0,
            max_user_connections: 0,
            query_wait_timeout_s: 120,
            client_idle_timeout_s: 0,
            idle_transaction_timeout_s: 0,
            server_idle_timeout_s: 600,
            server_lifetime_s: 3600,
            users: BTreeMap::new(),
        }
    }
}

impl PoolConfig {
    /// As the gateway is told it.
    pub(crate) fn pooling(&self) -> Pooling {
        let mode = |mode: PoolMode| match mode {
            PoolMode::Session => GatewayPoolMode::Session,
            PoolMode::Transaction => GatewayPoolMode::Transaction,
        };
        let users = self.users.iter();
        Pooling {
            mode: mode(self.pool_mode),
            endpoints: [self.cluster, self.reader, self.writer].map(|own| own.map(mode)),
            users: users.filter_map(|(user, own)| Some((user.clone(), mode(own.pool_mode?)))).collect(),
            limits: self.limits(),
        }
    }

    /// What of it can be changed while the region runs.
    pub(crate) fn limits(&self) -> PoolLimits {
        let users = self.users.iter();
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds)).filter(|limit| !limit.is_zero());
        PoolLimits {
            size: self.default_pool_size,
            sizes: users.filter_map(|(user, own)| Some((user.clone(), own.pool_size?))).collect(),
            database_max: Some(self.max_db_connections).filter(|most| *most > 0),
            user_max: Some(self.max_user_connections).filter(|most| *most > 0),
            wait_timeout: Duration::from_secs(self.query_wait_timeout_s),
            idle_timeout: Duration::from_secs(self.server_idle_timeout_s),
            lifetime: Duration::from_secs(self.server_lifetime_s),
            client_idle: IdleTimeouts {
                session: seconds(self.client_idle_timeout_s),
                transaction: seconds(self.idle_transaction_timeout_s),
            },
        }
    }

    /// Names and values of what is fixed while the region runs: the pool modes.
    pub(crate) fn fixed(&self) -> BTreeMap<String, PoolMode> {
        let endpoints = [("cluster", self.cluster), ("reader", self.reader), ("writer", self.writer)];
        let endpoints = endpoints.into_iter().filter_map(|(name, mode)| Some((name.to_owned(), mode?)));
        let users = self.users.iter();
        let users = users.filter_map(|(user, own)| Some((format!("users.{user}.pool_mode"), own.pool_mode?)));
        let all = [("pool_mode".to_owned(), self.pool_mode)];
        all.into_iter()
            .chain(endpoints)
            .chain(users)
            .map(|(name, mode)| (format!("pool.{name}"), mode))
            .collect()
    }
}
