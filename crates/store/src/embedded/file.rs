//! The file itself: format, lock, replacement. Blocking.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Document, Key, Outcome, Snapshot, StoreError, VALUE_LEN_MAX, Version, Write};

/// The format that is written, and the only one there has been.
const FORMAT: u32 = 1;

/// Longest file that is read: both documents in base64, with room for what is around them.
const FILE_LEN_MAX: usize = 2 * VALUE_LEN_MAX.div_ceil(3) * 4 + 4096;

/// Longest wait for the lock. A write takes milliseconds; a lock held longer is a writer that hangs.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Pause between two attempts to get the lock. There is no wait with a limit in flock(2).
const LOCK_PAUSE: Duration = Duration::from_micros(500);

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    /// Grows by one with each write, of whichever key: the version that the keys it puts will have.
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topology: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: Version,
    /// Base64.
    value: String,
}

/// Read first, to name a newer format instead of calling the file corrupt.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// A file that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    revision: u64,
    pub(super) snapshot: Snapshot,
}

#[derive(Debug)]
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    pub(super) directory: PathBuf,
    lock: PathBuf,
    temporary: PathBuf,
}

impl StoreFile {
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let invalid = |why: &str| Err(StoreError::Invalid(format!("{}: {why}", path.display())));
        let Some(name) = path.file_name() else { return invalid("names no file") };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !directory.is_dir() {
            return invalid("its directory does not exist");
        }
        if path.is_dir() {
            return invalid("is a directory");
        }
        let beside = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(suffix);
            directory.join(name)
        };
        Ok(Self { path: path.to_owned(), lock: beside(".lock"), temporary: beside(".tmp"), directory })
    }

    /// What is there now; nothing at all if there is no file.
    pub(super) fn read(&self) -> Result<Present, StoreError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // Without its directory the file is not new but lost, and everything in it.
            Err(error) if error.kind() == ErrorKind::NotFound && self.directory.is_dir() => {
                return Ok(Present::default());
            }
            Err(error) => return Err(failure("open", &self.path, &error)),
        };
        let mut bytes = Vec::new();
        let limit = FILE_LEN_MAX as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| failure("read", &self.path, &error))?;
        decode(&bytes).map_err(|why| StoreError::Invalid(format!("{}: {why}", self.path.display())))
    }

    pub(super) fn write(&self, write: Write) -> Result<Outcome, StoreError> {
        let _lock = self.lock()?;
        let mut present = self.read()?;
        if !present.snapshot.holds(&write.expect) {
            return Ok(Outcome::Conflict);
        }
        if write.put.is_empty() {
            return Ok(Outcome::Done);
        }
        let next = present.revision.checked_add(1);
        present.revision =
            next.ok_or_else(|| StoreError::Invalid("the revision is at its end".to_owned()))?;
        let version = Version(present.revision);
        for (key, value) in write.put {
            present.snapshot.set(key, Document { version, value });
        }
        self.replace(&encode(&present)?)?;
        Ok(Outcome::Done)
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let mut file = options.open(&self.lock).map_err(|error| failure("open", &self.lock, &error))?;
        let began = Instant::now();
        loop {
            let errno = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((back, errno)) => {
                    file = back;
                    errno
                }
            };
            if errno != Errno::EWOULDBLOCK && errno != Errno::EINTR {
                return Err(failure("lock", &self.lock, &errno.into()));
            }
            if began.elapsed() >= LOCK_WAIT_MAX {
                return Err(StoreError::Unavailable(format!(
                    "{} is held by another process for {LOCK_WAIT_MAX:?}",
                    self.lock.display()
                )));
            }
            sleep(LOCK_PAUSE);
        }
    }

    /// The lock is held.
    fn replace(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.write_temporary(bytes).and_then(|()| {
            std::fs::rename(&self.temporary, &self.path)
                .map_err(|error| failure("replace", &self.path, &error))
        });
        if written.is_err() {
            // What it holds is missing on a full disk. If it stays, the next write truncates it.
            let _ = std::fs::remove_file(&self.temporary);
        }
        written?;
        // From here on others see the new content, though a power failure might still bring the old one back.
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| {
            StoreError::Unknown(format!("{} cannot be synced: {error}", self.directory.display()))
        })
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut options = OpenOptions::new();
        // The lease and the topology are nobody else's business, and may come to name secrets.
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file =
            options.open(&self.temporary).map_err(|error| failure("create", &self.temporary, &error))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| failure("write", &self.temporary, &error))
    }
}

