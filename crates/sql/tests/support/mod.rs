//! What the two tests of the classifier share.

pub(crate) mod cases;

use pangea_sql::{Catalog, CatalogBuilder, CatalogTable};

/// One row of one of the catalogue's queries.
pub(crate) type Row = (CatalogTable, Vec<Option<String>>);

/// The catalogue of these rows.
pub(crate) fn catalog(rows: &[Row]) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for (table, row) in rows {
        let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
        builder.add_row(*table, &row).expect("a row as its query promises");
    }
    builder.build()
}

/// Checks every table of [`cases`] against one catalogue.
pub(crate) fn check_all(catalog: &Catalog) {
    let mut wrong = Vec::new();
    let mut check = |sql: &str, what: &str, right: bool| {
        if !right {
            wrong.push(format!("{what}: {sql}\n    {:?}", pangea_sql::classify(sql, catalog)));
        }
    };
    for sql in cases::LOCAL.iter().chain(cases::LOCAL_NEWER) {
        let batch = pangea_sql::classify(sql, catalog);
        check(sql, "not local", !batch.needs_primary() && !batch.pins() && !batch.unknown_names);
    }
    for sql in cases::PRIMARY {
        let batch = pangea_sql::classify(sql, catalog);
        check(sql, "not primary", batch.needs_primary() && !batch.unparsable);
        check(sql, "pins", !batch.pins());
        check(sql, "unknown", !batch.unknown_names);
    }
    for sql in cases::PINNED {
        let batch = pangea_sql::classify(sql, catalog);
        check(sql, "does not pin", batch.pins() && batch.needs_primary() && !batch.unknown_names);
    }
    for sql in cases::SESSION_STATE {
        let batch = pangea_sql::classify(sql, catalog);
        let session = batch.statements.iter().all(|statement| statement.reads_session_state);
        check(sql, "not session state", session && batch.needs_primary());
    }
    for sql in cases::UNKNOWN {
        let batch = pangea_sql::classify(sql, catalog);
        check(sql, "not unknown", batch.unknown_names && batch.needs_primary());
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Where the rows of the catalogue of `data/schema.sql` are kept.
const ROWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/catalog.tsv");

/// Keeps the rows: the place of the query in `CatalogTable::ALL`, then the columns.
#[allow(dead_code, reason = "each test uses its part of the support module")]
pub(crate) fn write_rows(rows: &[Row]) {
    let mut text = String::new();
    for (table, row) in rows {
        let number = CatalogTable::ALL.iter().position(|other| other == table).expect("one of all");
        text.push_str(&number.to_string());
        for column in row {
            text.push('\t');
            text.push_str(&column.as_deref().map_or("\\N".to_owned(), |column| {
                column.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
            }));
        }
        text.push('\n');
    }
    std::fs::write(ROWS, text).expect("write the rows");
}

/// The rows that were kept.
#[allow(dead_code, reason = "each test uses its part of the support module")]
pub(crate) fn read_rows() -> Vec<Row> {
    let text = std::fs::read_to_string(ROWS).expect("read the rows");
    text.lines()
        .map(|line| {
            let (number, columns) = line.split_once('\t').expect("a tab");
            let number: usize = number.parse().expect("a number");
            let columns = columns.split('\t').map(|column| (column != "\\N").then(|| unescape(column)));
            (CatalogTable::ALL[number], columns.collect())
        })
        .collect()
}

fn unescape(column: &str) -> String {
    let mut plain = String::with_capacity(column.len());
    let mut letters = column.chars();
    while let Some(letter) = letters.next() {
        plain.push(match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                _ => '\\',
            },
            (letter, false) => letter,
        });
    }
    plain
}
