//! One server for as long as its region runs: made, started in the role that is ordered, changed, started again when
//! it dies, stopped.
//!
//! ```text
//!  Preparing -> Initdb | BaseBackup <-> WaitingForPrimary | Rejoining -> Starting -> Running <-> Restarting
//!      any of them -> Stopped (told to)        before Running -> the task ends with an error
//! ```
//! The first start must succeed: what is wrong then is a matter of configuration and is told. A server that
//! has run once is started again for as long as it takes.
//!
//! Roles: a standby that is ordered to be primary is promoted; a primary that is ordered to be a standby is killed at
//! once, because whoever orders it can no longer be sure that nobody else writes (LEASE-BEFORE-WRITE); a primary that
//! is ordered to stop shuts down in order, and tells where its log ends (NO-LOSS-SWITCHOVER).

use std::fmt;
use std::time::{Duration, Instant};

use pangea_base::{Epoch, Lsn, Position, RegionId};
use pangea_control::{Desired, Promotion};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{ServerError, chain};
use crate::promote::{promote, promotion, set_synchronous, wait_replayed};
use crate::recovery::{ClusterState, control_data, has_last_checkpoint};
use crate::rejoin::Line;
use crate::settings::ServerSpec;
use crate::successor::{self, Reader, Was};
use crate::{create, postmaster, rejoin};

/// Pause before the first and before later restarts.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(10);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Starts that fail one after the other before an in-region reader takes the place.
const FAILED_STARTS_MAX: u32 = 2;
/// Pause after `synchronous_standby_names` could not be set.
const SYNCHRONOUS_PAUSE: Duration = Duration::from_millis(500);
/// How long a server that has shut down, and is to run again as something else, may go on sending to standbys and archiving.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a standby that follows another region is asked whether it can.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// The same until it is known to.
const LINE_INTERVAL_FIRST: Duration = Duration::from_millis(250);
/// A server that died after it has run this long is started again at once, as PostgreSQL does after a backend's crash.
const STABLE: Duration = Duration::from_secs(1);

/// What a server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Looking at its directory, or waiting for its role.
    Preparing,
    /// Its data is being created.
    Initdb,
    /// The primary cannot be cloned or followed yet, and why.
    WaitingForPrimary(String),
    /// It is being cloned from the primary.
    BaseBackup,
    /// A former primary is made a standby: what only it has is put aside, and it is rewound.
    Rejoining(String),
    /// Its process was started.
    Starting,
    /// It accepts connections.
    Running,
    /// It died and is being started again.
    Restarting,
    /// It was stopped.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => f.write_str("preparing"),
            Self::Initdb => f.write_str("initdb"),
            Self::WaitingForPrimary(_) => f.write_str("waiting for the primary"),
            Self::BaseBackup => f.write_str("base backup"),
            Self::Rejoining(step) => write!(f, "rejoining: {step}"),
            Self::Starting => f.write_str("starting PostgreSQL"),
            Self::Running => f.write_str("running"),
            Self::Restarting => f.write_str("restarting PostgreSQL"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// The primary in another region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Since when it is.
    pub epoch: Epoch,
    /// Its region.
    pub primary: RegionId,
    /// The last epoch in which this region was primary; 0 if it never was.
    pub lost_epoch: Epoch,
}

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// The role.
    pub role: Desired,
    /// There is no data of this cluster yet anywhere: a primary makes it.
    pub create: bool,
    /// Another region is primary: what its log does not have must go.
    pub follows: Option<Followed>,
    /// The `synchronous_standby_names` that it has whenever it is primary.
    pub synchronous: String,
    /// The number of the last request to make a standby's data anew; 0 when there was none.
    pub rebuild: u64,
}

impl Orders {
    /// A standby of the primary, wherever that is: an in-region reader.
    #[must_use]
    pub fn standby() -> Self {
        Self { role: Desired::Standby, create: false, follows: None, synchronous: String::new(), rebuild: 0 }
    }
}

/// What a server is, as its process and its data show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does not run, or not yet.
    Down,
    /// It accepts connections, in recovery.
    Standby,
    /// It accepts connections, out of recovery; how it came out when that was while this process watched.
    Primary(Option<Promotion>),
    /// It was primary and writes nothing any more; its last checkpoint begins here. It may still be sending its log.
    ShutDown(Position),
}

/// A server under care.
#[derive(Debug)]
pub struct Server {
    phase: watch::Receiver<Phase>,
    state: watch::Receiver<State>,
    rebuilt: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServerError>>,
}

