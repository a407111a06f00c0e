//! One region process under supervision.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::error::ClusterError;

/// How long a region may take to stop its gateway and servers. Longer than its own limits together.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses before a region that died is started again.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(500);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A region that ran this long has recovered: the next restart is quick again.
const STABLE: Duration = Duration::from_secs(60);
/// A log of this size is put aside at the next start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What the process writes before a fatal error.
const FATAL: &str = "error: ";

/// How a region process is started.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) exe: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    /// Its own wall clock; the machine's when absent.
    pub(crate) clock: Option<Clock>,
}

/// What a process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Not wanted, and not there.
    Down,
    /// There, with its process id.
    Up(i32),
    /// Wanted, but it ended by itself.
    Died(String),
}

#[derive(Debug)]
enum Order {
    Start,
    /// Down by this signal.
    Down(Signal),
}

/// A region process and the task that cares for it.
#[derive(Debug)]
pub(crate) struct Process {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
}

impl Process {
    /// Cares for a process, which is down until [`Process::start`].
    pub(crate) fn new(recipe: Recipe) -> Self {
        let (orders, receive) = mpsc::channel(4);
        let (send, state) = watch::channel(State::Down);
        tokio::spawn(care(recipe, receive, send));
        Self { orders, state }
    }

    pub(crate) async fn start(&self) {
        let _ = self.orders.send(Order::Start).await;
        let _ = self.state.clone().wait_for(|state| *state != State::Down).await;
    }

    /// Returns when it is gone.
    pub(crate) async fn down(&self, signal: Signal) {
        let _ = self.orders.send(Order::Down(signal)).await;
        let _ = self.state.clone().wait_for(|state| *state == State::Down).await;
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }
}

/// Runs until the [`Process`] is dropped; the child's standard input closes then, which stops it.
async fn care(recipe: Recipe, mut orders: mpsc::Receiver<Order>, state: watch::Sender<State>) {
    let mut pause = RESTART_PAUSE_MIN;
    while let Some(order) = orders.recv().await {
        if let Order::Down(_) = order {
            state.send_replace(State::Down);
            continue;
        }
        // Wanted from here on: started again when it dies, until an order ends that.
        loop {
            let began = Instant::now();
            let (died, signal) = match spawn(&recipe) {
                Ok((child, stdin)) => attend(child, stdin, &mut orders, &state).await,
                Err(error) => (format!("{error}: {}", chain(&error)), None),
            };
            if signal.is_some() || orders.is_closed() {
                break;
            }
            tracing::warn!(config = %recipe.config.display(), died, "a region process ended");
            state.send_replace(State::Died(died));
            pause = if began.elapsed() >= STABLE { RESTART_PAUSE_MIN } else { pause };
            match tokio::time::timeout(pause, orders.recv()).await {
                Ok(Some(Order::Start)) | Err(_) => {}
                Ok(Some(Order::Down(_)) | None) => break,
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
        state.send_replace(State::Down);
    }
}

/// Waits for the end of a child: how it ended, and the signal if it was ordered.
async fn attend(
    mut child: Child,
    stdin: Option<ChildStdin>,
    orders: &mut mpsc::Receiver<Order>,
    state: &watch::Sender<State>,
) -> (String, Option<Signal>) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
    state.send_replace(State::Up(pid));
    loop {
        tokio::select! {
            status = child.wait() => {
                drop(stdin);
                return (status.map_or_else(|e| e.to_string(), |s| s.to_string()), None);
            }
            order = orders.recv() => match order {
                Some(Order::Start) => {}
                Some(Order::Down(signal)) => {
                    end(&mut child, pid, signal).await;
                    return (String::new(), Some(signal));
                }
                // Nobody cares any more: as when the supervisor dies, the region stops by itself.
                None => return (String::new(), Some(Signal::SIGTERM)),
            },
        }
    }
}

async fn end(child: &mut Child, pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        tracing::error!(pid, "a region process does not stop, killing it");
        let _ = child.kill().await;
    }
}

fn spawn(recipe: &Recipe) -> Result<(Child, Option<ChildStdin>), ClusterError> {
    let log = open_log(&recipe.log)?;
    let log_too = log.try_clone().map_err(ClusterError::file("open", &recipe.log))?;
    let mut command = Command::new(&recipe.exe);
    if let Some(clock) = &recipe.clock {
        clock.give_to(&mut command);
    }
    let mut child = command
        .args(["region", "run", "--stop-with-stdin", "--config"])
        .arg(&recipe.config)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(log_too)
        // A Ctrl-C in the terminal reaches the supervisor alone, which stops the regions in order.
        .process_group(0)
        .spawn()
        .map_err(ClusterError::file("run", &recipe.exe))?;
    let stdin = child.stdin.take();
    Ok((child, stdin))
}

fn open_log(path: &Path) -> Result<std::fs::File, ClusterError> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1")).map_err(ClusterError::file("put aside", path))?;
    }
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    open.map_err(ClusterError::file("open", path))
}

/// An error's sources.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Why a process ended, from the end of its log: its fatal error if it wrote one since `from`.
pub(crate) fn said_since(log: &Path, from: u64, state: &str) -> String {
    const BYTES_MAX: u64 = 16 * 1024;
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    fatal_error(&text).unwrap_or_else(|| format!("it ended ({state}) and said:\n{}", text.trim_end()))
}

/// The last fatal error in a log, with the lines that belong to it.
fn fatal_error(text: &str) -> Option<String> {
    let at_line_start = |at: &usize| *at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n');
    let at = text.match_indices(FATAL).map(|(at, _)| at).filter(at_line_start).last()?;
    text.get(at + FATAL.len()..).map(|rest| rest.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fatal_error_is_quoted_with_its_lines() {
        let log = "error: old\nINFO some error: not this\nerror: initdb failed; it said:\n  no\n  way\n\n";
        assert_eq!(fatal_error(log).unwrap(), "initdb failed; it said:\n  no\n  way");
        assert_eq!(fatal_error("all is well\n"), None);
    }

    #[tokio::test]
    async fn a_process_that_dies_is_told_of_and_can_be_taken_down() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("region.log");
        let recipe = Recipe { exe: "/bin/false".into(), config: "x".into(), log: log.clone(), clock: None };
        let process = Process::new(recipe);
        process.start().await;
        let mut state = process.state.clone();
        state.wait_for(|state| matches!(state, State::Died(_))).await.unwrap();
        process.down(Signal::SIGTERM).await;
        assert_eq!(process.state(), State::Down);
    }
}
