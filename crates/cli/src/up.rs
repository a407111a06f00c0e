//! `pangea up`: a supervisor in the foreground, or in the background with `--detach`.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use pangea_lab::{Cluster, ClusterOptions, Layout, Progress};
use pangea_node::{ClientAuth, FailoverConfig, PoolConfig, RegionStatus};
use pangea_store::StoreConfig;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Etcd, Up};
use crate::exit::Exit;
use crate::status::{lag, role};
use crate::table::{Align, render};
use crate::{print, region, runtime, say};

pub(crate) fn run(args: &Up) -> anyhow::Result<Exit> {
    if args.detach && !args.background {
        return detach();
    }
    if args.background {
        // Away from the terminal: its hang-up is not for a background process. Fails only for a process that
        // leads its group already, and then there is nothing to leave.
        let _ = nix::unistd::setsid();
    }
    runtime()?.block_on(supervise(args))
}

/// Starts this program again in the background and waits until it is ready: it prints the endpoints and closes
/// its standard output then, or it ends.
fn detach() -> anyhow::Result<Exit> {
    let exe = std::env::current_exe().context("cannot find the pangea program itself")?;
    let mut child = Command::new(exe)
        .args(std::env::args_os().skip(1))
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the background process")?;
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text).context("cannot listen to the background process")?;
    }
    if text.is_empty() {
        let status = child.wait().context("cannot wait for the background process")?;
        // It has said why on the standard error that we share.
        return Ok(Exit::from_child(status.code()));
    }
    print(&text);
    Ok(Exit::Done)
}

