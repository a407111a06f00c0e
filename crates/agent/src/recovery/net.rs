//! What all lost changes together did to each row: the state at the fork and the state after the last of them.
//!
//! Pure. A row keeps its identity when its key changes: an update of the key moves it.

use std::collections::HashMap;

use super::error::RecoveryError;
use super::report::{Change, ChangeKind, Row, TableName};

/// Rows that are held at once, with two images each.
pub(crate) const ROWS_MAX: usize = 1_000_000;

/// The changes of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Net {
    pub(crate) table: TableName,
    /// The transactions and places in the report of its changes.
    pub(crate) changes: Vec<(u32, u64)>,
    /// Its key at the fork; `None` when there was no such row.
    pub(crate) key: Option<Row>,
    /// Its key when it was added; `None` when it was there at the fork, or its table has no key.
    pub(crate) new_key: Option<Row>,
    /// The row at the fork, where known.
    pub(crate) old: Option<Row>,
    pub(crate) after: After,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum After {
    Row(Row),
    Gone,
}

impl Net {
    /// The row after the lost changes; `None` when they removed it.
    pub(crate) fn lost(&self) -> Option<&Row> {
        match &self.after {
            After::Row(row) => Some(row),
            After::Gone => None,
        }
    }
}

/// What cannot be done again at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) xid: u32,
    pub(crate) change: Change,
}

/// The changes of one database.
#[derive(Debug, Default)]
pub(crate) struct Collapse {
    nets: Vec<Option<Net>>,
    /// By the key that a row has after the changes so far.
    current: HashMap<(TableName, Vec<Option<String>>), usize>,
    pub(crate) refused: Vec<Refused>,
}

impl Collapse {
    /// Adds a change; they come in the order of the report.
    pub(crate) fn add(&mut self, xid: u32, ordinal: u64, change: Change) -> Result<(), RecoveryError> {
        if self.nets.len() + self.refused.len() >= ROWS_MAX {
            return Err(RecoveryError::TooManyRows { rows_max: ROWS_MAX });
        }
        match change.kind {
            ChangeKind::Truncate => {
                // What was done to its rows before went with them.
                for net in &mut self.nets {
                    if net.as_ref().is_some_and(|net| net.table == change.table) {
                        *net = None;
                    }
                }
                self.current.retain(|(table, _), _| *table != change.table);
                self.refused.push(Refused { xid, change });
            }
            ChangeKind::Insert => self.insert(xid, ordinal, change),
            ChangeKind::Update | ChangeKind::Delete => self.rewrite(xid, ordinal, change),
        }
        Ok(())
    }

    /// What is to be done, in the order of the first change of each row.
    pub(crate) fn finish(self) -> (Vec<Net>, Vec<Refused>) {
        let does_something = |net: &Net| net.key.is_some() || net.after != After::Gone;
        (self.nets.into_iter().flatten().filter(does_something).collect(), self.refused)
    }

    fn insert(&mut self, xid: u32, ordinal: u64, change: Change) {
        let Change { table, key, new: Some(new), .. } = change else { return };
        let id = key.as_ref().map(|key| (table.clone(), values(key)));
        let known = id.as_ref().and_then(|id| self.current.get(id)).copied();
        if let Some(net) = known.and_then(|place| self.nets.get_mut(place)).and_then(Option::as_mut) {
            // It was deleted before, and is there again.
            net.changes.push((xid, ordinal));
            net.after = After::Row(new);
            return;
        }
        if let Some(id) = id {
            self.current.insert(id, self.nets.len());
        }
        self.nets.push(Some(Net {
            table,
            changes: vec![(xid, ordinal)],
            key: None,
            new_key: key,
            old: None,
            after: After::Row(new),
        }));
    }

    fn rewrite(&mut self, xid: u32, ordinal: u64, change: Change) {
        let Some(key) = change.key.clone() else {
            self.refused.push(Refused { xid, change });
            return;
        };
        let Change { table, old, new, old_known, .. } = change;
        let id = (table.clone(), values(&key));
        let place = self.current.get(&id).copied().unwrap_or_else(|| {
            self.nets.push(Some(Net {
                table: table.clone(),
                changes: Vec::new(),
                key: Some(key.clone()),
                new_key: None,
                old: old.filter(|_| old_known),
                after: After::Gone,
            }));
            self.nets.len() - 1
        });
        let Some(net) = self.nets.get_mut(place).and_then(Option::as_mut) else { return };
        net.changes.push((xid, ordinal));
        let moved = new.as_ref().map(|new| {
            let value = |name: &String| new.get(name).and_then(|cell| cell.value.clone());
            (table, key.keys().map(value).collect::<Vec<_>>())
        });
        net.after = match new {
            None => After::Gone,
            Some(new) => After::Row(merged(&net.after, new)),
        };
        match moved {
            Some(moved) if moved != id => {
                self.current.remove(&id);
                self.current.insert(moved, place);
            }
            _ => drop(self.current.insert(id, place)),
        }
    }
}

