//! Brings a cluster up, watches it, takes it down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use pangea_agent::PgBin;
use pangea_base::RegionId;
use pangea_node::{ClientAuth, FailoverConfig, Health, PoolConfig, RegionConfig, RegionStatus};
use pangea_store::StoreConfig;
use tokio::task::JoinHandle;

use crate::clock::{FakeTime, set_clock};
use crate::down::{SupervisorLock, data_dirs, wait_gone};
use crate::error::ClusterError;
use crate::files::write_files;
use crate::http::{HttpError, region_status};
use crate::layout::{Layout, Owner, make_dir};
use crate::manifest::{Manifest, RegionEntry, WanChoice};
use crate::process::{Process, Recipe, State, said_since};
use crate::supervised::{Supervised, Terms};
use crate::wan::{AWS_REGIONS, Table, Wan};
use crate::{admin, ports};

/// Names a cluster that is not named.
const CLUSTER_DEFAULT: &str = "pangea";
const OS_USER_DEFAULT: &str = "postgres";
const PORT_BASE_DEFAULT: u16 = 7400;
const REGIONS_DEFAULT: usize = 3;
const REGIONS_MAX: usize = 11;
const READERS_MAX: u8 = 3;
/// How often a region is asked while it starts.
const POLL: Duration = Duration::from_millis(25);
/// How long regions of a killed supervisor may take to stop by themselves.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// What cluster to bring up. What is `None` is as it was the last time, or the default.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Its directory.
    pub data_dir: PathBuf,
    /// The `pangea` program.
    pub exe: PathBuf,
    /// Its regions, the primary first. Fixed when the cluster is created.
    pub regions: Option<Vec<RegionId>>,
    /// In-region readers per region.
    pub readers: Option<u8>,
    /// First port; 0 for free ones.
    pub port_base: Option<u16>,
    /// PostgreSQL's programs.
    pub pg_bin: Option<PathBuf>,
    /// How clients prove who they are.
    pub auth: Option<ClientAuth>,
    /// The distances.
    pub wan: Option<WanChoice>,
    /// Distances that take the place of `wan`'s, for tests.
    pub wan_table: Option<Table>,
    /// OS user of the region processes when this one is root.
    pub os_user: Option<String>,
    /// Further lines for `postgresql.conf` in every region.
    pub postgres_settings: Vec<String>,
    /// Longest time, in seconds, from a client's connection to its proven identity.
    pub authentication_timeout_s: u64,
    /// Which server connections sessions share.
    pub pool: Option<PoolConfig>,
    /// Roles that may give every command on the console.
    pub admin_users: Vec<String>,
    /// Roles that may SHOW on the console.
    pub stats_users: Vec<String>,
    /// Where the topology and the lease are kept; a file of the cluster when absent.
    pub store: Option<StoreConfig>,
    /// When other regions take over.
    pub failover: Option<FailoverConfig>,
    /// What gives each region a wall clock of its own ([`Cluster::set_clock`]).
    pub clocks: Option<FakeTime>,
    /// How long all regions together may take to become ready.
    pub ready_timeout: Duration,
}

impl ClusterOptions {
    /// All defaults.
    #[must_use]
    pub fn new(data_dir: PathBuf, exe: PathBuf) -> Self {
        Self {
            data_dir,
            exe,
            regions: None,
            readers: None,
            port_base: None,
            pg_bin: None,
            auth: None,
            wan: None,
            wan_table: None,
            os_user: None,
            postgres_settings: Vec::new(),
            authentication_timeout_s: RegionConfig::AUTHENTICATION_TIMEOUT_S,
            pool: None,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            store: None,
            failover: None,
            clocks: None,
            ready_timeout: Duration::from_secs(120),
        }
    }
}

/// A step of the start that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The region.
    pub region: RegionId,
    /// What it did, such as `base backup`.
    pub step: String,
    /// How long that took; for `ready`, how long everything took.
    pub took: Duration,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    supervised: Arc<Supervised>,
    admin: JoinHandle<()>,
    _lock: SupervisorLock,
}

