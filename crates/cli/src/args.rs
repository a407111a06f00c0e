//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use pangea_base::RegionId;
use pangea_lab::{Layout, WanChoice};
use pangea_node::{ClientAuth, FailoverConfig, PoolMode};

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
    /// Move the primary to another region: nothing is lost, clients wait for a moment
    Switchover(Switchover),
    /// Make another region primary when the primary is gone
    Failover(Failover),
    /// Show or set how safe a commit is before it is acknowledged
    Durability(Durability),
    /// Show or set when another region takes over by itself
    Policy(Policy),
    /// What was lost in failovers: look at it, take it away, do it again
    Recover(Recover),
    /// Run one region, or change what regions are there for
    Region {
        #[command(subcommand)]
        command: RegionCommand,
    },
    /// Look at configurations of regions before a region reads them
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
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
    /// How long a session keeps a server connection [default: session]
    #[arg(long, value_enum)]
    pub(crate) pool_mode: Option<Pooling>,
    /// OS user that runs PostgreSQL when pangea is started as root [default: postgres]
    #[arg(long, value_name = "USER")]
    pub(crate) os_user: Option<String>,
    /// How long, in milliseconds, the primary may write after it has renewed its lease: when it dies writes are
    /// away about as long [default: 3000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(FailoverConfig::LEASE_TTL_MS_MIN..=FailoverConfig::LEASE_TTL_MS_MAX))]
    pub(crate) lease_ttl: Option<u64>,
    /// The same as --lease-ttl 1500: for regions that are near one another and rarely busy
    #[arg(long, conflicts_with = "lease_ttl")]
    pub(crate) fast_failover: bool,
    /// Keep topology and lease in etcd, as in etcd://10.0.0.1:2379,10.0.0.2:2379; fixed when the cluster is made
    /// [default: a file of the cluster]
    #[arg(long, value_name = "etcd://HOST:PORT,...", value_parser = store)]
    pub(crate) store: Option<Etcd>,
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

