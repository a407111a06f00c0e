use proptest::prelude::*;

use super::*;

fn column(name: &str, type_name: &str, value: &str) -> Column {
    Column { name: name.into(), type_name: type_name.into(), value: Value::Text(value.into()) }
}

fn change(text: &str) -> Decoding {
    match parse(text).unwrap() {
        Decoded::Change(change) => change,
        other => panic!("{other:?}"),
    }
}

#[test]
fn transactions() {
    for text in ["BEGIN", "BEGIN 727"] {
        assert_eq!(parse(text), Ok(Decoded::Begin));
    }
    for text in ["COMMIT", "COMMIT 727 (at 2026-11-21 18:37:07.334897+00)"] {
        assert_eq!(parse(text), Ok(Decoded::Commit));
    }
    let message = "message: transactional: 1 prefix: x, sz: 3 content:abc";
    assert_eq!(parse(message), Ok(Decoded::Message));
}

#[test]
fn an_insert_of_many_types() {
    let found = change(
        "table public.t: INSERT: id[integer]:1 v[text]:'it''s' b[bit]:B'101' z[boolean]:true n[numeric]:NaN \
         a[character varying[]]:'{a,b}' \"Q \"\"x\"\"]: y\"[timestamp with time zone]:'2026-11-21 18:37:07+00' \
         d[s.\"My ]Type\"[]]:null e[text]:unchanged-toast-datum",
    );
    assert_eq!((found.schema.as_str(), found.table.as_str(), found.kind), ("public", "t", Kind::Insert));
    let null = Column { name: "d".into(), type_name: "s.\"My ]Type\"[]".into(), value: Value::Null };
    let unchanged = Column { name: "e".into(), type_name: "text".into(), value: Value::Unchanged };
    let expected = vec![
        column("id", "integer", "1"),
        column("v", "text", "it's"),
        column("b", "bit", "101"),
        column("z", "boolean", "true"),
        column("n", "numeric", "NaN"),
        column("a", "character varying[]", "{a,b}"),
        column("Q \"x\"]: y", "timestamp with time zone", "2026-11-21 18:37:07+00"),
        null,
        unchanged,
    ];
    assert_eq!((found.old, found.new), (None, Some(expected)));
}

#[test]
fn updates_deletes_and_truncates() {
    let update = change(
        "table a.\"B c\": UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:9 \"new-tuple\"[text]:'x'",
    );
    assert_eq!(update.old, Some(vec![column("id", "integer", "1")]));
    assert_eq!(update.new, Some(vec![column("id", "integer", "9"), column("new-tuple", "text", "x")]));
    let plain = change("table a.b: UPDATE: id[integer]:1");
    assert_eq!((plain.old, plain.new), (None, Some(vec![column("id", "integer", "1")])));
    let delete = change("table a.b: DELETE: (no-tuple-data)");
    assert_eq!((delete.kind, delete.old, delete.new), (Kind::Delete, None, None));
    let delete = change("table a.b: DELETE: id[integer]:1");
    assert_eq!(delete.old, Some(vec![column("id", "integer", "1")]));
    let empty = change("table a.b: INSERT:");
    assert_eq!(empty.new, Some(vec![]), "a table without columns");
    let tables = vec![("a".to_owned(), "b".to_owned()), ("C".to_owned(), "d.e".to_owned())];
    for flags in ["(no-flags)", "restart_seqs cascade"] {
        let text = format!("table a.b, \"C\".\"d.e\": TRUNCATE: {flags}");
        assert_eq!(parse(&text), Ok(Decoded::Truncate(tables.clone())));
    }
}

#[test]
fn what_is_not_understood_says_where() {
    for (text, at) in
        [("", 0), ("ROLLBACK", 0), ("table a.b: INSERT: x[int", 21), ("table a.b: INSERT: x[int]:'a", 27)]
    {
        assert_eq!(parse(text).unwrap_err().at, at, "{text:?}");
    }
    for text in [
        "table a: INSERT:",
        "table a.b, c.d: INSERT:",
        "table a.b: INSERT: x[int]:",
        "table a.b: INSERT: x[int]:1 ",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

/// As `test_decoding` writes it.
fn written(change: &Decoding) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let identifier = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { quoted(name) }
    };
    let tuple = |columns: &Option<Vec<Column>>| {
        let Some(columns) = columns else { return " (no-tuple-data)".to_owned() };
        let one = |column: &Column| {
            let value = match &column.value {
                Value::Null => "null".to_owned(),
                Value::Unchanged => "unchanged-toast-datum".to_owned(),
                Value::Text(text) if column.type_name == "bit" => format!("B'{text}'"),
                Value::Text(text) if column.type_name == "integer" => text.clone(),
                Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            };
            format!(" {}[{}]:{value}", identifier(&column.name), column.type_name)
        };
        columns.iter().map(one).collect()
    };
    let old = change.old.as_ref().map(|_| tuple(&change.old));
    let body = match change.kind {
        Kind::Insert => format!("INSERT:{}", tuple(&change.new)),
        Kind::Update => match old {
            Some(old) => format!("UPDATE: old-key:{old} new-tuple:{}", tuple(&change.new)),
            None => format!("UPDATE:{}", tuple(&change.new)),
        },
        Kind::Delete => format!("DELETE:{}", tuple(&change.old)),
    };
    format!("table {}.{}: {body}", identifier(&change.schema), identifier(&change.table))
}

fn any_column() -> impl Strategy<Value = Column> {
    let value = prop_oneof![
        Just(("text", Value::Null)),
        Just(("text", Value::Unchanged)),
        "[01]{0,9}".prop_map(|bits| ("bit", Value::Text(bits))),
        any::<i64>().prop_map(|number| ("integer", Value::Text(number.to_string()))),
        "\\PC*".prop_map(|text| ("s.\"]My [\"\"Type\"[]", Value::Text(text))),
        "[' :\\]\\[\"\n]{0,9}".prop_map(|text| ("timestamp with time zone", Value::Text(text))),
    ];
    ("\\PC{1,9}|[a-z_]{1,9}|new-tuple:", value).prop_map(|(name, (type_name, value))| Column {
        name,
        type_name: type_name.to_owned(),
        value,
    })
}

fn any_change() -> impl Strategy<Value = Decoding> {
    let columns = || prop::collection::vec(any_column(), 1..5);
    let name = || "\\PC{1,9}|[a-z_]{1,9}";
    let kind = prop_oneof![Just(Kind::Insert), Just(Kind::Update), Just(Kind::Delete)];
    (name(), name(), kind, prop::option::of(columns()), columns()).prop_map(
        |(schema, table, kind, old, new)| {
            let old = if kind == Kind::Insert { None } else { old };
            let new = if kind == Kind::Delete { None } else { Some(new) };
            Decoding { schema, table, kind, old, new }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(change in any_change()) {
        prop_assert_eq!(parse(&written(&change)), Ok(Decoded::Change(change)));
    }

    #[test]
    fn nothing_makes_it_panic(change in any_change(), cut in 0_usize..300, other in "\\PC{0,4}", any in ".*") {
        let mut text = written(&change);
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(cut, &other);
        let _ = parse(&text);
        let _ = parse(&text[..cut]);
        let _ = parse(&any);
    }
}
