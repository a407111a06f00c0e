//! A cache that was filled with one text says of another what the classifier says.
//!
//! The input is a text, the byte 0xff, and replacements parted by that byte, which take the place of the text's
//! literals: what a crude look takes for literals, so that some are none. Half of the texts stay as they are but for
//! those, which is how two texts come to have one shape.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pangea_sql::{Cache, Catalog, CatalogBuilder, CatalogTable, classify};

/// Names that are known, so that not everything needs the primary.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let rows: &[(CatalogTable, &[&str])] = &[
        (CatalogTable::Functions, &["pg_catalog", "current_setting", "s", "false"]),
        (CatalogTable::Functions, &["pg_catalog", "set_config", "v", "false"]),
        (CatalogTable::Functions, &["pg_catalog", "now", "s", "false"]),
        (CatalogTable::Relations, &["public", "t", "r", "p"]),
        (CatalogTable::Operators, &["pg_catalog", "=", "i"]),
        (CatalogTable::Operators, &["pg_catalog", "-", "i"]),
        (CatalogTable::Operators, &["pg_catalog", "+", "i"]),
    ];
    let mut builder = CatalogBuilder::new();
    for (table, row) in rows {
        let row: Vec<Option<&str>> = row.iter().copied().map(Some).collect();
        builder.add_row(*table, &row).expect("a row as its query promises");
    }
    builder.build()
});

/// The text with the runs of digits and the quoted parts replaced in turn.
fn replaced(text: &str, with: &[&str]) -> String {
    let mut with = with.iter().cycle();
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|letter: char| letter == '\'' || letter.is_ascii_digit()) {
        let (before, literal) = rest.split_at(start);
        let len = match literal.strip_prefix('\'') {
            Some(inside) => inside.find('\'').map_or(literal.len(), |end| end + 2),
            None => literal.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(literal.len()),
        };
        out.push_str(before);
        out.push_str(with.next().copied().unwrap_or(&literal[..len]));
        rest = &literal[len..];
    }
    out + rest
}

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == 0xff).filter_map(|part| std::str::from_utf8(part).ok());
    let Some(text) = parts.next() else { return };
    let with: Vec<&str> = parts.collect();
    let mut cache = Cache::new(1 << 20);
    for text in [text, &replaced(text, &with), &replaced(text, &["1"]), &replaced(text, &["'x'"])] {
        let fresh = Arc::new(classify(text, &CATALOG));
        match cache.get(text) {
            Some(known) => assert_eq!(known, fresh, "{text}"),
            None => cache.insert(text, fresh),
        }
    }
});
