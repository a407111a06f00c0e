//! A configuration and everything that is wrong with it.

use std::path::{Path, PathBuf};

use super::document::Document;
use super::problem::{ConfigError, Problem, Severity};
use super::schema::region_schema;
use super::surroundings::{self, Occasion};
use super::{RegionConfig, contradictions, shape};

/// A configuration file that was read, and what is wrong with it.
#[derive(Debug)]
pub struct Review {
    /// The file.
    pub path: PathBuf,
    /// Everything that is wrong, in the file's order.
    pub problems: Vec<Problem>,
    config: Option<RegionConfig>,
}

impl Review {
    /// What the file says: for a region that runs, whose certificates and directories are what they are.
    #[must_use]
    pub fn of_content(path: &Path) -> Self {
        Self::new(path, |_| Vec::new())
    }

    /// What it says, and the files and directories that it names, as the region's process finds them. As root
    /// it becomes the OS user meanwhile: the process must have a single thread.
    #[must_use]
    pub fn of_everything(path: &Path) -> Self {
        Self::new(path, |document| surroundings::check_as_user(document, Occasion::Check))
    }

    /// As [`Self::of_everything`], for a start: what only the passing of time has done to a certificate is a warning
    /// then. A region that does not come back is worse than one that the others do not talk to.
    #[must_use]
    pub fn for_start(path: &Path) -> Self {
        Self::new(path, |document| surroundings::check_as_user(document, Occasion::Start))
    }

    fn new(path: &Path, surroundings: impl FnOnce(&Document<'_>) -> Vec<Problem>) -> Self {
        let read = std::fs::read_to_string(path);
        let (config, mut problems) = match &read {
            Ok(text) => review(text, surroundings),
            Err(error) => {
                let remedy = "name a file that exists and that this user can read";
                let (document, _) = Document::parse("");
                (None, vec![document.error("", format!("cannot read it: {error}"), remedy)])
            }
        };
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Self { path: path.to_owned(), problems, config }
    }

    /// Whether a region runs with it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.config.is_some() && self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }

    /// The configuration, if a region runs with it.
    ///
    /// # Errors
    /// With everything that is wrong, otherwise.
    pub fn into_config(self) -> Result<RegionConfig, ConfigError> {
        let good = self.is_good();
        match self.config {
            Some(config) if good => Ok(config),
            _ => Err(ConfigError { path: self.path, problems: self.problems }),
        }
    }
}

fn review(
    text: &str,
    surroundings: impl FnOnce(&Document<'_>) -> Vec<Problem>,
) -> (Option<RegionConfig>, Vec<Problem>) {
    let (document, mut problems) = Document::parse(text);
    // Keys after a broken line may be missing or stand in the wrong section: what is said of them may be wrong.
    if !problems.is_empty() {
        return (None, problems);
    }
    problems.extend(shape::check(&document, &region_schema()));
    let has_form = problems.is_empty();
    problems.extend(contradictions::check(&document));
    problems.extend(surroundings(&document));
    if !has_form {
        return (None, problems);
    }
    match document.read() {
        Ok(config) => (Some(config), problems),
        // The types have the last word.
        Err(problem) => (None, problems.into_iter().chain([problem]).collect()),
    }
}

#[cfg(test)]
mod tests;
