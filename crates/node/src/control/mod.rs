//! The region's part in control, run: the pure controller is told what happens and what it says is done.
//!
//! Three tasks: one decides and does (`drive`), one reads the store (`follow_store`), and each write to the store is one
//! of its own. The gateway brings the other regions' words.

mod clock;
mod durability;
mod requests;
mod watchdog;

pub use requests::{ControlStatus, FailoverRequest, SwitchoverAnswer};
pub use watchdog::watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use pangea_agent::{Followed, Orders, Reader, ServerPosition, State, StatusPoller};
use pangea_base::{Epoch, RegionId};
use pangea_control::{
    Controller, Desired, Durability, Gate, Loaded, Output, PREPARE_TIMEOUT, PeerState, Server, Settings,
    StoreWrite, Topology, TopologyChange, Written,
};
use pangea_gateway::{Control, Gateway};
use pangea_store::{Key, Outcome, Snapshot, Store, StoreError, Version, Write};
use tokio::sync::{Notify, watch};

use crate::dns::Dns;
use crate::region::Region;
use clock::Clock;
use durability::Exposure;
use watchdog::Watchdog;

/// Pause after the store could not be read, or a checkpoint failed.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long one look whether the durability is in force may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// The store is read this often even if it says that nothing has changed.
const STORE_INTERVAL: Duration = Duration::from_millis(500);

/// The region's part in control.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    controller: Mutex<Controller>,
    clock: Clock,
    /// Something has happened: decide anew.
    wake: Notify,
    /// The store has been written: read it now.
    reload: Notify,
    news: watch::Sender<u64>,
    /// What the other regions were told last, as far as they are to be told at once.
    told: Mutex<Option<PeerState>>,
    store_problem: Mutex<Option<String>>,
    /// The process ends: what fails now fails because of that.
    ending: AtomicBool,
    /// What reads the configuration again, once it is there.
    region: OnceLock<Weak<Region>>,
    /// The region has data, and does not make the cluster: an empty store is not that of its cluster.
    expects_topology: bool,
}

/// What the control plane drives.
pub(crate) struct Driven {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) states: watch::Receiver<State>,
    pub(crate) rebuilt: watch::Receiver<u64>,
    pub(crate) poller: Arc<StatusPoller>,
    pub(crate) store: Store,
    pub(crate) pgdata: std::path::PathBuf,
    pub(crate) socket_dir: std::path::PathBuf,
    pub(crate) dns: Option<Arc<Dns>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlPlane {
    pub(crate) fn new(settings: Settings, has_data: bool) -> Arc<Self> {
        Arc::new(Self {
            expects_topology: has_data && settings.bootstrap.is_none(),
            controller: Mutex::new(Controller::new(settings)),
            clock: Clock,
            wake: Notify::new(),
            reload: Notify::new(),
            news: watch::channel(0).0,
            told: Mutex::default(),
            store_problem: Mutex::default(),
            ending: AtomicBool::new(false),
            region: OnceLock::new(),
        })
    }

    /// This region reads its configuration again when that is asked of the control plane.
    pub(crate) fn reloads(&self, region: Weak<Region>) {
        // There is one region in a process, and it says so once.
        let _ = self.region.set(region);
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        lock(&self.controller)
    }

    /// The newest epoch that is known, and its primary.
    pub(crate) fn primary(&self) -> Option<(Epoch, RegionId)> {
        self.controller().primary()
    }

    /// Asks for a change of the topology.
    pub(crate) fn change(&self, change: TopologyChange) -> Result<(), String> {
        let changed = self.controller().change(change);
        self.wake.notify_one();
        changed
    }

    /// Reads the store whenever it changes, for ever.
    pub(crate) async fn follow_store(self: Arc<Self>, store: Store) {
        let mut seen = Snapshot::default();
        loop {
            match store.load().await {
                Ok(snapshot) => match read(&snapshot) {
                    Ok(loaded) if self.expects_topology && loaded.topology.is_none() => {
                        self.report(
                            "the store is empty, but this region has data of a cluster: restore the store, or name \
                             the right one"
                                .to_owned(),
                        );
                    }
                    Ok(loaded) => {
                        self.controller().loaded(self.clock.now(), loaded);
                        *lock(&self.store_problem) = None;
                        seen = snapshot;
                    }
                    Err(problem) => self.report(problem),
                },
                Err(error) => self.report(error.to_string()),
            }
            self.wake.notify_one();
            let healthy = lock(&self.store_problem).is_none();
            tokio::select! {
                () = store.changed(&seen, STORE_INTERVAL), if healthy => {}
                () = tokio::time::sleep(RETRY_DELAY), if !healthy => {}
                () = self.reload.notified() => {}
            }
        }
    }

    /// The process ends.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn report(&self, problem: String) {
        let mut known = lock(&self.store_problem);
        if known.is_none() && !self.ending.load(Ordering::Relaxed) {
            tracing::warn!(problem, "the store cannot be read");
        }
        *known = Some(problem);
    }

    /// Decides and does, for ever.
    pub(crate) async fn drive(self: Arc<Self>, driven: Driven) {
        let mut driver = Driver {
            emptied: driven.gateway.emptied(),
            answers: driven.poller.answers(),
            states: driven.states.clone(),
            watchdog: None,
            prepared: None,
            exposure: Exposure::default(),
            confirming: None,
            plane: self,
            driven,
        };
        loop {
            let again = driver.once().await;
            driver.wait(again).await;
        }
    }
}

