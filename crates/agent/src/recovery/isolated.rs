//! The old primary's server, started for nobody but us: to finish its crash recovery and decode its log.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio_postgres::Config;

use super::error::RecoveryError;
use super::session::Session;
use crate::bin::PgBin;
use crate::create::make_private_dir;
use crate::error::{ServerError, log_tail};
use crate::{SOCKET_PORT, postmaster};

/// Crash recovery of a large database takes minutes.
const START_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const POLL: Duration = Duration::from_millis(20);
/// With either of them it would start as a standby, or wait for an archive.
const SIGNAL_FILES: [&str; 2] = ["standby.signal", "recovery.signal"];

/// A running server that nobody else can reach.
#[derive(Debug)]
pub(crate) struct Isolated {
    child: Child,
    config: Config,
}

impl Isolated {
    /// Starts it on `pgdata`, with its socket, its log and its rules of access in `run_dir`.
    pub(crate) async fn start(bin: &PgBin, pgdata: &Path, run_dir: &Path) -> Result<Self, RecoveryError> {
        make_private_dir(run_dir)?;
        let hba = run_dir.join("pg_hba.conf");
        std::fs::write(&hba, "local all postgres trust\n").map_err(RecoveryError::file("write", &hba))?;
        for name in SIGNAL_FILES {
            let path = pgdata.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(RecoveryError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        let log_file = run_dir.join("postgres.log");
        let log = std::fs::File::create(&log_file).map_err(RecoveryError::file("create", &log_file))?;
        let log_too = log.try_clone().map_err(RecoveryError::file("open", &log_file))?;
        let program = bin.program("postgres");
        let mut child = Command::new(&program)
            .arg("-D")
            .arg(pgdata)
            .args(arguments(bin, run_dir, &hba))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(0)
            .kill_on_drop(true)
            .env("LC_ALL", "C")
            .spawn()
            .map_err(|source| ServerError::Spawn { program, source })?;
        let mut config = Config::new();
        config.host_path(run_dir).port(SOCKET_PORT).user("postgres").application_name("pangea-recovery");
        match wait_ready(&mut child, &config, &log_file).await {
            Ok(()) => Ok(Self { child, config }),
            Err(error) => {
                postmaster::stop(&mut child).await;
                Err(error)
            }
        }
    }

    /// How to connect to it.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Stops it cleanly: pg_rewind wants that.
    pub(crate) async fn stop(mut self) {
        postmaster::stop(&mut self.child).await;
    }
}

async fn wait_ready(child: &mut Child, config: &Config, log: &Path) -> Result<(), RecoveryError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().map_err(RecoveryError::file("wait for", log))? {
            let not_started = ServerError::NotStarted {
                outcome: status.to_string(),
                log: log.to_owned(),
                said: log_tail(log),
            };
            return Err(not_started.into());
        }
        if let Ok(session) = Session::open(config, "postgres").await {
            session.close().await;
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RecoveryError::TimedOut {
                action: "starting the old primary's server alone",
                limit: START_TIMEOUT,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn arguments(bin: &PgBin, run_dir: &Path, hba: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let sockets = format!("\"{}\"", path(run_dir).replace('"', "\"\""));
    let mut settings = vec![
        ("listen_addresses", String::new()),
        ("port", SOCKET_PORT.to_string()),
        ("unix_socket_directories", sockets),
        ("hba_file", path(hba)),
        // Nothing but us may write: no client, no vacuum, no worker of an extension or of a subscription.
        ("default_transaction_read_only", "on".to_owned()),
        ("autovacuum", "off".to_owned()),
        ("max_worker_processes", "0".to_owned()),
        ("max_logical_replication_workers", "0".to_owned()),
        ("archive_mode", "off".to_owned()),
        ("primary_conninfo", String::new()),
        ("restore_command", String::new()),
        // Nobody is there to confirm anything.
        ("synchronous_standby_names", String::new()),
        ("wal_level", "logical".to_owned()),
        // The checkpoint after crash recovery must not invalidate the slots that this is all about.
        ("max_slot_wal_keep_size", "-1".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
    ];
    let major = bin.version().major;
    if major >= 17 {
        // A trigger on login could keep us out.
        settings.push(("event_triggers", "off".to_owned()));
    }
    if major >= 18 {
        settings.push(("idle_replication_slot_timeout", "0".to_owned()));
    }
    settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// The directory for its socket below a directory of the caller's.
pub(crate) fn run_dir(parent: &Path) -> PathBuf {
    parent.join("old")
}
