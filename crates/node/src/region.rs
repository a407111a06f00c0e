//! One region process from start to stop.

use std::fs::OpenOptions;
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use pangea_agent::{Orders, PgBin, PgBinError, Phase, Reader, Server, ServerError, ServerSpec, StatusPoller};
use pangea_base::{Epoch, Position, RegionId};
use pangea_control::{Desired, Member, Settings, Topology};
use pangea_discovery::DiscoveryError;
use pangea_gateway::{
    Auth, EndpointLevels, Gateway, GatewayConfig, GatewayStatus, PeerStatus, StartError, TlsFiles,
};
use pangea_store::{Store, StoreError};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::control::{ControlPlane, Driven};
use crate::dns::Dns;
use crate::lag::LagTracker;
use crate::reload::{self, Reloaded};
use crate::status::{Endpoints, Health, PeerView, PrimaryHeard, ReaderStatus, RegionStatus, Role};
use crate::status_file::Lags;
use crate::{ClientAuth, LOCK_FILE, PrivilegeError, RegionConfig, STATUS_SOCKET, privileges, status_server};

/// How often the primary's position is noted. Heartbeats are not more frequent.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// How the process is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where the configuration is read again from, an absolute path.
    pub config_file: PathBuf,
    /// What ends it.
    pub stop_with: StopWith,
}

/// What ends a region process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopWith {
    /// SIGTERM or SIGINT.
    Signals,
    /// Those, and the end of standard input: a supervisor holds the other end of a pipe, so that even its
    /// SIGKILL stops the region. (PR_SET_PDEATHSIG was rejected: it fires when the *thread* that spawned ends,
    /// and it is cleared when privileges are dropped.)
    SignalsOrStdin,
}

