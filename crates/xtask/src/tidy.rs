//! The house rules that neither rustfmt nor clippy knows. Each failure is one line, `path:line: what and what
//! to do about it`; all of them are reported at once.
//!
//! A rule is a pure function from text to failures, so that its tests need no files.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::manifest::{self, Manifest};
use crate::source;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// What a run found.
pub(crate) struct Report {
    pub(crate) files_checked: usize,
    pub(crate) failures: Vec<Failure>,
}

/// Checks every file that git tracks or would track.
pub(crate) fn check(root: &Path) -> Result<Report> {
    let paths = tracked_files(root)?;
    let mut failures = Vec::new();
    let mut crates = Vec::new();
    let mut files_checked = 0;
    for path in &paths {
        if !source::is_checked(path) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        files_checked += 1;
        failures.extend(source::check(path, &text));
        if let Some(name) = crate_of_manifest(path) {
            crates.push(name.to_owned());
            failures.extend(manifest::check(path, &Manifest::parse(name, &text)));
        }
    }
    failures.extend(source::stale_exceptions(&paths));
    let code_map = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    failures.extend(missing_from_code_map(&code_map, &crates));
    failures.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(Report { files_checked, failures })
}

fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listed = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    // A file deleted but not yet staged is still listed.
    Ok(listed.split_terminator('\0').filter(|path| root.join(path).is_file()).map(str::to_owned).collect())
}

/// `base` of `crates/base/Cargo.toml`.
fn crate_of_manifest(path: &str) -> Option<&str> {
    let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
    (!name.contains('/')).then_some(name)
}

fn missing_from_code_map(code_map: &str, crates: &[String]) -> Vec<Failure> {
    crates
        .iter()
        .filter(|name| !code_map.contains(&format!("crates/{name}")))
        .map(|name| Failure {
            path: "ARCHITECTURE.md".to_owned(),
            line: 1,
            message: format!("crates/{name} is not in the code map: say what it is for"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crate_manifests_are_recognised() {
        assert_eq!(crate_of_manifest("crates/base/Cargo.toml"), Some("base"));
        assert_eq!(crate_of_manifest("crates/pgwire/fuzz/Cargo.toml"), None);
        assert_eq!(crate_of_manifest("Cargo.toml"), None);
    }

    #[test]
    fn code_map_names_every_crate() {
        let crates = ["base".to_owned(), "sql".to_owned()];
        assert_eq!(missing_from_code_map("`crates/base` words; `crates/sql` classes", &crates), []);
        let missing = missing_from_code_map("`crates/base` words", &crates);
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].to_string(),
            "ARCHITECTURE.md:1: crates/sql is not in the code map: say what it is for"
        );
    }

    #[test]
    fn this_repository_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let paths = tracked_files(&root).unwrap();
        assert!(paths.iter().any(|path| path == "crates/xtask/src/tidy.rs"), "{paths:?}");
    }
}
