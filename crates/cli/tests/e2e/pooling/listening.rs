//! Many sessions listen with one connection.

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::moving::switch;
use crate::support::{AP, EU, Lab, Raw, Session, US, eventually, frame, startup};

/// Many more than a pool has connections.
const LISTENERS: usize = 60;

/// Connections that listen for others.
async fn listeners(session: &Session) -> usize {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pangea listener'";
    session.text(query).await.parse().unwrap()
}

async fn listening(lab: &Lab, region: &str, channels: &str) -> Session {
    let session = lab.connect(region).await;
    session.run(channels).await;
    session
}

/// Channel and payload of the next notifications of each session.
async fn hear(sessions: &mut [Session], count: usize) -> Vec<Vec<String>> {
    join_all(sessions.iter_mut().map(async |session| {
        let mut heard = Vec::new();
        for _ in 0..count {
            heard.push(session.notification().await.1);
        }
        heard
    }))
    .await
}

pub(super) async fn many_sessions_listen_with_one_connection(lab: &Lab) {
    let us = lab.connect(US).await;
    let regions = [US, EU, AP];
    let sessions =
        (0..LISTENERS).map(|number| listening(lab, regions[number % regions.len()], "LISTEN orders"));
    let mut sessions = join_all(sessions).await;
    assert_eq!(listeners(&us).await, regions.len(), "one for each region");
    // All of them have connections of the pools when they need them.
    join_all(sessions.iter().map(|session| session.expect("SELECT 1", 1))).await;
    let sent: Vec<String> = (0..100).map(|number| format!("order {number}")).collect();
    for payload in &sent {
        us.run(&format!("NOTIFY orders, '{payload}'")).await;
    }
    us.run("NOTIFY elsewhere, 'unheard'; NOTIFY orders, 'last'").await;
    for heard in hear(&mut sessions, sent.len() + 1).await {
        assert_eq!(heard[..sent.len()], sent);
        assert_eq!(heard[sent.len()], "last");
    }
    // Each to all, whoever it is, at the same time, and all hear them in the order in which they were committed.
    let each = 20;
    join_all(sessions.iter().enumerate().take(9).map(async |(number, session)| {
        for round in 0..each {
            session.run(&format!("SELECT pg_notify('orders', '{number} {round}')")).await;
        }
    }))
    .await;
    let heard = hear(&mut sessions, 9 * each).await;
    assert!((0..9).all(|number| (0..each).all(|round| heard[0].contains(&format!("{number} {round}")))));
    for other in &heard[1..] {
        assert_eq!(other, &heard[0]);
    }
    drop(sessions);
    eventually("nobody listens", async || (listeners(&us).await == 0).then_some(())).await;
}

/// What LISTEN says is true in all the ways of asking.
pub(super) async fn listening_is_of_the_session(lab: &Lab) {
    let long = "c".repeat(70);
    for region in [US, EU] {
        let mut session =
            listening(lab, region, &format!("LISTEN a; LISTEN \"a \"\"b\"; LISTEN {long}")).await;
        let other = lab.connect(US).await;
        // PostgreSQL cuts names off.
        other.run(&format!("NOTIFY \"a \"\"b\", 'quoted'; NOTIFY {long}, 'long'; NOTIFY a, 'plain'")).await;
        for (channel, payload) in [("a \"b", "quoted"), (&long[..63], "long"), ("a", "plain")] {
            assert_eq!(session.notification().await, (channel.to_owned(), payload.to_owned()));
        }
        session.run("BEGIN; UNLISTEN *; ROLLBACK; BEGIN; LISTEN never; ROLLBACK").await;
        session.run("BEGIN").await;
        other.run("NOTIFY never; NOTIFY a, 'in a transaction'").await;
        session.run("COMMIT").await;
        session.run("UNLISTEN a").await;
        assert_eq!(session.notification().await.1, "in a transaction");
        other.run(&format!("NOTIFY a, 'unheard'; NOTIFY {long}, 'heard'")).await;
        assert_eq!(session.notification().await.1, "heard");
        let channels = "SELECT string_agg(c, ',' ORDER BY c COLLATE \"C\") FROM pg_listening_channels() c";
        session.expect(channels, format!("a \"b,{}", &long[..63])).await;
        session.run("UNLISTEN \"a \"\"b\"").await;
        session.expect(channels, &long[..63]).await;
        other.run(&format!("NOTIFY \"a \"\"b\", 'unheard'; NOTIFY {long}, 'heard'")).await;
        assert_eq!(session.notification().await.1, "heard");
    }
}

