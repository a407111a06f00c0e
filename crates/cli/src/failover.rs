//! `pangea failover`: an operator's word that a region is to take over.

use std::time::Duration;

use pangea_base::{Epoch, Lsn, Position, RegionId};
use pangea_control::{Cause, Change, StepKind};
use pangea_lab::{HttpError, region_status, request_failover};
use pangea_node::{FailoverRequest, RegionStatus, Role};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::args::Failover;
use crate::exit::{Ended, Exit};
use crate::survey::{POLL, Regions, Survey};
use crate::switchover::merge;
use crate::table::{Align, bytes, facts, milliseconds, render, seconds};
use crate::trail::Trail;
use crate::{print, print_json, runtime, say};

/// Longer than the region keeps trying.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Where the new timeline begins is recorded a moment after the first write is taken.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Failover) -> anyhow::Result<Exit> {
    runtime()?.block_on(fail_over(args))
}

async fn fail_over(args: &Failover) -> anyhow::Result<Exit> {
    let regions = Regions::of(&args.data_dir)?;
    regions.manifest.region(&args.to)?;
    let survey = regions.ask().await;
    let topology = survey.topology()?;
    let (former, epoch) = (topology.primary.clone(), topology.epoch);
    let Some(target) = survey.of(&args.to) else {
        return Err(Ended::refused(format!("{} does not answer: is it running?", args.to)));
    };
    let since_us = target.now_us;
    let known = known(&regions, &former).await;
    if !args.json {
        print(&known_text(&known));
    }
    let request = FailoverRequest { allow_data_loss: args.allow_data_loss };
    let mut all = json!({ "from": former, "to": args.to, "known": known });
    let loss = match request_failover(&regions.layout, &args.to, &request).await {
        Ok(loss) => loss,
        Err(HttpError::Refused(why)) => {
            let hint = if survey.is_writable(&former) && former != args.to {
                format!(". {former} takes writes: `pangea switchover --to {}` loses nothing", args.to)
            } else {
                String::new()
            };
            if args.json {
                merge(&mut all, json!({ "outcome": "refused", "reason": why }));
                print_json(&all)?;
            }
            return Err(Ended::refused(format!("no failover to {}: {why}{hint}", args.to)));
        }
        Err(error) => return Err(error.into()),
    };
    say(&format!("\n{loss}"));
    if survey.is_writable(&former) {
        say(&format!("{former} takes writes until it hears of this; {} waits for that", args.to));
    }
    let mut watch = Watch {
        trail: Trail::new(since_us, None, &regions.names()),
        regions: &regions,
        to: args.to.clone(),
        after: epoch,
    };
    let report = watch.until_the_end(former, loss).await?;
    if args.json {
        merge(&mut all, json!(report));
        merge(&mut all, json!({ "steps": watch.trail.json() }));
        print_json(&all)?;
    } else {
        print(&report.text());
    }
    Ok(Exit::Done)
}

/// What is known of a region before the failover.
#[derive(Debug, Serialize)]
struct Known {
    region: RegionId,
    primary: bool,
    answers: bool,
    /// What it has: of the primary what others have heard of.
    position: Option<Position>,
    /// How long ago a primary was at its position, in seconds, when it does not answer itself.
    seconds_ago: Option<f64>,
    /// Bytes of log that the primary is known to have and this region has not received.
    behind_bytes: Option<u64>,
}

async fn known(regions: &Regions, primary: &RegionId) -> Vec<Known> {
    let mut statuses: Vec<(RegionId, Option<RegionStatus>)> = Vec::new();
    for region in regions.names() {
        let status = region_status(&regions.layout, &region).await.ok();
        statuses.push((region, status));
    }
    let answering = || statuses.iter().filter_map(|(_, status)| status.as_ref());
    let own = answering().find(|status| status.region == *primary).and_then(|status| status.position);
    let heard = answering()
        .filter_map(|status| status.primary_heard.as_ref())
        .filter(|heard| heard.region == *primary)
        .max_by_key(|heard| (heard.position.timeline, heard.position.lsn));
    let last = own.or_else(|| heard.map(|heard| heard.position));
    let one = |(region, status): &(RegionId, Option<RegionStatus>)| {
        let is_primary = region == primary;
        let position = if is_primary { last } else { status.as_ref().and_then(received) };
        let behind = last.zip(position).filter(|(last, position)| last.timeline == position.timeline);
        Known {
            region: region.clone(),
            primary: is_primary,
            answers: status.is_some(),
            position,
            seconds_ago: heard.filter(|_| is_primary && own.is_none()).map(|heard| heard.seconds_ago),
            behind_bytes: behind.map(|(last, position)| last.lsn.bytes_since(position.lsn)),
        }
    };
    statuses.iter().map(one).collect()
}

/// What a secondary has received; a promotion replays all of it.
fn received(status: &RegionStatus) -> Option<Position> {
    let replayed = status.position.filter(|_| status.role == Role::Secondary)?;
    Some(Position { lsn: status.received.unwrap_or(Lsn(0)).max(replayed.lsn), ..replayed })
}

