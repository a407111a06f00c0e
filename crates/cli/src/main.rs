//! The `pangea` command.
//!
//! Data goes to standard output, talk to standard error. `up` is a supervisor of `region run` processes.

mod args;
mod config;
mod down;
mod durability;
mod exit;
mod failover;
mod member;
mod membership;
mod policy;
mod progress;
mod psql;
mod rebuild;
mod recover;
mod region;
mod status;
mod survey;
mod switchover;
mod table;
mod trail;
mod up;
mod wan;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command, ConfigCommand, RegionCommand};
use exit::Exit;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Up(up) => up::run(&up),
        Command::Down(down) => down::run(&down),
        Command::Status(status) => status::run(&status),
        Command::Psql(psql) => psql::run(&psql),
        Command::Region { command: RegionCommand::Run(run) } => region::run(&run),
        Command::Region { command: RegionCommand::Watchdog(args) } => region::watchdog(&args),
        Command::Region { command: RegionCommand::Add(args) } => membership::add(&args),
        Command::Region { command: RegionCommand::Remove(args) } => membership::remove(&args),
        Command::Region { command: RegionCommand::Rebuild(args) } => rebuild::run(&args),
        Command::Region { command: RegionCommand::Drain(args) } => member::drain(&args),
        Command::Region { command: RegionCommand::Undrain(args) } => member::undrain(&args),
        Command::Region { command: RegionCommand::Priority { region, priority } } => {
            member::set_priority(&region, priority)
        }
        Command::Switchover(switchover) => switchover::run(&switchover),
        Command::Failover(failover) => failover::run(&failover),
        Command::Durability(durability) => durability::run(&durability),
        Command::Recover(recover) => recover::run(&recover),
        Command::Policy(policy) => policy::run(&policy),
        Command::Config { command: ConfigCommand::Check(args) } => config::check(&args),
        Command::Config { command: ConfigCommand::Schema } => config::schema(),
        Command::Wan(wan) => wan::run(&wan),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            // A line that begins so is what a supervisor quotes from a region's log.
            say(&format!("error: {error:#}"));
            Exit::of(&error).into()
        }
    }
}

/// Talk. Whoever closed standard error does not want to hear it.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Data. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// JSON on standard output.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text);
    Ok(())
}

/// The runtime of commands that ask or supervise.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