/// Whoever may have missed something ends; who comes after that listens again.
pub(super) async fn a_lost_listener_is_told(lab: &Lab) {
    let us = lab.connect(US).await;
    let mut sessions = [listening(lab, US, "LISTEN a").await, listening(lab, EU, "LISTEN a").await];
    let bystander = lab.connect(US).await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = 'pangea listener'";
    us.expect(ended, 2).await;
    for session in &mut sessions {
        assert_eq!(session.end().await, "57P01");
    }
    bystander.expect("SELECT 1", 1).await;
    let mut again = listening(lab, US, "LISTEN a").await;
    us.run("NOTIFY a, 'again'").await;
    assert_eq!(again.notification().await.1, "again");
}

/// One that hears nothing any more ends for all, and what was committed has been answered.
pub(super) async fn a_listener_that_says_nothing_is_given_up(lab: &Lab) {
    let mut sessions = [listening(lab, US, "LISTEN a").await, listening(lab, US, "LISTEN a").await];
    let us = lab.connect(US).await;
    let listener =
        us.text("SELECT pid FROM pg_stat_activity WHERE application_name = 'pangea listener'").await;
    let listener = Pid::from_raw(listener.parse().unwrap());
    let mut distant = listening(lab, EU, "LISTEN a").await;
    kill(listener, Signal::SIGSTOP).unwrap();
    sessions[0].run("NOTIFY a, 'committed'").await;
    for session in &mut sessions {
        assert_eq!(session.end().await, "08006");
    }
    kill(listener, Signal::SIGCONT).unwrap();
    let mut again = listening(lab, US, "LISTEN a").await;
    us.run("NOTIFY a, 'again'").await;
    assert_eq!(again.notification().await.1, "again");
    for payload in ["committed", "again"] {
        assert_eq!(distant.notification().await.1, payload);
    }
}

/// A client that takes nothing is told so at last, and holds up nobody.
pub(super) async fn a_client_that_does_not_read_ends(lab: &Lab) {
    let mut deaf = Raw::dial(lab.entry(US).cluster).await;
    deaf.log_in(&startup(196_608, &[("user", "postgres")]), lab.cluster.password()).await;
    deaf.send(&frame(b'Q', b"LISTEN noise\0")).await;
    deaf.until(b'Z').await;
    let mut hearing = listening(lab, US, "LISTEN noise").await;
    let us = lab.connect(US).await;
    let long = "x".repeat(7_900);
    // Much more than the sockets and the gateway keep.
    for first in (0..14_000).step_by(20) {
        let numbers = first..first + 20;
        let notify: Vec<_> =
            numbers.clone().map(|number| format!("NOTIFY noise, '{number} {long}'")).collect();
        us.run(&notify.join(";")).await;
        for number in numbers {
            let heard = hearing.notification().await.1;
            assert_eq!(heard.split(' ').next(), Some(&*number.to_string()));
        }
    }
    let (code, text) = deaf.error().await.unwrap();
    assert_eq!((&*code, &*text), ("54000", "too many notifications wait for the client"));
}

/// The next primary knows nothing of what the former one's sessions listen to.
pub(super) async fn a_switchover_ends_who_listens_and_nobody_else(lab: &Lab) {
    for to in [EU, US] {
        let mut listeners = join_all([US, EU, AP].map(|region| listening(lab, region, "LISTEN a"))).await;
        let others = join_all([US, EU, AP].map(|region| lab.connect(region))).await;
        listeners[0].run("NOTIFY a").await;
        switch(lab, to).await;
        for session in &mut listeners {
            let end = session.end().await;
            assert!(end.starts_with("57P0"), "{end}");
        }
        for session in &others {
            session.run("LISTEN a; UNLISTEN a; LISTEN b").await;
        }
        others[0].run("NOTIFY a, 'unheard'; NOTIFY b, 'heard'").await;
        for mut session in others {
            assert_eq!(session.notification().await.1, "heard");
        }
    }
}
