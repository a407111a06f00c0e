//! Makes the old primary a copy of the new one again, without copying all of it.
//!
//! `pg_rewind` is told nothing about when it must not be trusted, so that is done here: on PostgreSQL 14 and 15 it
//! says "no rewind required" and leaves the server diverged unless the new primary has done a checkpoint on its new
//! timeline, and it fails on a directory that would start as a standby and has crashed.
//!
//! What it replaces, and the caller writes again before the server starts: `postgresql.conf`, `pangea.conf`,
//! `pg_hba.conf` (those of the new primary now) and `standby.signal` (there is none now). It empties `pg_replslot`.
//! It removes the divergent log: [`super::extract()`] first.
//!
//! That a rewound server follows the new primary is proved only by `pg_stat_wal_receiver.received_tli` and a replay
//! position past the promotion; "streaming" alone is also what a diverged one shows now and then.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use pangea_base::{Lsn, Timeline};
use pangea_consistency::History;
use tokio::process::Command;

use super::control::control_data;
use super::error::RecoveryError;
use super::session::{Session, parse_conninfo};
use crate::bin::PgBin;
use crate::error::ServerError;
use crate::postmaster::stop_leftover;

/// The new primary writes its dirty pages.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// When it takes longer, a clone is the better way.
const REWIND_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// What to rewind.
#[derive(Debug, Clone)]
pub struct Rewind {
    /// Programs of the servers' version.
    pub bin: PgBin,
    /// Data directory of the old primary. A server left running on it is stopped.
    pub pgdata: PathBuf,
    /// Connection string of the new primary, without a database.
    pub source: String,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewound {
    /// It was rewound.
    Rewound,
    /// It had not diverged: nothing was changed.
    NotNeeded,
}

/// Where a line of timelines was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The position at which the timeline that was asked for was left.
    pub lsn: Lsn,
    /// The timeline that the server is on.
    pub current: Timeline,
}

/// Where the server that `source` names, a primary, left `timeline`.
///
/// # Errors
/// When it cannot be asked, or its log never was on that timeline ([`RecoveryError::OtherLine`]), or still is.
pub async fn fork_of(source: &str, timeline: Timeline) -> Result<Fork, RecoveryError> {
    let asking = "ask the new primary for its timelines";
    let session =
        Session::open(&parse_conninfo(source)?, "postgres").await.map_err(RecoveryError::sql(asking))?;
    let current = current_timeline(&session).await?;
    let file = format!("SELECT pg_read_file('pg_wal/{:08X}.history', 0, 1000000, true)", current.0);
    let text = session.value(&file).await.map_err(RecoveryError::sql(asking))?.unwrap_or_default();
    let history = History::parse(current, &text)
        .map_err(|error| RecoveryError::Unexpected { who: "the new primary", what: error.to_string() })?;
    let lsn = history.left_at(timeline).ok_or(RecoveryError::OtherLine { timeline })?;
    Ok(Fork { lsn, current })
}

/// The timeline that the server that `source` names, a primary, is on.
///
/// # Errors
/// When it cannot be asked.
pub async fn timeline_of(source: &str) -> Result<Timeline, RecoveryError> {
    let asking = "ask the new primary for its timeline";
    let session = Session::open(&parse_conninfo(source)?, "postgres").await;
    current_timeline(&session.map_err(RecoveryError::sql(asking))?).await
}

async fn current_timeline(session: &Session) -> Result<Timeline, RecoveryError> {
    let asking = "ask the new primary for its timeline";
    let name = session.value("SELECT pg_walfile_name(pg_current_wal_flush_lsn())").await;
    let name = name.map_err(RecoveryError::sql(asking))?.unwrap_or_default();
    let number = name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.map(Timeline).ok_or_else(|| RecoveryError::Unexpected {
        who: "the new primary",
        what: format!("its log is in a file {name:?}"),
    })
}

/// Rewinds the old primary to where it can follow the new one.
///
/// # Errors
/// Why it cannot be rewound, in `pg_rewind`'s words; it must be cloned anew then, and may be damaged.
pub async fn rewind(request: Rewind) -> Result<Rewound, RecoveryError> {
    let Rewind { bin, pgdata, source } = request;
    stop_leftover(&pgdata).await?;
    let target = control_data(&bin, &pgdata).await?;
    checkpoint(&source, target.system_identifier).await?;
    for name in ["standby.signal", "recovery.signal"] {
        // With one, the crash recovery that pg_rewind runs in single-user mode refuses to start.
        match std::fs::remove_file(pgdata.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RecoveryError::file("remove", &pgdata.join(name))(error));
            }
            _ => {}
        }
    }
    let program = bin.program("pg_rewind");
    let mut command = Command::new(&program);
    command.arg("-D").arg(&pgdata).arg(format!("--source-server={source} dbname=postgres"));
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C").process_group(0);
    let output = tokio::time::timeout(REWIND_TIMEOUT, command.output())
        .await
        .map_err(|_| RecoveryError::TimedOut { action: "rewinding the old primary", limit: REWIND_TIMEOUT })?
        .map_err(|source| ServerError::Spawn { program, source })?;
    // It speaks on both.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !output.status.success() {
        return Err(ServerError::program("pg_rewind", &pgdata, output.status.to_string(), &said).into());
    }
    Ok(if said.contains("no rewind required") { Rewound::NotNeeded } else { Rewound::Rewound })
}

/// Makes the new primary's control file tell its timeline, which is what `pg_rewind` goes by.
async fn checkpoint(source: &str, system_identifier: u64) -> Result<(), RecoveryError> {
    let asking = "make a checkpoint on the new primary";
    let session =
        Session::open(&parse_conninfo(source)?, "postgres").await.map_err(RecoveryError::sql(asking))?;
    let identifier = session.value("SELECT system_identifier FROM pg_control_system()").await;
    let identifier = identifier.map_err(RecoveryError::sql(asking))?.unwrap_or_default();
    if identifier != system_identifier.to_string() {
        return Err(RecoveryError::Unexpected {
            who: "the new primary",
            what: format!("it is cluster {identifier}, and the old primary is cluster {system_identifier}"),
        });
    }
    tokio::time::timeout(CHECKPOINT_TIMEOUT, session.client.batch_execute("CHECKPOINT"))
        .await
        .map_err(|_| RecoveryError::TimedOut { action: asking, limit: CHECKPOINT_TIMEOUT })?
        .map_err(RecoveryError::sql(asking))?;
    let current = current_timeline(&session).await?;
    let recorded = session.value("SELECT timeline_id FROM pg_control_checkpoint()").await;
    let recorded = recorded.map_err(RecoveryError::sql(asking))?.unwrap_or_default();
    if recorded == current.0.to_string() {
        return Ok(());
    }
    Err(RecoveryError::Unexpected {
        who: "the new primary",
        what: format!("it is on timeline {} and its checkpoint on timeline {recorded}", current.0),
    })
}
