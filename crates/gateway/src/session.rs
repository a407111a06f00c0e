//! A client's session: it brings what the client says to the servers that the session machine chooses.
//!
//! All decisions are [`pangea_session::Session`]'s; this moves bytes, opens connections and waits for it.

mod ahead;
mod bell;
mod follow;
mod home;
mod listening;
mod ordered;
mod pooled;
mod sockets;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use pangea_base::{Epoch, Position, Timeline};
use pangea_consistency::{Reach, Setting};
use pangea_pgwire::ErrorFields;
use pangea_pgwire::startup::Startup;
use pangea_session::{Access, Environment, Leg, Session, SessionOptions};
use pangea_sql::Batch;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::cancel::{CancelReceiver, CancelRegistry, CancelRequest, Registration};
use crate::catalogs::DatabaseCatalog;
use crate::config::PoolMode;
use crate::console::{Order, Registered, Watch};
use crate::endpoint::{Endpoint, unreachable};
use crate::links::Route;
use crate::position::PositionWatch;
use crate::relay::server_lost;
use crate::shared::Shared;
use crate::stream::Stream;

use ahead::{Ahead, Opened};
use bell::Bell;
pub(crate) use home::PRIMARY_TIMEOUT;
use home::{Home, Reader, moving, open_home, open_reader};
use pooled::Pooled;
pub(crate) use pooled::is_transient;
use sockets::Silent;

/// How long the statements of a client that has vanished may still run.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a session that has lost its reader tries the next.
const MOVE_PAUSE: Duration = Duration::from_millis(30);

/// The same after it has tried many: the primary serves meanwhile.
const MOVE_PAUSE_LONG: Duration = Duration::from_millis(500);

/// Tries after which the pause is longer.
const MOVES_SOON: u32 = 100;

/// What a region that stops has said to its sessions comes within this time of the end of its heartbeats, or not at all.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Pause before the primary is tried again.
const PRIMARY_PAUSE: Duration = Duration::from_millis(30);

/// The same during a switchover: that the primary refuses is heard of before its reason, and what is sent there meanwhile is
/// late at the next one.
const REFUSED_PAUSE: Duration = Duration::from_millis(300);

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A running session.
pub(crate) struct Running {
    shared: Arc<Shared>,
    catalog: Arc<DatabaseCatalog>,
    /// Of a session that shares its servers.
    pooled: Option<Pooled>,
    /// What the console is told of the session, and tells it.
    watch: Watch,
    /// Position of the local server.
    position: Arc<PositionWatch>,
    session: Session,
    client: Stream,
    client_gone: bool,
    /// None of a session that is all on the primary.
    local: Option<Stream>,
    local_route: Route,
    primary: Option<Stream>,
    primary_route: Route,
    endpoint: Endpoint,
    /// The epoch of the primary that the session knows.
    epoch: Epoch,
    /// Tells when the gate has changed.
    gate_changed: Pending<()>,
    /// Why the primary could not be reached when it was tried last.
    trouble: Option<ErrorFields>,
    /// Ends the wait for the primary, or for the listener.
    blocked: Option<Pending<()>>,
    /// When the epoch has changed while the session was using the primary.
    moved: Option<Instant>,
    /// The gate is looked at again then.
    look_again: Option<Pending<()>>,
    /// Tells when the link to the primary is lost.
    lost: Pending<()>,
    /// Tells when the gateway stops.
    stopped: Pending<()>,
    /// A connection to the primary is being opened.
    opening: Option<Pending<io::Result<Opened>>>,
    /// While clients are held for a switchover: where the primary will be.
    successor: Option<Route>,
    /// A connection to there.
    ahead: Option<Box<Ahead>>,
    /// A connection to another server of this region is being opened.
    opening_local: Option<Pending<io::Result<Reader>>>,
    /// The wait for a replay position, and the position.
    waiting: Option<(Position, Pending<bool>)>,
    cancelling: Option<Pending<(Leg, bool)>>,
    /// A cancel request for a server whose key is not known yet.
    cancel_wanted: Option<CancelRequest>,
    leaving: Option<Pending<()>>,
    cancels: CancelReceiver,
    cancel_sender: mpsc::Sender<CancelRequest>,
    registration: Option<Registration>,
    /// Rings for what comes seldom.
    bell: Bell,
    /// Rings when the client may have said something: each transaction wakes the session for other reasons too.
    client_bell: Bell,
    silent: Silent,
}

