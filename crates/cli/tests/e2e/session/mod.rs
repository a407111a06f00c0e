//! What a session does, from every region.

pub(crate) mod protocol;
pub(crate) mod regions;
mod settings;
pub(crate) mod state;
pub(crate) mod transactions;

use crate::support::{Logs, run, scenarios};

#[test]
fn sessions() {
    run(
        Logs::Quiet,
        |_| {},
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
            state::sequences_and_advisory_locks,
            state::prepared_statements_of_sql,
            state::cursors,
            state::large_objects,
            state::discard_all,
            protocol::prepared_statements,
            protocol::a_table_changes_under_a_statement,
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

/// Its own cluster: replay is slowed down in all of it.
#[test]
fn read_your_writes() {
    run(
        Logs::Quiet,
        |_| {},
        scenarios![
            regions::reads_see_own_writes_while_replay_is_slow,
            regions::a_table_that_has_not_arrived_can_be_used,
            settings::levels_are_settings_like_others,
            settings::a_token_carries_a_view_to_another_region,
            settings::a_token_of_elsewhere_is_refused,
            settings::a_wait_ends_as_the_session_has_set,
            settings::sql_tells_of_the_regions,
        ],
    );
}

/// In-region readers.
#[test]
fn readers() {
    run(
        Logs::Faults,
        |options| options.readers = Some(2),
        scenarios![settings::a_session_outlives_its_reader],
    );
}
