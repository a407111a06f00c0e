//! The primary moves: on an operator's word, and because it died.

mod etcd;
mod failover;
mod operators;
mod readers;
mod sessions;
mod switchover;

use pangea_lab::WanChoice;
use pangea_node::{Health, Role};
use serde_json::Value;

use crate::support::{Lab, Logs, Run, eventually, id, run, scenarios};

#[test]
fn switchovers() {
    run(
        Logs::Faults,
        |_| {},
        scenarios![
            switchover::is_refused_with_the_reason,
            switchover::a_dry_run_changes_nothing,
            switchover::tells_what_happened,
            switchover::there_and_back_loses_nothing,
            switchover::waits_for_a_transaction,
            switchover::is_rolled_back_when_a_transaction_does_not_end,
            sessions::go_on,
            sessions::under_way_are_begun_ahead,
            sessions::see_their_writes_and_sequences_do_not_repeat,
            sessions::that_cannot_be_carried_over_are_told,
            sessions::locks_are_free_after_the_move,
        ],
    );
}

/// With the distances of real regions statements are on their way when the primary stops.
#[test]
fn switchovers_from_afar() {
    run(
        Logs::Faults,
        |options| options.wan = Some(WanChoice::Aws),
        scenarios![switchover::there_and_back_loses_nothing],
    );
}

#[test]
fn operators() {
    run(
        Logs::Faults,
        |_| {},
        scenarios![
            operators::durability_is_shown_and_set,
            operators::a_policy_is_shown_and_set,
            operators::regions_are_drained_and_ranked,
            operators::sync_is_not_gone_around,
        ],
    );
}

#[test]
fn failovers() {
    run(
        Logs::Faults,
        |_| {},
        scenarios![
            failover::by_hand_needs_the_word_for_it,
            failover::by_hand_when_the_primary_is_gone,
            failover::by_itself_when_the_primary_dies,
            failover::a_standby_of_another_line_is_noticed,
            failover::a_standby_that_cannot_recover_is_cloned,
        ],
    );
}

#[test]
fn in_region_readers() {
    run(
        Logs::Faults,
        |options| options.readers = Some(1),
        scenarios![
            readers::takes_the_primarys_place_and_nothing_is_lost,
            readers::takes_the_place_when_it_has_everything,
            readers::takes_the_place_of_a_secondarys_server,
            readers::readers_follow_a_failover,
        ],
    );
}

/// The topology that the regions know.
pub(crate) async fn topology(lab: &Lab) -> Value {
    lab.pangea(&["status", "--json"]).await.json()["topology"].take()
}

/// Waits until all regions are healthy, agree on the primary, have followed it to its timeline, and hear one another.
pub(crate) async fn settled(lab: &Lab, primary: &str) {
    for entry in &lab.cluster.manifest().regions {
        eventually(&format!("{} is well and knows that {primary} is primary", entry.name), async || {
            // Asked each time: right after the move the primary may still tell its former timeline.
            let timeline = lab.cluster.status(&id(primary)).await.ok()?.position?.timeline;
            let status = lab.cluster.status(&entry.name).await.ok()?;
            let role = if entry.name == id(primary) { Role::Primary } else { Role::Secondary };
            let follows = status.position.map(|position| position.timeline) == Some(timeline);
            let agrees = status.primary == id(primary) && status.role == role;
            let hears = status.peers.iter().all(|peer| peer.reachable);
            let well = status.health == Health::Healthy && agrees && follows && hears;
            well.then_some(())
        })
        .await;
    }
}

/// Moves the primary, which has to work.
pub(crate) async fn switch(lab: &Lab, to: &str) -> Run {
    let run = lab.pangea(&["switchover", "--to", to]).await.ended(0);
    settled(lab, to).await;
    run
}

/// Moves the primary there if it is elsewhere.
async fn primary_at(lab: &Lab, region: &str) {
    if topology(lab).await["primary"] != region {
        switch(lab, region).await;
    }
    settled(lab, region).await;
}
