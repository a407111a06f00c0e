//! Rules about the text of one file.

use crate::manifest::PURE;
use crate::tidy::Failure;

/// Lines a Rust file may have, its tests not counted.
const LINES_MAX: usize = 700;

/// Files that are longer, with the length they had when listed and the reason. The numbers only go down: a
/// file that has become shorter is listed with its new length, or no longer.
const LONGER_FILES: &[(&str, usize, &str)] = &[];

/// What no source may contain, with what to do instead. Written in two halves so that this list does not
/// find itself.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("todo", "!(", "finish it, or return an error that says what is not supported"),
    ("unimplemented", "!(", "finish it, or return an error that says what is not supported"),
    ("dbg", "!(", "remove it, or use tracing"),
    ("#[", "ignore", "make the test run or delete it: nobody runs ignored tests"),
];

/// What a pure crate's sources may not mention.
const IMPURE: &[(&str, &str)] = &[
    ("std::net::Tcp", "sockets belong to the gateway"),
    ("std::net::Udp", "sockets belong to the gateway"),
    ("std::net::ToSocketAddrs", "name resolution belongs to the gateway"),
    ("std::os::unix::net", "sockets belong to the gateway"),
    ("SystemTime", "take the time as an input"),
    ("Instant::now", "take the time as an input"),
    ("thread::sleep", "return when to be called again"),
    ("std::fs", "take the content as an input"),
    ("std::process::Command", "processes belong to the agent"),
];

/// Whether the rules of this module apply to a file.
pub(crate) fn is_checked(path: &str) -> bool {
    !path.contains("node_modules/")
        && [".rs", ".md", ".toml"].iter().any(|extension| path.ends_with(extension))
}

/// All rules about one file's text.
pub(crate) fn check(path: &str, text: &str) -> Vec<Failure> {
    let mut failures = whitespace(path, text);
    if path.ends_with(".rs") {
        failures.extend(forbidden(path, text));
        failures.extend(crate_docs(path, text));
        failures.extend(length(path, text));
        failures.extend(purity(path, text));
    }
    failures
}

/// Entries of the list of longer files whose file is gone.
pub(crate) fn stale_exceptions(paths: &[String]) -> Vec<Failure> {
    LONGER_FILES
        .iter()
        .filter(|(path, _, _)| !paths.iter().any(|known| known == path))
        .map(|(path, _, _)| failure(path, 1, "is gone: remove it from LONGER_FILES"))
        .collect()
}

fn failure(path: &str, line: usize, message: impl Into<String>) -> Failure {
    Failure { path: path.to_owned(), line, message: message.into() }
}

fn whitespace(path: &str, text: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t', '\r']) {
            failures.push(failure(path, number, "trailing whitespace: remove it"));
        }
        if line.contains('\t') {
            failures.push(failure(path, number, "tab: use spaces, or \\t in a literal"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        failures.push(failure(path, text.lines().count(), "no newline at the end of the file: add one"));
    }
    failures
}

fn forbidden(path: &str, text: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (head, tail, instead) in FORBIDDEN {
            let found = line.find(head).is_some_and(|at| line[at + head.len()..].starts_with(tail));
            if found && !is_comment(line) {
                failures.push(failure(path, number, format!("{head}{tail}: {instead}")));
            }
        }
    }
    failures
}

fn crate_docs(path: &str, text: &str) -> Option<Failure> {
    let is_root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
    (is_root && !text.starts_with("//!"))
        .then(|| failure(path, 1, "begin with `//!`: what the crate is for and what it guarantees"))
}

fn length(path: &str, text: &str) -> Option<Failure> {
    if is_test_file(path) {
        return None;
    }
    let lines = non_test_lines(text).count();
    let listed = LONGER_FILES.iter().find(|(listed, _, _)| *listed == path);
    let message = match listed {
        None if lines > LINES_MAX => format!("{lines} lines, limit {LINES_MAX}: split it by what it does"),
        Some((_, limit, _)) if lines > *limit => {
            format!("{lines} lines, {limit} when listed: it may only shrink")
        }
        Some((_, limit, _)) if lines < *limit => {
            format!("{lines} lines, {limit} when listed: lower its number in LONGER_FILES, or remove it")
        }
        None | Some(_) => return None,
    };
    Some(failure(path, 1, message))
}

