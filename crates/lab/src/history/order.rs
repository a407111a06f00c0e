//! The order of each register's versions, and which writes have happened.
//!
//! A write adds one to the register's version and returns it, so the order needs no guessing. What can be wrong
//! with it is a violation of its own: a version written twice (a write was lost), a value that nobody wrote or that
//! was rolled back, a write that counts twice.
//!
//! A write whose answer never came has happened if some read found it, or something of its transaction. If none
//! did, nobody can depend on it, and the checks leave it out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::operation::{Action, History, Key, Operation, Outcome, TransactionId, Version, WriteId};
use super::report::{Guarantee, Report};

/// The writes that have happened, by register and version.
pub(super) struct Order {
    /// Per register, the operation that wrote each version. Versions may be missing: unknown writes that were
    /// overwritten before anybody looked.
    writes: BTreeMap<Key, BTreeMap<Version, usize>>,
    /// Per operation, the version that it wrote; `None` for reads and for writes that have not happened or are not
    /// known to have.
    versions: Vec<Option<Version>>,
}

impl Order {
    /// Establishes the order and reports what contradicts it.
    pub(super) fn establish(history: &History, report: &mut Report) -> Self {
        let mut by_id: HashMap<WriteId, usize> = HashMap::new();
        for (index, operation) in history.operations.iter().enumerate() {
            if let Action::Write { id, .. } = operation.action {
                by_id.insert(id, index);
            }
        }
        let mut order = Self { writes: BTreeMap::new(), versions: vec![None; history.operations.len()] };
        for (index, operation) in history.operations.iter().enumerate() {
            if let (Action::Write { key, version: Some(version), .. }, Outcome::Ok) =
                (&operation.action, operation.outcome)
            {
                order.put(*key, *version, index, report);
            }
        }
        for (index, operation) in history.operations.iter().enumerate() {
            order.look(history, index, operation, &by_id, report);
        }
        order.complete_transactions(history, report);
        order
    }

    /// Takes note of what a read found.
    fn look(
        &mut self,
        history: &History,
        index: usize,
        operation: &Operation,
        by_id: &HashMap<WriteId, usize>,
        report: &mut Report,
    ) {
        let (Action::Read(seen), Outcome::Ok) = (&operation.action, operation.outcome) else { return };
        for seen in seen {
            if (seen.writer, seen.version) == (WriteId::INITIAL, Version(0)) {
                continue;
            }
            let mut wrong = |operations, what| report.add(Guarantee::VersionOrder, operations, what);
            let Some(&writer) = by_id.get(&seen.writer) else {
                wrong(vec![index], "a read found a value that nobody wrote");
                continue;
            };
            let Some(Action::Write { key, version: told, .. }) =
                history.operations.get(writer).map(|operation| &operation.action)
            else {
                continue;
            };
            let outcome = history.operations.get(writer).map(|operation| operation.outcome);
            if *key != seen.key || told.is_some_and(|told| told != seen.version) {
                wrong(
                    vec![writer, index],
                    "a read found a value under another version than its writer was told",
                );
            } else if outcome == Some(Outcome::Failed) {
                wrong(vec![writer, index], "a read found what was rolled back");
            } else {
                self.put(seen.key, seen.version, writer, report);
            }
        }
    }

    /// What is in one transaction has happened together.
    fn complete_transactions(&mut self, history: &History, report: &mut Report) {
        let happened: BTreeSet<TransactionId> = (history.operations.iter().zip(&self.versions))
            .filter(|(_, version)| version.is_some())
            .filter_map(|(operation, _)| operation.transaction)
            .collect();
        for (index, operation) in history.operations.iter().enumerate() {
            if let Action::Write { key, version: Some(version), .. } = operation.action
                && operation.outcome == Outcome::Unknown
                && operation.transaction.is_some_and(|transaction| happened.contains(&transaction))
            {
                self.put(key, version, index, report);
            }
        }
    }

    fn put(&mut self, key: Key, version: Version, write: usize, report: &mut Report) {
        let Some(slot) = self.versions.get_mut(write) else { return };
        let before = *slot;
        if before.is_some_and(|before| before != version) {
            report.add(Guarantee::VersionOrder, vec![write], "a write counts twice, under two versions");
            return;
        }
        *slot = Some(version);
        let writer = *self.writes.entry(key).or_default().entry(version).or_insert(write);
        if writer != write && before.is_none() {
            report.add(Guarantee::VersionOrder, vec![writer, write], "two writes became the same version");
        }
    }

    /// The version that an operation has written.
    pub(super) fn version(&self, operation: usize) -> Option<Version> {
        self.versions.get(operation).copied().flatten()
    }

    /// The writes of a register after one version up to another, in order.
    pub(super) fn writes_between(
        &self,
        key: Key,
        after: Version,
        to: Version,
    ) -> impl Iterator<Item = (Version, usize)> {
        let writes = (after < to).then(|| self.writes.get(&key)).flatten();
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Included(to));
        writes
            .into_iter()
            .flat_map(move |writes| writes.range(range).map(|(version, write)| (*version, *write)))
    }

    /// The operation that wrote a version.
    pub(super) fn writer(&self, key: Key, version: Version) -> Option<usize> {
        self.writes.get(&key)?.get(&version).copied()
    }
}
