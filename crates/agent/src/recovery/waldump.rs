//! What a stopped server's log says: the transactions that committed past a position, and what they wrote.
//!
//! It needs nothing but the log: no slot, no start. So this is the account that the decoded rows are checked
//! against. It holds at most a few hundred bytes for each transaction past the fork.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pangea_base::{Lsn, Timeline};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::error::RecoveryError;
use crate::bin::PgBin;
use crate::error::ServerError;

/// Relations that are kept of one transaction; a schema change touches a dozen.
const RELATIONS_MAX: usize = 16;
/// Far more than a log that `max_slot_wal_keep_size` bounds takes to read.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What is kept of its standard error.
const STDERR_MAX: u64 = 16 * 1024;

/// A relation's file: tablespace, database and file number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RelationFile {
    pub(crate) tablespace: u32,
    pub(crate) database: u32,
    pub(crate) number: u32,
}

/// What a transaction wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Names of resource managers.
    pub(crate) managers: BTreeSet<String>,
    /// At most [`RELATIONS_MAX`].
    pub(crate) relations: BTreeSet<RelationFile>,
}

/// A commit past the fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) xid: u32,
    /// Where its commit record begins.
    pub(crate) lsn: Lsn,
    /// By the server's clock: RFC 3339, in UTC.
    pub(crate) time: String,
    pub(crate) written: Written,
    /// Whether it changed the catalogue.
    pub(crate) catalog: bool,
    /// Whether it had been prepared for a two-phase commit.
    pub(crate) two_phase: bool,
}

/// The log past a position.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// In the order of the log.
    pub(crate) commits: Vec<Commit>,
    /// Where the last record begins; `None` when there is none.
    pub(crate) last: Option<Lsn>,
    /// Names of transactions that were prepared past the position and neither committed nor rolled back.
    pub(crate) prepared: Vec<(u32, String)>,
}

/// A server's log from a position on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log<'a> {
    /// The directory of its segments.
    pub(crate) dir: &'a Path,
    pub(crate) timeline: Timeline,
    pub(crate) from: Lsn,
    pub(crate) segment_bytes: u64,
}

impl Log<'_> {
    /// Number of the last segment that was written to, in one piece from the start; `None` when not even the first was.
    /// Segments are made ahead, and old ones are used again: only what their first page says of itself counts.
    pub(crate) fn last_segment(&self) -> Option<u64> {
        let first = self.from.0 / self.segment_bytes;
        (first..).take_while(|segment| self.is_written(*segment)).last()
    }

    /// Path of a segment.
    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(self.timeline, Lsn(number * self.segment_bytes), self.segment_bytes))
    }

    fn is_written(&self, segment: u64) -> bool {
        // XLogPageHeaderData: magic, flags, timeline, and from byte 8 on the page's own position.
        let mut header = [0; 16];
        let read = File::open(self.segment(segment)).and_then(|mut file| file.read_exact(&mut header));
        let position = header.last_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        read.is_ok()
            && header.first_chunk() != Some(&[0, 0])
            && position == Some(segment * self.segment_bytes)
    }
}

/// Reads a log to its end. `Ok` with `last: None` when there is nothing.
pub(crate) async fn tail(bin: &PgBin, log: Log<'_>) -> Result<Tail, RecoveryError> {
    let mut collector = Collector::default();
    let Some(last) = log.last_segment() else { return Ok(collector.finish()) };
    let mut command = dump(bin, log, Lsn((last + 1) * log.segment_bytes));
    let (success, said) = run(&mut command, |line| collector.take(line)).await?;
    let tail = collector.finish();
    // The end of a crashed server's log is an error to pg_waldump. So is a start behind the end.
    let end = [
        "could not find a valid record after",
        "error in WAL record",
        "could not find file",
        "could not open file",
    ];
    if !success && !end.iter().any(|words| said.contains(words)) {
        return Err(ServerError::program("pg_waldump", log.dir, "failed".to_owned(), &said).into());
    }
    Ok(tail)
}

