//! Server connections that sessions share: in transaction pooling a session has one while a transaction runs.
//!
//! A pool is the connections of one user to one database of one server. Sessions that were started with other
//! parameters cannot use each other's connections (what they reset to would differ): each set of parameters is a
//! *profile* of the pool. All profiles share the pool's limit; for a profile that has no connection an idle one of
//! another is closed.
//!
//! Who finds no free connection waits in a queue: first come, first served, with a bound. How many connections there may
//! be in several pools together is the [ledger]'s; who waits because of other pools gets what is idle there.

pub(crate) mod connect;
mod ledger;
mod limits;
mod ticket;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_pgwire::ErrorFields;
use pangea_pgwire::startup::Startup;
use pangea_session::{ServerState, Welcome};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::links::{Route, is_quiet};
use crate::stream::Stream;

use ledger::Ledger;
use limits::{Bounds, Full};

pub(crate) use ticket::Ticket;
use ticket::Wait;

pub use limits::{IdleTimeouts, PoolLimits};

/// Most profiles that a pool remembers.
const PROFILES_MAX: usize = 64;

/// How often waits are looked at that may have been too long. One clock for all: a timer for each would cost every transaction
/// that waits for a connection.
const TICK: Duration = Duration::from_millis(50);

/// Ticks between two looks at what is idle.
const TICKS: u32 = 20;

/// All pools of a gateway.
#[derive(Debug)]
pub(crate) struct Pools {
    ledger: Arc<Ledger>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Arc<PoolLimits>,
    pools: HashMap<PoolKey, Arc<Pool>>,
}

/// Which pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    server: String,
    epoch: Option<Epoch>,
    user: String,
    database: String,
}

/// The connections of one user to one database of one server.
#[derive(Debug)]
pub(crate) struct Pool {
    key: PoolKey,
    /// All of them, this one included.
    pools: Weak<Pools>,
    ledger: Arc<Ledger>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    /// The one used last is the last.
    idle: Vec<Idle>,
    /// Connections that there are, those in use and those being opened included.
    open: usize,
    queue: VecDeque<Waiting>,
    /// The one used last is the last.
    profiles: Vec<Arc<Profile>>,
    /// Connections from before it are closed when they become idle.
    generation: u64,
    /// The time as of the last [`TICK`]. It is close enough for what is compared with it, and no transaction need read the clock.
    clock: Instant,
}

#[derive(Debug)]
struct Idle {
    server: PooledServer,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    profile: Arc<Profile>,
    since: Instant,
    /// Dropped without an answer when the wait has been too long.
    answer: oneshot::Sender<Turn>,
}

/// What the one gets whose turn it is.
#[derive(Debug)]
enum Turn {
    /// A connection.
    Server(PooledServer),
    /// A place for one that is still to be opened.
    Place(Lease),
}

/// How sessions of a pool were started.
#[derive(Debug)]
pub(crate) struct Profile {
    route: Route,
    startup: Startup,
    /// What the server has said to the connection that was opened last.
    welcome: Mutex<Option<Arc<Welcome>>>,
}

impl Profile {
    fn welcome(&self) -> MutexGuard<'_, Option<Arc<Welcome>>> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a pool: while there is one, its connection counts.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    profile: Arc<Profile>,
    generation: u64,
    born: Instant,
    /// Its place has not been given to another.
    counts: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.counts {
            self.pool.closed();
        }
    }
}

/// A connection that nobody uses, or that is being handed over.
#[derive(Debug)]
pub(crate) struct PooledServer {
    pub(crate) stream: Stream,
    pub(crate) state: Box<ServerState>,
    pub(crate) lease: Lease,
}

/// A pool as one set of start-up parameters sees it.
#[derive(Debug, Clone)]
pub(crate) struct PoolClient {
    pool: Arc<Pool>,
    profile: Arc<Profile>,
}

/// A connection that nobody uses.
#[derive(Debug, Clone)]
pub(crate) struct IdleServer {
    pub(crate) user: String,
    pub(crate) database: String,
    /// The region that it leads to, if that is another.
    pub(crate) region: Option<RegionId>,
    pub(crate) process: Option<u32>,
    /// Since it was opened.
    pub(crate) age: Duration,
    /// Since it was used.
    pub(crate) rest: Duration,
}

impl Pools {
    pub(crate) fn new(limits: PoolLimits) -> Self {
        let ledger = Arc::<Ledger>::default();
        ledger.set_limits(limits.database_max, limits.user_max);
        let state = State { limits: Arc::new(limits), pools: HashMap::new() };
        Self { ledger, state: Mutex::new(state) }
    }

