//! Histories that are right, and one that is wrong in each way: the checks must tell them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pangea_base::RegionId;
use pangea_control::Cause;

use super::*;

/// What happened, to be judged.
#[derive(Default)]
struct Scene {
    writes: Vec<Write>,
    rows: Vec<i64>,
    reported: Vec<(String, RowId)>,
    causes: Vec<Cause>,
    sync: bool,
}

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

impl Scene {
    /// A write of one row from one time to another, in milliseconds.
    fn write(mut self, id: i64, times: [u64; 2], outcome: Outcome) -> Self {
        self.writes.push(Write {
            round: 1,
            writer: WriterId(1),
            ids: vec![RowId(id)],
            via: Via::Endpoint(region("eu-west-1")),
            sent: Duration::from_millis(times[0]),
            ended: Duration::from_millis(times[1]),
            outcome,
            said: String::new(),
        });
        self
    }

    fn by(self, id: i64, times: [u64; 2], server: &str, timeline: u32) -> Self {
        let there = Self { rows: [self.rows.clone(), vec![id]].concat(), ..self };
        there.lost_by(id, times, server, timeline)
    }

    fn lost_by(self, id: i64, times: [u64; 2], server: &str, timeline: u32) -> Self {
        let outcome = Outcome::Acknowledged(Reign { timeline, server: server.to_owned() });
        self.write(id, times, outcome)
    }

    fn report(mut self, id: i64) -> Self {
        self.reported.push(("a".to_owned(), RowId(id)));
        self
    }

    fn judged(&self) -> Verdict {
        let rows: Vec<RowId> = self.rows.iter().copied().map(RowId).collect();
        let count = i64::try_from(rows.len()).unwrap();
        let table = Table { rows, counters: BTreeMap::from([(WriterId(1), count)]) };
        self.judged_with(&BTreeMap::from([
            (region("eu-west-1"), table.clone()),
            (region("us-east-1"), table),
        ]))
    }

    fn judged_with(&self, tables: &BTreeMap<RegionId, Table>) -> Verdict {
        check(&Evidence {
            round: 1,
            writes: &self.writes,
            tables,
            reported: &self.reported,
            lost_before: &BTreeSet::new(),
            causes: &self.causes,
            sync: self.sync,
        })
    }

    fn violates(&self, expected: &[Invariant]) {
        let verdict = self.judged();
        let all = [
            Invariant::OneWriter,
            Invariant::LossIsReported,
            Invariant::NoLossSwitchover,
            Invariant::ZeroLossWhenSync,
            Invariant::AtMostOnce,
            Invariant::RegionsAgree,
        ];
        let found: Vec<_> = all.into_iter().filter(|invariant| verdict.count(*invariant) > 0).collect();
        assert_eq!(found, expected, "{verdict}");
    }
}

#[test]
fn a_failover_with_a_reported_loss_is_right() {
    let scene = Scene { causes: vec![Cause::Failover], ..Scene::default() };
    let scene = scene.by(1, [0, 10], "us", 1).lost_by(2, [10, 20], "us", 1).report(2);
    // Sent to the old primary before the new one acknowledged, answered after.
    let scene = scene.lost_by(3, [20, 500], "us", 1).report(3);
    // Whose outcome nobody knows may be there, lost, or reported.
    let scene = scene.write(4, [20, 500], Outcome::Unknown).report(4);
    let mut scene = scene.write(5, [20, 500], Outcome::Unknown).write(6, [20, 500], Outcome::Failed);
    scene.rows.push(5);
    scene.by(7, [300, 310], "eu", 2).by(8, [310, 320], "eu", 2).violates(&[]);
}

#[test]
fn two_writers_are_found() {
    // The old primary acknowledges what was sent after the new one has acknowledged.
    let scene = Scene { causes: vec![Cause::Failover], ..Scene::default() };
    let scene = scene.by(1, [0, 10], "us", 1).by(2, [300, 310], "eu", 2);
    scene.lost_by(3, [320, 330], "us", 1).report(3).violates(&[Invariant::OneWriter]);
    let only_after = Scene { causes: vec![Cause::Failover], ..Scene::default() };
    let only_after = only_after.by(2, [300, 310], "eu", 2).lost_by(3, [320, 330], "us", 1).report(3);
    only_after.violates(&[Invariant::OneWriter]);
}

#[test]
fn one_timeline_of_two_servers_is_found() {
    let scene = Scene { causes: vec![Cause::Failover], ..Scene::default() };
    scene.by(1, [0, 10], "us", 2).by(2, [300, 310], "eu", 2).violates(&[Invariant::OneWriter]);
}

