//! What SHOW tells. Columns have PgBouncer's names where they mean the same; those that would mean nothing here are not
//! there, and Pangea's own are at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_session::Activity;

use super::clients::{Client, ClientKind};
use super::command::{OTHERS, SHOWS, Show};
use super::stats::Counter;
use super::table::{Column, Row, Type, row};
use super::{pools, regions};
use crate::config::{Auth, PoolMode};
use crate::shared::Shared;

const TEXT: Type = Type::Text;
const INT: Type = Type::Int;

/// The columns of an answer.
pub(super) fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Pools => POOLS,
        Show::Clients => CLIENTS,
        Show::Servers => SERVERS,
        Show::Stats => STATS,
        Show::Config => &[("key", TEXT), ("value", TEXT), ("changeable", TEXT)],
        Show::Databases => DATABASES,
        Show::Lists => &[("list", TEXT), ("items", INT)],
        Show::Version => &[("version", TEXT)],
        Show::Regions => regions::REGIONS,
        Show::Lag => regions::LAG,
        Show::Help => &[("command", TEXT), ("description", TEXT)],
    }
}

/// Its rows.
pub(super) async fn rows(show: Show, shared: &Shared) -> Vec<Row> {
    match show {
        Show::Pools => pool_rows(shared),
        Show::Clients => shared.console.all().iter().map(|client| client_row(client)).collect(),
        Show::Servers => server_rows(shared),
        Show::Stats => stats_rows(shared),
        Show::Config => config_rows(shared),
        Show::Databases => database_rows(shared).await,
        Show::Lists => list_rows(shared),
        Show::Version => vec![row![format!("Pangea {}", env!("CARGO_PKG_VERSION"))]],
        Show::Regions => regions::region_rows(shared),
        Show::Lag => regions::lag_rows(shared),
        Show::Help => help_rows(),
    }
}

const POOLS: &[Column] = &[
    ("database", TEXT),
    ("user", TEXT),
    ("cl_active", INT),
    ("cl_waiting", INT),
    ("sv_active", INT),
    ("sv_idle", INT),
    ("sv_login", INT),
    ("maxwait", INT),
    ("maxwait_us", INT),
    ("pool_mode", TEXT),
    ("endpoint", TEXT),
    ("cl_idle", INT),
];

fn pool_rows(shared: &Shared) -> Vec<Row> {
    let row = |pool: pools::PoolRow| {
        row![
            pool.database,
            pool.user,
            // As PgBouncer counts: clients that ask for nothing are active.
            pool.clients_active + pool.clients_idle,
            pool.clients_waiting,
            pool.servers_active,
            pool.servers_idle,
            pool.servers_login,
            pool.longest_wait.as_secs(),
            pool.longest_wait.subsec_micros(),
            pool.pool_mode.name(),
            pool.endpoint,
            pool.clients_idle,
        ]
    };
    pools::pools(shared).into_iter().map(row).collect()
}

const CLIENTS: &[Column] = &[
    ("type", TEXT),
    ("user", TEXT),
    ("database", TEXT),
    ("replication", TEXT),
    ("state", TEXT),
    ("addr", TEXT),
    ("port", INT),
    ("local_addr", TEXT),
    ("local_port", INT),
    ("connect_time", TEXT),
    ("request_time", TEXT),
    ("wait", INT),
    ("wait_us", INT),
    ("tls", TEXT),
    ("application_name", TEXT),
    ("id", INT),
    ("endpoint", TEXT),
];

fn client_row(client: &Client) -> Row {
    let identity = &client.identity;
    let waiting = client.waiting().unwrap_or_default();
    row![
        "C",
        identity.user.as_str(),
        identity.database.as_str(),
        if identity.kind == ClientKind::Replication { "yes" } else { "none" },
        state_name(client.activity()),
        identity.address.ip().to_string(),
        identity.address.port(),
        identity.local.ip().to_string(),
        identity.local.port(),
        client.connected_at,
        client.requested_at(),
        waiting.as_secs(),
        waiting.subsec_micros(),
        if identity.tls { "TLS" } else { "" },
        identity.application.as_str(),
        client.id,
        identity.endpoint.name(),
    ]
}

