//! A server that was primary, or that has received what no primary has, comes back as a standby.
//!
//! A diverged server that is started as a standby serves rows that are lost, and may even show itself as streaming
//! (`recovery`): so its log is compared with the timelines of the primary first. What only it has is put aside in a
//! report (LOSS-IS-REPORTED), then it is rewound, or cloned anew when that is impossible.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_base::{Lsn, RegionId, Timeline};
use tokio::sync::watch;
use tokio_postgres::Config;

use crate::error::{ServerError, chain};
use crate::promote::connect;
use crate::recovery::{
    ClusterState, Extract, Extracted, Fork, Log, RecoveryError, Rewind, Session, control_data, extract,
    fork_of, parse_conninfo, rewind, segment_name, tail, timeline_of,
};
use crate::server::{Followed, Orders, Phase};
use crate::settings::ServerSpec;
use crate::{SOCKET_PORT, create, postmaster};

/// Pause between two attempts while the primary cannot be asked.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Pause while what only this server has cannot be put aside.
const KEEP_PAUSE: Duration = Duration::from_secs(2);

/// Letters in the name of a segment of the log: timeline and position, no suffix.
const SEGMENT_NAME_LEN: usize = 24;

/// How the timeline began that a standby follows: its number, and the first bytes of its first record. With the data,
/// because a copy of them has the same past.
const LINE_FILE: &str = "pangea.line";

/// The mark of a rewind that has begun and not ended: the directory is neither the one nor the other.
const REWINDING: &str = "rewinding";

