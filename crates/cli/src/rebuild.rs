//! `pangea region rebuild`: the data of a secondary's server are copied from the primary's anew.

use std::time::Duration;

use pangea_lab::{HttpError, request_rebuild};
use tokio::time::{Instant, sleep};

use crate::args::OneRegion;
use crate::exit::{Ended, Exit};
use crate::progress::until_well;
use crate::survey::{POLL, Regions};
use crate::{runtime, say};

/// Longest wait for the server to be stopped and its data to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &OneRegion) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let region = &args.region;
        let regions = Regions::of(&args.data_dir)?;
        regions.manifest.region(region)?;
        regions.topology().await?;
        match request_rebuild(&regions.layout, region).await {
            Ok(()) => {}
            Err(HttpError::Refused(why)) => return Err(Ended::refused(format!("{region} is not rebuilt: {why}"))),
            Err(HttpError::Connect { .. }) => {
                return Err(Ended::refused(format!(
                    "the process of {region} does not answer, see {}. If it ends because of its data, stop it, move {} \
                     away and start it: the data are then copied",
                    regions.layout.region_log(region).display(),
                    regions.layout.region(region).join("pgdata").display()
                )));
            }
            Err(error) => return Err(error.into()),
        }
        say(&format!("the data of {region} are made anew; its clients are served by the primary meanwhile"));
        let again = "`pangea status` tells how it goes on";
        let began = Instant::now();
        loop {
            let survey = regions.ask_of(std::slice::from_ref(region)).await;
            if survey.of(region).is_some_and(|answer| !answer.rebuilding) {
                break;
            }
            if began.elapsed() >= GONE_TIMEOUT {
                return Err(Ended::under_way(format!(
                    "the server of {region} has not stopped within {GONE_TIMEOUT:?}. {again}"
                )));
            }
            sleep(POLL).await;
        }
        until_well(&regions, region, again).await?;
        say(&format!("{region} has the primary's data and streams"));
        Ok(Exit::Done)
    })
}
