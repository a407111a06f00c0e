#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::sync::PoisonError;

use pg_query::protobuf::Token;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn shape(text: &str) -> Option<(String, Places)> {
    let mut shape = String::new();
    let places = write_shape(text, &mut shape)?;
    Some((shape, places))
}

/// With `i`, `n` and `s` in angle brackets for the marks.
fn readable(text: &str) -> Option<String> {
    let (shape, _) = shape(text)?;
    Some(shape.replace(INTEGER, "<i>").replace(NUMBER, "<n>").replace(STRING, "<s>"))
}

#[test]
fn literals_become_marks_and_the_rest_stays() {
    let table = [
        ("SELECT v FROM t WHERE id = 8231;", "SELECT v FROM t WHERE id = <i>;"),
        ("VALUES (0, 007, 2147483647, 2147483648)", "VALUES (<i>, <i>, <i>, <n>)"),
        ("VALUES (0000000000001, 99999999999999999999)", "VALUES (<i>, <n>)"),
        ("VALUES (1., .5, 1.5, 1e5, 1.E-5, .5e+5)", "VALUES (<n>, <n>, <n>, <n>, <n>, <n>)"),
        ("VALUES ('', 'it''s', '''', 'é;--/*', '\\')", "VALUES (<s>, <s>, <s>, <s>, <s>)"),
        ("SELECT -1, 1-1, 1+-1, +.5", "SELECT -<i>, <i>-<i>, <i>+-<i>, +<n>"),
        ("SELECT a1, t2.c3, $1, é9, _4, a$5, 6", "SELECT a1, t2.c3, $1, é9, _4, a$5, <i>"),
        ("SELECT \"it's 1\", \"a\"\"'1'\", 2", "SELECT \"it's 1\", \"a\"\"'1'\", <i>"),
        ("SELECT 1--2\n+3 -- '\r, 4", "SELECT <i>--2\n+<i> -- '\r, <i>"),
        ("SELECT 1/*2/*'*/3*/+4*/**/5", "SELECT <i>/*2/*'*/3*/+<i>*/**/<i>"),
        ("SELECT date'2020-01-01', '1'::int, 1::numeric(5)", "SELECT date<s>, <s>::int, <i>::numeric(<i>)"),
        ("SELECT ARRAY[1,2][1], x.y[3]", "SELECT ARRAY[<i>,<i>][<i>], x.y[<i>]"),
        ("SELECT 1; ; -- end 1", "SELECT <i>; ; -- end 1"),
        ("SELECT 1\"a\", $1=2", "SELECT <i>\"a\", $1=<i>"),
    ];
    for (text, expected) in table {
        assert_eq!(readable(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn what_is_not_certain_has_no_shape() {
    let texts = [
        "",
        "SELECT $1, a1",
        "SELECT E'a'",
        "SELECT e'\\''",
        "SELECT B'1', x'1F'",
        "SELECT N'a'",
        "SELECT U&'a'",
        "SELECT 1 AS U&\"a\"",
        "SELECT $$1$$",
        "SELECT $a$1$a$",
        "SELECT 'a'\n'b'",
        "SELECT 'a' -- x\n 'b'",
        "SELECT 'a' /* x */ 'b'",
        "SELECT 0x1F",
        "SELECT 0o7",
        "SELECT 0b1",
        "SELECT 1_000",
        "SELECT 1a",
        "SELECT 1e",
        "SELECT 1e+",
        "SELECT 1.2.3",
        "SELECT 1..2",
        "SELECT a..2",
        "SELECT 1$2",
        "SELECT $1a, 1",
        "SELECT 1::float(24)",
        "SELECT 1::FLOAT /* */ (24)",
        "SELECT 1; SELECT 2",
        "; SELECT 1",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT 1, \"open",
        "SELECT 1 \\ 2",
        "SELECT 1 \u{1}",
        "SELECT \u{1}, 1",
        "SELECT 1 AS \"\u{3}\"",
        "SELECT 1 -- \u{2}",
        "SELECT 1 /* \u{2} */",
        "SELECT '\0'",
        "SELECT 1 -- \0",
        "SELECT 1 {",
    ];
    for text in texts {
        assert_eq!(readable(text), None, "{text}");
    }
    assert!(shape(&format!("SELECT 1{}", " ".repeat(CACHED_TEXT_LEN_MAX))).is_none());
    assert!(shape(&format!("SELECT '{}'", "x".repeat(TEXT_LEN_MAX))).is_none());
    assert!(shape(&format!("SELECT '{}'", "x".repeat(TEXT_LEN_MAX - 16))).is_some());
}

#[test]
fn the_statement_ends_at_its_semicolon() {
    let places = |text: &str| shape(text).map(|(_, places)| (places.first_literal, places.end));
    assert_eq!(places("SELECT 12 ;"), Some((7, 10)));
    assert_eq!(places("SELECT 'a;'; ;"), Some((7, 11)));
    assert_eq!(places(" SELECT 1 -- ;"), Some((8, 14)));
}

/// What the scanner of PostgreSQL makes of it.
fn reference(text: &str) -> Option<(String, usize)> {
    let _one_at_a_time = crate::parse::PARSING.lock().unwrap_or_else(PoisonError::into_inner);
    let scanned = pg_query::scan(text).ok()?;
    let mut shape = String::new();
    let (mut kept, mut end) = (0, text.len());
    for token in scanned.tokens {
        let start = usize::try_from(token.start).unwrap();
        let mark = match Token::try_from(token.token).unwrap() {
            Token::Iconst => INTEGER,
            Token::Fconst => NUMBER,
            Token::Sconst => STRING,
            Token::Ascii59 => {
                end = end.min(start);
                continue;
            }
            _ => continue,
        };
        shape.push_str(&text[kept..start]);
        shape.push(mark);
        kept = usize::try_from(token.end).unwrap();
    }
    shape.push_str(&text[kept..]);
    Some((shape, end))
}

/// Pieces of text that mean something else beside each other.
const PIECES: &[&str] = &[
    "'",
    "'",
    "''",
    "\"",
    "\"",
    "--",
    "/*",
    "*/",
    "\n",
    "\r",
    "\t",
    "\u{b}",
    "\u{c}",
    " ",
    " ",
    "e",
    "E",
    "b",
    "X",
    "n",
    "u&",
    "U&",
    "$",
    "$1",
    "$$",
    "$a$",
    "0",
    "1",
    "1",
    "9",
    "2147483647",
    "2147483648",
    ".",
    "_",
    "+",
    "-",
    "::",
    "int",
    "date",
    "float",
    "t",
    "é",
    "\u{a0}",
    "\\",
    ";",
    ",",
    "(",
    ")",
    "=",
    "*",
    "/",
    "@",
    "%",
    "?",
    ":",
    "|",
    "<",
    "'a'",
    "'b'",
    "\"c\"",
    "1.5",
    "1e5",
    ".5",
    "\u{1}",
    "{",
    "uescape",
];

fn in_pieces(pieces: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(prop::sample::select(PIECES), pieces).prop_map(|pieces| pieces.concat())
}

fn check(text: &str) -> Result<bool, TestCaseError> {
    let Some((shape, places)) = shape(text) else { return Ok(false) };
    // Text that PostgreSQL cannot scan is unparsable and not cached.
    let Some((expected, end)) = reference(text) else { return Ok(false) };
    prop_assert_eq!(&shape, &expected, "{}", text);
    prop_assert_eq!(places.end, end, "{}", text);
    prop_assert!(expected[..=places.first_literal].ends_with([INTEGER, NUMBER, STRING]), "{}", text);
    Ok(true)
}

#[test]
fn shapes_are_those_of_the_scanner_of_postgresql() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(30_000));
    let compared = std::cell::Cell::new(0);
    let texts = prop_oneof![3 => in_pieces(1..8), 1 => in_pieces(8..24)];
    runner
        .run(&texts, |text| {
            if check(&text)? {
                compared.set(compared.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(compared.get() > 2_000, "only {} texts had a shape", compared.get());
}

/// Every way to put three pieces beside each other.
#[test]
fn three_pieces_in_every_order() {
    let mut compared = 0;
    for first in PIECES {
        for second in PIECES {
            for third in ["1", "'a'", "'", "9 ", " 1", "\n'a'", ".5", "e1"] {
                let text = format!("1 {first}{second}{third}");
                compared += usize::from(check(&text).expect(&text));
            }
        }
    }
    assert!(compared > 4_000, "only {compared} texts had a shape");
}
