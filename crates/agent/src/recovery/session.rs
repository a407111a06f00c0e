//! Connections whose text output means the same everywhere, and the quoting of what goes into statements.

use std::str::FromStr as _;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::error::RecoveryError;

/// A server that does not answer the start-up by then counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Names are PostgreSQL's own, whatever an owner of the database has set, and text is that of `test_decoding` in
/// every session, so that values can be compared as text.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp; SET datestyle = ISO, MDY; \
     SET intervalstyle = postgres; SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = hex; \
     SET lc_monetary = 'C'; SET xmloption = content; SET standard_conforming_strings = on; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// A connection, closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Session {
    /// Connects to `database` of the server that `config` names.
    pub(crate) async fn open(config: &Config, database: &str) -> Result<Self, tokio_postgres::Error> {
        let mut config = config.clone();
        config.dbname(database).connect_timeout(CONNECT_TIMEOUT);
        let (client, connection) = config.connect(NoTls).await?;
        let task = tokio::spawn(async move {
            // What breaks the connection is told to whoever waits for an answer on it.
            let _ = connection.await;
        });
        let session = Self { client, task };
        session.client.batch_execute(SETTINGS).await?;
        Ok(session)
    }

    /// The rows of a statement, as text.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// The first column of the first row.
    pub(crate) async fn value(&self, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok().flatten().map(str::to_owned)))
    }

    /// Ends it and returns when the server has noticed: a backend in a database is in the way of DROP DATABASE.
    pub(crate) async fn close(self) {
        let Self { client, task } = self;
        drop(client);
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, task).await;
    }
}

/// Reads a connection string of libpq.
pub(crate) fn parse_conninfo(conninfo: &str) -> Result<Config, RecoveryError> {
    let mut config = Config::from_str(conninfo)
        .map_err(RecoveryError::sql("read the connection string of the primary"))?;
    config.application_name("pangea-recovery");
    Ok(config)
}

/// A quoted identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal; `standard_conforming_strings` is on in our sessions.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