fn known_text(known: &[Known]) -> String {
    let columns = [
        ("REGION", Align::Left),
        ("ROLE", Align::Left),
        ("HAS", Align::Left),
        ("BEHIND", Align::Right),
        ("STATE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = known
        .iter()
        .map(|region| {
            let unknown = || "unknown".to_owned();
            let state = match (region.answers, region.seconds_ago) {
                (true, _) => "answers".to_owned(),
                (false, Some(ago)) => {
                    format!("does not answer; it was there {} ago, or further", seconds(ago))
                }
                (false, None) => "does not answer".to_owned(),
            };
            vec![
                region.region.to_string(),
                if region.primary { "primary" } else { "secondary" }.to_owned(),
                region.position.map_or_else(unknown, |position| position.to_string()),
                if region.primary { "-".to_owned() } else { region.behind_bytes.map_or_else(unknown, bytes) },
                state,
            ]
        })
        .collect();
    render(&columns, &rows)
}

/// How a failover ended.
#[derive(Debug, Serialize)]
struct Report {
    outcome: &'static str,
    primary: RegionId,
    former: RegionId,
    epoch: Epoch,
    /// What is known about what is lost.
    loss: String,
    /// Where the new timeline leaves the former primary's: what that wrote past it is not here.
    fork: Option<Position>,
    took_us: u64,
}

impl Report {
    fn text(&self) -> String {
        let fork = self.fork.map_or_else(|| "unknown".to_owned(), |fork| fork.to_string());
        let known = [
            ("new primary", self.primary.to_string()),
            ("old primary", self.former.to_string()),
            ("epoch", self.epoch.to_string()),
            ("forked at", format!("{fork} (what {} wrote past it is not here)", self.former)),
            ("took", milliseconds(self.took_us)),
        ];
        format!("\ndone: {} is primary\n{}", self.primary, facts(&known))
    }
}

struct Watch<'a> {
    regions: &'a Regions,
    trail: Trail,
    to: RegionId,
    after: Epoch,
}

impl Watch<'_> {
    async fn until_the_end(&mut self, former: RegionId, loss: String) -> anyhow::Result<Report> {
        let deadline = Instant::now() + TIMEOUT;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut writable_since: Option<Instant> = None;
        loop {
            let survey = self.regions.ask_of(std::slice::from_ref(&self.to)).await;
            survey.answers().for_each(|answer| self.trail.take(answer));
            self.trail.show(survey.answers());
            if let Some((change, took_us)) = self.took_over(&survey) {
                let since = *writable_since.get_or_insert_with(Instant::now);
                let fork = change.timeline.zip(change.fork).map(|(_, lsn)| lsn);
                if fork.is_some() || since.elapsed() > RECORD_TIMEOUT {
                    self.trail.show_rest();
                    return Ok(self.report(&survey, &change, took_us, former, loss));
                }
            } else if Instant::now() >= deadline {
                return Err(self.late(&survey));
            }
            tokio::select! {
                () = sleep(POLL) => {}
                _ = &mut interrupted => {
                    return Err(Ended::under_way(
                        "the failover goes on without this command: `pangea status` tells how it ends",
                    ));
                }
            }
        }
    }

    /// The change by which the region is primary, once it takes writes, and how long that took.
    fn took_over(&self, survey: &Survey) -> Option<(Change, u64)> {
        let answer = survey.of(&self.to)?;
        let topology = answer.topology.as_ref()?;
        let change =
            topology.last_change().filter(|change| change.primary == self.to && change.epoch > self.after)?;
        if !survey.is_writable(&self.to) {
            return None;
        }
        let step = self.trail.find(|event| event.kind == StepKind::Writable);
        let took_us = step.map_or_else(|| self.trail.after_us(answer), |event| event.after_us);
        Some((change.clone(), took_us))
    }

    fn report(
        &self,
        survey: &Survey,
        change: &Change,
        took_us: u64,
        former: RegionId,
        loss: String,
    ) -> Report {
        // The fork is on the timeline before, which is that of the change before.
        let topology = survey.of(&self.to).and_then(|answer| answer.topology.as_ref());
        let earlier = topology.and_then(|topology| topology.changes.iter().rev().nth(1)?.timeline);
        let earlier = earlier.or_else(|| Some(pangea_base::Timeline(change.timeline?.0.checked_sub(1)?)));
        let fork = earlier.zip(change.fork).map(|(timeline, lsn)| Position { timeline, lsn });
        let outcome = if change.cause == Cause::Forced { "done" } else { "done_by_itself" };
        Report { outcome, primary: self.to.clone(), former, epoch: change.epoch, loss, fork, took_us }
    }

    fn late(&self, survey: &Survey) -> anyhow::Error {
        let answer = survey.of(&self.to);
        let why = answer.and_then(|answer| answer.store_problem.clone().or_else(|| answer.objection.clone()));
        let why = why.unwrap_or_else(|| "it has not said why".to_owned());
        Ended::under_way(format!(
            "{} has not taken over within {TIMEOUT:?}: {why}; see `pangea status` and {}",
            self.to,
            self.regions.layout.region_log(&self.to).display()
        ))
    }
}
