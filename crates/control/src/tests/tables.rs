//! Durability's texts, refusals of a switchover, objections to a failover.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_base::RegionId;

use crate::election::{Election, Peer};
use crate::preflight::preflight;
use crate::{Cause, Durability, Member, PeerState, Server, Topology, TopologyChange, Transition};

use super::bench::{controller, id, position, primary, says, seconds, standby, taken, topology};

#[test]
fn durability_texts() {
    let good = [
        ("async", Durability::Async, "async"),
        ("sync", Durability::Sync { regions: 1 }, "sync(1)"),
        ("sync(2)", Durability::Sync { regions: 2 }, "sync(2)"),
        ("bounded(5)", Durability::Bounded { seconds: 5 }, "bounded(5)"),
    ];
    for (text, durability, shown) in good {
        assert_eq!(text.parse(), Ok(durability), "{text}");
        assert_eq!(durability.to_string(), shown);
        assert_eq!(shown.parse(), Ok(durability));
        let json = serde_json::to_string(&durability).unwrap();
        assert_eq!(serde_json::from_str::<Durability>(&json).unwrap(), durability);
    }
    for bad in [
        "",
        "Async",
        "sync(0)",
        "bounded(0)",
        "bounded",
        "sync()",
        "sync(-1)",
        "sync(256)",
        "sync(1",
        "async(1)",
    ] {
        let error = bad.parse::<Durability>().unwrap_err().to_string();
        assert!(error.contains("use async, bounded(SECONDS) or sync(REGIONS)"), "{error}");
    }
}

fn peers(states: Vec<PeerState>) -> BTreeMap<RegionId, Peer> {
    let asked = Some(seconds(10.0));
    states.into_iter().map(|state| (state.region.clone(), Peer { state, asked })).collect()
}

/// What does not pass, as `name: found`.
fn refusals(
    topology: &Topology,
    writable: bool,
    own: &Server,
    states: Vec<PeerState>,
    to: &str,
) -> Vec<String> {
    let checks = preflight(topology, &id("a"), writable, own, &peers(states), &id(to));
    let failed = checks.into_iter().filter(|check| !check.passed);
    failed.map(|check| format!("{}: {}", check.name, check.found)).collect()
}

