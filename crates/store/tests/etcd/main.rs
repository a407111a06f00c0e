//! The store in etcd, against three real members: what every backend must do, and what only a cluster can suffer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says how long it took"
)]

mod admin;
mod certs;
mod cluster;
#[path = "../suite/mod.rs"]
mod suite;

use std::time::{Duration, Instant};

use cluster::Cluster;
use pangea_store::{Document, Key, Outcome, Snapshot, Store, StoreConfig, StoreError, Version, Write};

/// Of requests where members are lost. Twice the default, for machines that have other things to do.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may come after the request timeout on a machine that has other things to do.
const GRACE: Duration = Duration::from_millis(700);

/// How long etcd may take to be of use again after a change of members: an election or two.
const RECOVERY: Duration = Duration::from_secs(30);

async fn open(config: &StoreConfig) -> Store {
    Store::open(config).await.unwrap()
}

fn put(expect: Option<Version>, value: &[u8]) -> Write {
    Write {
        expect: expect.map(|version| (Key::Lease, version)).into_iter().collect(),
        put: vec![(Key::Lease, value.to_vec())],
    }
}

fn lease(snapshot: &Snapshot) -> &Document {
    snapshot.lease.as_ref().unwrap()
}

/// Loads until it works.
async fn load_again(store: &Store) -> Snapshot {
    let began = Instant::now();
    loop {
        match in_time(store.load()).await {
            Ok(snapshot) => return snapshot,
            Err(StoreError::Unavailable(_)) if began.elapsed() < RECOVERY => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes until it works, as a holder of the lease does: what is not known is looked up.
async fn write_again(store: &Store, value: &[u8]) {
    let began = Instant::now();
    loop {
        let seen = load_again(store).await;
        if lease(&seen).value == value {
            return;
        }
        match in_time(store.write(put(Some(lease(&seen).version), value))).await {
            Ok(Outcome::Done) => return,
            Ok(Outcome::Conflict) => {}
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if began.elapsed() < RECOVERY => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = call.await;
    let took = began.elapsed();
    assert!(took < TIMEOUT + GRACE, "{took:?}");
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_what_every_backend_must() {
    let cluster = Cluster::plain().await;
    suite::run(|case| cluster.config(&[0, 1, 2], &format!("{case}/"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_it_with_tls_and_users() {
    let cluster = Cluster::secure().await;
    let password_file = cluster.dir.path().join("password");
    std::fs::write(&password_file, "its password\n").unwrap();
    let as_user = |order: &[usize], prefix: &str| {
        let mut config = cluster.config(order, prefix);
        if let StoreConfig::Etcd { user, password_file: file, .. } = &mut config {
            (*user, *file) = (Some("pangea".to_owned()), Some(password_file.clone()));
        }
        config
    };
    // A user is configured, and etcd does not ask for one yet.
    let early = open(&as_user(&[0, 1, 2], "pangea/early/")).await;
    assert_eq!(early.write(put(None, b"early")).await, Ok(Outcome::Done));
    let nobody = open(&cluster.config(&[0, 1, 2], "pangea/")).await;
    nobody.load().await.unwrap();
    admin::enable_auth(&cluster, "pangea", "its password", "pangea/").await;
    assert_eq!(lease(&early.load().await.unwrap()).value, b"early");

    suite::run(|case| as_user(&[0, 1, 2], &format!("pangea/{case}/"))).await;

    // Tokens live a second here. Each request after that is the first to find out, a write among them.
    let store = open(&as_user(&[1, 2, 0], "pangea/")).await;
    for round in [b"1", b"2"] {
        assert_eq!(store.write(put(None, round)).await, Ok(Outcome::Done));
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(lease(&store.load().await.unwrap()).value, round);
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }

    // Whom etcd refuses is told so, on reading and on writing.
    let elsewhere = open(&as_user(&[0, 1, 2], "elsewhere/")).await;
    for store in [&nobody, &elsewhere] {
        let refused = [store.load().await.map(|_| ()), store.write(put(None, b"x")).await.map(|_| ())];
        for result in refused {
            assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}");
        }
    }
    std::fs::write(&password_file, "another password\n").unwrap();
    let wrong = open(&as_user(&[0, 1, 2], "pangea/")).await.load().await;
    assert!(matches!(wrong, Err(StoreError::Invalid(_))), "{wrong:?}");
    let mut bare = cluster.config(&[0], "pangea/");
    if let StoreConfig::Etcd { cert, key, .. } = &mut bare {
        (*cert, *key) = (None, None);
    }
    let bare = open(&bare).await.load().await;
    assert!(matches!(bare, Err(StoreError::Unavailable(_))), "no client certificate: {bare:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_killed_is_not_missed_and_two_are() {
    let mut cluster = Cluster::plain().await;
    let [first, second, leader] = cluster.followers_first().await;
    let order = [first, second, leader];
    let store = open(&cluster.impatient(&order, "pangea/", TIMEOUT)).await;
    assert_eq!(store.write(put(None, b"three")).await, Ok(Outcome::Done));

    // A follower, which is asked first and has a connection.
    cluster.kill(first);
    let seen = in_time(store.load()).await.unwrap();
    assert_eq!(in_time(store.write(put(Some(lease(&seen).version), b"two"))).await, Ok(Outcome::Done));

    cluster.kill(leader);
    let seen = {
        // The last member does not know at once that it is alone; from then on nothing works.
        let unavailable = in_time(store.load()).await;
        assert!(matches!(unavailable, Err(StoreError::Unavailable(_))), "{unavailable:?}");
        let nothing = in_time(store.write(put(Some(lease(&seen).version), b"one"))).await;
        assert!(matches!(nothing, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{nothing:?}");
        seen
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    let nothing = in_time(store.write(put(None, b"one"))).await;
    assert!(matches!(nothing, Err(StoreError::Unavailable(_))), "no leader is a certain no: {nothing:?}");

    let watcher = store.clone();
    let waiting = tokio::spawn(async move { watcher.changed(&seen, RECOVERY).await });
    cluster.restart(first);
    cluster.restart(leader);
    write_again(&store, b"three again").await;
    // It has waited through all this.
    tokio::time::timeout(RECOVERY / 2, waiting).await.unwrap().unwrap();
    assert_eq!(lease(&load_again(&store).await).value, b"three again");

    // The leader, whoever it is: another election, and all goes on.
    let [_, _, leader] = cluster.followers_first().await;
    cluster.kill(leader);
    write_again(&store, b"two again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_member_is_passed_over() {
    let cluster = Cluster::plain().await;
    let [first, second, leader] = cluster.followers_first().await;
    let config = cluster.impatient(&[first, second, leader], "pangea/", TIMEOUT);
    let store = open(&config).await;
    assert_eq!(store.write(put(None, b"before")).await, Ok(Outcome::Done));
    let before = store.load().await.unwrap();
    let watcher = store.clone();
    let seen = before.clone();
    let waiting = tokio::spawn(async move {
        watcher.changed(&seen, RECOVERY).await;
    });
    tokio::time::sleep(Duration::from_millis(50)).await;

    cluster.freeze(first);
    // Sent to it and not answered: not known, and not sent to another.
    let version = lease(&before).version;
    let lost = in_time(store.write(put(Some(version), b"lost"))).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    assert_eq!(lease(&in_time(store.load()).await.unwrap()).value, b"before");
    // Others are asked from now on.
    assert_eq!(in_time(store.write(put(Some(version), b"after"))).await, Ok(Outcome::Done));
    let written = Instant::now();
    waiting.await.unwrap();
    let noticed = written.elapsed();
    assert!(
        noticed < Duration::from_millis(500) + TIMEOUT + GRACE,
        "{noticed:?} by a watch of a frozen member"
    );

    // Who has no connection yet: the system accepts one for the frozen member, and nothing follows.
    let fresh = open(&config).await;
    assert_eq!(lease(&in_time(fresh.load()).await.unwrap()).value, b"after");

    // It may come to the lost write now, whose condition no longer holds.
    cluster.thaw(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lease(&load_again(&store).await).value, b"after");

    let [_, _, leader] = cluster.followers_first().await;
    cluster.freeze(leader);
    write_again(&store, b"after the leader").await;
    cluster.thaw(leader);
    write_again(&store, b"end").await;
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let config = StoreConfig::Etcd {
        // The first refuses, and no route leads to the second, or nothing answers there (RFC 5737).
        endpoints: vec!["http://127.0.0.1:1".to_owned(), "http://192.0.2.1:2379".to_owned()],
        prefix: "pangea/".to_owned(),
        ca: None,
        cert: None,
        key: None,
        user: None,
        password_file: None,
        request_timeout_ms: TIMEOUT.as_millis().try_into().unwrap(),
    };
    let store = open(&config).await;
    for result in
        [in_time(store.load()).await.map(|_| ()), in_time(store.write(put(None, b"x"))).await.map(|_| ())]
    {
        let Err(StoreError::Unavailable(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("127.0.0.1:1") && why.contains("192.0.2.1"), "{why}");
    }
    let began = Instant::now();
    store.changed(&Snapshot::default(), Duration::from_millis(300)).await;
    assert!(began.elapsed() >= Duration::from_millis(300), "nothing is known to have changed");
}
