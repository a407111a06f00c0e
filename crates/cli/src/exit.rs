//! How the command ends.

use std::process::ExitCode;

use pangea_lab::ClusterError;

/// Shown by `--help`; keep it in step with [`Exit`].
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  wrong usage
  3  no cluster in the data directory, or it is not running
  4  already running
  5  running, but not every region is healthy (status)";

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NotRunning,
    AlreadyRunning,
    Unhealthy,
}

impl Exit {
    /// The code for an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
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
        let all =
            [Exit::Done, Exit::Failed, Exit::Usage, Exit::NotRunning, Exit::AlreadyRunning, Exit::Unhealthy];
        for exit in all {
            assert!(HELP.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }
}