/// Where the task tells what it does.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) phase: watch::Sender<Phase>,
    state: watch::Sender<State>,
    /// The last request to make the data anew for which they are gone.
    rebuilt: watch::Sender<u64>,
}

impl Server {
    /// Makes its data directory if need be, starts it and keeps it running in the role that is ordered. When it does
    /// not start again, one of the `readers` takes its place.
    #[must_use]
    pub fn start(spec: ServerSpec, orders: watch::Receiver<Orders>, readers: Vec<Reader>) -> Self {
        let (phase_tx, phase) = watch::channel(Phase::Preparing);
        let (state_tx, state) = watch::channel(State::Down);
        let (stop, stop_rx) = watch::channel(false);
        let (rebuilt_tx, rebuilt) = watch::channel(0);
        let told = Told { phase: phase_tx, state: state_tx, rebuilt: rebuilt_tx };
        let care = Care { spec, orders, told, stop: stop_rx, readers, to_replay: None };
        let task = tokio::spawn(care.run());
        Self { phase, state, rebuilt, stop, task }
    }

    /// What it is doing, as a channel.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// What it is, as a channel.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The number of the last request to make its data anew for which they are gone, as a channel.
    #[must_use]
    pub fn rebuilt(&self) -> watch::Receiver<u64> {
        self.rebuilt.clone()
    }

    /// Returns when it has failed to start (an error) or was stopped.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        match (&mut self.task).await {
            Ok(result) => result,
            // The task is never aborted, so it panicked: a bug, which the panic hook has reported.
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Stops it and returns when its process is gone.
    ///
    /// # Errors
    /// When it had failed before.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        if self.task.is_finished() { Ok(()) } else { self.ended().await }
    }
}

/// How a run of the server has ended.
enum Ended {
    /// The region stops.
    Told,
    /// Another role is ordered.
    Ordered,
    Died(String),
}

struct Care {
    spec: ServerSpec,
    orders: watch::Receiver<Orders>,
    told: Told,
    stop: watch::Receiver<bool>,
    readers: Vec<Reader>,
    /// Where the last record begins that it has to have before it is promoted.
    to_replay: Option<Lsn>,
}

