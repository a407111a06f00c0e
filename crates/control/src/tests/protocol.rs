//! Orders of events that once went wrong, and what is recorded of a switchover.

use pangea_base::Epoch;

use crate::{
    Cause, Controller, Desired, Durability, Hold, Lease, Outcome, Scope, Server, StepKind, SwitchoverRequest,
    TopologyChange, Transition, Written,
};

use super::bench::{
    TTL, controller, id, lease, loaded, poll, position, primary, says, seconds, standby, taken, topology,
};

/// A primary that has renewed its lease at 0 s: versions (1, 2).
fn holder() -> (Controller, Lease) {
    let mut it = controller("a");
    it.loaded(seconds(0.0), loaded((1, 1), &topology(), &lease("a", 4)));
    it.server(primary(1, 100));
    let (write, _) = poll(&mut it, 0.0);
    let renewed = write.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(0.1), loaded((1, 2), &topology(), &renewed));
    let (_, output) = poll(&mut it, 0.1);
    assert_eq!((output.desired, output.lease_until), (Desired::Primary, Some(seconds(2.5))));
    (it, renewed)
}

#[test]
fn a_renewal_that_was_applied_late_is_not_taken_for_a_later_attempt() {
    let (mut it, renewed) = holder();
    let late = poll(&mut it, 0.8).0.unwrap().lease.unwrap();
    it.written(Written::Unknown);
    it.loaded(seconds(1.0), loaded((1, 2), &topology(), &renewed));
    let again = poll(&mut it, 2.4).0.unwrap().lease.unwrap();
    assert_ne!(late.renewal, again.renewal);
    it.written(Written::Unknown);
    it.loaded(seconds(2.45), loaded((1, 3), &topology(), &late));
    assert_eq!(poll(&mut it, 2.46).1.lease_until, Some(seconds(2.5)), "others count from the first");
}

#[test]
fn a_load_from_before_a_write_does_not_unmake_it() {
    let (mut it, renewed) = holder();
    let next = poll(&mut it, 1.0).0.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(1.1), loaded((1, 2), &topology(), &renewed));
    it.loaded(seconds(1.2), loaded((1, 3), &topology(), &next));
    assert_eq!(poll(&mut it, 1.2).1.lease_until, Some(seconds(3.5)));
}

#[test]
fn a_load_from_after_a_write_may_overtake_the_answer() {
    let (mut it, _) = holder();
    let next = poll(&mut it, 1.0).0.unwrap().lease.unwrap();
    it.loaded(seconds(1.1), loaded((1, 3), &topology(), &next));
    it.written(Written::Done);
    it.loaded(seconds(1.2), loaded((1, 3), &topology(), &next));
    assert_eq!(poll(&mut it, 1.2).1.lease_until, Some(seconds(3.5)));
}

#[test]
fn no_word_is_given_by_a_process_that_has_not_read_the_store() {
    let mut it = controller("b");
    let mut question = says("a", primary(1, 100));
    question.confirm_ms = Some(3000);
    let answer = it.asked(seconds(1.0), question.clone()).unwrap();
    assert_eq!(answer.confirms, None);
    it.loaded(seconds(1.1), loaded((1, 1), &topology(), &lease("a", 1)));
    assert_eq!(it.asked(seconds(1.2), question).unwrap().confirms, Some(Epoch(1)));
}

#[test]
fn a_forced_claim_waits_for_the_former_lease_however_it_is_learnt_of() {
    let claimed = taken(&topology(), "b", Cause::Forced);
    // Its answer was lost, it was not there when looked for, and was applied later.
    let mut it = controller("b");
    it.loaded(seconds(0.0), loaded((1, 1), &topology(), &lease("a", 1)));
    it.server(standby(1, 100));
    it.failover(seconds(10.0), true).unwrap();
    let claim = poll(&mut it, 10.0).0.unwrap();
    it.written(Written::Unknown);
    it.loaded(seconds(10.1), loaded((1, 1), &topology(), &lease("a", 1)));
    it.loaded(seconds(12.0), loaded((2, 2), &claimed, claim.lease.as_ref().unwrap()));
    let renewed = poll(&mut it, 12.0).0.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(12.1), loaded((2, 3), &claimed, &renewed));
    assert_eq!(poll(&mut it, 12.2).1.desired, Desired::Standby);
    let renewed = poll(&mut it, 14.0).0.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(14.1), loaded((2, 4), &claimed, &renewed));
    assert_eq!(poll(&mut it, 15.4).1.desired, Desired::Standby);
    assert_eq!(poll(&mut it, 15.6).1.desired, Desired::Primary);
}