/// Why a region cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The process has the wrong user.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// A directory cannot be used.
    #[error("cannot {action} {path}")]
    Directory {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process runs this region.
    #[error("region {region} is already running in {path}: stop that process first (pangea down)")]
    Running {
        /// The region.
        region: RegionId,
        /// Its directory.
        path: PathBuf,
    },
    /// No usable PostgreSQL.
    #[error(transparent)]
    PgBin(#[from] PgBinError),
    /// The gateway does not start.
    #[error("the gateway of region {region} does not start")]
    Gateway {
        /// The region.
        region: RegionId,
        /// Why.
        source: StartError,
    },
    /// The server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The store cannot be used.
    #[error("the store of the topology cannot be used")]
    Store(#[from] StoreError),
    /// The DNS listener does not start.
    #[error("the DNS listener does not start")]
    Dns(#[from] DiscoveryError),
    /// The status socket cannot be made.
    #[error("cannot listen on the status socket {path}")]
    StatusSocket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The runtime or a signal handler cannot be made.
    #[error("cannot set up the process")]
    Process(#[source] std::io::Error),
}

/// Runs the region until it is told to stop. Must be called while the process has a single thread, because
/// it changes its user.
///
/// # Errors
/// When the region cannot start. Nothing is left running then.
pub fn run(config: RegionConfig, options: RunOptions) -> Result<(), NodeError> {
    privileges::drop_root(config.os_user.as_deref().unwrap_or(privileges::OS_USER_DEFAULT))?;
    // The directory that the command was given in may be closed to the user that we are now.
    let directory = |action, path: &Path| {
        let path = path.to_owned();
        move |source| NodeError::Directory { action, path, source }
    };
    std::env::set_current_dir(&config.data_dir).map_err(directory("enter", &config.data_dir))?;
    for path in [config.run_dir(), config.uplink_dir()] {
        make_private_dir(&path).map_err(directory("create", &path))?;
    }
    let _lock = lock(&config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(NodeError::Process)?;
    let data_plane = data_plane().map_err(NodeError::Process)?;
    let outcome = runtime.block_on(serve(config, options, data_plane.handle()));
    data_plane.shutdown_background();
    outcome
}

/// The threads of the gateway: apart from those of the control plane, so that neither waits for the other. PostgreSQL,
/// which runs beside it, needs most of the machine; threads that have more to do at a time wake one another less often,
/// and that is most of what a transaction costs here (`bench/poolers`).
fn data_plane() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).max(1))
        .thread_name("gateway")
        .enable_all()
        .build()
}

async fn start_gateway(
    config: &RegionConfig,
    control: Arc<ControlPlane>,
    data_plane: &Handle,
) -> Result<Arc<Gateway>, NodeError> {
    let started = data_plane.spawn(Gateway::start(gateway_config(config), control)).await;
    let gateway = started.map_err(|failure| NodeError::Process(failure.into()))?;
    gateway.map(Arc::new).map_err(|source| NodeError::Gateway { region: config.region.clone(), source })
}

async fn serve(config: RegionConfig, options: RunOptions, data_plane: &Handle) -> Result<(), NodeError> {
    let stop = stop_signal(options.stop_with).map_err(NodeError::Process)?;
    let bin = PgBin::find(config.pg_bin.as_deref())?;
    let store = Store::open(&config.store).await?;
    let has_data = config.pgdata().join("PG_VERSION").exists();
    let control = ControlPlane::new(control_settings(&config), has_data);
    let gateway = start_gateway(&config, control.clone(), data_plane).await?;
    let undecided = Orders { role: Desired::Undecided, ..Orders::standby() };
    let (orders, ordered) = watch::channel(undecided);
    let (in_region, readers) = start_readers(reader_specs(&config, &bin));
    let mut server = Server::start(main_spec(&config, &bin), ordered, in_region.clone());
    let poller = Arc::new(StatusPoller::start(config.run_dir()));
    let dns = Dns::start(&config).await?;
    let driven = Driven {
        dns: dns.clone(),
        gateway: gateway.clone(),
        orders,
        readers: in_region,
        states: server.states(),
        rebuilt: server.rebuilt(),
        poller: poller.clone(),
        store: store.clone(),
        pgdata: config.pgdata(),
        socket_dir: config.run_dir(),
    };
    let mut control_tasks = JoinSet::new();
    control_tasks.spawn(control.clone().follow_store(store));
    control_tasks.spawn(control.clone().drive(driven));
    let sources = Sources { gateway, control, poller, dns, config_file: options.config_file };
    let region = Arc::new(Region::new(config, &bin, sources, &server, &readers));
    region.control.reloads(Arc::downgrade(&region));
    let hang_ups = reload_on_hang_up(region.clone()).map_err(NodeError::Process)?;
    let status = status_server::start(&region.config.run_dir().join(STATUS_SOCKET), Arc::clone(&region))?;
    let (stop_readers, reader_tasks) = care_for_readers(readers);
    let functions = tokio::spawn(pangea_agent::keep_functions(region.config.run_dir()));
    let forgotten = {
        let control = region.control.clone();
        move |standby: &str| control.is_stranger(standby)
    };
    let slots = tokio::spawn(pangea_agent::recovery::keep_slots(region.config.run_dir(), forgotten));
    tracing::info!(region = %region.config.region, "region process is up");

    let result = tokio::select! {
        () = stop.notified() => Ok(()),
        ended = server.ended() => ended,
        () = region.follow_lag() => Ok(()),
        // They end by a panic only, which the hook has reported. Nobody would renew the lease, or notice its end: what
        // the watchdog does when this process is gone is right.
        Some(_) = control_tasks.join_next() => {
            tracing::error!("the control plane has failed: the region's process ends at once");
            std::process::abort();
        }
    };
    tracing::info!(region = %region.config.region, "stopping");
    hang_ups.abort();
    functions.abort();
    slots.abort();
    region.gateway.stop().await;
    stop_readers.send_replace(true);
    reader_tasks.join_all().await;
    if result.is_ok() {
        server.stop().await?;
    }
    // Last: while the server stops it still writes, and needs the lease.
    region.control.end();
    control_tasks.shutdown().await;
    status.abort();
    let _ = std::fs::remove_file(region.config.run_dir().join(STATUS_SOCKET));
    tracing::info!(region = %region.config.region, "stopped");
    Ok(result?)
}

fn start_readers(specs: Vec<ServerSpec>) -> (Vec<Reader>, Vec<(Server, StatusPoller, String)>) {
    let start = |spec: ServerSpec| {
        let (poller, name) = (StatusPoller::start(spec.socket_dir.clone()), spec.name.clone());
        let (reader, server) = Reader::start(spec);
        (reader, (server, poller, name))
    };
    specs.into_iter().map(start).unzip()
}

/// Readers are worth a region less than its server: one that fails is told of and the region goes on.
fn care_for_readers(readers: Vec<(Server, StatusPoller, String)>) -> (watch::Sender<bool>, JoinSet<()>) {
    let (stop, told) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for (mut server, poller, name) in readers {
        let mut told = told.clone();
        tasks.spawn(async move {
            let failed = tokio::select! {
                _ = told.wait_for(|stop| *stop) => None,
                ended = server.ended() => Some(ended),
            };
            let result = match failed {
                Some(result) => result,
                None => server.stop().await,
            };
            if let Err(error) = result {
                tracing::error!(server = name, error = %error, "a reader does not run");
            }
            drop(poller);
        });
    }
    (stop, tasks)
}

fn stop_signal(stop_with: StopWith) -> std::io::Result<Arc<Notify>> {
    let stop = Arc::new(Notify::new());
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut received, stop) = (signal(kind)?, Arc::clone(&stop));
        tokio::spawn(async move {
            received.recv().await;
            stop.notify_one();
        });
    }
    if stop_with == StopWith::SignalsOrStdin {
        let stop = Arc::clone(&stop);
        // A thread of its own: a blocked read on the runtime's pool would keep the process from ending.
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.notify_one();
        })?;
    }
    Ok(stop)
}

