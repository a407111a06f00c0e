//! Reports of lost transactions, as files.
//!
//! ```text
//! <dir>/<id>/report.jsonl   a header, then the lost transactions in the order of their commits
//! <dir>/<id>/wal/           the segments of the log that hold them
//! <dir>/<id>/state.json     what has been done with it
//! ```
//! A large transaction takes several lines, `part` 0, 1, 2 and so on, so that neither writing nor reading holds more
//! than [`PART_CHANGES_MAX`] changes or about [`PART_BYTES_MAX`] bytes (or one larger change) at a time. The report
//! never changes once it is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use pangea_base::{Civil, Epoch, Lsn, RegionId, Timeline};
use serde::{Deserialize, Serialize};

use super::error::RecoveryError;

/// Changes on one line.
pub(crate) const PART_CHANGES_MAX: usize = 500;
/// Bytes of changes on one line, but for the last change of it.
pub(crate) const PART_BYTES_MAX: usize = 4 << 20;
/// The format that this version writes.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const REPORT_FILE: &str = "report.jsonl";
pub(crate) const WAL_DIR: &str = "wal";
const STATE_FILE: &str = "state.json";

/// The first line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// 1.
    pub format: u32,
    /// Its name.
    pub id: String,
    /// The region whose server had the lost transactions.
    pub region: RegionId,
    /// The epoch in which that region was primary.
    pub lost_epoch: Epoch,
    /// The timeline that they were on.
    pub timeline: Timeline,
    /// Where that timeline was left: what committed past it is lost.
    pub fork: Lsn,
    /// The region that became primary.
    pub new_primary: RegionId,
    /// The next transaction id at the fork, in 64 bits: the new primary wrote a row after the failover if, and only
    /// if, its `xmin` is not below. `None` when it could not be found out.
    pub next_xid_at_fork: Option<u64>,
    /// When it was written: RFC 3339, in UTC.
    pub extracted_at: String,
    /// How many transactions it has.
    pub transactions: u64,
    /// How many changes of rows they made; an emptied table is one.
    pub changes: u64,
    /// Whether it has the rows of every transaction.
    pub complete: bool,
    /// What a reader should know: why it is not complete, prepared transactions.
    pub notes: Vec<String>,
}

/// A lost transaction, or a part of a large one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostTransaction {
    /// Its id on the old primary.
    pub xid: u32,
    /// 0 but for the further lines of a large transaction.
    #[serde(default)]
    pub part: u32,
    /// When it committed, by the old primary's clock: RFC 3339, in UTC.
    pub commit_time: String,
    /// Where its commit record begins.
    pub commit_lsn: Lsn,
    /// The database, where known.
    pub database: Option<String>,
    /// What it did to rows, in order.
    pub changes: Vec<Change>,
    /// `false` when rows that it wrote may be missing.
    pub decoded: bool,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was done to a row, or to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The table; of a partitioned table the partition.
    pub table: TableName,
    /// What was done.
    pub kind: ChangeKind,
    /// The primary key, or replica identity, of the row before the change (of an insert: after it). `None` when the
    /// table has none or it is not known.
    pub key: Option<Row>,
    /// The row before the change.
    pub old: Option<Row>,
    /// The row after the change.
    pub new: Option<Row>,
    /// Whether `old` tells the whole row (for an insert: that there was none).
    pub old_known: bool,
}

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A row was added.
    Insert,
    /// A row was changed.
    Update,
    /// A row was removed.
    Delete,
    /// A table was emptied.
    Truncate,
}

/// Columns by name.
pub type Row = BTreeMap<String, Cell>;

/// A value as text, with its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The type, as PostgreSQL writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The text of the value; `None` is null, unless `unchanged` is set.
    pub value: Option<String>,
    /// A large value that the update did not touch: not in the log, and not known otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
}

/// What has been done with a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportState {
    /// When it was last applied: RFC 3339, in UTC.
    pub applied_at: Option<String>,
    /// When it was discarded.
    pub discarded_at: Option<String>,
}

/// A report on disk.
#[derive(Debug, Clone)]
pub struct Report {
    dir: PathBuf,
    /// Its first line.
    pub header: Header,
    /// What has been done with it.
    pub state: ReportState,
}

/// The reports in a directory, by name. What is not one is passed over.
///
/// # Errors
/// When the directory or a report cannot be read. A directory that is not there has no reports.
pub fn list_reports(reports_dir: &Path) -> Result<Vec<Report>, RecoveryError> {
    let entries = match fs::read_dir(reports_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecoveryError::file("read", reports_dir)(error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_id(name))
        .collect();
    names.sort();
    let reports = names.iter().filter(|name| reports_dir.join(name).join(REPORT_FILE).is_file());
    reports.map(|name| open_report(reports_dir, name)).collect()
}

/// Opens a report by its name.
///
/// # Errors
/// When there is none of that name, or it cannot be read.
pub fn open_report(reports_dir: &Path, id: &str) -> Result<Report, RecoveryError> {
    if !is_id(id) {
        return Err(RecoveryError::InvalidId(id.to_owned()));
    }
    let dir = reports_dir.join(id);
    let mut lines = Lines::open(&dir.join(REPORT_FILE)).map_err(|error| match error {
        RecoveryError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            RecoveryError::NoReport { id: id.to_owned(), dir: reports_dir.to_owned() }
        }
        other => other,
    })?;
    let header: Header = lines
        .next_value()?
        .ok_or_else(|| RecoveryError::NoReport { id: id.to_owned(), dir: reports_dir.to_owned() })?;
    if header.format != FORMAT {
        return Err(RecoveryError::Format { path: lines.path, format: header.format });
    }
    let state = dir.join(STATE_FILE);
    let state = if state.exists() {
        Lines::open(&state)?.next_value()?.unwrap_or_default()
    } else {
        ReportState::default()
    };
    Ok(Report { dir, header, state })
}