impl Cluster {
    /// Creates the cluster if there is none in the directory, starts its regions and returns when all of them
    /// are ready. `progress` is called for each step that a region has done.
    ///
    /// # Errors
    /// When something is in the way. Regions that have started are stopped again; their logs are kept.
    pub async fn start(
        options: ClusterOptions,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Self, ClusterError> {
        let layout = Layout::new(&options.data_dir);
        layout.check_ours_or_empty()?;
        let existing = Manifest::load_if_any(&layout)?;
        let names = region_names(&options, existing.as_ref())?;
        layout.check_socket_paths(&names)?;
        let os_user = options.os_user.clone().or_else(|| existing.as_ref()?.os_user.clone());
        let owner = owner(os_user.as_deref())?;
        owner.check_can_reach(&layout.data_dir().join("x"))?;
        let pg_bin = options.pg_bin.clone().or_else(|| existing.as_ref()?.pg_bin.clone());
        PgBin::find(pg_bin.as_deref())?;
        let wan_choice =
            options.wan.clone().or_else(|| Some(existing.as_ref()?.wan.clone())).unwrap_or(WanChoice::Aws);
        let table = match &options.wan_table {
            Some(table) => Some(table.clone()),
            None => wan_choice.table()?,
        };
        check_table(table.as_ref(), &names)?;

        // Nothing was made up to here: what is wrong with the options leaves no trace.
        make_dir(layout.data_dir(), if owner.0.is_some() { 0o711 } else { 0o700 })?;
        let Some(lock) = SupervisorLock::take(&layout)? else {
            return Err(ClusterError::Running { path: layout.data_dir().to_owned() });
        };
        let manifest = Manifest {
            format: Manifest::format(),
            cluster: CLUSTER_DEFAULT.to_owned(),
            primary: primary(&names, existing.as_ref())?,
            readers: readers(&options, existing.as_ref())?,
            port_base: port_base(&options, existing.as_ref()),
            auth: options.auth.or_else(|| Some(existing.as_ref()?.auth)).unwrap_or_default(),
            pool: options.pool.clone().or_else(|| Some(existing.as_ref()?.pool.clone())).unwrap_or_default(),
            wan: wan_choice,
            os_user,
            pg_bin,
            store: store(&options, existing.as_ref())?,
            failover: options
                .failover
                .clone()
                .or_else(|| Some(existing.as_ref()?.failover.clone()))
                .unwrap_or_default(),
            regions: Vec::new(),
            removed: existing.as_ref().map(|existing| existing.removed.clone()).unwrap_or_default(),
        };
        // What a killed supervisor has left is on its way down, and holds the ports until then.
        for name in &names {
            wait_gone(&layout.region(name), Instant::now() + LEFTOVER_TIMEOUT).await;
        }
        // With another base all get other ports.
        let known = existing.filter(|existing| existing.port_base == manifest.port_base);
        let known = known.map(|existing| existing.regions).unwrap_or_default();
        let regions = ports::plan(&names, manifest.port_base, &known)?;
        let manifest = Manifest { regions, ..manifest };
        let wan = match &table {
            Some(table) => Some(Arc::new(start_wan(table, &manifest).await?)),
            None => None,
        };
        let password = write_files(&layout, &owner, &manifest, wan.as_deref(), &options)?;
        let processes = processes(&layout, &manifest, &owner, &options)?;
        let ready_timeout = options.ready_timeout;
        let supervised =
            Supervised::new(layout, Terms { options, owner, table, password }, wan, manifest, processes);
        let admin = admin::start(&supervised.layout.admin_socket(), &supervised)?;
        let cluster = Self { supervised, admin, _lock: lock };
        match cluster.start_regions(ready_timeout, progress).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.stop().await;
                Err(error)
            }
        }
    }

    async fn start_regions(
        &self,
        timeout: Duration,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ClusterError> {
        let began = Instant::now();
        let mut starting = Vec::new();
        let processes = self.supervised.processes();
        for (region, process) in &processes {
            let log = self.layout().region_log(region);
            let log_from = std::fs::metadata(&log).map_or(0, |found| found.len());
            process.start().await;
            starting.push(Starting { region, process, log, log_from, step: None });
        }
        while !starting.is_empty() {
            let mut still = Vec::new();
            for mut region in starting {
                let status = region_status(self.layout(), region.region).await;
                if region.look(status, began, progress)? {
                    continue;
                }
                if began.elapsed() >= timeout {
                    return Err(ClusterError::NotReady {
                        region: region.region.clone(),
                        waited: timeout,
                        state: region
                            .step
                            .map_or("its process does not answer".to_owned(), |step| step.detail),
                        log_dir: self.layout().region(region.region).join("log"),
                    });
                }
                still.push(region);
            }
            starting = still;
            if !starting.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.supervised.layout
    }

    /// What it is now.
    #[must_use]
    pub fn manifest(&self) -> Arc<Manifest> {
        self.supervised.manifest()
    }

    /// Password of the role `postgres`.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.supervised.terms.password
    }

    /// The endpoints of a region.
    ///
    /// # Errors
    /// When there is no such region.
    pub fn endpoint(&self, region: &RegionId) -> Result<RegionEntry, ClusterError> {
        self.manifest().region(region).cloned()
    }

    /// The emulator, unless the cluster runs without.
    #[must_use]
    pub fn wan(&self) -> Option<&Wan> {
        self.supervised.wan.as_deref()
    }

    /// What a region tells about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, region: &RegionId) -> Result<RegionStatus, HttpError> {
        region_status(self.layout(), region).await
    }

    /// Kills a region as a power cut would: its process and its servers at once. It stays down.
    ///
    /// # Errors
    /// When there is no such region.
    pub async fn kill_region(&self, region: &RegionId) -> Result<(), ClusterError> {
        self.supervised.process(region)?.down(Signal::SIGKILL).await;
        for data in data_dirs(&self.layout().region(region), self.manifest().readers) {
            pangea_agent::kill_leftover(&data).await;
        }
        Ok(())
    }

    /// Stops a region in order. It stays down.
    ///
    /// # Errors
    /// When there is no such region.
    pub async fn stop_region(&self, region: &RegionId) -> Result<(), ClusterError> {
        self.supervised.process(region)?.down(Signal::SIGTERM).await;
        Ok(())
    }

    /// Starts a region that is down, and returns when its process exists; see [`Cluster::status`].
    ///
    /// # Errors
    /// When there is no such region.
    pub async fn start_region(&self, region: &RegionId) -> Result<(), ClusterError> {
        self.supervised.process(region)?.start().await;
        Ok(())
    }

    /// Sets the wall clock of a region so many seconds apart from the machine's.
    ///
    /// # Errors
    /// When the cluster was started without clocks, or the region is unknown.
    pub fn set_clock(&self, region: &RegionId, offset_s: i32) -> Result<(), ClusterError> {
        self.supervised.process(region)?;
        let Terms { options, owner, .. } = &self.supervised.terms;
        match &options.clocks {
            Some(_) => set_clock(&self.layout().clock(region), owner, offset_s),
            None => Err(ClusterError::Options("its regions have no clocks of their own".to_owned())),
        }
    }

    /// Stops all regions and returns when their processes are gone.
    pub async fn stop(self) {
        let mut tasks = tokio::task::JoinSet::new();
        for (_, process) in self.supervised.processes() {
            tasks.spawn(async move { process.down(Signal::SIGTERM).await });
        }
        tasks.join_all().await;
        self.admin.abort();
        let _ = std::fs::remove_file(self.layout().admin_socket());
    }

    /// The process of a region, while there is one.
    pub(crate) fn process_id(&self, region: &RegionId) -> Option<i32> {
        match self.supervised.process(region).ok()?.state() {
            State::Up(pid) => Some(pid),
            State::Down | State::Died(_) => None,
        }
    }
}

