//! One lost change on the primary of now: whether the row still is as it was, and the write.
//!
//! Values are written as string literals and not as parameters: a literal becomes the column's type as in an
//! assignment, so that a value that is too long for a column which has been narrowed is an error. A parameter would
//! have to be cast, which cuts it silently.

use tokio_postgres::SimpleQueryMessage;

use super::apply::ConflictReason;
use super::catalog::{Table, Tables};
use super::lookup::{Found, Lock, rows_by_key};
use super::net::{After, Net};
use super::report::{Cell, Row};
use super::session::{Session, identifier, literal};

/// What came of it.
pub(crate) enum Attempt {
    Done { without_key: bool },
    AlreadySo,
    Conflict { reason: ConflictReason, now: Option<Row> },
}

impl Attempt {
    fn conflict(reason: ConflictReason) -> Self {
        Self::Conflict { reason, now: None }
    }
}

/// Does the change, or says why not. An error of the server leaves the transaction to be rolled back to before.
pub(crate) async fn attempt(
    session: &Session,
    tables: &mut Tables,
    net: &Net,
    next_xid_at_fork: Option<u64>,
) -> Result<Attempt, tokio_postgres::Error> {
    let Some(table) = tables.get(session, &net.table).await? else {
        return Ok(Attempt::conflict(ConflictReason::NoTable));
    };
    let named = net.key.iter().chain(net.lost()).flat_map(|row| row.keys());
    if let Some(column) = { named }.find(|name| table.column(name).is_none()) {
        return Ok(Attempt::conflict(ConflictReason::NoColumn { column: column.clone() }));
    }
    let Some(key) = &net.key else { return insert(session, table, net).await };
    let mut found =
        rows_by_key(session, &net.table, table, std::slice::from_ref(key), Lock::ForUpdate).await?;
    let mut found = found.pop().unwrap_or_default();
    if found.len() > 1 {
        return Ok(Attempt::conflict(ConflictReason::Ambiguous));
    }
    let Some(Found { row: now, xmin }) = found.pop() else {
        return Ok(match &net.after {
            After::Gone => Attempt::AlreadySo,
            After::Row(new) => match at_new_key(session, table, net, new).await? {
                Some(now) if same(new, &now) => Attempt::AlreadySo,
                now => Attempt::Conflict { reason: ConflictReason::RowGone, now },
            },
        });
    };
    if net.lost().is_some_and(|new| same(new, &now)) {
        return Ok(Attempt::AlreadySo);
    }
    let as_it_was = match (&net.old, next_xid_at_fork) {
        (Some(old), _) => Some(same(old, &now)),
        (None, Some(next)) => Some(xmin < next),
        (None, None) => None,
    };
    let reason = match as_it_was {
        Some(true) => return write(session, table, net, key, &now).await,
        Some(false) => ConflictReason::RowChanged,
        None => ConflictReason::RowUnknown,
    };
    Ok(Attempt::Conflict { reason, now: Some(now) })
}

async fn insert(session: &Session, table: &Table, net: &Net) -> Result<Attempt, tokio_postgres::Error> {
    let After::Row(new) = &net.after else { return Ok(Attempt::AlreadySo) };
    if new.values().any(|cell| cell.unchanged) {
        return Ok(Attempt::conflict(ConflictReason::NotWhole));
    }
    if let Some(now) = at_new_key(session, table, net, new).await? {
        return Ok(match same(new, &now) {
            true => Attempt::AlreadySo,
            false => Attempt::Conflict { reason: ConflictReason::RowExists, now: Some(now) },
        });
    }
    let columns: Vec<(&String, &Cell)> = new.iter().filter(|(name, _)| is_written(table, name)).collect();
    let names: Vec<String> = columns.iter().map(|(name, _)| identifier(name)).collect();
    let values: Vec<String> = columns.iter().map(|(_, cell)| value(cell)).collect();
    let into = format!("INSERT INTO {}.{}", identifier(&net.table.schema), identifier(&net.table.name));
    let sql = match names.is_empty() {
        true => format!("{into} DEFAULT VALUES"),
        false => {
            format!("{into} ({}) OVERRIDING SYSTEM VALUE VALUES ({})", names.join(", "), values.join(", "))
        }
    };
    done(session, &sql, net.new_key.is_none()).await
}

/// The row that has the key of the new row, if there is one and the table has a key.
async fn at_new_key(
    session: &Session,
    table: &Table,
    net: &Net,
    new: &Row,
) -> Result<Option<Row>, tokio_postgres::Error> {
    let Some(names) = net.new_key.as_ref().or(net.key.as_ref()).map(|key| key.keys()) else {
        return Ok(None);
    };
    let key: Row = names.filter_map(|name| Some((name.clone(), new.get(name)?.clone()))).collect();
    let found = rows_by_key(session, &net.table, table, std::slice::from_ref(&key), Lock::None).await?;
    Ok(found.into_iter().flatten().next().map(|found| found.row))
}

async fn write(
    session: &Session,
    table: &Table,
    net: &Net,
    key: &Row,
    now: &Row,
) -> Result<Attempt, tokio_postgres::Error> {
    let name = format!("{}.{}", identifier(&net.table.schema), identifier(&net.table.name));
    // The row is locked: its key is what was asked for.
    let conditions: Vec<String> =
        key.iter().map(|(name, cell)| format!("{} = {}", identifier(name), value(cell))).collect();
    let conditions = conditions.join(" AND ");
    let sql = match &net.after {
        After::Gone => format!("DELETE FROM ONLY {name} WHERE {conditions}"),
        After::Row(new) => {
            let differs = |(name, cell): &(&String, &Cell)| {
                !cell.unchanged
                    && is_written(table, name)
                    && now.get(*name).map(|cell| &cell.value) != Some(&cell.value)
            };
            let set: Vec<String> = new
                .iter()
                .filter(differs)
                .map(|(name, cell)| format!("{} = {}", identifier(name), value(cell)))
                .collect();
            if set.is_empty() {
                return Ok(Attempt::AlreadySo);
            }
            format!("UPDATE ONLY {name} SET {} WHERE {conditions}", set.join(", "))
        }
    };
    done(session, &sql, false).await
}

async fn done(session: &Session, sql: &str, without_key: bool) -> Result<Attempt, tokio_postgres::Error> {
    let messages = session.client.simple_query(sql).await?;
    let one = messages.iter().any(|message| matches!(message, SimpleQueryMessage::CommandComplete(1)));
    Ok(match one {
        true => Attempt::Done { without_key },
        // A trigger or rule has done something else.
        false => Attempt::conflict(ConflictReason::Refused {
            code: "P0000".to_owned(),
            message: "the statement changed no row: a trigger or a rule is against it".to_owned(),
        }),
    })
}

/// Whether the columns that both have are the same text. Columns that were added since are not in the report.
fn same(lost: &Row, now: &Row) -> bool {
    lost.iter().all(|(name, cell)| cell.unchanged || now.get(name).is_some_and(|now| now.value == cell.value))
}

fn is_written(table: &Table, name: &str) -> bool {
    table.column(name).is_some_and(|column| !column.generated)
}

fn value(cell: &Cell) -> String {
    cell.value.as_deref().map_or_else(|| "NULL".to_owned(), literal)
}