impl Care {
    async fn run(mut self) -> Result<(), ServerError> {
        let mut pause = RESTART_PAUSE_MIN;
        let mut ran_once = false;
        let mut failed_starts = 0;
        loop {
            ran_once |= self.has_run();
            if failed_starts >= FAILED_STARTS_MAX || successor::is_gone(&self.spec, ran_once) {
                self.replace().await;
            }
            let began = Instant::now();
            match self.run_once().await {
                Ok(Ended::Told) => {
                    self.told.phase.send_replace(Phase::Stopped);
                    return Ok(());
                }
                Ok(Ended::Ordered) => {
                    (pause, failed_starts) = (RESTART_PAUSE_MIN, 0);
                    continue;
                }
                Ok(Ended::Died(status)) => {
                    (ran_once, failed_starts) = (true, 0);
                    pause = if began.elapsed() >= STABLE { RESTART_PAUSE_MIN } else { pause };
                    tracing::error!(server = self.spec.name, status, "postgres died, starting it again");
                }
                Err(error) if ran_once || self.has_run() || self.is_beyond_recovery(&error) => {
                    failed_starts += u32::from(matches!(error, ServerError::NotStarted { .. }));
                    let beyond = self.is_beyond_recovery(&error) && self.readers.is_empty();
                    let error = chain(&error);
                    tracing::error!(server = self.spec.name, error, "postgres does not start again");
                    if beyond
                        && failed_starts >= FAILED_STARTS_MAX
                        && rejoin::primary_answers(&self.spec).await
                    {
                        failed_starts = 0;
                        self.put_data_aside()?;
                    }
                }
                Err(error) => return Err(error),
            }
            self.told.state.send_replace(State::Down);
            self.told.phase.send_replace(Phase::Restarting);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = told(&mut self.stop) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
    }

    /// Whether it is a standby whose log PostgreSQL cannot replay, and there is a primary to copy: a restart in the middle
    /// of a change of timelines may leave such.
    fn is_beyond_recovery(&self, error: &ServerError) -> bool {
        const SAYS: &str = "due to startup process failure";
        let orders = self.orders.borrow();
        let follows = orders.role == Desired::Standby && orders.follows.is_some();
        matches!(error, ServerError::NotStarted { said, .. } if said.contains(SAYS))
            && follows
            && create::is_standby(&self.spec.pgdata)
    }

    /// Leaves room for a clone. What is put aside is kept until the next time.
    fn put_data_aside(&self) -> Result<(), ServerError> {
        let failed = successor::put_aside(&self.spec.pgdata)?;
        let failed = failed.display().to_string();
        tracing::warn!(server = self.spec.name, failed, "its log cannot be replayed: cloning it anew");
        Ok(())
    }

    /// Puts an in-region reader in its place, if there is one that can take it.
    async fn replace(&mut self) {
        let (role, follows) = {
            let orders = self.orders.borrow();
            (orders.role, orders.follows.is_some())
        };
        let pgdata = &self.spec.pgdata;
        // A former primary may have what nobody else has: it is compared first (LOSS-IS-REPORTED).
        let compared = !follows || !pgdata.exists() || create::is_standby(pgdata);
        let replaced = role == Desired::Primary || role == Desired::Standby && compared;
        if self.readers.is_empty() || !replaced {
            return;
        }
        self.told.phase.send_replace(Phase::Rejoining("an in-region reader takes its place".to_owned()));
        // Without another primary it was one, or still is, whatever it is ordered to be for the moment.
        let was = match (follows, self.orders.borrow().synchronous.is_empty()) {
            (false, _) => Was::Primary,
            (true, false) => Was::SynchronousStandby,
            (true, true) => Was::Standby,
        };
        self.to_replay = None;
        match successor::succeed(&self.spec, &self.readers, was).await {
            Ok(last) => self.to_replay = last.filter(|_| was == Was::Primary),
            Err(error) => tracing::error!(server = self.spec.name, error = chain(&error), "not replaced"),
        }
        self.told.phase.send_replace(Phase::Restarting);
    }

    /// Whether it has accepted connections since the region's process began.
    fn has_run(&self) -> bool {
        // A phase beyond the first start is only told then.
        matches!(*self.told.phase.borrow(), Phase::Restarting | Phase::Running)
    }

    async fn run_once(&mut self) -> Result<Ended, ServerError> {
        let Some(orders) = self.role_to_start().await? else { return Ok(Ended::Told) };
        if orders.role == Desired::Stopped {
            return Ok(self.stay_stopped().await);
        }
        if orders.role == Desired::Standby && orders.follows.is_some() {
            // What it has from now on comes from another primary.
            self.to_replay = None;
        }
        postmaster::stop_leftover(&self.spec.pgdata).await?;
        self.throw_away(&orders)?;
        postmaster::remove_stale_socket_lock(&self.spec.socket())?;
        let reader = self.orders.clone();
        let prepared = tokio::select! {
            prepared = create::prepare(&self.spec, orders.role, &reader, &self.told.phase) => prepared,
            () = told(&mut self.stop) => return Ok(Ended::Told),
            () = other_orders(&mut self.orders, &orders) => return Ok(Ended::Ordered),
        };
        prepared?;
        let starting = if self.has_run() { Phase::Restarting } else { Phase::Starting };
        self.told.phase.send_replace(starting);
        let mut child = postmaster::spawn(&self.spec)?;
        // Told to stop while it starts: the process must not be left behind, so it is stopped here.
        let ready = tokio::select! {
            ready = postmaster::wait_ready(&self.spec, &mut child) => ready,
            () = told(&mut self.stop) => {
                postmaster::stop(&mut child).await;
                return Ok(Ended::Told);
            }
            () = other_orders(&mut self.orders, &orders) => {
                self.kill(&mut child).await;
                return Ok(Ended::Ordered);
            }
        };
        if let Err(error) = ready {
            postmaster::stop(&mut child).await;
            return Err(error);
        }
        let ended = self.while_ready(&mut child).await;
        if !matches!(*self.told.state.borrow(), State::ShutDown(_)) {
            self.told.state.send_replace(State::Down);
        }
        ended
    }

    /// Whether a standby's data are to be made anew and are still there.
    fn is_outdated(&self, orders: &Orders) -> bool {
        orders.role == Desired::Standby && orders.rebuild > *self.told.rebuilt.borrow()
    }

    /// Removes the data of a stopped standby that are to be made anew.
    fn throw_away(&self, orders: &Orders) -> Result<(), ServerError> {
        let pgdata = &self.spec.pgdata;
        // A former primary is compared first: nobody else may have what it has (LOSS-IS-REPORTED).
        if !self.is_outdated(orders) || (pgdata.exists() && !create::is_standby(pgdata)) {
            return Ok(());
        }
        self.told.state.send_replace(State::Down);
        self.told.phase.send_replace(Phase::Preparing);
        if pgdata.exists() {
            tracing::info!(server = self.spec.name, "its data are made anew, as was asked for");
            rejoin::set_aside(&self.spec)?;
        }
        // Last: from here on its region may take over again, with whatever it has by then.
        self.told.rebuilt.send_replace(orders.rebuild);
        Ok(())
    }

    /// Waits for a role. Data of a standby may serve before anybody says so: it never writes by itself.
    async fn role_to_start(&mut self) -> Result<Option<Orders>, ServerError> {
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.role != Desired::Undecided {
                return Ok(Some(orders));
            }
            if create::is_standby(&self.spec.pgdata) {
                return Ok(Some(Orders { role: Desired::Standby, ..orders }));
            }
            tokio::select! {
                () = told(&mut self.stop) => return Ok(None),
                () = changed(&mut self.orders) => {}
            }
        }
    }

