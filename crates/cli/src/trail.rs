//! The steps of a change of primary, as the regions tell them, in the order of time.
//!
//! All regions of one machine time their steps by one clock, and so theirs can be put in one row.

use pangea_base::RegionId;
use pangea_control::StepKind;
use pangea_node::ControlStatus;
use serde::Serialize;
use serde_json::json;

use crate::say;
use crate::table::milliseconds;

/// A step may be told this much later than the time that it names.
const LATE_US: u64 = 5_000;

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Event {
    pub(crate) region: RegionId,
    /// Since the request.
    pub(crate) after_us: u64,
    #[serde(flatten)]
    pub(crate) kind: StepKind,
}

/// The steps since a request.
#[derive(Debug)]
pub(crate) struct Trail {
    /// When it was made, by the clock of the regions.
    since_us: u64,
    /// Steps of another transition are left out.
    transition: Option<u64>,
    /// Width of the longest name of a region.
    width: usize,
    events: Vec<Event>,
    /// How many of them were shown.
    shown: usize,
}

impl Trail {
    pub(crate) fn new(since_us: u64, transition: Option<u64>, regions: &[RegionId]) -> Self {
        let width = regions.iter().map(|region| region.as_str().len()).max().unwrap_or_default();
        Self { since_us, transition, width, events: Vec::new(), shown: 0 }
    }

    /// Time since the request, as the region has it.
    pub(crate) fn after_us(&self, answer: &ControlStatus) -> u64 {
        answer.now_us.saturating_sub(self.since_us)
    }

    /// Takes note of what a region says.
    pub(crate) fn take(&mut self, answer: &ControlStatus) {
        for step in &answer.steps {
            let ours = self.transition.is_none() || step.transition == self.transition;
            let Some(after_us) = step.at_us.checked_sub(self.since_us).filter(|_| ours) else { continue };
            let event = Event { region: answer.region.clone(), after_us, kind: step.kind.clone() };
            if !self.events.contains(&event) {
                self.events.push(event);
            }
        }
    }

    /// Shows what is new, once all regions that answer have told everything up to there.
    pub(crate) fn show<'a>(&mut self, answers: impl Iterator<Item = &'a ControlStatus>) {
        let told = answers.map(|answer| self.after_us(answer)).min().unwrap_or_default();
        self.show_until(told.saturating_sub(LATE_US));
    }

    /// Shows all the rest.
    pub(crate) fn show_rest(&mut self) {
        self.show_until(u64::MAX);
    }

    fn show_until(&mut self, until_us: u64) {
        let Some(new) = self.events.get_mut(self.shown..) else { return };
        new.sort_by_key(|event| event.after_us);
        while let Some(event) = self.events.get(self.shown).filter(|event| event.after_us <= until_us) {
            let before = self.shown.checked_sub(1).and_then(|before| self.events.get(before));
            let before = before.map_or(0, |before| before.after_us);
            if self.shown == 0 {
                say(&format!(
                    "{:>10} {:>10}  {:<width$}  STEP",
                    "AFTER",
                    "TOOK",
                    "REGION",
                    width = self.width
                ));
            }
            let (after, took) =
                (milliseconds(event.after_us), milliseconds(event.after_us.saturating_sub(before)));
            say(&format!(
                "{after:>10} {took:>10}  {:<width$}  {}",
                event.region.as_str(),
                words(&event.kind),
                width = self.width
            ));
            self.shown += 1;
        }
    }

    /// The first step that `is` so.
    pub(crate) fn find(&self, is: impl Fn(&Event) -> bool) -> Option<&Event> {
        self.events.iter().find(|event| is(event))
    }

    /// All steps, for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!(self.events)
    }
}

/// What a region has done.
fn words(kind: &StepKind) -> String {
    match kind {
        StepKind::Began => "has recorded the switchover, and writes a checkpoint ahead".to_owned(),
        StepKind::Prepared => "has written it; new transaction blocks wait from here on".to_owned(),
        StepKind::Quiet => {
            "no transaction block is open in any region; all writes wait from here on".to_owned()
        }
        StepKind::Held => "its server executes nothing any more, and shuts down".to_owned(),
        StepKind::Stopped { checkpoint } => format!("has shut down: its log ends at {checkpoint}"),
        StepKind::CaughtUp => "has replayed all of it".to_owned(),
        StepKind::Claimed { epoch } => format!("is primary of epoch {epoch}, and promotes its server"),
        StepKind::Writable => "takes writes".to_owned(),
        StepKind::RolledBack { reason } => format!("rolls back: {reason}"),
        StepKind::Fenced { reason } => format!("accepts no writes any more: {reason}"),
    }
}
