//! Server connections that sessions share: in transaction pooling a session has one while a transaction runs.
//!
//! A pool is the connections of one user to one database of one server. Sessions that were started with other
//! parameters cannot use each other's connections (what they reset to would differ): each set of parameters is a
//! *profile* of the pool. All profiles share the pool's limit; for a profile that has no connection an idle one of
//! another is closed.
//!
//! Who finds no free connection waits in a queue: first come, first served, with a bound.

mod connect;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pangea_base::{Epoch, RegionId};
use pangea_pgwire::startup::Startup;
use pangea_pgwire::{ErrorFields, SqlState};
use pangea_session::{ServerState, Welcome};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::links::{Route, is_quiet};
use crate::stream::Stream;

/// Most profiles that a pool remembers.
const PROFILES_MAX: usize = 64;

/// Limits of the pools.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// Most connections of one user to one database of one server.
    pub size: usize,
    /// Longest wait for one of them.
    pub wait_timeout: Duration,
    /// An idle connection is closed after this time.
    pub idle_timeout: Duration,
    /// A connection that is older is closed when it becomes idle.
    pub lifetime: Duration,
}

/// All pools of a gateway.
#[derive(Debug)]
pub(crate) struct Pools {
    limits: PoolLimits,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
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
    limits: PoolLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The one used last is the last.
    idle: Vec<Idle>,
    /// Connections that there are, those in use and those being opened included.
    open: usize,
    queue: VecDeque<Waiting>,
    /// The one used last is the last.
    profiles: Vec<Arc<Profile>>,
    /// Connections from before it are closed when they become idle.
    generation: u64,
}

#[derive(Debug)]
struct Idle {
    server: PooledServer,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    profile: Arc<Profile>,
    answer: oneshot::Sender<Turn>,
}

