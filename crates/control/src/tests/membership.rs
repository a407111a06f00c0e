//! Regions that come and go, and data that are made anew.

use crate::election::Peer;
use crate::{
    Cause, Controller, Desired, Durability, Member, PeerState, Server, Topology, TopologyChange, Transition,
    Written, removal_objection,
};

use super::bench::{controller, id, lease, loaded, poll, primary, says, seconds, standby, taken, topology};

fn without(name: &str) -> Topology {
    let mut topology = topology();
    topology.members.remove(&id(name));
    topology
}

/// Region `b` of a topology, whose server follows; the primary was never heard and its lease was seen at 0.
fn region_b(topology: &Topology) -> Controller {
    let mut b = controller("b");
    b.loaded(seconds(0.0), loaded((1, 1), topology, &lease("a", 1)));
    b.server(standby(1, 100));
    b
}

#[test]
fn every_refusal_of_a_removal_says_what_to_do() {
    let said =
        |topology: &Topology, region: &str| removal_objection(topology, &id(region)).unwrap_or_default();
    let plain = topology();
    assert!(said(&plain, "a").contains("pangea switchover"));
    assert_eq!(removal_objection(&plain, &id("b")), None);
    assert_eq!(removal_objection(&plain, &id("elsewhere")), None);
    let mut moving = plain.clone();
    moving.transition = Some(Transition { id: 1, from: id("a"), to: id("c"), timeout_ms: 1 });
    assert!(said(&moving, "b").contains("a switchover to c is under way"));
    let mut sync = plain.clone();
    sync.durability = Durability::Sync { regions: 2 };
    assert!(said(&sync, "b").contains("sync(2) needs 2") && said(&sync, "b").contains("there are 1"));
    sync.members.insert(id("d"), Member { drained: true, ..Member::default() });
    assert!(!said(&sync, "b").is_empty());
    assert_eq!(removal_objection(&sync, &id("d")), None, "a drained region does not count");
    sync.durability = Durability::Bounded { seconds: 5 };
    sync.members.remove(&id("c"));
    assert!(said(&sync, "b").contains("bounded(5)"));
    for refused in [TopologyChange::Remove(id("a")), TopologyChange::Remove(id("b"))] {
        assert_eq!(refused.apply(&moving), None);
    }
    let removed = TopologyChange::Remove(id("b")).apply(&plain).unwrap();
    assert_eq!(removed, without("b"));
}

#[test]
fn documents_of_before_are_read() {
    let text = serde_json::to_string(&topology()).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), topology());
    let old = r#"{"priority":100}"#;
    assert_eq!(serde_json::from_str::<Member>(old).unwrap(), Member::default());
}

#[test]
fn only_the_primary_adds_a_region() {
    let mut b = region_b(&without("c"));
    let add = TopologyChange::Member(id("c"), Member::default());
    assert!(b.change(add.clone()).unwrap_err().contains("the primary's region"));
    b.change(TopologyChange::Member(id("a"), Member { priority: 7, drained: false })).unwrap();
    let (write, _) = poll(&mut b, 0.1);
    assert_eq!(write.unwrap().topology.unwrap().members[&id("a")].priority, 7);

    // What it was asked for while it was primary it does not write as a secondary.
    let mut a = controller("a");
    a.loaded(seconds(0.0), loaded((1, 1), &without("c"), &lease("a", 1)));
    a.change(add).unwrap();
    a.loaded(seconds(0.1), loaded((2, 2), &taken(&without("c"), "b", Cause::Failover), &lease("b", 2)));
    let (write, output) = poll(&mut a, 0.2);
    assert_eq!((write, output.desired), (None, Desired::Standby));
}

/// The word of those that it knows is not enough once there may be a region that it has not seen in the topology.
#[test]
fn fail_safe_mode_needs_the_word_of_a_region_that_is_being_added() {
    let until = |asked: &[&str], add: bool| {
        let mut a = controller("a");
        a.loaded(seconds(0.0), loaded((1, 1), &without("c"), &lease("a", 1)));
        a.server(primary(1, 100));
        let (write, _) = poll(&mut a, 0.1);
        a.written(Written::Done);
        let renewed = write.unwrap().lease.unwrap();
        a.loaded(seconds(0.2), loaded((1, 2), &without("c"), &renewed));
        if add {
            a.change(TopologyChange::Member(id("c"), Member::default())).unwrap();
            let (write, _) = poll(&mut a, 0.3);
            assert!(write.unwrap().topology.unwrap().members.contains_key(&id("c")));
            a.written(Written::Unknown);
        }
        for region in asked {
            let word = PeerState { confirms: Some(pangea_base::Epoch(1)), ..says(region, standby(1, 100)) };
            a.heard(seconds(2.0), word);
        }
        a.poll(seconds(2.1), 1000).lease_until.unwrap()
    };
    assert!(until(&["b"], false) > seconds(4.0));
    assert!(until(&["b"], true) < seconds(3.0));
    assert!(until(&["b", "c"], true) > seconds(4.0));
}

