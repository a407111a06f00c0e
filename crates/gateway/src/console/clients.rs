//! The clients of a gateway: who they are, what they are doing, which of them are paused.
//!
//! The list is locked when a client comes or goes and when somebody looks. What changes while a client is served is in
//! atomics that only its session writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pangea_session::{Activity, Leg};
use tokio::sync::{Notify, mpsc};

use super::idle::{self, Overstay, Rest};
use super::stats::{Counter, Counters, Counts, Rates, SAMPLE_INTERVAL, Samples, Totals};
use crate::endpoint::Endpoint;
use crate::pool::IdleTimeouts;

/// Databases that have no client now and whose counts are kept.
const DATABASES_MAX: usize = 4096;

/// Who a client is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) application: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) kind: ClientKind,
    pub(crate) address: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
}

/// What a client's connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientKind {
    /// Ordinary SQL.
    Session,
    /// Replication: bytes to and from one server, which are not looked into.
    Replication,
    /// The console.
    Console,
}

/// Whether a session has a connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    No,
    /// It is being opened.
    Opening,
    Open,
}

/// A session's connection to one of its two servers.
#[derive(Debug, Default)]
struct Server {
    linked: AtomicU8,
    /// 0 while it is not known: no process has that number.
    process: AtomicU32,
}

/// A client. Its session writes, others read.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    pub(crate) connected_at: SystemTime,
    connected: Instant,
    activity: AtomicU8,
    /// Microseconds from `connected` to the beginning of the last request, or of the last wait.
    requested: AtomicU64,
    waits_since: AtomicU64,
    /// Since when nothing has been asked for: a [`Rest`] as a number.
    rest: AtomicU64,
    servers: [Server; 2],
    pub(crate) counters: Counters,
    /// The session is at rest and stays so until its database is resumed.
    held: AtomicBool,
    killed: AtomicBool,
    /// Grows with each RECONNECT.
    reconnects: AtomicU64,
    nudges: mpsc::Sender<()>,
}

impl Client {
    /// Microseconds since it connected.
    pub(crate) fn now(&self) -> u64 {
        self.micros(Instant::now())
    }

    fn micros(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.connected);
        // Without the 128 bits of `as_micros`: 64 are enough for half a million years.
        since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
    }

    pub(crate) fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Active,
            _ => Activity::Waiting,
        }
    }

    /// `now` is when it begins to wait, by [`Self::now`].
    pub(crate) fn set_activity(&self, activity: Activity, now: u64) {
        if activity == Activity::Waiting {
            self.waits_since.store(now, Ordering::Relaxed);
        }
        let number = match activity {
            Activity::Idle => 0,
            Activity::Active => 1,
            Activity::Waiting => 2,
        };
        self.activity.store(number, Ordering::Relaxed);
    }

    /// It has asked for something at this moment of [`Self::now`].
    pub(crate) fn requested(&self, now: u64) {
        self.requested.store(now, Ordering::Relaxed);
    }

    /// Nothing is asked for since the last answer, or something is.
    pub(crate) fn set_rest(&self, rest: Option<Rest>) {
        let packed = rest.map_or(0, |rest| idle::pack(rest.since, rest.in_transaction));
        self.rest.store(packed, Ordering::Relaxed);
    }

    /// Whether it has asked for nothing for longer than it may.
    fn overstays(&self, timeouts: IdleTimeouts, now: Instant) -> Option<Overstay> {
        idle::overstays(self.rest.load(Ordering::Relaxed), self.micros(now), timeouts)
    }

    /// When the last request began.
    pub(crate) fn requested_at(&self) -> SystemTime {
        self.connected_at + Duration::from_micros(self.requested.load(Ordering::Relaxed))
    }

    /// How long it has been waiting.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        let since = Duration::from_micros(self.waits_since.load(Ordering::Relaxed));
        (self.activity() == Activity::Waiting).then(|| self.connected.elapsed().saturating_sub(since))
    }

    pub(crate) fn set_server(&self, leg: Leg, linked: Linked, process: Option<u32>) {
        let server = &self.servers[index(leg)];
        server.linked.store(linked as u8, Ordering::Relaxed);
        server.process.store(process.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether it has a connection to this server, and to which process of it.
    pub(crate) fn server(&self, leg: Leg) -> (Linked, Option<u32>) {
        let server = &self.servers[index(leg)];
        let linked = match server.linked.load(Ordering::Relaxed) {
            0 => Linked::No,
            1 => Linked::Opening,
            _ => Linked::Open,
        };
        (linked, Some(server.process.load(Ordering::Relaxed)).filter(|process| *process != 0))
    }

    /// The session is at rest and begins nothing until it has asked [`Registered::is_paused`] and was told no.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Acquire)
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.nudge();
    }

    /// What it is asked to do is told by its atomics and the pauses: one nudge is as good as many.
    fn nudge(&self) {
        let _ = self.nudges.try_send(());
    }

    fn is_of(&self, database: Option<&str>) -> bool {
        self.identity.kind != ClientKind::Console
            && database.is_none_or(|database| self.identity.database == database)
    }
}