/// What the one gets whose turn it is.
#[derive(Debug)]
enum Turn {
    /// A connection.
    Server(Box<PooledServer>),
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
    pub(crate) state: ServerState,
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
        Self { limits, pools: Mutex::default() }
    }

    /// The pool that serves sessions with this start-up message.
    pub(crate) fn client(&self, route: &Route, startup: &Startup) -> PoolClient {
        let (server, epoch) = match route {
            Route::Local(dir) => (dir.display().to_string(), None),
            Route::Link(link, epoch) => (link.region.to_string(), Some(*epoch)),
            Route::Unlinked(region) => (region.to_string(), None),
        };
        let (user, database) = (startup.user().to_owned(), startup.database().to_owned());
        let key = PoolKey { server, epoch, user, database };
        let make = |key: &PoolKey| {
            Arc::new(Pool { key: key.clone(), limits: self.limits.clone(), inner: Mutex::default() })
        };
        let pool = self.lock().entry(key).or_insert_with_key(make).clone();
        let profile = pool.profile(route, startup);
        PoolClient { pool, profile }
    }

    /// Closes what has been idle for too long, and pools that nobody uses; for ever.
    pub(crate) async fn tend(self: Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(1);
        loop {
            tokio::time::sleep(PAUSE).await;
            let pools: Vec<_> = self.lock().values().cloned().collect();
            for pool in &pools {
                pool.close_expired();
            }
            drop(pools);
            self.lock().retain(|_, pool| Arc::strong_count(pool) > 1 || pool.lock().open > 0);
        }
    }

    /// Closes all connections as soon as they are idle: the servers are other ones now, or act otherwise.
    pub(crate) fn renew(&self) {
        for pool in self.lock().values() {
            pool.renew();
        }
    }

    /// The same for one server: another region's.
    pub(crate) fn renew_region(&self, region: &RegionId) {
        for pool in self.lock().values().filter(|pool| pool.key.server == region.as_str()) {
            pool.renew();
        }
    }

    /// The same for a database; for all of them when none is named.
    pub(crate) fn renew_database(&self, database: Option<&str>) {
        for pool in self.lock().values().filter(|pool| database.is_none_or(|name| pool.key.database == name))
        {
            pool.renew();
        }
    }

    /// The connections that nobody uses.
    pub(crate) fn idle(&self) -> Vec<IdleServer> {
        let pools: Vec<_> = self.lock().values().cloned().collect();
        pools.iter().flat_map(|pool| pool.idle()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn close_expired(&self) {
        let mut inner = self.lock();
        let (idle_timeout, lifetime) = (self.limits.idle_timeout, self.limits.lifetime);
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

    /// A connection is gone: who waits may open another.
    fn closed(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.open -= 1;
        while let Some(first) = inner.queue.pop_front() {
            let lease = self.place(&mut inner, first.profile);
            match first.answer.send(Turn::Place(lease)) {
                Ok(()) => return,
                // It has given up: its place goes to the next.
                Err(Turn::Place(mut lease)) => {
                    inner.open -= 1;
                    lease.counts = false;
                }
                Err(Turn::Server(_)) => return,
            }
        }
    }

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
    pub(crate) fn put(server: PooledServer) {
        let pool = server.lease.pool.clone();
        let mut inner = pool.lock();
        let expired = server.lease.born.elapsed() >= pool.limits.lifetime;
        if server.lease.generation != inner.generation || expired {
            drop(inner);
            return drop(server);
        }
        let mut server = Box::new(server);
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
        inner.idle.push(Idle { server: *server, since: Instant::now() });
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
        if let Some(server) = self.try_get() {
            return Ok(server);
        }
        let lease = match self.queue() {
            Ok(lease) => lease,
            Err(turn) => {
                let longest = self.pool.limits.wait_timeout;
                match timeout(longest, turn).await {
                    Ok(Ok(Turn::Server(mut server))) => {
                        if is_quiet(&mut server.stream) {
                            return Ok(*server);
                        }
                        server.lease
                    }
                    Ok(Ok(Turn::Place(lease))) => lease,
                    Ok(Err(_)) | Err(_) => return Err(self.full()),
                }
            }
        };
        let profile = self.profile.clone();
        let (stream, state, welcome) = connect::open(&profile.route, &profile.startup).await?;
        *profile.welcome() = Some(Arc::new(welcome));
        Ok(PooledServer { stream, state, lease })
    }

    /// A place for a new connection, or one in the queue.
    fn queue(&self) -> Result<Lease, oneshot::Receiver<Turn>> {
        let mut inner = self.pool.lock();
        let mut evicted = None;
        if inner.queue.is_empty() && inner.open >= self.pool.limits.size && !inner.idle.is_empty() {
            // Of another profile; the place changes hands.
            evicted = Some(inner.idle.remove(0));
            inner.open -= 1;
        }
        let has_place = inner.queue.is_empty() && inner.open < self.pool.limits.size;
        let outcome = if has_place {
            Ok(self.pool.place(&mut inner, self.profile.clone()))
        } else {
            let (answer, turn) = oneshot::channel();
            inner.queue.push_back(Waiting { profile: self.profile.clone(), answer });
            Err(turn)
        };
        drop(inner);
        if let Some(Idle { mut server, .. }) = evicted {
            server.lease.counts = false;
        }
        outcome
    }

    fn full(&self) -> ErrorFields {
        let PoolKey { user, database, .. } = &self.pool.key;
        let PoolLimits { size, wait_timeout, .. } = &self.pool.limits;
        let text = format!("no server connection became free within {} s", wait_timeout.as_secs_f32());
        ErrorFields::error(SqlState::TOO_MANY_CONNECTIONS, text)
            .with_detail(format!(
                "All {size} connections of user \"{user}\" to database \"{database}\" are in use. Nothing was executed."
            ))
            .with_hint(
                "Make transactions shorter, or raise pool.default_pool_size; SHOW POOLS on database \"pangea\" \
                 tells who waits.",
            )
    }
}
