//! One postmaster process: is one there, start it, wait until it is ready, stop it.
//!
//! `postmaster.pid` alone does not tell whether a postmaster lives: after a crash its number may belong to
//! another process (in a container the numbers repeat at every start). A PostgreSQL process has its data
//! directory as working directory, so `/proc/<pid>/cwd` decides.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::error::{ServerError, log_tail, says_disk_full};
use crate::settings::ServerSpec;

/// Reading a line of a small file costs microseconds; a start takes 40 ms.
const POLL: Duration = Duration::from_millis(5);
/// Crash recovery of a large database takes minutes, and giving up would only make it start over.
const READY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long a fast shutdown may take before an immediate one.
const FAST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an immediate shutdown may take before SIGKILL. PostgreSQL's own limit for its children is 5 s.
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(8);
/// A log of this size is put aside at the next start, so that at most two are kept.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Line of `postmaster.pid` with the state, counted from 0.
const STATE_LINE: usize = 7;

/// Starts its process.
pub(crate) fn spawn(spec: &ServerSpec) -> Result<Child, ServerError> {
    let log = open_log(&spec.log_file)?;
    let log_too = log.try_clone().map_err(ServerError::file("open", &spec.log_file))?;
    let program = spec.bin.program("postgres");
    Command::new(&program)
        .args(spec.arguments())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        // A Ctrl-C in the terminal is for the supervisor: servers stop after the gateways, in order.
        .process_group(0)
        .env("LC_ALL", "C")
        .spawn()
        .map_err(|source| ServerError::Spawn { program, source })
}

