//! Pools and servers as rows of plain values, whatever they come from.
//!
//! With session pooling a session has servers of its own: each client is linked to its servers for as long as it has
//! them. With transaction pooling the servers that no client is linked to are idle in their pools.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pangea_base::RegionId;
use pangea_session::{Activity, Leg};

use super::clients::{Client, ClientKind, Linked};
use crate::config::PoolMode;
use crate::endpoint::Endpoint;
use crate::pool::IdleServer;
use crate::shared::Shared;

/// Clients of one user in one database by one endpoint, and their servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolRow {
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) endpoint: &'static str,
    pub(crate) pool_mode: PoolMode,
    /// With something under way.
    pub(crate) clients_active: usize,
    /// With nothing under way.
    pub(crate) clients_idle: usize,
    /// That have asked for something that no server works for.
    pub(crate) clients_waiting: usize,
    /// Linked to a client.
    pub(crate) servers_active: usize,
    /// Linked to none.
    pub(crate) servers_idle: usize,
    /// Being connected.
    pub(crate) servers_login: usize,
    /// How long the client has waited that has waited longest.
    pub(crate) longest_wait: Duration,
}

/// What a connection to a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// Linked to a client.
    Active,
    /// Linked to none.
    Idle,
    /// Being connected.
    Login,
}

impl ServerState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Login => "login",
        }
    }
}

/// A connection to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerRow {
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) state: ServerState,
    /// Since when, and when its client last asked for something.
    pub(crate) connected_at: SystemTime,
    pub(crate) requested_at: SystemTime,
    /// The client that it is linked to.
    pub(crate) client: Option<u64>,
    /// Its process in the server, when that has told it.
    pub(crate) process: Option<u32>,
    /// The region that the server is in.
    pub(crate) region: RegionId,
    /// Whether it is reached through another region's gateway.
    pub(crate) forwarded: bool,
}

/// All pools.
pub(crate) fn pools(shared: &Shared) -> Vec<PoolRow> {
    let mut pools: BTreeMap<(String, String, &'static str), PoolRow> = BTreeMap::new();
    for client in shared.console.all().iter().filter(|client| client.identity.kind != ClientKind::Console) {
        let identity = &client.identity;
        let key = (identity.database.clone(), identity.user.clone(), identity.endpoint.name());
        let mode = shared.config.pooling.mode(identity.endpoint, &identity.user);
        let pool = pools
            .entry(key)
            .or_insert_with(|| empty(&identity.database, &identity.user, identity.endpoint.name(), mode));
        let clients = match client.activity() {
            Activity::Active => &mut pool.clients_active,
            Activity::Idle => &mut pool.clients_idle,
            Activity::Waiting => &mut pool.clients_waiting,
        };
        *clients += 1;
        for (_, linked, _) in links(client) {
            match linked {
                Linked::No => {}
                Linked::Opening => pool.servers_login += 1,
                Linked::Open => pool.servers_active += 1,
            }
        }
        pool.longest_wait = pool.longest_wait.max(client.waiting().unwrap_or_default());
    }
    let mut rows: Vec<PoolRow> = pools.into_values().collect();
    for idle in shared.pools.idle() {
        // Endpoints share the servers of a user and a database: they are counted once.
        let shares = |row: &&mut PoolRow| {
            row.pool_mode == PoolMode::Transaction && row.database == idle.database && row.user == idle.user
        };
        match rows.iter_mut().find(shares) {
            Some(row) => row.servers_idle += 1,
            None => {
                let mut row =
                    empty(&idle.database, &idle.user, Endpoint::Cluster.name(), PoolMode::Transaction);
                row.servers_idle = 1;
                rows.push(row);
            }
        }
    }
    rows
}

fn empty(database: &str, user: &str, endpoint: &'static str, pool_mode: PoolMode) -> PoolRow {
    PoolRow {
        database: database.to_owned(),
        user: user.to_owned(),
        endpoint,
        pool_mode,
        clients_active: 0,
        clients_idle: 0,
        clients_waiting: 0,
        servers_active: 0,
        servers_idle: 0,
        servers_login: 0,
        longest_wait: Duration::ZERO,
    }
}

fn links(client: &Client) -> [(Leg, Linked, Option<u32>); 2] {
    [Leg::Local, Leg::Primary].map(|leg| {
        let (linked, process) = client.server(leg);
        (leg, linked, process)
    })
}

fn idle_row(idle: IdleServer, here: &RegionId) -> ServerRow {
    let now = SystemTime::now();
    let region = idle.region.unwrap_or_else(|| here.clone());
    ServerRow {
        database: idle.database,
        user: idle.user,
        state: ServerState::Idle,
        connected_at: now.checked_sub(idle.age).unwrap_or(now),
        requested_at: now.checked_sub(idle.rest).unwrap_or(now),
        client: None,
        process: idle.process,
        forwarded: region != *here,
        region,
    }
}

/// All connections to servers.
pub(crate) fn servers(shared: &Shared) -> Vec<ServerRow> {
    let (here, primary) = (&shared.config.region, shared.gate.now().primary);
    let mut rows: Vec<ServerRow> = shared.pools.idle().into_iter().map(|idle| idle_row(idle, here)).collect();
    for client in shared.console.all() {
        for (leg, linked, process) in links(&client) {
            let state = match linked {
                Linked::No => continue,
                Linked::Opening => ServerState::Login,
                Linked::Open => ServerState::Active,
            };
            let region = match leg {
                Leg::Local => here,
                Leg::Primary => &primary,
            };
            rows.push(ServerRow {
                database: client.identity.database.clone(),
                user: client.identity.user.clone(),
                state,
                connected_at: client.connected_at,
                requested_at: client.requested_at(),
                client: Some(client.id),
                process,
                region: region.clone(),
                forwarded: region != here,
            });
        }
    }
    rows
}
