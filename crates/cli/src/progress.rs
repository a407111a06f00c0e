//! What a region does until it is well, shown as it happens.

use std::time::Duration;

use pangea_base::RegionId;
use pangea_lab::region_status;
use pangea_node::Health;
use tokio::time::{Instant, sleep};

use crate::exit::Ended;
use crate::say;
use crate::survey::Regions;

/// How often it is asked.
const POLL: Duration = Duration::from_millis(50);
/// A copy of a large database takes its time; whoever has none left asks again.
const WELL_TIMEOUT: Duration = Duration::from_secs(3600);
/// A process that does not answer for so long does not start.
const SILENCE_MAX: Duration = Duration::from_secs(30);

struct Step {
    name: String,
    since: Instant,
}

/// Waits until a region is healthy, which for a secondary means that it streams. `again` is what to do when it is not
/// seen to become so.
pub(crate) async fn until_well(regions: &Regions, region: &RegionId, again: &str) -> anyhow::Result<()> {
    let (began, mut heard) = (Instant::now(), Instant::now());
    let mut step: Option<Step> = None;
    let mut last = "its process does not answer".to_owned();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        if let Ok(status) = region_status(&regions.layout, region).await {
            heard = Instant::now();
            let well = status.health == Health::Healthy;
            // What comes after a colon is the reason of the moment.
            let name = status.detail.split(':').next().unwrap_or_default().to_owned();
            if well || step.as_ref().is_some_and(|step| step.name != name) {
                step.take().iter().for_each(|done| show(region, done));
            }
            if well {
                return Ok(());
            }
            step.get_or_insert(Step { name, since: Instant::now() });
            last = status.detail;
        }
        let silent = heard.elapsed() >= SILENCE_MAX;
        if silent || began.elapsed() >= WELL_TIMEOUT {
            let logs = regions.layout.region(region).join("log");
            let what = if silent { "its process does not answer".to_owned() } else { last };
            return Err(Ended::under_way(format!(
                "{region} is not ready after {:.0} s: {what}; its logs are in {}. {again}",
                began.elapsed().as_secs_f64(),
                logs.display()
            )));
        }
        tokio::select! {
            () = sleep(POLL) => {}
            _ = &mut interrupted => {
                return Err(Ended::under_way(format!("{region} goes on without this command. {again}")));
            }
        }
    }
}

fn show(region: &RegionId, step: &Step) {
    let took = step.since.elapsed().as_secs_f64();
    say(&format!("  {:<16} {:<24} {took:>5.1} s", region.as_str(), step.name));
}