fn processes(
    layout: &Layout,
    manifest: &Manifest,
    owner: &Owner,
    options: &ClusterOptions,
) -> Result<BTreeMap<RegionId, Arc<Process>>, ClusterError> {
    let process =
        |entry: &RegionEntry| Ok((entry.name.clone(), process(layout, &entry.name, owner, options)?));
    manifest.regions.iter().map(process).collect()
}

/// The process of a region, which is down until it is started.
pub(crate) fn process(
    layout: &Layout,
    region: &RegionId,
    owner: &Owner,
    options: &ClusterOptions,
) -> Result<Arc<Process>, ClusterError> {
    let clock = match &options.clocks {
        Some(fake_time) => Some(fake_time.clock(&layout.clock(region), owner)?),
        None => None,
    };
    let (exe, config, log) = (options.exe.clone(), layout.region_config(region), layout.region_log(region));
    Ok(Arc::new(Process::new(Recipe { exe, config, log, clock })))
}

/// A region that is not ready yet.
struct Starting<'a> {
    region: &'a RegionId,
    process: &'a Process,
    log: PathBuf,
    /// Where this start's lines begin.
    log_from: u64,
    step: Option<Step>,
}

struct Step {
    name: String,
    detail: String,
    since: Instant,
}

impl Starting<'_> {
    /// Takes note of what the region says; true when it is ready.
    fn look(
        &mut self,
        status: Result<RegionStatus, HttpError>,
        began: Instant,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool, ClusterError> {
        let (ready, detail) = match status {
            Ok(status) if Some(status.pid) == self.pid() => (status.health == Health::Healthy, status.detail),
            _ => {
                if let State::Died(how) = self.process.state() {
                    return Err(ClusterError::Region {
                        region: self.region.clone(),
                        said: said_since(&self.log, self.log_from, &how),
                        log: self.log.clone(),
                    });
                }
                return Ok(false);
            }
        };
        let name = detail.split(": ").next().unwrap_or_default().to_owned();
        if ready || self.step.as_ref().is_none_or(|step| step.name != name) {
            let since = self.step.as_ref().map_or(began, |step| step.since);
            let done = self.step.take().map_or_else(|| "process".to_owned(), |step| step.name);
            progress(Progress { region: self.region.clone(), step: done, took: since.elapsed() });
            self.step = Some(Step { name, detail, since: Instant::now() });
        } else if let Some(step) = &mut self.step {
            step.detail = detail;
        }
        if ready {
            let step = "ready".to_owned();
            progress(Progress { region: self.region.clone(), step, took: began.elapsed() });
        }
        Ok(ready)
    }

    /// An answer of an earlier process of the region says nothing about this one.
    fn pid(&self) -> Option<u32> {
        match self.process.state() {
            State::Up(pid) => u32::try_from(pid).ok(),
            State::Down | State::Died(_) => None,
        }
    }
}

