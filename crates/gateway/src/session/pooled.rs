//! Sessions that share their servers: connections come from pools and go back to them.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pangea_pgwire::startup::{CancelKey, Startup};
use pangea_pgwire::{ErrorFields, SqlState};
use pangea_session::{Access, Leg, SharedOptions};
use tokio::time::{Instant, sleep};

use crate::endpoint::Endpoint;
use crate::links::Route;
use crate::pool::{Lease, Pool, PoolClient, PooledServer, Ticket};
use crate::position::PositionWatch;
use crate::shared::Shared;

use super::home::{PRIMARY_TIMEOUT, access};
use super::listening::Listening;
use super::{Event, PRIMARY_PAUSE, Pending, Running};

/// How long the primary serves reads after no server of this region could be had.
const LOCAL_AWAY: Duration = Duration::from_millis(500);

/// A parameter that clients choose as they like: it is no reason to have connections of one's own.
const APPLICATION_NAME: &str = "application_name";

/// What a session that shares its servers has of the pools.
#[derive(Default)]
pub(super) struct Pooled {
    /// The pools that it uses, by server.
    local: Option<PoolClient>,
    primary: Option<PoolClient>,
    local_lease: Option<Lease>,
    primary_lease: Option<Lease>,
    /// Connections that are waited for.
    local_acquiring: Option<Acquiring>,
    primary_acquiring: Option<Acquiring>,
    /// Ends the time in which the primary serves reads.
    away: Option<Pending<()>>,
    pub(super) listening: Option<Box<Listening>>,
}

/// A connection for a session, and whose it is.
pub(super) struct Acquired {
    server: PooledServer,
    /// Another server than before serves the session's reads.
    reader: Option<(Route, Arc<PositionWatch>)>,
}

/// A connection that is waited for.
enum Acquiring {
    /// Of the pool.
    Ticket(Ticket),
    /// After a pause, or of another server.
    Elsewhere(Pending<Result<Acquired, ErrorFields>>),
}

impl Pooled {
    pub(super) fn lease(&mut self, leg: Leg) -> &mut Option<Lease> {
        match leg {
            Leg::Local => &mut self.local_lease,
            Leg::Primary => &mut self.primary_lease,
        }
    }

    fn acquiring(&mut self, leg: Leg) -> &mut Option<Acquiring> {
        match leg {
            Leg::Local => &mut self.local_acquiring,
            Leg::Primary => &mut self.primary_acquiring,
        }
    }

    /// A connection that is gone leaves its place to others.
    pub(super) fn end_lease(&mut self, leg: Leg) {
        let lease = self.lease(leg);
        if lease.is_some() {
            *lease = None;
        }
    }

    /// The primary is another server now.
    pub(super) fn primary_moved(&mut self) {
        (self.primary, self.primary_lease, self.primary_acquiring) = (None, None, None);
    }

    /// Asks for the pool of the primary again when it is needed.
    pub(super) fn forget_primary(&mut self) {
        (self.primary, self.primary_acquiring) = (None, None);
    }

    /// Told when readers may be tried again.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(away) = &mut self.away
            && away.as_mut().poll(cx).is_ready()
        {
            self.away = None;
            return Poll::Ready(Event::LocalBack);
        }
        Poll::Pending
    }
}

/// How a session begins that shares its servers: what the pool of its home server says, and its own key.
pub(super) async fn welcome(
    shared: &Shared,
    route: &Route,
    startup: &Startup,
    application_name: Option<String>,
) -> Result<SharedOptions, ErrorFields> {
    let deadline = Instant::now() + PRIMARY_TIMEOUT;
    let client = shared.pools.client(route, startup);
    let welcome = loop {
        match client.welcome().await {
            Ok(welcome) => break welcome,
            Err(error) if Instant::now() >= deadline || !is_transient(&error) => {
                return Err(ErrorFields { severity: "FATAL", ..error });
            }
            Err(_) => sleep(PRIMARY_PAUSE).await,
        }
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| {
        ErrorFields::fatal(SqlState::INTERNAL_ERROR, format!("cannot get random bytes: {error}"))
    })?;
    let (process, secret) = random.split_at(4);
    // As PostgreSQL's: clients may print it as a signed number.
    let process = u32::from_be_bytes(process.try_into().unwrap_or_default()) >> 1;
    let client_key = CancelKey { process, secret: secret.to_vec() };
    Ok(SharedOptions { welcome, client_key, application_name, parse_numbers: shared.parse_numbers.clone() })
}