#[test]
fn a_chain_of_forced_claims_waits_for_the_first_primary() {
    let twice = taken(&taken(&topology(), "b", Cause::Forced), "c", Cause::Forced);
    let mut it = controller("c");
    it.loaded(seconds(0.0), loaded((3, 3), &twice, &lease("c", 1)));
    it.server(standby(1, 100));
    let renewed = poll(&mut it, 0.0).0.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(0.1), loaded((3, 4), &twice, &renewed));
    let state = |region: &str| {
        let mut state = says(region, standby(1, 100));
        (state.epoch, state.primary) = (Epoch(3), id("c"));
        state
    };
    it.heard(seconds(0.2), state("b"));
    assert_eq!(poll(&mut it, 0.2).1.desired, Desired::Standby, "a may still take writes");
    it.heard(seconds(0.3), state("a"));
    assert_eq!(poll(&mut it, 0.3).1.desired, Desired::Primary);
}

#[test]
fn an_inherited_transition_is_rolled_back_before_anything_is_written() {
    let mut it = controller("a");
    let transition = Transition { id: 5, from: id("a"), to: id("b"), timeout_ms: 1000 };
    let begun = TopologyChange::Transition(transition.clone()).apply(&topology()).unwrap();
    it.loaded(seconds(0.0), loaded((2, 1), &begun, &lease("a", 1)));
    // Another change, before anything is decided.
    let other = TopologyChange::Durability(Durability::Sync { regions: 1 }).apply(&begun).unwrap();
    it.loaded(seconds(0.1), loaded((3, 1), &other, &lease("a", 1)));
    it.server(primary(1, 100));
    let renewed = poll(&mut it, 0.1).0.unwrap().lease.unwrap();
    it.written(Written::Done);
    it.loaded(seconds(0.2), loaded((3, 2), &other, &renewed));
    let (write, output) = poll(&mut it, 0.2);
    assert_eq!(output.desired, Desired::Stopped, "the target may have been told of a checkpoint");
    assert!(!output.gate.unwrap().open);
    let next = write.unwrap().topology.unwrap();
    assert!(matches!(&next.last_transition, Some((last, Outcome::RolledBack(_))) if *last == transition));
    it.written(Written::Done);
    it.loaded(seconds(0.3), loaded((4, 2), &next, &renewed));
    assert_eq!(poll(&mut it, 0.3).1.desired, Desired::Primary);
}