/// SIGHUP: the configuration is read again.
fn reload_on_hang_up(region: Arc<Region>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut received = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        while received.recv().await.is_some() {
            if let Err(error) = region.reload() {
                tracing::error!(error, "the configuration was not taken over");
            }
        }
    }))
}

fn gateway_config(config: &RegionConfig) -> GatewayConfig {
    GatewayConfig {
        cluster_name: config.cluster.clone(),
        clients_max: config.clients_max,
        admin_users: config.admin_users.clone(),
        stats_users: config.stats_users.clone(),
        authentication_timeout: Duration::from_secs(config.authentication_timeout_s),
        region: config.region.clone(),
        primary: config.primary.clone(),
        cluster: config.listen.cluster,
        reader: config.listen.reader,
        writer: config.listen.writer,
        link: config.listen.link,
        server_dir: config.run_dir(),
        reader_dirs: (1..=config.readers).map(|number| reader_dir(config, number)).collect(),
        uplink_dir: config.uplink_dir(),
        tls: TlsFiles {
            ca: config.tls.ca.clone(),
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
        },
        levels: EndpointLevels {
            cluster: config.read_consistency.cluster.clone(),
            reader: config.read_consistency.reader.clone(),
            writer: config.read_consistency.writer.clone(),
        },
        auth: match config.client_auth {
            ClientAuth::Scram => Auth::Scram,
            ClientAuth::Trust => Auth::Trust,
        },
        pooling: config.pool.pooling(),
        peers: reload::gateway_peers(config),
    }
}

fn reader_data_dir(config: &RegionConfig, number: u8) -> PathBuf {
    config.data_dir.join(format!("reader{number}"))
}

fn reader_dir(config: &RegionConfig, number: u8) -> PathBuf {
    config.run_dir().join(format!("reader{number}"))
}

fn main_spec(config: &RegionConfig, bin: &PgBin) -> ServerSpec {
    ServerSpec {
        name: config.region.to_string(),
        bin: bin.clone(),
        pgdata: config.pgdata(),
        socket_dir: config.run_dir(),
        log_file: config.data_dir.join("log").join("postgres.log"),
        password_file: config.initial_password_file.clone(),
        uplink_dir: config.uplink_dir(),
        region: config.region.clone(),
        reports_dir: Some(config.data_dir.join("recovery")),
        custom_settings: config.read_consistency.server_settings(),
        user_settings: config.postgres_settings.clone(),
    }
}

fn reader_specs(config: &RegionConfig, bin: &PgBin) -> Vec<ServerSpec> {
    let spec = |number| ServerSpec {
        name: format!("{}-reader{number}", config.region),
        pgdata: reader_data_dir(config, number),
        socket_dir: reader_dir(config, number),
        log_file: config.data_dir.join("log").join(format!("reader{number}.log")),
        reports_dir: None,
        ..main_spec(config, bin)
    };
    (1..=config.readers).map(spec).collect()
}

