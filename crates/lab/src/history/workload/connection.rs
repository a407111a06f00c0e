//! One connection, and the statements of a session in both protocols.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};

use super::{Place, Workload};
use crate::history::operation::{Key, Seen, Version, WriteId};
use crate::trouble::Trouble;

/// Longest wait for anything. Pangea answers earlier, whatever is cut; a client would wait no longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const SELECT: &str = "SELECT key, version, writer FROM register WHERE key";
const UPDATE: &str = "UPDATE register SET version = version + 1, writer =";

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Simple,
    Extended,
}

pub(super) struct Connection {
    client: Client,
    task: JoinHandle<()>,
    read: Statement,
    write: Option<Statement>,
}

impl Connection {
    /// Connects to a place; `writes` says whether it will write there.
    pub(super) async fn open(workload: &Workload, place: &Place, writes: bool) -> Result<Self, Trouble> {
        bounded(async {
            let mut config: Config = workload.login.clone();
            config.host(place.address.ip().to_string()).port(place.address.port());
            config.options(format!("-c pangea.read_consistency={}", workload.level));
            let (client, connection) = config.connect(NoTls).await?;
            let task = tokio::spawn(async move {
                // The client's calls fail as well then, and tell it better.
                let _ = connection.await;
            });
            let read = client.prepare(&format!("{SELECT} = ANY($1)")).await?;
            let write = if writes {
                Some(client.prepare(&format!("{UPDATE} $2 WHERE key = $1 RETURNING version")).await?)
            } else {
                None
            };
            Ok(Self { client, task, read, write })
        })
        .await
    }

    /// Runs statements that return nothing of interest.
    pub(super) async fn run(&self, statements: &str) -> Result<(), Trouble> {
        bounded(async { Ok(self.client.batch_execute(statements).await?) }).await
    }

    /// Reads registers in one statement.
    pub(super) async fn read(&self, keys: &[Key], protocol: Protocol) -> Result<Vec<Seen>, Trouble> {
        let keys: Vec<i32> = keys.iter().map(|key| key.0).collect();
        match protocol {
            Protocol::Simple => {
                let list: Vec<String> = keys.iter().map(ToString::to_string).collect();
                self.read_text(&format!("{SELECT} IN ({})", list.join(", "))).await
            }
            Protocol::Extended => {
                bounded(async {
                    let rows = self.client.query(&self.read, &[&keys]).await?;
                    let seen = rows.iter().map(|row| {
                        let (key, version, writer) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                        Ok(Seen { key: Key(key), version: Version(version), writer: WriteId(writer) })
                    });
                    seen.collect()
                })
                .await
            }
        }
    }

    /// Reads a register with a lock on it, which only the primary can give.
    pub(super) async fn read_locking(&self, key: Key) -> Result<Vec<Seen>, Trouble> {
        self.read_text(&format!("{SELECT} = {} FOR SHARE", key.0)).await
    }

    async fn read_text(&self, query: &str) -> Result<Vec<Seen>, Trouble> {
        let messages = bounded(async { Ok(self.client.simple_query(query).await?) }).await?;
        let mut seen = Vec::new();
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                let number = |column| row.get(column)?.parse::<i64>().ok();
                let key = number(0).and_then(|key| i32::try_from(key).ok());
                let (Some(key), Some(version), Some(writer)) = (key, number(1), number(2)) else {
                    return Err(Trouble::Nonsense);
                };
                seen.push(Seen { key: Key(key), version: Version(version), writer: WriteId(writer) });
            }
        }
        Ok(seen)
    }

    /// Writes a register and returns the version that it became.
    pub(super) async fn write(&self, key: Key, id: WriteId, protocol: Protocol) -> Result<Version, Trouble> {
        match (protocol, &self.write) {
            (Protocol::Extended, Some(write)) => {
                let parameters: [&(dyn ToSql + Sync); 2] = [&key.0, &id.0];
                bounded(async { Ok(self.client.query_one(write, &parameters).await?.try_get(0)?) })
                    .await
                    .map(Version)
            }
            _ => self.write_all(&[(key, id)]).await?.first().copied().ok_or(Trouble::Nonsense),
        }
    }

    /// Writes registers by one string of statements, which is one transaction.
    pub(super) async fn write_all(&self, writes: &[(Key, WriteId)]) -> Result<Vec<Version>, Trouble> {
        let statements = writes
            .iter()
            .map(|(key, id)| format!("{UPDATE} {} WHERE key = {} RETURNING version", id.0, key.0));
        let statements: Vec<String> = statements.collect();
        let messages = bounded(async { Ok(self.client.simple_query(&statements.join("; ")).await?) }).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0)?.parse().ok().map(Version)),
            _ => None,
        });
        let versions: Option<Vec<Version>> = rows.collect();
        versions.filter(|versions| versions.len() == writes.len()).ok_or(Trouble::Nonsense)
    }

    /// The token of what the session has seen.
    pub(super) async fn token(&self) -> Result<String, Trouble> {
        let messages = bounded(async { Ok(self.client.simple_query("SHOW pangea.token").await?) }).await?;
        let text = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        text.ok_or(Trouble::Nonsense)
    }

    /// Makes the session see what another has seen.
    pub(super) async fn continue_from(&self, token: &str) -> Result<(), Trouble> {
        self.run(&format!("SET pangea.token = '{}'", token.replace('\'', "''"))).await
    }

    /// Ends it in order.
    pub(super) async fn close(self) {
        drop(self.client);
        let _ = timeout(ANSWER_TIMEOUT, self.task).await;
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout(ANSWER_TIMEOUT, work).await.unwrap_or(Err(Trouble::Silence))
}
