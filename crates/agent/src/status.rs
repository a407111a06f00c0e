//! Where a server is in the log, asked over its socket.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pangea_base::{Lsn, Position, Timeline};
use tokio::sync::watch;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::SOCKET_PORT;

/// How often it is asked. People look at it, and lag in seconds is no finer than this.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often while a standby is not streaming yet: people wait for that.
const INTERVAL_SOON: Duration = Duration::from_millis(50);
/// How often while a switchover waits for the position.
const INTERVAL_URGENT: Duration = Duration::from_millis(2);
/// An answer that takes longer counts as none.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a failure, short because servers start in less than a second.
const RETRY: Duration = Duration::from_millis(50);

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerPosition {
    /// Whether it follows another server.
    pub in_recovery: bool,
    /// The flush position of a primary, the replay position of a standby, when there is one.
    pub position: Option<Position>,
    /// What a standby has received and flushed.
    pub received: Option<Lsn>,
    /// When the last replayed transaction was committed on the primary, by the primary's clock.
    pub last_replayed_at: Option<SystemTime>,
    /// Whether a standby's WAL receiver is streaming now.
    pub streaming: bool,
    /// PostgreSQL's identifier of the data.
    pub system: Option<u64>,
}

/// Asks a server again and again.
#[derive(Debug)]
pub struct StatusPoller {
    latest: watch::Receiver<Option<ServerPosition>>,
    urgent: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl StatusPoller {
    /// Asks the server whose socket is in `socket_dir`.
    #[must_use]
    pub fn start(socket_dir: PathBuf) -> Self {
        let (sender, latest) = watch::channel(None);
        let (urgent, is_urgent) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let _ = poll(&socket_dir, &sender, is_urgent.clone()).await;
                // Unknown from here on: an old answer must not pass for a new one.
                sender.send_replace(None);
                tokio::time::sleep(RETRY).await;
            }
        });
        Self { latest, urgent, task }
    }

    /// Whether somebody waits for each answer.
    pub fn set_urgent(&self, urgent: bool) {
        self.urgent.send_if_modified(|now| std::mem::replace(now, urgent) != urgent);
    }

    /// The latest answer; `None` when the server does not answer.
    #[must_use]
    pub fn latest(&self) -> Option<ServerPosition> {
        self.latest.borrow().clone()
    }

    /// The answers as a channel.
    #[must_use]
    pub fn answers(&self) -> watch::Receiver<Option<ServerPosition>> {
        self.latest.clone()
    }
}

impl Drop for StatusPoller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The functions of the other role would raise an error, hence CASE.
const QUERY: &str = "SELECT r, CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
     CASE WHEN r THEN pg_last_wal_receive_lsn() END, \
     CASE WHEN r THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), greatest(c.timeline_id, \
          (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_dir('pg_wal') name \
           WHERE name ~ '^[0-9A-F]{8}[.]history$'))) \
          ELSE ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int END, \
     extract(epoch FROM pg_last_xact_replay_timestamp()), \
     EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
     (SELECT system_identifier FROM pg_control_system()) \
     FROM pg_is_in_recovery() r, pg_control_checkpoint() c";

/// Asks until something fails.
async fn poll(
    socket_dir: &std::path::Path,
    sender: &watch::Sender<Option<ServerPosition>>,
    urgent: watch::Receiver<bool>,
) -> Result<(), tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(socket_dir).port(SOCKET_PORT).user("postgres").dbname("postgres");
    config.application_name("pangea-agent").connect_timeout(TIMEOUT);
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let result = ask_on(&client, sender, urgent).await;
    connection.abort();
    result
}

async fn ask_on(
    client: &Client,
    sender: &watch::Sender<Option<ServerPosition>>,
    mut urgent: watch::Receiver<bool>,
) -> Result<(), tokio_postgres::Error> {
    // A slow server must look slow, not be cancelled into an error that then hides the reason.
    client.batch_execute("SET statement_timeout = 0").await?;
    loop {
        let Ok(answer) = tokio::time::timeout(TIMEOUT, client.simple_query(QUERY)).await else {
            return Ok(());
        };
        let answer = answer?.iter().find_map(read);
        let waiting = answer.as_ref().is_some_and(|answer| answer.in_recovery && !answer.streaming);
        sender.send_replace(answer);
        let pause = match *urgent.borrow_and_update() {
            true => INTERVAL_URGENT,
            false if waiting => INTERVAL_SOON,
            false => INTERVAL,
        };
        let _ = tokio::time::timeout(pause, urgent.changed()).await;
    }
}

fn read(message: &SimpleQueryMessage) -> Option<ServerPosition> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let lsn = |column: usize| row.get(column).and_then(|text| text.parse::<Lsn>().ok());
    let timeline = row.get(3).and_then(|text| text.parse().ok()).map(Timeline);
    let last_replayed_at = row
        .get(4)
        .and_then(|text| Duration::try_from_secs_f64(text.parse().ok()?).ok())
        .map(|since_epoch| SystemTime::UNIX_EPOCH + since_epoch);
    Some(ServerPosition {
        in_recovery: row.get(0)? == "t",
        position: timeline.zip(lsn(1)).map(|(timeline, lsn)| Position { timeline, lsn }),
        received: lsn(2),
        last_replayed_at,
        streaming: row.get(5) == Some("t"),
        system: row.get(6).and_then(|text| text.parse().ok()),
    })
}
