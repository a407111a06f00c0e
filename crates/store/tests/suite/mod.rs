//! What every backend must do. The same cases run on each of them.

use std::time::{Duration, Instant};

use pangea_store::{Key, Outcome, Snapshot, Store, StoreConfig, StoreError, VALUE_LEN_MAX, Version, Write};

/// Runs every case, each with an empty store of its own, which `fresh` names.
pub(crate) async fn run(fresh: impl Fn(&str) -> StoreConfig) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let began = Instant::now();
            Box::pin($case(Pair::open(&fresh(stringify!($case))).await)).await;
            println!("{}: {:?}", stringify!($case), began.elapsed());
        )*};
    }
    cases![
        absent_keys,
        created_only_if_absent,
        a_conflict_changes_nothing,
        keys_are_written_together,
        versions_grow,
        a_write_without_conditions_always_happens,
        a_write_without_puts_only_compares,
        any_bytes_up_to_the_limit,
        concurrent_increments_lose_nothing,
        a_snapshot_is_consistent_and_fresh,
        a_change_is_noticed_at_once,
        a_change_before_the_call_is_noticed,
        no_change_is_the_longest_wait,
    ];
}

/// Two stores of one place, as two processes have them.
struct Pair {
    ours: Store,
    theirs: Store,
}

impl Pair {
    async fn open(config: &StoreConfig) -> Self {
        Self { ours: Store::open(config).await.unwrap(), theirs: Store::open(config).await.unwrap() }
    }
}

fn write(expect: &[(Key, Version)], put: &[(Key, &[u8])]) -> Write {
    Write { expect: expect.to_vec(), put: put.iter().map(|(key, value)| (*key, value.to_vec())).collect() }
}

async fn put(store: &Store, puts: &[(Key, &[u8])]) {
    assert_eq!(store.write(write(&[], puts)).await, Ok(Outcome::Done));
}

fn values(snapshot: &Snapshot) -> [Option<&[u8]>; 2] {
    Key::ALL.map(|key| snapshot.document(key).map(|document| document.value.as_slice()))
}

async fn absent_keys(Pair { ours, theirs }: Pair) {
    assert_eq!(ours.load().await.unwrap(), Snapshot::default());
    let expected = write(&[(Key::Lease, Version(1))], &[(Key::Lease, b"x")]);
    assert_eq!(ours.write(expected).await, Ok(Outcome::Conflict), "an absent key has no version");
    assert_eq!(theirs.load().await.unwrap(), Snapshot::default());
}

async fn created_only_if_absent(Pair { ours, theirs }: Pair) {
    let create = |value| write(&[(Key::Topology, Version(0))], &[(Key::Topology, value)]);
    assert_eq!(ours.write(create(b"first")).await, Ok(Outcome::Done));
    assert_eq!(theirs.write(create(b"second")).await, Ok(Outcome::Conflict));
    assert_eq!(values(&theirs.load().await.unwrap()), [Some(b"first".as_slice()), None]);
}

async fn a_conflict_changes_nothing(Pair { ours, theirs }: Pair) {
    put(&ours, &[(Key::Topology, b"t"), (Key::Lease, b"l")]).await;
    let seen = ours.load().await.unwrap();
    put(&theirs, &[(Key::Lease, b"l2")]).await;
    let present = theirs.load().await.unwrap();
    // One condition of two holds; the other is of a version that was, or has never been.
    for wrong in [seen.version(Key::Lease), Version(0), Version(u64::from(u32::MAX))] {
        let both = [(Key::Topology, seen.version(Key::Topology)), (Key::Lease, wrong)];
        for expect in [both, [both[1], both[0]]] {
            let attempt = write(&expect, &[(Key::Topology, b"x"), (Key::Lease, b"x")]);
            assert_eq!(ours.write(attempt).await, Ok(Outcome::Conflict));
            assert_eq!(ours.load().await.unwrap(), present);
        }
    }
}

async fn keys_are_written_together(Pair { ours, theirs }: Pair) {
    put(&ours, &[(Key::Topology, b"t1"), (Key::Lease, b"l1")]).await;
    let seen = theirs.load().await.unwrap();
    let expect = Key::ALL.map(|key| (key, seen.version(key)));
    let both = write(&expect, &[(Key::Lease, b"l2"), (Key::Topology, b"t2")]);
    assert_eq!(theirs.write(both).await, Ok(Outcome::Done));
    assert_eq!(values(&ours.load().await.unwrap()), [Some(b"t2".as_slice()), Some(b"l2")]);
    // A condition on one key, a put of the other, whose value and version stay as they were.
    let seen = ours.load().await.unwrap();
    let crossed = write(&[(Key::Topology, seen.version(Key::Topology))], &[(Key::Lease, b"l3")]);
    assert_eq!(ours.write(crossed).await, Ok(Outcome::Done));
    let after = theirs.load().await.unwrap();
    assert_eq!(values(&after), [Some(b"t2".as_slice()), Some(b"l3")]);
    assert_eq!(after.topology, seen.topology);
}

async fn versions_grow(Pair { ours, theirs }: Pair) {
    let mut last = Snapshot::default();
    for (store, key) in
        [(&ours, Key::Lease), (&theirs, Key::Lease), (&theirs, Key::Topology), (&ours, Key::Lease)]
    {
        // The same bytes again are a write like any other.
        put(store, &[(key, b"same")]).await;
        let now = ours.load().await.unwrap();
        assert!(now.version(key) > last.version(key));
        last = now;
    }
}

