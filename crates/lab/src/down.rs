//! Stops a cluster from outside, and deletes it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::ClusterError;
use crate::layout::Layout;
use crate::manifest::Manifest;

/// Longer than the limits of the regions together.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// What [`down`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// A supervisor, which has stopped.
    Stopped,
    /// None.
    WasNotRunning,
}

/// The supervisor's lock. Its file holds the process id of whoever has it.
#[derive(Debug)]
pub(crate) struct SupervisorLock(#[expect(dead_code, reason = "held, not read")] Flock<fs::File>);

impl SupervisorLock {
    /// Takes it, or tells that another has it.
    pub(crate) fn take(layout: &Layout) -> Result<Option<Self>, ClusterError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = layout.lock();
        let open = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(ClusterError::file("open", &path))?;
        let Ok(mut lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        let write = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        write.map_err(ClusterError::file("write", &path))?;
        Ok(Some(Self(lock)))
    }
}

/// Stops the supervisor of a cluster, and what a killed one left running.
///
/// # Errors
/// When there is no cluster, or something does not stop.
pub async fn down(layout: &Layout) -> Result<Down, ClusterError> {
    let manifest = Manifest::load(layout)?;
    let mut result = Down::WasNotRunning;
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut told = None;
    let _lock = loop {
        if let Some(lock) = SupervisorLock::take(layout)? {
            break lock;
        }
        let path = layout.lock();
        let text = fs::read_to_string(&path).map_err(ClusterError::file("read", &path))?;
        // Empty for the moment between taking the lock and writing the number.
        if let Ok(pid) = text.trim().parse::<i32>() {
            result = Down::Stopped;
            if told != Some(pid) {
                let refused =
                    |errno: nix::Error| ClusterError::file("stop the process named in", &path)(errno.into());
                kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(refused)?;
                told = Some(pid);
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::DoesNotStop { pid, waited: STOP_TIMEOUT });
            }
        }
        tokio::time::sleep(POLL).await;
    };
    // Under the lock: nobody starts servers meanwhile.
    for entry in &manifest.regions {
        // A region whose supervisor was killed is on its way down: until it is gone it would start its server
        // again.
        wait_gone(&layout.region(&entry.name), deadline).await;
        for data in data_dirs(&layout.region(&entry.name), manifest.readers) {
            pangea_agent::stop_leftover(&data).await?;
        }
    }
    Ok(result)
}

/// Returns when no process holds the lock of a region, at the latest at `deadline`.
pub(crate) async fn wait_gone(region: &Path, deadline: Instant) {
    let path = region.join("run").join(pangea_node::LOCK_FILE);
    while Instant::now() < deadline {
        // No file: no process has ever been there.
        let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else { return };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The data directories of a region's servers.
pub(crate) fn data_dirs(region: &Path, readers: u8) -> Vec<std::path::PathBuf> {
    let readers = (1..=readers).map(|number| region.join(format!("reader{number}")));
    std::iter::once(region.join("pgdata")).chain(readers).collect()
}

/// Removes everything of a cluster that is not running, and nothing else: what Pangea did not put into the
/// directory stays there.
///
/// # Errors
/// When there is no cluster, it runs, or something cannot be removed.
pub fn delete(layout: &Layout) -> Result<(), ClusterError> {
    let manifest = Manifest::load(layout)?;
    let Some(lock) = SupervisorLock::take(layout)? else {
        return Err(ClusterError::Running { path: layout.data_dir().to_owned() });
    };
    let names = manifest.regions.iter().map(|entry| &entry.name).chain(&manifest.removed);
    let regions = names.map(|name| layout.region(name));
    for dir in regions.chain([layout.ca_dir(), layout.store_dir(), layout.store_ways(), layout.clocks()]) {
        gone(fs::remove_dir_all(&dir), &dir)?;
    }
    // The mark goes last but for the lock: a deletion that was interrupted can be repeated.
    let files = [
        layout.password(),
        layout.pgpass(),
        layout.admin_socket(),
        layout.supervisor_log(),
        layout.manifest(),
        layout.lock(),
    ];
    for file in files {
        gone(fs::remove_file(&file), &file)?;
    }
    drop(lock);
    // Fails when something of somebody else is there, and then it should stay.
    let _ = fs::remove_dir(layout.data_dir());
    Ok(())
}

pub(crate) fn gone(result: std::io::Result<()>, path: &Path) -> Result<(), ClusterError> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ClusterError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
