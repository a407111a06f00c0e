//! `pangea region drain|undrain|priority`: what a region is there for.

use pangea_control::{Member, Topology, TopologyChange};

use crate::args::OneRegion;
use crate::durability::{secondaries, too_few};
use crate::exit::{Ended, Exit};
use crate::survey::Regions;
use crate::{runtime, say};

pub(crate) fn drain(args: &OneRegion) -> anyhow::Result<Exit> {
    let region = &args.region;
    let check = |topology: &Topology| {
        if topology.primary == *region {
            return Err(Ended::refused(format!(
                "{region} is the primary: move that first, with `pangea switchover --to REGION`"
            )));
        }
        match too_few(topology.durability, secondaries(topology).saturating_sub(1)) {
            Some(problem) => Err(Ended::refused(format!("{problem}. See `pangea durability`"))),
            None => Ok(()),
        }
    };
    let said = format!("{region} is drained: it does not become primary, and does not count for durability");
    change(args, &said, |member| Member { drained: true, ..member }, check)
}

pub(crate) fn undrain(args: &OneRegion) -> anyhow::Result<Exit> {
    let said = format!("{} may become primary, and counts for durability", args.region);
    change(args, &said, |member| Member { drained: false, ..member }, |_| Ok(()))
}

pub(crate) fn set_priority(args: &OneRegion, priority: u8) -> anyhow::Result<Exit> {
    let said = match priority {
        0 => format!("{} has priority 0: it never takes over by itself", args.region),
        _ => format!("{} has priority {priority}", args.region),
    };
    change(args, &said, |member| Member { priority, ..member }, |_| Ok(()))
}

/// Makes another member of a region, when it is not that already and nothing is against it.
fn change(
    args: &OneRegion,
    said: &str,
    edit: impl FnOnce(Member) -> Member,
    check: impl FnOnce(&Topology) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let regions = Regions::of(&args.data_dir)?;
        regions.manifest.region(&args.region)?;
        let topology = regions.topology().await?;
        let before = topology.members.get(&args.region).cloned().unwrap_or_default();
        let member = edit(before.clone());
        if member != before {
            check(&topology)?;
            let wanted = member.clone();
            let is = |topology: &Topology| topology.members.get(&args.region) == Some(&wanted);
            regions.change(TopologyChange::Member(args.region.clone(), member), is).await?;
        }
        say(said);
        Ok(Exit::Done)
    })
}
