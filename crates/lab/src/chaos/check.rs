//! The invariants, checked against what clients were told, what the servers hold and what was reported.
//!
//! Pure: it knows nothing of Pangea but the names of servers, so that it can be wrong only about the definitions.
//!
//! * ONE-WRITER: servers acknowledge one after the other. A server from one promotion to the next is a [`Reign`]. That
//!   one reign was before another is known when a write that it acknowledged was over before a write to the other was
//!   sent. If each of two was before the other, both wrote at one time; if one on an older timeline came after one on a
//!   newer, it was a former primary; and no timeline is written by two servers.
//! * LOSS-IS-REPORTED: the acknowledged rows that are missing are the acknowledged rows in the reports, exactly. A
//!   row is not both reported and there; no report names a row that nobody wrote, or whose writer was told that it
//!   had failed.
//! * NO-LOSS-SWITCHOVER: when the primary changed by switchovers alone, nothing acknowledged is missing.
//! * ZERO-LOSS-WHEN-SYNC: when `sync` was in force, nothing acknowledged is missing.
//! * AT-MOST-ONCE: no row is there twice; none is there whose write failed for certain, or which nobody wrote; each
//!   counter is the number of its writer's rows; of the rows of a transaction all are there or none.
//! * REGIONS-AGREE: all servers hold the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pangea_base::RegionId;
use pangea_control::Cause;

use super::record::{Outcome, Reign, RowId, Write, WriterId};

/// Violations of one invariant that are told; the others are counted.
const EXAMPLES_MAX: usize = 5;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// At most one server acknowledges writes at a time.
    OneWriter,
    /// Acknowledged writes that are missing are in a report.
    LossIsReported,
    /// A switchover loses nothing.
    NoLossSwitchover,
    /// Nothing is lost while `sync` is in force.
    ZeroLossWhenSync,
    /// Nothing happens twice, or in half.
    AtMostOnce,
    /// All regions hold the same.
    RegionsAgree,
    /// Once all faults are over, the cluster is whole again without anybody's help.
    Recovers,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneWriter => "ONE-WRITER",
            Self::LossIsReported => "LOSS-IS-REPORTED",
            Self::NoLossSwitchover => "NO-LOSS-SWITCHOVER",
            Self::ZeroLossWhenSync => "ZERO-LOSS-WHEN-SYNC",
            Self::AtMostOnce => "AT-MOST-ONCE",
            Self::RegionsAgree => "REGIONS-AGREE",
            Self::Recovers => "RECOVERS",
        })
    }
}

/// What a server holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The rows of the ledger, with those that are there twice.
    pub rows: Vec<RowId>,
    /// The counters.
    pub counters: BTreeMap<WriterId, i64>,
}

/// All that a round is judged by.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The round.
    pub round: u32,
    /// All writes to the tables, those of earlier rounds too.
    pub writes: &'a [Write],
    /// What each region holds.
    pub tables: &'a BTreeMap<RegionId, Table>,
    /// The rows in reports, with the report's name.
    pub reported: &'a [(String, RowId)],
    /// Acknowledged rows that were missing before this round.
    pub lost_before: &'a BTreeSet<RowId>,
    /// Why the primary changed in this round.
    pub causes: &'a [Cause],
    /// Whether `sync` was in force all the time.
    pub sync: bool,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    counts: BTreeMap<Invariant, usize>,
    examples: Vec<(Invariant, String)>,
    /// Acknowledged rows that are missing, those of earlier rounds too.
    pub lost: BTreeSet<RowId>,
}

impl Verdict {
    /// Notes a violation.
    pub fn add(&mut self, invariant: Invariant, what: impl Into<String>) {
        let count = self.counts.entry(invariant).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.examples.push((invariant, what.into()));
        }
    }

    /// Whether all invariants hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many violations of an invariant there are.
    #[must_use]
    pub fn count(&self, invariant: Invariant) -> usize {
        self.counts.get(&invariant).copied().unwrap_or_default()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, count) in &self.counts {
            writeln!(f, "{invariant}: {count} violations")?;
            for (_, what) in self.examples.iter().filter(|(known, _)| known == invariant) {
                writeln!(f, "    {what}")?;
            }
        }
        Ok(())
    }
}

/// Finds all violations.
#[must_use]
pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    one_writer(evidence, &mut verdict);
    regions_agree(evidence, &mut verdict);
    if let Some(table) = evidence.tables.values().next() {
        at_most_once(evidence, table, &mut verdict);
        losses(evidence, table, &mut verdict);
    }
    verdict
}

/// The two writes of a reign that its time is known by.
struct Span<'a> {
    /// The first that was over.
    over: &'a Write,
    /// The last that was sent.
    sent: &'a Write,
}

