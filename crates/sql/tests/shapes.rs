//! The cache against the classifier: what it answers for a text is what the classifier would say,
//! whatever texts it was filled with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[allow(dead_code, reason = "each test uses its part of the support module")]
mod support;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, LazyLock};

use pangea_sql::{Batch, Cache, Catalog, classify};
use pg_query::protobuf::Token;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::cases;

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| support::catalog(&support::read_rows()));

/// Numbers to put in the place of another, and what is none.
const NUMBERS: &[&str] = &[
    "0",
    "7",
    "54",
    "12345678",
    "2147483647",
    "2147483648",
    "99999999999999999999",
    "007",
    "-1",
    "- 1",
    "1e5",
    ".5",
    "5.",
    "1.5e-3",
    "0x1F",
    "1_000",
    "1e",
    "(1)",
    "'7'",
    "$1",
    "NULL",
    "writer()",
];

/// Strings to put in the place of another, and what is none.
const STRINGS: &[&str] = &[
    "''",
    "'x'",
    "'it''s'",
    "''''",
    "'a;b'",
    "'-- /* \"'",
    "'\\'",
    "'é'",
    "'a longer string than any of the others in this list, with 1 number in it'",
    "'off'",
    "'maybe'",
    "'search_path'",
    "'work_mem'",
    "'pg_temp'",
    "'a'\n'b'",
    "E'\\''",
    "$$x$$",
    "B'1'",
    "U&'x'",
    "1",
    "$1",
    "writer()",
];

/// What a cache says that was filled by others: `Some(true)` if it was right, `None` if it did
/// not know. It knows afterwards.
fn ask(cache: &mut Cache, text: &str) -> Option<bool> {
    let fresh = Arc::new(classify(text, &CATALOG));
    let known = cache.get(text);
    if known.is_none() {
        // It is kept when it is seen again.
        cache.insert(text, Arc::clone(&fresh));
        cache.insert(text, Arc::clone(&fresh));
        let kept = cache.get(text);
        assert!(kept.is_none_or(|kept| *kept == as_kept(&kept, &fresh)), "{text}");
    }
    known.map(|known| {
        assert_eq!(*known, as_kept(&known, &fresh), "{text}");
        true
    })
}

/// What a cache that answers `known` has to say: where a statement stands that is the only one of its text it may leave out.
fn as_kept(known: &Batch, fresh: &Batch) -> Batch {
    let mut fresh = fresh.clone();
    if let ([known], [fresh]) = (known.statements.as_slice(), fresh.statements.as_mut_slice())
        && known.range.is_empty()
    {
        fresh.range = 0..0;
    }
    fresh
}

fn corpus() -> impl Iterator<Item = &'static str> {
    [
        cases::LOCAL,
        cases::LOCAL_NEWER,
        cases::PRIMARY,
        cases::PINNED,
        cases::SESSION_STATE,
        cases::UNKNOWN,
        MORE,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Literals in odd places.
const MORE: &[&str] = &[
    "SELECT 1::float(24), 1::float(25)",
    "SELECT CAST('1' AS FLOAT (53))",
    "SELECT interval '1' day, interval(3) '1', interval '1' second(2), timestamp(3) '2020-01-01'",
    "SELECT * FROM t FETCH FIRST 5 ROWS ONLY",
    "SELECT current_setting('work_mem')",
    "SELECT v FROM t WHERE current_setting('app.x') = '1'",
    "SELECT set_config('a.b', '1', 'on')",
    "SELECT set_config('search_path', 'x', 'on'), 1",
    "SELECT \"set_config\"('search_path', 'x', 'on')",
    "EXPLAIN (ANALYZE 0) INSERT INTO t VALUES (1)",
    "SET work_mem = 1",
    "DECLARE c CURSOR FOR SELECT 1",
    "SELECT 1 INTO x",
    "SELECT '1' AS \"it's\", E'\\'', 2",
    " /* 1 */ SELECT 1 -- '\n; -- 2",
    "INSERT INTO t (id, v) VALUES (1, 'a'), (-2, 'b') ON CONFLICT (id) DO UPDATE SET v = 'c' RETURNING 1",
    "MERGE INTO t USING (VALUES (1, 'a')) s(id, v) ON t.id = s.id WHEN MATCHED AND t.n > 3 THEN UPDATE SET v = 'b'",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) CYCLE n SET c TO 'y' DEFAULT 'n' USING p \
     SELECT * FROM r LIMIT 2 OFFSET 1",
];

