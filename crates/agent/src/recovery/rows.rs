//! The lost row changes of one database: decoded on the old primary, completed from the new one.
//!
//! Changes stream through a window of [`PART_CHANGES_MAX`] changes; for each window the rows that the log does not
//! tell are looked up on the new primary at once, a query for each table. What is remembered of rows that were
//! touched before, so that a later change knows what it found, is bounded by [`TOUCHED_BYTES_MAX`]; past it, `old`
//! is left unknown where the log does not have it. On the server, the decoded text lies in a temporary file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use pangea_base::Lsn;
use serde::{Deserialize, Serialize};
use tokio_postgres::SimpleQueryMessage;

use super::catalog::{Identity, Table, Tables};
use super::decode::{Column, Decoded, Decoding, Kind, Value, parse};
use super::error::RecoveryError;
use super::lookup::{Lock, rows_by_key};
use super::report::{Cell, Change, ChangeKind, PART_BYTES_MAX, PART_CHANGES_MAX, Row, TableName};
use super::session::{Session, literal};

/// Bytes of rows that are remembered.
const TOUCHED_BYTES_MAX: usize = 64 << 20;
/// What a remembered row costs beside its text.
const TOUCHED_ROW_BYTES: usize = 200;
/// A look-up that takes longer leaves `old` unknown: a table whose key has no usable index there.
const LOOKUP_TIMEOUT: &str = "SET statement_timeout = '60s'";

/// A line of the spool: changes of one transaction.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spooled {
    pub(crate) xid: u32,
    pub(crate) part: u32,
    pub(crate) changes: Vec<Change>,
}

/// The new primary's side of a database.
pub(crate) struct Source {
    pub(crate) session: Session,
    pub(crate) next_xid_at_fork: u64,
}

/// Decodes the transactions of `lost` from `slot` into `spool`, in the order of their commits. Returns what was
/// decoded.
pub(crate) struct Decoder<'a, W> {
    pub(crate) old: &'a Session,
    pub(crate) catalog: &'a Session,
    pub(crate) source: Option<Source>,
    pub(crate) lost: &'a HashSet<u32>,
    pub(crate) spool: W,
    pub(crate) state: State,
}

/// What is carried from window to window.
#[derive(Default)]
pub(crate) struct State {
    tables: Tables,
    touched: HashMap<(TableName, Vec<Option<String>>), Touched>,
    touched_bytes: usize,
    /// Transactions with rows.
    pub(crate) decoded: HashSet<u32>,
    pub(crate) changes: u64,
    /// The new primary could not be asked.
    pub(crate) lookup_failed: Option<String>,
}

/// What a lost change has left of a row.
enum Touched {
    Row(Row),
    Gone,
    Unknown,
}

/// A change that waits for its window to be full.
struct Pending {
    xid: u32,
    change: Change,
}

