//! The administration console: the database `pangea` on every endpoint.

mod orders;
mod show;

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::support::{Lab, Logs, Session, run, scenarios};

/// A role that may SHOW.
const WATCHER: &str = "watcher";
/// A role that may do nothing here.
const NOBODY: &str = "nobody";

#[test]
fn console() {
    run(
        Logs::Quiet,
        |options| options.stats_users = vec![WATCHER.to_owned()],
        scenarios![
            show::every_list_on_every_endpoint,
            show::by_the_extended_protocol,
            show::clients_their_servers_and_what_they_have_done,
            show::lag_and_regions,
            show::wrong_commands,
            show::is_for_those_who_may,
            orders::a_pause_waits_for_transactions_and_holds_new_ones,
            orders::a_pause_does_not_wait_for_ever,
            orders::a_pause_can_be_cancelled,
            orders::a_held_statement_can_be_cancelled,
            orders::a_pause_holds_pipelines_and_lets_copies_end,
            orders::a_kill_ends_sessions_until_the_database_is_resumed,
            orders::a_client_is_killed_by_its_number,
            orders::connections_are_made_anew,
            orders::the_configuration_is_read_again,
        ],
    );
}

/// A console of a region.
async fn console_of(lab: &Lab, region: &str) -> Session {
    lab.at(region).database("pangea").connect().await
}

/// The rows of a command.
async fn rows(console: &Session, command: &str) -> Vec<SimpleQueryRow> {
    let answer = console.simple_query(command).await;
    let answer = answer.unwrap_or_else(|error| panic!("{command}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    answer.into_iter().filter_map(row).collect()
}

/// The row of the client with this `application_name`.
async fn client(console: &Session, name: &str) -> Option<SimpleQueryRow> {
    rows(console, "SHOW CLIENTS").await.into_iter().find(|row| row.get("application_name") == Some(name))
}

/// What it is doing.
async fn state(console: &Session, name: &str) -> Option<String> {
    client(console, name).await.and_then(|row| row.get("state").map(str::to_owned))
}

/// A number in a row; `None` when it is NULL.
fn number(row: &SimpleQueryRow, column: &str) -> Option<u64> {
    row.get(column).map(|text| text.parse().unwrap_or_else(|_| panic!("{column} is {text:?}")))
}