    pub(crate) fn limits(&self) -> Arc<PoolLimits> {
        self.lock().limits.clone()
    }

    /// From now on these count. When there may be fewer connections than before, all are replaced as they come back.
    pub(crate) fn set_limits(&self, limits: PoolLimits) {
        let limits = Arc::new(limits);
        let before = std::mem::replace(&mut self.lock().limits, limits.clone());
        self.ledger.set_limits(limits.database_max, limits.user_max);
        for pool in self.all() {
            pool.lock().bounds = limits.of(&pool.key.user);
        }
        if limits.are_below(&before) {
            self.renew();
        }
        for pool in self.all() {
            pool.grant();
        }
        self.relieve();
    }

    /// The pool that serves sessions with this start-up message.
    pub(crate) fn client(self: &Arc<Self>, route: &Route, startup: &Startup) -> PoolClient {
        let (server, epoch) = match route {
            Route::Local(dir) => (dir.display().to_string(), None),
            Route::Link(link, epoch) => (link.region.to_string(), Some(*epoch)),
            Route::Unlinked(region) => (region.to_string(), None),
        };
        let (user, database) = (startup.user().to_owned(), startup.database().to_owned());
        let key = PoolKey { server, epoch, user, database };
        let (mut state, pools) = (self.lock(), Arc::downgrade(self));
        let State { limits, pools: known } = &mut *state;
        let make = |key: &PoolKey| {
            let inner = Mutex::new(Inner::new(limits.of(&key.user)));
            Arc::new(Pool { key: key.clone(), pools, ledger: self.ledger.clone(), inner })
        };
        let pool = known.entry(key).or_insert_with_key(make).clone();
        drop(state);
        let profile = pool.profile(route, startup);
        PoolClient { pool, profile }
    }