/// What the session asks of the world.
struct World<'a> {
    catalog: &'a DatabaseCatalog,
    position: &'a PositionWatch,
    shared: &'a Shared,
}

impl Environment for World<'_> {
    fn classify(&mut self, text: &str) -> Arc<Batch> {
        self.catalog.classify(text)
    }

    fn catalog_version(&self) -> u64 {
        self.catalog.version()
    }

    fn catalog_covers(&mut self, position: Position) -> bool {
        self.catalog.covers(position)
    }

    fn reach(&self, position: Position) -> Reach {
        self.shared.freshness.reach(self.position, position, &self.shared.gate)
    }

    /// By the gate too: while the server shuts down for a switchover it says nothing, and nothing may begin there.
    fn is_primary(&self) -> bool {
        self.shared.gate.is_primary() || self.position.known().is_some_and(|known| !known.in_recovery)
    }

    fn timeline(&self) -> Option<Timeline> {
        self.position.known().map(|known| known.history.current())
    }

    fn staleness(&self) -> Option<Duration> {
        self.shared.freshness.staleness(self.position)
    }

    fn commits_elsewhere(&self) -> bool {
        self.shared.gate.commits_elsewhere()
    }

    fn enter_primary(&mut self) -> bool {
        self.shared.gate.enter()
    }

    fn leave_primary(&mut self) {
        self.shared.gate.leave();
    }

    fn block_begins(&mut self) {
        self.shared.gate.block_begins();
    }

    fn block_ends(&mut self) {
        self.shared.gate.block_ends();
    }
}

/// What interrupts the moving of bytes.
enum Event {
    /// Bytes have moved as far as they go; the session may want something.
    Moved,
    Opened(io::Result<Opened>),
    LocalOpened(io::Result<Reader>),
    /// The region's own servers may be tried again.
    LocalBack,
    /// Whether the position was reached.
    Waited(bool),
    Cancel(CancelRequest),
    /// The request has been passed on to this server; whether it has taken it.
    Cancelled(Leg, bool),
    GateChanged,
    /// The primary, or what the listener is to tell, was waited for long enough.
    Blocked,
    Ordered(Order),
    LinkLost,
    Stopping,
    LeftTooLong,
}

/// Begins a client's session; `None` when it has been told why there is none. This takes much more memory than a
/// session needs then, of which there may be ten thousand: the caller runs what comes of it, and has dropped this.
pub(crate) async fn open(
    shared: Arc<Shared>,
    client: Stream,
    input: BytesMut,
    mut startup: Startup,
    endpoint: Endpoint,
    registered: Registered,
) -> Option<Box<Running>> {
    let name = Setting::ReadConsistency.name();
    if let Some(level) = shared.config.levels.of(endpoint)
        && startup.option(name).is_none()
    {
        startup.parameters.push((name.to_owned(), level.to_owned()));
    }
    if shared.config.pooling.mode(endpoint, startup.user()) == PoolMode::Transaction {
        return open_pooled(shared, client, input, startup, endpoint, registered).await;
    }
    let home = match open_home(&shared, endpoint).await {
        Ok(home) => home,
        Err(error) => {
            crate::say_goodbye(client, &error).await;
            return None;
        }
    };
    let Home { access, epoch, reader, primary_route, entered } = home;
    let Reader { stream, route: local_route, position } = reader;
    let (local, primary) =
        if access == Access::Primary { (None, Some(stream)) } else { (Some(stream), None) };
    let catalog = shared.catalogs.get(startup.database());
    catalog.first_look().await;
    let (local_startup, primary_startup) = home::startups(access, &local_route, &primary_route, &startup);
    let options = SessionOptions { access, local_startup, primary_startup, shared: None };
    let mut session = Session::new(options);
    if let Some(entered) = entered {
        entered.hand_over();
    }
    session.client_input().extend_from_slice(&input);
    let (local, primary) = ((local, local_route, position), (primary, primary_route, epoch));
    let client = (client, endpoint, registered);
    Some(Box::new(Running::new(shared, catalog, session, client, local, primary)))
}

