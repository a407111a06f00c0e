//! What `pg_controldata` tells of a server that does not run, or shuts down.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pangea_base::{Lsn, Timeline};
use serde::Serialize;
use tokio::process::Command;

use super::error::RecoveryError;
use crate::bin::PgBin;
use crate::error::ServerError;

/// It reads one small file.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a server was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// A primary that was stopped cleanly.
    ShutDown,
    /// A standby that was stopped cleanly.
    ShutDownInRecovery,
    /// A primary that runs, or that crashed.
    InProduction,
    /// A standby that runs, or that crashed.
    InArchiveRecovery,
    /// Anything else: starting up, shutting down, recovering from a crash.
    Other,
}

/// The control file of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlData {
    /// The number that all servers of one cluster share.
    pub system_identifier: u64,
    /// How it was left.
    pub state: ClusterState,
    /// Where the record of the latest checkpoint begins.
    pub checkpoint: Lsn,
    /// From where that checkpoint is replayed.
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// The next transaction id at the latest checkpoint, in 64 bits.
    pub next_xid: u64,
    /// Up to where a standby must replay before it is consistent.
    pub min_recovery_end: Lsn,
    /// Bytes of a segment of the log.
    pub wal_segment_bytes: u64,
}

/// Reads the control file of `pgdata`.
///
/// # Errors
/// When `pg_controldata` fails or says something else.
pub async fn control_data(bin: &PgBin, pgdata: &Path) -> Result<ControlData, RecoveryError> {
    let program = bin.program("pg_controldata");
    let mut command = Command::new(&program);
    command.arg("-D").arg(pgdata).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .map_err(|_| RecoveryError::TimedOut { action: "reading the control file", limit: TIMEOUT })?
        .map_err(|source| ServerError::Spawn { program, source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(ServerError::program("pg_controldata", pgdata, output.status.to_string(), &said).into());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(warning) = said.lines().find(|line| line.contains("WARNING")) {
        // Its checksum is wrong: it was read while it was written.
        return Err(RecoveryError::Unexpected { who: "pg_controldata", what: warning.to_owned() });
    }
    parse(&said)
}

/// Returns when the control file seems to say that the primary on `pgdata` has written its last checkpoint, and
/// nothing after it; [`control_data`] tells for certain. To ask that over and over would cost a process each time.
pub(crate) async fn has_last_checkpoint(pgdata: &Path) {
    const POLL: Duration = Duration::from_millis(2);
    /// `ControlFileData.state`, the same in all versions that are supported (PostgreSQL's `catalog/pg_control.h`).
    const STATE: std::ops::Range<usize> = 16..20;
    const SHUT_DOWN: i32 = 1;
    let path = pgdata.join("global/pg_control");
    loop {
        let state = std::fs::read(&path).ok();
        let state = state.as_deref().and_then(|data| data.get(STATE)?.try_into().ok());
        if state.map(i32::from_ne_bytes) == Some(SHUT_DOWN) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn parse(text: &str) -> Result<ControlData, RecoveryError> {
    let field = |name: &'static str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        value.ok_or_else(|| RecoveryError::Unexpected {
            who: "pg_controldata",
            what: format!("there is no {name:?}"),
        })
    };
    let wrong = |name: &'static str| RecoveryError::Unexpected {
        who: "pg_controldata",
        what: format!("{name:?} is {:?}", field(name).unwrap_or_default()),
    };
    let lsn = |name: &'static str| field(name)?.parse::<Lsn>().map_err(|_| wrong(name));
    let number = |name: &'static str| field(name)?.parse::<u64>().map_err(|_| wrong(name));
    let timeline_name = "Latest checkpoint's TimeLineID";
    let xid_name = "Latest checkpoint's NextXID";
    let (epoch, xid) = field(xid_name)?.split_once(':').ok_or_else(|| wrong(xid_name))?;
    let half = |digits: &str| digits.parse::<u32>().map(u64::from).map_err(|_| wrong(xid_name));
    Ok(ControlData {
        system_identifier: number("Database system identifier")?,
        state: match field("Database cluster state")? {
            "shut down" => ClusterState::ShutDown,
            "shut down in recovery" => ClusterState::ShutDownInRecovery,
            "in production" => ClusterState::InProduction,
            "in archive recovery" => ClusterState::InArchiveRecovery,
            _ => ClusterState::Other,
        },
        checkpoint: lsn("Latest checkpoint location")?,
        redo: lsn("Latest checkpoint's REDO location")?,
        timeline: Timeline(u32::try_from(number(timeline_name)?).map_err(|_| wrong(timeline_name))?),
        next_xid: half(epoch)? << 32 | half(xid)?,
        min_recovery_end: lsn("Minimum recovery ending location")?,
        wal_segment_bytes: Some(number("Bytes per WAL segment")?)
            .filter(|bytes| bytes.is_power_of_two())
            .ok_or_else(|| wrong("Bytes per WAL segment"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Database system identifier:           7710695626514134189\n\
         Database cluster state:               in production\n\
         Latest checkpoint location:           0/1C0D988\n\
         Latest checkpoint's REDO location:    0/1C0D950\n\
         Latest checkpoint's TimeLineID:       3\n\
         Latest checkpoint's NextXID:          1:747\n\
         Minimum recovery ending location:     0/0\n\
         Bytes per WAL segment:                16777216\n";

    #[test]
    fn control_file() {
        let data = parse(TEXT).unwrap();
        assert_eq!(data.state, ClusterState::InProduction);
        assert_eq!((data.checkpoint, data.redo), (Lsn(0x1C0_D988), Lsn(0x1C0_D950)));
        assert_eq!((data.timeline, data.next_xid), (Timeline(3), (1 << 32) + 747));
        assert_eq!((data.system_identifier, data.wal_segment_bytes), (7_710_695_626_514_134_189, 1 << 24));
        assert_eq!(data.min_recovery_end, Lsn(0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = parse(&TEXT.replace("NextXID", "NextOID")).unwrap_err().to_string();
        assert!(error.contains("NextXID"), "{error}");
        assert!(parse(&TEXT.replace("16777216", "3")).is_err());
    }
}
