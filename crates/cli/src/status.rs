//! `pangea status`.

use std::time::{SystemTime, UNIX_EPOCH};

use pangea_control::{Cause, Durability, Outcome, Server, Topology};
use pangea_lab::{HttpError, RegionEntry, region_status};
use pangea_node::{Health, RegionStatus, Role};
use serde_json::json;

use crate::args::Status;
use crate::exit::Exit;
use crate::survey::{Regions, Survey};
use crate::table::{Align, bytes, facts, render, seconds, utc};
use crate::{durability, print, print_json, runtime, say};

pub(crate) fn run(args: &Status) -> anyhow::Result<Exit> {
    let cluster = Regions::of(&args.data_dir)?;
    let Regions { layout, manifest } = &cluster;
    let (regions, survey) = runtime()?.block_on(async {
        let mut all: Vec<(&RegionEntry, Result<RegionStatus, HttpError>)> = Vec::new();
        for entry in &manifest.regions {
            all.push((entry, region_status(layout, &entry.name).await));
        }
        (all, cluster.ask().await)
    });
    if args.json {
        let regions: Vec<serde_json::Value> =
            regions.iter().map(|(entry, status)| json(entry, status, &survey)).collect();
        let dir = layout.data_dir().display().to_string();
        let topology = survey.topology().ok();
        let all =
            json!({ "cluster": manifest.cluster, "data_dir": dir, "topology": topology, "regions": regions });
        print_json(&all)?;
    } else {
        print(&table(&regions));
        let notes = notes(&survey);
        if !notes.is_empty() {
            print(&format!("\n{}", facts(&notes)));
        }
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
fn json(entry: &RegionEntry, status: &Result<RegionStatus, HttpError>, survey: &Survey) -> serde_json::Value {
    let mut all = match status {
        Ok(status) => json!(status),
        Err(error) => json!({ "region": entry.name, "health": "down", "detail": error.to_string() }),
    };
    if let Some(all) = all.as_object_mut() {
        all.insert("control".to_owned(), json!(survey.of(&entry.name)));
    }
    all
}

/// What a reader should know beyond the table; what is as usual is left out.
fn notes(survey: &Survey) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    if let Ok(topology) = survey.topology() {
        if topology.durability != Durability::Async || !topology.durability_in_force {
            notes.push(("durability", durability::words(topology)));
        }
        if let Some(transition) = &topology.transition {
            let (from, to) = (&transition.from, &transition.to);
            notes.push(("under way", format!("a switchover from {from} to {to}")));
        } else if !survey.is_writable(&topology.primary) {
            notes.extend(no_primary(topology, survey));
        }
        notes.extend(changes(topology));
        for (region, member) in &topology.members {
            match (member.drained, member.priority) {
                (true, _) => notes.push(("drained", region.to_string())),
                (false, 0) => {
                    notes.push(("never primary", format!("{region}, of itself: its priority is 0")));
                }
                (false, _) => {}
            }
        }
        if !topology.policy.automatic {
            notes.push(("failover", "only by hand: automatic failover is switched off".to_owned()));
        }
    }
    let problems = survey.answers().filter_map(|answer| Some((answer, answer.store_problem.as_ref()?)));
    notes.extend(problems.map(|(answer, problem)| ("store", format!("{}: {problem}", answer.region))));
    notes
}

/// Why nobody takes writes, and why no other region takes over.
fn no_primary(topology: &Topology, survey: &Survey) -> Vec<(&'static str, String)> {
    let primary = &topology.primary;
    let own = survey.of(primary).map(|answer| answer.own.as_ref().map(|own| &own.server));
    let why = match own {
        None => "does not answer",
        Some(Some(Server::Primary { .. })) => "does not hold the lease",
        Some(Some(Server::Standby { .. } | Server::Stopped { .. } | Server::Down) | None) => {
            "has no server that takes writes yet"
        }
    };
    let objections = survey.answers().filter(|answer| answer.region != *primary);
    let objections = objections.filter_map(|answer| Some((&answer.region, answer.objection.as_ref()?)));
    let objections =
        objections.map(|(region, objection)| ("no failover", format!("to {region}: {objection}")));
    std::iter::once(("no writes", format!("the primary {primary} {why}"))).chain(objections).collect()
}

/// The last change of primary, unless it is the first, and the last switchover, if the primary was left where it is.
fn changes(topology: &Topology) -> Vec<(&'static str, String)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut notes = Vec::new();
    let last = topology.last_change().filter(|change| change.cause != Cause::Bootstrap);
    if let Some(change) = last {
        let cause = match change.cause {
            Cause::Bootstrap => "made",
            Cause::Switchover => "switchover",
            Cause::Failover => "failover",
            Cause::Forced => "failover by hand",
        };
        let ago = ago(now.saturating_sub(change.at));
        let (epoch, primary, at) = (change.epoch, &change.primary, utc(change.at));
        notes.push(("last change", format!("{cause} to {primary} in epoch {epoch}, {at} ({ago} ago)")));
    }
    if let Some((transition, Outcome::RolledBack(reason))) = &topology.last_transition
        && transition.from == topology.primary
    {
        notes.push(("rolled back", format!("the last switchover, to {}: {reason}", transition.to)));
    }
    notes
}

/// A time that has passed, in the unit that fits.
fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
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
