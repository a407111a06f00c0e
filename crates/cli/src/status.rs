//! `pangea status`.

use pangea_lab::{HttpError, Manifest, RegionEntry, region_status};
use pangea_node::{Health, RegionStatus, Role};
use serde_json::json;

use crate::args::Status;
use crate::exit::Exit;
use crate::table::{Align, bytes, render, seconds};
use crate::{print, print_json, runtime, say};

pub(crate) fn run(args: &Status) -> anyhow::Result<Exit> {
    let layout = args.data_dir.layout();
    let manifest = Manifest::load(&layout)?;
    let regions: Vec<(&RegionEntry, Result<RegionStatus, HttpError>)> = runtime()?.block_on(async {
        let mut all = Vec::new();
        for entry in &manifest.regions {
            all.push((entry, region_status(&layout, &entry.name).await));
        }
        all
    });
    if args.json {
        let regions: Vec<serde_json::Value> =
            regions.iter().map(|(entry, status)| json(entry, status)).collect();
        let dir = layout.data_dir().display().to_string();
        print_json(&json!({ "cluster": manifest.cluster, "data_dir": dir, "regions": regions }))?;
    } else {
        print(&table(&regions));
        for (entry, status) in &regions {
            match status {
                Err(error) => say(&format!("{}: {error}", entry.name)),
                Ok(status) if !status.detail.is_empty() => say(&format!("{}: {}", entry.name, status.detail)),
                Ok(_) => {}
            }
        }
    }
    let healthy = |status: &Result<RegionStatus, HttpError>| {
        status.as_ref().is_ok_and(|status| status.health == Health::Healthy)
    };
    Ok(if regions.iter().all(|(_, status)| status.is_err()) {
        Exit::NotRunning
    } else if regions.iter().all(|(_, status)| healthy(status)) {
        Exit::Done
    } else {
        Exit::Unhealthy
    })
}

/// What answers speaks for itself; of what does not, only the name and the reason are known.
fn json(entry: &RegionEntry, status: &Result<RegionStatus, HttpError>) -> serde_json::Value {
    match status {
        Ok(status) => json!(status),
        Err(error) => json!({ "region": entry.name, "health": "down", "detail": error.to_string() }),
    }
}

fn table(regions: &[(&RegionEntry, Result<RegionStatus, HttpError>)]) -> String {
    let columns = [
        ("REGION", Align::Left),
        ("ROLE", Align::Left),
        ("EPOCH", Align::Right),
        ("POSITION", Align::Left),
        ("LAG", Align::Right),
        ("BEHIND", Align::Right),
        ("SESSIONS", Align::Right),
        ("HEALTH", Align::Left),
    ];
    let rows: Vec<Vec<String>> = regions
        .iter()
        .map(|(entry, status)| match status {
            Ok(status) => row(status),
            Err(_) => {
                let mut row = vec![entry.name.to_string()];
                row.extend(std::iter::repeat_n("-".to_owned(), 6));
                row.push("down".to_owned());
                row
            }
        })
        .collect();
    render(&columns, &rows)
}

fn row(status: &RegionStatus) -> Vec<String> {
    vec![
        status.region.to_string(),
        role(status.role).to_owned(),
        status.epoch.to_string(),
        status.position.map_or_else(unknown, |position| position.to_string()),
        lag(status),
        match status.role {
            Role::Primary => "-".to_owned(),
            Role::Secondary => status.replication_lag_seconds.map_or_else(unknown, seconds),
        },
        status.sessions.to_string(),
        match status.health {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
        }
        .to_owned(),
    ]
}

/// Unknown is a value: never shown as 0.
fn unknown() -> String {
    "unknown".to_owned()
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    }
}

/// How far a region is behind; the primary is not behind itself.
pub(crate) fn lag(status: &RegionStatus) -> String {
    match status.role {
        Role::Primary => "-".to_owned(),
        Role::Secondary => status.replication_lag_bytes.map_or_else(unknown, bytes),
    }
}