/// The next transaction id at `to`, as a standby knows it that has replayed up to there: past every id that the
/// log up to there mentions. `None` when the log does not tell.
pub(crate) async fn next_xid(
    bin: &PgBin,
    log: Log<'_>,
    to: Lsn,
    near: u64,
) -> Result<Option<u64>, RecoveryError> {
    let (mut anchored, mut next) = (false, None::<u64>);
    let mut command = dump(bin, log, to);
    let take = |line: &str| {
        let Some(record) = Record::parse(line) else { return };
        if record.lsn >= to {
            return;
        }
        let mut past = |xid: u32| {
            let xid = full_xid(xid, near);
            next = Some(next.map_or(xid, |known| known.max(xid)));
        };
        if record.xid != 0 {
            past(record.xid.wrapping_add(1));
        }
        if let Some(xid) = record.next_xid() {
            anchored = true;
            past(xid);
        }
    };
    run(&mut command, take).await?;
    Ok(next.filter(|_| anchored))
}

/// A transaction id in 64 bits: the one of these 32 bits that is nearest to `near`.
pub(crate) fn full_xid(xid: u32, near: u64) -> u64 {
    let candidate = near & !0xFFFF_FFFF | u64::from(xid);
    let half = 1_u64 << 31;
    if candidate > near + half {
        candidate.checked_sub(1 << 32).unwrap_or(candidate)
    } else if candidate + half < near {
        candidate + (1 << 32)
    } else {
        candidate
    }
}

/// Name of the segment that holds a position.
pub(crate) fn segment_name(timeline: Timeline, lsn: Lsn, segment_bytes: u64) -> String {
    let segment = lsn.0 / segment_bytes;
    let per_id = (1 << 32) / segment_bytes;
    format!("{:08X}{:08X}{:08X}", timeline.0, segment / per_id, segment % per_id)
}

