//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use pangea_base::RegionId;
use pangea_lab::{Layout, WanChoice};
use pangea_node::ClientAuth;

use crate::exit;

/// One global database in many regions, on ordinary PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "pangea", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a global database on this machine: regions, replication and the WAN between them
    Up(Up),
    /// Stop the database that runs here
    Down(Down),
    /// Show the regions: role, position, lag, sessions, health
    Status(Status),
    /// Open psql in a region
    Psql(Psql),
    /// Run one region (what `up` starts, and what runs in production)
    Region {
        #[command(subcommand)]
        command: RegionCommand,
    },
    /// Look at and disturb the emulated WAN
    Wan(Wan),
}

/// Where the cluster is.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct DataDir {
    /// Directory of the cluster [default: /var/lib/pangea for root, else ~/.local/share/pangea]
    #[arg(long, env = "PANGEA_DATA_DIR", value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    pub(crate) fn layout(&self) -> Layout {
        let default = || match std::env::var_os("HOME") {
            Some(home) if !nix::unistd::geteuid().is_root() => {
                PathBuf::from(home).join(".local/share/pangea")
            }
            _ => PathBuf::from("/var/lib/pangea"),
        };
        Layout::new(&self.data_dir.clone().unwrap_or_else(default))
    }
}

/// An option that is left out stays as it was the last time.
#[derive(Debug, ClapArgs)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Regions, the primary first, 1 to 11 [default: us-east-1,eu-west-1,ap-southeast-1]
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub(crate) regions: Option<Vec<RegionId>>,
    /// In-region readers per region, 0 to 3 [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) readers: Option<u8>,
    /// Distances between regions: off, aws, or a TOML file [default: aws]
    #[arg(long, value_name = "off|aws|FILE")]
    pub(crate) wan: Option<WanChoice>,
    /// First port; each region takes the next ten; 0 for free ones [default: 7400]
    #[arg(long, value_name = "PORT")]
    pub(crate) port_base: Option<u16>,
    /// Directory of PostgreSQL's programs, 14 to 18 [default: the newest that is installed]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// How clients prove who they are [default: scram]
    #[arg(long, value_enum)]
    pub(crate) auth: Option<Auth>,
    /// OS user that runs PostgreSQL when pangea is started as root [default: postgres]
    #[arg(long, value_name = "USER")]
    pub(crate) os_user: Option<String>,
    /// Go on in the background once everything is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// Print the endpoints as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// This is the background process of `--detach`
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Auth {
    /// SCRAM-SHA-256
    Scram,
    /// Nothing asked
    Trust,
}

impl From<Auth> for ClientAuth {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Scram => Self::Scram,
            Auth::Trust => Self::Trust,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Remove the data as well
    #[arg(long)]
    pub(crate) delete: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Psql {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// The region to connect to
    pub(crate) region: RegionId,
    /// Which of its endpoints
    #[arg(long, value_enum, default_value_t = Endpoint::Cluster)]
    pub(crate) endpoint: Endpoint,
    /// Arguments of psql, after `--`
    #[arg(last = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Endpoint {
    /// Reads in the region, writes on the primary
    Cluster,
    /// Read-only, in the region
    Reader,
    /// The primary
    Writer,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Run the region of a configuration file until SIGTERM
    Run(RegionRun),
    /// End the server of a region whose process hangs (what `run` starts for itself)
    #[command(hide = true)]
    Watchdog(RegionWatchdog),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RegionWatchdog {
    /// Data directory of the server
    pub(crate) pgdata: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RegionRun {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Stop as well when standard input closes, as it does when the supervisor dies
    #[arg(long)]
    pub(crate) stop_with_stdin: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Wan {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Print the links as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: WanCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WanCommand {
    /// Show the links
    Show,
    /// Let nothing pass between two regions
    Cut(Ends),
    /// Let everything pass again
    Restore(Ends),
    /// Change how slow a link is
    Set {
        #[command(flatten)]
        ends: Ends,
        /// Round-trip time, such as 80ms (with --one-way the delay is half of it)
        #[arg(long, value_parser = milliseconds, value_name = "TIME")]
        rtt: Option<f64>,
        /// Added to each way at random, up to this
        #[arg(long, value_parser = milliseconds, value_name = "TIME")]
        jitter: Option<f64>,
        /// Megabits per second; 0 for unlimited
        #[arg(long, value_name = "MBIT")]
        bandwidth: Option<f64>,
    },
}

/// A link.
#[derive(Debug, ClapArgs)]
pub(crate) struct Ends {
    /// One region
    pub(crate) from: RegionId,
    /// The other
    pub(crate) to: RegionId,
    /// Only from the first to the second
    #[arg(long)]
    pub(crate) one_way: bool,
}

/// `80ms`, `1.5s` or `80`, in milliseconds.
fn milliseconds(text: &str) -> Result<f64, String> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value * factor),
        _ => Err(format!("{text:?} is no time: write 80ms or 1.5s")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let up = Args::try_parse_from(["pangea", "up", "--regions", "a,b", "--wan", "off"]).unwrap();
        let Command::Up(up) = up.command else { panic!("not up") };
        assert_eq!(up.regions.unwrap().len(), 2);
        assert!(Args::try_parse_from(["pangea", "up", "--readers", "4"]).is_err());
        assert!(Args::try_parse_from(["pangea", "up", "--regions", "A"]).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(milliseconds("80ms"), Ok(80.0));
        assert_eq!(milliseconds("1.5s"), Ok(1500.0));
        assert_eq!(milliseconds("7"), Ok(7.0));
        assert!(milliseconds("-1ms").is_err());
        assert!(milliseconds("fast").is_err());
    }
}
