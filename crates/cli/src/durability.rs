//! `pangea durability`.

use std::time::Duration;

use pangea_control::{Durability as Mode, Topology, TopologyChange};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::args::Durability;
use crate::exit::{Ended, Exit};
use crate::survey::{POLL, Regions};
use crate::{print, print_json, runtime, say};

/// Longest wait for the primary to put it in force: as many secondaries as it takes have to catch up.
const FORCE_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Durability) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let regions = Regions::of(&args.data_dir)?;
        let topology = regions.topology().await?;
        match args.durability {
            None => {
                show(args, &topology)?;
                Ok(Exit::Done)
            }
            Some(mode) => set(args, &regions, &topology, mode).await,
        }
    })
}

/// What it is, and whether that is so yet.
pub(crate) fn words(topology: &Topology) -> String {
    let state = if topology.durability_in_force { "in force" } else { "not in force yet" };
    format!("{}, {state}", topology.durability)
}

/// Secondary regions that count.
pub(crate) fn secondaries(topology: &Topology) -> usize {
    topology.members.iter().filter(|(region, member)| **region != topology.primary && !member.drained).count()
}

/// Why the regions are too few for it.
pub(crate) fn too_few(mode: Mode, secondaries: usize) -> Option<String> {
    match mode {
        Mode::Sync { regions } if usize::from(regions) > secondaries => Some(format!(
            "{mode} needs {regions} secondary regions that are not drained, and there are {secondaries}: no write could \
             be acknowledged"
        )),
        Mode::Bounded { .. } if secondaries == 0 => {
            Some(format!("{mode} needs a secondary region that is not drained, and there is none"))
        }
        Mode::Async | Mode::Bounded { .. } | Mode::Sync { .. } => None,
    }
}

fn show(args: &Durability, topology: &Topology) -> anyhow::Result<()> {
    if args.json {
        return print_json(&json!({
            "durability": topology.durability,
            "in_force": topology.durability_in_force,
            "secondaries": secondaries(topology),
        }));
    }
    let once = if topology.durability_in_force { "" } else { "once it is, " };
    print(&format!("{}: {once}{}\n", words(topology), meaning(topology.durability)));
    Ok(())
}

fn meaning(mode: Mode) -> String {
    match mode {
        Mode::Async => {
            "a commit is acknowledged once it is on the primary's disk; a failover may lose the last ones"
                .to_owned()
        }
        Mode::Bounded { seconds } => {
            format!("commits wait while every secondary region is more than {seconds} s behind")
        }
        Mode::Sync { regions: 1 } => {
            "a commit is acknowledged once it is on the disk of one secondary region, too".to_owned()
        }
        Mode::Sync { regions } => {
            format!("a commit is acknowledged once it is on the disks of {regions} secondary regions, too")
        }
    }
}

async fn set(args: &Durability, regions: &Regions, topology: &Topology, mode: Mode) -> anyhow::Result<Exit> {
    if let Some(problem) = too_few(mode, secondaries(topology)) {
        return Err(Ended::refused(problem));
    }
    let is = |topology: &Topology| topology.durability == mode;
    let mut now = regions.change(TopologyChange::Durability(mode), is).await?;
    let deadline = Instant::now() + FORCE_TIMEOUT;
    while !now.durability_in_force && is(&now) && Instant::now() < deadline {
        sleep(POLL).await;
        now = regions.topology().await?;
    }
    show(args, &now)?;
    if !now.durability_in_force {
        say(&format!(
            "not in force after {FORCE_TIMEOUT:?}: until `pangea durability` says otherwise commits may be only as safe as \
             before. Do the secondaries stream? See `pangea status`"
        ));
        return Ok(Exit::UnderWay);
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_no_write_would_survive_are_refused() {
        assert!(too_few(Mode::Sync { regions: 2 }, 1).is_some());
        assert!(too_few(Mode::Sync { regions: 2 }, 2).is_none());
        assert!(too_few(Mode::Bounded { seconds: 5 }, 0).is_some());
        assert!(too_few(Mode::Async, 0).is_none());
    }
}