/// The literals of a text by the scanner of PostgreSQL.
fn literals(text: &str) -> Vec<(std::ops::Range<usize>, &'static [&'static str])> {
    let Ok(scanned) = pg_query::scan(text) else { return Vec::new() };
    let place = |token: &pg_query::protobuf::ScanToken| {
        usize::try_from(token.start).unwrap()..usize::try_from(token.end).unwrap()
    };
    scanned
        .tokens
        .iter()
        .filter_map(|token| match Token::try_from(token.token).unwrap() {
            Token::Iconst | Token::Fconst => Some((place(token), NUMBERS)),
            Token::Sconst => Some((place(token), STRINGS)),
            _ => None,
        })
        .collect()
}

/// The text with one literal after the other replaced by each of its kind, then all of them.
fn mutations(text: &str) -> Vec<String> {
    let places = literals(text);
    let mut all = Vec::new();
    for (place, others) in &places {
        for other in *others {
            all.push(format!("{}{other}{}", &text[..place.start], &text[place.end..]));
        }
    }
    for round in 0..NUMBERS.len() {
        let mut changed = text.to_owned();
        for (number, (place, others)) in places.iter().enumerate().rev() {
            changed.replace_range(place.clone(), others[(round + number) % others.len()]);
        }
        all.push(changed);
    }
    all
}

#[test]
fn the_corpus_with_other_literals() {
    let mut shared = Cache::new(64 << 20);
    let (mut asked, mut known) = (0, 0);
    for text in corpus() {
        let texts = mutations(text);
        let mut backwards = Cache::new(1 << 20);
        for text in texts.iter().rev() {
            ask(&mut backwards, text);
        }
        ask(&mut backwards, text);
        for text in std::iter::once(text).chain(texts.iter().map(String::as_str)) {
            asked += 1;
            known += usize::from(ask(&mut shared, text).is_some());
        }
    }
    assert!(known * 4 > asked, "{known} of {asked} were known");
}

#[test]
fn a_shape_is_kept_once() {
    let mut cache = Cache::new(1 << 20);
    for number in 0..1_000 {
        let text = format!("SELECT v FROM t WHERE id = {number} AND v <> '{number}';");
        assert_eq!(ask(&mut cache, &text).is_some(), number > 0, "{text}");
    }
    assert_eq!(cache.len(), 1);
    let bytes = cache.bytes();
    assert_eq!(ask(&mut cache, "SELECT v FROM t WHERE id = 1.0 AND v <> '1';"), None);
    assert_eq!((cache.len(), cache.bytes()), (2, 2 * bytes));
    // An answer that depends on a literal is known for its text alone.
    for setting in ["search_path", "work_mem", "app.user"] {
        assert_eq!(ask(&mut cache, &format!("SELECT current_setting('{setting}')")), None);
        assert_eq!(ask(&mut cache, &format!("SELECT set_config('{setting}', 'x', true)")), None);
        assert_eq!(ask(&mut cache, &format!("SET app.x = '{setting}'")), None);
    }
}

