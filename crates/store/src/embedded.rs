//! The store in one file, for several processes of one machine.
//!
//! A writer holds an flock on a lock file beside the store, reads, compares, writes a temporary file, syncs it,
//! renames it over the store and syncs the directory: a crash at any moment leaves the old content or the new, and
//! a reader, who takes no lock, sees one of the two whole. The lock is on a file of its own because the store's
//! file is another one after each write. The system frees the lock of a process that dies.
//!
//! Rejected: an SQL or key-value library, whose formats and recovery are more than two documents need.

mod file;
mod replacements;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::{Outcome, Snapshot, StoreError, Write};
use file::StoreFile;
use replacements::Replacements;

/// How often `changed` reads the file though nothing was heard of it.
const READ_INTERVAL: Duration = Duration::from_millis(250);

/// Longest a read may take: more than that is a disk that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest a write may take, the wait for the lock included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Embedded {
    file: Arc<StoreFile>,
    /// Writers of this process queue here, in order; only one at a time contends for the lock of the file, which
    /// knows no order.
    turn: Mutex<()>,
    /// The system does not tell of changes, and that has been said.
    deaf: AtomicBool,
}

impl Embedded {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::new(path)?);
        Ok(Self { file, turn: Mutex::new(()), deaf: AtomicBool::new(false) })
    }

    pub(crate) async fn load(&self) -> Result<Snapshot, StoreError> {
        let file = Arc::clone(&self.file);
        let reading = tokio::task::spawn_blocking(move || file.read());
        match timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => Ok(read?.snapshot),
            Ok(Err(failed)) => Err(StoreError::Unavailable(failed.to_string())),
            Err(_) => Err(StoreError::Unavailable(format!(
                "{} could not be read within {READ_TIMEOUT:?}",
                self.path().display()
            ))),
        }
    }

    pub(crate) async fn write(&self, write: Write) -> Result<Outcome, StoreError> {
        let waited = timeout(WRITE_TIMEOUT, self.turn.lock()).await;
        let Ok(_turn) = waited else {
            return Err(StoreError::Unavailable(format!("no turn to write within {WRITE_TIMEOUT:?}")));
        };
        let file = Arc::clone(&self.file);
        let writing = tokio::task::spawn_blocking(move || file.write(write));
        match timeout(WRITE_TIMEOUT, writing).await {
            Ok(Ok(written)) => written,
            Ok(Err(failed)) => Err(StoreError::Unknown(failed.to_string())),
            // The thread goes on and may still write.
            Err(_) => Err(StoreError::Unknown(format!(
                "{} was not written within {WRITE_TIMEOUT:?}",
                self.path().display()
            ))),
        }
    }

    /// Returns when the store differs from `seen`; never, while it cannot be read.
    pub(crate) async fn changed(&self, seen: &Snapshot) {
        // Before the file is read: a write between the two is heard of.
        let mut replacements = Replacements::of(&self.file).map_err(|error| self.warn_deaf(&error)).ok();
        while !self.load().await.is_ok_and(|now| !now.same_versions(seen)) {
            let heard = async {
                match &mut replacements {
                    Some(replacements) => replacements.next().await,
                    None => std::future::pending().await,
                }
            };
            if let Ok(Err(error)) = timeout(READ_INTERVAL, heard).await {
                self.warn_deaf(&error);
                replacements = None;
            }
        }
    }

    /// Tells, once, that changes are found by reading only.
    fn warn_deaf(&self, error: &std::io::Error) {
        if !self.deaf.swap(true, Ordering::Relaxed) {
            let path = self.path().display();
            tracing::warn!(%error, %path, "inotify does not tell of changes: the store is read every {READ_INTERVAL:?}");
        }
    }

    fn path(&self) -> &PathBuf {
        &self.file.path
    }
}
