//! The store in one file: what every backend must do, and what only a file can suffer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says how long it took"
)]

mod suite;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::fcntl::{Flock, FlockArg};
use pangea_store::{Key, Outcome, Snapshot, Store, StoreConfig, StoreError, Write};

/// Tells a test that this process is a child of another test, and which file it works on.
const CHILD_FILE: &str = "PANGEA_STORE_TEST_FILE";

fn config(path: &Path) -> StoreConfig {
    StoreConfig::Embedded { path: path.to_owned() }
}

async fn open(path: &Path) -> Store {
    Store::open(&config(path)).await.unwrap()
}

fn put(value: &[u8]) -> Write {
    Write { expect: Vec::new(), put: vec![(Key::Lease, value.to_vec())] }
}

async fn lease(store: &Store) -> Vec<u8> {
    store.load().await.unwrap().lease.unwrap().value
}

/// Runs one test of this file in a process of its own.
fn child(test: &str, path: &Path) -> Child {
    let exe = std::env::current_exe().unwrap();
    Command::new(exe).args(["--exact", test]).env(CHILD_FILE, path).spawn().unwrap()
}

fn file_of_parent() -> Option<PathBuf> {
    std::env::var_os(CHILD_FILE).map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_what_every_backend_must() {
    let dir = tempfile::tempdir().unwrap();
    suite::run(|case| config(&dir.path().join(case))).await;
}

const PROCESSES: usize = 4;
const INCREMENTS: usize = 40;

#[tokio::test]
async fn processes_lose_no_increment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let children: Vec<_> = (0..PROCESSES).map(|_| child("child_increments", &path)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let seen = open(&path).await.load().await.unwrap();
    assert_eq!(suite::number(&seen, Key::Lease), (PROCESSES * INCREMENTS) as u64);
}

#[tokio::test]
async fn child_increments() {
    let Some(path) = file_of_parent() else { return };
    let store = open(&path).await;
    for _ in 0..INCREMENTS {
        suite::increment(&store).await;
    }
}

#[tokio::test]
async fn a_killed_writer_leaves_the_old_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path).await;
    let mut last = 0;
    for round in 0..8 {
        let mut writer = child("child_increments_for_ever", &path);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let before = last;
        while last < before + 5 + round {
            assert!(std::time::Instant::now() < deadline, "the child does not write");
            let now = suite::number(&store.load().await.unwrap(), Key::Lease);
            assert!(now >= last);
            last = now;
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // Its lock is gone with it, and what it left half done disturbs nobody.
        suite::increment(&store).await;
    }
}

#[tokio::test]
async fn child_increments_for_ever() {
    let Some(path) = file_of_parent() else { return };
    let store = open(&path).await;
    loop {
        suite::increment(&store).await;
    }
}

#[tokio::test]
async fn a_temporary_file_left_over_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let temporary = dir.path().join("store.tmp");
    std::fs::write(&temporary, b"{\"format\":1,\"revision\":9,\"lease\":{\"ver").unwrap();
    let store = open(&path).await;
    assert_eq!(store.load().await, Ok(Snapshot::default()));
    assert_eq!(store.write(put(b"a")).await, Ok(Outcome::Done));
    std::fs::write(&temporary, vec![b'x'; 200_000]).unwrap();
    assert_eq!(store.write(put(b"b")).await, Ok(Outcome::Done));
    assert_eq!(lease(&store).await, b"b");
    assert!(!temporary.exists());
}

#[tokio::test]
async fn a_corrupt_file_is_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path).await;
    store.write(put(b"value")).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let whole = std::fs::read(&path).unwrap();
    let long = vec![b' '; 1 << 20];
    for corrupt in [&b""[..], b"\n", b"{}", b"null", &whole[..whole.len() / 2], &long] {
        std::fs::write(&path, corrupt).unwrap();
        for result in [store.load().await.map(|_| ()), store.write(put(b"x")).await.map(|_| ())] {
            let Err(StoreError::Invalid(why)) = result else { panic!("{result:?}") };
            assert!(why.contains(path.to_str().unwrap()), "{why}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), corrupt, "what is corrupt is left for who repairs it");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(lease(&store).await, b"value");
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path).await;
    store.write(put(b"old")).await.unwrap();
    // The temporary file leads to the device that is always full.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("store.tmp")).unwrap();
    let refused = store.write(put(b"new")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(lease(&store).await, b"old");
    // The leftover is gone with the failure, and so is the obstacle.
    assert_eq!(store.write(put(b"new")).await, Ok(Outcome::Done));
}

#[tokio::test]
async fn a_missing_directory_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    let path = inner.join("store");
    for bad in [path.as_path(), dir.path(), Path::new("/"), Path::new("")] {
        let refused = Store::open(&config(bad)).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    std::fs::create_dir(&inner).unwrap();
    let store = open(&path).await;
    store.write(put(b"x")).await.unwrap();
    std::fs::remove_dir_all(&inner).unwrap();
    // Not an empty store: a lost one.
    for result in [store.load().await.map(|_| ()), store.write(put(b"x")).await.map(|_| ())] {
        assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_held_lock_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path).await;
    store.write(put(b"old")).await.unwrap();
    let file = std::fs::File::open(dir.path().join("store.lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let refused = store.write(put(b"new")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(lease(&store).await, b"old", "a reader needs no lock");
    drop(lock);
    assert_eq!(store.write(put(b"new")).await, Ok(Outcome::Done));
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    open(&path).await.write(put(b"old")).await.unwrap();
    std::fs::remove_file(dir.path().join("store.lock")).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&path, 0o644);
    mode(dir.path(), 0o555);
    // In a process of its own: it gives up root, whom no permission stops.
    let status = child("child_cannot_write", &path).wait().unwrap();
    mode(dir.path(), 0o755);
    assert!(status.success());
    assert_eq!(lease(&open(&path).await).await, b"old");
}

#[test]
fn child_cannot_write() {
    let Some(path) = file_of_parent() else { return };
    if nix::unistd::geteuid().is_root() {
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(65534)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&path).await;
        assert_eq!(lease(&store).await, b"old");
        let refused = store.write(put(b"new")).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    });
}
