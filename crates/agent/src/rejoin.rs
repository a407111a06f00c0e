//! A server that was primary, or that has received what no primary has, comes back as a standby.
//!
//! A diverged server that is started as a standby serves rows that are lost, and may even show itself as streaming
//! (`recovery`): so its log is compared with the timelines of the primary first. What only it has is put aside in a
//! report (LOSS-IS-REPORTED), then it is rewound, or cloned anew when that is impossible.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_base::{Lsn, RegionId, Timeline};
use tokio::sync::watch;

use crate::create;
use crate::error::{ServerError, chain};
use crate::promote::connect;
use crate::recovery::{
    ClusterState, Extract, Extracted, Fork, RecoveryError, Rewind, control_data, extract, fork_of, rewind,
    timeline_of,
};
use crate::server::{Followed, Orders, Phase};
use crate::settings::{ServerSpec, conninfo};

/// Pause between two attempts while the primary cannot be asked.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Letters in the name of a segment of the log: timeline and position, no suffix.
const SEGMENT_NAME_LEN: usize = 24;

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
    loop {
        match rejoin(spec, orders, phase).await {
            Ok(()) => return Ok(()),
            Err(RecoveryError::Server(error)) => return Err(error),
            Err(error) if is_of_primary(&error) => {
                phase.send_replace(Phase::WaitingForPrimary(chain(&error)));
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(
                    server = spec.name,
                    error = chain(&error),
                    "cannot rejoin as it is: cloning it anew"
                );
                return set_aside(spec);
            }
        }
    }
}

/// Whether the primary could not be asked: later it may.
fn is_of_primary(error: &RecoveryError) -> bool {
    matches!(error, RecoveryError::Sql { .. } | RecoveryError::TimedOut { .. })
}

async fn rejoin(
    spec: &ServerSpec,
    orders: &watch::Receiver<Orders>,
    phase: &watch::Sender<Phase>,
) -> Result<(), RecoveryError> {
    let source = conninfo(&spec.uplink_dir, &spec.name);
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
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    match put_aside(spec, orders, phase, timeline, fork.lsn, &source).await? {
        Found::Nothing => return Ok(create::mark_standby(&spec.pgdata)?),
        Found::Diverged => {}
    }
    phase.send_replace(Phase::Rejoining("rewinding".to_owned()));
    rewind_to(spec, source).await
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
    let region: RegionId = spec.region.clone();
    let request = Extract {
        bin: spec.bin.clone(),
        pgdata: spec.pgdata.clone(),
        private_dir: spec.socket_dir.join("alone"),
        reports_dir: spec.reports_dir.clone(),
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

async fn rewind_to(spec: &ServerSpec, source: String) -> Result<(), RecoveryError> {
    let mark = mark(&spec.pgdata);
    std::fs::write(&mark, "").map_err(ServerError::file("write", &mark))?;
    rewind(Rewind { bin: spec.bin.clone(), pgdata: spec.pgdata.clone(), source }).await?;
    create::mark_standby(&spec.pgdata)?;
    Ok(std::fs::remove_file(&mark).map_err(ServerError::file("remove", &mark))?)
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
async fn last_timeline(spec: &ServerSpec) -> Result<Timeline, RecoveryError> {
    let control = control_data(&spec.bin, &spec.pgdata).await?;
    if control.state == ClusterState::ShutDown {
        return Ok(control.timeline);
    }
    let newest =
        newest_in_log(spec, |name| (name.len() == SEGMENT_NAME_LEN).then(|| name.get(..8)).flatten())?;
    Ok(newest.map_or(control.timeline, |newest| control.timeline.max(newest)))
}

/// The newest timeline among the files of the log; `digits` finds it in the name of those that count.
fn newest_in_log(
    spec: &ServerSpec,
    digits: impl Fn(&str) -> Option<&str>,
) -> Result<Option<Timeline>, ServerError> {
    let log = spec.pgdata.join("pg_wal");
    let entries = std::fs::read_dir(&log).map_err(ServerError::file("read", &log))?;
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

/// Whether a running standby has received what the primary's log has not: it can never follow. When the primary cannot
/// be asked, that is not known, and it goes on.
///
/// That it streams does not tell: it asks for the rest of the old timeline again and again, and streams what there is
/// of it each time. But then it has the history of a newer one.
pub(crate) async fn is_diverged(spec: &ServerSpec) -> bool {
    let ask = async {
        let client = connect(&spec.socket_dir).await.ok()?;
        let row = client.query_one(STANDBY_SQL, &[]).await.ok()?;
        let streams = row.get::<_, Option<i32>>(0).and_then(|number| u32::try_from(number).ok());
        let received: Lsn = row.get::<_, Option<&str>>(1)?.parse().ok()?;
        Some((streams.map(Timeline), received))
    };
    let Some((streams, received)) = ask.await else { return false };
    let Ok(newest) = newest_in_log(spec, |name| name.strip_suffix(".history")) else { return false };
    if streams.is_some() && streams >= newest {
        return false;
    }
    let Ok(timeline) = last_timeline(spec).await else { return false };
    let source = conninfo(&spec.uplink_dir, &spec.name);
    matches!(fork_of(&source, timeline).await, Ok(Fork { lsn, .. }) if received > lsn)
}
