//! `pangea policy`.

use pangea_control::{Policy as Rules, Topology, TopologyChange};

use crate::args::{Limit, Policy};
use crate::exit::{Ended, Exit};
use crate::survey::Regions;
use crate::table::facts;
use crate::{print, print_json, runtime, say};

pub(crate) fn run(args: &Policy) -> anyhow::Result<Exit> {
    runtime()?.block_on(async {
        let regions = Regions::of(&args.data_dir)?;
        let mut topology = regions.topology().await?;
        let wanted = changed(args, &topology.policy);
        if wanted != topology.policy {
            check(&wanted, &topology)?;
            topology =
                regions.change(TopologyChange::Policy(wanted.clone()), |now| now.policy == wanted).await?;
        }
        if args.json {
            print_json(&topology.policy)?;
        } else {
            print(&text(&topology));
        }
        if let Some(warning) = warning(&topology) {
            say(&warning);
        }
        Ok(Exit::Done)
    })
}

/// What whoever set this may not have meant.
pub(crate) fn warning(topology: &Topology) -> Option<String> {
    let (needed, members) = (topology.observers_needed(), topology.members.len());
    if !topology.policy.automatic {
        None
    } else if needed >= members {
        Some(format!(
            "no region will take over by itself: {needed} would have to agree, and without the primary there are {}",
            members.saturating_sub(1)
        ))
    } else if needed * 2 <= members {
        Some(
            "fewer than a majority have to agree: regions that are cut off rely on the store alone"
                .to_owned(),
        )
    } else {
        None
    }
}

fn changed(args: &Policy, now: &Rules) -> Rules {
    let number = |limit: Option<Limit<u64>>, now| limit.map_or(now, |Limit(limit)| limit);
    Rules {
        automatic: args.automatic.unwrap_or(now.automatic),
        loss_bytes_max: number(args.max_loss_bytes, now.loss_bytes_max),
        observers_min: args.min_observers.map_or(now.observers_min, |Limit(limit)| limit),
        flap_limit: args.flap_limit.unwrap_or(now.flap_limit),
        flap_window_s: args.flap_window.unwrap_or(now.flap_window_s),
        flap_back_off_s: args.flap_back_off.unwrap_or(now.flap_back_off_s),
    }
}

fn check(wanted: &Rules, topology: &Topology) -> anyhow::Result<()> {
    // The primary, which is gone, does not observe.
    let secondaries = topology.members.len().saturating_sub(1);
    match wanted.observers_min.map(usize::from) {
        Some(0) => {
            Err(Ended::refused("--min-observers 0: the region that takes over counts, so there is always 1"))
        }
        Some(observers) if observers > secondaries => Err(Ended::refused(format!(
            "--min-observers {observers}: there are {secondaries} secondary regions, so none would ever take over; use \
             --automatic off for that"
        ))),
        _ => Ok(()),
    }
}

fn text(topology: &Topology) -> String {
    let Rules { automatic, loss_bytes_max, observers_min, flap_limit, flap_window_s, flap_back_off_s } =
        &topology.policy;
    let word = observers_min
        .map_or_else(|| format!("majority ({})", topology.observers_needed()), |n| n.to_string());
    facts(&[
        ("automatic", if *automatic { "on" } else { "off" }.to_owned()),
        ("max-loss-bytes", loss_bytes_max.map_or_else(|| "none".to_owned(), |limit| limit.to_string())),
        ("min-observers", word),
        ("flap-limit", flap_limit.to_string()),
        ("flap-window", format!("{flap_window_s} s")),
        ("flap-back-off", format!("{flap_back_off_s} s")),
    ])
}
