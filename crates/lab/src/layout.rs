//! Where a cluster keeps what.
//!
//! ```text
//! <data_dir>/cluster.toml          the mark, and what the cluster is
//!            ca/{ca.pem,ca.key}    its certificate authority
//!            password pgpass       of the role `postgres`
//!            supervisor.lock .log  held while a supervisor runs, with its process id; its log when detached
//!            store/ store-ways/    the embedded store; each region's way to it
//!            admin.sock            the WAN emulator's controls, and regions that come and go
//!            <region>/region.toml  configuration of `pangea region run`
//!                     initial_password tls/ pgdata/ readerK/ run/ log/
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use pangea_base::RegionId;

use crate::error::ClusterError;

/// Paths of a cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    data_dir: PathBuf,
}

impl Layout {
    /// Of the cluster in `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()) }
    }

    /// Its directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The mark.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.data_dir.join("cluster.toml")
    }

    /// Password of the role `postgres`.
    #[must_use]
    pub fn password(&self) -> PathBuf {
        self.data_dir.join("password")
    }

    /// The same in the form that libpq reads (`PGPASSFILE`).
    #[must_use]
    pub fn pgpass(&self) -> PathBuf {
        self.data_dir.join("pgpass")
    }

    /// Log of a supervisor in the background.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.data_dir.join("supervisor.log")
    }

    /// Locked while a supervisor runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("supervisor.lock")
    }

    /// Socket of the supervisor.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// The way of a region to the store, a link of its own: so that it can be lost to one region alone.
    pub(crate) fn store_way(&self, region: &RegionId) -> PathBuf {
        self.store_ways().join(region.as_str())
    }

    pub(crate) fn store_ways(&self) -> PathBuf {
        self.data_dir.join("store-ways")
    }

    /// Lets a region reach the store.
    pub(crate) fn lead_store(&self, region: &RegionId) -> Result<(), ClusterError> {
        self.link_store(region, &self.store_dir())
    }

    /// Lets a region not reach the store any more: a directory that nobody may enter takes its place.
    pub(crate) fn lead_store_astray(&self, region: &RegionId) -> Result<(), ClusterError> {
        let closed = self.store_ways().join(".closed");
        make_dir(&closed, 0o400)?;
        self.link_store(region, &closed)
    }

    fn link_store(&self, region: &RegionId, target: &Path) -> Result<(), ClusterError> {
        let (way, aside) = (self.store_way(region), self.store_ways().join(format!(".{region}.new")));
        let link = || {
            let _ = fs::remove_file(&aside);
            std::os::unix::fs::symlink(target, &aside)?;
            fs::rename(&aside, &way)
        };
        link().map_err(ClusterError::file("link", &way))
    }

    /// The file that says how far the wall clock of a region is from the machine's.
    pub(crate) fn clock(&self, region: &RegionId) -> PathBuf {
        self.clocks().join(region.as_str())
    }

    pub(crate) fn clocks(&self) -> PathBuf {
        self.data_dir.join("clocks")
    }

    pub(crate) fn ca_dir(&self) -> PathBuf {
        self.data_dir.join("ca")
    }

    /// Directory of a region.
    #[must_use]
    pub fn region(&self, region: &RegionId) -> PathBuf {
        self.data_dir.join(region.as_str())
    }

    /// Status socket of a region.
    #[must_use]
    pub fn status_socket(&self, region: &RegionId) -> PathBuf {
        self.region(region).join("run").join(pangea_node::STATUS_SOCKET)
    }

    /// Log of a region's process.
    #[must_use]
    pub fn region_log(&self, region: &RegionId) -> PathBuf {
        self.region(region).join("log").join("region.log")
    }

    /// Configuration of a region.
    #[must_use]
    pub fn region_config(&self, region: &RegionId) -> PathBuf {
        self.region(region).join("region.toml")
    }

    /// The longest socket path must fit, before anything is made.
    pub(crate) fn check_socket_paths(&self, regions: &[RegionId]) -> Result<(), ClusterError> {
        const SOCKET_PATH_LEN_MAX: usize = 107;
        for region in regions {
            let path = self.region(region).join("run/reader3/.s.PGSQL.5432");
            let length = path.as_os_str().len();
            if length > SOCKET_PATH_LEN_MAX {
                return Err(ClusterError::SocketPathTooLong { path, length });
            }
        }
        Ok(())
    }

    /// Refuses a directory with files that are not a cluster's.
    pub(crate) fn check_ours_or_empty(&self) -> Result<(), ClusterError> {
        if self.manifest().exists() {
            return Ok(());
        }
        // The lock is taken before the mark is written; a start that failed in between leaves it alone.
        let lock = self.lock();
        let foreign = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path() != lock);
        match fs::read_dir(&self.data_dir).map(|mut entries| entries.any(foreign)) {
            Ok(true) => Err(ClusterError::Foreign { path: self.data_dir.clone() }),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ClusterError::file("read", &self.data_dir)(error))
            }
            Ok(false) | Err(_) => Ok(()),
        }
    }
}

/// Who owns the regions' files: somebody else only when the supervisor is root.
#[derive(Debug, Clone)]
pub(crate) struct Owner(pub(crate) Option<User>);

impl Owner {
    /// Makes a directory that only the owner can enter.
    pub(crate) fn private_dir(&self, path: &Path) -> Result<(), ClusterError> {
        make_dir(path, 0o700)?;
        self.take(path)
    }

    /// Writes a file that only the owner can read, in one step: a crash leaves the old or the new text.
    pub(crate) fn private_file(&self, path: &Path, text: &str) -> Result<(), ClusterError> {
        let aside = path.with_extension("new");
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(ClusterError::file("write", &aside))?;
        self.take(&aside)?;
        fs::rename(&aside, path).map_err(ClusterError::file("write", path))
    }

    fn take(&self, path: &Path) -> Result<(), ClusterError> {
        let Some(user) = &self.0 else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(ClusterError::file("change the owner of", path))
    }

    /// The owner must be able to walk to `path` from the root: what lies in somebody's private home is closed to others.
    pub(crate) fn check_can_reach(&self, path: &Path) -> Result<(), ClusterError> {
        let Some(user) = &self.0 else { return Ok(()) };
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        for dir in above.into_iter().rev() {
            // What does not exist yet is made by us, and open.
            let Ok(found) = fs::metadata(dir) else { break };
            let class = if found.uid() == user.uid.as_raw() {
                0o100
            } else if found.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if found.mode() & class == 0 {
                return Err(ClusterError::Unreachable {
                    user: user.name.clone(),
                    blocked: dir.to_owned(),
                    path: path.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Makes a directory, and those above it, with a mode.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), ClusterError> {
    // What is above it must be open for whoever is to reach it, whatever the umask of a service says.
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(ClusterError::file("create", parent))?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ClusterError::file("create", path)(error));
        }
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(ClusterError::file("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(layout.check_ours_or_empty().is_ok());
        fs::write(layout.lock(), "1\n").unwrap();
        assert!(layout.check_ours_or_empty().is_ok());
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        assert!(matches!(layout.check_ours_or_empty(), Err(ClusterError::Foreign { .. })));
        fs::write(layout.manifest(), "").unwrap();
        assert!(layout.check_ours_or_empty().is_ok());
    }

    #[test]
    fn long_paths_are_refused_before_anything_is_made() {
        let layout = Layout::new(Path::new(&format!("/tmp/{}", "x".repeat(80))));
        let error = layout.check_socket_paths(&["us-east-1".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
    }
}