fn make_private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Held for as long as the process lives: two processes on one region would each stop the other's server.
fn lock(config: &RegionConfig) -> Result<Flock<std::fs::File>, NodeError> {
    let path = config.run_dir().join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|source| NodeError::Directory { action: "open", path: path.clone(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| NodeError::Running { region: config.region.clone(), path: config.data_dir.clone() })
}

fn control_settings(config: &RegionConfig) -> Settings {
    let names = config.peers.iter().map(|peer| &peer.region).chain([&config.region]);
    let members = names.map(|region| (region.clone(), Member::default())).collect();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut topology = Topology::new(config.cluster.clone(), config.primary.clone(), members, wall.as_secs());
    topology.policy = config.failover.policy.clone();
    Settings {
        cluster: config.cluster.clone(),
        me: config.region.clone(),
        // Two processes of a region do not begin in one nanosecond.
        process: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        ttl: Duration::from_millis(config.failover.lease_ttl_ms),
        // Data of a standby: the cluster exists, and its primary was elsewhere.
        bootstrap: (config.region == config.primary && !config.pgdata().join("standby.signal").exists())
            .then_some(topology),
    }
}

/// Whom the region's status is asked of.
struct Sources {
    gateway: Arc<Gateway>,
    control: Arc<ControlPlane>,
    poller: Arc<StatusPoller>,
    dns: Option<Arc<Dns>>,
    config_file: PathBuf,
}

/// What the status is made from.
pub(crate) struct Region {
    config: RegionConfig,
    config_file: PathBuf,
    dns: Option<Arc<Dns>>,
    postgres: String,
    gateway: Arc<Gateway>,
    control: Arc<ControlPlane>,
    phase: watch::Receiver<Phase>,
    poller: Arc<StatusPoller>,
    readers: Vec<ReaderView>,
    lag: Mutex<LagTracker>,
    primary_heard: Mutex<Option<(RegionId, Position, Instant)>>,
    was_ready: Mutex<bool>,
}

struct ReaderView {
    name: String,
    phase: watch::Receiver<Phase>,
    answers: watch::Receiver<Option<pangea_agent::ServerPosition>>,
}

fn lock_state<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these values whole: each is replaced in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    fn new(
        config: RegionConfig,
        bin: &PgBin,
        sources: Sources,
        server: &Server,
        readers: &[(Server, StatusPoller, String)],
    ) -> Self {
        let readers = readers.iter().map(|(server, poller, name)| ReaderView {
            name: name.clone(),
            phase: server.phases(),
            answers: poller.answers(),
        });
        let Sources { gateway, control, poller, dns, config_file } = sources;
        Self {
            config_file,
            dns,
            postgres: bin.version().to_string(),
            gateway,
            control,
            phase: server.phases(),
            poller,
            readers: readers.collect(),
            lag: Mutex::default(),
            primary_heard: Mutex::default(),
            was_ready: Mutex::new(false),
            config,
        }
    }

    pub(crate) fn name(&self) -> &RegionId {
        &self.config.region
    }

    pub(crate) fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// Reads the configuration again: its peers take effect.
    pub(crate) fn reload(&self) -> Result<Reloaded, String> {
        reload::reload(&self.config_file, &self.config, &self.gateway, self.dns.as_deref())
    }

    /// The newest epoch that is known, and its primary; in the beginning what the configuration says.
    fn primary(&self) -> (Epoch, RegionId) {
        self.control.primary().unwrap_or_else(|| (Epoch(0), self.config.primary.clone()))
    }

    fn is_primary(&self) -> bool {
        self.config.region == self.primary().1
    }

    /// Notes the primary's position, and writes the status file, for as long as the region runs.
    async fn follow_lag(&self) {
        let mut lags = Lags::default();
        loop {
            lags.write(&self.status(), &self.running_data_dirs());
            tokio::time::sleep(LAG_INTERVAL).await;
            let gateway = self.gateway.status();
            let heard =
                self.primary_peer(&gateway).and_then(|peer| Some((peer.region.clone(), peer.position?)));
            if let Some((region, position)) = heard {
                let now = Instant::now();
                lock_state(&self.lag).hear(now, position.lsn);
                *lock_state(&self.primary_heard) = Some((region, position, now));
            }
        }
    }

    /// Data directories of the servers that run: the others may be somebody else's.
    fn running_data_dirs(&self) -> Vec<PathBuf> {
        let runs = |phase: &watch::Receiver<Phase>| *phase.borrow() == Phase::Running;
        let own = runs(&self.phase).then(|| self.config.pgdata());
        let readers = (1..=self.config.readers).zip(&self.readers);
        let readers = readers.filter(|(_, reader)| runs(&reader.phase));
        own.into_iter().chain(readers.map(|(number, _)| reader_data_dir(&self.config, number))).collect()
    }

    /// The primary as seen by heartbeats, when it is another region and answers.
    fn primary_peer<'a>(&self, status: &'a GatewayStatus) -> Option<&'a PeerStatus> {
        let (_, primary) = self.primary();
        status.peers.iter().find(|peer| peer.region == primary && peer.reachable)
    }

    /// The status now.
    pub(crate) fn status(&self) -> RegionStatus {
        let gateway = self.gateway.status();
        let (epoch, primary) = self.primary();
        let server = self.poller.latest();
        let position = server.as_ref().and_then(|server| server.position);
        let (lag_bytes, lag_time) = self.lag_now(&gateway, position.map(|position| position.lsn));
        let streaming = server.as_ref().is_some_and(|server| server.streaming);
        let (health, detail) = self.health(server.is_some(), streaming);
        let listen = &self.config.listen;
        RegionStatus {
            cluster: self.config.cluster.clone(),
            region: self.config.region.clone(),
            role: if self.is_primary() { Role::Primary } else { Role::Secondary },
            primary,
            epoch,
            health,
            detail,
            postgres: self.postgres.clone(),
            position,
            received: server.as_ref().and_then(|server| server.received),
            last_replayed_at: server
                .and_then(|server| server.last_replayed_at?.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|at| at.as_secs_f64()),
            replication_lag_bytes: lag_bytes,
            replication_lag_seconds: lag_time.map(|lag| lag.as_secs_f64()),
            primary_heard: lock_state(&self.primary_heard).clone().map(|(region, position, at)| {
                PrimaryHeard { region, position, seconds_ago: at.elapsed().as_secs_f64() }
            }),
            sessions: gateway.sessions,
            forwarded_sessions: gateway.forwarded_sessions,
            pid: std::process::id(),
            endpoints: Endpoints {
                cluster: listen.cluster,
                reader: listen.reader,
                writer: listen.writer,
                link: listen.link,
            },
            readers: self.readers.iter().map(ReaderView::status).collect(),
            peers: gateway.peers.iter().map(view).collect(),
        }
    }

    fn lag_now(
        &self,
        gateway: &GatewayStatus,
        replayed: Option<pangea_base::Lsn>,
    ) -> (Option<u64>, Option<Duration>) {
        let Some(replayed) = replayed else { return (None, None) };
        if self.is_primary() {
            return (Some(0), Some(Duration::ZERO));
        }
        // A primary that does not answer may have gone on writing: what it last said is no lag.
        let Some(primary) = self.primary_peer(gateway).and_then(|peer| Some(peer.position?.lsn)) else {
            return (None, None);
        };
        let mut tracker = lock_state(&self.lag);
        let now = Instant::now();
        tracker.hear(now, primary);
        (Some(primary.bytes_since(replayed)), tracker.lag(now, replayed))
    }

    fn health(&self, answers: bool, streaming: bool) -> (Health, String) {
        let phase = self.phase.borrow().clone();
        let mut was_ready = lock_state(&self.was_ready);
        let problem = match &phase {
            // What is a fault later is a stage at first.
            Phase::Running if !answers && !*was_ready => Some(Phase::Starting.to_string()),
            Phase::Running if !streaming && !self.is_primary() && !*was_ready => {
                Some("connecting to the primary".to_owned())
            }
            Phase::WaitingForPrimary(reason) => Some(format!("{phase}: {reason}")),
            Phase::Running if !answers => Some("PostgreSQL does not answer".to_owned()),
            Phase::Running if !streaming && !self.is_primary() => {
                Some("not streaming from the primary".to_owned())
            }
            Phase::Running => self.readers.iter().find_map(ReaderView::problem),
            other => Some(other.to_string()),
        };
        match problem {
            None => {
                *was_ready = true;
                (Health::Healthy, String::new())
            }
            Some(problem) if *was_ready => (Health::Degraded, problem),
            Some(problem) => (Health::Starting, problem),
        }
    }
}

impl ReaderView {
    fn status(&self) -> ReaderStatus {
        let answer = self.answers.borrow().clone();
        ReaderStatus {
            name: self.name.clone(),
            phase: self.phase.borrow().to_string(),
            position: answer.as_ref().and_then(|answer| answer.position),
            streaming: answer.is_some_and(|answer| answer.streaming),
        }
    }

    fn problem(&self) -> Option<String> {
        let status = self.status();
        let streams = status.streaming && *self.phase.borrow() == Phase::Running;
        (!streams).then(|| format!("{}: {}", status.name, status.phase))
    }
}

fn view(peer: &PeerStatus) -> PeerView {
    PeerView {
        region: peer.region.clone(),
        reachable: peer.reachable,
        epoch: peer.epoch,
        position: peer.position,
        received: peer.received,
        round_trip_ms: peer.round_trip.map(|round_trip| round_trip.as_secs_f64() * 1000.0),
    }
}
