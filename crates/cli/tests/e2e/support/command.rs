//! The `pangea` command, and files before and after it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{Database, US};

/// Longest time that a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// The command, for one data directory. What runs there is stopped with it.
pub(crate) struct Pangea {
    data_dir: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Runs a command on a data directory to its end.
    pub(crate) async fn of(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pangea"));
        command.args(arguments).env("PANGEA_DATA_DIR", data_dir).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(COMMAND_TIMEOUT, command.output());
        let output = output.await.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The same when it ends with this code.
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// What it printed, as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it failed, and that it said all of this.
    pub(crate) fn refused(&self, said: &[&str]) {
        assert_ne!(self.code, Some(0), "{self:?}");
        assert!(self.code.is_some(), "killed: {self:?}");
        for text in said {
            assert!(self.err.contains(text), "no {text:?} in: {}", self.err);
        }
    }
}

impl Pangea {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.data_dir, arguments).await
    }

    /// `up` of a single region at free ports, with more arguments.
    pub(crate) async fn up(&self, arguments: &[&str]) -> Run {
        let mut all = vec!["up", "--detach", "--json", "--wan", "off", "--port-base", "0", "--regions", US];
        all.extend(arguments);
        self.run(&all).await
    }

    /// The same when it has to work: the cluster endpoint of the region.
    pub(crate) async fn up_well(&self) -> Database {
        let run = self.up(&[]).await;
        assert_eq!(run.code, Some(0), "{run:?}");
        let described: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        Database(described["regions"][0]["cluster"].as_str().unwrap().parse().unwrap())
    }

    pub(crate) async fn down(&self) {
        let run = self.run(&["down"]).await;
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}

impl Drop for Pangea {
    fn drop(&mut self) {
        if self.data_dir.join("cluster.toml").exists() {
            let mut down = std::process::Command::new(env!("CARGO_BIN_EXE_pangea"));
            let _ = down.arg("down").env("PANGEA_DATA_DIR", &self.data_dir).stderr(Stdio::null()).status();
        }
    }
}

/// Writes a file, and the directories above it.
pub(crate) fn make_file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Every file below a directory with its mode and a hash of its content.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = path.symlink_metadata().unwrap();
        let mut hasher = DefaultHasher::new();
        if found.is_dir() {
            files.extend(snapshot(&path));
        } else if found.is_file() {
            std::fs::read(&path).unwrap().hash(&mut hasher);
        }
        files.insert(path, (found.permissions().mode(), hasher.finish()));
    }
    files
}
