//! The control plane's consensus store: two small documents of a cluster, its `topology` and the primary's `lease`,
//! kept in one file of one machine ([`StoreConfig::Embedded`]) or in etcd ([`StoreConfig::Etcd`]).
//!
//! What it guarantees, with either backend (`tests/suite` runs unchanged on both):
//!
//! * [`Store::load`] is linearizable and consistent: both documents as they were at one moment, and not before any
//!   write that was answered when the read began.
//! * [`Store::write`] compares versions and puts documents in one step: all of it happens, or nothing.
//! * A write that may have happened is [`StoreError::Unknown`] and is never repeated here: only the caller knows
//!   whether that is harmless.
//! * Every call ends within a named bound.
//!
//! The store keeps no time. A lease is a document with a counter that its holder rewrites, and whoever observes it
//! measures on a monotonic clock of its own how long the counter has stood still. Rejected: etcd's leases, whose
//! time is the time of etcd's leader (it starts anew when the leader changes), and which a file does not have.
//!
//! A dropped call may still take effect, as one that timed out.

mod config;
mod embedded;
mod error;
mod etcd;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use config::StoreConfig;
pub use error::StoreError;

use embedded::Embedded;
use etcd::Etcd;

/// Longest value of a document in bytes. What is kept here is read and written whole.
pub const VALUE_LEN_MAX: usize = 64 * 1024;

/// Names a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Epoch, primary, regions, durability, transition in progress.
    Topology,
    /// Who may write, and the counter that shows that it lives.
    Lease,
}

impl Key {
    /// Every key, in the order in which backends keep them.
    pub const ALL: [Self; 2] = [Self::Topology, Self::Lease];

    /// The name under which backends keep it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Topology => "topology",
            Self::Lease => "lease",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Version of a key: 0 = the key does not exist; grows with each write of it, by one or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The version to name in [`Write::expect`]; never 0.
    pub version: Version,
    /// Any bytes, at most [`VALUE_LEN_MAX`].
    pub value: Vec<u8>,
}

/// One consistent, linearizable read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `None`: was never written.
    pub topology: Option<Document>,
    /// `None`: was never written.
    pub lease: Option<Document>,
}

impl Snapshot {
    /// The document of a key.
    pub fn document(&self, key: Key) -> Option<&Document> {
        match key {
            Key::Topology => self.topology.as_ref(),
            Key::Lease => self.lease.as_ref(),
        }
    }

    /// The version of a key, 0 if it does not exist.
    pub fn version(&self, key: Key) -> Version {
        self.document(key).map(|document| document.version).unwrap_or_default()
    }

    fn set(&mut self, key: Key, document: Document) {
        match key {
            Key::Topology => self.topology = Some(document),
            Key::Lease => self.lease = Some(document),
        }
    }

    /// Whether every document has the version that it has in `other`, and so the same bytes.
    fn same_versions(&self, other: &Self) -> bool {
        Key::ALL.iter().all(|&key| self.version(key) == other.version(key))
    }

    fn holds(&self, expect: &[(Key, Version)]) -> bool {
        expect.iter().all(|&(key, version)| self.version(key) == version)
    }
}

/// A conditional write: if all conditions hold, all puts happen at once, else none.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// Versions that must be the present ones. [`Version`] 0: the key must not exist.
    pub expect: Vec<(Key, Version)>,
    /// New values, one per key at most.
    pub put: Vec<(Key, Vec<u8>)>,
}

impl Write {
    /// What no backend can write.
    fn check(&self) -> Result<(), StoreError> {
        for (at, (key, value)) in self.put.iter().enumerate() {
            if value.len() > VALUE_LEN_MAX {
                let length = value.len();
                return Err(StoreError::Invalid(format!(
                    "{key} has {length} bytes, at most {VALUE_LEN_MAX} are kept"
                )));
            }
            if self.put.iter().skip(at + 1).any(|(other, _)| other == key) {
                return Err(StoreError::Invalid(format!("{key} is put twice in one write")));
            }
        }
        Ok(())
    }
}

/// How a write ended that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All conditions held, and everything is written durably.
    Done,
    /// A condition did not hold, and nothing is written.
    Conflict,
}

/// A store, cheap to clone. Clones share connections and failover state.
#[derive(Debug, Clone)]
pub struct Store(Arc<Backend>);

#[derive(Debug)]
enum Backend {
    Embedded(Embedded),
    Etcd(Etcd),
}

impl Store {
    /// Opens a store without talking to it: a region must come up while etcd is away. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] when the configuration can never work: a malformed endpoint, an unreadable
    /// certificate, a directory that does not exist.
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let backend = match config {
            StoreConfig::Embedded { path } => Backend::Embedded(Embedded::open(path)?),
            StoreConfig::Etcd {
                endpoints,
                prefix,
                ca,
                cert,
                key,
                user,
                password_file,
                request_timeout_ms,
            } => Backend::Etcd(Etcd::open(&etcd::Options {
                endpoints,
                prefix,
                ca: ca.as_deref(),
                cert: cert.as_deref(),
                key: key.as_deref(),
                user: user.as_deref(),
                password_file: password_file.as_deref(),
                request_timeout: Duration::from_millis(*request_timeout_ms),
            })?),
        };
        Ok(Self(Arc::new(backend)))
    }

    /// Reads both documents at one moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] or [`StoreError::Invalid`].
    pub async fn load(&self) -> Result<Snapshot, StoreError> {
        match &*self.0 {
            Backend::Embedded(embedded) => embedded.load().await,
            Backend::Etcd(etcd) => etcd.load().await,
        }
    }

    /// Writes if all conditions hold. At most once, whatever happens.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] and [`StoreError::Invalid`]: certainly not written. [`StoreError::Unknown`]: load
    /// to learn what happened.
    pub async fn write(&self, write: Write) -> Result<Outcome, StoreError> {
        write.check()?;
        match &*self.0 {
            Backend::Embedded(embedded) => embedded.write(write).await,
            Backend::Etcd(etcd) => etcd.write(&write).await,
        }
    }

    /// Returns when anything may have changed since `seen` was loaded, or after `longest` at the latest. While the
    /// store is away nothing is known to have changed.
    pub async fn changed(&self, seen: &Snapshot, longest: Duration) {
        let change = async {
            match &*self.0 {
                Backend::Embedded(embedded) => embedded.changed(seen).await,
                Backend::Etcd(etcd) => etcd.changed(seen).await,
            }
        };
        // Which of the two it was makes no difference to a caller that loads next.
        let _ = tokio::time::timeout(longest, change).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused() {
        let put = |put| Write { expect: Vec::new(), put }.check();
        put(vec![(Key::Lease, vec![0; VALUE_LEN_MAX]), (Key::Topology, Vec::new())]).unwrap();
        for bad in [
            vec![(Key::Lease, vec![0; VALUE_LEN_MAX + 1])],
            vec![(Key::Lease, Vec::new()), (Key::Topology, Vec::new()), (Key::Lease, Vec::new())],
        ] {
            assert!(matches!(put(bad), Err(StoreError::Invalid(_))));
        }
    }
}
