//! Repository chores, run as `cargo xtask <chore>`. It uses no dependency but `anyhow`: `make test` builds it
//! first, and a wait of a minute before the cheapest check would defeat it.

mod manifest;
mod source;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a command line tool")]
fn main() -> ExitCode {
    match run() {
        Ok(report) if report.failures.is_empty() => {
            println!("tidy: {} files checked", report.files_checked);
            ExitCode::SUCCESS
        }
        Ok(report) => {
            for failure in &report.failures {
                eprintln!("{failure}");
            }
            eprintln!("tidy: {} to mend", report.failures.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<tidy::Report> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = root.ancestors().nth(2).context("crates/xtask has no workspace above it")?;
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::check(root),
        Some(other) => bail!("unknown chore `{other}`, expected `tidy`"),
        None => bail!("usage: cargo xtask tidy"),
    }
}