/// Makes the data directory of a stopped server that was primary that of a standby. `spec.pgdata` may be gone when
/// this returns: then it is to be cloned.
pub(crate) async fn make_standby(
    spec: &ServerSpec,
    orders: &watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
) -> Result<(), ServerError> {
    if orders.borrow().follows.is_none() {
        // Fenced, and nobody else is primary: nothing that it has is lost.
        return create::mark_standby(&spec.pgdata);
    }
    phase.send_replace(Phase::Rejoining("comparing with the primary".to_owned()));
    let mut told = None;
    loop {
        match rejoin(spec, orders, phase).await {
            Ok(Rejoined::Standby) => return Ok(()),
            Ok(Rejoined::Unusable(why)) => {
                tracing::warn!(server = spec.name, why, "cannot rejoin as it is: cloning it anew");
                return set_aside(spec);
            }
            Err(error) if is_of_primary(&error) => {
                phase.send_replace(Phase::WaitingForPrimary(chain(&error)));
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            // What only this server has is not in a report yet, so it stays (LOSS-IS-REPORTED): a full disk may get
            // room, a program that is missing may come back.
            Err(error) => {
                let text = chain(&error);
                if told.as_ref() != Some(&text) {
                    tracing::error!(
                        server = spec.name,
                        error = text,
                        "what only it has cannot be put aside yet"
                    );
                }
                phase.send_replace(Phase::Rejoining(format!(
                    "cannot put aside what only this server has ({text}); it is kept, and that is tried again. To do \
                     without it, stop the region, move pgdata away and start it"
                )));
                told = Some(text);
                tokio::time::sleep(KEEP_PAUSE).await;
            }
        }
    }
}

/// What became of a data directory.
enum Rejoined {
    Standby,
    /// All that only it had is in a report, and it cannot follow: why.
    Unusable(String),
}

/// Whether the primary could not be asked: later it may.
fn is_of_primary(error: &RecoveryError) -> bool {
    matches!(error, RecoveryError::Sql { .. } | RecoveryError::TimedOut { .. })
}

async fn rejoin(
    spec: &ServerSpec,
    orders: &watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
) -> Result<Rejoined, RecoveryError> {
    let source = spec.primary();
    let timeline = last_timeline(spec).await?;
    let fork = match fork_of(&source, timeline).await {
        Ok(fork) => fork,
        // Two regions were promoted from the same timeline, and both call theirs by the same number. Nobody follows
        // this server's: it is lost from where it began.
        Err(error @ RecoveryError::OtherLine { .. }) => {
            if timeline_of(&source).await? != timeline {
                return Err(error);
            }
            let Some(began) = begin_of(spec, timeline)? else { return Err(error) };
            put_aside(spec, orders, phase, timeline, began, &source).await?;
            return Ok(Rejoined::Unusable(chain(&error)));
        }
        Err(error) => return Err(error),
    };
    match put_aside(spec, orders, phase, timeline, fork.lsn, &source).await? {
        Found::Nothing => {
            create::mark_standby(&spec.pgdata)?;
            return Ok(Rejoined::Standby);
        }
        Found::Diverged => {}
    }
    phase.send_replace(Phase::Rejoining("rewinding".to_owned()));
    match rewind_to(spec, source).await {
        Ok(()) => Ok(Rejoined::Standby),
        Err(error @ RecoveryError::Sql { .. }) => Err(error),
        // It may be half rewound by now.
        Err(error) => Ok(Rejoined::Unusable(chain(&error))),
    }
}

/// What a server has that the primary does not.
enum Found {
    Nothing,
    Diverged,
}

/// Puts aside what the server wrote on `timeline` past `fork`.
async fn put_aside(
    spec: &ServerSpec,
    orders: &watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
    timeline: Timeline,
    fork: Lsn,
    source: &str,
) -> Result<Found, RecoveryError> {
    let followed = orders.borrow().follows.clone();
    let Some(Followed { primary, lost_epoch, .. }) = followed else { return Ok(Found::Nothing) };
    phase.send_replace(Phase::Rejoining("looking for transactions that only it has".to_owned()));
    let Some(reports_dir) = spec.reports_dir.clone() else { return has_more(spec, timeline, fork).await };
    let region: RegionId = spec.region.clone();
    let request = Extract {
        bin: spec.bin.clone(),
        pgdata: spec.pgdata.clone(),
        private_dir: spec.socket_dir.join("alone"),
        reports_dir,
        id: format!("epoch-{}-{region}", lost_epoch.0),
        region,
        lost_epoch,
        new_primary: primary,
        timeline,
        fork,
        // Found in the log: exactly what the new primary knew when it was promoted.
        next_xid_at_fork: None,
        source: source.to_owned(),
    };
    match extract(request).await? {
        Extracted::NotDiverged => return Ok(Found::Nothing),
        Extracted::NothingLost => {}
        Extracted::Report(report) => {
            let header = &report.header;
            tracing::warn!(
                server = spec.name,
                report = header.id,
                transactions = header.transactions,
                complete = header.complete,
                "transactions were lost in the failover: `pangea recover` lists and re-applies them"
            );
        }
    }
    Ok(Found::Diverged)
}

/// Whether its log goes on past `fork`.
async fn has_more(spec: &ServerSpec, timeline: Timeline, fork: Lsn) -> Result<Found, RecoveryError> {
    postmaster::stop_leftover(&spec.pgdata).await?;
    let control = control_data(&spec.bin, &spec.pgdata).await?;
    let dir = &spec.pgdata.join("pg_wal");
    let log = Log { dir, timeline, from: fork, segment_bytes: control.wal_segment_bytes };
    let more = control.timeline <= timeline && tail(&spec.bin, log).await?.last.is_some();
    Ok(if more { Found::Diverged } else { Found::Nothing })
}

async fn rewind_to(spec: &ServerSpec, source: String) -> Result<(), RecoveryError> {
    let mark = mark(&spec.pgdata);
    std::fs::write(&mark, "").map_err(ServerError::file("write", &mark))?;
    rewind(Rewind { bin: spec.bin.clone(), pgdata: spec.pgdata.clone(), source }).await?;
    create::mark_standby(&spec.pgdata)?;
    Ok(std::fs::remove_file(&mark).map_err(ServerError::file("remove", &mark))?)
}

/// Whether there is a primary to copy.
pub(crate) async fn primary_answers(spec: &ServerSpec) -> bool {
    timeline_of(&spec.primary()).await.is_ok()
}

/// Moves a data directory that cannot be used out of the way of a clone, and deletes it.
pub(crate) fn set_aside(spec: &ServerSpec) -> Result<(), ServerError> {
    let aside = spec.pgdata.with_extension("unusable");
    let _ = std::fs::remove_dir_all(&aside);
    std::fs::rename(&spec.pgdata, &aside).map_err(ServerError::file("rename", &spec.pgdata))?;
    let mark = mark(&spec.pgdata);
    let _ = std::fs::remove_file(&mark);
    std::fs::remove_dir_all(&aside).map_err(ServerError::file("remove", &aside))
}

fn mark(pgdata: &Path) -> PathBuf {
    pgdata.with_extension(REWINDING)
}

/// Removes what a rewind that was cut short has left.
pub(crate) fn remove_unfinished(spec: &ServerSpec) -> Result<(), ServerError> {
    if mark(&spec.pgdata).exists() && spec.pgdata.exists() {
        tracing::warn!(server = spec.name, "a rewind was cut short: cloning it anew");
        set_aside(spec)?;
    }
    Ok(())
}

/// The timeline that the server has written or received last. The control file tells that of the last checkpoint,
/// which a server that crashed soon after its promotion has not written, nor a standby by itself. History files tell
/// nothing: a standby has those of timelines that it cannot follow.
pub(crate) async fn last_timeline(spec: &ServerSpec) -> Result<Timeline, RecoveryError> {
    let control = control_data(&spec.bin, &spec.pgdata).await?;
    if control.state == ClusterState::ShutDown {
        return Ok(control.timeline);
    }
    let newest = newest_segment(&spec.pgdata.join("pg_wal"))?;
    Ok(newest.map_or(control.timeline, |newest| control.timeline.max(newest)))
}

/// The newest timeline that a log has segments of.
pub(crate) fn newest_segment(log: &Path) -> Result<Option<Timeline>, ServerError> {
    newest_in_log(log, |name| (name.len() == SEGMENT_NAME_LEN).then(|| name.get(..8)).flatten())
}

/// The newest timeline among the files of the log; `digits` finds it in the name of those that count.
fn newest_in_log(log: &Path, digits: impl Fn(&str) -> Option<&str>) -> Result<Option<Timeline>, ServerError> {
    let entries = std::fs::read_dir(log).map_err(ServerError::file("read", log))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let numbers = names.filter_map(|name| u32::from_str_radix(digits(&name)?, 16).ok());
    Ok(numbers.max().map(Timeline))
}

/// Where a timeline begins, by the server's own history file.
fn begin_of(spec: &ServerSpec, timeline: Timeline) -> Result<Option<Lsn>, ServerError> {
    let path = spec.pgdata.join(format!("pg_wal/{:08X}.history", timeline.0));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().rev().find_map(|line| line.split_whitespace().nth(1)?.parse().ok())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::file("read", &path)(error)),
    }
}

