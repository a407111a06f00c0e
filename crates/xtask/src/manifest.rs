//! Rules about the `Cargo.toml` of a crate: what it may depend on, and that it takes the workspace's lints.

use crate::tidy::Failure;

/// The floors of the house, lowest first. A crate depends only on crates of floors below its own, so that a
/// cycle of ideas cannot grow one dependency at a time.
const FLOORS: &[&[&str]] = &[
    &["base"],
    &["pgwire", "sql", "consistency"],
    &["session", "control"],
    &["gateway", "agent", "store", "discovery"],
    &["admin"],
    &["node"],
    &["lab"],
    &["cli"],
];

/// Crates that take time and randomness as input and do no I/O.
pub(crate) const PURE: &[&str] = &["base", "pgwire", "sql", "consistency", "session", "control"];

/// Crates that stand outside the house: tools that no product crate may use.
const OUTSIDE: &[&str] = &["xtask"];

/// What gives a crate sockets, a runtime or the operating system's randomness.
const IMPURE_DEPENDENCIES: &[&str] = &["tokio", "socket2", "mio", "getrandom", "rand", "async-std", "smol"];

/// The few facts about a manifest that the rules need, with the lines they stand on.
///
/// Reading line by line is enough for manifests in the form that this repository uses (`name.workspace = true`
/// or `name = { … }`), and needs no TOML parser.
pub(crate) struct Manifest {
    name: String,
    /// (line, name) of `[dependencies]` and `[target.….dependencies]`; what tests use is their own affair.
    dependencies: Vec<(usize, String)>,
    inherits_lints: bool,
}

impl Manifest {
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let mut manifest = Self { name: name.to_owned(), dependencies: Vec::new(), inherits_lints: false };
        let mut section = "";
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = header;
                // The long form, `[dependencies.tokio]`.
                if let Some(dependency) = header.strip_prefix("dependencies.") {
                    manifest.dependencies.push((number, dependency.to_owned()));
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let key = key.trim();
            match section {
                "lints" => manifest.inherits_lints |= key == "workspace" && value.trim() == "true",
                _ if section == "dependencies"
                    || (section.starts_with("target.") && section.ends_with(".dependencies")) =>
                {
                    let dependency = key.split('.').next().unwrap_or(key);
                    manifest.dependencies.push((number, dependency.trim_matches('"').to_owned()));
                }
                _ => {}
            }
        }
        manifest
    }
}

/// All rules about one manifest.
pub(crate) fn check(path: &str, manifest: &Manifest) -> Vec<Failure> {
    let fail = |line: usize, message: String| Failure { path: path.to_owned(), line, message };
    let name = manifest.name.as_str();
    let mut failures = Vec::new();
    if !manifest.inherits_lints {
        failures.push(fail(1, "add `[lints] workspace = true`".to_owned()));
    }
    let floor = floor_of(name);
    if floor.is_none() && !OUTSIDE.contains(&name) {
        let message = format!("`{name}` has no floor: add it to FLOORS in crates/xtask/src/manifest.rs");
        failures.push(fail(1, message));
    }
    for (line, dependency) in &manifest.dependencies {
        if PURE.contains(&name) && IMPURE_DEPENDENCIES.contains(&dependency.as_str()) {
            let message = format!("`{name}` is pure: take what `{dependency}` gives as an input instead");
            failures.push(fail(*line, message));
        }
        let Some(below) = dependency.strip_prefix("pangea-") else { continue };
        if let (Some(own), Some(used)) = (floor, floor_of(below))
            && used >= own
        {
            let message =
                format!("`{name}` may only use crates below it, and `{below}` is not: move the code down");
            failures.push(fail(*line, message));
        }
        if OUTSIDE.contains(&below) || (OUTSIDE.contains(&name) && floor_of(below).is_some()) {
            failures.push(fail(*line, format!("`{name}` and `{below}` have nothing to do with each other")));
        }
    }
    failures
}

fn floor_of(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(name: &str, dependencies: &str) -> Vec<String> {
        let text =
            format!("[package]\nname = \"x\"\n[lints]\nworkspace = true\n[dependencies]\n{dependencies}");
        let path = format!("crates/{name}/Cargo.toml");
        check(&path, &Manifest::parse(name, &text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn dependencies_point_downwards() {
        assert!(
            failures("gateway", "pangea-base.workspace = true\npangea-session.workspace = true").is_empty()
        );
        assert!(
            failures("cli", "pangea-lab.workspace = true\npangea-node = { path = \"../node\" }").is_empty()
        );
        assert_eq!(
            failures("base", "serde = \"1\"\npangea-sql.workspace = true"),
            [
                "crates/base/Cargo.toml:7: `base` may only use crates below it, and `sql` is not: move the code down"
            ]
        );
        assert_eq!(failures("gateway", "pangea-agent.workspace = true").len(), 1, "same floor");
        assert_eq!(failures("cli", "pangea-xtask.workspace = true").len(), 1);
        assert_eq!(failures("xtask", "pangea-base.workspace = true").len(), 1);
    }

    #[test]
    fn pure_crates_do_no_io() {
        for dependency in ["tokio.workspace = true", "getrandom = \"0.3\"", "\"rand\" = { version = \"1\" }"]
        {
            assert_eq!(failures("session", dependency).len(), 1, "{dependency}");
            assert!(failures("gateway", dependency).is_empty(), "{dependency}");
        }
        assert!(failures("session", "tokio-postgres-not-tokio = \"1\"").is_empty());
        let target = "[target.'cfg(unix)'.dependencies]\nmio = \"1\"";
        assert_eq!(failures("sql", target).len(), 1);
        assert_eq!(failures("sql", "[dependencies.tokio]\nversion = \"1\"").len(), 1);
    }

    #[test]
    fn tests_may_depend_on_anything() {
        assert!(
            failures("session", "[dev-dependencies]\ntokio = \"1\"\npangea-gateway.workspace = true")
                .is_empty()
        );
    }

    #[test]
    fn lints_are_inherited_and_floors_are_known() {
        let manifest = Manifest::parse("base", "[package]\nname = \"x\"\n");
        assert_eq!(check("crates/base/Cargo.toml", &manifest).len(), 1);
        assert_eq!(
            failures("attic", ""),
            [
                "crates/attic/Cargo.toml:1: `attic` has no floor: add it to FLOORS in crates/xtask/src/manifest.rs"
            ]
        );
    }
}