/// Something failed before anything was replaced.
fn failure(action: &str, path: &Path, error: &std::io::Error) -> StoreError {
    let text = format!("cannot {action} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => StoreError::Invalid(text),
        // Disk full, read-only after an I/O error, out of descriptors: somebody may repair it meanwhile.
        _ => StoreError::Unavailable(text),
    }
}

fn encode(present: &Present) -> Result<Vec<u8>, StoreError> {
    let entry = |document: &Option<Document>| {
        document
            .as_ref()
            .map(|Document { version, value }| Entry { version: *version, value: BASE64.encode(value) })
    };
    let content = Content {
        format: FORMAT,
        revision: present.revision,
        topology: entry(&present.snapshot.topology),
        lease: entry(&present.snapshot.lease),
    };
    let mut bytes = serde_json::to_vec(&content)
        .map_err(|error| StoreError::Invalid(format!("cannot encode the store: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Present, String> {
    if bytes.len() > FILE_LEN_MAX {
        return Err(format!("is longer than {FILE_LEN_MAX} bytes, which no store is"));
    }
    let corrupt = |error: serde_json::Error| format!("is corrupt: {error}");
    let Header { format } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if format != FORMAT {
        return Err(format!("has format {format}, this program knows format {FORMAT}"));
    }
    let content: Content = serde_json::from_slice(bytes).map_err(corrupt)?;
    let mut snapshot = Snapshot::default();
    for (key, entry) in [(Key::Topology, content.topology), (Key::Lease, content.lease)] {
        let Some(Entry { version, value }) = entry else { continue };
        if version == Version(0) || version.0 > content.revision {
            return Err(format!("is corrupt: {key} has version {} of {}", version.0, content.revision));
        }
        let value = BASE64.decode(value).map_err(|error| format!("is corrupt: {key}: {error}"))?;
        snapshot.set(key, Document { version, value });
    }
    Ok(Present { revision: content.revision, snapshot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest() -> Present {
        let document =
            |version| Some(Document { version: Version(version), value: vec![255; VALUE_LEN_MAX] });
        let snapshot = Snapshot { topology: document(u64::MAX), lease: document(3) };
        Present { revision: u64::MAX, snapshot }
    }

    #[test]
    fn what_is_written_is_read() {
        for present in [Present::default(), largest()] {
            assert_eq!(decode(&encode(&present).unwrap()).unwrap(), present);
        }
    }

    #[test]
    fn the_format_does_not_change_unnoticed() {
        let lease = Some(Document { version: Version(2), value: b"\xff\0a".to_vec() });
        let present = Present { revision: 7, snapshot: Snapshot { topology: None, lease } };
        let text = r#"{"format":1,"revision":7,"lease":{"version":2,"value":"/wBh"}}"#;
        assert_eq!(encode(&present).unwrap(), [text.as_bytes(), b"\n"].concat());
    }

    #[test]
    fn what_is_not_whole_is_never_read_as_something_else() {
        let whole = encode(&largest()).unwrap();
        for length in (0..whole.len() - 1).step_by(1009).chain(whole.len() - 9..whole.len() - 1) {
            decode(&whole[..length]).unwrap_err();
        }
        let bad = [
            r#"{"format":2,"revision":1,"anything":0}"#,
            r#"{"format":1}"#,
            r#"{"format":1,"revision":1,"lease":{"version":2,"value":""}}"#,
            r#"{"format":1,"revision":1,"lease":{"version":0,"value":""}}"#,
            r#"{"format":1,"revision":1,"lease":{"version":1,"value":"?"}}"#,
            r#"{"format":1,"revision":1,"leases":{"version":1,"value":""}}"#,
        ];
        for text in bad {
            decode(text.as_bytes()).unwrap_err();
        }
        assert!(decode(bad[0].as_bytes()).unwrap_err().contains("format 2"));
        assert!(decode(&vec![b' '; FILE_LEN_MAX + 1]).unwrap_err().contains("longer"));
    }
}