fn state_name(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Active => "active",
        Activity::Waiting => "waiting",
    }
}

const SERVERS: &[Column] = &[
    ("type", TEXT),
    ("user", TEXT),
    ("database", TEXT),
    ("state", TEXT),
    ("connect_time", TEXT),
    ("request_time", TEXT),
    ("link", INT),
    ("remote_pid", INT),
    ("region", TEXT),
    ("forwarded", INT),
];

fn server_rows(shared: &Shared) -> Vec<Row> {
    let row = |server: pools::ServerRow| {
        row![
            "S",
            server.user,
            server.database,
            server.state.name(),
            server.connected_at,
            server.requested_at,
            server.client,
            server.process,
            server.region.to_string(),
            server.forwarded,
        ]
    };
    pools::servers(shared).into_iter().map(row).collect()
}

const STATS: &[Column] = &[
    ("database", TEXT),
    ("total_xact_count", INT),
    ("total_query_count", INT),
    ("total_received", INT),
    ("total_sent", INT),
    ("total_xact_time", INT),
    ("total_query_time", INT),
    ("total_wait_time", INT),
    ("avg_xact_count", INT),
    ("avg_query_count", INT),
    ("avg_recv", INT),
    ("avg_sent", INT),
    ("avg_xact_time", INT),
    ("avg_query_time", INT),
    ("avg_wait_time", INT),
];

fn stats_rows(shared: &Shared) -> Vec<Row> {
    use Counter::{Queries, QueryTime, Received, Sent, TransactionTime, Transactions, WaitTime};
    let row = |(database, counts, rates): (String, super::stats::Counts, super::stats::Rates)| {
        row![
            database,
            counts.get(Transactions),
            counts.get(Queries),
            counts.get(Received),
            counts.get(Sent),
            counts.get(TransactionTime),
            counts.get(QueryTime),
            counts.get(WaitTime),
            rates.per_second(Transactions),
            rates.per_second(Queries),
            rates.per_second(Received),
            rates.per_second(Sent),
            rates.time_of_one(TransactionTime, Transactions),
            rates.time_of_one(QueryTime, Queries),
            // As PgBouncer has it: of all transactions, whether they waited or not.
            rates.time_of_one(WaitTime, Transactions),
        ]
    };
    shared.console.stats().into_iter().map(row).collect()
}

fn config_rows(shared: &Shared) -> Vec<Row> {
    let config = &shared.config;
    let auth = match config.auth {
        Auth::Scram => "scram",
        Auth::Trust => "trust",
    };
    let fixed = |key: &'static str, value: String| row![key, value, "no"];
    let level = |level: &Option<String>| level.clone().unwrap_or_default();
    let mut rows = vec![
        fixed("cluster", config.cluster_name.clone()),
        fixed("region", config.region.to_string()),
        fixed("listen.cluster", config.cluster.to_string()),
        fixed("listen.reader", config.reader.to_string()),
        fixed("listen.writer", config.writer.to_string()),
        fixed("listen.link", config.link.to_string()),
        fixed("client_auth", auth.to_owned()),
        fixed("authentication_timeout_s", config.authentication_timeout.as_secs().to_string()),
        fixed("clients_max", config.clients_max.to_string()),
        fixed("admin_users", config.admin_users.join(",")),
        fixed("stats_users", config.stats_users.join(",")),
        fixed("readers", config.reader_dirs.len().to_string()),
        fixed("read_consistency.cluster", level(&config.levels.cluster)),
        fixed("read_consistency.reader", level(&config.levels.reader)),
        fixed("read_consistency.writer", level(&config.levels.writer)),
    ];
    rows.extend(pooling_rows(shared));
    for (region, address) in shared.links.addresses() {
        rows.push(row![format!("peers.{region}.link"), address.to_string(), "yes"]);
    }
    rows
}