impl Control for ControlPlane {
    fn state(&self) -> Option<PeerState> {
        self.controller().state(self.clock.now())
    }

    fn asked(&self, state: PeerState) -> Option<PeerState> {
        let answer = self.controller().asked(self.clock.now(), state);
        self.wake.notify_one();
        answer
    }

    fn heard(&self, asked: Instant, state: PeerState) {
        self.controller().heard(self.clock.at(asked), state);
        self.wake.notify_one();
    }

    fn lost(&self, region: &RegionId) {
        self.controller().lost(region);
        self.wake.notify_one();
    }

    fn reload(&self) -> Result<Vec<String>, String> {
        let region = self.region.get().and_then(Weak::upgrade).ok_or("the region is starting or stopping")?;
        Ok(region.reload()?.at_next_start)
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

struct Driver {
    plane: Arc<ControlPlane>,
    driven: Driven,
    emptied: Arc<Notify>,
    answers: watch::Receiver<Option<ServerPosition>>,
    states: watch::Receiver<State>,
    watchdog: Option<Watchdog>,
    /// The transition that a checkpoint was begun for.
    prepared: Option<u64>,
    exposure: Exposure,
    confirming: Option<tokio::task::JoinHandle<()>>,
}

impl Driver {
    /// Decides once; how long until it is to be done again at the latest.
    async fn once(&mut self) -> Duration {
        // Before the state: what is gone by then does not run by then.
        let gone = *self.driven.rebuilt.borrow();
        let state = *self.states.borrow_and_update();
        let answer = self.answers.borrow_and_update().clone();
        let server = server(state, answer.as_ref());
        let (held, busy) = self.driven.gateway.held();
        let (now, wall) = (self.plane.clock.now(), self.plane.clock.wall());
        let (output, orders, urgent, unconfirmed) = {
            let mut controller = self.plane.controller();
            controller.server(server.clone());
            controller.gateway(held, busy);
            controller.rebuilt(gone);
            let output = controller.poll(now, wall);
            let me = controller.me().clone();
            let system = answer.and_then(|answer| answer.system);
            let topology = controller.topology();
            let create = topology.is_some_and(|topology| topology.system.is_none());
            let exceeds = self.exposure.exceeds(Instant::now(), &server, topology, controller.peers());
            let synchronous = topology.map(|topology| durability::synchronous(topology, &me, exceeds));
            let synchronous = synchronous.unwrap_or_else(|| self.driven.orders.borrow().synchronous.clone());
            let unconfirmed = topology
                .filter(|topology| !topology.durability_in_force && output.desired == Desired::Primary)
                .map(|topology| topology.durability);
            let follows =
                controller.follows().map(|(epoch, primary)| followed(topology, epoch, primary, &me));
            if let Some((epoch, primary)) = controller.primary() {
                let followed = followed(topology, epoch, primary, &me);
                self.driven.readers.iter().for_each(|reader| reader.follow(followed.clone()));
            }
            let rebuild = controller.rebuilds();
            let urgent = topology.is_some_and(|topology| topology.transition.is_some());
            if let Some(system) = system.filter(|_| create && output.desired == Desired::Primary) {
                // An error means that it is tried again in a moment.
                let _ = controller.change(TopologyChange::System(system));
            }
            (
                output.clone(),
                Orders { role: output.desired, create, follows, synchronous, rebuild },
                urgent,
                unconfirmed,
            )
        };
        self.driven.poller.set_urgent(urgent);
        // The gate closes before the server is told to go, and opens after it has come.
        if let Some(gate) = output.gate.clone() {
            // Not before the primary takes writes: who is told of it goes there at once.
            if let Some(dns) = self.driven.dns.as_ref().filter(|_| gate.open) {
                dns.tell(gate.epoch, &gate.primary);
            }
            self.set_gate(gate);
        }
        self.allow(&output, state).await;
        self.driven.orders.send_if_modified(|known| {
            let news = *known != orders;
            *known = orders;
            news
        });
        self.tell(output.state.as_ref());
        if let Some(transition) = output.prepare.filter(|id| self.prepared != Some(*id)) {
            self.prepare(transition);
        }
        if let Some(write) = output.write {
            self.write(write);
        }
        if let Some(durability) = unconfirmed {
            self.confirm(durability);
        }
        output.again
    }

    /// Finds out whether the durability is in force, and says so.
    fn confirm(&mut self, durability: Durability) {
        if self.confirming.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (plane, dir) = (self.plane.clone(), self.driven.socket_dir.clone());
        self.confirming = Some(tokio::spawn(async move {
            let in_force = match durability {
                Durability::Sync { regions } => {
                    let confirmed = async || {
                        pangea_agent::is_synchronous(&dir, regions, CONFIRM_TIMEOUT).await.unwrap_or(false)
                    };
                    // The checkpointer is what makes commits wait, and in the middle of a checkpoint it takes no notice
                    // of new settings: after one that has begun since, it has.
                    confirmed().await && pangea_agent::checkpoint(&dir).await.is_ok() && confirmed().await
                }
                // From now on it is watched; what was before is as it was.
                Durability::Async | Durability::Bounded { .. } => true,
            };
            if in_force {
                // An error means that it is tried again in a moment.
                let _ = plane.change(TopologyChange::InForce(durability));
            }
        }));
    }

    fn set_gate(&self, gate: Gate) {
        self.driven.gateway.set_gate(gate);
    }

    /// Tells the watchdog until when the server may write.
    async fn allow(&mut self, output: &Output, state: State) {
        let until = output.lease_until;
        // Another region is primary, and this one's server does not know yet: the limit that it had stays.
        if until.is_none() && matches!(state, State::Primary(_)) {
            return;
        }
        let until =
            until.filter(|_| output.desired == Desired::Primary || matches!(state, State::Primary(_)));
        if until.is_some() && self.watchdog.as_mut().is_none_or(|watchdog| !watchdog.is_alive()) {
            match Watchdog::start(&self.driven.pgdata) {
                Ok(watchdog) => self.watchdog = Some(watchdog),
                Err(error) => tracing::error!(%error, "no watchdog: this region is not fenced when it hangs"),
            }
        }
        if let Some(watchdog) = &mut self.watchdog
            && let Err(error) = watchdog.allow(until).await
        {
            tracing::error!(%error, "the watchdog does not listen");
            self.watchdog = None;
        }
    }

    /// Tells the other regions what matters to them at once; the rest goes with the heartbeats.
    fn tell(&self, state: Option<&PeerState>) {
        let essence = state.map(|state| PeerState {
            at_us: 0,
            busy: 0,
            server: match &state.server {
                Server::Standby { streaming, .. } => {
                    Server::Standby { timeline: None, received: None, replayed: None, streaming: *streaming }
                }
                Server::Primary { .. } => Server::Primary { position: None, promotion: None },
                other => other.clone(),
            },
            ..state.clone()
        });
        let mut told = lock(&self.plane.told);
        if *told != essence {
            *told = essence;
            self.plane.news.send_modify(|count| *count += 1);
        }
    }

    fn prepare(&mut self, transition: u64) {
        self.prepared = Some(transition);
        let (plane, dir) = (self.plane.clone(), self.driven.socket_dir.clone());
        tokio::spawn(async move {
            let deadline = Instant::now() + PREPARE_TIMEOUT;
            while let Err(error) = pangea_agent::checkpoint(&dir).await {
                tracing::warn!(%error, "the checkpoint ahead of a switchover failed");
                // The switchover is rolled back when it has waited that long.
                if Instant::now() >= deadline {
                    return;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            plane.controller().prepared(transition);
            plane.wake.notify_one();
        });
    }

    fn write(&self, write: StoreWrite) {
        let (plane, store) = (self.plane.clone(), self.driven.store.clone());
        tokio::spawn(async move {
            let written = match encode(&write) {
                Ok(write) => store.write(write).await,
                Err(problem) => Err(StoreError::Invalid(problem)),
            };
            let written = match written {
                Ok(Outcome::Done) => Written::Done,
                Ok(Outcome::Conflict) => Written::Conflict,
                Err(StoreError::Unknown(problem)) => {
                    plane.report(problem);
                    Written::Unknown
                }
                Err(error) => {
                    plane.report(error.to_string());
                    Written::Failed
                }
            };
            plane.controller().written(written);
            plane.reload.notify_one();
            plane.wake.notify_one();
        });
    }

    async fn wait(&mut self, longest: Duration) {
        tokio::select! {
            () = tokio::time::sleep(longest) => {}
            () = self.plane.wake.notified() => {}
            () = self.emptied.notified() => {}
            _ = self.states.changed() => {}
            _ = self.answers.changed() => {}
        }
    }
}

/// What the server is told of the primary in another region.
fn followed(topology: Option<&Topology>, epoch: Epoch, primary: RegionId, me: &RegionId) -> Followed {
    let changes = topology.map(|topology| topology.changes.as_slice()).unwrap_or_default();
    let own = changes.iter().rev().find(|change| change.primary == *me);
    Followed { epoch, primary, lost_epoch: own.map_or(Epoch(0), |change| change.epoch) }
}

/// What the controller is told of the server.
fn server(state: State, answer: Option<&ServerPosition>) -> Server {
    match state {
        State::Down => Server::Down,
        State::ShutDown(checkpoint) => Server::Stopped { checkpoint },
        State::Standby => {
            let answer = answer.filter(|answer| answer.in_recovery);
            let position = answer.and_then(|answer| answer.position);
            Server::Standby {
                timeline: position.map(|position| position.timeline),
                received: answer.and_then(|answer| answer.received),
                replayed: position.map(|position| position.lsn),
                streaming: answer.is_some_and(|answer| answer.streaming),
            }
        }
        State::Primary(promotion) => {
            let answer = answer.filter(|answer| !answer.in_recovery);
            Server::Primary { position: answer.and_then(|answer| answer.position), promotion }
        }
    }
}

fn read(snapshot: &Snapshot) -> Result<Loaded, String> {
    let invalid = |key: Key| {
        move |error: serde_json::Error| format!("the {} in the store is not readable: {error}", key.name())
    };
    let mut loaded = Loaded::default();
    if let Some(document) = snapshot.document(Key::Topology) {
        let topology = serde_json::from_slice(&document.value).map_err(invalid(Key::Topology))?;
        loaded.topology = Some((document.version.0, topology));
    }
    if let Some(document) = snapshot.document(Key::Lease) {
        let lease = serde_json::from_slice(&document.value).map_err(invalid(Key::Lease))?;
        loaded.lease = Some((document.version.0, lease));
    }
    Ok(loaded)
}

fn encode(write: &StoreWrite) -> Result<Write, String> {
    let problem = |error: serde_json::Error| format!("a document cannot be written as JSON: {error}");
    let expected = [(Key::Topology, write.expect_topology), (Key::Lease, write.expect_lease)];
    let expect = expected.into_iter().filter_map(|(key, version)| Some((key, Version(version?)))).collect();
    let mut put = Vec::new();
    if let Some(topology) = &write.topology {
        put.push((Key::Topology, serde_json::to_vec(topology).map_err(problem)?));
    }
    if let Some(lease) = &write.lease {
        put.push((Key::Lease, serde_json::to_vec(lease).map_err(problem)?));
    }
    Ok(Write { expect, put })
}
