//! `pangea region run`.

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::sync::Mutex;

use pangea_node::{Problem, Review, RunOptions, StopWith};
use tracing_subscriber::EnvFilter;

use crate::args::{RegionRun, RegionWatchdog};
use crate::exit::Exit;

/// The process that ends a server whose region's process hangs.
pub(crate) fn watchdog(args: &RegionWatchdog) -> anyhow::Result<Exit> {
    pangea_node::watch(&args.pgdata)?;
    Ok(Exit::Done)
}

pub(crate) fn run(args: &RegionRun) -> anyhow::Result<Exit> {
    // Read first: privileges are dropped next, and the file may be for root's eyes only.
    let review = Review::for_start(&args.config);
    let warnings = review.problems.clone();
    let config = review.into_config()?;
    start_log()?;
    for Problem { key, problem, remedy, .. } in &warnings {
        tracing::warn!(key, remedy, "configuration: {problem}");
    }
    let stop_with = if args.stop_with_stdin { StopWith::SignalsOrStdin } else { StopWith::Signals };
    let config_file = std::path::absolute(&args.config)?;
    pangea_node::run(config, RunOptions { config_file, stop_with })?;
    Ok(Exit::Done)
}

/// Logs go to standard error; `PANGEA_LOG` chooses what, as in `debug` or `pangea_gateway=trace,info`.
pub(crate) fn start_log() -> std::io::Result<()> {
    let filter = EnvFilter::try_from_env("PANGEA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // The parser (libpg_query) points descriptor 2 elsewhere while it parses: the log has a copy of it.
    let log = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Mutex::new(log))
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