fn index(leg: Leg) -> usize {
    match leg {
        Leg::Local => 0,
        Leg::Primary => 1,
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    state: Mutex<State>,
    next_id: AtomicU64,
    /// Told when a session has come to rest, or has ended.
    settled: Notify,
}

#[derive(Debug)]
struct State {
    clients: BTreeMap<u64, Arc<Client>>,
    /// What sessions that have ended have counted.
    past: Totals,
    samples: Samples,
    pauses: Pauses,
    idle_timeouts: IdleTimeouts,
}

/// What is paused.
#[derive(Debug, Default)]
struct Pauses {
    all: bool,
    databases: BTreeSet<String>,
}

impl Pauses {
    fn cover(&self, database: &str) -> bool {
        self.all || self.databases.contains(database)
    }
}

impl State {
    fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        for client in self.sessions() {
            totals.entry(client.identity.database.clone()).or_default().add(&client.counters.read());
        }
        totals
    }

    fn sessions(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.values().filter(|client| client.is_of(None))
    }

    fn nudge(&self, database: Option<&str>) {
        self.sessions().filter(|client| client.is_of(database)).for_each(|client| client.nudge());
    }
}

impl Default for Clients {
    fn default() -> Self {
        let (clients, past, pauses) = (BTreeMap::new(), Totals::new(), Pauses::default());
        let (samples, idle_timeouts) = (Samples::new(Instant::now()), IdleTimeouts::default());
        let state = State { clients, past, samples, pauses, idle_timeouts };
        Self { state: Mutex::new(state), next_id: AtomicU64::new(1), settled: Notify::new() }
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a client, until what is returned is dropped.
    pub(crate) fn register(self: &Arc<Self>, identity: Identity) -> Registered {
        // One nudge that has not been looked at tells as much as many.
        let (sender, nudges) = mpsc::channel(1);
        let client = Arc::new(Client {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            identity,
            connected_at: SystemTime::now(),
            connected: Instant::now(),
            activity: AtomicU8::new(0),
            requested: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            rest: AtomicU64::new(0),
            servers: Default::default(),
            counters: Counters::default(),
            held: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            nudges: sender,
        });
        self.lock().clients.insert(client.id, client.clone());
        Registered { clients: self.clone(), client, nudges }
    }

    /// Every client, in the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        self.lock().clients.values().cloned().collect()
    }

    /// What was counted for each database, and lately.
    pub(crate) fn stats(&self) -> Vec<(String, Counts, Rates)> {
        let (state, now) = (self.lock(), Instant::now());
        let totals = state.totals().into_iter();
        totals
            .map(|(database, total)| {
                let rates = state.samples.rates(now, &database, &total);
                (database, total, rates)
            })
            .collect()
    }

    /// Databases that clients have used or that are paused, and whether they are.
    pub(crate) fn databases(&self) -> BTreeMap<String, bool> {
        let state = self.lock();
        let names = state.totals().into_keys().chain(state.pauses.databases.iter().cloned());
        names.map(|name| (name.clone(), state.pauses.cover(&name))).collect()
    }

    /// Whether a database is paused.
    pub(crate) fn is_paused(&self, database: &str) -> bool {
        self.lock().pauses.cover(database)
    }

    /// Lets nothing begin any more. [`Self::settled`] tells when nothing is under way.
    pub(crate) fn pause(&self, database: Option<&str>) {
        let mut state = self.lock();
        match database {
            None => state.pauses.all = true,
            Some(database) => drop(state.pauses.databases.insert(database.to_owned())),
        }
        state.nudge(database);
    }

    /// Ends pauses; of all databases when none is named. Whether there was one to end.
    pub(crate) fn resume(&self, database: Option<&str>) -> bool {
        let mut state = self.lock();
        let paused = match database {
            None => {
                let pauses = std::mem::take(&mut state.pauses);
                pauses.all || !pauses.databases.is_empty()
            }
            Some(database) => state.pauses.databases.remove(database),
        };
        state.nudge(database);
        paused
    }

