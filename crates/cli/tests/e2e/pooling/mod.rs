//! Transaction pooling: sessions that share their servers are served as if they had them alone.

mod limits;
mod listening;
mod strangers;

use pangea_node::{PoolConfig, PoolMode};

use crate::session::{protocol, regions, state, transactions};
use crate::support::{Logs, run, scenarios};

/// Fewer than there are clients.
const POOL_SIZE: usize = 12;

fn transaction_pooling(size: usize) -> PoolConfig {
    PoolConfig { pool_mode: PoolMode::Transaction, default_pool_size: size, ..PoolConfig::default() }
}

#[test]
fn what_sessions_do_they_do_on_shared_servers() {
    run(
        Logs::Quiet,
        |options| options.pool = Some(transaction_pooling(POOL_SIZE)),
        scenarios![
            regions::a_table_made_in_one_region_is_used_in_the_others,
            regions::notifications_cross_regions,
            regions::two_phase_commit_spans_regions,
            regions::ddl_counts_at_once_for_the_session_that_did_it,
            regions::the_three_endpoints,
            transactions::rollback_and_commit,
            transactions::savepoints,
            transactions::a_failed_transaction_stays_failed,
            transactions::serializable_conflicts_are_found,
            transactions::read_only_transactions_refuse_writes,
            transactions::batches_of_statements_are_transactions,
            transactions::locks_are_held_between_sessions,
            state::temporary_tables,
            state::settings_count_on_both_servers,
            state::prepared_statements_of_sql,
            state::cursors,
            state::large_objects,
            state::discard_all,
            protocol::prepared_statements,
            protocol::copy_in_and_out,
            protocol::errors_keep_code_and_fields,
            protocol::notices_come_through,
            protocol::pipelined_statements_keep_their_order,
            protocol::an_error_skips_the_rest_of_its_pipeline_only,
            protocol::portals_with_a_row_limit,
            protocol::parameters_are_reported,
            protocol::large_values_pass,
        ],
    );
}

#[test]
fn strangers_see_nothing_of_one_another() {
    run(
        Logs::Quiet,
        |options| options.pool = Some(transaction_pooling(POOL_SIZE)),
        scenarios![strangers::do_what_they_like, strangers::wait_their_turn],
    );
}

#[test]
fn sessions_listen_together() {
    run(
        Logs::Faults,
        |options| options.pool = Some(transaction_pooling(POOL_SIZE)),
        scenarios![
            listening::many_sessions_listen_with_one_connection,
            listening::listening_is_of_the_session,
            listening::a_lost_listener_is_told,
            listening::a_listener_that_says_nothing_is_given_up,
            listening::a_client_that_does_not_read_ends,
            listening::a_switchover_ends_who_listens_and_nobody_else,
        ],
    );
}

#[test]
fn limits_hold() {
    run(
        Logs::Quiet,
        |options| options.pool = Some(limits::configuration()),
        scenarios![
            limits::set_up,
            limits::a_statement_does_not_wait_for_ever,
            limits::a_user_has_a_pool_size_of_its_own,
            limits::more_connections_are_given_to_those_who_wait,
            limits::connections_to_a_database_are_limited,
            limits::a_busy_pool_leaves_something_to_others,
            limits::connections_of_a_user_are_limited,
            limits::idle_clients_are_disconnected,
            limits::idle_transactions_are_rolled_back,
            limits::the_limits_hold_in_another_region,
            limits::what_a_reload_does_not_change_is_told,
        ],
    );
}