    /// Ends waits that have been too long, and closes what has been idle for too long, and pools that nobody uses; for ever.
    pub(crate) async fn tend(self: Arc<Self>) {
        loop {
            for _ in 0..TICKS {
                tokio::time::sleep(TICK).await;
                self.all().iter().for_each(|pool| pool.refuse_late());
            }
            for pool in self.all() {
                pool.close_expired();
            }
            self.relieve();
            self.lock().pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.lock().open > 0);
        }
    }

    /// Closes all connections as soon as they are idle: the servers are other ones now, or act otherwise.
    pub(crate) fn renew(&self) {
        self.all().iter().for_each(|pool| pool.renew());
    }

    /// The same for one server: another region's.
    pub(crate) fn renew_region(&self, region: &RegionId) {
        let there = |pool: &&Arc<Pool>| pool.key.server == region.as_str();
        self.all().iter().filter(there).for_each(|pool| pool.renew());
    }

    /// The same for a database; for all of them when none is named.
    pub(crate) fn renew_database(&self, database: Option<&str>) {
        let of_it = |pool: &&Arc<Pool>| database.is_none_or(|name| pool.key.database == name);
        self.all().iter().filter(of_it).for_each(|pool| pool.renew());
    }

    /// The connections that nobody uses.
    pub(crate) fn idle(&self) -> Vec<IdleServer> {
        self.all().iter().flat_map(|pool| pool.idle()).collect()
    }

    /// Has those who wait because of other pools' connections get what there is, closing what is idle for it.
    fn relieve(&self) {
        if !self.ledger.is_starving() {
            return;
        }
        for key in self.ledger.starved() {
            let pool = self.lock().pools.get(&key).cloned();
            match pool {
                Some(pool) => while pool.grant().is_some_and(|full| self.evict(&key, full)) {},
                // Who waited there has given up.
                None => self.ledger.satisfy(&key),
            }
        }
    }

    /// Closes the connection that is idle for longest of those that are in a pool's way; whether there was one.
    fn evict(&self, key: &PoolKey, full: Full) -> bool {
        let pools = self.all();
        let in_its_way = pools.iter().filter(|pool| full.concerns(key, &pool.key));
        let idle = in_its_way.filter_map(|pool| Some((pool.lock().idle.first()?.since, pool)));
        idle.min_by_key(|(since, _)| *since).is_some_and(|(_, pool)| pool.evict())
    }

    /// They are locked one by one: a connection that is closed locks its pool, and may lead to others.
    fn all(&self) -> Vec<Arc<Pool>> {
        self.lock().pools.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn new(bounds: Bounds) -> Self {
        let (idle, queue, profiles) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { bounds, idle, open: 0, queue, profiles, generation: 0, clock: Instant::now() }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self, route: &Route, startup: &Startup) -> Arc<Profile> {
        let mut inner = self.lock();
        let is_it = |profile: &Arc<Profile>| profile.startup == *startup && profile.route.is_same(route);
        let known = inner.profiles.iter().position(is_it);
        let profile = match known {
            Some(at) => inner.profiles.remove(at),
            None => {
                let (route, startup) = (route.clone(), startup.clone());
                Arc::new(Profile { route, startup, welcome: Mutex::default() })
            }
        };
        // One that is forgotten is made again by the next session, which asks a server what this one knows.
        if inner.profiles.len() >= PROFILES_MAX {
            inner.profiles.remove(0);
        }
        inner.profiles.push(profile.clone());
        profile
    }

    /// Those who have waited for too long are told; the first has waited for longest.
    fn refuse_late(&self) {
        let mut inner = self.lock();
        let (now, longest) = (Instant::now(), inner.bounds.wait_timeout);
        inner.clock = now;
        while inner
            .queue
            .pop_front_if(|first| now.saturating_duration_since(first.since) >= longest)
            .is_some()
        {}
    }

    fn close_expired(&self) {
        let mut inner = self.lock();
        let Bounds { idle_timeout, lifetime, .. } = inner.bounds;
        let (kept, expired) = std::mem::take(&mut inner.idle).into_iter().partition(|idle: &Idle| {
            idle.since.elapsed() < idle_timeout && idle.server.lease.born.elapsed() < lifetime
        });
        inner.idle = kept;
        drop(inner);
        // They lock the pool when they are dropped.
        drop::<Vec<Idle>>(expired);
    }

    fn renew(&self) {
        let mut inner = self.lock();
        inner.generation += 1;
        for profile in &inner.profiles {
            *profile.welcome() = None;
        }
        let closed = std::mem::take(&mut inner.idle);
        drop(inner);
        drop(closed);
    }

    fn idle(&self) -> Vec<IdleServer> {
        let inner = self.lock();
        let one = |Idle { server, since }: &Idle| IdleServer {
            user: self.key.user.clone(),
            database: self.key.database.clone(),
            region: match &server.lease.profile.route {
                Route::Link(link, _) => Some(link.region.clone()),
                Route::Local(_) | Route::Unlinked(_) => None,
            },
            process: server.state.key().map(|key| key.process),
            age: server.lease.born.elapsed(),
            rest: since.elapsed(),
        };
        inner.idle.iter().map(one).collect()
    }

    /// A connection is gone: who waits may open another. Those who wait because of other pools come first.
    fn closed(self: &Arc<Self>) {
        self.give_up_place(&mut self.lock());
        self.relieve();
        if self.grant().is_some() {
            self.relieve();
        }
    }

    /// Has those get what they wait for who wait because of other pools.
    fn relieve(&self) {
        if self.ledger.is_starving()
            && let Some(pools) = self.pools.upgrade()
        {
            pools.relieve();
        }
    }

    /// Gives places to those who wait, as long as there are any. Tells the limit over several pools that keeps somebody
    /// waiting.
    fn grant(self: &Arc<Self>) -> Option<Full> {
        let mut inner = self.lock();
        loop {
            while inner.queue.pop_front_if(|first| first.answer.is_closed()).is_some() {}
            if inner.queue.is_empty() || inner.open >= inner.bounds.size {
                if self.ledger.is_starving() {
                    self.ledger.satisfy(&self.key);
                }
                return None;
            }
            if let Err(full) = self.ledger.open(Instant::now(), &self.key, inner.open) {
                return Some(full);
            }
            let first = inner.queue.pop_front()?;
            let lease = self.place(&mut inner, first.profile);
            // It may have given up: its place goes to the next.
            if let Err(Turn::Place(mut lease)) = first.answer.send(Turn::Place(lease)) {
                lease.counts = false;
                self.give_up_place(&mut inner);
            }
        }
    }

    /// A place is free again, here and in the ledger.
    fn give_up_place(&self, inner: &mut Inner) {
        inner.open -= 1;
        self.ledger.close(&self.key);
    }

    /// Closes the connection that is idle for longest; whether there was one.
    fn evict(&self) -> bool {
        let mut inner = self.lock();
        if inner.idle.is_empty() {
            return false;
        }
        let Idle { mut server, .. } = inner.idle.remove(0);
        self.give_up_place(&mut inner);
        drop(inner);
        server.lease.counts = false;
        true
    }

    /// Notes a connection that the ledger counts.
    fn place(self: &Arc<Self>, inner: &mut Inner, profile: Arc<Profile>) -> Lease {
        inner.open += 1;
        Lease {
            pool: self.clone(),
            profile,
            generation: inner.generation,
            born: Instant::now(),
            counts: true,
        }
    }

    /// Takes back a connection that is as its state says.
    pub(crate) fn put(mut server: PooledServer) {
        let pool = server.lease.pool.clone();
        let mut inner = pool.lock();
        let expired = inner.clock.saturating_duration_since(server.lease.born) >= inner.bounds.lifetime;
        let yields = || pool.ledger.is_starving() && pool.ledger.yields(Instant::now(), &pool.key);
        if server.lease.generation != inner.generation || expired || yields() {
            drop(inner);
            return drop(server);
        }
        while let Some(first) = inner.queue.pop_front() {
            if !Arc::ptr_eq(&first.profile, &server.lease.profile) {
                if first.answer.is_closed() {
                    continue;
                }
                // Its place goes to the one whose turn it is.
                inner.queue.push_front(first);
                drop(inner);
                return drop(server);
            }
            match first.answer.send(Turn::Server(server)) {
                Ok(()) => return,
                Err(Turn::Server(back)) => server = back,
                Err(Turn::Place(_)) => return,
            }
        }
        let since = inner.clock;
        inner.idle.push(Idle { server, since });
        drop(inner);
        if pool.ledger.is_starving() && pool.ledger.is_wanted(&pool.key) {
            pool.relieve();
        }
    }
}