/// Large values that an update did not touch are those of before, where they are known.
fn merged(before: &After, mut new: Row) -> Row {
    if let After::Row(before) = before {
        for (name, cell) in new.iter_mut().filter(|(_, cell)| cell.unchanged) {
            if let Some(known) = before.get(name) {
                *cell = known.clone();
            }
        }
    }
    new
}

fn values(key: &Row) -> Vec<Option<String>> {
    key.values().map(|cell| cell.value.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::report::Cell;

    fn row(id: u32, value: &str) -> Row {
        let cell = |type_name: &str, value: String| Cell {
            type_name: type_name.into(),
            value: Some(value),
            unchanged: false,
        };
        [("id".to_owned(), cell("integer", id.to_string())), ("v".to_owned(), cell("text", value.to_owned()))]
            .into()
    }

    fn key(id: u32) -> Row {
        row(id, "").into_iter().filter(|(name, _)| name == "id").collect()
    }

    fn change(kind: ChangeKind, at: Option<u32>, old: Option<Row>, new: Option<Row>) -> Change {
        let table = TableName { schema: "s".into(), name: "t".into() };
        let old_known = kind == ChangeKind::Insert || old.is_some();
        Change { table, kind, key: at.map(key), old, new, old_known }
    }

    fn collapse(changes: Vec<Change>) -> (Vec<Net>, Vec<Refused>) {
        let mut collapse = Collapse::default();
        for (ordinal, change) in (0..).zip(changes) {
            collapse.add(7, ordinal, change).unwrap();
        }
        collapse.finish()
    }

    use ChangeKind::{Delete, Insert, Truncate, Update};

    #[test]
    fn a_row_is_followed_through_its_keys() {
        let (nets, refused) = collapse(vec![
            change(Update, Some(1), Some(row(1, "a")), Some(row(1, "b"))),
            change(Update, Some(1), Some(row(1, "b")), Some(row(2, "b"))),
            change(Insert, Some(1), None, Some(row(1, "new"))),
            change(Update, Some(2), Some(row(2, "b")), Some(row(2, "c"))),
        ]);
        assert!(refused.is_empty());
        let [moved, new] = &nets[..] else { panic!("{nets:?}") };
        assert_eq!((&moved.key, &moved.old), (&Some(key(1)), &Some(row(1, "a"))));
        assert_eq!(moved.after, After::Row(row(2, "c")));
        assert_eq!(moved.changes, [(7, 0), (7, 1), (7, 3)]);
        assert_eq!((&new.key, &new.after), (&None, &After::Row(row(1, "new"))));
    }

    #[test]
    fn what_comes_and_goes_is_nothing() {
        let (nets, _) = collapse(vec![
            change(Insert, Some(1), None, Some(row(1, "a"))),
            change(Delete, Some(1), Some(row(1, "a")), None),
        ]);
        assert!(nets.is_empty());
        let (nets, _) = collapse(vec![
            change(Delete, Some(1), Some(row(1, "a")), None),
            change(Insert, Some(1), None, Some(row(1, "b"))),
        ]);
        assert_eq!((&nets[0].old, &nets[0].after), (&Some(row(1, "a")), &After::Row(row(1, "b"))));
    }

    #[test]
    fn an_emptied_table_takes_its_changes_along() {
        let (nets, refused) = collapse(vec![
            change(Insert, Some(1), None, Some(row(1, "a"))),
            change(Truncate, None, None, None),
            change(Insert, Some(1), None, Some(row(1, "b"))),
        ]);
        assert_eq!((nets.len(), refused.len()), (1, 1));
        assert_eq!((&nets[0].key, &nets[0].after), (&None, &After::Row(row(1, "b"))));
    }

    #[test]
    fn without_a_key_only_inserts_are_done() {
        let (nets, refused) = collapse(vec![
            change(Insert, None, None, Some(row(1, "a"))),
            change(Insert, None, None, Some(row(1, "a"))),
            change(Delete, None, Some(row(1, "a")), None),
        ]);
        assert_eq!((nets.len(), refused.len()), (2, 1));
    }

    #[test]
    fn untouched_large_values_are_kept() {
        let mut partly = row(1, "");
        partly.get_mut("v").unwrap().unchanged = true;
        let (nets, _) = collapse(vec![
            change(Insert, Some(1), None, Some(row(1, "large"))),
            change(Update, Some(1), None, Some(partly)),
        ]);
        assert_eq!(nets[0].after, After::Row(row(1, "large")));
    }
}
