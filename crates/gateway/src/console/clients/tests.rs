use std::net::Ipv4Addr;

use super::super::stats::Counter;
use super::*;

fn identity(database: &str, kind: ClientKind) -> Identity {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Identity {
        user: "someone".to_owned(),
        database: database.to_owned(),
        application: String::new(),
        endpoint: Endpoint::Cluster,
        kind,
        address,
        local: address,
        tls: false,
    }
}

fn session(clients: &Arc<Clients>, database: &str) -> Registered {
    clients.register(identity(database, ClientKind::Session))
}

#[tokio::test]
async fn a_pause_is_over_when_every_session_of_the_database_is_at_rest() {
    let clients = Arc::new(Clients::default());
    let (mut one, two, other) = (session(&clients, "a"), session(&clients, "a"), session(&clients, "b"));
    let _console = clients.register(identity("a", ClientKind::Console));
    let _replication = clients.register(identity("a", ClientKind::Replication));
    clients.pause(Some("a"));
    assert!(one.nudges.recv().await.is_some());
    assert!(one.is_paused() && two.is_paused() && !other.is_paused());
    let settled = clients.settled(Some("a"));
    tokio::pin!(settled);
    one.hold();
    assert!(futures_pending(settled.as_mut()).await);
    drop(two);
    settled.await;
    assert!(clients.resume(Some("a")) && !clients.resume(Some("a")));
    // What it said before no longer counts.
    assert!(!one.is_paused());
    clients.pause(Some("a"));
    let settled = clients.settled(Some("a"));
    tokio::pin!(settled);
    assert!(futures_pending(settled.as_mut()).await);
}

/// Whether a future has not ended when everything else has had its turn.
async fn futures_pending(future: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = future => false,
        () = tokio::task::yield_now() => true,
    }
}

#[test]
fn a_resume_of_all_ends_every_pause() {
    let clients = Clients::default();
    clients.pause(None);
    clients.pause(Some("a"));
    assert!(clients.all_paused() && clients.is_paused("a") && clients.is_paused("b"));
    assert!(clients.resume(None));
    assert!(!clients.is_paused("a") && !clients.is_paused("b") && !clients.resume(None));
}

#[test]
fn what_was_counted_outlives_its_session() {
    let clients = Arc::new(Clients::default());
    let (one, two) = (session(&clients, "a"), session(&clients, "a"));
    one.client.counters.add(Counter::Queries, 2);
    two.client.counters.add(Counter::Queries, 3);
    drop(one);
    drop(session(&clients, "nothing was done here"));
    let queries: Vec<_> =
        clients.stats().into_iter().map(|(name, counts, _)| (name, counts.get(Counter::Queries))).collect();
    assert_eq!(queries, [("a".to_owned(), 5)]);
}

#[tokio::test]
async fn kills_reach_sessions_and_consoles_are_spared_by_database() {
    let clients = Arc::new(Clients::default());
    let (one, other) = (session(&clients, "a"), session(&clients, "b"));
    let console = clients.register(identity("a", ClientKind::Console));
    clients.kill_database("a");
    assert!(one.client.is_killed() && !other.client.is_killed() && !console.client.is_killed());
    assert!(clients.kill_client(console.client.id) && console.client.is_killed());
    assert!(!clients.kill_client(999));
}

#[test]
fn only_sessions_that_are_idle_for_too_long_are_nudged() {
    let clients = Arc::new(Clients::default());
    let (mut idle, mut busy) = (session(&clients, "a"), session(&clients, "a"));
    let mut console = clients.register(identity("a", ClientKind::Console));
    let now = Instant::now();
    let rest = Rest { since: idle.client.now(), in_transaction: false };
    idle.client.set_rest(Some(rest));
    console.client.set_rest(Some(rest));
    busy.client.set_rest(Some(rest));
    busy.client.set_rest(None);
    let much_later = now + Duration::from_secs(3600);
    // Nobody is, without a limit.
    clients.nudge_idle(much_later);
    assert!(idle.nudges.try_recv().is_err());
    let longest = Duration::from_secs(60);
    clients.set_idle_timeouts(IdleTimeouts { session: Some(longest), transaction: None });
    clients.nudge_idle(now + longest / 2);
    assert!(idle.nudges.try_recv().is_err());
    clients.nudge_idle(much_later);
    assert!(idle.nudges.try_recv().is_ok());
    assert!(busy.nudges.try_recv().is_err() && console.nudges.try_recv().is_err());
    idle.client.set_rest(Some(Rest { in_transaction: true, ..rest }));
    clients.nudge_idle(much_later);
    assert!(idle.nudges.try_recv().is_err());
}