impl Report {
    /// Its transactions, read from disk one line at a time.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn transactions(&self) -> Result<Transactions, RecoveryError> {
        let mut lines = Lines::open(&self.dir.join(REPORT_FILE))?;
        let _: Option<Header> = lines.next_value()?;
        Ok(Transactions { lines })
    }

    /// The file with all of it, to export.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(REPORT_FILE)
    }

    /// Writes down that it was applied.
    ///
    /// # Errors
    /// When its state cannot be written.
    pub fn mark_applied(&mut self) -> Result<(), RecoveryError> {
        self.state.applied_at = Some(now());
        self.write_state()
    }

    /// Writes down that nobody needs it any more and removes the copy of the log. The report itself stays: it is
    /// the only account of what was lost.
    ///
    /// # Errors
    /// When its state cannot be written or the copy not be removed.
    pub fn discard(&mut self) -> Result<(), RecoveryError> {
        self.state.discarded_at = Some(now());
        self.write_state()?;
        let wal = self.dir.join(WAL_DIR);
        match fs::remove_dir_all(&wal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RecoveryError::file("remove", &wal)(error))
            }
            _ => Ok(()),
        }
    }

    fn write_state(&self) -> Result<(), RecoveryError> {
        let path = self.dir.join(STATE_FILE);
        let aside = self.dir.join("state.json.new");
        let write = || {
            let mut file = File::create(&aside)?;
            serde_json::to_writer(&mut file, &self.state)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(RecoveryError::file("write", &path))
    }
}

/// Iterates over the lines of a report.
#[derive(Debug)]
pub struct Transactions {
    lines: Lines,
}

impl Iterator for Transactions {
    type Item = Result<LostTransaction, RecoveryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.lines.next_value().transpose()
    }
}

/// A file of JSON values, one on a line.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Self, RecoveryError> {
        let file = File::open(path).map_err(RecoveryError::file("open", path))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), line: 0 })
    }

    pub(crate) fn next_value<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, RecoveryError> {
        let mut text = Vec::new();
        self.reader.read_until(b'\n', &mut text).map_err(RecoveryError::file("read", &self.path))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let value = serde_json::from_slice(&text);
        value.map(Some).map_err(|source| RecoveryError::Report {
            path: self.path.clone(),
            line: self.line,
            source,
        })
    }
}

/// Whether it can be the name of a report: it becomes a path.
pub(crate) fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=100).contains(&id.len()) && id.bytes().all(plain)
}

/// The time, as RFC 3339 in UTC, in seconds.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Civil::of(since.as_secs()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn names_do_not_leave_the_directory() -> Outcome {
        assert!(is_id("epoch-7-eu-west-1"));
        for id in ["", ".", "..", "a/b", "../x", ".epoch-7.unfinished", "A"] {
            assert!(!is_id(id), "{id:?}");
            assert!(matches!(open_report(Path::new("/tmp"), id), Err(RecoveryError::InvalidId(_))));
        }
        assert!(list_reports(Path::new("/nonexistent"))?.is_empty());
        Ok(())
    }

    #[test]
    fn a_report_is_read_line_by_line_and_keeps_its_state() -> Outcome {
        let dir = tempfile::tempdir()?;
        let own = dir.path().join("epoch-7-eu-west-1");
        fs::create_dir_all(own.join(WAL_DIR))?;
        let header = r#"{"format":1,"id":"epoch-7-eu-west-1","region":"eu-west-1","lost_epoch":7,"timeline":1,"fork":"0/3000060","new_primary":"us-east-1","next_xid_at_fork":747,"extracted_at":"2026-11-21T00:00:00Z","transactions":1,"changes":1,"complete":true,"notes":[]}"#;
        let line = r#"{"xid":750,"part":0,"commit_time":"2026-11-21T00:00:00Z","commit_lsn":"0/3000100","database":"app","changes":[{"table":{"schema":"public","name":"t"},"kind":"delete","key":{"id":{"type":"integer","value":"1"}},"old":null,"new":null,"old_known":false}],"decoded":true}"#;
        fs::write(own.join(REPORT_FILE), format!("{header}\n{line}\n"))?;
        let mut report = open_report(dir.path(), "epoch-7-eu-west-1")?;
        let found: Vec<_> = report.transactions()?.collect::<Result<_, _>>()?;
        assert_eq!(serde_json::to_string(&found[0])?, line);
        assert_eq!(serde_json::to_string(&report.header)?, header);
        report.mark_applied()?;
        report.discard()?;
        let again = list_reports(dir.path())?.remove(0);
        assert_eq!(again.state, report.state);
        assert!(again.state.applied_at.is_some() && again.state.discarded_at.is_some());
        assert!(!own.join(WAL_DIR).exists() && own.join(REPORT_FILE).exists());
        fs::write(own.join(REPORT_FILE), format!("{header}\nx\n"))?;
        let error = report.transactions()?.next();
        let error = error.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("line 2 of "), "{error}");
        Ok(())
    }
}
