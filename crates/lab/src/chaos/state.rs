//! What the cluster is like: as its regions tell, as its servers hold, as its reports say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pangea_agent::recovery::{ChangeKind, list_reports};
use pangea_base::{Epoch, RegionId};
use pangea_control::{Cause, Durability, Server, Topology, TopologyChange};
use pangea_node::Health;
use tokio::time::sleep;

use super::check::Table;
use super::client::{Address, LEDGER, Session};
use super::record::{RowId, WriterId};
use crate::Cluster;
use crate::http::{region_control, request_change};

/// Longest wait for the servers to have replayed what the primary has written.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for another durability to be in force.
const DURABILITY_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// The newest epoch that any region knows of.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    pub(super) epoch: Epoch,
    pub(super) primary: RegionId,
    topology: Topology,
}

/// Asks all regions.
pub(super) async fn newest(cluster: &Cluster) -> Option<Newest> {
    let mut newest: Option<Newest> = None;
    for entry in &cluster.manifest().regions {
        let asked = region_control(cluster.layout(), &entry.name);
        let Ok(Ok(control)) = tokio::time::timeout(Duration::from_millis(300), asked).await else { continue };
        let Some(topology) = control.topology else { continue };
        if newest.as_ref().is_none_or(|known| known.epoch < topology.epoch) {
            let (epoch, primary) = (topology.epoch, topology.primary.clone());
            newest = Some(Newest { epoch, primary, topology });
        }
    }
    newest
}

/// Why the primary changed since an epoch.
pub(super) async fn causes_since(cluster: &Cluster, epoch: Epoch) -> Vec<Cause> {
    let changes = newest(cluster).await.map(|newest| newest.topology.changes).unwrap_or_default();
    changes.into_iter().filter(|change| change.epoch > epoch).map(|change| change.cause).collect()
}

/// Whether one region takes writes and all others stream its timeline; the error says what is not so. One that cannot
/// follow may pass for a moment: that all hold the same ([`tables`]) proves it.
pub(super) async fn whole(cluster: &Cluster) -> Result<(), String> {
    let newest = newest(cluster).await.ok_or_else(|| "no region answers".to_owned())?;
    if newest.topology.transition.is_some() {
        return Err("a switchover is under way".to_owned());
    }
    let mut problems = Vec::new();
    let mut timelines = BTreeSet::new();
    for entry in &cluster.manifest().regions {
        let region = &entry.name;
        let control = match region_control(cluster.layout(), region).await {
            Ok(control) => control,
            Err(error) => {
                problems.push(format!("{region}: {error}"));
                continue;
            }
        };
        let Some(own) = control.own.filter(|own| own.epoch == newest.epoch) else {
            problems.push(format!("{region} does not know epoch {}", newest.epoch.0));
            continue;
        };
        let well = match &own.server {
            Server::Primary { position, .. } => {
                timelines.insert(position.map(|position| position.timeline));
                *region == newest.primary && own.writable
            }
            Server::Standby { timeline, streaming, .. } => {
                timelines.insert(*timeline);
                *region != newest.primary && *streaming
            }
            Server::Down | Server::Stopped { .. } => false,
        };
        if !well {
            let objection = control.objection.unwrap_or_default();
            problems.push(format!("{region} in epoch {}: {:?} {objection}", own.epoch.0, own.server));
        } else if let Some(problem) = control.store_problem {
            problems.push(format!("{region}: {problem}"));
        }
        match cluster.status(region).await {
            Ok(status) if status.health == Health::Healthy => {}
            Ok(status) => problems.push(format!("{region}: {}", status.detail)),
            Err(error) => problems.push(format!("{region}: {error}")),
        }
    }
    if problems.is_empty() && timelines.len() > 1 {
        problems.push(format!("the servers are on different timelines: {timelines:?}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

/// Has commits wait for another region, or not; whether that is in force.
pub(super) async fn set_durability(cluster: &Cluster, sync: bool) -> bool {
    let wanted = if sync { Durability::Sync { regions: 1 } } else { Durability::Async };
    let deadline = Instant::now() + DURABILITY_TIMEOUT;
    while Instant::now() < deadline {
        let Some(newest) = newest(cluster).await else { continue };
        if newest.topology.durability == wanted && newest.topology.durability_in_force {
            return true;
        }
        if newest.topology.durability != wanted {
            // Looked for in the next turn.
            let change = TopologyChange::Durability(wanted);
            let _ = request_change(cluster.layout(), &newest.primary, &change).await;
        }
        sleep(POLL).await;
    }
    false
}

/// What every region's server holds, once all have replayed what the primary has written.
pub(super) async fn tables(
    cluster: &Cluster,
    server: impl Fn(&RegionId) -> Address,
) -> Result<BTreeMap<RegionId, Table>, String> {
    let primary = newest(cluster).await.ok_or("no region answers")?.primary;
    let ask = async |region: &RegionId, query: &str| {
        let session = Session::open(&server(region)).await;
        let rows = match session {
            Ok(session) => session.rows(query).await,
            Err(trouble) => Err(trouble),
        };
        rows.map_err(|trouble| format!("the server of {region}: {trouble}"))
    };
    let written = ask(&primary, "SELECT pg_current_wal_insert_lsn()").await?;
    let written = written.into_iter().flatten().next().unwrap_or_default();
    let replayed = format!("SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= '{written}'");
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    let mut tables = BTreeMap::new();
    for entry in &cluster.manifest().regions {
        let region = &entry.name;
        while ask(region, &replayed).await?.into_iter().flatten().next().as_deref() != Some("t") {
            if Instant::now() >= deadline {
                return Err(format!("{region} has not replayed {written} within {REPLAY_TIMEOUT:?}"));
            }
            sleep(POLL).await;
        }
        let number = |text: Option<&String>| text.and_then(|text| text.parse().ok()).unwrap_or(i64::MIN);
        let rows = ask(region, "SELECT id FROM chaos_ledger ORDER BY id").await?;
        let rows = rows.iter().map(|row| RowId(number(row.first()))).collect();
        let counters = ask(region, "SELECT writer, n FROM chaos_counter").await?;
        let counters = counters.iter().map(|row| {
            let writer = i32::try_from(number(row.first())).unwrap_or(i32::MIN);
            (WriterId(writer), number(row.get(1)))
        });
        tables.insert(region.clone(), Table { rows, counters: counters.collect() });
    }
    Ok(tables)
}

/// The rows of the ledger in all reports of lost transactions, by the report's name. One that cannot be read has none.
pub(super) fn reports(cluster: &Cluster) -> BTreeMap<String, Vec<RowId>> {
    let mut found = BTreeMap::new();
    for entry in &cluster.manifest().regions {
        let dir = cluster.layout().region(&entry.name).join("recovery");
        for report in list_reports(&dir).unwrap_or_default() {
            let mut rows = Vec::new();
            for transaction in report.transactions().into_iter().flatten().flatten() {
                let inserted = transaction
                    .changes
                    .iter()
                    .filter(|change| change.table.name == LEDGER && change.kind == ChangeKind::Insert);
                let ids = inserted.filter_map(|change| change.new.as_ref()?.get("id")?.value.as_ref());
                rows.extend(ids.filter_map(|id| id.parse().ok().map(RowId)));
            }
            // Two regions may have the same name for what they had.
            let name = format!("{}/{}", entry.name, report.header.id);
            found.insert(name, rows);
        }
    }
    found
}