    /// Whether all databases are paused at once, which a RESUME of one does not end.
    pub(crate) fn all_paused(&self) -> bool {
        self.lock().pauses.all
    }

    /// Returns when every session of a paused database, or of all, is at rest.
    pub(crate) async fn settled(&self, database: Option<&str>) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Before looking: what happens in between is not missed.
            settled.as_mut().enable();
            let rests = |client: &Arc<Client>| {
                client.identity.kind == ClientKind::Replication || client.held.load(Ordering::Acquire)
            };
            if self.lock().sessions().filter(|client| client.is_of(database)).all(rests) {
                return;
            }
            settled.await;
        }
    }

    /// Ends the sessions of a database.
    pub(crate) fn kill_database(&self, database: &str) {
        let state = self.lock();
        state.sessions().filter(|client| client.is_of(Some(database))).for_each(|client| client.kill());
    }

    /// Ends a session; whether there is one of that number.
    pub(crate) fn kill_client(&self, id: u64) -> bool {
        let client = self.lock().clients.get(&id).cloned();
        if let Some(client) = &client {
            client.kill();
        }
        client.is_some()
    }

    /// Has sessions replace their connections to servers.
    pub(crate) fn reconnect(&self, database: Option<&str>) {
        let state = self.lock();
        for client in state.sessions().filter(|client| client.is_of(database)) {
            client.reconnects.fetch_add(1, Ordering::AcqRel);
            client.nudge();
        }
    }

    /// From now on clients may be idle for this long.
    pub(crate) fn set_idle_timeouts(&self, timeouts: IdleTimeouts) {
        self.lock().idle_timeouts = timeouts;
    }

    /// Nudges sessions whose clients have been idle for too long, for ever. Rejected: a timer for each session, which
    /// would be set anew with each message.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(idle::SWEEP_INTERVAL).await;
            self.nudge_idle(Instant::now());
        }
    }

    fn nudge_idle(&self, now: Instant) {
        let state = self.lock();
        let timeouts = state.idle_timeouts;
        if timeouts != IdleTimeouts::default() {
            let idle = state.sessions().filter(|client| client.overstays(timeouts, now).is_some());
            idle.for_each(|client| client.nudge());
        }
    }

    /// Takes samples of the counters, for ever.
    pub(crate) async fn sample(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            let mut state = self.lock();
            let totals = state.totals();
            state.samples.take(Instant::now(), totals);
        }
    }
}

/// A client in the list.
#[derive(Debug)]
pub(crate) struct Registered {
    clients: Arc<Clients>,
    pub(crate) client: Arc<Client>,
    pub(crate) nudges: mpsc::Receiver<()>,
}

impl Registered {
    /// Whether nothing may begin. With a no, what [`Client::hold`] said ends: the lock keeps a PAUSE from believing it
    /// once more.
    pub(crate) fn is_paused(&self) -> bool {
        let state = self.clients.lock();
        let paused = state.pauses.cover(&self.client.identity.database);
        if !paused {
            self.client.held.store(false, Ordering::Release);
        }
        paused
    }

    /// Whether the client has asked for nothing for longer than it may.
    pub(crate) fn overstays(&self) -> Option<Overstay> {
        let timeouts = self.clients.lock().idle_timeouts;
        self.client.overstays(timeouts, Instant::now())
    }

    /// Returns when a client that replicates is to end: what it does is not looked into.
    pub(crate) async fn replicates(&mut self) {
        self.client.set_activity(Activity::Active, 0);
        while !self.client.is_killed() {
            self.nudges.recv().await;
        }
    }

    /// [`Client::hold`], and whoever waits for it is told.
    pub(crate) fn hold(&self) {
        self.client.hold();
        self.clients.settled.notify_waiters();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.clients.lock();
        state.clients.remove(&self.client.id);
        let (counts, identity) = (self.client.counters.read(), &self.client.identity);
        let known = state.past.contains_key(&identity.database);
        // Clients may name databases that there are not: nothing was done in those.
        if self.client.is_of(None)
            && counts.get(Counter::Queries) > 0
            && (known || state.past.len() < DATABASES_MAX)
        {
            state.past.entry(identity.database.clone()).or_default().add(&counts);
        }
        drop(state);
        self.clients.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
