//! A process of its own that ends the server when its region's process can no longer be trusted to.
//!
//! A region that holds the lease tells its watchdog until when. A region process that is stopped, hangs or dies tells
//! nothing more, and so the server is killed before another region may take over (LEASE-BEFORE-WRITE), whatever its
//! sessions are doing. The watchdog does nothing else: it allocates nothing and asks nobody.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use super::clock::Clock;

/// Pause between two looks whether there is something to kill.
const KILL_PAUSE: Duration = Duration::from_millis(1);
/// Longest sleep: a suspended machine wakes with the clock far ahead.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Longest wait for a watchdog to take a line: shorter than the margin of the shortest lease.
const TELL_TIMEOUT: Duration = Duration::from_millis(50);

/// What a line says when the server may run for ever: it is a standby.
const NO_LIMIT: &str = "none";

/// The region's end.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    input: ChildStdin,
    told: Option<Duration>,
}

impl Watchdog {
    /// Starts the process for the server in `pgdata`.
    pub(crate) fn start(pgdata: &Path) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["region", "watchdog"])
            .arg(pgdata)
            .stdin(Stdio::piped())
            // What stops the region's process group is not to stop this.
            .process_group(0)
            .spawn()?;
        let input = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, input, told: None })
    }

    /// The server may write until then, by [`Clock`]; `None`: it writes nothing.
    pub(crate) async fn allow(&mut self, until: Option<Duration>) -> std::io::Result<()> {
        if self.told == until {
            return Ok(());
        }
        let line = until.map_or_else(|| format!("{NO_LIMIT}\n"), |until| format!("{}\n", until.as_millis()));
        // A full pipe: it does not read, and would not kill either.
        tokio::time::timeout(TELL_TIMEOUT, self.input.write_all(line.as_bytes()))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        self.told = until;
        Ok(())
    }

    /// Whether its process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// The watchdog's process: reads limits from standard input, and kills what runs in `pgdata` when one has passed or
/// the region's process is gone.
///
/// # Errors
/// When no thread can be made.
pub fn watch(pgdata: &Path) -> std::io::Result<()> {
    let (sender, lines) = sync_channel(16);
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in BufReader::new(std::io::stdin()).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    let pgdata: PathBuf = pgdata.to_owned();
    let mut until: Option<Duration> = None;
    loop {
        let left = until.map_or(LOOK_INTERVAL, |until| until.saturating_sub(Clock.now()));
        match lines.recv_timeout(left.clamp(KILL_PAUSE, LOOK_INTERVAL)) {
            Ok(line) => until = line.trim().parse().ok().map(Duration::from_millis),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if until.is_some() {
                    pangea_agent::kill_now(&pgdata);
                }
                return Ok(());
            }
        }
        // Again and again until it is told otherwise: a region's process that hangs may start its server again.
        if until.is_some_and(|until| Clock.now() >= until) {
            pangea_agent::kill_now(&pgdata);
        }
    }
}