/// The section `[pool]`. 0 is no limit there.
fn pooling_rows(shared: &Shared) -> Vec<Row> {
    let (pooling, limits) = (&shared.config.pooling, shared.pools.limits());
    let mode = |mode: &Option<PoolMode>| mode.map_or("", PoolMode::name);
    let [cluster, reader, writer] = &pooling.endpoints;
    let number = |limit: Option<usize>| limit.unwrap_or(0).to_string();
    let seconds = |limit: Option<Duration>| limit.unwrap_or_default().as_secs().to_string();
    let fixed = [
        ("pool_mode", pooling.mode.name()),
        ("cluster", mode(cluster)),
        ("reader", mode(reader)),
        ("writer", mode(writer)),
    ];
    let changeable = [
        ("default_pool_size", limits.size.to_string()),
        ("max_db_connections", number(limits.database_max)),
        ("max_user_connections", number(limits.user_max)),
        ("query_wait_timeout_s", seconds(Some(limits.wait_timeout))),
        ("client_idle_timeout_s", seconds(limits.client_idle.session)),
        ("idle_transaction_timeout_s", seconds(limits.client_idle.transaction)),
        ("server_idle_timeout_s", seconds(Some(limits.idle_timeout))),
        ("server_lifetime_s", seconds(Some(limits.lifetime))),
    ];
    let users: BTreeMap<_, _> = pooling.users.iter().collect();
    let modes =
        users.into_iter().map(|(user, mode)| row![format!("pool.users.{user}.pool_mode"), mode.name(), "no"]);
    let sizes: BTreeMap<_, _> = limits.sizes.iter().collect();
    let sizes = sizes
        .into_iter()
        .map(|(user, size)| row![format!("pool.users.{user}.pool_size"), size.to_string(), "yes"]);
    let fixed = fixed.into_iter().map(|(key, value)| row![format!("pool.{key}"), value, "no"]);
    let changeable = changeable.into_iter().map(|(key, value)| row![format!("pool.{key}"), value, "yes"]);
    fixed.chain(changeable).chain(modes).chain(sizes).collect()
}

const DATABASES: &[Column] = &[
    ("name", TEXT),
    ("database", TEXT),
    ("pool_size", INT),
    ("pool_mode", TEXT),
    ("max_connections", INT),
    ("current_connections", INT),
    ("current_client_connections", INT),
    ("paused", INT),
];

async fn database_rows(shared: &Shared) -> Vec<Row> {
    let (pools, limits) = (pools::pools(shared), shared.pools.limits());
    let row = |(name, paused): (String, bool)| {
        let (mut servers, mut clients) = (0, 0);
        for pool in pools.iter().filter(|pool| pool.database == name) {
            servers += pool.servers_active + pool.servers_idle + pool.servers_login;
            clients += pool.clients_active + pool.clients_idle + pool.clients_waiting;
        }
        let mode = shared.config.pooling.mode.name();
        // As PgBouncer has it: 0 when there is no limit.
        let (size, most) = (limits.size, limits.database_max.unwrap_or(0));
        row![name.as_str(), name.as_str(), size, mode, most, servers, clients, paused]
    };
    super::databases(shared).await.0.into_iter().map(row).collect()
}

fn list_rows(shared: &Shared) -> Vec<Row> {
    let clients = shared.console.all();
    let (consoles, sessions): (Vec<_>, Vec<_>) =
        clients.iter().partition(|client| client.identity.kind == ClientKind::Console);
    let users: std::collections::BTreeSet<_> = sessions.iter().map(|client| &client.identity.user).collect();
    let pools = pools::pools(shared);
    let servers = |count: fn(&pools::PoolRow) -> usize| pools.iter().map(count).sum::<usize>();
    vec![
        row!["databases", shared.console.databases().len()],
        row!["users", users.len()],
        row!["pools", pools.len()],
        row!["free_clients", shared.clients.available_permits()],
        row!["used_clients", sessions.len()],
        row!["login_servers", servers(|pool| pool.servers_login)],
        row!["free_servers", servers(|pool| pool.servers_idle)],
        row!["used_servers", servers(|pool| pool.servers_active)],
        row!["consoles", consoles.len()],
        row!["forwarded_sessions", shared.forwarded.load(std::sync::atomic::Ordering::Relaxed)],
        row!["peers", shared.links.addresses().len()],
    ]
}

fn help_rows() -> Vec<Row> {
    let shows = SHOWS.iter().map(|(name, _, what)| row![format!("SHOW {name}"), *what]);
    shows.chain(OTHERS.iter().map(|(command, what)| row![*command, *what])).collect()
}
