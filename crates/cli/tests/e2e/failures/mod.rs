//! What a session sees when something goes wrong, and what is left afterwards.

mod cancel;
mod lifecycle;
mod servers;

use std::time::Duration;

use pangea_control::Policy;
use pangea_lab::ClusterOptions;
use pangea_lab::wan::{Distance, Table};
use pangea_node::FailoverConfig;

use crate::support::{Logs, run, scenarios};

/// An emulated WAN that can be cut; the delay is not what is tested. The primary stays where it is, whatever happens:
/// what it does when it moves is tested elsewhere (`moving`).
fn with_links(options: &mut ClusterOptions) {
    let policy = Policy { automatic: false, ..Policy::default() };
    options.failover = Some(FailoverConfig { policy, ..FailoverConfig::default() });
    let distance =
        Distance { round_trip: Duration::from_millis(10), jitter: Duration::ZERO, bandwidth: None };
    options.wan_table = Some(Table::uniform(distance));
}

#[test]
fn cancels() {
    run(
        Logs::Quiet,
        with_links,
        scenarios![
            cancel::of_a_query_on_the_local_server,
            cancel::of_a_statement_on_the_primary,
            cancel::of_the_first_statement_on_a_distant_primary,
            cancel::that_races_with_the_end_of_its_query,
            cancel::of_one_session_never_hits_another,
            cancel::with_a_key_that_nobody_has,
        ],
    );
}

#[test]
fn clients_and_servers_that_vanish() {
    run(
        Logs::Faults,
        with_links,
        scenarios![
            servers::a_client_that_vanishes_leaves_no_transaction,
            servers::a_client_that_vanishes_in_a_statement_leaves_nothing_running,
            servers::a_terminated_local_backend_ends_the_session,
            servers::a_terminated_backend_on_the_primary_fails_the_statement,
            servers::a_killed_primary_server_fails_the_write_and_comes_back,
            servers::a_killed_local_server_fails_the_read_and_comes_back,
        ],
    );
}

#[test]
fn cut_links() {
    run(
        Logs::Faults,
        with_links,
        scenarios![
            servers::a_cut_link_fails_the_write_and_local_reads_go_on,
            servers::a_link_cut_one_way_fails_the_write,
            servers::an_open_transaction_does_not_outlive_a_cut_link,
        ],
    );
}

#[test]
fn stops_and_starts() {
    run(
        Logs::Faults,
        with_links,
        scenarios![
            lifecycle::a_stopping_region_tells_its_sessions,
            lifecycle::a_stopping_primary_tells_sessions_of_other_regions,
            lifecycle::a_killed_region_comes_back,
        ],
    );
}
