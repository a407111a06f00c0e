//! Rows of the new primary, by key: what a row was before it was lost, where nobody has written it since.

use super::catalog::Table;
use super::report::{Cell, Row, TableName};
use super::session::{Session, identifier, literal};

/// A row as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) row: Row,
    /// Who wrote it, in 64 bits.
    pub(crate) xmin: u64,
}

/// The rows with these keys, in the order of the keys.
pub(crate) async fn rows_by_key(
    session: &Session,
    name: &TableName,
    table: &Table,
    keys: &[Row],
    lock: Lock,
) -> Result<Vec<Vec<Found>>, tokio_postgres::Error> {
    let mut found = vec![Vec::new(); keys.len()];
    let Some(first) = keys.first() else { return Ok(found) };
    let names: Vec<&String> = first.keys().collect();
    let type_of = |name: &str, cell: &Cell| {
        table.column(name).map_or_else(|| cell.type_name.clone(), |column| column.type_name.clone())
    };
    let conditions: Vec<String> = first
        .iter()
        .enumerate()
        .map(|(place, (name, cell))| format!("t.{} = k.k{place}::{}", identifier(name), type_of(name, cell)))
        .collect();
    let tuple = |(ordinal, key): (usize, &Row)| {
        let values = names.iter().map(|name| match key.get(*name).and_then(|cell| cell.value.as_deref()) {
            Some(text) => format!("{}::text", literal(text)),
            None => "NULL::text".to_owned(),
        });
        let values: Vec<String> = std::iter::once(ordinal.to_string()).chain(values).collect();
        format!("({})", values.join(", "))
    };
    let tuples: Vec<String> = keys.iter().enumerate().map(tuple).collect();
    let columns: String =
        table.columns.iter().map(|column| format!(", t.{}", identifier(&column.name))).collect();
    let places: String = (0..names.len()).map(|place| format!(", k{place}")).collect();
    let sql = format!(
        "SELECT k.ordinal, t.xmin, pg_snapshot_xmax(pg_current_snapshot()){columns} \
         FROM (VALUES {}) AS k(ordinal{places}) JOIN ONLY {}.{} AS t ON {}{}",
        tuples.join(", "),
        identifier(&name.schema),
        identifier(&name.name),
        conditions.join(" AND "),
        match lock {
            Lock::None => "",
            Lock::ForUpdate => " FOR UPDATE OF t",
        }
    );
    for row in session.rows(&sql).await? {
        let ordinal = row.get(0).and_then(|text| text.parse::<usize>().ok());
        let xmin = row.get(1).and_then(|text| text.parse::<u32>().ok());
        let next = row.get(2).and_then(|text| text.parse::<u64>().ok());
        let (Some(ordinal), Some(xmin), Some(next)) = (ordinal, xmin, next) else { continue };
        let cells = table.columns.iter().enumerate().map(|(place, column)| {
            let value = row.get(place + 3).map(|text| plugin_text(&column.type_name, text));
            let cell = Cell { type_name: column.type_name.clone(), value, unchanged: false };
            (column.name.clone(), cell)
        });
        if let Some(place) = found.get_mut(ordinal) {
            place.push(Found { row: cells.collect(), xmin: past_xid(xmin, next) });
        }
    }
    Ok(found)
}

/// Whether the rows are locked until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    None,
    ForUpdate,
}

/// The id of a transaction of the past in 64 bits: the latest one of these 32 bits before `next`. It stays exact
/// for rows that are frozen, because freezing keeps their `xmin`, up to 4 billion transactions after the fork.
fn past_xid(xid: u32, next: u64) -> u64 {
    let candidate = next & !0xFFFF_FFFF | u64::from(xid);
    if candidate >= next { candidate.saturating_sub(1 << 32) } else { candidate }
}

/// The output plugin writes a boolean in full.
fn plugin_text(type_name: &str, text: &str) -> String {
    match (type_name, text) {
        ("boolean", "t") => "true".to_owned(),
        ("boolean", "f") => "false".to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_past() {
        assert_eq!(past_xid(700, 747), 700);
        assert_eq!(past_xid(747, 747), 0, "of before the numbers began again");
        assert_eq!(past_xid(0xFFFF_FFF0, (1 << 32) + 5), 0xFFFF_FFF0);
        assert_eq!(past_xid(3, (1 << 32) + 5), (1 << 32) + 3);
    }
}
