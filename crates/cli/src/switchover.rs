//! `pangea switchover`.
//!
//! The regions do it; this command asks for it and looks on. Whatever becomes of the command, or of the region that it
//! asked, the switchover ends by itself: in the new primary, or rolled back.

use std::time::Duration;

use pangea_base::{Epoch, Position, RegionId};
use pangea_control::{Outcome, StepKind, SwitchoverRequest};
use pangea_lab::{HttpError, request_switchover};
use pangea_node::SwitchoverAnswer;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::args::Switchover;
use crate::exit::{Ended, Exit};
use crate::survey::{POLL, Regions, Survey};
use crate::table::{facts, milliseconds};
use crate::trail::Trail;
use crate::{print, print_json, runtime, say};

/// Longer than all the limits of the regions together, without that for transactions: checkpoint, shutdown, offer,
/// and the way back.
const STAGES_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time from the request to its record in the topology.
const RECORD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a target that does not follow yet is waited for.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Switchover) -> anyhow::Result<Exit> {
    runtime()?.block_on(switch(args))
}

async fn switch(args: &Switchover) -> anyhow::Result<Exit> {
    let regions = Regions::of(&args.data_dir)?;
    let survey = regions.ask().await;
    let from = survey.primary()?;
    let Some(primary) = survey.of(&from) else {
        return Err(Ended::refused(format!(
            "{from}, the primary, does not answer, and a switchover needs it: start it, or make another region primary \
             without it with `pangea failover --to {}`",
            args.to
        )));
    };
    let timeout_ms = args.timeout_ms;
    let request = SwitchoverRequest { to: args.to.clone(), timeout_ms, dry_run: args.dry_run };
    let mut since_us = primary.now_us;
    let patience = Instant::now() + FOLLOW_TIMEOUT;
    let answer = loop {
        let answer = ask(&regions, &from, &request).await?;
        if !follows_soon(&answer) || Instant::now() >= patience {
            break answer;
        }
        sleep(POLL).await;
        since_us = regions
            .ask_of(std::slice::from_ref(&from))
            .await
            .answers()
            .next()
            .map_or(since_us, |now| now.now_us);
    };
    if !args.json {
        print(&checks_text(&answer));
    }
    let ends = json!({ "from": from, "to": args.to, "checks": answer.checks });
    let Some(id) = answer.transition else {
        return without_move(args, &answer, ends);
    };
    say(&format!(
        "\nswitching over from {from} to {} (Ctrl-C ends this report, not the switchover)",
        args.to
    ));
    let watch = Watch {
        trail: Trail::new(since_us, Some(id), &regions.names()),
        regions: &regions,
        id,
        from,
        to: args.to.clone(),
        deadline: Instant::now() + STAGES_TIMEOUT + Duration::from_millis(timeout_ms),
        began: Instant::now(),
    };
    let (trail, report) = watch.until_the_end().await?;
    if args.json {
        let mut all = json!(report);
        merge(&mut all, ends);
        merge(&mut all, json!({ "steps": trail.json() }));
        print_json(&all)?;
    } else {
        print(&report.text());
    }
    Ok(if report.reason.is_none() { Exit::Done } else { Exit::RolledBack })
}

async fn ask(
    regions: &Regions,
    primary: &RegionId,
    request: &SwitchoverRequest,
) -> anyhow::Result<SwitchoverAnswer> {
    match request_switchover(&regions.layout, primary, request).await {
        Err(error @ HttpError::Exchange { .. }) if !request.dry_run => {
            let text =
                format!("it is not known whether the switchover has begun: {error}; see `pangea status`");
            Err(Ended::under_way(text))
        }
        answer => Ok(answer?),
    }
}

/// Whether only time is needed: what the primary has heard of the target is a moment old, and right after a change of
/// primary the target may not follow yet.
fn follows_soon(answer: &SwitchoverAnswer) -> bool {
    let mut failed = answer.checks.iter().filter(|check| !check.passed).peekable();
    failed.peek().is_some() && failed.all(|check| ["target follows", "lag"].contains(&check.name.as_str()))
}

