//! Finds PostgreSQL's programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Major versions that Pangea runs, oldest and newest.
const MAJOR_MIN: u32 = 14;
const MAJOR_MAX: u32 = 18;
/// What a region needs from the directory.
const PROGRAMS: [&str; 6] =
    ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_waldump", "pg_controldata"];
/// Names the directory when no option does.
const VARIABLE: &str = "PANGEA_PG_BIN";

/// A version as `postgres --version` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PgVersion {
    /// 15 of 15.18.
    pub major: u32,
    /// 18 of 15.18; 0 for a beta.
    pub minor: u32,
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl PgVersion {
    /// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(text: &str) -> Option<Self> {
        let number = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
        let digits = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..end)?.parse::<u32>().ok()
        };
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        Some(Self { major: digits(major)?, minor: digits(minor)? })
    }
}

/// A directory with PostgreSQL's programs, of a version that Pangea runs.
#[derive(Debug, Clone)]
pub struct PgBin {
    dir: PathBuf,
    version: PgVersion,
}

/// Why no PostgreSQL can be used.
#[derive(Debug, thiserror::Error)]
pub enum PgBinError {
    /// Nowhere.
    #[error(
        "no PostgreSQL {MAJOR_MIN} to {MAJOR_MAX} found in {searched}: install one (apt install postgresql) \
         or name the directory of its programs with --pg-bin DIR or {VARIABLE}"
    )]
    NotFound {
        /// Where it was looked for.
        searched: String,
    },
    /// The directory that was named lacks a program.
    #[error(
        "{dir} has no {program}: name the directory that holds postgres, initdb and pg_basebackup with --pg-bin"
    )]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// What it lacks.
        program: &'static str,
    },
    /// The program does not run or does not tell its version.
    #[error("cannot learn the version of {program}: {problem}")]
    NoVersion {
        /// The program.
        program: PathBuf,
        /// What it did.
        problem: String,
    },
    /// Too old or too new.
    #[error(
        "{dir} holds PostgreSQL {version}; Pangea runs on {MAJOR_MIN} to {MAJOR_MAX}: name another with --pg-bin"
    )]
    Unsupported {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        version: PgVersion,
    },
}

impl PgBin {
    /// Takes `explicit` when it is given, else `PANGEA_PG_BIN`, else the newest under `/usr/lib/postgresql`,
    /// else what `PATH` has.
    ///
    /// # Errors
    /// When nothing is found, or what was named cannot be used. A named directory is never passed over
    /// for another.
    pub fn find(explicit: Option<&Path>) -> Result<Self, PgBinError> {
        let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        if let Some(dir) = named {
            return Self::at(&dir);
        }
        let distribution = (MAJOR_MIN..=MAJOR_MAX)
            .rev()
            .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let candidates: Vec<PathBuf> = distribution.chain(std::env::split_paths(&path)).collect();
        let complete = |dir: &&PathBuf| PROGRAMS.iter().all(|program| dir.join(program).is_file());
        match candidates.iter().find(complete) {
            Some(dir) => Self::at(dir),
            None => Err(PgBinError::NotFound { searched: "/usr/lib/postgresql/*/bin and PATH".to_owned() }),
        }
    }

    fn at(dir: &Path) -> Result<Self, PgBinError> {
        // Made absolute: a region process changes its directory before it starts servers.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        if let Some(program) = PROGRAMS.into_iter().find(|program| !dir.join(program).is_file()) {
            return Err(PgBinError::Incomplete { dir, program });
        }
        let program = dir.join("postgres");
        let no_version = |problem: String| PgBinError::NoVersion { program: dir.join("postgres"), problem };
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|error| no_version(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = PgVersion::parse(&text)
            .ok_or_else(|| no_version(format!("`postgres --version` printed {:?}", text.trim())))?;
        if !(MAJOR_MIN..=MAJOR_MAX).contains(&version.major) {
            return Err(PgBinError::Unsupported { dir, version });
        }
        Ok(Self { dir, version })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// For tests of pure text.
    #[cfg(test)]
    pub(crate) fn fake() -> Self {
        Self { dir: "/nonexistent".into(), version: PgVersion { major: 15, minor: 0 } }
    }

    /// Path of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, 18))),
            ("postgres (PostgreSQL) 18.6", Some((18, 6))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) ", None),
            ("mysqld 8", None),
        ];
        for (text, expected) in cases {
            let found = PgVersion::parse(text).map(|v| (v.major, v.minor));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn a_named_directory_is_never_passed_over() {
        let error = PgBin::find(Some(Path::new("/nonexistent/bin"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bin has no postgres"), "{error}");
        assert!(error.contains("--pg-bin"), "{error}");
    }
}