impl<W: Write> Decoder<'_, W> {
    pub(crate) async fn run(&mut self, slot: &str, fork: Lsn, end: Lsn) -> Result<(), RecoveryError> {
        if let Some(source) = &self.source
            && let Err(error) = source.session.client.batch_execute(LOOKUP_TIMEOUT).await
        {
            self.give_up_lookups(&error);
        }
        // Not past the end: what this server writes about its own start is nobody's loss.
        let sql = format!(
            "SELECT lsn, xid, data FROM pg_logical_slot_peek_changes({}, '{end}', NULL, 'include-xids', '1', \
             'include-timestamp', '1', 'skip-empty-xacts', '1')",
            literal(slot)
        );
        let decoding = "decode the lost transactions on the old primary";
        let stream = self.old.client.simple_query_raw(&sql).await.map_err(RecoveryError::sql(decoding))?;
        let mut stream = pin!(stream);
        let (mut window, mut window_bytes) = (Vec::new(), 0);
        while let Some(message) = stream.try_next().await.map_err(RecoveryError::sql(decoding))? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let lsn = row.get(0).and_then(|lsn| lsn.parse::<Lsn>().ok());
            let xid = row.get(1).and_then(|xid| xid.parse::<u32>().ok());
            let (Some(lsn), Some(xid), Some(data)) = (lsn, xid, row.get(2)) else { continue };
            // The rows of a transaction may lie before the fork; its commit record, of which `lost` knows, does not.
            if !self.lost.contains(&xid) {
                continue;
            }
            let decoded = parse(data).map_err(|error| RecoveryError::Unexpected {
                who: "the old primary",
                what: error.to_string(),
            })?;
            match decoded {
                Decoded::Begin | Decoded::Message => continue,
                Decoded::Commit => {
                    debug_assert!(lsn > fork);
                    continue;
                }
                Decoded::Truncate(tables) => {
                    let named = |(schema, name)| TableName { schema, name };
                    window.extend(
                        tables.into_iter().map(|table| Pending { xid, change: truncate(named(table)) }),
                    );
                }
                Decoded::Change(change) => {
                    let change = self.change(change).await?;
                    window.push(Pending { xid, change });
                }
            }
            window_bytes += data.len();
            if window.len() >= PART_CHANGES_MAX || window_bytes >= PART_BYTES_MAX {
                self.flush(std::mem::take(&mut window)).await?;
                window_bytes = 0;
            }
        }
        self.flush(window).await
    }

    /// What the log and the old primary's catalogue say.
    async fn change(&mut self, change: Decoding) -> Result<Change, RecoveryError> {
        let name = TableName { schema: change.schema, name: change.table };
        let table = self.state.tables.get(self.catalog, &name).await;
        let table = table.map_err(RecoveryError::sql("read the catalogue of the old primary"))?;
        let old = change.old.map(|columns| row(columns, table));
        let new = change.new.map(|columns| row(columns, table));
        let whole = table.is_some_and(|table| table.identity == Identity::Full);
        let key = match (change.kind, &old, &new) {
            (Kind::Insert, _, Some(row)) => key_of(row, table),
            // Without a key of the table, what the plugin calls the old key identifies the row.
            (_, Some(row), _) => key_of(row, table).or_else(|| (!whole).then(|| row.clone())),
            // The key has not changed, or the plugin would tell the old one.
            (Kind::Update, None, Some(row)) if table.is_some_and(|table| table.identity == Identity::Key) => {
                key_of(row, table)
            }
            _ => None,
        };
        let old = old.filter(|_| whole).map(|old| with_nulls(old, table));
        let kind = match change.kind {
            Kind::Insert => ChangeKind::Insert,
            Kind::Update => ChangeKind::Update,
            Kind::Delete => ChangeKind::Delete,
        };
        let old_known = kind == ChangeKind::Insert || old.is_some();
        Ok(Change { table: name, kind, key, old, new, old_known })
    }

    /// Completes the changes of a window and writes them.
    async fn flush(&mut self, window: Vec<Pending>) -> Result<(), RecoveryError> {
        let found = self.look_up(&window).await;
        let mut part: Option<Spooled> = None;
        for Pending { xid, mut change } in window {
            self.state.complete(&mut change, &found);
            self.state.changes += 1;
            match &mut part {
                Some(part) if part.xid == xid => part.changes.push(change),
                _ => {
                    self.write(part.take())?;
                    // The further parts of a transaction are numbered where the spools come together.
                    part = Some(Spooled {
                        xid,
                        part: u32::from(!self.state.decoded.insert(xid)),
                        changes: vec![change],
                    });
                }
            }
        }
        self.write(part)
    }

    fn write(&mut self, part: Option<Spooled>) -> Result<(), RecoveryError> {
        let Some(part) = part else { return Ok(()) };
        let line = serde_json::to_vec(&part).map_err(std::io::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            self.spool.write_all(&line)
        });
        written.map_err(RecoveryError::file("write", std::path::Path::new("the decoded changes")))
    }

    /// Asks the new primary for the rows that the window changes first.
    async fn look_up(&mut self, window: &[Pending]) -> BTreeMap<(TableName, Vec<Option<String>>), Row> {
        let mut found = BTreeMap::new();
        let Some(source) = &self.source else { return found };
        let mut wanted: BTreeMap<&TableName, BTreeMap<Vec<Option<String>>, &Row>> = BTreeMap::new();
        for Pending { change, .. } in window {
            let incomplete = change.new.as_ref().is_some_and(|row| row.values().any(|cell| cell.unchanged));
            let asks = matches!(change.kind, ChangeKind::Update | ChangeKind::Delete);
            if let Some(key) = change.key.as_ref().filter(|_| asks && (!change.old_known || incomplete)) {
                let values = key_values(key);
                if !self.state.touched.contains_key(&(change.table.clone(), values.clone())) {
                    wanted.entry(&change.table).or_default().insert(values, key);
                }
            }
        }
        let mut failed = None;
        for (name, keys) in wanted {
            let table = match self.state.tables.get(self.catalog, name).await {
                Ok(Some(table)) => table,
                Ok(None) => continue,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let (values, keys): (Vec<_>, Vec<Row>) =
                keys.into_iter().map(|(values, key)| (values, key.clone())).unzip();
            match rows_by_key(&source.session, name, table, &keys, Lock::None).await {
                Ok(rows) => {
                    for (values, rows) in values.into_iter().zip(rows) {
                        if let [row] = &rows[..]
                            && row.xmin < source.next_xid_at_fork
                        {
                            found.insert((name.clone(), values), row.row.clone());
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.state.lookup_failed = Some(crate::error::chain(&error));
        }
        found
    }

    fn give_up_lookups(&mut self, error: &tokio_postgres::Error) {
        self.state.lookup_failed = Some(crate::error::chain(error));
        self.source = None;
    }
}

impl State {
    /// Adds what earlier lost changes and the new primary tell of the row before the change.
    fn complete(&mut self, change: &mut Change, found: &BTreeMap<(TableName, Vec<Option<String>>), Row>) {
        if change.kind == ChangeKind::Truncate {
            for (_, touched) in self.touched.iter_mut().filter(|((table, _), _)| *table == change.table) {
                *touched = Touched::Gone;
            }
            return;
        }
        let Some(key) = &change.key else { return };
        let id = (change.table.clone(), key_values(key));
        if change.kind != ChangeKind::Insert {
            let before = match self.touched.get(&id) {
                Some(Touched::Row(row)) => Some(row),
                Some(Touched::Gone | Touched::Unknown) => None,
                None if self.touched_bytes < TOUCHED_BYTES_MAX => found.get(&id),
                None => None,
            };
            if let (Some(before), false) = (before, change.old_known) {
                change.old = Some(before.clone());
                change.old_known = true;
            }
        }
        if let (Some(old), Some(new)) = (&change.old, &mut change.new) {
            for (name, cell) in new.iter_mut().filter(|(_, cell)| cell.unchanged) {
                if let Some(known) = old.get(name) {
                    *cell = known.clone();
                }
            }
        }
        let after = match &change.new {
            None => Touched::Gone,
            Some(new) if new.values().any(|cell| cell.unchanged) => Touched::Unknown,
            Some(new) => Touched::Row(new.clone()),
        };
        let new_key =
            change.new.as_ref().map(|new| key.keys().map(|name| value_of(new, name)).collect::<Vec<_>>());
        let moved = new_key.filter(|new_key| *new_key != id.1);
        match moved {
            Some(new_key) => {
                let table = id.0.clone();
                self.remember(id, Touched::Gone);
                self.remember((table, new_key), after);
            }
            None => self.remember(id, after),
        }
    }

    fn remember(&mut self, id: (TableName, Vec<Option<String>>), touched: Touched) {
        let text = |cell: &Cell| cell.value.as_ref().map_or(0, String::len) + cell.type_name.len();
        let bytes = match &touched {
            Touched::Row(row) => row.iter().map(|(name, cell)| name.len() + text(cell) + 80).sum(),
            Touched::Gone | Touched::Unknown => 0,
        };
        let known = self.touched.contains_key(&id);
        // Past the bound nothing new is remembered, and what is remembered is kept true.
        if self.touched_bytes < TOUCHED_BYTES_MAX {
            self.touched_bytes += bytes + TOUCHED_ROW_BYTES;
            self.touched.insert(id, touched);
        } else if known {
            self.touched.insert(id, Touched::Unknown);
        }
    }
}

fn truncate(table: TableName) -> Change {
    Change { table, kind: ChangeKind::Truncate, key: None, old: None, new: None, old_known: false }
}

fn row(columns: Vec<Column>, table: Option<&Table>) -> Row {
    let cell = |column: Column| {
        // With its parameters, where the catalogue still has the column.
        let known = table.and_then(|table| table.column(&column.name)).map(|known| known.type_name.clone());
        let (value, unchanged) = match column.value {
            Value::Null => (None, false),
            Value::Unchanged => (None, true),
            Value::Text(text) => (Some(text), false),
        };
        (column.name, Cell { type_name: known.unwrap_or(column.type_name), value, unchanged })
    };
    columns.into_iter().map(cell).collect()
}

/// The plugin leaves nulls of an old row out.
fn with_nulls(mut row: Row, table: Option<&Table>) -> Row {
    for column in table.iter().flat_map(|table| &table.columns) {
        let null = || Cell { type_name: column.type_name.clone(), value: None, unchanged: false };
        row.entry(column.name.clone()).or_insert_with(null);
    }
    row
}

fn key_of(row: &Row, table: Option<&Table>) -> Option<Row> {
    let names = &table.filter(|table| !table.key.is_empty())?.key;
    names.iter().map(|name| Some((name.clone(), row.get(name)?.clone()))).collect()
}

pub(crate) fn key_values(key: &Row) -> Vec<Option<String>> {
    key.values().map(|cell| cell.value.clone()).collect()
}

fn value_of(row: &Row, name: &str) -> Option<String> {
    row.get(name).and_then(|cell| cell.value.clone())
}
