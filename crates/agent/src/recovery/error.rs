//! Why a step of the recovery cannot be done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_base::Timeline;

use crate::error::ServerError;

/// Why a step of the recovery cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
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
    /// A program or server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A server refused, or the way to it is broken.
    #[error("cannot {action}")]
    Sql {
        /// What was tried, and on which server.
        action: &'static str,
        /// What the server says.
        source: tokio_postgres::Error,
    },
    /// It took too long.
    #[error("gave up after {limit:?}: {action}")]
    TimedOut {
        /// What was tried.
        action: &'static str,
        /// How long it was tried.
        limit: Duration,
    },
    /// A program or server said something unexpected.
    #[error("{who} said what was not expected: {what}")]
    Unexpected {
        /// Who.
        who: &'static str,
        /// What.
        what: String,
    },
    /// The new primary's log does not descend from that timeline.
    #[error(
        "the new primary's log never was on timeline {}: the two have no fork there, clone the server anew",
        timeline.0
    )]
    OtherLine {
        /// The timeline.
        timeline: Timeline,
    },
    /// The name of a report is not one.
    #[error("{0:?} is no report: a report is named like epoch-7-eu-west-1")]
    InvalidId(String),
    /// There is no such report.
    #[error("there is no report {id} in {dir}")]
    NoReport {
        /// Its name.
        id: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A report cannot be read.
    #[error("line {line} of {path} is not readable")]
    Report {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A report was written by a newer version.
    #[error("{path} has format {format}, which this version does not know: use the version that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A report has been discarded.
    #[error("the report {0} was discarded")]
    Discarded(String),
    /// Too many rows at once.
    #[error("the lost changes touch more than {rows_max} rows: apply some of the transactions at a time")]
    TooManyRows {
        /// The limit.
        rows_max: usize,
    },
}

impl RecoveryError {
    /// For `map_err`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// For `map_err`.
    pub(crate) fn sql(action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { action, source }
    }
}