impl Up {
    /// The lease that was asked for, in milliseconds.
    pub(crate) fn lease_ttl_ms(&self) -> Option<u64> {
        const FAST_LEASE_TTL_MS: u64 = 1500;
        self.fast_failover.then_some(FAST_LEASE_TTL_MS).or(self.lease_ttl)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Auth {
    /// SCRAM-SHA-256
    Scram,
    /// Nothing asked
    Trust,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Pooling {
    /// As long as the client is connected
    Session,
    /// While a transaction runs
    Transaction,
}

impl From<Pooling> for PoolMode {
    fn from(mode: Pooling) -> Self {
        match mode {
            Pooling::Session => Self::Session,
            Pooling::Transaction => Self::Transaction,
        }
    }
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

#[derive(Debug, ClapArgs)]
pub(crate) struct Switchover {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// The region that becomes primary
    #[arg(long, value_name = "REGION")]
    pub(crate) to: RegionId,
    /// Longest wait for transactions to end, such as 5s or 800ms; then the switchover is rolled back
    #[arg(long = "timeout", value_parser = patience_ms, default_value = "5s", value_name = "TIME")]
    pub(crate) timeout_ms: u64,
    /// Only look whether anything stands in the way
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Failover {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// The region that becomes primary
    #[arg(long, value_name = "REGION")]
    pub(crate) to: RegionId,
    /// Take over though it cannot be excluded that acknowledged writes are lost
    #[arg(long)]
    pub(crate) allow_data_loss: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Durability {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// What it is to be: async, bounded(SECONDS), or sync(REGIONS); shown when absent
    #[arg(value_name = "async|bounded(SECONDS)|sync(REGIONS)")]
    pub(crate) durability: Option<pangea_control::Durability>,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is left out stays as it is; with nothing given the policy is shown.
#[derive(Debug, ClapArgs)]
pub(crate) struct Policy {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Whether another region takes over by itself
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    pub(crate) automatic: Option<bool>,
    /// Bytes of log that may be lost, as far as is known; `none` for any amount
    #[arg(long, value_name = "N|none", value_parser = number_or::<u64>("none"))]
    pub(crate) max_loss_bytes: Option<Limit<u64>>,
    /// Regions, the one that takes over among them, that must find that the primary is gone
    #[arg(long, value_name = "N|majority", value_parser = number_or::<u8>("majority"))]
    pub(crate) min_observers: Option<Limit<u8>>,
    /// Failovers within the window that happen without delay
    #[arg(long, value_name = "N")]
    pub(crate) flap_limit: Option<u32>,
    /// Time in which failovers are counted, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) flap_window: Option<u64>,
    /// How long the first failover beyond the limit waits, in seconds; doubled with each further one
    #[arg(long, value_name = "SECONDS")]
    pub(crate) flap_back_off: Option<u64>,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number, or the word for there being none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

fn number_or<T: std::str::FromStr>(
    word: &'static str,
) -> impl Fn(&str) -> Result<Limit<T>, String> + Clone + Send + Sync {
    move |text| match text.parse() {
        _ if text == word => Ok(Limit(None)),
        Ok(number) => Ok(Limit(Some(number))),
        Err(_) => Err(format!("write a number or {word}")),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Tell everything that is wrong with configurations and with the files that they name
    Check(ConfigCheck),
    /// Print the JSON schema of a configuration, for editors
    Schema,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigCheck {
    /// The configurations, as `pangea region run --config` takes them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Run the region of a configuration file until SIGTERM
    Run(RegionRun),
    /// Keep a region from becoming primary and from counting for durability
    Drain(OneRegion),
    /// Let a drained region become primary and count for durability again
    Undrain(OneRegion),
    /// Of two regions that are equally far the one with the higher priority takes over
    Priority {
        #[command(flatten)]
        region: OneRegion,
        /// 0 to 255; with 0 the region never takes over by itself (a new region has 100)
        #[arg(value_name = "N")]
        priority: u8,
    },
    /// Add a region to the cluster that runs here: it is cloned from the primary, and nobody notices
    Add(OneRegion),
    /// Take a region out of the cluster that runs here; the primary cannot be
    Remove(RegionRemove),
    /// Make the data of a secondary region's server anew, by copying the primary's
    Rebuild(OneRegion),
    /// End the server of a region whose process hangs (what `run` starts for itself)
    #[command(hide = true)]
    Watchdog(RegionWatchdog),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct OneRegion {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// The region
    pub(crate) region: RegionId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RegionRemove {
    #[command(flatten)]
    pub(crate) region: OneRegion,
    /// Delete its data as well
    #[arg(long)]
    pub(crate) delete: bool,
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

/// The URLs of the members of an etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Etcd(pub(crate) Vec<String>);

/// Reads `etcd://host:port,host:port`.
fn store(text: &str) -> Result<Etcd, String> {
    let form = || format!("{text:?} is no store: write etcd://HOST:PORT,HOST:PORT");
    let members = text.strip_prefix("etcd://").ok_or_else(form)?;
    let url = |member: &str| {
        let port = member.rsplit_once(':').filter(|(host, _)| !host.is_empty())?.1;
        port.parse::<u16>().ok()?;
        Some(format!("http://{member}"))
    };
    members.split(',').map(url).collect::<Option<Vec<String>>>().map(Etcd).ok_or_else(form)
}

/// A wait in whole milliseconds, at most an hour.
fn patience_ms(text: &str) -> Result<u64, String> {
    const LONGEST_MS: f64 = 3_600_000.0;
    match milliseconds(text)? {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "neither negative nor large"
        )]
        value if value <= LONGEST_MS => Ok(value as u64),
        _ => Err("an hour (3600s) is the most".to_owned()),
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
    fn stores_and_limits() {
        assert_eq!(store("etcd://a:1,[::1]:2").unwrap().0, ["http://a:1", "http://[::1]:2"]);
        for bad in ["etcd://", "etcd://a", "etcd://a:1,", "etcd://:1", "redis://a:1", "a:1", "etcd://a:99999"]
        {
            assert!(store(bad).is_err(), "{bad}");
        }
        assert_eq!(number_or::<u8>("majority")("majority"), Ok(Limit(None)));
        assert_eq!(number_or::<u8>("majority")("2"), Ok(Limit(Some(2))));
        assert!(number_or::<u8>("majority")("300").is_err());
        assert!(on_off("yes").is_err());
    }

    #[test]
    fn leases() {
        let up = |more: &[&str]| {
            let parsed = Args::try_parse_from([&["pangea", "up"], more].concat()).ok()?;
            let Command::Up(up) = parsed.command else { return None };
            Some(up.lease_ttl_ms())
        };
        assert_eq!(up(&[]), Some(None));
        assert_eq!(up(&["--fast-failover"]), Some(Some(1500)));
        assert_eq!(up(&["--lease-ttl", "900"]), Some(Some(900)));
        assert_eq!(up(&["--lease-ttl", "100"]), None);
        assert_eq!(up(&["--lease-ttl", "900", "--fast-failover"]), None);
    }

    #[test]
    fn times() {
        assert_eq!(milliseconds("80ms"), Ok(80.0));
        assert_eq!(milliseconds("1.5s"), Ok(1500.0));
        assert_eq!(milliseconds("7"), Ok(7.0));
        assert!(milliseconds("-1ms").is_err());
        assert!(milliseconds("fast").is_err());
        assert_eq!(patience_ms("1.5s"), Ok(1500));
        assert!(patience_ms("3601s").is_err());
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Recover {
    #[command(flatten)]
    pub(crate) data_dir: DataDir,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: RecoverCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    /// List the reports
    List,
    /// Show the lost transactions of a report, row by row
    Show {
        /// Its name, as `list` shows it
        id: String,
    },
    /// Write a report to a file, one JSON object a line
    Export(RecoverExport),
    /// Do the lost changes again where the rows are still as they were; list the others
    Apply(RecoverApply),
    /// Close a report: it is kept for the record, its copy of the log is deleted
    Discard {
        /// Its name, as `list` shows it
        id: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RecoverExport {
    /// Its name, as `list` shows it
    pub(crate) id: String,
    /// Where to
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RecoverApply {
    /// Its name, as `list` shows it
    pub(crate) id: String,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only these transactions, by their numbers in the report
    #[arg(long = "transaction", value_name = "XID")]
    pub(crate) transactions: Vec<u32>,
}
