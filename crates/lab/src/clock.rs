//! Wall clocks that can be set, one for each region: its processes read theirs through Debian's libfaketime, which adds
//! what a file says to the machine's.
//!
//! As when an administrator or NTP steps the clock of a machine, a step is seen at the next look, and clocks that nobody
//! can set (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`) and the times of files stay as they are.
//!
//! What is not as on a machine whose clock is set: a signal handler that interrupts a wait sees the machine's clock. So
//! the postmaster of PostgreSQL 15 and older, which does its work in such handlers, logs the machine's time, and timeouts
//! of statements and locks that were begun while a clock was ahead are late. A handler that interrupts a look at the
//! clock and looks itself waits for ever; PostgreSQL's handler of timeouts does look, but interrupts waits. Reading the
//! file costs a server a quarter of its throughput. Rejected: a time namespace, which has no wall clock of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::error::ClusterError;
use crate::layout::{Owner, make_dir};

/// Where libraries are.
const LIBRARIES: &[&str] = &["/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// The library beneath one of them, or one directory further down. It is the one for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// Where a process with the library keeps what it shares with its children, by this name and its process id; what was
/// left by a process that was killed stops the next one with its number.
const SHARED: &str = "/dev/shm";
const SHARED_PREFIXES: [&str; 2] = ["faketime_shm_", "sem.faketime_sem_"];

/// The library.
#[derive(Debug, Clone)]
pub struct FakeTime {
    library: PathBuf,
}

/// The wall clock of a region.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    environment: [(&'static str, OsString); 5],
    /// Whom the processes run as. The library's state is not shared across a change of user, so that comes first.
    user: Option<(u32, u32)>,
}

impl FakeTime {
    /// Finds it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find() -> Result<Self, ClusterError> {
        let below =
            |dir: &&str| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let further_down = LIBRARIES.iter().flat_map(below);
        let mut candidates =
            LIBRARIES.iter().map(PathBuf::from).chain(further_down).map(|dir| dir.join(LIBRARY));
        let library = candidates.find(|library| library.exists()).ok_or(ClusterError::NoFakeTime)?;
        Ok(Self { library })
    }

    /// A clock that follows a file; it begins as the machine's.
    pub(crate) fn clock(&self, file: &Path, owner: &Owner) -> Result<Clock, ClusterError> {
        if let Some(dir) = file.parent() {
            make_dir(dir, 0o755)?;
        }
        set_clock(file, owner, 0)?;
        let user = owner.0.as_ref().map(|user| (user.uid.as_raw(), user.gid.as_raw()));
        let environment = [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", file.into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ];
        Ok(Clock { environment, user })
    }
}

impl Clock {
    /// Has a process, and those that it starts, go by this clock.
    pub(crate) fn give_to(&self, command: &mut Command) {
        remove_leftovers();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }
}

/// Sets a clock so many seconds apart from the machine's, in one step.
pub(crate) fn set_clock(file: &Path, owner: &Owner, offset_s: i32) -> Result<(), ClusterError> {
    owner.private_file(file, &format!("{offset_s:+}\n"))
}

/// Removes what processes have left that are gone.
fn remove_leftovers() {
    for entry in std::fs::read_dir(SHARED).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = SHARED_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)?.parse::<u32>().ok());
        if number.is_some_and(|number| !Path::new("/proc").join(number.to_string()).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