/// Takes the application's name out of a start-up message.
pub(super) fn take_application_name(startup: &mut Startup) -> Option<String> {
    let at = startup.parameters.iter().position(|(name, _)| name == APPLICATION_NAME)?;
    Some(startup.parameters.remove(at).1)
}

/// Whether trying again may help.
pub(crate) fn is_transient(error: &ErrorFields) -> bool {
    matches!(error.code.as_str().get(..2), Some("08" | "57"))
}

impl Running {
    /// Gives back what the session does not need, and gets what it needs if that is free; whether it has got
    /// something.
    pub(super) fn share(&mut self) -> bool {
        if self.pooled.is_none() {
            return false;
        }
        if self.session.take_stale_plan()
            && let Some(pooled) = &self.pooled
        {
            pooled.local.iter().chain(&pooled.primary).for_each(PoolClient::renew);
        }
        self.release(Leg::Local);
        self.release(Leg::Primary);
        let mut attached = false;
        if self.session.wants_local() {
            attached |= self.acquire(Leg::Local);
        }
        if self.session.wants_primary() {
            attached |= self.acquire(Leg::Primary);
        }
        attached
    }

    fn release(&mut self, leg: Leg) {
        if self.stream(leg).is_none() {
            return;
        }
        let Some(state) = self.session.release(leg) else { return };
        let stream = self.stream(leg).take();
        let lease = self.pooled.as_mut().and_then(|pooled| pooled.lease(leg).take());
        if let (Some(stream), Some(lease)) = (stream, lease) {
            Pool::put(PooledServer { stream, state, lease });
        }
    }

    /// Gets a connection if one is free, else begins to wait for one.
    fn acquire(&mut self, leg: Leg) -> bool {
        let again = leg == Leg::Primary && self.trouble.is_some();
        let client = self.pool_client(leg);
        let Some(pooled) = &mut self.pooled else { return false };
        if pooled.acquiring(leg).is_some() {
            return false;
        }
        if !again && let Some(server) = client.try_get() {
            self.attach(leg, server);
            return true;
        }
        *pooled.acquiring(leg) = Some(match again {
            false => Acquiring::Ticket(client.ticket()),
            true => Acquiring::Elsewhere(Box::pin(async move {
                sleep(PRIMARY_PAUSE).await;
                Ok(Acquired { server: client.get().await?, reader: None })
            })),
        });
        false
    }

    /// Whether it waits for connections.
    pub(super) fn is_acquiring(&self) -> bool {
        self.pooled.as_ref().is_some_and(|it| it.local_acquiring.is_some() || it.primary_acquiring.is_some())
    }

    /// Gets the connections that were waited for; whether anything came of it.
    #[inline(never)] // One copy, not one for each caller: docs/performance.md.
    pub(super) fn poll_acquiring(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        for leg in [Leg::Local, Leg::Primary] {
            let Some(acquiring) = self.pooled.as_mut().map(|pooled| pooled.acquiring(leg)) else {
                return false;
            };
            let acquired = match acquiring {
                None => continue,
                Some(Acquiring::Elsewhere(acquiring)) => acquiring.as_mut().poll(cx),
                Some(Acquiring::Ticket(ticket)) => {
                    Pin::new(ticket).poll(cx).map(|got| Ok(Acquired { server: got?, reader: None }))
                }
            };
            let Poll::Ready(acquired) = acquired else { continue };
            let of_pool = matches!(acquiring.take(), Some(Acquiring::Ticket(_)));
            moved = true;
            match acquired {
                Err(error) if of_pool && leg == Leg::Local && self.endpoint == Endpoint::Reader => {
                    self.try_other_readers(error);
                }
                acquired => self.acquired(leg, acquired),
            }
        }
        moved
    }