/// The same for a session that shares its servers.
async fn open_pooled(
    shared: Arc<Shared>,
    client: Stream,
    input: BytesMut,
    mut startup: Startup,
    endpoint: Endpoint,
    registered: Registered,
) -> Option<Box<Running>> {
    let epoch = shared.gate.epoch();
    let (access, local_route, position) = pooled::home(&shared, endpoint);
    let primary_route = shared.primary_route();
    let application_name = pooled::take_application_name(&mut startup);
    let (local_startup, primary_startup) = home::startups(access, &local_route, &primary_route, &startup);
    let (route, home) = match access {
        Access::Primary => (&primary_route, &primary_startup),
        Access::Split | Access::Local => (&local_route, &local_startup),
    };
    let greeting = match pooled::welcome(&shared, route, home, application_name).await {
        Ok(greeting) => greeting,
        Err(error) => {
            crate::say_goodbye(client, &error).await;
            return None;
        }
    };
    let catalog = shared.catalogs.get(startup.database());
    catalog.first_look().await;
    let options = SessionOptions { access, local_startup, primary_startup, shared: Some(greeting) };
    let mut session = Session::new(options);
    session.client_input().extend_from_slice(&input);
    let (local, primary) = ((None, local_route, position), (None, primary_route, epoch));
    let client = (client, endpoint, registered);
    let mut running = Running::new(shared, catalog, session, client, local, primary);
    running.pooled = Some(Pooled::default());
    Some(Box::new(running))
}

