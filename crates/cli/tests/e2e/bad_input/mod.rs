//! What nobody should send or ask for: a clear error, a living process, bounded memory, untouched data.

mod cli;
mod config;
mod disk;
mod log_in;
mod wire;

use crate::support::{Lab, Logs, run, scenarios};

/// Short, so that the test of it is.
const AUTHENTICATION_TIMEOUT_S: u64 = 3;

#[test]
fn on_the_wire() {
    run(
        Logs::Quiet,
        |options| options.authentication_timeout_s = AUTHENTICATION_TIMEOUT_S,
        scenarios![
            wire::garbage,
            wire::lengths_of_a_gigabyte_before_the_log_in,
            wire::lengths_of_a_gigabyte_after_the_log_in,
            wire::half_a_start_up_packet_held_open,
            wire::half_open_connections_do_not_keep_others_out,
            wire::unknown_messages_after_the_log_in,
            wire::broken_messages_after_the_log_in,
            log_in::gss_encryption_is_refused_politely,
            log_in::junk_after_an_ssl_request,
            log_in::unencrypted_data_after_an_ssl_request,
            log_in::unknown_sasl_mechanism,
            log_in::broken_sasl_messages,
            log_in::wrong_passwords_and_unknown_roles_are_told_apart_by_nobody,
            log_in::unknown_databases,
            log_in::newer_protocols_are_negotiated,
            log_in::older_protocols_are_refused,
            the_processes_are_still_the_same,
        ],
    );
}

/// Last: whatever was sent before has killed nobody.
async fn the_processes_are_still_the_same(lab: &Lab) {
    for entry in &lab.cluster.manifest().regions {
        let status = lab.cluster.status(&entry.name).await.unwrap();
        assert_eq!(status.sessions, 0, "{}: sessions that nobody has", entry.name);
        let log = std::fs::read_to_string(lab.cluster.layout().region_log(&entry.name)).unwrap();
        assert_eq!(log.matches("region process is up").count(), 1, "{} was started again", entry.name);
        let session = lab.connect(entry.name.as_str()).await;
        session.expect("SELECT 1", 1).await;
    }
}
