//! A TOML file whose parts can be asked for one by one, and know where they stand.
//!
//! A path is a dotted one in which numbers are places in lists: `peers.0.link`. Rules ask for what they need and are
//! given nothing where it is missing or has the wrong form, which is told elsewhere: so one mistake does not hide
//! another.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use super::problem::{Problem, Severity};

pub(super) struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Reads as much as there is of it, and says where it is no TOML.
    pub(super) fn parse(text: &'t str) -> (Self, Vec<Problem>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { text, root };
        let problems = errors.iter().map(|error| document.syntax(error)).collect();
        (document, problems)
    }

    fn syntax(&self, error: &toml::de::Error) -> Problem {
        let text = error.message().replace('\n', ", ");
        self.problem_at(
            Severity::Error,
            "",
            error.span(),
            text,
            "write TOML 1.0 (https://toml.io)".to_owned(),
        )
    }

    pub(super) fn root(&self) -> &DeTable<'t> {
        self.root.get_ref()
    }

    /// All of it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(Deserializer::from(self.root.clone())).map_err(|error| {
            let text = error.message().replace('\n', ", ");
            self.problem_at(Severity::Error, "", error.span(), text, "see docs/configuration.md".to_owned())
        })
    }

    /// What stands at a path, if it is there and has this form.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        T::deserialize(ValueDeserializer::from(self.value(path)?.clone())).ok()
    }

    /// Number of entries of a list.
    pub(super) fn count(&self, path: &str) -> usize {
        self.value(path).and_then(|value| value.get_ref().as_array()).map_or(0, |list| list.len())
    }

    /// Keys of a section.
    pub(super) fn keys(&self, path: &str) -> impl Iterator<Item = &str> {
        let section = self.value(path).and_then(|value| value.get_ref().as_table());
        section.into_iter().flatten().map(|(key, _)| key.get_ref().as_ref())
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.value(path).is_some()
    }

    fn value(&self, path: &str) -> Option<&Spanned<DeValue<'t>>> {
        let mut steps = path.split('.');
        let first = self.root.get_ref().get(steps.next()?)?;
        steps.try_fold(first, |value, step| match step.parse::<usize>() {
            Ok(place) if value.get_ref().is_array() => value.get_ref().get(place),
            _ => value.get_ref().get(step),
        })
    }

    /// Where a path stands, or else what it would stand in.
    fn span(&self, path: &str) -> Option<Range<usize>> {
        match self.value(path) {
            Some(value) => Some(value.span()),
            None => self.span(path.rsplit_once('.')?.0),
        }
    }

    pub(super) fn error(&self, path: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Problem {
        self.problem_at(Severity::Error, path, self.span(path), problem.into(), remedy.into())
    }

    pub(super) fn warning(
        &self,
        path: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        self.problem_at(Severity::Warning, path, self.span(path), problem.into(), remedy.into())
    }

    /// A problem at a place of its own, such as a key rather than its value.
    pub(super) fn problem_at(
        &self,
        severity: Severity,
        path: &str,
        span: Option<Range<usize>>,
        problem: String,
        remedy: String,
    ) -> Problem {
        let before = span.and_then(|span| self.text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        let column = before.map(|before| before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        Problem { severity, key: shown(path), line, column, problem, remedy }
    }
}

/// `peers.0.link` as `peers[0].link`.
fn shown(path: &str) -> String {
    let mut shown = String::new();
    for step in path.split('.') {
        if !shown.is_empty() && !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            shown.extend(["[", step, "]"]);
        } else {
            shown.extend([if shown.is_empty() { "" } else { "." }, step]);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_places() {
        let (document, problems) = Document::parse("a = 1\n[[peers]]\nlink = 'ü'\n  more = true\n");
        assert_eq!(problems, []);
        assert_eq!((document.get::<u8>("a"), document.get::<String>("a")), (Some(1), None));
        assert_eq!(document.get::<String>("peers.0.link").as_deref(), Some("ü"));
        assert_eq!((document.count("peers"), document.count("a"), document.has("b")), (1, 0, false));
        let problem = document.error("peers.0.more", "is so", "do not");
        assert_eq!(problem.to_string(), "4:10: error: peers[0].more: is so; do not");
        assert_eq!(document.warning("none", "is so", "do not").to_string(), "warning: none: is so; do not");
        let missing = document.error("peers.0.region", "is missing", "add it");
        assert_eq!((missing.line, missing.key.as_str()), (Some(2), "peers[0].region"));
    }

    #[test]
    fn all_that_is_no_toml() {
        let (document, problems) = Document::parse("a = \nb = 2\nb = 3\nc = 'x\n");
        let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
        assert!(
            lines.contains(&Some(1)) && lines.contains(&Some(3)) && lines.contains(&Some(4)),
            "{problems:?}"
        );
        assert_eq!(document.get::<u8>("b"), Some(2));
    }
}
