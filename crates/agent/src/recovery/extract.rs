//! Writes down what only the old primary has, before it is rewound.
//!
//! The log itself is the account of what is lost ([`super::waldump`]); the rows are decoded from it by the server,
//! started alone. Whatever goes wrong with the rows makes the report incomplete and is noted in it, because a report
//! without rows is better than none; only what makes the account itself impossible is an error.

mod compose;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_base::{Epoch, Lsn, RegionId, Timeline};
use tokio_postgres::Config;

use super::control::{ControlData, control_data};
use super::error::RecoveryError;
use super::isolated::{Isolated, run_dir};
use super::report::{REPORT_FILE, Report, WAL_DIR, is_id, open_report};
use super::rows::{Decoder, Source, State};
use super::session::{Session, literal, parse_conninfo};
use super::slots::SLOT_PREFIX;
use super::waldump::{self, RelationFile, Tail};
use crate::bin::PgBin;
use crate::create::make_private_dir;
use crate::error::chain;
use crate::postmaster::stop_leftover;

/// How long the rows may take. A report without them is written when it has passed.
const ROWS_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Segments before the one with the fork in which the next transaction id at the fork is looked for. A server that
/// is used writes it every 15 s.
const SEGMENTS_BEFORE: u64 = 2;
/// Where the rows of each database wait to be put in order.
const SPOOL_DIR: &str = "spool";
/// Notes on single databases and prepared transactions.
const NOTES_MAX: usize = 50;

/// What to extract.
#[derive(Debug, Clone)]
pub struct Extract {
    /// Programs of the old primary's version.
    pub bin: PgBin,
    /// Data directory of the old primary: stopped, cleanly or not. A server left running on it is stopped.
    pub pgdata: PathBuf,
    /// Directory (made 0700) for the socket and the log of the server while it runs alone. A short path.
    pub private_dir: PathBuf,
    /// Directory of the reports.
    pub reports_dir: PathBuf,
    /// Name of the report: lower-case letters, digits and hyphens.
    pub id: String,
    /// The region of the old primary.
    pub region: RegionId,
    /// The epoch in which it was primary.
    pub lost_epoch: Epoch,
    /// The region that is primary now.
    pub new_primary: RegionId,
    /// The timeline that the old primary wrote.
    pub timeline: Timeline,
    /// Where the new primary left that timeline ([`super::fork_of`]).
    pub fork: Lsn,
    /// The next transaction id on the new primary at its promotion, in 64 bits; found out from the log when `None`.
    pub next_xid_at_fork: Option<u64>,
    /// Connection string of the new primary, without a database; the rows before the changes are asked there.
    pub source: String,
}

/// What was found.
#[derive(Debug)]
pub enum Extracted {
    /// The old primary wrote nothing past the fork: it can follow the new one as it is.
    NotDiverged,
    /// It wrote past the fork but committed nothing: it must be rewound, and nothing is lost.
    NothingLost,
    /// Transactions are lost, and this is the report.
    Report(Box<Report>),
}

/// Extracts the transactions that only the old primary has. When the report is there already, it is opened.
///
/// # Errors
/// When the log cannot be read or copied, or the report not be written; nothing of the server has been changed then
/// but that it may have finished its crash recovery.
pub async fn extract(request: Extract) -> Result<Extracted, RecoveryError> {
    if !is_id(&request.id) {
        return Err(RecoveryError::InvalidId(request.id));
    }
    if request.reports_dir.join(&request.id).join(REPORT_FILE).is_file() {
        return Ok(Extracted::Report(Box::new(open_report(&request.reports_dir, &request.id)?)));
    }
    stop_leftover(&request.pgdata).await?;
    let control = control_data(&request.bin, &request.pgdata).await?;
    if control.timeline > request.timeline {
        // It follows the new primary already.
        return Ok(Extracted::NotDiverged);
    }
    let log = request.pgdata.join("pg_wal");
    let log = waldump::Log {
        dir: &log,
        timeline: request.timeline,
        from: request.fork,
        segment_bytes: control.wal_segment_bytes,
    };
    let tail = waldump::tail(&request.bin, log).await?;
    let mut notes = Vec::new();
    if tail.last.is_none_or(|last| last < control.checkpoint) && control.checkpoint >= request.fork {
        // What follows is known to be there and cannot be read: nobody may take this for the whole account.
        notes.push(format!(
            "the log between {} and the checkpoint at {} is not there or not readable: transactions are missing",
            tail.last.unwrap_or(request.fork),
            control.checkpoint
        ));
    } else if tail.last.is_none() {
        return Ok(Extracted::NotDiverged);
    } else if tail.commits.is_empty() && tail.prepared.is_empty() {
        return Ok(Extracted::NothingLost);
    }
    Extraction { complete: notes.is_empty(), request, control, tail, notes }.run().await
}