async fn a_write_without_conditions_always_happens(Pair { ours, theirs }: Pair) {
    for value in [b"a", b"b"] {
        put(&theirs, &[(Key::Topology, value)]).await;
        assert_eq!(values(&ours.load().await.unwrap()), [Some(value.as_slice()), None]);
    }
}

async fn a_write_without_puts_only_compares(Pair { ours, .. }: Pair) {
    let compare = |version| write(&[(Key::Lease, version)], &[]);
    assert_eq!(ours.write(compare(Version(0))).await, Ok(Outcome::Done));
    assert_eq!(ours.load().await.unwrap(), Snapshot::default());
    put(&ours, &[(Key::Lease, b"x")]).await;
    assert_eq!(ours.write(compare(Version(0))).await, Ok(Outcome::Conflict));
}

async fn any_bytes_up_to_the_limit(Pair { ours, theirs }: Pair) {
    let every_byte: Vec<u8> = (0..60 * 1024).map(|at: u32| at.to_le_bytes()[0]).collect();
    let longest = vec![0xff; VALUE_LEN_MAX];
    for value in [&b""[..], b"\0", b"\xff\xfe\"\\\n", &every_byte, &longest] {
        put(&ours, &[(Key::Topology, value), (Key::Lease, value)]).await;
        assert!(values(&theirs.load().await.unwrap()) == [Some(value), Some(value)], "{} bytes", value.len());
    }
    let too_long = vec![0; VALUE_LEN_MAX + 1];
    let refused = ours.write(write(&[], &[(Key::Lease, &too_long)])).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    assert_eq!(theirs.load().await.unwrap().lease.unwrap().value, longest);
}

/// Adds one to the number in the lease, whoever else does the same.
pub(crate) async fn increment(store: &Store) {
    loop {
        let seen = store.load().await.unwrap();
        let next = number(&seen, Key::Lease) + 1;
        let attempt = write(&[(Key::Lease, seen.version(Key::Lease))], &[(Key::Lease, &next.to_le_bytes())]);
        if store.write(attempt).await.unwrap() == Outcome::Done {
            return;
        }
    }
}

/// The number that a key holds, 0 if it does not exist.
pub(crate) fn number(snapshot: &Snapshot, key: Key) -> u64 {
    snapshot
        .document(key)
        .map(|document| u64::from_le_bytes(document.value.as_slice().try_into().unwrap()))
        .unwrap_or_default()
}

async fn concurrent_increments_lose_nothing(Pair { ours, theirs }: Pair) {
    const TASKS: u64 = 8;
    const EACH: u64 = 15;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = if task % 2 == 0 { ours.clone() } else { theirs.clone() };
        tasks.spawn(async move {
            for _ in 0..EACH {
                increment(&store).await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(number(&ours.load().await.unwrap(), Key::Lease), TASKS * EACH);
}

async fn a_snapshot_is_consistent_and_fresh(Pair { ours, theirs }: Pair) {
    const WRITES: u64 = 100;
    let (answered, latest) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        for n in 1..=WRITES {
            let value = n.to_le_bytes();
            put(&ours, &[(Key::Topology, &value), (Key::Lease, &value)]).await;
            answered.send_replace(n);
        }
    });
    let mut last = 0;
    while last < WRITES {
        let answered = *latest.borrow();
        let seen = theirs.load().await.unwrap();
        let n = number(&seen, Key::Topology);
        assert_eq!(n, number(&seen, Key::Lease), "written together, read apart");
        assert!(n >= answered, "{answered} was answered before the load that saw {n}");
        assert!(n >= last, "went back from {last} to {n}");
        last = n;
    }
    writer.await.unwrap();
}

async fn a_change_is_noticed_at_once(Pair { ours, theirs }: Pair) {
    const ROUNDS: usize = 11;
    /// Of the median, so that one slow moment of the machine is none of ours. Half of what a backend may take
    /// that notices by asking again only.
    const PROMPT: Duration = Duration::from_millis(200);
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let seen = ours.load().await.unwrap();
        let watcher = ours.clone();
        let waiting = tokio::spawn(async move {
            watcher.changed(&seen, Duration::from_secs(20)).await;
            Instant::now()
        });
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(!waiting.is_finished(), "nothing has changed yet");
        put(&theirs, &[(Key::ALL[round % 2], b"x")]).await;
        let written = Instant::now();
        took.push(waiting.await.unwrap().saturating_duration_since(written));
    }
    took.sort();
    println!("noticed after {took:?}");
    assert!(took[ROUNDS / 2] < PROMPT, "{took:?}");
}

async fn a_change_before_the_call_is_noticed(Pair { ours, theirs }: Pair) {
    for key in Key::ALL {
        let seen = ours.load().await.unwrap();
        put(&theirs, &[(key, b"x")]).await;
        let began = Instant::now();
        ours.changed(&seen, Duration::from_secs(30)).await;
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
}

async fn no_change_is_the_longest_wait(Pair { ours, .. }: Pair) {
    put(&ours, &[(Key::Topology, b"x")]).await;
    let seen = ours.load().await.unwrap();
    // The longer one is longer than what a backend trusts its watch.
    for longest in [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(1300)] {
        let began = Instant::now();
        ours.changed(&seen, longest).await;
        let took = began.elapsed();
        assert!(took >= longest && took < longest + Duration::from_secs(1), "{longest:?}: {took:?}");
    }
}
