//! The store in one file, for several processes of one machine.
//!
//! A writer holds an flock on a lock file beside the store, reads, compares, writes a temporary file, syncs it,
//! renames it over the store and syncs the directory: a crash at any moment leaves the old content or the new, and
//! a reader, who takes no lock, sees one of the two whole. The lock is on a file of its own because the store's
//! file is another one after each write. The system frees the lock of a process that dies.
//!
//! Rejected: an SQL or key-value library, whose formats and recovery are more than two documents need.

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::{Outcome, Snapshot, StoreError, Write};
use file::StoreFile;

/// How often `changed` looks at the file's metadata: a microsecond or two each time.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// After so many looks `changed` reads the file, whatever its metadata say: the number of a replaced file may be
/// given to the next one, and the clock of modification times stands still for 4 ms at a time.
const LOOKS_PER_READ: u32 = 20;

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
}

impl Embedded {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::new(path)?);
        Ok(Self { file, turn: Mutex::new(()) })
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
        loop {
            // The stamp first: a write between the two is then found by the next look, not missed.
            let stamp = self.file.stamp();
            if self.load().await.is_ok_and(|now| !now.same_versions(seen)) {
                return;
            }
            for _ in 0..LOOKS_PER_READ {
                sleep(LOOK_INTERVAL).await;
                if self.file.stamp() != stamp {
                    break;
                }
            }
        }
    }

    fn path(&self) -> &PathBuf {
        &self.file.path
    }
}
