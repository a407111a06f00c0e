//! What goes wrong while a workload runs: replay that is late by ever other times, and links that are cut.

use std::time::Duration;

use pangea_lab::history::Rng;
use tokio::time::sleep;

use crate::support::{AP, EU, Lab, US, id};

/// Between two changes of the delay of replay.
const STEP: Duration = Duration::from_millis(400);
/// Longest delay of replay.
const DELAY_MS: u32 = 300;
/// A link is cut with each of so many steps.
const STEPS_PER_CUT: u32 = 5;
/// Longest cut: longer than Pangea waits before it gives a link up.
const CUT_MS: u32 = 4_000;

/// Disturbs the cluster until it is dropped; see [`calm`].
pub(super) async fn disturb(lab: &Lab, mut rng: Rng) -> ! {
    let mut delays = [(EU, lab.server(EU).connect().await), (AP, lab.server(AP).connect().await)];
    loop {
        for (_, server) in &mut delays {
            let delay = if rng.percent(20) { 0 } else { 20 + rng.below(DELAY_MS - 20) };
            server.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = '{delay}ms'")).await;
            server.run("SELECT pg_reload_conf()").await;
        }
        sleep(STEP).await;
        if rng.below(STEPS_PER_CUT) == 0 {
            let region = if rng.percent(50) { EU } else { AP };
            let both = [(region, US), (US, region)];
            let ways = *rng.pick(&[&both[..], &both[..1], &both[1..]]).unwrap();
            let length = if rng.percent(70) { CUT_MS / 8 } else { CUT_MS };
            let length = rng.up_to_ms(length);
            eprintln!("    cut {ways:?} for {:.1} s", length.as_secs_f64());
            for (from, to) in ways {
                lab.cluster.wan().unwrap().link(&id(from), &id(to)).unwrap().cut();
            }
            sleep(length).await;
            restore(lab);
        }
    }
}

fn restore(lab: &Lab) {
    for region in [EU, AP] {
        lab.cluster.wan().unwrap().rejoin(&id(region));
    }
}

/// Makes replay late in the secondary regions, always by the same time.
pub(super) async fn delay_replay(lab: &Lab, milliseconds: u32) {
    for region in [EU, AP] {
        let server = lab.server(region).connect().await;
        server.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = '{milliseconds}ms'")).await;
        server.run("SELECT pg_reload_conf()").await;
    }
}

/// Undoes all disturbance and waits until the cluster has recovered.
pub(super) async fn calm(lab: &Lab) {
    restore(lab);
    for region in [EU, AP] {
        let server = lab.server(region).connect().await;
        server.run("ALTER SYSTEM RESET recovery_min_apply_delay").await;
        server.run("SELECT pg_reload_conf()").await;
    }
    lab.healthy().await;
}