fn one_writer(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut spans: BTreeMap<&Reign, Span<'_>> = BTreeMap::new();
    for write in evidence.writes {
        let Some(reign) = write.reign() else { continue };
        let span = spans.entry(reign).or_insert(Span { over: write, sent: write });
        if write.ended < span.over.ended {
            span.over = write;
        }
        if write.sent > span.sent.sent {
            span.sent = write;
        }
    }
    let all: Vec<_> = spans.iter().collect();
    for (index, (first, one)) in all.iter().enumerate() {
        for (second, other) in all.iter().skip(index + 1) {
            // What an earlier round has shown was told then.
            if one.sent.round != evidence.round && other.sent.round != evidence.round {
                continue;
            }
            let (forth, back) = (one.over.ended < other.sent.sent, other.over.ended < one.sent.sent);
            if first.timeline == second.timeline {
                verdict.add(
                    Invariant::OneWriter,
                    format!("two servers wrote timeline {}: {}; {}", first.timeline, one.sent, other.sent),
                );
            } else if forth && back {
                verdict.add(
                    Invariant::OneWriter,
                    format!(
                        "two servers took turns: {}; later {}; but also {}; later {}",
                        one.over, other.sent, other.over, one.sent
                    ),
                );
            } else if back {
                // Ordered by timeline: `first` is the older one.
                verdict.add(
                    Invariant::OneWriter,
                    format!("a former primary acknowledged: {}; later {}", other.over, one.sent),
                );
            }
        }
    }
}

fn regions_agree(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut tables = evidence.tables.iter();
    let Some((first, one)) = tables.next() else { return };
    for (second, other) in tables {
        if one == other {
            continue;
        }
        let (here, there): (BTreeSet<_>, BTreeSet<_>) =
            (one.rows.iter().collect(), other.rows.iter().collect());
        let only = |rows: &BTreeSet<&RowId>, without: &BTreeSet<&RowId>| {
            let ids: Vec<i64> = rows.difference(without).map(|id| id.0).collect();
            format!("{} rows {:?}", ids.len(), ids.iter().take(EXAMPLES_MAX).collect::<Vec<_>>())
        };
        let what = format!(
            "only {first} has {}, only {second} has {}; counters {}",
            only(&here, &there),
            only(&there, &here),
            if one.counters == other.counters { "agree" } else { "differ" }
        );
        verdict.add(Invariant::RegionsAgree, what);
    }
}

fn at_most_once(evidence: &Evidence<'_>, table: &Table, verdict: &mut Verdict) {
    let mut times: BTreeMap<RowId, usize> = BTreeMap::new();
    for id in &table.rows {
        *times.entry(*id).or_default() += 1;
    }
    for (id, times) in times.iter().filter(|(_, times)| **times > 1) {
        verdict.add(Invariant::AtMostOnce, format!("row {} is there {times} times", id.0));
    }
    let mut rows_of: BTreeMap<WriterId, i64> = BTreeMap::new();
    let mut known: BTreeSet<RowId> = BTreeSet::new();
    for write in evidence.writes {
        known.extend(&write.ids);
        let there = write.ids.iter().filter(|id| times.contains_key(id)).count();
        *rows_of.entry(write.writer).or_default() += i64::try_from(there).unwrap_or(i64::MAX);
        if there > 0 && write.outcome == Outcome::Failed {
            verdict.add(Invariant::AtMostOnce, format!("it is there all the same: {write}"));
        }
        if there > 0 && there < write.ids.len() {
            verdict.add(Invariant::AtMostOnce, format!("only {there} rows are there: {write}"));
        }
    }
    for id in times.keys().filter(|id| !known.contains(id)) {
        verdict.add(Invariant::AtMostOnce, format!("row {} is there, which nobody wrote", id.0));
    }
    for (writer, counted) in &table.counters {
        let rows = rows_of.get(writer).copied().unwrap_or_default();
        if rows != *counted {
            let what = format!("writer {} has {rows} rows and a counter of {counted}", writer.0);
            verdict.add(Invariant::AtMostOnce, what);
        }
    }
}

fn losses(evidence: &Evidence<'_>, table: &Table, verdict: &mut Verdict) {
    let there: BTreeSet<RowId> = table.rows.iter().copied().collect();
    let reported: BTreeMap<RowId, &str> =
        evidence.reported.iter().map(|(report, id)| (*id, report.as_str())).collect();
    let mut sent: BTreeSet<RowId> = BTreeSet::new();
    let switchovers_only = evidence.causes.iter().all(|cause| *cause == Cause::Switchover);
    for write in evidence.writes {
        sent.extend(&write.ids);
        for id in &write.ids {
            let (missing, report) = (!there.contains(id), reported.get(id));
            match (&write.outcome, report) {
                (Outcome::Acknowledged(_), None) if missing => {
                    verdict.add(Invariant::LossIsReported, format!("missing, and in no report: {write}"));
                }
                (Outcome::Failed, Some(report)) => {
                    verdict.add(Invariant::LossIsReported, format!("reported by {report}: {write}"));
                }
                (_, Some(report)) if !missing => {
                    let what = format!("reported by {report}, and there: {write}");
                    verdict.add(Invariant::LossIsReported, what);
                }
                (Outcome::Acknowledged(_) | Outcome::Failed | Outcome::Unknown, _) => {}
            }
            if missing && write.reign().is_some() {
                verdict.lost.insert(*id);
                if evidence.lost_before.contains(id) {
                    continue;
                }
                if switchovers_only {
                    verdict.add(Invariant::NoLossSwitchover, format!("missing: {write}"));
                }
                if evidence.sync {
                    verdict.add(Invariant::ZeroLossWhenSync, format!("missing: {write}"));
                }
            }
        }
    }
    for (id, report) in reported.iter().filter(|(id, _)| !sent.contains(id)) {
        let what = format!("row {} is reported by {report}, and nobody wrote it", id.0);
        verdict.add(Invariant::LossIsReported, what);
    }
}