struct Extraction {
    request: Extract,
    control: ControlData,
    tail: Tail,
    notes: Vec<String>,
    complete: bool,
}

/// The rows of one database.
struct Rows {
    database: String,
    spool: PathBuf,
    decoded: HashSet<u32>,
    changes: u64,
}

/// What could be learned of the databases.
#[derive(Default)]
struct Learned {
    rows: Vec<Rows>,
    /// Names of databases by number.
    names: HashMap<u32, String>,
    /// Databases whose slot tells everything from this position on.
    sound_from: HashMap<u32, Lsn>,
    /// Names of relations.
    relations: HashMap<RelationFile, String>,
}

impl Extraction {
    async fn run(mut self) -> Result<Extracted, RecoveryError> {
        make_private_dir(&self.request.reports_dir)?;
        let unfinished = self.request.reports_dir.join(format!(".{}.unfinished", self.request.id));
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RecoveryError::file("remove", &unfinished)(error));
            }
            _ => {}
        }
        make_private_dir(&unfinished)?;
        // Before the server starts: the checkpoint after its recovery may recycle segments.
        self.copy_log(&unfinished)?;
        let next_xid = self.next_xid(&unfinished).await?;
        let mut learned = Learned::default();
        if !self.tail.commits.is_empty() {
            self.decode(&unfinished, next_xid, &mut learned).await;
        }
        self.prepared_notes().await;
        self.write(&unfinished, next_xid, &learned)?;
        let finished = self.request.reports_dir.join(&self.request.id);
        fs::rename(&unfinished, &finished)
            .map_err(RecoveryError::file("rename a finished report to", &finished))?;
        sync_dir(&self.request.reports_dir)?;
        Ok(Extracted::Report(Box::new(open_report(&self.request.reports_dir, &self.request.id)?)))
    }

    fn note(&mut self, note: String) {
        tracing::warn!(report = self.request.id, note, "extracting lost transactions");
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    fn incomplete(&mut self, note: String) {
        self.complete = false;
        self.note(note);
    }

    fn copy_log(&self, unfinished: &Path) -> Result<(), RecoveryError> {
        let to = unfinished.join(WAL_DIR);
        make_private_dir(&to)?;
        let bytes = self.control.wal_segment_bytes;
        let first = self.request.fork.0 / bytes;
        let last = self.tail.last.unwrap_or(self.request.fork).0 / bytes;
        // The last record may end in the next segment.
        for segment in first.saturating_sub(SEGMENTS_BEFORE)..=last + 1 {
            let name = waldump::segment_name(self.request.timeline, Lsn(segment * bytes), bytes);
            let (from, to) = (self.request.pgdata.join("pg_wal").join(&name), to.join(&name));
            if from.is_file() {
                fs::copy(&from, &to).map_err(RecoveryError::file("copy", &from))?;
                File::open(&to).and_then(|file| file.sync_all()).map_err(RecoveryError::file("sync", &to))?;
            }
        }
        sync_dir(&to)
    }

    async fn next_xid(&self, unfinished: &Path) -> Result<Option<u64>, RecoveryError> {
        if self.request.next_xid_at_fork.is_some() {
            return Ok(self.request.next_xid_at_fork);
        }
        let bytes = self.control.wal_segment_bytes;
        let first = self.request.fork.0 / bytes;
        let log = unfinished.join(WAL_DIR);
        let there = |segment: &u64| {
            log.join(waldump::segment_name(self.request.timeline, Lsn(segment * bytes), bytes)).is_file()
        };
        let Some(from) = (first.saturating_sub(SEGMENTS_BEFORE)..=first).find(there) else { return Ok(None) };
        let log = waldump::Log {
            dir: &log,
            timeline: self.request.timeline,
            from: Lsn((from * bytes).max(1)),
            segment_bytes: bytes,
        };
        waldump::next_xid(&self.request.bin, log, self.request.fork, self.control.next_xid).await
    }

    async fn decode(&mut self, unfinished: &Path, next_xid: Option<u64>, learned: &mut Learned) {
        if let Err(error) = make_private_dir(&unfinished.join(SPOOL_DIR)) {
            return self.incomplete(format!("no rows: {}", chain(&error)));
        }
        let run_dir = run_dir(&self.request.private_dir);
        let isolated = match Isolated::start(&self.request.bin, &self.request.pgdata, &run_dir).await {
            Ok(isolated) => isolated,
            Err(error) => return self.incomplete(format!("no rows: {}", chain(&error))),
        };
        let work = self.decode_all(isolated.config(), unfinished, next_xid, learned);
        match tokio::time::timeout(ROWS_TIMEOUT, Box::pin(work)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.incomplete(format!("rows are missing: {}", chain(&error))),
            Err(_) => {
                self.incomplete(format!("rows are missing: decoding took longer than {ROWS_TIMEOUT:?}"));
            }
        }
        isolated.stop().await;
    }

    async fn decode_all(
        &mut self,
        config: &Config,
        unfinished: &Path,
        next_xid: Option<u64>,
        learned: &mut Learned,
    ) -> Result<(), RecoveryError> {
        let asking = "ask the old primary for its databases";
        let session = Session::open(config, "postgres").await.map_err(RecoveryError::sql(asking))?;
        let sql = format!(
            "SELECT d.oid, d.datname, d.datallowconn, s.confirmed_flush_lsn, s.wal_status FROM pg_database d \
             LEFT JOIN pg_replication_slots s ON s.slot_name = {} || d.oid AND s.datoid = d.oid ORDER BY d.oid",
            literal(SLOT_PREFIX)
        );
        let rows = session.rows(&sql).await.map_err(RecoveryError::sql(asking))?;
        let lost: HashSet<u32> = self.tail.commits.iter().map(|commit| commit.xid).collect();
        for row in &rows {
            let oid = row.get(0).and_then(|oid| oid.parse::<u32>().ok());
            let (Some(oid), Some(name)) = (oid, row.get(1)) else { continue };
            learned.names.insert(oid, name.to_owned());
            if row.get(2) != Some("t") {
                continue;
            }
            let confirmed = row.get(3).and_then(|lsn| lsn.parse::<Lsn>().ok());
            let sound = confirmed.filter(|_| row.get(4) != Some("lost"));
            if let Some(sound) = sound {
                let spool = unfinished.join(SPOOL_DIR).join(oid.to_string());
                match self.decode_database(config, oid, name, &spool, next_xid, &lost).await {
                    Ok(rows) => {
                        learned.sound_from.insert(oid, sound);
                        learned.rows.push(rows);
                    }
                    Err(error) => self.note(format!("database {name}: {}", chain(&error))),
                }
            }
            self.name_relations(config, oid, name, learned).await;
        }
        session.close().await;
        Ok(())
    }

    async fn decode_database(
        &mut self,
        config: &Config,
        oid: u32,
        name: &str,
        spool: &Path,
        next_xid: Option<u64>,
        lost: &HashSet<u32>,
    ) -> Result<Rows, RecoveryError> {
        let opening = "connect to the old primary";
        let old = Session::open(config, name).await.map_err(RecoveryError::sql(opening))?;
        let catalog = Session::open(config, name).await.map_err(RecoveryError::sql(opening))?;
        let source = match next_xid {
            None => None,
            Some(next_xid_at_fork) => match Session::open(&parse_conninfo(&self.request.source)?, name).await
            {
                Ok(session) => Some(Source { session, next_xid_at_fork }),
                Err(error) => {
                    self.note(format!(
                        "database {name}: rows before the changes are not known: {}",
                        chain(&error)
                    ));
                    None
                }
            },
        };
        let file = File::create(spool).map_err(RecoveryError::file("create", spool))?;
        let mut decoder = Decoder {
            old: &old,
            catalog: &catalog,
            source,
            lost,
            spool: BufWriter::new(file),
            state: State::default(),
        };
        decoder.run(&format!("{SLOT_PREFIX}{oid}"), self.request.fork, self.end()).await?;
        decoder.spool.flush().map_err(RecoveryError::file("write", spool))?;
        let Decoder { state, .. } = decoder;
        if let Some(problem) = state.lookup_failed {
            self.note(format!("database {name}: some rows before the changes are not known: {problem}"));
        }
        Ok(Rows {
            database: name.to_owned(),
            spool: spool.to_owned(),
            decoded: state.decoded,
            changes: state.changes,
        })
    }

    /// A position past the last record and before anything that the server writes when it starts alone.
    fn end(&self) -> Lsn {
        Lsn(self.tail.last.unwrap_or(self.request.fork).0 + 1)
    }

    /// Names what the transactions wrote, for the notes on them. A name that cannot be found stays a number.
    async fn name_relations(&self, config: &Config, oid: u32, name: &str, learned: &mut Learned) {
        let files: BTreeSet<RelationFile> = self
            .tail
            .commits
            .iter()
            .flat_map(|commit| &commit.written.relations)
            .filter(|file| file.database == oid)
            .copied()
            .collect();
        if files.is_empty() {
            return;
        }
        let values: Vec<String> =
            files.iter().map(|file| format!("({}, {})", file.tablespace, file.number)).collect();
        let sql = format!(
            "SELECT t, n, c.oid::regclass FROM (VALUES {}) v(t, n) \
             JOIN pg_class c ON c.oid = pg_filenode_relation(t::oid, n::oid)",
            values.join(", ")
        );
        let Ok(session) = Session::open(config, name).await else { return };
        for row in session.rows(&sql).await.unwrap_or_default() {
            let number = |place: usize| row.get(place).and_then(|text| text.parse().ok());
            if let (Some(tablespace), Some(number), Some(relation)) = (number(0), number(1), row.get(2)) {
                learned
                    .relations
                    .insert(RelationFile { tablespace, database: oid, number }, relation.to_owned());
            }
        }
        session.close().await;
    }

    async fn prepared_notes(&mut self) {
        let prepared = std::mem::take(&mut self.tail.prepared);
        for (xid, gid) in prepared {
            self.note(format!(
                "transaction {xid} was prepared as {gid:?} after the failover position and is lost; it had not committed"
            ));
        }
        if !self.tail.commits.iter().any(|commit| commit.two_phase) {
            return;
        }
        let asking = async {
            let session =
                Session::open(&parse_conninfo(&self.request.source).ok()?, "postgres").await.ok()?;
            session.rows("SELECT transaction, gid FROM pg_prepared_xacts").await.ok()
        };
        for row in asking.await.unwrap_or_default() {
            let xid = row.get(0).and_then(|xid| xid.parse::<u32>().ok());
            if self.tail.commits.iter().any(|commit| commit.two_phase && Some(commit.xid) == xid) {
                let gid = row.get(1).unwrap_or_default();
                self.note(format!(
                    "transaction {} is still prepared on the new primary: COMMIT PREPARED {} there does what was lost",
                    xid.unwrap_or_default(),
                    literal(gid)
                ));
            }
        }
    }
}

fn sync_dir(path: &Path) -> Result<(), RecoveryError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(RecoveryError::file("sync", path))
}