#[test]
fn unreported_losses_are_found() {
    let failover = || Scene { causes: vec![Cause::Failover], ..Scene::default() };
    failover().lost_by(1, [0, 10], "us", 1).violates(&[Invariant::LossIsReported]);
    failover().by(1, [0, 10], "us", 1).report(1).violates(&[Invariant::LossIsReported]);
    failover().write(1, [0, 10], Outcome::Failed).report(1).violates(&[Invariant::LossIsReported]);
    failover().report(9).violates(&[Invariant::LossIsReported]);
}

#[test]
fn reported_losses_are_found_where_nothing_may_be_lost() {
    let switchover = Scene { causes: vec![Cause::Switchover], ..Scene::default() };
    switchover.lost_by(1, [0, 10], "us", 1).report(1).violates(&[Invariant::NoLossSwitchover]);
    let sync = Scene { causes: vec![Cause::Failover], sync: true, ..Scene::default() };
    sync.lost_by(1, [0, 10], "us", 1).report(1).violates(&[Invariant::ZeroLossWhenSync]);
}

#[test]
fn repetitions_and_halves_are_found() {
    let mut twice = Scene::default().by(1, [0, 10], "us", 1);
    twice.rows.push(1);
    twice.violates(&[Invariant::AtMostOnce]);
    let mut failed = Scene::default().write(1, [0, 10], Outcome::Failed);
    failed.rows.push(1);
    failed.violates(&[Invariant::AtMostOnce]);
    let mut stranger = Scene::default().by(1, [0, 10], "us", 1);
    stranger.rows.push(2);
    stranger.violates(&[Invariant::AtMostOnce]);
    let mut half = Scene::default().by(1, [0, 10], "us", 1);
    half.writes[0].ids.push(RowId(2));
    half.violates(&[Invariant::LossIsReported, Invariant::NoLossSwitchover, Invariant::AtMostOnce]);
}

#[test]
fn a_counter_that_is_wrong_and_regions_that_differ_are_found() {
    let scene = Scene::default().by(1, [0, 10], "us", 1);
    let table = |n| Table { rows: vec![RowId(1)], counters: BTreeMap::from([(WriterId(1), n)]) };
    let verdict = scene.judged_with(&BTreeMap::from([(region("us-east-1"), table(2))]));
    assert_eq!(verdict.count(Invariant::AtMostOnce), 1, "{verdict}");
    let two = BTreeMap::from([(region("eu-west-1"), table(1)), (region("us-east-1"), table(2))]);
    let verdict = scene.judged_with(&two);
    assert_eq!(verdict.count(Invariant::RegionsAgree), 1, "{verdict}");
}

#[test]
fn a_seed_is_a_plan_and_a_wanted_fault_is_in_it() {
    let menu =
        Menu { lease: Duration::from_millis(1500), disks: false, clocks: false, wanted: String::new() };
    for seed in 0..200 {
        let plan = Plan::new(seed, &menu);
        assert_eq!(plan, Plan::new(seed, &menu));
        assert!(!plan.faults.is_empty());
        for never in ["disk-full", "clock-step", "unfenced"] {
            assert!(!plan.to_string().contains(never), "{plan}");
        }
    }
    let menu = Menu { disks: true, wanted: "disk-full".to_owned(), ..menu };
    assert!(Plan::new(7, &menu).to_string().contains("disk-full(primary)"));
}

#[test]
fn clocks_are_set_ahead_and_back_by_seconds_to_hours() {
    let lease = Duration::from_millis(1500);
    let menu = Menu { lease, disks: false, clocks: true, wanted: "clock-step".to_owned() };
    let mut steps = Vec::new();
    for seed in 0..300 {
        let plan = Plan::new(seed, &menu);
        assert_eq!(plan, Plan::new(seed, &menu));
        let step =
            |timed: &Timed| if let Fault::ClockStep(_, seconds) = timed.fault { Some(seconds) } else { None };
        let found: Vec<i32> = plan.faults.iter().filter_map(step).collect();
        assert!(!found.is_empty(), "{plan}");
        steps.extend(found);
    }
    assert!(steps.iter().all(|seconds| (2..=14 * 3600).contains(&seconds.abs())), "{steps:?}");
    for way in [1, -1] {
        assert!(steps.iter().any(|seconds| (1..=10).contains(&(way * seconds))), "{steps:?}");
        assert!(steps.iter().any(|seconds| way * seconds > 7200), "{steps:?}");
    }
}