fn gate_changed(shared: &Arc<Shared>) -> Pending<()> {
    let mut changes = shared.gate.changes();
    Box::pin(async move {
        // An error means that the gateway is gone, which the session is told otherwise.
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Makes sessions read-only by default, as on a standby.
fn read_only(startup: &mut Startup) {
    const OPTION: &str = "-c default_transaction_read_only=on";
    match startup.parameters.iter_mut().find(|(name, _)| name == "options") {
        Some((_, options)) => *options = format!("{OPTION} {options}"),
        None => startup.parameters.push(("options".to_owned(), OPTION.to_owned())),
    }
}

fn lost(route: &Route) -> Pending<()> {
    let mut generation = route.generation();
    Box::pin(async move {
        generation.lost().await;
        sleep(LAST_WORDS).await;
    })
}

fn stopped(shared: Arc<Shared>) -> Pending<()> {
    Box::pin(async move { shared.stopped().await })
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.session.has_block() {
            self.shared.gate.block_ends();
        }
        if self.session.has_entered() {
            self.shared.gate.leave();
        }
    }
}

impl Running {
    fn new(
        shared: Arc<Shared>,
        catalog: Arc<DatabaseCatalog>,
        session: Session,
        (client, endpoint, registered): (Stream, Endpoint, Registered),
        (local, local_route, position): (Option<Stream>, Route, Arc<PositionWatch>),
        (primary, primary_route, epoch): (Option<Stream>, Route, Epoch),
    ) -> Self {
        let (cancel_sender, cancels) = CancelRegistry::channel();
        Self {
            watch: Watch::new(registered, PRIMARY_TIMEOUT),
            catalog,
            pooled: None,
            position,
            session,
            client,
            client_gone: false,
            local,
            local_route,
            primary,
            endpoint,
            epoch,
            gate_changed: gate_changed(&shared),
            trouble: None,
            blocked: None,
            moved: None,
            look_again: None,
            lost: lost(&primary_route),
            stopped: stopped(shared.clone()),
            primary_route,
            opening: None,
            successor: None,
            ahead: None,
            opening_local: None,
            waiting: None,
            cancelling: None,
            cancel_wanted: None,
            leaving: None,
            cancels,
            cancel_sender,
            registration: None,
            bell: Bell::default(),
            client_bell: Bell::default(),
            silent: Silent::default(),
            shared,
        }
    }

    /// Serves the client to the end of its session.
    pub(crate) async fn run(mut self: Box<Self>) {
        // It may have changed since the home server was chosen.
        self.follow_gate();
        self.session.set_primary_may_refuse(self.primary_is_remote());
        self.attend();
        while !self.session.is_over() {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            self.handle(event);
            self.attend();
            // There may be something new to wait for.
            self.bell.ring();
            // Whatever one session makes of its events, the others get their turn.
            tokio::task::consume_budget().await;
        }
        self.finish().await;
    }

    /// The first of the things that can happen. Fields are polled apart so that all of them can wake the session.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.poll_bytes(cx).is_ready() {
            return Poll::Ready(Event::Moved);
        }
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            self.opening = None;
            return Poll::Ready(Event::Opened(opened));
        }
        if let Some(opening) = &mut self.opening_local
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            self.opening_local = None;
            return Poll::Ready(Event::LocalOpened(opened));
        }
        if let Some(pooled) = &mut self.pooled
            && let Poll::Ready(event) = pooled.poll_event(cx)
        {
            return Poll::Ready(event);
        }
        if let Some((_, waiting)) = &mut self.waiting
            && let Poll::Ready(reached) = waiting.as_mut().poll(cx)
        {
            self.waiting = None;
            return Poll::Ready(Event::Waited(reached));
        }
        if let Some(cancelling) = &mut self.cancelling
            && let Poll::Ready((leg, taken)) = cancelling.as_mut().poll(cx)
        {
            self.cancelling = None;
            return Poll::Ready(Event::Cancelled(leg, taken));
        }
        if let Some(leaving) = &mut self.leaving
            && leaving.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Event::LeftTooLong);
        }
        // Ahead of the ends of waits: what was waited for may have come.
        if self.bell.has_rung(cx) || self.has_unheard() {
            let waker = self.bell.waker().clone();
            if let Poll::Ready(event) = self.poll_seldom(&mut Context::from_waker(&waker)) {
                return Poll::Ready(event);
            }
        }
        if let Some(blocked) = &mut self.blocked
            && blocked.as_mut().poll(cx).is_ready()
        {
            self.blocked = None;
            return Poll::Ready(Event::Blocked);
        }
        if let Some(again) = &mut self.look_again
            && again.as_mut().poll(cx).is_ready()
        {
            self.look_again = None;
            return Poll::Ready(Event::GateChanged);
        }
        Poll::Pending
    }

    /// What every session waits for all the time, and seldom comes.
    fn poll_seldom(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.cancelling.is_none()
            && self.cancel_wanted.is_none()
            && let Poll::Ready(Some(request)) = self.cancels.poll_recv(cx)
        {
            return Poll::Ready(Event::Cancel(request));
        }
        if let Poll::Ready(order) = self.watch.poll_order(cx) {
            return Poll::Ready(Event::Ordered(order));
        }
        if self.gate_changed.as_mut().poll(cx).is_ready() {
            self.gate_changed = gate_changed(&self.shared);
            return Poll::Ready(Event::GateChanged);
        }
        if self.lost.as_mut().poll(cx).is_ready() {
            self.lost = lost(&self.primary_route);
            return Poll::Ready(Event::LinkLost);
        }
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Stopping);
        }
        if self.poll_listener(cx) {
            return Poll::Ready(Event::Moved);
        }
        Poll::Pending
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Moved => {}
            Event::Opened(Ok(opened)) => {
                self.session.primary_opened();
                self.primary = Some(opened.take(&mut self.session));
                self.lost = lost(&self.primary_route);
                self.trouble = None;
            }
            Event::Opened(Err(error)) => self.trouble = Some(unreachable(&self.primary_route, &error)),
            Event::GateChanged => self.follow_gate(),
            Event::Blocked if self.session.waits_to_be_notified() => self.give_up_listener(),
            Event::Blocked => {
                self.opening = None;
                let error = self.trouble.take().unwrap_or_else(moving);
                self.session.primary_failed(&error);
            }
            Event::LocalOpened(Ok(Reader { stream, route, position })) => {
                (self.local, self.local_route, self.position) = (Some(stream), route, position);
                self.session.local_opened();
            }
            Event::LocalOpened(Err(error)) => {
                let error = unreachable(&self.local_route, &error);
                self.session.server_closed(Leg::Local, &error);
            }
            Event::LocalBack => self.session.set_local_away(false),
            Event::Waited(true) => {}
            Event::Waited(false) => self.session.give_up_waiting(),
            Event::Cancel(request) => self.cancel(request),
            Event::Cancelled(leg, taken) => {
                if !taken {
                    self.session.keep(leg);
                }
                self.session.set_cancelling(false);
                self.session.set_on_hold(self.watch.is_on_hold());
            }
            Event::Ordered(order) => self.obey(order),
            Event::LinkLost => {
                // The peer may be reached in another way by now.
                if let Some(pooled) = &mut self.pooled {
                    pooled.forget_primary();
                    self.find_primary();
                }
                if self.primary.take().is_some() {
                    self.session.server_closed(Leg::Primary, &server_lost(&self.primary_route));
                }
            }
            Event::Stopping => self.end(&crate::shutting_down()),
            Event::LeftTooLong => self.end(&server_lost(&self.local_route)),
        }
    }

    /// Does what the session wants done.
    fn attend(&mut self) {
        self.attend_orders();
        self.advance();
        if self.moved.is_some() && !self.hears_last_words() {
            self.follow_gate();
            // What was held may go on.
            self.advance();
        }
        self.suit_access();
        self.open_what_is_wanted();
        self.look_ahead();
        if !self.waits_with_bound() {
            self.blocked = None;
        } else if self.blocked.is_none() {
            self.blocked = Some(Box::pin(sleep(PRIMARY_TIMEOUT)));
        }
        if let Some(request) = self.cancel_wanted.take() {
            self.cancel(request);
        }
        let wanted = self.session.waits_for();
        if self.waiting.as_ref().map(|(position, _)| *position) != wanted {
            self.waiting = wanted.map(|position| (position, self.wait(position)));
        }
        if self.session.is_leaving() && self.leaving.is_none() {
            self.leaving = Some(Box::pin(sleep(LEAVE_TIMEOUT)));
        }
        if self.registration.is_none()
            && let Some(key) = self.session.client_key()
        {
            let registry = &self.shared.cancels;
            self.registration = Some(registry.register(key.clone(), self.cancel_sender.clone()));
        }
        self.watch.look(&mut self.session);
    }

    /// Whether the session waits for a connection to the primary: once it is open, statements are under way, and what
    /// becomes of them only its answer or its loss tells. Or for what the one that listens for it is to tell.
    fn waits_with_bound(&self) -> bool {
        if self.pooled.is_some() {
            // The queue of a pool has a bound of its own.
            let tried = self.trouble.is_some() && self.session.wants_primary();
            return tried || self.session.is_held_back() || self.session.waits_to_be_notified();
        }
        let refused = self.session.refusals() > 0 && self.primary.is_none();
        self.session.waits_for_primary() || refused
    }

    fn open_what_is_wanted(&mut self) {
        if self.pooled.is_some() {
            return;
        }
        if self.session.wants_primary() && self.opening.is_none() {
            let route = self.primary_route.clone();
            let again = self.trouble.is_some() || self.session.refusals() > 0;
            let pause = if self.is_moving_from_afar() { REFUSED_PAUSE } else { PRIMARY_PAUSE };
            let ahead = self.take_ahead();
            self.opening = Some(Box::pin(async move {
                if again {
                    sleep(pause).await;
                }
                let opened = match ahead {
                    Some(ahead) => ahead.opened().await,
                    None => None,
                };
                if let Some(opened) = opened {
                    return Ok(opened);
                }
                route.open().await.map(Opened::from)
            }));
        }
        if self.session.wants_local() && self.opening_local.is_none() {
            let (shared, reader) = (self.shared.clone(), self.endpoint == Endpoint::Reader);
            let pause = if self.session.moves() > MOVES_SOON { MOVE_PAUSE_LONG } else { MOVE_PAUSE };
            self.opening_local = Some(Box::pin(async move {
                sleep(pause).await;
                if reader {
                    return open_reader(shared).await;
                }
                let (route, position) = (shared.local_route(), shared.position.clone());
                Ok(Reader { stream: route.open().await?, route, position })
            }));
        }
    }

    /// Has the session do all that it can, and gives and takes connections for it.
    #[inline(never)] // One copy, not one for each caller: docs/performance.md.
    fn advance(&mut self) {
        loop {
            let mut world = World { catalog: &self.catalog, position: &self.position, shared: &self.shared };
            self.session.advance(&mut world);
            if !self.share() && !self.listen() {
                break;
            }
        }
        self.watch.look(&mut self.session);
    }

    fn wait(&self, wanted: Position) -> Pending<bool> {
        let (position, longest) = (self.position.clone(), self.session.wait_timeout());
        Box::pin(async move { timeout(longest, position.replayed(wanted)).await.is_ok() })
    }

    fn cancel(&mut self, request: CancelRequest) {
        if self.session.cancel_waiting() || self.cancel_held() {
            return;
        }
        // Nothing to cancel: as with PostgreSQL, the request has no effect.
        let Some((leg, key)) = self.session.busy() else { return };
        let Some(key) = key.cloned() else {
            // The server's answer with the key is on its way.
            self.cancel_wanted = Some(request);
            return;
        };
        let route = match leg {
            Leg::Local => self.local_route.clone(),
            Leg::Primary => self.primary_route.clone(),
        };
        self.session.note_cancel();
        self.session.set_on_hold(true);
        self.session.set_cancelling(true);
        self.cancelling = Some(Box::pin(async move {
            let taken = route.cancel(&key).await;
            drop(request);
            (leg, taken)
        }));
    }

    fn end(&mut self, error: &ErrorFields) {
        self.session.take_awaited_answers();
        // The servers' sockets are closed with the session: they end what they are doing.
        self.session.fail(error);
    }
}