fn dump(bin: &PgBin, log: Log<'_>, to: Lsn) -> Command {
    let mut command = Command::new(bin.program("pg_waldump"));
    command.arg("-p").arg(log.dir).arg("-s").arg(log.from.to_string()).arg("-e").arg(to.to_string());
    // Named, because otherwise it looks for the size of segments in any of them, and some may not be written yet.
    command.arg(segment_name(log.timeline, log.from, log.segment_bytes));
    command.arg(segment_name(log.timeline, Lsn(to.0.saturating_sub(1)), log.segment_bytes));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs it; gives whether it succeeded and the beginning of what it said.
async fn run(command: &mut Command, mut take: impl FnMut(&str)) -> Result<(bool, String), RecoveryError> {
    let spawned = command.spawn();
    let mut child = spawned
        .map_err(|source| ServerError::Spawn { program: command.as_std().get_program().into(), source })?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(RecoveryError::Unexpected { who: "pg_waldump", what: "no output".to_owned() });
    };
    let read_lines = async {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).await? > 0 {
            take(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        Ok::<(), std::io::Error>(())
    };
    let read_errors = async {
        let mut said = Vec::new();
        let mut stderr = stderr.take(STDERR_MAX);
        stderr.read_to_end(&mut said).await?;
        tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
        Ok(said)
    };
    let all = async { tokio::try_join!(read_lines, read_errors) };
    let io = RecoveryError::file("read the output of", Path::new("pg_waldump"));
    let ((), said) = tokio::time::timeout(TIMEOUT, all)
        .await
        .map_err(|_| RecoveryError::TimedOut { action: "reading the log", limit: TIMEOUT })?
        .map_err(io)?;
    let status = child.wait().await.map_err(RecoveryError::file("wait for", Path::new("pg_waldump")))?;
    Ok((status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// One line of `pg_waldump`.
struct Record<'a> {
    manager: &'a str,
    xid: u32,
    lsn: Lsn,
    description: &'a str,
}

impl<'a> Record<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (manager, rest) = line.strip_prefix("rmgr: ")?.split_once(" len (rec/tot):")?;
        let (xid, rest) = rest.split_once("tx:")?.1.split_once(',')?;
        let (lsn, rest) = rest.split_once("lsn: ")?.1.split_once(',')?;
        let description = rest.split_once("desc: ")?.1;
        Some(Self {
            manager: manager.trim(),
            xid: xid.trim().parse().ok()?,
            lsn: lsn.parse().ok()?,
            description,
        })
    }

    fn relations(&self) -> impl Iterator<Item = RelationFile> {
        self.description.split("rel ").skip(1).filter_map(|rest| {
            let mut parts = rest.split([' ', ',']).next()?.split('/').map(str::parse);
            Some(RelationFile {
                tablespace: parts.next()?.ok()?,
                database: parts.next()?.ok()?,
                number: parts.next()?.ok()?,
            })
        })
    }

    /// The next transaction id, where a record tells it.
    fn next_xid(&self) -> Option<u32> {
        let after = |mark: &str| {
            let rest = self.description.split_once(mark)?.1;
            rest.split([' ', ';', ':']).next()?.parse().ok()
        };
        match self.manager {
            "Standby" => after("nextXid "),
            "XLOG" if self.description.starts_with("CHECKPOINT") => {
                self.description.split_once("; xid ")?.1.split_once(':')?.1.split(';').next()?.parse().ok()
            }
            _ => None,
        }
    }
}

#[derive(Default)]
struct Collector {
    running: HashMap<u32, Written>,
    prepared: HashMap<u32, String>,
    tail: Tail,
}

impl Collector {
    fn take(&mut self, line: &str) {
        let Some(record) = Record::parse(line) else { return };
        self.tail.last = Some(record.lsn);
        if record.manager != "Transaction" {
            if record.xid != 0 {
                let written = self.running.entry(record.xid).or_default();
                if !written.managers.contains(record.manager) {
                    written.managers.insert(record.manager.to_owned());
                }
                for relation in record.relations() {
                    if written.relations.len() < RELATIONS_MAX {
                        written.relations.insert(relation);
                    }
                }
            }
            return;
        }
        let (what, rest) = record.description.split_once(' ').unwrap_or((record.description, ""));
        match what {
            "COMMIT" => self.commit(&record, record.xid, rest, false),
            "COMMIT_PREPARED" => {
                if let Some((xid, rest)) = numbered(rest) {
                    self.prepared.remove(&xid);
                    self.commit(&record, xid, rest, true);
                }
            }
            "ABORT" => self.forget(record.xid, rest),
            "ABORT_PREPARED" => {
                if let Some((xid, rest)) = numbered(rest) {
                    self.prepared.remove(&xid);
                    self.forget(xid, rest);
                }
            }
            "PREPARE" => {
                let gid = rest.strip_prefix("gid ").unwrap_or(rest);
                let gid = gid.rsplit_once(": ").map_or(gid, |(gid, _)| gid);
                self.prepared.insert(record.xid, gid.to_owned());
            }
            _ => {}
        }
    }

    fn commit(&mut self, record: &Record<'_>, xid: u32, rest: &str, two_phase: bool) {
        let mut written = self.running.remove(&xid).unwrap_or_default();
        for child in subtransactions(rest) {
            let part = self.running.remove(&child).unwrap_or_default();
            written.managers.extend(part.managers);
            written.relations.extend(part.relations);
        }
        let time = rest.split(';').next().unwrap_or(rest).trim();
        self.tail.commits.push(Commit {
            xid,
            lsn: record.lsn,
            time: time.strip_suffix(" UTC").unwrap_or(time).replacen(' ', "T", 1) + "Z",
            written,
            catalog: rest.contains("inval msgs:"),
            two_phase,
        });
    }

    fn forget(&mut self, xid: u32, rest: &str) {
        self.running.remove(&xid);
        for child in subtransactions(rest) {
            self.running.remove(&child);
        }
    }

    fn finish(mut self) -> Tail {
        self.tail.prepared = self.prepared.into_iter().collect();
        self.tail.prepared.sort();
        self.tail
    }
}

/// `740: rest`.
fn numbered(text: &str) -> Option<(u32, &str)> {
    let (xid, rest) = text.split_once(':')?;
    Some((xid.parse().ok()?, rest.trim_start()))
}

fn subtransactions(rest: &str) -> impl Iterator<Item = u32> {
    let list = rest.split("subxacts: ").nth(1).unwrap_or_default();
    list.split(';').next().unwrap_or_default().split_ascii_whitespace().filter_map(|xid| xid.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(lines: &[&str]) -> Tail {
        let mut collector = Collector::default();
        for line in lines {
            collector.take(line);
        }
        collector.finish()
    }

    #[test]
    fn commits_with_what_they_wrote() {
        let tail = collect(&[
            "first record is after 0/1BAF700, at 0/1BAF720, skipping over 32 bytes",
            "rmgr: Heap        len (rec/tot):     54/   178, tx:        735, lsn: 0/01BAF720, prev 0/01BAF6E0, desc: INSERT off 2 flags 0x00, blkref #0: rel 1663/5/16384 blk 0 FPW",
            "rmgr: Sequence    len (rec/tot):     99/    99, tx:        736, lsn: 0/01BAF800, prev 0/01BAF720, desc: LOG rel 1663/5/16390, blkref #0: rel 1663/5/16390 blk 0",
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/01BAF878, prev 0/01BAF800, desc: COMMIT 2026-11-21 18:37:07.334897 UTC; subxacts: 736 737; inval msgs: catcache 55",
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        739, lsn: 0/01BAF8A8, prev 0/01BAF878, desc: ABORT 2026-11-21 18:37:07.334897 UTC",
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        740, lsn: 0/01BAF8B8, prev 0/01BAF878, desc: PREPARE gid a: b: 2026-11-21 18:37:07.334897 UTC",
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        741, lsn: 0/01BAF8C8, prev 0/01BAF878, desc: PREPARE gid c: 2026-11-21 18:37:07.334897 UTC",
            "rmgr: Transaction len (rec/tot):     53/    53, tx:          0, lsn: 0/01C019F8, prev 0/01C019B8, desc: COMMIT_PREPARED 741: 2026-11-21 18:47:13.462505 UTC",
        ]);
        assert_eq!(tail.last, Some(Lsn(0x1C0_19F8)));
        let [first, second] = &tail.commits[..] else { panic!("{tail:?}") };
        assert_eq!((first.xid, first.lsn, first.catalog), (735, Lsn(0x1BA_F878), true));
        assert_eq!(first.time, "2026-11-21T18:37:07.334897Z");
        assert_eq!(first.written.managers.iter().collect::<Vec<_>>(), ["Heap", "Sequence"]);
        assert_eq!(
            first.written.relations.iter().map(|file| file.number).collect::<Vec<_>>(),
            [16384, 16390]
        );
        assert_eq!((second.xid, second.two_phase, second.catalog), (741, true, false));
        assert_eq!(tail.prepared, [(740, "a: b".to_owned())]);
    }

    #[test]
    fn next_ids() {
        let next = |line| Record::parse(line).unwrap().next_xid();
        let standby = "rmgr: Standby     len (rec/tot):     50/    50, tx:          0, lsn: 0/01C0D950, prev 0/01C0D7E0, desc: RUNNING_XACTS nextXid 747 latestCompletedXid 746 oldestRunningXid 747";
        let checkpoint = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/01C0D988, prev 0/01C0D950, desc: CHECKPOINT_ONLINE redo 0/1C0D950; tli 1; prev tli 1; fpw true; xid 1:747; oid 24576";
        assert_eq!((next(standby), next(checkpoint)), (Some(747), Some(747)));
    }

    #[test]
    fn ids_in_64_bits() {
        let epoch = 1_u64 << 32;
        assert_eq!(full_xid(700, 747), 700);
        assert_eq!(full_xid(5, epoch - 5), epoch + 5);
        assert_eq!(full_xid(u32::MAX, epoch + 5), epoch - 1);
        assert_eq!(full_xid(u32::MAX, 5), u64::from(u32::MAX), "never below zero");
    }

    #[test]
    fn segments() {
        assert_eq!(segment_name(Timeline(2), Lsn(0x1_0312_3456), 1 << 24), "000000020000000100000003");
        assert_eq!(segment_name(Timeline(2), Lsn(0x1_0312_3456), 1 << 20), "000000020000000100000031");
    }
}