/// It was a dry run, or is refused.
fn without_move(
    args: &Switchover,
    answer: &SwitchoverAnswer,
    mut ends: serde_json::Value,
) -> anyhow::Result<Exit> {
    let failed: Vec<&str> =
        answer.checks.iter().filter(|check| !check.passed).map(|check| check.found.as_str()).collect();
    if args.json {
        merge(&mut ends, json!({ "outcome": if failed.is_empty() { "possible" } else { "refused" } }));
        print_json(&ends)?;
    }
    if let Some(first) = failed.first() {
        // What fails after it often follows from it; the checks have been printed.
        return Err(Ended::refused(format!("no switchover to {}: {first}", args.to)));
    }
    say(&format!("\nnothing stands in the way of a switchover to {}; nothing was changed", args.to));
    Ok(Exit::Done)
}

fn checks_text(answer: &SwitchoverAnswer) -> String {
    let width = answer.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    let line = |check: &pangea_control::Check| {
        let mark = if check.passed { '✓' } else { '✗' };
        format!("{mark} {:<width$}  {}\n", check.name, check.found)
    };
    answer.checks.iter().map(line).collect()
}

/// Puts the members of one object into another.
pub(crate) fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

/// How a switchover ended.
#[derive(Debug, Serialize)]
struct Report {
    outcome: &'static str,
    transition: u64,
    /// The primary now.
    primary: RegionId,
    /// The primary before.
    former: RegionId,
    epoch: Epoch,
    /// Where the old primary's last checkpoint begins: nothing was written past it, and the target has replayed it.
    checkpoint: Option<Position>,
    /// How long all of the clients' writes waited; unknown when a region has been started anew meanwhile.
    held_us: Option<u64>,
    /// How long new transaction blocks waited: until then, those under way had to end.
    blocks_held_us: Option<u64>,
    took_us: u64,
    /// Why it was rolled back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Report {
    fn text(&self) -> String {
        let unknown = || "unknown: a region was started anew meanwhile".to_owned();
        let held = self.held_us.map_or_else(unknown, milliseconds);
        let blocks_held = self.blocks_held_us.map_or_else(unknown, milliseconds);
        let took = milliseconds(self.took_us);
        if let Some(reason) = &self.reason {
            let known = [
                ("reason", reason.clone()),
                ("primary", self.primary.to_string()),
                ("epoch", self.epoch.to_string()),
                ("writes were held for", held),
                ("new transactions for", blocks_held),
                ("took", took),
            ];
            return format!("\nrolled back: {} is primary\n{}", self.primary, facts(&known));
        }
        let checkpoint = self.checkpoint.map_or_else(unknown, |checkpoint| checkpoint.to_string());
        let known = [
            ("old primary", self.former.to_string()),
            ("new primary", self.primary.to_string()),
            ("epoch", self.epoch.to_string()),
            ("handed over at", checkpoint),
            ("writes were held for", held),
            ("new transactions for", blocks_held),
            ("took", took),
        ];
        format!("\ndone: {} is primary, nothing was lost\n{}", self.primary, facts(&known))
    }
}

struct Watch<'a> {
    regions: &'a Regions,
    trail: Trail,
    id: u64,
    from: RegionId,
    to: RegionId,
    deadline: Instant,
    began: Instant,
}