#[test]
fn a_removed_region_has_no_say_and_takes_nothing_over() {
    // Its word that the primary is gone would make the majority.
    let four = TopologyChange::Member(id("d"), Member::default()).apply(&topology()).unwrap();
    for (members, others, takes_over) in
        [(&topology(), ["c", "d"], true), (&four, ["c", "d"], true), (&topology(), ["d", "e"], false)]
    {
        let mut b = region_b(members);
        for other in others {
            b.heard(seconds(9.0), says(other, standby(1, 90)));
        }
        b.primary_was_at = Some(super::bench::position(1, 100));
        let (write, _) = poll(&mut b, 10.0);
        assert_eq!(write.is_some(), takes_over, "{others:?}: {:?}", b.objection());
    }

    let mut removed = region_b(&without("b"));
    removed.heard(seconds(9.0), says("c", standby(1, 90)));
    let (write, output) = poll(&mut removed, 10.0);
    assert_eq!((write, output.desired), (None, Desired::Standby));
    assert!(removed.failover(seconds(10.0), true).unwrap_err().contains("not a region of this cluster"));

    // What it said before it was removed is forgotten, and so it keeps no switchover from being held.
    let mut a = controller("a");
    a.loaded(seconds(0.0), loaded((1, 1), &topology(), &lease("a", 1)));
    a.heard(seconds(0.1), says("b", standby(1, 100)));
    assert_eq!(a.peers().count(), 1);
    a.loaded(seconds(0.2), loaded((2, 1), &without("b"), &lease("a", 1)));
    a.heard(seconds(0.3), says("b", standby(1, 100)));
    a.asked(seconds(0.3), says("b", standby(1, 100)));
    assert_eq!(a.peers().count(), 0);
}

#[test]
fn data_are_not_thrown_away_that_may_be_needed() {
    let well = || {
        let mut b = region_b(&topology());
        b.heard(seconds(1.0), says("a", primary(1, 100)));
        b
    };
    let refusal = |mut controller: Controller| controller.rebuild(seconds(1.1)).unwrap_err();
    assert!(refusal(controller("b")).contains("try again"));
    assert!(refusal(region_b(&topology())).contains("does not answer"));
    let mut a = controller("a");
    a.loaded(seconds(0.0), loaded((1, 1), &topology(), &lease("a", 1)));
    assert!(refusal(a).contains("is the primary"));
    let mut moving = topology();
    moving.transition = Some(Transition { id: 1, from: id("a"), to: id("b"), timeout_ms: 1 });
    let mut target = well();
    target.loaded(seconds(1.05), loaded((2, 1), &moving, &lease("a", 1)));
    assert!(refusal(target).contains("a switchover to b is under way"));
    let mut forced = well();
    forced.failover(seconds(1.05), true).unwrap();
    assert!(refusal(forced).contains("about to take over"));

    // While its data go it does not take over; others, who know only that its server ran, may wait for it.
    let mut b = well();
    assert_eq!(b.rebuild(seconds(1.1)), Ok(1));
    assert_eq!(b.rebuild(seconds(1.2)), Ok(1), "asked again it is the same");
    b.lost(&id("a"));
    b.peers.insert(id("c"), Peer { state: says("c", standby(1, 90)), asked: Some(seconds(9.0)) });
    let (write, _) = poll(&mut b, 10.0);
    assert_eq!((write, b.objection()), (None, Some("the data of its server are being made anew")));
    assert!(b.failover(seconds(10.0), true).is_err());
    b.server(Server::Down);
    b.rebuilt(1);
    assert!(!b.is_rebuilding() && poll(&mut b, 10.1).0.is_none());
    b.server(standby(1, 100));
    assert!(poll(&mut b, 10.2).0.is_some());
}

/// Found by the simulation: commits have waited for `c` alone, and `b` took its own position for a proof.
#[test]
fn a_drained_region_proves_nothing_by_itself() {
    let mut drained = topology();
    drained.durability = Durability::Sync { regions: 1 };
    drained.members.insert(id("b"), Member { drained: true, ..Member::default() });
    let mut b = region_b(&drained);
    let refusal = b.failover(seconds(1.0), false).unwrap_err();
    assert!(refusal.contains("0 of 1 secondary regions are heard of"), "{refusal}");
    b.heard(seconds(1.0), says("c", standby(1, 100)));
    assert!(b.failover(seconds(1.1), false).is_ok());
}
