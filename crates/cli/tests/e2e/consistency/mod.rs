//! What sessions in all regions see of one another's writes, at each level of consistency, while replay is late and
//! links fail.
//!
//! `PANGEA_HISTORY_SECONDS` is how long each level is tried, `PANGEA_HISTORY_SEED` repeats the choices of a run. A
//! long run:
//! `PANGEA_HISTORY_SECONDS=600 cargo test -p pangea-cli --test e2e consistency -- --nocapture --test-threads 1`

mod disturb;
mod guarantees;
mod isolation;

use std::time::{Duration, SystemTime};

use pangea_lab::ClusterOptions;
use pangea_lab::wan::{Distance, Table};

use crate::support::{Logs, run, scenarios};

/// 40 ms one way.
const ROUND_TRIP: Duration = Duration::from_millis(80);

fn far_apart(options: &mut ClusterOptions) {
    let distance = Distance { round_trip: ROUND_TRIP, jitter: Duration::from_millis(2), bandwidth: None };
    options.wan_table = Some(Table::uniform(distance));
}

/// Chooses what a run does.
fn seed() -> u64 {
    let given = std::env::var("PANGEA_HISTORY_SEED").ok();
    given.map_or_else(
        || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos())
        },
        |seed| seed.parse().expect("PANGEA_HISTORY_SEED is a number"),
    )
}

#[test]
fn consistency_levels() {
    run(
        Logs::Faults,
        far_apart,
        scenarios![
            guarantees::eventual_is_found_to_be_that,
            guarantees::session_gives_the_session_guarantees,
            guarantees::bounded_gives_the_session_guarantees,
            guarantees::global_is_linearizable_for_each_register,
        ],
    );
}

#[test]
fn isolation_levels() {
    run(
        Logs::Quiet,
        |options| {
            far_apart(options);
            // Appends meet in any order; a deadlock that is found late only makes the test longer.
            options.postgres_settings.push("deadlock_timeout = 20ms".to_owned());
        },
        scenarios![
            isolation::serializable_transactions_of_all_regions_are_that,
            isolation::repeatable_read_transactions_of_all_regions_have_snapshots,
            isolation::read_committed_transactions_of_all_regions_read_what_is_committed,
        ],
    );
}