/// What a running standby says of itself: the timeline that it streams, and how far it has come.
const STANDBY_SQL: &str = "SELECT (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver() \
     WHERE status = 'streaming'), greatest(pg_catalog.pg_last_wal_receive_lsn(), \
     pg_catalog.pg_last_wal_replay_lsn())::text";

/// How a running standby's log goes with the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// It is the same.
    Same,
    /// It has what the primary has not: it can never follow.
    Diverged,
    /// It has followed another region's timeline of the same number: nobody's log goes with what it has.
    Mixed,
    /// The primary cannot be asked, or the standby has not come far enough.
    Unknown,
}

/// Compares a running standby with the primary; `known` when it is known to have followed this one before.
///
/// That it streams does not tell: it asks for the rest of the old timeline again and again, and streams what there is
/// of it each time. But then it has the history of a newer one.
pub(crate) async fn line(spec: &ServerSpec, known: bool) -> Line {
    let ask = async {
        let client = connect(&spec.socket_dir).await.ok()?;
        let row = client.query_one(STANDBY_SQL, &[]).await.ok()?;
        let streams = row.get::<_, Option<i32>>(0).and_then(|number| u32::try_from(number).ok());
        let received: Lsn = row.get::<_, Option<&str>>(1)?.parse().ok()?;
        Some((streams.map(Timeline), received))
    };
    let Some((streams, received)) = ask.await else { return Line::Unknown };
    let log = spec.pgdata.join("pg_wal");
    let Ok(newest) = newest_in_log(&log, |name| name.strip_suffix(".history")) else { return Line::Unknown };
    match streams.filter(|_| streams >= newest) {
        Some(_) if known => return Line::Same,
        Some(timeline) => return compare_beginnings(spec, timeline, received).await.unwrap_or(Line::Unknown),
        None => {}
    }
    let Ok(timeline) = last_timeline(spec).await else { return Line::Unknown };
    let source = spec.primary();
    match fork_of(&source, timeline).await {
        Ok(Fork { lsn, .. }) if received > lsn => Line::Diverged,
        // It is on this timeline, or on one that calls itself so and is not as far.
        Err(RecoveryError::OtherLine { .. }) if timeline_of(&source).await.ok() == Some(timeline) => {
            compare_beginnings(spec, timeline, received).await.unwrap_or(Line::Unknown)
        }
        _ => Line::Unknown,
    }
}

