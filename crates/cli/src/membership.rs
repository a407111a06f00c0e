//! `pangea region add|remove`: which regions there are.
//!
//! The supervisor makes the files and runs the process, the topology says who counts. A region is in the topology only
//! while its process is there: it is added once it streams, and removed before it stops. What was cut short is gone on
//! with by asking again.

use std::time::Duration;

use pangea_base::RegionId;
use pangea_control::{Member, TopologyChange, removal_objection};
use pangea_lab::{HttpError, Manifest, RegionRemoval, add_region, remove_region};
use tokio::time::{Instant, sleep};

use crate::args::{OneRegion, RegionRemove};
use crate::exit::{Ended, Exit};
use crate::progress::until_well;
use crate::survey::{POLL, Regions, Survey};
use crate::{policy, runtime, say};

/// Longest wait for all regions to have heard of a new one.
const HEARD_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) fn add(args: &OneRegion) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let region = &args.region;
        let mut regions = Regions::of(&args.data_dir)?;
        let topology = regions.topology().await?;
        if topology.members.contains_key(region) {
            return Err(Ended::refused(format!("{region} is a region of this cluster already")));
        }
        say(&format!("adding {region}; the other regions go on meanwhile"));
        let entry = add_region(&regions.layout, region).await.map_err(refused)?;
        regions.manifest = Manifest::load(&regions.layout)?;
        let again = format!(
            "`pangea region add {region}` goes on where this ended; `pangea region remove {region} --delete` takes it \
             back"
        );
        until_well(&regions, region, &again).await?;
        let is = |topology: &pangea_control::Topology| topology.members.contains_key(region);
        regions.change(TopologyChange::Member(region.clone(), Member::default()), is).await?;
        until_heard(&regions, region).await?;
        say(&format!("{region} is a region of the cluster now and streams; its cluster endpoint is {}", entry.cluster));
        Ok(Exit::Done)
    })
}

/// Waits until the region knows that it is one, and all others that answer have heard it.
async fn until_heard(regions: &Regions, region: &RegionId) -> anyhow::Result<()> {
    let deadline = Instant::now() + HEARD_TIMEOUT;
    loop {
        let survey = regions.ask().await;
        let missing = deaf(&survey, region);
        let Some(first) = missing.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(Ended::under_way(format!(
                "{region} is a region of the cluster now, but {first} has not heard it yet: see `pangea status` and {}",
                regions.layout.region_log(first).display()
            )));
        }
        sleep(POLL).await;
    }
}

fn deaf(survey: &Survey, region: &RegionId) -> Vec<RegionId> {
    let knows = |answer: &&pangea_node::ControlStatus| {
        let member = answer.topology.as_ref().is_some_and(|topology| topology.members.contains_key(region));
        member && (answer.region == *region || answer.peers.iter().any(|peer| peer.region == *region))
    };
    survey.answers().filter(|answer| !knows(answer)).map(|answer| answer.region.clone()).collect()
}

pub(crate) fn remove(args: &RegionRemove) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let region = &args.region.region;
        let regions = Regions::of(&args.region.data_dir)?;
        regions.manifest.region(region)?;
        let mut topology = regions.topology().await?;
        if let Some(objection) = removal_objection(&topology, region) {
            return Err(Ended::refused(objection));
        }
        if topology.members.contains_key(region) {
            let is = |topology: &pangea_control::Topology| !topology.members.contains_key(region);
            topology = regions.change(TopologyChange::Remove(region.clone()), is).await?;
        }
        say(&format!("{region} is taken out of the topology; its process is stopped"));
        let (primary, delete) = (topology.primary.clone(), args.delete);
        let removal = RegionRemoval { region: region.clone(), primary, delete };
        let removed = remove_region(&regions.layout, &removal).await.map_err(refused)?;
        let data = match removed.kept {
            Some(dir) => format!("its data lie in {}", dir.display()),
            None => "its data are deleted".to_owned(),
        };
        say(&format!("{region} is no region of the cluster any more; {data}"));
        if let Some(warning) = policy::warning(&topology) {
            say(&warning);
        }
        Ok(Exit::Done)
    })
}

/// What the supervisor says, with the exit code for it.
fn refused(error: HttpError) -> anyhow::Error {
    match error {
        HttpError::Connect { .. } => Ended::not_running(),
        HttpError::Refused(why) => Ended::refused(why),
        HttpError::Exchange { .. } => {
            Ended::under_way(format!("{error}; ask again, and see `pangea status`"))
        }
    }
}
