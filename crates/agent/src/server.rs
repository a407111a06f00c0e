//! One server for as long as its region runs: made, started, started again when it dies, stopped.
//!
//! ```text
//!  Preparing -> Initdb | BaseBackup <-> WaitingForPrimary -> Starting -> Running <-> Restarting
//!      any of them -> Stopped (told to)        before Running -> the task ends with an error
//! ```
//! The first start must succeed: what is wrong then is a matter of configuration and is told. A server that
//! has run once is started again for as long as it takes.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{ServerError, chain};
use crate::settings::ServerSpec;
use crate::{create, postmaster};

/// Pause before the first and before later restarts.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server that ran this long has recovered: the next restart is quick again.
const STABLE: Duration = Duration::from_secs(60);

/// What a server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Looking at its directory.
    Preparing,
    /// Its data is being created.
    Initdb,
    /// The primary cannot be cloned yet, and why.
    WaitingForPrimary(String),
    /// It is being cloned from the primary.
    BaseBackup,
    /// Its process was started.
    Starting,
    /// It accepts connections.
    Running,
    /// It died and is being started again.
    Restarting,
    /// It was stopped.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Initdb => "initdb",
            Self::WaitingForPrimary(_) => "waiting for the primary",
            Self::BaseBackup => "base backup",
            Self::Starting => "starting PostgreSQL",
            Self::Running => "running",
            Self::Restarting => "restarting PostgreSQL",
            Self::Stopped => "stopped",
        })
    }
}

/// A server under care.
#[derive(Debug)]
pub struct Server {
    phase: watch::Receiver<Phase>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// Makes its data directory if need be, starts it and keeps it running.
    #[must_use]
    pub fn start(spec: ServerSpec) -> Self {
        let (phase_tx, phase) = watch::channel(Phase::Preparing);
        let (stop, stop_rx) = watch::channel(false);
        let task = tokio::spawn(care(spec, phase_tx, stop_rx));
        Self { phase, stop, task }
    }

    /// What it is doing, as a channel.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Returns when it has failed to start (an error) or was stopped.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        match (&mut self.task).await {
            Ok(result) => result,
            // The task is never aborted, so it panicked: a bug, which the panic hook has reported.
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Stops it and returns when its process is gone.
    ///
    /// # Errors
    /// When it had failed before.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        if self.task.is_finished() { Ok(()) } else { self.ended().await }
    }
}

async fn care(
    spec: ServerSpec,
    phase: watch::Sender<Phase>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    tokio::select! {
        prepared = create::prepare(&spec, &phase) => prepared?,
        () = told(&mut stop) => {
            phase.send_replace(Phase::Stopped);
            return Ok(());
        }
    }
    let mut pause = RESTART_PAUSE_MIN;
    let mut ran_once = false;
    loop {
        phase.send_replace(if ran_once { Phase::Restarting } else { Phase::Starting });
        let began = Instant::now();
        match run_once(&spec, &phase, &mut stop).await {
            Ok(Ended::Told) => {
                phase.send_replace(Phase::Stopped);
                return Ok(());
            }
            Ok(Ended::Died(status)) => {
                ran_once = true;
                tracing::error!(server = spec.name, status, "postgres died, starting it again");
            }
            Err(error) if ran_once => {
                tracing::error!(server = spec.name, error = chain(&error), "postgres does not start again");
            }
            Err(error) => return Err(error),
        }
        phase.send_replace(Phase::Restarting);
        pause = if began.elapsed() >= STABLE { RESTART_PAUSE_MIN } else { pause };
        let _ = tokio::time::timeout(pause, told(&mut stop)).await;
        if *stop.borrow() {
            phase.send_replace(Phase::Stopped);
            return Ok(());
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

enum Ended {
    Told,
    Died(String),
}

async fn run_once(
    spec: &ServerSpec,
    phase: &watch::Sender<Phase>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Ended, ServerError> {
    postmaster::stop_leftover(&spec.pgdata).await?;
    let mut child = postmaster::spawn(spec)?;
    // Told to stop while it starts: the process must not be left behind, so it is stopped here.
    let ready = tokio::select! {
        ready = postmaster::wait_ready(spec, &mut child) => Some(ready),
        () = told(stop) => None,
    };
    match ready {
        None => {}
        Some(Err(error)) => {
            postmaster::stop(&mut child).await;
            return Err(error);
        }
        Some(Ok(())) => {
            phase.send_replace(Phase::Running);
            tokio::select! {
                status = child.wait() => {
                    return Ok(Ended::Died(status.map_or_else(|e| e.to_string(), |s| s.to_string())));
                }
                () = told(stop) => {}
            }
        }
    }
    postmaster::stop(&mut child).await;
    Ok(Ended::Told)
}

/// Returns when the stop flag is set, or its owner is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|told| *told).await;
}