    /// Nothing runs; waits for another role.
    async fn stay_stopped(&mut self) -> Ended {
        self.told.phase.send_replace(Phase::Restarting);
        tokio::select! {
            () = told(&mut self.stop) => Ended::Told,
            () = changed(&mut self.orders) => Ended::Ordered,
        }
    }

    /// From when it accepts connections to its end.
    async fn while_ready(&mut self, child: &mut Child) -> Result<Ended, ServerError> {
        let mut state = if create::is_standby(&self.spec.pgdata) {
            State::Standby
        } else {
            State::Primary(promotion(&self.spec.socket_dir).await?)
        };
        self.told.phase.send_replace(Phase::Running);
        let mut in_force = None;
        // The epoch whose primary it is known to follow.
        let mut joined = None;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if state == State::Standby && self.is_outdated(&orders) {
                // It may be in no state to shut down, and its data go anyway.
                self.kill(child).await;
                return Ok(Ended::Ordered);
            }
            let Orders { role, synchronous, .. } = orders;
            let primary = matches!(state, State::Primary(_));
            // A standby has it too, so that it is in force from the moment of its promotion (ZERO-LOSS-WHEN-SYNC).
            if in_force.as_ref() != Some(&synchronous) {
                let goes_on = primary || role != Desired::Primary;
                in_force = self.synchronise(synchronous, goes_on).await?;
            }
            match role {
                Desired::Primary if !primary => {
                    if let Some(end) = self.to_replay {
                        wait_replayed(&self.spec.socket_dir, end).await?;
                    }
                    // When it does not come out of recovery it is asked again with the next start.
                    let promotion = promote(&self.spec.socket_dir).await?;
                    (state, self.to_replay) = (State::Primary(Some(promotion)), None);
                }
                Desired::Standby if primary => {
                    tracing::warn!(server = self.spec.name, "it must not write any more: killing it");
                    self.kill(child).await;
                    return Ok(Ended::Ordered);
                }
                Desired::Stopped => {
                    // From now on it is no primary, whatever becomes of the order to stop.
                    self.told.state.send_replace(State::Down);
                    self.shut_down(child).await;
                    return Ok(Ended::Ordered);
                }
                Desired::Primary | Desired::Standby | Desired::Undecided => {}
            }
            self.told.state.send_replace(state);
            let epoch = self.followed_epoch();
            let follows = state == State::Standby && epoch.is_some();
            let pause = if joined == epoch { LINE_INTERVAL } else { LINE_INTERVAL_FIRST };
            tokio::select! {
                () = tokio::time::sleep(SYNCHRONOUS_PAUSE), if in_force.is_none() => {}
                () = tokio::time::sleep(pause), if follows => {
                    if self.leaves_line(child, &mut joined).await? {
                        return Ok(Ended::Ordered);
                    }
                }
                status = child.wait() => {
                    return Ok(Ended::Died(status.map_or_else(|e| e.to_string(), |s| s.to_string())));
                }
                () = told(&mut self.stop) => {
                    postmaster::stop(child).await;
                    return Ok(Ended::Told);
                }
                () = changed(&mut self.orders) => {}
            }
        }
    }

    fn followed_epoch(&self) -> Option<Epoch> {
        self.orders.borrow().follows.as_ref().map(|followed| followed.epoch)
    }

    /// Whether the standby cannot go on as it is, and was stopped. `joined` is the epoch whose primary it is known to
    /// follow.
    async fn leaves_line(
        &mut self,
        child: &mut Child,
        joined: &mut Option<Epoch>,
    ) -> Result<bool, ServerError> {
        let epoch = self.followed_epoch();
        let known = *joined == epoch;
        // The primary may not answer for long, and orders are more urgent.
        let line = tokio::select! {
            line = rejoin::line(&self.spec, known) => line,
            () = changed(&mut self.orders) => Line::Unknown,
            () = told(&mut self.stop) => Line::Unknown,
            _ = child.wait() => Line::Unknown,
        };
        match line {
            Line::Unknown => return Ok(false),
            Line::Same => {
                *joined = epoch;
                return Ok(false);
            }
            Line::Diverged => {
                tracing::warn!(server = self.spec.name, "it has received what the primary has not");
                postmaster::stop(child).await;
                create::unmark_standby(&self.spec.pgdata)?;
            }
            Line::Mixed => {
                tracing::warn!(server = self.spec.name, "it has followed another line: cloning it anew");
                self.kill(child).await;
                rejoin::set_aside(&self.spec)?;
            }
        }
        Ok(true)
    }

    /// Sets `synchronous_standby_names`. A server that may go on without (`goes_on`) does, and the topology does not say
    /// that the durability is in force: `None`.
    async fn synchronise(&self, names: String, goes_on: bool) -> Result<Option<String>, ServerError> {
        match set_synchronous(&self.spec.socket_dir, &names).await {
            Ok(()) => Ok(Some(names)),
            Err(error) if goes_on => {
                let error = chain(&error);
                tracing::warn!(server = self.spec.name, error, "the durability is not in force yet");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends it as a power cut would: faster than any shutdown, and no commit comes through any more.
    async fn kill(&self, child: &mut Child) {
        postmaster::kill_leftover(&self.spec.pgdata).await;
        // One that has just been started has not written its number yet, and is not found.
        let _ = child.start_kill();
        let _ = child.wait().await;
    }

    /// Shuts it down in order, and tells where its log ends if it did.
    ///
    /// That is as soon as its last checkpoint is written. Its process lives on until every standby has confirmed all of
    /// the log, the farthest and one that hangs too; it is ended when it is to be something else by then.
    async fn shut_down(&mut self, child: &mut Child) {
        tokio::select! {
            () = postmaster::stop(child) => return self.tell_end().await,
            () = has_last_checkpoint(&self.spec.pgdata) => self.tell_end().await,
        }
        // A standby of nobody yet: what it has may still be on its way to the next primary.
        let runs_again = |orders: &Orders| {
            orders.role == Desired::Primary || orders.role == Desired::Standby && orders.follows.is_some()
        };
        let ended = tokio::select! {
            () = postmaster::stop(child) => true,
            Ok(_) = self.orders.wait_for(runs_again) => false,
        };
        if !ended && tokio::time::timeout(LAST_WORDS, postmaster::stop(child)).await.is_err() {
            self.kill(child).await;
        }
        if !matches!(*self.told.state.borrow(), State::ShutDown(_)) {
            self.tell_end().await;
        }
    }

    /// Tells where the log of a server that was shut down ends.
    async fn tell_end(&self) {
        let spec = &self.spec;
        match control_data(&spec.bin, &spec.pgdata).await {
            Ok(data) if data.state == ClusterState::ShutDown => {
                let checkpoint = Position { timeline: data.timeline, lsn: data.checkpoint };
                self.told.state.send_replace(State::ShutDown(checkpoint));
            }
            Ok(data) => {
                tracing::warn!(server = spec.name, state = ?data.state, "it did not shut down in order");
            }
            Err(error) => tracing::warn!(server = spec.name, %error, "where its log ends is not known"),
        }
    }
}

/// Returns when the stop flag is set, or its owner is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|told| *told).await;
}

/// Returns when there are new orders. Orders that nobody can change stay as they are.
async fn changed(orders: &mut watch::Receiver<Orders>) {
    if orders.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns when what is ordered is not to be reached by what was begun for `orders`.
async fn other_orders(orders: &mut watch::Receiver<Orders>, begun: &Orders) {
    let epoch = |orders: &Orders| orders.follows.as_ref().map(|followed| followed.epoch);
    let other = |now: &Orders| {
        let other = now.role != begun.role || epoch(now) != epoch(begun) || now.rebuild != begun.rebuild;
        now.role != Desired::Undecided && other
    };
    if orders.wait_for(other).await.is_err() {
        std::future::pending::<()>().await;
    }
}