    fn try_other_readers(&mut self, error: ErrorFields) {
        if !is_transient(&error) {
            return self.acquired(Leg::Local, Err(error));
        }
        let (shared, startup) = (self.shared.clone(), self.session.startup(Leg::Local).clone());
        let another = Box::pin(async move { another_reader(&shared, &startup, error).await });
        if let Some(pooled) = &mut self.pooled {
            pooled.local_acquiring = Some(Acquiring::Elsewhere(another));
        }
    }

    fn pool_client(&mut self, leg: Leg) -> PoolClient {
        let (route, startup) = match leg {
            Leg::Local => (&self.local_route, self.session.startup(leg)),
            Leg::Primary => (&self.primary_route, self.session.startup(leg)),
        };
        let known = self.pooled.as_ref().and_then(|pooled| match leg {
            Leg::Local => pooled.local.clone(),
            Leg::Primary => pooled.primary.clone(),
        });
        if let Some(client) = known {
            return client;
        }
        let client = self.shared.pools.client(route, startup);
        if let Some(pooled) = &mut self.pooled {
            match leg {
                Leg::Local => pooled.local = Some(client.clone()),
                Leg::Primary => pooled.primary = Some(client.clone()),
            }
        }
        client
    }

    fn attach(&mut self, leg: Leg, server: PooledServer) {
        let PooledServer { stream, state, lease } = server;
        self.silent.servers[leg as usize] = false;
        match leg {
            Leg::Local => self.local = Some(stream),
            Leg::Primary => {
                self.primary = Some(stream);
                self.trouble = None;
            }
        }
        if let Some(pooled) = &mut self.pooled {
            *pooled.lease(leg) = Some(lease);
        }
        self.session.attach(leg, state);
    }

    /// What was waited for is there, or cannot be had.
    fn acquired(&mut self, leg: Leg, acquired: Result<Acquired, ErrorFields>) {
        let wanted = match leg {
            Leg::Local => self.session.wants_local(),
            Leg::Primary => self.session.wants_primary(),
        };
        match acquired {
            Ok(Acquired { server, .. }) if !wanted => Pool::put(server),
            Ok(Acquired { server, reader }) => {
                if let Some((route, position)) = reader {
                    (self.local_route, self.position) = (route, position);
                    if let Some(pooled) = &mut self.pooled {
                        pooled.local = None;
                    }
                    self.session.set_moved();
                }
                self.attach(leg, server);
            }
            Err(_) if !wanted => {}
            // Waited for until its time is up.
            Err(error) if leg == Leg::Primary && is_transient(&error) => self.trouble = Some(error),
            Err(error) if leg == Leg::Local && self.session.is_split() && is_transient(&error) => {
                self.session.set_local_away(true);
                if let Some(pooled) = &mut self.pooled {
                    pooled.away = Some(Box::pin(sleep(LOCAL_AWAY)));
                }
            }
            Err(error) => self.session.attach_failed(leg, &error),
        }
    }
}

/// A connection to the next reader that takes one; without any, to the region's own server.
async fn another_reader(
    shared: &Shared,
    startup: &Startup,
    mut error: ErrorFields,
) -> Result<Acquired, ErrorFields> {
    let own = (shared.local_route(), shared.position.clone());
    for (route, position) in shared.readers_in_turn().into_iter().chain([own]) {
        match shared.pools.client(&route, startup).get().await {
            Ok(server) => return Ok(Acquired { server, reader: Some((route, position)) }),
            Err(other) => error = other,
        }
    }
    Err(error)
}

/// Which server a session that shares its servers begins with: its route, and how far it is.
pub(super) fn home(shared: &Shared, endpoint: Endpoint) -> (Access, Route, Arc<PositionWatch>) {
    let access = access(shared, endpoint);
    let own = (shared.local_route(), shared.position.clone());
    let (route, position) = match access {
        Access::Local => shared.readers_in_turn().into_iter().next().unwrap_or(own),
        Access::Split | Access::Primary => own,
    };
    (access, route, position)
}
