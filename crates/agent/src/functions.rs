//! The SQL functions that every database of the cluster has: `pangea.status()` and those with Aurora's names
//! (AWS documentation, "Monitoring Aurora PostgreSQL global databases").
//!
//! They are ordinary functions, made on the primary, so that they come through any endpoint and driver and can be
//! joined and filtered; replication brings them to the other regions.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use crate::SOCKET_PORT;

/// Makes the functions.
const FUNCTIONS_SQL: &str = include_str!("functions.sql");

/// Kept as the comment of the schema, so that a start of the server writes nothing when they are there.
const VERSION: &str = "Pangea: status functions, version 2";

/// Pause between two looks for new databases.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after a failure: the server may be starting.
const RETRY_DELAY: Duration = Duration::from_millis(200);

const DATABASES_SQL: &str = "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'";

/// Keeps the functions in every database of the writable server whose socket is in `socket_dir`, for ever. New
/// databases get them from `template1`.
pub async fn keep_functions(socket_dir: PathBuf) {
    let mut done = HashSet::new();
    loop {
        let pause = match install_missing(&socket_dir, &mut done).await {
            Ok(()) => LOOK_INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "status functions are not there yet");
                RETRY_DELAY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn install_missing(socket_dir: &Path, done: &mut HashSet<String>) -> Result<(), tokio_postgres::Error> {
    let names = on_database(socket_dir, "postgres", async |client| {
        let standby: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
        let names = client.query(DATABASES_SQL, &[]).await?;
        Ok(if standby { Vec::new() } else { names.iter().map(|row| row.get(0)).collect::<Vec<String>>() })
    })
    .await?;
    done.retain(|name| names.contains(name));
    for name in names {
        if !done.contains(&name) {
            // One that takes no connection or has a trigger against it must not keep the others from theirs.
            match on_database(socket_dir, &name, install).await {
                Ok(()) => drop(done.insert(name)),
                Err(error) => tracing::debug!(%error, database = name, "no status functions there yet"),
            }
        }
    }
    Ok(())
}

async fn install(client: &Client) -> Result<(), tokio_postgres::Error> {
    // The comment comes with a dump, functions of pg_catalog do not.
    let known = "SELECT pg_catalog.obj_description(pg_catalog.to_regnamespace('pangea'), 'pg_namespace') = $1 \
                 AND pg_catalog.to_regprocedure('pg_catalog.aurora_global_db_status()') IS NOT NULL";
    let known: Option<bool> = client.query_one(known, &[&VERSION]).await?.get(0);
    if known == Some(true) {
        return Ok(());
    }
    let comment = format!("COMMENT ON SCHEMA pangea IS '{VERSION}'");
    // Whatever roles and databases have as defaults.
    let settings = "SET LOCAL synchronous_commit = local; SET LOCAL default_transaction_read_only = off";
    client.batch_execute(&format!("BEGIN READ WRITE; {settings}; {FUNCTIONS_SQL}; {comment}; COMMIT")).await
}

async fn on_database<T>(
    socket_dir: &Path,
    database: &str,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(socket_dir).port(SOCKET_PORT).user("postgres").dbname(database);
    // A superuser must not take names from where an owner of the database says.
    config.application_name("pangea-agent").options("-c search_path=pg_catalog,pg_temp");
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let result = work(&client).await;
    connection.abort();
    result
}