/// Two regions that were promoted from the same timeline, each without knowing of the other, call theirs by the same
/// number: a standby of the one streams from the other, and has a mixture of both. But the record with which a timeline
/// begins holds the time of the promotion. How the one began that the standby follows is noted beside its data, because
/// streaming starts at the beginning of a segment and writes over what was there.
async fn compare_beginnings(
    spec: &ServerSpec,
    timeline: Timeline,
    received: Lsn,
) -> Result<Line, RecoveryError> {
    /// Length of that record, and a little.
    const BEGINNING: u64 = 64;
    let Some(began) = begin_of(spec, timeline)? else { return Ok(Line::Same) };
    if received.0 < began.0 + BEGINNING {
        return Ok(Line::Unknown);
    }
    let bytes = control_data(&spec.bin, &spec.pgdata).await?.wal_segment_bytes;
    let (name, offset) = (segment_name(timeline, began, bytes), began.0 % bytes);
    let length = BEGINNING.min(bytes - offset);
    let beginning = async |config: Config| {
        let asking = RecoveryError::sql("ask how its timeline begins");
        // NULL when that segment is no longer there.
        let sql =
            format!("SELECT encode(pg_read_binary_file('pg_wal/{name}', {offset}, {length}, true), 'hex')");
        match Session::open(&config, "postgres").await {
            Ok(session) => session.value(&sql).await.map_err(asking),
            Err(error) => Err(asking(error)),
        }
    };
    let note = spec.pgdata.join(LINE_FILE);
    let noted = std::fs::read_to_string(&note).ok();
    let noted = noted.and_then(|text| text.strip_prefix(&format!("{} ", timeline.0)).map(str::to_owned));
    let known = noted.is_some();
    let own = match noted {
        Some(noted) => Some(noted),
        None => {
            let mut own = Config::new();
            own.host_path(&spec.socket_dir)
                .port(SOCKET_PORT)
                .user("postgres")
                .application_name("pangea-agent");
            beginning(own).await?
        }
    };
    let primary = beginning(parse_conninfo(&spec.primary())?).await?;
    Ok(match (own, primary) {
        (Some(own), Some(primary)) if own != primary => Line::Mixed,
        (Some(own), _) if !known => {
            let text = format!("{} {own}", timeline.0);
            create::write_synced(&note, &text).map_err(RecoveryError::file("write", &note))?;
            Line::Same
        }
        _ => Line::Same,
    })
}