#[test]
fn every_refusal_of_a_switchover_says_what_to_do() {
    let plain = topology();
    let own = primary(2, 200 << 20);
    let near = || vec![says("b", standby(2, 200 << 20))];
    assert!(refusals(&plain, true, &own, near(), "b").is_empty());

    let mut drained = topology();
    drained.members.insert(id("b"), Member { drained: true, ..Member::default() });
    let mut moving = topology();
    moving.transition = Some(Transition { id: 1, from: id("a"), to: id("c"), timeout_ms: 1 });
    let away = taken(&plain, "c", Cause::Failover);
    let quiet = Server::Standby {
        timeline: Some(pangea_base::Timeline(2)),
        received: None,
        replayed: None,
        streaming: true,
    };
    let apart = match standby(2, 200 << 20) {
        Server::Standby { timeline, received, replayed, .. } => {
            Server::Standby { timeline, received, replayed, streaming: false }
        }
        other => other,
    };
    let unknown = Server::Primary { position: None, promotion: None };
    let table = [
        (refusals(&away, true, &own, near(), "b"), "primary: the primary is c: ask that region"),
        (
            refusals(&plain, false, &own, near(), "b"),
            "primary: a does not take writes at present: wait until it does, see `pangea status`",
        ),
        (
            refusals(&moving, true, &own, near(), "b"),
            "transition: a switchover to c is under way: wait until it has ended",
        ),
        (
            refusals(&drained, true, &own, near(), "b"),
            "target: b is drained: `pangea region undrain b` first",
        ),
        (refusals(&plain, true, &own, near(), "d"), "target: there is no region d: choose one of a, b, c"),
        (refusals(&plain, true, &own, near(), "a"), "target: a is the primary already: name another region"),
        (refusals(&plain, true, &own, vec![], "b"), "target answers: b does not answer: is it running?"),
        (
            refusals(&plain, true, &own, vec![says("b", Server::Down)], "b"),
            "target follows: the server of b is not a running standby: see `pangea status`",
        ),
        (
            refusals(&plain, true, &own, vec![says("b", apart)], "b"),
            "target follows: b does not stream from the primary: see `pangea status`",
        ),
        (
            refusals(&plain, true, &unknown, near(), "b"),
            "lag: the primary's own position is not known: try again in a moment",
        ),
        (
            refusals(&plain, true, &own, vec![says("b", quiet)], "b"),
            "lag: the position of b is not known: try again in a moment",
        ),
        (
            refusals(&plain, true, &own, vec![says("b", standby(1, 200 << 20))], "b"),
            "lag: b is on timeline 1, the primary on 2: wait until it follows",
        ),
        (
            refusals(&plain, true, &own, vec![says("b", standby(2, 100 << 20))], "b"),
            "lag: 104857600 bytes behind, more than 67108864: wait until it has caught up",
        ),
    ];
    for (found, expected) in table {
        assert_eq!(found.first().map(String::as_str), Some(expected), "{found:?}");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a table is easier to read so")]
/// What region b, at 100 on timeline 1, objects; c is as said.
fn objection(
    topology: &Topology,
    own: Server,
    states: Vec<PeerState>,
    was_at: Option<u64>,
) -> Option<String> {
    Election {
        me: &id("b"),
        topology,
        server: &own,
        peers: &peers(states),
        since: seconds(9.0),
        primary_was_at: was_at.map(|lsn| position(1, lsn)),
        hears_primary: false,
    }
    .objection()
}

fn with(change: impl FnOnce(&mut Topology)) -> Topology {
    let mut it = topology();
    change(&mut it);
    it
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn objections_to_a_failover() {
    let own = || standby(1, 100);
    let c = |lsn| vec![says("c", standby(1, lsn))];
    let hears = || vec![PeerState { hears_primary: true, ..says("c", standby(1, 90)) }];
    let stranger = || vec![says("z", standby(1, 90))];
    let priority = |region: &'static str, priority| {
        with(move |it| {
            it.members.insert(id(region), Member { priority, drained: false });
        })
    };
    let drained = with(|it| {
        it.members.insert(id("b"), Member { drained: true, ..Member::default() });
    });
    let manual = with(|it| it.policy.automatic = false);
    let limit = with(|it| it.policy.loss_bytes_max = Some(10));
    let any = with(|it| it.policy.loss_bytes_max = None);
    let alone = with(|it| it.policy.observers_min = Some(1));
    let two = with(|it| {
        it.members.remove(&id("c"));
    });
    let sync = with(|it| it.durability = Durability::Sync { regions: 1 });
    let sync_alone = with(|it| {
        it.durability = Durability::Sync { regions: 1 };
        it.policy.observers_min = Some(1);
    });
    let later = with(|it| {
        it.durability = Durability::Sync { regions: 1 };
        it.durability_in_force = false;
    });
    let not_automatic = Some("automatic failover is switched off");
    let zero = Some("this region is drained or has priority 0");
    let one_of_two = Some("1 of 2 regions that must agree find that the primary is gone");
    let table = [
        ("plain", objection(&topology(), own(), c(90), Some(100)), None),
        ("switched off", objection(&manual, own(), c(90), Some(100)), not_automatic),
        ("priority 0", objection(&priority("b", 0), own(), c(90), Some(100)), zero),
        ("drained", objection(&drained, own(), c(90), Some(100)), zero),
        (
            "no server",
            objection(&topology(), Server::Down, c(90), Some(100)),
            Some("the server of this region is no running standby whose position is known"),
        ),
        (
            "it was primary",
            objection(&topology(), Server::Stopped { checkpoint: position(1, 100) }, c(90), None),
            Some("the server of this region is no running standby whose position is known"),
        ),
        ("c is away", objection(&topology(), own(), vec![], Some(100)), one_of_two),
        ("c hears the primary", objection(&topology(), own(), hears(), Some(100)), one_of_two),
        ("a stranger has no say", objection(&topology(), own(), stranger(), Some(100)), one_of_two),
        ("two regions", objection(&two, own(), vec![], Some(100)), one_of_two),
        (
            "two regions, the primary's own word",
            objection(&two, own(), vec![says("a", standby(1, 90))], Some(100)),
            one_of_two,
        ),
        ("alone by policy", objection(&alone, own(), vec![], Some(100)), None),
        ("c has more", objection(&topology(), own(), c(101), Some(100)), Some("c is to take over")),
        ("c has as much", objection(&topology(), own(), c(100), Some(100)), None),
        (
            "c has as much and is preferred",
            objection(&priority("c", 200), own(), c(100), Some(100)),
            Some("c is to take over"),
        ),
        ("c has more and never does", objection(&priority("c", 0), own(), c(101), Some(100)), None),
        (
            "too much lost",
            objection(&limit, own(), c(90), Some(111)),
            Some("11 bytes of log would be lost, more than the 10 that the policy allows"),
        ),
        ("as much as is allowed", objection(&limit, own(), c(90), Some(110)), None),
        (
            "nobody knows",
            objection(&limit, own(), c(90), None),
            Some("how far the primary was is not known, and so neither what would be lost"),
        ),
        ("nobody minds", objection(&any, own(), c(90), None), None),
        (
            "another timeline",
            objection(&limit, standby(0, 100), vec![says("c", standby(0, 90))], Some(100)),
            Some("this region has not followed the primary to timeline 1"),
        ),
        ("sync", objection(&sync, own(), c(90), None), None),
        (
            "sync, c unknown",
            objection(&sync_alone, own(), vec![], None),
            Some(
                "1 of 2 secondary regions are heard of, and the write may be on any 1 of them: 2 are needed",
            ),
        ),
        ("sync, not in force", objection(&later, own(), c(90), Some(100)), None),
    ];
    for (name, found, expected) in table {
        assert_eq!(found.as_deref(), expected, "{name}");
    }
}

#[test]
fn frequent_failovers_are_delayed() {
    let failovers = |count: usize, at: u64| {
        let mut it = topology();
        for _ in 0..count {
            it = it.claimed(&id("b"), Cause::Failover, at);
        }
        it
    };
    let delay = |topology: &Topology, wall: u64| {
        let (me, server, peers) = (id("b"), standby(1, 100), BTreeMap::new());
        let (since, primary_was_at) = (Duration::ZERO, None);
        Election {
            me: &me,
            topology,
            server: &server,
            peers: &peers,
            since,
            primary_was_at,
            hears_primary: false,
        }
        .back_off(wall)
        .as_secs()
    };
    let counts: Vec<u64> = (0..12).map(|count| delay(&failovers(count, 5000), 5100)).collect();
    assert_eq!(counts, [0, 0, 0, 30, 60, 120, 240, 480, 960, 1920, 1920, 1920]);
    assert_eq!(delay(&failovers(5, 5000), 5600), 0, "long ago");
    assert_eq!(delay(&failovers(5, 5000), 4900), 120, "another clock is a little ahead");
    assert_eq!(delay(&failovers(5, 4_000_000_000), 5000), 0, "another clock was wrong");
    assert_eq!(delay(&taken(&failovers(2, 5000), "b", Cause::Switchover), 5000), 0, "a switchover is none");
}

#[test]
fn refusals_of_a_forced_failover_say_what_to_do() {
    let lease = super::bench::lease("a", 1);
    let mut it = controller("b");
    assert_eq!(
        it.failover(seconds(0.0), true),
        Err("the store has not been read yet: try again in a moment".to_owned())
    );
    it.loaded(seconds(0.0), super::bench::loaded((1, 1), &topology(), &lease));
    assert_eq!(
        it.failover(seconds(1.0), true),
        Err("the server of b is not a running standby: see `pangea status`".to_owned())
    );
    it.server(standby(1, 100));
    let refused = it.failover(seconds(1.0), false).unwrap_err();
    assert!(refused.contains("durability async") && refused.contains("--allow-data-loss"), "{refused}");
    assert!(it.failover(seconds(1.0), true).unwrap().starts_with("writes may be lost"));
    let sync = TopologyChange::Durability(Durability::Sync { regions: 2 }).apply(&topology()).unwrap();
    let sync = TopologyChange::InForce(Durability::Sync { regions: 2 }).apply(&sync).unwrap();
    it.loaded(seconds(1.1), super::bench::loaded((2, 1), &sync, &lease));
    it.heard(seconds(1.2), says("a", primary(1, 100)));
    let refused = it.failover(seconds(1.3), false).unwrap_err();
    assert!(refused.contains("switchover"), "{refused}");
    it.lost(&id("a"));
    assert!(it.failover(seconds(1.3), false).unwrap().starts_with("nothing is lost"));

    // A drained region is none of those that hold every acknowledged write.
    let one = TopologyChange::Durability(Durability::Sync { regions: 1 }).apply(&topology()).unwrap();
    let mut one = TopologyChange::InForce(Durability::Sync { regions: 1 }).apply(&one).unwrap();
    one.members.entry(id("b")).or_default().drained = true;
    it.loaded(seconds(1.35), super::bench::loaded((3, 1), &one, &lease));
    let refused = it.failover(seconds(1.36), false).unwrap_err();
    assert!(refused.contains("0 of 1"), "{refused}");

    let removed = TopologyChange::Remove(id("b")).apply(&topology()).unwrap();
    it.loaded(seconds(1.4), super::bench::loaded((4, 1), &removed, &lease));
    assert!(it.failover(seconds(1.5), true).unwrap_err().contains("add it again"));
}
