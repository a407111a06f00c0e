//! Regions on small disks of their own: file systems in memory.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for a region, for the log that its slots keep (1 GB), and for the reports of hundreds of rounds.
const SIZE: &str = "4g";

/// Whether file systems can be mounted here: by root, and not in every container.
pub(super) fn possible() -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let quietly = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).arg(dir.path()).output();
        done.is_ok_and(|done| done.status.success())
    };
    quietly("mount", &["-t", "tmpfs", "pangea-e2e"]) && quietly("umount", &[])
}

/// A file system beneath the directory of a region that does not run.
pub(super) struct Disk {
    dir: PathBuf,
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let done = Command::new(program).args(arguments).args(paths).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} failed; disks that can be filled need root: {said}");
}

impl Disk {
    /// Moves a directory onto a disk of its own.
    pub(super) fn beneath(dir: &Path) -> Self {
        let aside = dir.with_extension("aside");
        std::fs::rename(dir, &aside).unwrap();
        std::fs::create_dir(dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={SIZE},mode=755"), "pangea-e2e"], &[dir]);
        run("cp", &["-a", "-T"], &[&aside, dir]);
        let reference = format!("--reference={}", aside.display());
        run("chown", &[&reference], &[dir]);
        run("chmod", &[&reference], &[dir]);
        std::fs::remove_dir_all(&aside).unwrap();
        Self { dir: dir.to_owned() }
    }

    /// Copies what is on it beside it, where it outlives the disk.
    pub(super) fn keep(&self) {
        run("cp", &["-a"], &[&self.dir, &self.dir.with_extension("kept")]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}