#[test]
fn a_text_never_gets_what_was_kept_for_a_shape() {
    let mut cache = Cache::new(1 << 20);
    ask(&mut cache, "SELECT 1");
    assert!(cache.get("SELECT \u{1}").is_none());
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_long_text_of_a_short_shape_is_known() {
    let mut cache = Cache::new(1 << 20);
    ask(&mut cache, "INSERT INTO t VALUES (1, 'x')");
    assert_eq!(ask(&mut cache, &format!("INSERT INTO t VALUES (1, '{}')", "x".repeat(40_000))), Some(true));
    let too_long = format!("INSERT INTO t VALUES (1, '{}')", "x".repeat(pangea_sql::TEXT_LEN_MAX));
    assert_eq!(ask(&mut cache, &too_long), None);
}

/// A place for a number or a string in generated text.
const NUMBER_SLOT: char = '\u{e000}';
const STRING_SLOT: char = '\u{e001}';

fn leaf() -> impl Strategy<Value = String> {
    let leaves = [
        "#",
        "#",
        "#",
        "@",
        "@",
        "@",
        "id",
        "t.v",
        "a1",
        "\"it's 1\"",
        "$1",
        "now()",
        "NULL",
        "date @",
        "-#",
        "interval @ day",
        "interval(#) @",
        "\"id\"",
        "current_date",
        "current_timestamp(#)",
    ];
    select(leaves.to_vec()).prop_map(|leaf| leaf.replace('#', "\u{e000}").replace('@', "\u{e001}"))
}

fn expression() -> impl Strategy<Value = String> {
    let wrappers = [
        "?+?",
        "? - ?",
        "?-?",
        "-?",
        "- -?",
        "(?)",
        "?::int",
        "?::numeric(#)",
        "?::float(#)",
        "CAST(? AS float)",
        "?::d_bad",
        "? IN (?,?)",
        "? BETWEEN ? AND ?",
        "current_setting(?)",
        "current_setting(@)",
        "set_config(@, @, true)",
        "set_config(@, ?, @)",
        "add2(?)",
        "writer()",
        "coalesce(?, ?)",
        "? /* 1 ' */ + ?",
        "? -- '1'\n + ?",
        "? LIKE @ ESCAPE @",
        "(SELECT ? LIMIT #)",
        "ARRAY[?, ?]",
        "(ARRAY[?])[#]",
        "?||?",
        "CASE ? WHEN ? THEN ? END",
        "extract(@ FROM now())",
        "? ### ?",
        "? AT TIME ZONE @",
        "pg_catalog.md5(@)",
        "e?",
        "b?",
        "@\n@",
        "@ @",
        "?.?",
        "$?",
        "1?",
        "x?",
        "_?",
        "??",
    ];
    leaf().prop_recursive(3, 12, 3, move |inner| {
        (select(wrappers.to_vec()), vec(inner, 3)).prop_map(|(wrapper, parts)| {
            let mut parts = parts.iter();
            wrapper.chars().fold(String::new(), |mut text, letter| {
                match letter {
                    '?' => text.push_str(parts.next().map_or("1", String::as_str)),
                    '#' => text.push(NUMBER_SLOT),
                    '@' => text.push(STRING_SLOT),
                    letter => text.push(letter),
                }
                text
            })
        })
    })
}

fn statement() -> impl Strategy<Value = String> {
    let statements = [
        "SELECT ?",
        "SELECT ?, ? FROM t WHERE id = ?",
        "SELECT v FROM t WHERE id = ? LIMIT ?",
        "VALUES (?, ?)",
        "SELECT ? FROM t ORDER BY ?;",
        " /* 1 */ SELECT ? ; ",
        "INSERT INTO t VALUES (?, ?), (?, ?)",
        "UPDATE t SET v = ? WHERE id = ?",
        "DELETE FROM t WHERE id = ?; -- 1",
        "SELECT ?; SELECT ?",
        "SELECT ? FOR UPDATE",
        "SELECT ? INTO x",
        "WITH x AS (SELECT ?) SELECT * FROM x",
        "SET work_mem = ?",
        "EXPLAIN SELECT ?",
        "EXPLAIN (ANALYZE #) SELECT ?",
        "PREPARE p AS SELECT ?",
        "EXECUTE p (?)",
        "DECLARE c CURSOR FOR SELECT ?",
        "BEGIN",
        "SELECT * FROM unknown_table WHERE a = ?",
        "SELECT ? AS \"?\"",
        "COPY (SELECT ?) TO STDOUT",
        "SELECT unknown_function(?)",
        ";SELECT ?",
        "SELECT 'open ?",
        "SELECT ? /*",
    ];
    (select(statements.to_vec()), vec(expression(), 4)).prop_map(|(statement, parts)| {
        let mut parts = parts.iter();
        statement.chars().fold(String::new(), |mut text, letter| {
            match letter {
                '?' => text.push_str(parts.next().map_or("1", String::as_str)),
                '#' => text.push(NUMBER_SLOT),
                letter => text.push(letter),
            }
            text
        })
    })
}

/// The text with literals in its places; now and then one of another kind.
fn filled(text: &str, choices: &[usize]) -> String {
    let mut choices = choices.iter().cycle();
    let mut choose = |list: &'static [&'static str]| list[choices.next().unwrap_or(&0) % list.len()];
    text.chars().fold(String::new(), |mut text, letter| {
        match letter {
            NUMBER_SLOT => text.push_str(choose(NUMBERS)),
            STRING_SLOT => text.push_str(choose(STRINGS)),
            letter => text.push(letter),
        }
        text
    })
}

#[test]
fn generated_statements_with_other_literals() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4_000));
    // One that all share, so that what is kept for one statement may do harm to another.
    let shared = RefCell::new(Cache::new(8 << 20));
    let hits = Cell::new(0);
    runner
        .run(&(statement(), vec(vec(0..64_usize, 1..8), 2..5)), |(text, fillings)| {
            let mut alone = Cache::new(1 << 20);
            for choices in &fillings {
                let text = filled(&text, choices);
                ask(&mut alone, &text);
                hits.set(hits.get() + usize::from(ask(&mut shared.borrow_mut(), &text).is_some()));
            }
            Ok(())
        })
        .unwrap();
    assert!(hits.get() > 1_000, "only {} were known", hits.get());
}
