//! Makes a standby the primary, and what has to be asked of a primary before it stops.

use std::path::Path;
use std::time::Duration;

use pangea_base::{Lsn, Timeline};
use pangea_control::Promotion;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Config, NoTls};

use crate::SOCKET_PORT;
use crate::error::ServerError;

/// How often it is asked whether it has come out of recovery. The waiting form of pg_promote asks ten times a second.
const POLL: Duration = Duration::from_millis(1);

/// Longest wait for it without any progress: what was received is replayed first, however long that takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for a connection, and for each thing that is asked quickly. A server that hangs is one that is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeline that a primary writes, and the history of that.
const PROMOTION_SQL: &str = "SELECT t.tli, pg_catalog.pg_read_file('pg_wal/' || \
     pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(t.tli)), 8, '0') || '.history', 0, 1000000, true) \
     FROM (SELECT ('x' || \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
     ::pg_catalog.bit(32)::int AS tli) t";

/// Promotes the standby whose socket is in `dir`, and returns when it takes writes.
pub(crate) async fn promote(dir: &Path) -> Result<Promotion, ServerError> {
    let failed = |source| ServerError::Promote { source };
    let client = connect(dir).await.map_err(failed)?;
    client.batch_execute("SELECT pg_catalog.pg_promote(false)").await.map_err(failed)?;
    follow_replay(&client, "NOT pg_catalog.pg_is_in_recovery()").await?;
    match ask(&client).await.map_err(failed)? {
        (_, Some(promotion)) => Ok(promotion),
        (timeline, None) => Err(ServerError::NoFork { timeline }),
    }
}

/// How the primary whose socket is in `dir` came to be so; `None` when it always was.
pub(crate) async fn promotion(dir: &Path) -> Result<Option<Promotion>, ServerError> {
    let ask = async { Ok(ask(&connect(dir).await?).await?.1) };
    soon(ask).await
}

/// What is asked quickly, or an error.
async fn soon<T>(asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, ServerError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|source| ServerError::Promote { source }),
        Err(_) => Err(ServerError::Silent { waited: ANSWER_TIMEOUT }),
    }
}

/// Returns when the standby whose socket is in `dir` has replayed the record that begins at `end`.
pub(crate) async fn wait_replayed(dir: &Path, end: Lsn) -> Result<(), ServerError> {
    let client = connect(dir).await.map_err(|source| ServerError::Promote { source })?;
    let past = format!("pg_catalog.pg_last_wal_replay_lsn() > '{end}'::pg_catalog.pg_lsn");
    match follow_replay(&client, &past).await {
        Err(ServerError::PromoteTimeout { waited }) => Err(ServerError::ReplayTimeout { end, waited }),
        done => done,
    }
}

/// Returns when `condition` is true, for as long as the server replays something now and then.
async fn follow_replay(client: &Client, condition: &str) -> Result<(), ServerError> {
    let failed = |source| ServerError::Promote { source };
    let sql = format!("SELECT {condition}, pg_catalog.pg_last_wal_replay_lsn()::text");
    let look = client.prepare(&sql).await.map_err(failed)?;
    let (mut replayed, mut moved) = (None, Instant::now());
    loop {
        let row = client.query_one(&look, &[]).await.map_err(failed)?;
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Ok(());
        }
        let now: Option<String> = row.get(1);
        if now != replayed {
            (replayed, moved) = (now, Instant::now());
        } else if moved.elapsed() >= TIMEOUT {
            return Err(ServerError::PromoteTimeout { waited: TIMEOUT });
        }
        sleep(POLL).await;
    }
}

async fn ask(client: &Client) -> Result<(Timeline, Option<Promotion>), tokio_postgres::Error> {
    let row = client.query_one(PROMOTION_SQL, &[]).await?;
    let timeline = Timeline(row.get::<_, i32>(0).unsigned_abs());
    let history: Option<String> = row.get(1);
    // Its last line is the timeline before: number, position, reason.
    let left =
        |text: &String| text.lines().rev().find_map(|line| line.split_whitespace().nth(1)?.parse().ok());
    let fork = history.as_ref().and_then(left);
    Ok((timeline, fork.map(|fork| Promotion { timeline, fork })))
}

/// Sets `synchronous_standby_names`, and returns when it is in force for all commits that begin from now on.
pub(crate) async fn set_synchronous(dir: &Path, names: &str) -> Result<(), ServerError> {
    const SHOW: &str = "SELECT pg_catalog.current_setting('synchronous_standby_names')";
    let set = async {
        let client = connect(dir).await?;
        let in_force = async || {
            Ok::<_, tokio_postgres::Error>(client.query_one(SHOW, &[]).await?.get::<_, String>(0) == names)
        };
        if in_force().await? {
            return Ok(());
        }
        let value = names.replace('\'', "''");
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'");
        client.batch_execute(&set).await?;
        client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
        while !in_force().await? {
            sleep(POLL).await;
        }
        Ok(())
    };
    soon(set).await
}

/// Whether so many synchronous standbys have flushed what the server whose socket is in `dir` has written up to now.
///
/// # Errors
/// What the server says.
pub async fn is_synchronous(
    dir: &Path,
    standbys: u8,
    within: Duration,
) -> Result<bool, tokio_postgres::Error> {
    const REACHED: &str = "SELECT count(*) >= $2 AND \
         pg_catalog.current_setting('synchronous_commit') IN ('on', 'remote_apply') \
         FROM pg_catalog.pg_stat_replication \
         WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= $1::text::pg_catalog.pg_lsn";
    let client = connect(dir).await?;
    let row = client.query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[]).await?;
    let position: String = row.get(0);
    let deadline = Instant::now() + within;
    loop {
        if client.query_one(REACHED, &[&position, &i64::from(standbys)]).await?.get(0) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Writes a checkpoint on the server whose socket is in `dir`.
///
/// # Errors
/// What the server says.
pub async fn checkpoint(dir: &Path) -> Result<(), tokio_postgres::Error> {
    connect(dir).await?.batch_execute("CHECKPOINT").await
}

/// A connection of the agent's own.
pub(crate) async fn connect(dir: &Path) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(dir).port(SOCKET_PORT).user("postgres").dbname("postgres");
    config.application_name("pangea-agent").options("-c search_path=pg_catalog,pg_temp");
    let (client, connection) = config.connect(NoTls).await?;
    // It ends when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}