fn purity(path: &str, text: &str) -> Vec<Failure> {
    let crate_name =
        path.strip_prefix("crates/").and_then(|rest| rest.split_once("/src/")).map(|(name, _)| name);
    if !crate_name.is_some_and(|name| PURE.contains(&name)) || is_test_file(path) {
        return Vec::new();
    }
    let mut failures = Vec::new();
    for (number, line) in non_test_lines(text) {
        for (word, instead) in IMPURE {
            if line.contains(word) && !is_comment(line) {
                failures.push(failure(path, number, format!("a pure crate mentions {word}: {instead}")));
            }
        }
    }
    failures
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

/// The numbered lines before the unit tests, which stand last in a file of this repository.
fn non_test_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = (1..).zip(text.lines()).peekable();
    std::iter::from_fn(move || {
        let (number, line) = lines.next()?;
        let starts_tests =
            line == "#[cfg(test)]" && lines.peek().is_some_and(|(_, next)| next.starts_with("mod tests {"));
        (!starts_tests).then_some((number, line))
    })
    .fuse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unfinished_code_is_found() {
        for (head, tail, _) in FORBIDDEN {
            let text = format!("fn f() {{\n    {head}{tail}\n}}\n");
            let found = messages("crates/gateway/src/x.rs", &text);
            assert_eq!(found.len(), 1, "{head}");
            assert!(found[0].starts_with(&format!("crates/gateway/src/x.rs:2: {head}{tail}: ")), "{found:?}");
        }
        let commented = format!("// a {}{} would panic\n", FORBIDDEN[0].0, FORBIDDEN[0].1);
        assert!(messages("crates/gateway/src/x.rs", &commented).is_empty());
    }

    #[test]
    fn whitespace_is_clean() {
        assert_eq!(messages("README.md", "a \nb\n"), ["README.md:1: trailing whitespace: remove it"]);
        assert_eq!(messages("x.toml", "a\tb\n"), ["x.toml:1: tab: use spaces, or \\t in a literal"]);
        assert_eq!(messages("x.md", "a\nb"), ["x.md:2: no newline at the end of the file: add one"]);
        assert!(!is_checked("Makefile"));
    }

    #[test]
    fn crates_begin_with_what_they_are_for() {
        assert_eq!(messages("crates/base/src/lib.rs", "mod x;\n").len(), 1);
        assert!(messages("crates/base/src/lib.rs", "//! Words.\nmod x;\n").is_empty());
        assert!(messages("crates/base/src/x.rs", "struct X;\n").is_empty());
    }

    #[test]
    fn files_are_short_but_for_their_tests() {
        let long = "fn f() {}\n".repeat(LINES_MAX);
        assert!(messages("crates/base/src/x.rs", &long).is_empty());
        let with_tests = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(messages("crates/base/src/x.rs", &with_tests).is_empty());
        let longer = format!("{long}\n");
        assert_eq!(
            messages("crates/base/src/x.rs", &longer),
            ["crates/base/src/x.rs:1: 701 lines, limit 700: split it by what it does"]
        );
        assert!(messages("crates/base/src/x/tests.rs", &longer).is_empty());
        assert!(messages("crates/base/tests/x.rs", &longer).is_empty());
    }

    #[test]
    fn a_test_only_item_does_not_hide_what_follows() {
        let text = format!("#[cfg(test)]\nmod fixtures;\n{}", "fn f() {}\n".repeat(LINES_MAX));
        assert_eq!(messages("crates/base/src/x.rs", &text).len(), 1);
    }

    #[test]
    fn pure_crates_name_no_clock_and_no_socket() {
        for line in ["use std::net::TcpStream;", "let t = Instant::now();", "fn f(t: SystemTime) {}"] {
            let text = format!("{line}\n");
            assert_eq!(messages("crates/session/src/x.rs", &text).len(), 1, "{line}");
            assert!(messages("crates/gateway/src/x.rs", &text).is_empty(), "{line}");
            let in_tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
            assert!(messages("crates/session/src/x.rs", &in_tests).is_empty(), "{line}");
        }
        assert!(messages("crates/base/src/x.rs", "use std::net::SocketAddr;\n").is_empty());
    }

    #[test]
    fn exceptions_name_files_that_exist() {
        let listed: Vec<String> = LONGER_FILES.iter().map(|(path, _, _)| (*path).to_owned()).collect();
        assert!(stale_exceptions(&listed).is_empty());
        assert!(LONGER_FILES.iter().all(|(_, lines, reason)| *lines > LINES_MAX && !reason.is_empty()));
    }
}
