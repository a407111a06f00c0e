//! How the command ends.

use std::fmt;
use std::process::ExitCode;

use pangea_lab::ClusterError;
use pangea_node::ConfigError;

/// Shown by `--help`; keep it in step with [`Exit`].
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  wrong usage, or a configuration that is not valid
  3  no cluster in the data directory, or it is not running
  4  already running
  5  running, but not every region is healthy (status)
  6  refused: nothing was changed; what stands in the way is on standard error
  7  rolled back: the old primary goes on (switchover)
  8  asked for, and not seen to end: it may still (switchover, failover, durability, policy, region)
  9  done, but for conflicts, which are listed (recover apply)";

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NotRunning,
    AlreadyRunning,
    Unhealthy,
    Refused,
    RolledBack,
    UnderWay,
    Conflicts,
}

/// An error that has an exit code of its own.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    text: String,
}

impl Ended {
    /// Something stands in the way; nothing was changed.
    pub(crate) fn refused(text: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Refused, text: text.into() }.into()
    }

    /// It was asked for, and what becomes of it is not known.
    pub(crate) fn under_way(text: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::UnderWay, text: text.into() }.into()
    }

    /// Nobody is there to be asked.
    pub(crate) fn not_running() -> anyhow::Error {
        let text = "the cluster is not running: start it with `pangea up`".to_owned();
        Self { exit: Exit::NotRunning, text }.into()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Ended {}

impl Exit {
    /// The code for an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(ended) = error.downcast_ref::<Ended>() {
            return ended.exit;
        }
        if error.is::<ConfigError>() {
            return Self::Usage;
        }
        match error.downcast_ref::<ClusterError>() {
            Some(ClusterError::NoCluster { .. }) => Self::NotRunning,
            Some(ClusterError::Running { .. }) => Self::AlreadyRunning,
            Some(ClusterError::Options(_) | ClusterError::NoRegion { .. }) => Self::Usage,
            _ => Self::Failed,
        }
    }

    /// The end of a background process, as ours.
    pub(crate) fn from_child(code: Option<i32>) -> Self {
        match code {
            Some(2) => Self::Usage,
            Some(3) => Self::NotRunning,
            Some(4) => Self::AlreadyRunning,
            _ => Self::Failed,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::AlreadyRunning => 4,
            Self::Unhealthy => 5,
            Self::Refused => 6,
            Self::RolledBack => 7,
            Self::UnderWay => 8,
            Self::Conflicts => 9,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotRunning,
            Exit::AlreadyRunning,
            Exit::Unhealthy,
            Exit::Refused,
            Exit::RolledBack,
            Exit::UnderWay,
            Exit::Conflicts,
        ];
        for exit in all {
            assert!(HELP.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }
}
