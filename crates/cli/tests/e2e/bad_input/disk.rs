//! Disks that are full: real ones, a file system in memory each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Pangea, in_scratch, make_file, snapshot};

/// Too small for initdb, each at another point of it.
const TINY: [&str; 4] = ["1m", "8m", "20m", "30m"];
/// Room for one region.
const ROOMY: &str = "256m";

/// A small file system of its own.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={size},mode=755");
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", &options, "pangea-e2e"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "this test needs a disk that it can fill, and mounting one failed: run it as root ({said})"
        );
        Self { path: path.to_owned() }
    }

    /// Takes what is left, to the last byte.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.path.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// Set for the test process that runs in a namespace.
const INSIDE: &str = "PANGEA_E2E_NAMESPACE";

/// Runs a test where file systems can be mounted: here for root, else in a namespace of its own, in which the
/// user is the same but may mount.
fn where_disks_can_be_mounted(name: &str, test: impl AsyncFnOnce(&Path)) {
    if nix::unistd::geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return in_scratch(test);
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-current-user", "--keep-caps", "--mount"]);
    unshare.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    assert!(unshare.status().unwrap().success(), "failed in a user namespace; without those, run it as root");
}

#[test]
fn a_disk_too_small_for_a_new_cluster() {
    where_disks_can_be_mounted("bad_input::disk::a_disk_too_small_for_a_new_cluster", async |scratch| {
        for size in TINY {
            let disk = SmallDisk::mount(&scratch.join(size), size);
            make_file(&disk.path.join("mine/thesis.tex"), "twelve years of work");
            let before = snapshot(&disk.path.join("mine"));
            let data_dir = disk.path.join("data");
            let pangea = Pangea::new(&data_dir);
            pangea.up(&[]).await.refused(&["no space left", "start again", data_dir.to_str().unwrap()]);
            assert_eq!(snapshot(&disk.path.join("mine")), before, "{size}");
            let region = snapshot(&data_dir.join("us-east-1"));
            let left = region.keys().find(|path| path.ends_with("PG_VERSION"));
            assert_eq!(left, None, "{size}: half a data directory was left behind");
            drop(pangea);
        }
    });
}

#[test]
fn a_disk_that_is_full_when_a_cluster_starts_again() {
    where_disks_can_be_mounted(
        "bad_input::disk::a_disk_that_is_full_when_a_cluster_starts_again",
        async |scratch| {
            let disk = SmallDisk::mount(&scratch.join("disk"), ROOMY);
            let data_dir = disk.path.join("data");
            let pangea = Pangea::new(&data_dir);
            let session = pangea.up_well().await.connect().await;
            session.run("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id").await;
            drop(session);
            pangea.down().await;

            let tables = data_dir.join("us-east-1/pgdata/base");
            let before = snapshot(&tables);
            let filler = disk.fill();
            let run = pangea.up(&[]).await;
            run.refused(&["data"]);
            let said = run.err.to_lowercase();
            assert!(said.contains("no space left"), "{said}");
            assert_eq!(snapshot(&tables), before, "data were touched");

            // Some room is made, and everything is there.
            std::fs::remove_file(filler).unwrap();
            let session = pangea.up_well().await.connect().await;
            session.expect("SELECT sum(id) FROM kept", 500_500).await;
            drop(session);
            pangea.down().await;
            drop(pangea);
        },
    );
}
