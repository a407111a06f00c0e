//! The gateway's own connection to the region's server: roles, replay position, catalogue.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

/// Longest wait for an answer of the region's own server to a question of the gateway.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection as superuser that is opened when first needed and again after it broke. Queries run one at a time.
#[derive(Debug)]
pub(crate) struct AdminConnection {
    dir: PathBuf,
    database: String,
    client: Mutex<Option<Arc<Client>>>,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The server refused or the connection broke.
    #[error("{}", chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
}

/// The error and its sources: tokio-postgres keeps the server's words in the source.
fn chain(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl AdminConnection {
    pub(crate) fn new(dir: PathBuf, database: &str) -> Self {
        Self { dir, database: database.to_owned(), client: Mutex::new(None) }
    }

    /// Runs a query with parameters.
    pub(crate) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, AdminError> {
        let work = async {
            let client = self.client().await?;
            Ok(client.query(sql, parameters).await?)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or(Err(AdminError::Timeout))
    }

    async fn client(&self) -> Result<Arc<Client>, AdminError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let config = crate::server::admin_config(&self.dir, &self.database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        let client = Arc::new(client);
        *slot = Some(client.clone());
        Ok(client)
    }
}
