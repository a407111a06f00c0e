//! sqlx: an asynchronous driver with protocol code of its own, a cache of prepared statements on each connection, and
//! futures that may be dropped at any time.
//!
//! Every check runs from the primary region's endpoint and from a secondary's; see ../../cluster.py for the variables.
#![cfg(test)]

mod connections;
mod statements;
mod transactions;
mod types;

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

type Done = Result<(), Box<dyn Error>>;

/// The number of rows is asked for as this.
const COUNT: &str = "SELECT count(*) FROM";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Secondary,
}

/// What a check works with.
struct Scene {
    options: PgConnectOptions,
    /// A table to create, or what else needs a name that nobody uses. The table is dropped after the check.
    table: String,
}

impl Scene {
    fn new(role: Role) -> Result<Self, Box<dyn Error>> {
        let endpoints =
            std::env::var("PANGEA_ENDPOINTS").map_err(|_| "PANGEA_ENDPOINTS is not set: see cluster.py")?;
        // In the order of the text, which a map of serde_json's does not keep.
        let uris: BTreeMap<String, String> = serde_json::from_str(&endpoints)?;
        let position = |uri: &String| endpoints.find(uri.as_str());
        let uri = match role {
            Role::Primary => uris.values().min_by_key(|uri| position(uri)),
            Role::Secondary => uris.values().max_by_key(|uri| position(uri)),
        };
        let options = PgConnectOptions::from_str(uri.ok_or("no endpoints")?)?.ssl_mode(PgSslMode::Disable);
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let table = format!("t_{:x}_{}", since.as_micros(), NUMBERS.fetch_add(1, Ordering::Relaxed));
        Ok(Self { options: options.disable_statement_logging(), table })
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.options).await
    }

    /// A connection, and the table of that name with these columns.
    async fn with_table(&self, columns: &str) -> sqlx::Result<PgConnection> {
        let mut connection = self.connect().await?;
        connection.execute(sql(format!("CREATE TABLE {} ({columns})", self.table))).await?;
        Ok(connection)
    }

    /// Connections of a pool see what others of it have written.
    async fn pool(&self, connections: u32) -> sqlx::Result<PgPool> {
        let options = self.options.clone().options([("pangea.read_consistency", "global")]);
        PgPoolOptions::new().max_connections(connections).connect_with(options).await
    }

    async fn tidy_up(&self) -> sqlx::Result<()> {
        let mut connection = self.connect().await?;
        // What a check has left behind in another session must not hang the rest of the run.
        connection.execute("SET lock_timeout = '10s'").await?;
        connection.execute(sql(format!("DROP TABLE IF EXISTS {} CASCADE", self.table))).await?;
        connection.close().await
    }

    fn run(self, check: impl AsyncFnOnce(&Self) -> Done) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let checked = tokio::time::timeout(CHECK_TIMEOUT, check(&self)).await;
            let tidied = self.tidy_up().await;
            checked.map_err(|_| format!("not done within {CHECK_TIMEOUT:?}"))??;
            Ok(tidied?)
        })
    }
}

/// Declares checks for both roles.
macro_rules! checks {
    ($($check:ident),+ $(,)?) => {
        $(mod $check {
            use crate::{Done, Role, Scene};

            #[test]
            fn primary() -> Done {
                Scene::new(Role::Primary)?.run(super::$check)
            }

            #[test]
            fn secondary() -> Done {
                Scene::new(Role::Secondary)?.run(super::$check)
            }
        })+
    };
}
use checks;

/// A statement whose text was made up here.
fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

async fn count(connection: &mut PgConnection, what: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(sql(format!("{COUNT} {what}"))).fetch_one(connection).await
}

/// The SQLSTATE that something failed with; empty when it did not fail so.
fn sqlstate<T>(outcome: sqlx::Result<T>) -> String {
    let refused = outcome.err().and_then(sqlx::Error::into_database_error);
    refused.and_then(|refused| Some(refused.code()?.into_owned())).unwrap_or_default()
}
