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
/// What a remembered row costs beside its texts.
const TOUCHED_ROW_BYTES: usize = 120;
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
    /// By the values of the key, see [`key_text`].
    touched: HashMap<TableName, HashMap<String, Touched>>,
    touched_bytes: usize,
    /// Some row was touched and not remembered. Never taken back: it may be any row.
    touched_full: bool,
    /// Transactions with rows.
    pub(crate) decoded: HashSet<u32>,
    pub(crate) changes: u64,
    /// The new primary could not be asked.
    pub(crate) lookup_failed: Option<String>,
}

/// What a lost change has left of a row.
enum Touched {
    /// As JSON: a map of columns takes several times as much.
    Row(String),
    Gone,
    Unknown,
}

/// Rows of the new primary, by table and key.
type Found = HashMap<(TableName, String), Row>;

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
    async fn look_up(&mut self, window: &[Pending]) -> Found {
        let mut found = Found::new();
        let Some(source) = &self.source else { return found };
        let mut wanted: BTreeMap<&TableName, BTreeMap<String, &Row>> = BTreeMap::new();
        for Pending { change, .. } in window {
            let incomplete = change.new.as_ref().is_some_and(|row| row.values().any(|cell| cell.unchanged));
            let asks = matches!(change.kind, ChangeKind::Update | ChangeKind::Delete);
            if let Some(key) = change.key.as_ref().filter(|_| asks && (!change.old_known || incomplete)) {
                let values = key_text(key.values().map(|cell| cell.value.as_deref()));
                if !self.state.touched.get(&change.table).is_some_and(|rows| rows.contains_key(&values)) {
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
    fn complete(&mut self, change: &mut Change, found: &Found) {
        if change.kind == ChangeKind::Truncate {
            for touched in self.touched.get_mut(&change.table).into_iter().flat_map(HashMap::values_mut) {
                *touched = Touched::Gone;
            }
            return;
        }
        let Some(key) = &change.key else { return };
        let id = key_text(key.values().map(|cell| cell.value.as_deref()));
        if change.kind != ChangeKind::Insert && !change.old_known {
            change.old = match self.touched.get(&change.table).and_then(|rows| rows.get(&id)) {
                Some(Touched::Row(row)) => serde_json::from_str(row).ok(),
                Some(Touched::Gone | Touched::Unknown) => None,
                // It may have been touched and not remembered.
                None if self.touched_full => None,
                None => found.get(&(change.table.clone(), id.clone())).cloned(),
            };
            change.old_known = change.old.is_some();
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
            Some(new) => serde_json::to_string(new).map_or(Touched::Unknown, Touched::Row),
        };
        let new_value = |new: &Row, name: &String| new.get(name).and_then(|cell| cell.value.clone());
        let new_id = change.new.as_ref().map(|new| {
            let values: Vec<Option<String>> = key.keys().map(|name| new_value(new, name)).collect();
            key_text(values.iter().map(Option::as_deref))
        });
        match new_id.filter(|new_id| *new_id != id) {
            Some(new_id) => {
                self.remember(&change.table, id, Touched::Gone);
                self.remember(&change.table, new_id, after);
            }
            None => self.remember(&change.table, id, after),
        }
    }

    fn remember(&mut self, table: &TableName, id: String, touched: Touched) {
        let row_bytes = |touched: &Touched| match touched {
            Touched::Row(row) => row.len(),
            Touched::Gone | Touched::Unknown => 0,
        };
        if !self.touched.contains_key(table) {
            self.touched.insert(table.clone(), HashMap::new());
        }
        let Some(rows) = self.touched.get_mut(table) else { return };
        self.touched_full |= self.touched_bytes >= TOUCHED_BYTES_MAX;
        let full = self.touched_full;
        match rows.get_mut(&id) {
            Some(known) => {
                // Past the bound nothing is added, and what is remembered stays true.
                let touched =
                    if full && row_bytes(&touched) > row_bytes(known) { Touched::Unknown } else { touched };
                self.touched_bytes = self.touched_bytes + row_bytes(&touched) - row_bytes(known);
                *known = touched;
            }
            None if full => {}
            None => {
                self.touched_bytes += TOUCHED_ROW_BYTES + id.len() + row_bytes(&touched);
                rows.insert(id, touched);
            }
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

/// The values of a key as one text that no other values have.
fn key_text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> String {
    values
        .map(|value| value.map_or_else(|| "-".to_owned(), |text| format!("{}:{text}", text.len())))
        .collect()
}