impl Watch<'_> {
    async fn until_the_end(mut self) -> anyhow::Result<(Trail, Report)> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let ends = [self.from.clone(), self.to.clone()];
        let mut survey = self.regions.ask_of(&ends).await;
        loop {
            if survey.answers().count() < ends.len() {
                // The others know how it stands, and one of them may be primary by now.
                survey = self.regions.ask().await;
            }
            survey.answers().for_each(|answer| self.trail.take(answer));
            self.trail.show(survey.answers());
            if let Some(report) = self.ended(&survey) {
                // Steps that one region had not told when another told of the end.
                let last = self.regions.ask_of(&ends).await;
                last.answers().for_each(|answer| self.trail.take(answer));
                self.trail.show_rest();
                let report = self.complete(report);
                return Ok((self.trail, report));
            }
            self.check_patience(&survey)?;
            tokio::select! {
                () = sleep(POLL) => {}
                _ = &mut interrupted => {
                    return Err(Ended::under_way(
                        "the switchover goes on without this command: `pangea status` tells how it ends",
                    ));
                }
            }
            survey = self.regions.ask_of(&ends).await;
        }
    }

    /// The report, when it is over.
    fn ended(&self, survey: &Survey) -> Option<Report> {
        let newest = survey.newest()?;
        let topology = newest.topology.as_ref()?;
        let (last, outcome) = topology.last_transition.as_ref().filter(|(last, _)| last.id == self.id)?;
        if !survey.is_writable(&topology.primary) {
            return None;
        }
        let reason = match outcome {
            Outcome::Done => None,
            Outcome::RolledBack(reason) => Some(reason.clone()),
        };
        let now = survey.of(&topology.primary).map_or(0, |answer| self.trail.after_us(answer));
        Some(Report {
            outcome: if reason.is_none() { "done" } else { "rolled_back" },
            transition: self.id,
            primary: topology.primary.clone(),
            former: last.from.clone(),
            epoch: topology.epoch,
            checkpoint: None,
            held_us: None,
            blocks_held_us: None,
            took_us: now,
            reason,
        })
    }

    /// With what the steps tell.
    fn complete(&self, mut report: Report) -> Report {
        let at = |is: &dyn Fn(&StepKind) -> bool| {
            self.trail.find(|event| is(&event.kind)).map(|event| event.after_us)
        };
        let prepared = at(&|kind| *kind == StepKind::Prepared);
        let quiet = at(&|kind| *kind == StepKind::Quiet);
        let writable =
            self.trail.find(|event| event.kind == StepKind::Writable && event.region == report.primary);
        if let Some(writable) = writable {
            report.took_us = writable.after_us;
        }
        let began = at(&|kind| *kind == StepKind::Began).is_some();
        let since = |step: Option<u64>| match (step, &report.reason) {
            (Some(step), _) => Some(report.took_us.saturating_sub(step)),
            // Rolled back before anybody was held.
            (None, Some(_)) if began => Some(0),
            (None, _) => None,
        };
        (report.held_us, report.blocks_held_us) = (since(quiet), since(prepared));
        let stopped = |kind: &StepKind| match kind {
            StepKind::Stopped { checkpoint } => Some(*checkpoint),
            _ => None,
        };
        let event = self.trail.find(|event| stopped(&event.kind).is_some());
        report.checkpoint = event.and_then(|event| stopped(&event.kind));
        report
    }

    fn check_patience(&self, survey: &Survey) -> anyhow::Result<()> {
        let topology = survey.newest().and_then(|answer| answer.topology.as_ref());
        let other =
            topology.and_then(|topology| topology.transition.as_ref()).filter(|other| other.id != self.id);
        if let Some(other) = other {
            let text = format!("another switchover, to {}, came first: see `pangea status`", other.to);
            return Err(Ended::refused(text));
        }
        let recorded = topology.is_some_and(|topology| topology.transition.is_some());
        let late = Instant::now() >= self.deadline;
        if late || (!recorded && self.began.elapsed() > RECORD_TIMEOUT && survey.answers().count() > 0) {
            let logs = [&self.from, &self.to]
                .map(|region| self.regions.layout.region_log(region).display().to_string());
            return Err(Ended::under_way(format!(
                "the switchover was not seen to end within {:.0} s: see `pangea status`, and what the regions say in {} \
                 and {}",
                self.began.elapsed().as_secs_f64(),
                logs[0],
                logs[1]
            )));
        }
        Ok(())
    }
}