impl PoolClient {
    /// Replaces the connections of the pool.
    pub(crate) fn renew(&self) {
        self.pool.renew();
    }

    /// What new sessions are told; a server is asked when none has been.
    pub(crate) async fn welcome(&self) -> Result<Arc<Welcome>, ErrorFields> {
        loop {
            if let Some(welcome) = self.profile.welcome().clone() {
                return Ok(welcome);
            }
            // One that is opened tells. A free one has told what was forgotten since: it is as old as that.
            match self.get().await? {
                server if self.profile.welcome().is_some() => Pool::put(server),
                server => drop(server),
            }
        }
    }

    /// A connection that is free now, if there is one.
    pub(crate) fn try_get(&self) -> Option<PooledServer> {
        loop {
            let mut inner = self.pool.lock();
            // Who waits comes first.
            if !inner.queue.is_empty() {
                return None;
            }
            let suits = |idle: &Idle| Arc::ptr_eq(&idle.server.lease.profile, &self.profile);
            let at = inner.idle.iter().rposition(suits)?;
            let mut server = inner.idle.remove(at).server;
            drop(inner);
            if is_quiet(&mut server.stream) {
                return Some(server);
            }
        }
    }

    /// A connection: a free one, or one that is opened, or the next that becomes free.
    pub(crate) async fn get(&self) -> Result<PooledServer, ErrorFields> {
        match self.try_get() {
            Some(server) => Ok(server),
            None => self.ticket().await,
        }
    }

    /// The same where none is free.
    pub(crate) fn ticket(&self) -> Ticket {
        let wait = match self.queue() {
            Ok(lease) => Wait::opening(&self.profile, lease),
            Err(turn) => Wait::Turn(turn),
        };
        Ticket { client: self.clone(), wait }
    }

    /// A place for a new connection, or one in the queue.
    fn queue(&self) -> Result<Lease, oneshot::Receiver<Turn>> {
        let mut inner = self.pool.lock();
        let (mut evicted, mut has_place, mut is_starved) = (None, false, false);
        if inner.queue.is_empty() && inner.open < inner.bounds.size {
            has_place = self.pool.ledger.open(Instant::now(), &self.pool.key, inner.open).is_ok();
            is_starved = !has_place;
        } else if inner.queue.is_empty() && !inner.idle.is_empty() {
            // Of another profile; the place changes hands.
            evicted = Some(inner.idle.remove(0));
            inner.open -= 1;
            has_place = true;
        }
        let outcome = if has_place {
            Ok(self.pool.place(&mut inner, self.profile.clone()))
        } else {
            let (answer, turn) = oneshot::channel();
            // Of those who wait, none is told too early.
            let (profile, since) = (self.profile.clone(), inner.clock + TICK);
            inner.queue.push_back(Waiting { profile, since, answer });
            Err(turn)
        };
        drop(inner);
        if let Some(Idle { mut server, .. }) = evicted {
            server.lease.counts = false;
        }
        if is_starved {
            self.pool.relieve();
        }
        outcome
    }

    /// The error of one who has waited for too long.
    fn waited(&self) -> ErrorFields {
        let (size, longest, open) = {
            let inner = self.pool.lock();
            (inner.bounds.size, inner.bounds.wait_timeout, inner.open)
        };
        let others = self.pool.ledger.full(&self.pool.key).filter(|_| open < size);
        others.unwrap_or(Full::Pool(size)).error(&self.pool.key, longest)
    }
}
