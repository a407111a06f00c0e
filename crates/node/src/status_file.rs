//! The file beside each server's data from which SQL functions tell what this region knows of all regions.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pangea_base::{Lsn, RegionId};
use serde::Serialize;

use crate::lag::LagTracker;
use crate::status::{RegionStatus, Role};

/// Its name in a data directory; `pangea.status()` reads it.
const FILE: &str = "pangea.status";

/// What is written.
#[derive(Debug, Serialize)]
struct File {
    /// Seconds since 1970.
    at: f64,
    regions: Vec<Row>,
}

/// A region as seen from here. What is not known is `null` (LAG-IS-NEVER-GUESSED).
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    region: RegionId,
    role: Role,
    epoch: Option<u64>,
    reachable: bool,
    /// Flush position of the primary, replay position of a secondary.
    position: Option<Lsn>,
    /// What is safe on its disk.
    received: Option<Lsn>,
    /// For how long something that the primary has written has not been received there.
    durability_lag_s: Option<f64>,
    /// For how long something that the primary has written has not been replayed there.
    replay_lag_s: Option<f64>,
}

/// How far each region is behind the primary, by what has been heard here.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    received: BTreeMap<RegionId, LagTracker>,
    replayed: BTreeMap<RegionId, LagTracker>,
}

impl Lags {
    fn lag(
        trackers: &mut BTreeMap<RegionId, LagTracker>,
        region: &RegionId,
        now: Instant,
        primary: Option<Lsn>,
        position: Option<Lsn>,
    ) -> Option<f64> {
        let tracker = trackers.entry(region.clone()).or_default();
        tracker.hear(now, primary?);
        tracker.lag(now, position?).map(|lag| lag.as_secs_f64())
    }

    fn row(&mut self, now: Instant, primary: Option<Lsn>, row: Row) -> Row {
        if row.role == Role::Primary {
            return Row { durability_lag_s: Some(0.0), replay_lag_s: Some(0.0), ..row };
        }
        Row {
            durability_lag_s: Self::lag(&mut self.received, &row.region, now, primary, row.received),
            replay_lag_s: Self::lag(&mut self.replayed, &row.region, now, primary, row.position),
            ..row
        }
    }

    fn rows(&mut self, now: Instant, status: &RegionStatus) -> Vec<Row> {
        let own = Row {
            region: status.region.clone(),
            role: status.role,
            epoch: Some(status.epoch.0),
            reachable: true,
            position: status.position.map(|position| position.lsn),
            received: match status.role {
                Role::Primary => status.position.map(|position| position.lsn),
                Role::Secondary => status.received,
            },
            durability_lag_s: None,
            replay_lag_s: None,
        };
        let peers = status.peers.iter().map(|peer| {
            let primary = peer.region == status.primary;
            let position = peer.position.map(|position| position.lsn);
            Row {
                region: peer.region.clone(),
                role: if primary { Role::Primary } else { Role::Secondary },
                epoch: peer.epoch.map(|epoch| epoch.0),
                reachable: peer.reachable,
                position,
                received: if primary { position } else { peer.received },
                durability_lag_s: None,
                replay_lag_s: None,
            }
        });
        let mut rows: Vec<Row> = std::iter::once(own).chain(peers).collect();
        rows.sort_by(|a, b| (a.role != Role::Primary, &a.region).cmp(&(b.role != Role::Primary, &b.region)));
        let primary = rows.iter().find(|row| row.role == Role::Primary).and_then(|row| row.position);
        rows.into_iter().map(|row| self.row(now, primary, row)).collect()
    }

    /// Writes the file into the data directories.
    pub(crate) fn write(&mut self, status: &RegionStatus, data_dirs: &[PathBuf]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let file = File { at, regions: self.rows(Instant::now(), status) };
        let text = match serde_json::to_vec(&file) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "the status cannot be written as JSON"),
        };
        for dir in data_dirs {
            if let Err(error) = replace(dir, &text) {
                // A full disk, most likely: the functions then say that they do not know.
                tracing::debug!(%error, dir = %dir.display(), "the status file cannot be written");
            }
        }
    }
}

/// Readers see the old file or the new one.
fn replace(dir: &Path, text: &[u8]) -> std::io::Result<()> {
    let fresh = dir.join("pangea.status.new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text)?;
    std::fs::rename(fresh, dir.join(FILE))
}