fn region_names(
    options: &ClusterOptions,
    existing: Option<&Manifest>,
) -> Result<Vec<RegionId>, ClusterError> {
    let fixed: Option<Vec<RegionId>> =
        existing.map(|manifest| manifest.regions.iter().map(|entry| entry.name.clone()).collect());
    let names = match (options.regions.clone(), fixed) {
        (Some(wanted), Some(fixed)) if wanted != fixed => {
            let list = |names: &[RegionId]| names.iter().map(RegionId::as_str).collect::<Vec<_>>().join(",");
            return Err(ClusterError::Options(format!(
                "the cluster in {} has the regions {}, not {}: leave --regions out, name another --data-dir, or \
                 remove the cluster with `pangea down --delete`",
                options.data_dir.display(),
                list(&fixed),
                list(&wanted)
            )));
        }
        (Some(names), _) | (None, Some(names)) => names,
        (None, None) => {
            AWS_REGIONS.iter().take(REGIONS_DEFAULT).filter_map(|name| name.parse().ok()).collect()
        }
    };
    check_names(&names)?;
    Ok(names)
}

/// The regions of a cluster, as `up` is given them or as they are with a new one.
pub(crate) fn check_names(names: &[RegionId]) -> Result<(), ClusterError> {
    if names.is_empty() || names.len() > REGIONS_MAX {
        let count = names.len();
        return Err(ClusterError::Options(format!("a cluster has 1 to {REGIONS_MAX} regions, not {count}")));
    }
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier == name) {
            return Err(ClusterError::Options(format!("--regions names {name} twice")));
        }
        if ["ca", "store", "store-ways"].contains(&name.as_str()) {
            let problem = format!("a region cannot be named {name}: that is a directory of the cluster");
            return Err(ClusterError::Options(problem));
        }
    }
    Ok(())
}

