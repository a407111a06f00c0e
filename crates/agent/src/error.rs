//! Why a server cannot be made, started or stopped.

use std::path::{Path, PathBuf};

use crate::bin::PgVersion;

/// Why a server cannot be made, started or stopped. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or directory operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The disk is full.
    #[error(
        "no space left on the disk of {path} while running {action}; nothing was left behind: free some and start again"
    )]
    DiskFull {
        /// What was running.
        action: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The data directory has files, and not ours.
    #[error(
        "{path} is not empty and was not made by Pangea; it was not touched: move it away or use another --data-dir"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory belongs to another major version.
    #[error(
        "{path} was made by PostgreSQL {found}, but {bin} holds PostgreSQL {version}; nothing was touched: \
         name the programs of version {found} with --pg-bin, or move the data with pg_upgrade or pg_dump"
    )]
    OtherMajor {
        /// The data directory.
        path: PathBuf,
        /// Its version.
        found: String,
        /// Directory of the programs.
        bin: PathBuf,
        /// Their version.
        version: PgVersion,
    },
    /// The path of a socket does not fit.
    #[error(
        "the socket path {path} has {length} bytes, but the system allows {SOCKET_PATH_LEN_MAX}: use a shorter --data-dir"
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A program cannot be run.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({outcome}); it said:\n{said}")]
    Program {
        /// The program.
        program: &'static str,
        /// How it ended.
        outcome: String,
        /// The end of its standard error.
        said: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL did not start ({outcome}); the end of {log}:\n{said}")]
    NotStarted {
        /// How it ended.
        outcome: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        said: String,
    },
    /// A standby does not become primary, or a setting of that cannot be made.
    #[error("the server cannot be made primary")]
    Promote {
        /// What it says.
        source: tokio_postgres::Error,
    },
    /// It is asked something and does not answer.
    #[error("the server does not answer within {waited:?}")]
    Silent {
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// It does not come out of recovery.
    #[error("the promoted standby is still in recovery, and has replayed nothing for {waited:?}")]
    PromoteTimeout {
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// It does not come to the end of the log that it has to have.
    #[error(
        "the standby has not replayed the log up to {end}, and nothing for {waited:?}: it is not promoted"
    )]
    ReplayTimeout {
        /// Where the last record begins.
        end: pangea_base::Lsn,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// The history of its timeline tells no fork.
    #[error("the history of timeline {} does not tell where it begins", timeline.0)]
    NoFork {
        /// The timeline.
        timeline: pangea_base::Timeline,
    },
    /// The region is primary, but there is no data.
    #[error(
        "{path} is empty, but the cluster has data: another region must take over (pangea failover), and this one \
         is then cloned from it"
    )]
    NoData {
        /// The data directory.
        path: PathBuf,
    },
    /// The server does not start again, and no in-region reader can take its place.
    #[error("no in-region reader takes the place of {path}: {reason}")]
    NoSuccessor {
        /// The data directory of the server.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A server that an earlier process left running does not stop.
    #[error(
        "PostgreSQL (process {pid}) of {path} was left running by an earlier process and does not stop: end it, then start again"
    )]
    Leftover {
        /// Its process id.
        pid: i32,
        /// Its data directory.
        path: PathBuf,
    },
}

/// `sockaddr_un.sun_path` has 108 bytes with the final zero.
pub(crate) const SOCKET_PATH_LEN_MAX: usize = 107;

impl ServerError {
    /// For `map_err`: names the operation and its object. A full disk gets its own words.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { action, path: path.to_owned() }
            }
            _ => Self::File { action, path: path.to_owned(), source },
        }
    }

    /// The failure of a program that wrote below `path`.
    pub(crate) fn program(program: &'static str, path: &Path, outcome: String, stderr: &str) -> Self {
        if says_disk_full(stderr) {
            return Self::DiskFull { action: program, path: path.to_owned() };
        }
        Self::Program { program, outcome, said: last_lines(stderr) }
    }
}

/// Whether PostgreSQL's programs speak of a full disk: by the system's words, or, after a write that was cut
/// short, by a hint of their own.
pub(crate) fn says_disk_full(text: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "Check free disk space"]
        .iter()
        .any(|words| text.contains(words))
}

/// An error with its sources, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// The end of a text, for quoting in an error.
pub(crate) fn last_lines(text: &str) -> String {
    const LINES_MAX: usize = 12;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES_MAX);
    lines
        .get(from..)
        .unwrap_or_default()
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The end of a log file; what cannot be read is said instead.
pub(crate) fn log_tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const BYTES_MAX: u64 = 8 * 1024;
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => last_lines(&text),
        Err(error) => format!("  (the log cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let said = "initdb: error: could not write to file \"x\": No space left on device\n";
        let error = ServerError::program("initdb", Path::new("/d"), "exit status: 1".into(), said);
        assert!(matches!(error, ServerError::DiskFull { .. }));
        let other = ServerError::program("initdb", Path::new("/d"), "exit status: 1".into(), "a\n\nb\n");
        assert_eq!(other.to_string(), "initdb failed (exit status: 1); it said:\n  a\n  b");
    }

    #[test]
    fn quotes_only_the_end() {
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        let quoted = last_lines(&text);
        assert!(quoted.starts_with("  line 28\n") && quoted.ends_with("  line 39"), "{quoted}");
    }
}