#[test]
fn the_steps_of_a_switchover_are_recorded() {
    let (mut a, renewed) = holder();
    a.heard(seconds(0.2), says("b", standby(1, 100)));
    let request = SwitchoverRequest { to: id("b"), timeout_ms: 1000, dry_run: false };
    let checks = a.switchover(seconds(0.2), 5, &request);
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    let begun = poll(&mut a, 0.2).0.unwrap().topology.unwrap();
    a.written(Written::Done);
    a.loaded(seconds(0.3), loaded((3, 2), &begun, &renewed));
    assert_eq!(poll(&mut a, 0.3).1.prepare, Some(5));
    a.prepared(5);
    let holds = |a: &mut Controller, scope| {
        let hold = Some(Hold { transition: 5, scope });
        let output = poll(a, 0.31).1;
        let gate = output.gate.unwrap();
        assert_eq!((output.desired, gate.hold, gate.successor), (Desired::Primary, hold, Some(id("b"))));
        hold
    };
    let blocks = holds(&mut a, Scope::Blocks);
    a.gateway(blocks, 0);
    assert_eq!(holds(&mut a, Scope::Blocks), blocks, "b has not answered");
    let mut held = says("b", standby(1, 100));
    (held.held, held.at_us) = (blocks, 2);
    a.heard(seconds(0.32), held);
    let all = holds(&mut a, Scope::All);
    a.gateway(all, 0);
    assert_eq!(poll(&mut a, 0.33).1.desired, Desired::Stopped, "what b sends comes by this gateway");
    let checkpoint = position(1, 120);
    a.server(Server::Stopped { checkpoint });
    let offer = poll(&mut a, 0.4).1.state.unwrap();
    assert!(offer.offer.is_some());

    let mut b = controller("b");
    b.loaded(seconds(9.0), loaded((3, 2), &begun, &renewed));
    b.asked(seconds(9.1), offer);
    b.server(standby(1, 120));
    let (write, output) = poll(&mut b, 9.1);
    assert!(write.is_none(), "the checkpoint is not replayed");
    assert_eq!(output.gate.unwrap().successor, Some(id("b")));
    b.server(standby(1, 128));
    let claim = poll(&mut b, 9.2).0.unwrap();
    let (topology, lease) = (claim.topology.unwrap(), claim.lease.unwrap());
    b.written(Written::Done);
    b.loaded(seconds(9.3), loaded((4, 4), &topology, &lease));
    assert_eq!(poll(&mut b, 9.3).1.desired, Desired::Primary);
    b.server(primary(2, 136));
    let gate = poll(&mut b, 9.4).1.gate.unwrap();
    assert_eq!((gate.open, gate.successor), (true, None));
    a.loaded(seconds(0.6), loaded((4, 4), &topology, &lease));
    assert_eq!(poll(&mut a, 0.6).1.desired, Desired::Standby);
    assert!(matches!(&topology.last_transition, Some((_, Outcome::Done))));

    let kinds = |it: &Controller| it.steps().into_iter().map(|step| step.kind).collect::<Vec<_>>();
    let writable = StepKind::Writable;
    let began = [writable.clone(), StepKind::Began, StepKind::Prepared, StepKind::Quiet, StepKind::Held];
    assert_eq!(kinds(&a)[..5], began);
    assert_eq!(kinds(&a)[5], StepKind::Stopped { checkpoint });
    let claimed = StepKind::Claimed { epoch: Epoch(2) };
    assert_eq!(kinds(&b), [StepKind::CaughtUp, claimed, writable]);
    assert!(a.steps().iter().skip(1).all(|step| step.transition == Some(5)), "{:?}", a.steps());
}

#[test]
fn what_was_said_of_an_earlier_topology_is_not_written_over_a_later_one() {
    let (mut it, renewed) = holder();
    let sync = Durability::Sync { regions: 1 };
    let wanted = TopologyChange::Durability(sync).apply(&topology()).unwrap();
    it.loaded(seconds(0.2), loaded((3, 2), &wanted, &renewed));
    it.change(TopologyChange::InForce(sync)).unwrap();
    let drained = crate::Member { drained: true, ..crate::Member::default() };
    let later = TopologyChange::Member(id("c"), drained).apply(&wanted).unwrap();
    it.loaded(seconds(0.3), loaded((4, 2), &later, &renewed));
    assert_eq!(poll(&mut it, 0.3).0, None);
    it.change(TopologyChange::InForce(sync)).unwrap();
    assert!(poll(&mut it, 0.4).0.unwrap().topology.unwrap().durability_in_force);
}

#[test]
fn a_fenced_primary_closes_and_says_so() {
    let (mut it, _) = holder();
    poll(&mut it, 2.0);
    let (_, output) = poll(&mut it, 2.5);
    assert_eq!((output.desired, output.gate.unwrap().open), (Desired::Standby, false));
    assert!(matches!(it.steps().last().unwrap().kind, StepKind::Fenced { .. }));
    assert!(TTL > seconds(2.5));
}

#[test]
fn a_claim_that_is_seen_before_its_answer_has_no_lease_of_an_earlier_epoch() {
    let (mut it, _) = holder();
    let theirs = topology().claimed(&id("b"), Cause::Switchover, 0);
    it.loaded(seconds(5.0), loaded((2, 3), &theirs, &lease("b", 1)));
    it.server(standby(1, 100));
    poll(&mut it, 5.0);
    let own = theirs.claimed(&id("a"), Cause::Switchover, 0);
    it.loaded(seconds(10.0), loaded((3, 4), &own, &lease("a", 1)));
    let (_, output) = poll(&mut it, 10.0);
    assert_eq!(
        (output.lease_until, output.desired),
        (None, Desired::Standby),
        "a watchdog would kill at once"
    );
}