/// Returns when it accepts connections.
pub(crate) async fn wait_ready(spec: &ServerSpec, child: &mut Child) -> Result<(), ServerError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().map_err(ServerError::file("wait for", &spec.pgdata))? {
            return Err(not_started(spec, status.to_string()));
        }
        if is_ready(&spec.pgdata, child.id()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(not_started(spec, format!("not ready within {READY_TIMEOUT:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Stops it: fast, then immediate, then by force.
pub(crate) async fn stop(child: &mut Child) {
    let steps = [
        (Signal::SIGINT, FAST_TIMEOUT),
        (Signal::SIGQUIT, IMMEDIATE_TIMEOUT),
        (Signal::SIGKILL, IMMEDIATE_TIMEOUT),
    ];
    for (signal, patience) in steps {
        let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        if signal != Signal::SIGINT {
            tracing::warn!(pid, %signal, "postgres does not stop, sending a stronger signal");
        }
        let _ = kill(Pid::from_raw(pid), signal);
        if tokio::time::timeout(patience, child.wait()).await.is_ok() {
            return;
        }
    }
}

/// Stops the postmaster that an earlier, killed process left running on `pgdata`, if there is one. What it
/// leaves is a clean data directory on which a new one can be started.
///
/// # Errors
/// When it does not stop.
pub async fn stop_leftover(pgdata: &Path) -> Result<(), ServerError> {
    let steps = [(Signal::SIGINT, FAST_TIMEOUT), (Signal::SIGQUIT, IMMEDIATE_TIMEOUT)];
    let mut last = None;
    for (signal, patience) in steps {
        let deadline = Instant::now() + patience;
        if let Some(pid) = running(pgdata) {
            tracing::info!(pid = pid.as_raw(), %signal, "stopping the server that an earlier process left running");
            let _ = kill(pid, signal);
        }
        // Orphaned backends are waited for too, because a new server on the same files beside an old backend would corrupt
        // them. They notice the death of their postmaster by themselves, but one that waits for the disk only after
        // that; what they have under way the crash recovery undoes.
        loop {
            last = anyone_in(pgdata);
            if last.is_none() {
                return remove_stale_pid_file(pgdata);
            }
            if running(pgdata).is_none() {
                kill_all(pgdata);
            }
            if Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    match last {
        Some(pid) => Err(ServerError::Leftover { pid: pid.as_raw(), path: pgdata.to_owned() }),
        None => Ok(()),
    }
}

/// Kills what runs on `pgdata` as a power cut would, and returns when it is gone.
pub async fn kill_leftover(pgdata: &Path) {
    while kill_all(pgdata) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The same without a runtime.
pub fn kill_now(pgdata: &Path) {
    while kill_all(pgdata) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends SIGKILL to everybody who works in `pgdata`; whether anybody did. The postmaster is among them, and makes no
/// new ones once it is dead.
fn kill_all(pgdata: &Path) -> bool {
    let mut found = false;
    for pid in everyone_in(pgdata) {
        found = true;
        let _ = kill(pid, Signal::SIGKILL);
    }
    found
}

/// PostgreSQL refuses to start when the number in `postmaster.pid` is any living process of the same user.
/// Nobody works in the directory (the caller made sure), so the file is stale.
fn remove_stale_pid_file(pgdata: &Path) -> Result<(), ServerError> {
    let path = pgdata.join("postmaster.pid");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::file("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

/// PostgreSQL refuses a socket whose lock file names a process that lives, whatever that is by now. Nobody works in the
/// data directory (the caller made sure), and the socket's directory is this server's own.
pub(crate) fn remove_stale_socket_lock(socket: &Path) -> Result<(), ServerError> {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::file("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

/// The postmaster named in `postmaster.pid`, when that process really works in `pgdata`.
fn running(pgdata: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?);
    works_in(pid, pgdata).then_some(pid)
}

/// Any process that works in `pgdata`: the postmaster or one of its children.
fn anyone_in(pgdata: &Path) -> Option<Pid> {
    everyone_in(pgdata).next()
}

fn everyone_in(pgdata: &Path) -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| works_in(*pid, pgdata))
}

fn works_in(pid: Pid, pgdata: &Path) -> bool {
    let Ok(pgdata) = pgdata.canonicalize() else { return false };
    // A zombie has no working directory any more, which is right: it holds nothing.
    kill(pid, None) != Err(Errno::ESRCH)
        && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == pgdata)
        && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
}

/// Whether the postmaster with this process id accepts connections.
fn is_ready(pgdata: &Path, pid: Option<u32>) -> bool {
    let (Ok(text), Some(pid)) = (std::fs::read_to_string(pgdata.join("postmaster.pid")), pid) else {
        return false;
    };
    state_of(&text, pid).is_some_and(|state| matches!(state, "ready" | "standby"))
}

/// The state in the text of a `postmaster.pid`, when it is that of process `pid`.
fn state_of(text: &str, pid: u32) -> Option<&str> {
    let mut lines = text.lines();
    let owner: u32 = lines.next()?.trim().parse().ok()?;
    (owner == pid).then(|| lines.nth(STATE_LINE - 1).map(str::trim)).flatten()
}

fn open_log(path: &Path) -> Result<std::fs::File, ServerError> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        let aside = path.with_extension("log.1");
        std::fs::rename(path, &aside).map_err(ServerError::file("put aside", path))?;
    }
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    open.map_err(ServerError::file("open", path))
}

fn not_started(spec: &ServerSpec, outcome: String) -> ServerError {
    let said = log_tail(&spec.log_file);
    if says_disk_full(&said) {
        return ServerError::DiskFull { action: "postgres", path: spec.pgdata.clone() };
    }
    ServerError::NotStarted { outcome, log: spec.log_file.clone(), said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_of_our_process_only() {
        let text = "4242\n/d\n1763725000\n5432\n/d/run\n\n   1234  5\nready   \n";
        assert_eq!(state_of(text, 4242), Some("ready"));
        assert_eq!(state_of(text, 4243), None);
        assert_eq!(state_of("4242\n/d\n", 4242), None);
        assert_eq!(state_of("", 4242), None);
    }

    #[tokio::test]
    async fn a_stale_pid_file_is_no_running_server() {
        let dir = std::env::temp_dir().join(format!("pangea-agent-stale-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // Our own number: alive, but no postgres and not in that directory.
        std::fs::write(dir.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(running(&dir), None);
        stop_leftover(&dir).await.unwrap();
        assert!(!dir.join("postmaster.pid").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