fn primary(names: &[RegionId], existing: Option<&Manifest>) -> Result<RegionId, ClusterError> {
    let first = existing.map(|manifest| &manifest.primary).or(names.first());
    first.cloned().ok_or_else(|| ClusterError::Options("--regions names no region".to_owned()))
}

fn port_base(options: &ClusterOptions, existing: Option<&Manifest>) -> u16 {
    options.port_base.or(existing.map(|existing| existing.port_base)).unwrap_or(PORT_BASE_DEFAULT)
}

fn readers(options: &ClusterOptions, existing: Option<&Manifest>) -> Result<u8, ClusterError> {
    let readers = options.readers.or_else(|| Some(existing?.readers)).unwrap_or(0);
    if readers > READERS_MAX {
        return Err(ClusterError::Options(format!("--readers takes 0 to {READERS_MAX}, not {readers}")));
    }
    Ok(readers)
}

/// The store is chosen once: in another one nothing would be known of the cluster. Its members may move.
fn store(options: &ClusterOptions, existing: Option<&Manifest>) -> Result<Option<StoreConfig>, ClusterError> {
    let Some(existing) = existing else { return Ok(options.store.clone()) };
    match (options.store.clone(), existing.store.clone()) {
        (None, known) => Ok(known),
        (Some(StoreConfig::Etcd { endpoints, .. }), Some(mut known @ StoreConfig::Etcd { .. })) => {
            if let StoreConfig::Etcd { endpoints: before, .. } = &mut known {
                *before = endpoints;
            }
            Ok(Some(known))
        }
        (Some(given), Some(known)) if given == known => Ok(Some(known)),
        (Some(_), _) => Err(ClusterError::Options(format!(
            "the cluster in {} keeps its topology elsewhere, and that is fixed when it is made: leave --store out",
            options.data_dir.display()
        ))),
    }
}

/// Every pair must have a distance, before anything is made.
pub(crate) fn check_table(table: Option<&Table>, names: &[RegionId]) -> Result<(), ClusterError> {
    let Some(table) = table else { return Ok(()) };
    for (index, from) in names.iter().enumerate() {
        for to in names.iter().skip(index + 1) {
            table.distance(from, to)?;
        }
    }
    Ok(())
}

/// Whose the regions' files are. Root hands them to an ordinary user; anybody else keeps them.
fn owner(os_user: Option<&str>) -> Result<Owner, ClusterError> {
    if !geteuid().is_root() {
        return Ok(Owner(None));
    }
    Ok(Owner(Some(pangea_node::lookup_user(os_user.unwrap_or(OS_USER_DEFAULT))?)))
}

async fn start_wan(table: &Table, manifest: &Manifest) -> Result<Wan, ClusterError> {
    let targets: BTreeMap<RegionId, SocketAddr> =
        manifest.regions.iter().map(|entry| (entry.name.clone(), entry.link)).collect();
    Ok(Wan::start(table, &targets).await?)
}
