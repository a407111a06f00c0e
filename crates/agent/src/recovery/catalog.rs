//! What a server's catalogue says of a table: its columns and what identifies a row.

use std::collections::HashMap;

use super::report::TableName;
use super::session::{Session, literal};

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// In the order of the table.
    pub(crate) columns: Vec<TableColumn>,
    /// Columns of the primary key, or of the index that is the replica identity; empty when there is none.
    pub(crate) key: Vec<String>,
    pub(crate) identity: Identity,
}

/// What the log has of a row before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Identity {
    /// The key, where it changes.
    #[default]
    Key,
    /// All of it.
    Full,
    /// Nothing, not even a key that changes.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    /// With its parameters, to cast to: `character` alone would be one character.
    pub(crate) type_name: String,
    /// Computed by the server.
    pub(crate) generated: bool,
    /// Given by the server unless a statement overrides it.
    pub(crate) always: bool,
}

impl Table {
    pub(crate) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// The tables of a database, asked for once each.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    known: HashMap<TableName, Option<Table>>,
}

impl Tables {
    /// The table; `None` when there is none of that name.
    pub(crate) async fn get(
        &mut self,
        session: &Session,
        name: &TableName,
    ) -> Result<Option<&Table>, tokio_postgres::Error> {
        if !self.known.contains_key(name) {
            let table = read(session, name).await?;
            self.known.insert(name.clone(), table);
        }
        Ok(self.known.get(name).and_then(Option::as_ref))
    }
}

async fn read(session: &Session, name: &TableName) -> Result<Option<Table>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT c.relreplident, a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', \
         a.attidentity = 'a', array_position(i.indkey::int2[], a.attnum) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_index i ON i.indrelid = c.oid \
         AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END \
         WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p') ORDER BY a.attnum",
        literal(&name.schema),
        literal(&name.name)
    );
    let rows = session.rows(&sql).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let identity = match first.get(0) {
        Some("f") => Identity::Full,
        Some("n") => Identity::Nothing,
        _ => Identity::Key,
    };
    let mut key: Vec<(u32, String)> = Vec::new();
    let mut columns = Vec::new();
    for row in &rows {
        let (Some(name), Some(type_name)) = (row.get(1), row.get(2)) else { continue };
        if let Some(place) = row.get(5).and_then(|place| place.parse().ok()) {
            key.push((place, name.to_owned()));
        }
        columns.push(TableColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            generated: row.get(3) == Some("t"),
            always: row.get(4) == Some("t"),
        });
    }
    key.sort();
    let key = key.into_iter().map(|(_, name)| name).collect();
    Ok(Some(Table { columns, key, identity }))
}
