//! Linearizability of single registers (Herlihy and Wing, 1990).
//!
//! In general that is a search; here every operation carries the version that it wrote or found, so the only
//! candidate is the order of the versions: the write of a version, its reads, the write of the next one. It is a
//! linearization exactly if it agrees with real time, that is, for operations x and y with x over before y began:
//!
//! * y's version is not below x's: neither stale reads nor reads that go backwards;
//! * y is not the write of the version that x has read: nothing is read before it is written. Such a read is
//!   reported alone; taken as a fact it would blame all that follows.
//!
//! One sweep over the operations of a register in order of their begins decides it, with the highest version among
//! those that were over before: O(n log n).
//!
//! What PostgreSQL itself allows and this would report: a standby may show a commit before the primary does, for as
//! long as the committing process on the primary takes from flushing its commit record to leaving the list of
//! running transactions. Reads over a distance of tens of milliseconds do not meet that window.

use std::collections::BTreeMap;
use std::time::Duration;

use super::operation::{Action, History, Key, Outcome, Version};
use super::order::Order;
use super::report::{Guarantee, Report};

#[derive(Clone, Copy)]
struct Access {
    operation: usize,
    version: Version,
    writes: bool,
    invoked: Duration,
    /// Never, if the answer did not come.
    completed: Option<Duration>,
}

/// Checks each register.
pub(super) fn check(history: &History, order: &Order, report: &mut Report) {
    let mut registers: BTreeMap<Key, Vec<Access>> = BTreeMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let mut put = |key, version, writes| {
            let completed = (operation.outcome == Outcome::Ok).then_some(operation.completed);
            let invoked = operation.invoked;
            let access = Access { operation: index, version, writes, invoked, completed };
            registers.entry(key).or_default().push(access);
        };
        match &operation.action {
            Action::Write { key, .. } => {
                if let Some(version) = order.version(index) {
                    put(*key, version, true);
                }
            }
            Action::Read(seen) if operation.outcome == Outcome::Ok => {
                for seen in seen {
                    match order.writer(seen.key, seen.version) {
                        Some(writer) if begins_after(history, writer, operation.completed) => {
                            let what = "a value was read before it was written";
                            report.add(Guarantee::Linearizability, vec![writer, index], what);
                        }
                        _ => put(seen.key, seen.version, false),
                    }
                }
            }
            Action::Read(_) => {}
        }
    }
    for accesses in registers.into_values() {
        check_register(accesses, report);
    }
}

fn begins_after(history: &History, operation: usize, moment: Duration) -> bool {
    history.operations.get(operation).is_some_and(|operation| operation.invoked > moment)
}

fn check_register(mut begins: Vec<Access>, report: &mut Report) {
    begins.sort_by_key(|access| access.invoked);
    let mut ends: Vec<(Duration, Access)> =
        begins.iter().filter_map(|access| Some((access.completed?, *access))).collect();
    ends.sort_by_key(|(completed, _)| *completed);
    let mut ends = ends.into_iter().peekable();
    let mut highest: Option<Access> = None;
    for access in begins {
        while let Some((_, ended)) = ends.next_if(|(completed, _)| *completed < access.invoked) {
            if highest.is_none_or(|highest| highest.version < ended.version) {
                highest = Some(ended);
            }
        }
        let Some(before) = highest else { continue };
        let what = match (before.writes, access.writes) {
            (true, false) if access.version < before.version => "a read missed a write that was over",
            (false, false) if access.version < before.version => "a read went back behind an earlier one",
            (_, true) if access.version < before.version => "a write came before one that was over",
            _ => continue,
        };
        report.add(Guarantee::Linearizability, vec![before.operation, access.operation], what);
    }
}