async fn supervise(args: &Up) -> anyhow::Result<Exit> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let layout = args.data_dir.layout();
    let began = Instant::now();
    say(&format!("starting the cluster in {}", layout.data_dir().display()));
    let mut progress = |step: Progress| say(&progress_line(&step));
    let start = Cluster::start(options(args, &layout)?, &mut progress);
    let cluster = tokio::select! {
        cluster = start => cluster?,
        // Dropping the start closes the pipes of the regions, and they stop by themselves; `down` waits for
        // the last of it.
        _ = interrupt.recv() => return abandon(&layout).await,
        _ = terminate.recv() => return abandon(&layout).await,
    };
    let statuses = statuses(&cluster).await;
    say(&format!("ready in {:.1} s", began.elapsed().as_secs_f64()));
    if args.json {
        print(&format!("{:#}\n", endpoints_json(&cluster, &statuses)));
    } else {
        print(&endpoints_table(&cluster, &statuses));
    }
    if args.background {
        leave_terminal(&layout)?;
    } else {
        say(
            "Ctrl-C stops it and keeps the data; `pangea up` finds it again; `pangea down --delete` removes it.",
        );
    }
    region::start_log()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say("stopping ...");
    let began = Instant::now();
    cluster.stop().await;
    say(&format!("stopped in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(Exit::Done)
}

async fn abandon(layout: &Layout) -> anyhow::Result<Exit> {
    say("stopping ...");
    // Interrupted so early that there is no cluster yet: then there is nothing to stop.
    if layout.manifest().exists() {
        pangea_lab::down(layout).await?;
    }
    say("stopped before it was ready; what is there is kept");
    Ok(Exit::Failed)
}

fn options(args: &Up, layout: &Layout) -> anyhow::Result<ClusterOptions> {
    let exe = std::env::current_exe().context("cannot find the pangea program itself")?;
    Ok(ClusterOptions {
        regions: args.regions.clone(),
        readers: args.readers,
        port_base: args.port_base,
        pg_bin: args.pg_bin.clone(),
        auth: args.auth.map(ClientAuth::from),
        pool: args.pool_mode.map(|mode| PoolConfig { pool_mode: mode.into(), ..PoolConfig::default() }),
        wan: args.wan.clone(),
        os_user: args.os_user.clone(),
        failover: args
            .lease_ttl_ms()
            .map(|lease_ttl_ms| FailoverConfig { lease_ttl_ms, ..FailoverConfig::default() }),
        store: args.store.clone().map(etcd),
        ..ClusterOptions::new(layout.data_dir().to_owned(), exe)
    })
}

/// The store of a new cluster; one that exists keeps its prefix.
fn etcd(Etcd(endpoints): Etcd) -> StoreConfig {
    // Clusters that share an etcd, or follow one another in one directory, must not find one another's topology.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    StoreConfig::etcd(endpoints, format!("pangea/{:x}/", since.as_nanos()))
}

fn progress_line(progress: &Progress) -> String {
    let took = progress.took.as_secs_f64();
    format!("  {:<16} {:<24} {took:>5.1} s", progress.region.as_str(), progress.step)
}

async fn statuses(cluster: &Cluster) -> Vec<Option<RegionStatus>> {
    let mut all = Vec::new();
    for entry in &cluster.manifest().regions {
        all.push(cluster.status(&entry.name).await.ok());
    }
    all
}

/// Where to connect, for pasting.
fn url(cluster: &Cluster, port: u16) -> String {
    match cluster.manifest().auth {
        ClientAuth::Scram => {
            format!("postgresql://postgres:{}@127.0.0.1:{port}/postgres", cluster.password())
        }
        ClientAuth::Trust => format!("postgresql://postgres@127.0.0.1:{port}/postgres"),
    }
}

fn endpoints_table(cluster: &Cluster, statuses: &[Option<RegionStatus>]) -> String {
    let columns = [
        ("REGION", Align::Left),
        ("ROLE", Align::Left),
        ("LAG", Align::Right),
        ("CLUSTER", Align::Right),
        ("READER", Align::Right),
        ("WRITER", Align::Right),
    ];
    let manifest = cluster.manifest();
    let entries = manifest.regions.iter();
    let rows: Vec<Vec<String>> = entries
        .clone()
        .zip(statuses)
        .map(|(entry, status)| {
            let unknown = || "unknown".to_owned();
            vec![
                entry.name.to_string(),
                status.as_ref().map_or_else(unknown, |status| role(status.role).to_owned()),
                status.as_ref().map_or_else(unknown, lag),
                entry.cluster.port().to_string(),
                entry.reader.port().to_string(),
                entry.writer.port().to_string(),
            ]
        })
        .collect();
    let lines: Vec<Vec<String>> = entries
        .map(|entry| vec![entry.name.to_string(), format!("psql \"{}\"", url(cluster, entry.cluster.port()))])
        .collect();
    let connect = render(&[("REGION", Align::Left), ("CONNECT", Align::Left)], &lines);
    format!("\n{}\n{connect}\n", render(&columns, &rows))
}

fn endpoints_json(cluster: &Cluster, statuses: &[Option<RegionStatus>]) -> serde_json::Value {
    let manifest = cluster.manifest();
    let regions: Vec<serde_json::Value> = manifest
        .regions
        .iter()
        .zip(statuses)
        .map(|(entry, status)| {
            json!({
                "region": entry.name,
                "role": status.as_ref().map(|status| status.role),
                "replication_lag_bytes": status.as_ref().and_then(|status| status.replication_lag_bytes),
                "cluster": url(cluster, entry.cluster.port()),
                "reader": url(cluster, entry.reader.port()),
                "writer": url(cluster, entry.writer.port()),
            })
        })
        .collect();
    let dir = cluster.layout().data_dir().display().to_string();
    json!({ "cluster": cluster.manifest().cluster, "data_dir": dir, "regions": regions })
}

/// Lets go of the terminal and of the process that waits for our standard output to close.
fn leave_terminal(layout: &Layout) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = layout.supervisor_log();
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    nix::unistd::dup2_stderr(&log).context("cannot redirect standard error")?;
    nix::unistd::dup2_stdout(&log).context("cannot redirect standard output")?;
    Ok(())
}
