//! Processes of a cluster, found as the system shows them.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// PostgreSQL's processes that work in a data directory.
pub(super) fn servers(pgdata: &Path) -> Vec<Pid> {
    let Ok(pgdata) = pgdata.canonicalize() else { return Vec::new() };
    let in_it = |pid: &Pid| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == pgdata)
            && std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "postgres")
    };
    all().filter(in_it).collect()
}

/// The watchdog of the server in a data directory.
pub(super) fn watchdog(pgdata: &Path) -> Option<Pid> {
    let wanted = ["region".into(), "watchdog".into(), pgdata.to_owned()];
    all().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<PathBuf> = line
            .split(|byte| *byte == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned().into())
            .collect();
        arguments.get(1..4).is_some_and(|found| found == wanted)
    })
}

/// Sends a signal to all that are still there.
pub(super) fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}
