//! Connections that listen for sessions: one for all sessions of a user in a database that share their servers.
//!
//! A session that has asked for a channel is told of everything that is notified there from the moment it is told that the
//! channel is heard. When the connection ends, by whatever, all sessions that listen are told, and end too: nobody would know
//! otherwise that something may have been missed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pangea_base::Epoch;
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::startup::{Startup, Version};
use pangea_pgwire::{ErrorFields, SqlState, build};
use pangea_session::{about_channels, channel_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::links::{Kind, Route};
use crate::pool::connect;
use crate::session::{PRIMARY_TIMEOUT, is_transient};
use crate::shared::Shared;
use crate::stream::Stream;

/// Notifications that wait for a session at most: of 8,000 bytes at most each, which all sessions share. One that takes none of
/// them ends (BOUNDED).
const UNTAKEN_MAX: usize = 8192;

/// Bytes that are read at once.
const READ_LEN: usize = 16 << 10;

/// How long a connection stays that nobody needs.
const LINGER: Duration = Duration::from_secs(10);

/// Longest wait for the answer to LISTEN: longer than statements are held while a switchover is tried.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before a connection is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// It is idle most of the time, and must not end for that. (PostgreSQL has this since 14.)
const SETUP_SQL: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name = 'idle_session_timeout'";

/// All listeners of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    known: Mutex<HashMap<Key, Arc<Listener>>>,
}

/// Which listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The primary is another server in the next one.
    pub(crate) epoch: Epoch,
    pub(crate) user: String,
    pub(crate) database: String,
    /// In which its sessions get their notifications.
    pub(crate) encoding: Bytes,
}

/// What is to be heard, and for whom.
#[derive(Debug, Default)]
struct Listener {
    inner: Mutex<Inner>,
    /// What is to be heard has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    channels: HashMap<Bytes, Channel>,
    ears: HashMap<u64, mpsc::Sender<Heard>>,
    ears_made: u64,
    /// A session has waited in vain for what it should have heard.
    is_silent: bool,
}

#[derive(Debug, Default)]
struct Channel {
    state: State,
    ears: HashSet<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Asked,
    Heard,
}

/// What a session is told.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A NotificationResponse.
    Notification(Bytes),
    /// Channels are heard from now on: [`Ear::hears_all`] may have changed.
    Channels,
    /// The listener is gone, and this is why.
    Lost(ErrorFields),
}

impl Listeners {
    /// An ear on the listener of this key; its connection is opened when it has something to hear.
    pub(crate) fn ear(shared: &Arc<Shared>, key: Key) -> Ear {
        let mut known = shared.listeners.lock();
        let (told, receiver) = mpsc::channel(UNTAKEN_MAX);
        let listener = known.entry(key.clone()).or_insert_with(|| {
            let listener = Arc::new(Listener::default());
            tokio::spawn(serve(shared.clone(), key, listener.clone()));
            listener
        });
        let mut inner = listener.lock();
        inner.ears_made += 1;
        let id = inner.ears_made;
        inner.ears.insert(id, told);
        drop(inner);
        Ear { listener: listener.clone(), id, channels: BTreeSet::new(), receiver }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Listener>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener ends: nobody gets it any more, and who has it is told why. Without a reason it ends only if nobody has.
    fn end(&self, key: &Key, listener: &Listener, reason: Option<&ErrorFields>) -> bool {
        let mut known = self.lock();
        let mut inner = listener.lock();
        if reason.is_none() && !inner.ears.is_empty() {
            return false;
        }
        known.remove(key);
        for (_, told) in inner.ears.drain() {
            if let Some(reason) = reason {
                // One that has no room for it finds that it is told nothing any more.
                let _ = told.try_send(Heard::Lost(reason.clone()));
            }
        }
        true
    }
}

/// A session's part of a listener.
#[derive(Debug)]
pub(crate) struct Ear {
    listener: Arc<Listener>,
    id: u64,
    channels: BTreeSet<Bytes>,
    receiver: mpsc::Receiver<Heard>,
}

impl Ear {
    /// Hears these from now on, and no others; whether it hears all of them already.
    pub(crate) fn listen(&mut self, wanted: &BTreeSet<Bytes>) -> bool {
        let mut inner = self.listener.lock();
        for channel in self.channels.difference(wanted) {
            inner.forget(channel, self.id);
        }
        for channel in wanted.difference(&self.channels) {
            inner.channels.entry(channel.clone()).or_default().ears.insert(self.id);
        }
        drop(inner);
        self.channels.clone_from(wanted);
        self.listener.changed.notify_one();
        self.hears_all()
    }

    /// Whether all that it listens to is heard.
    pub(crate) fn hears_all(&self) -> bool {
        let inner = self.listener.lock();
        let is_heard = |channel| inner.channels.get(channel).is_some_and(|it| it.state == State::Heard);
        self.channels.iter().all(is_heard)
    }

    /// Ends the listener, for all: it does not hear what was notified.
    pub(crate) fn give_up(&self) {
        self.listener.lock().is_silent = true;
        self.listener.changed.notify_one();
    }

    /// What comes next.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.receiver.poll_recv(cx).map(|heard| heard.unwrap_or_else(|| Heard::Lost(not_taken())))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut inner = self.listener.lock();
        for channel in &self.channels {
            inner.forget(channel, self.id);
        }
        inner.ears.remove(&self.id);
        self.listener.changed.notify_one();
    }
}

impl Inner {
    fn forget(&mut self, channel: &Bytes, ear: u64) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.ears.remove(&ear);
        }
    }

    /// Tells who listens to its channel of a notification. One that was not to be heard yet is of before.
    fn notify(&mut self, frame: &Bytes) {
        let Some(channel) = channel_of(frame).and_then(|name| self.channels.get(name)) else { return };
        if channel.state != State::Heard {
            return;
        }
        for ear in &channel.ears {
            tell(&mut self.ears, *ear, Heard::Notification(frame.clone()));
        }
    }
}

/// Tells an ear; one that takes nothing is told nothing any more.
fn tell(ears: &mut HashMap<u64, mpsc::Sender<Heard>>, ear: u64, what: Heard) {
    if ears.get(&ear).is_some_and(|told| told.try_send(what).is_err()) {
        ears.remove(&ear);
    }
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server is to be told, and the channels that it then hears; nothing when it hears what it should.
    fn next_order(&self) -> Option<(String, Vec<Bytes>)> {
        let mut inner = self.lock();
        let mut unwanted = Vec::new();
        inner.channels.retain(|name, channel| {
            let stays = !channel.ears.is_empty();
            if !stays && channel.state == State::Heard {
                unwanted.push(name.clone());
            }
            stays
        });
        let mut new = Vec::new();
        for (name, channel) in inner.channels.iter_mut().filter(|(_, channel)| channel.state == State::New) {
            channel.state = State::Asked;
            new.push(name.clone());
        }
        let orders = [about_channels("UNLISTEN", &unwanted), about_channels("LISTEN", &new)];
        let sql = orders.into_iter().filter(|sql| !sql.is_empty()).collect::<Vec<_>>().join("; ");
        (!sql.is_empty()).then_some((sql, new))
    }

    /// The server hears these channels.
    fn hears(&self, channels: &[Bytes]) {
        let mut inner = self.lock();
        let mut ears = HashSet::new();
        for name in channels {
            if let Some(channel) = inner.channels.get_mut(name) {
                channel.state = State::Heard;
                ears.extend(&channel.ears);
            }
        }
        ears.into_iter().for_each(|ear| tell(&mut inner.ears, ear, Heard::Channels));
    }

    /// Listens until the connection ends, or `end` says that nobody needs it.
    async fn listen(
        &self,
        route: &Route,
        startup: &Startup,
        mut end: impl FnMut() -> bool,
    ) -> Option<ErrorFields> {
        let mut stream = match open(route, startup).await {
            Ok(stream) => stream,
            Err(error) => return Some(error),
        };
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let mut asked = None;
        let mut setup = Some(SETUP_SQL);
        loop {
            if self.lock().is_silent {
                return Some(silent(route));
            }
            if asked.is_none()
                && let Some((sql, channels)) = self.next_order()
            {
                match setup.take() {
                    Some(setup) => build::query(&mut output, &format!("{setup}; {sql}")),
                    None => build::query(&mut output, &sql),
                }
                asked = Some((channels, Instant::now() + ANSWER_TIMEOUT));
            }
            if !output.is_empty() {
                match timeout(ANSWER_TIMEOUT, stream.write_all(&output.split())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Some(lost(route)),
                    Err(_) => return Some(silent(route)),
                }
            }
            let is_needed = asked.is_some() || !self.lock().ears.is_empty();
            let deadline = asked.as_ref().map_or_else(Instant::now, |(_, deadline)| *deadline);
            // Sessions take what they were told of before there is more.
            tokio::task::yield_now().await;
            input.reserve(READ_LEN);
            tokio::select! {
                read = stream.read_buf(&mut input) => match read {
                    Ok(0) | Err(_) => return Some(lost(route)),
                    Ok(_) => {}
                },
                () = self.changed.notified() => {}
                () = sleep_until(deadline), if asked.is_some() => return Some(silent(route)),
                () = sleep(LINGER), if !is_needed => if end() { return None },
            }
            loop {
                let frame = match connect::take_frame(&mut input) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_) => return Some(lost(route)),
                };
                match frame[0] {
                    // A copy: one that waits to be taken must not keep what was read with it.
                    b'A' => self.lock().notify(&Bytes::copy_from_slice(&frame)),
                    b'Z' => {
                        if let Some((channels, _)) = asked.take() {
                            self.hears(&channels);
                        }
                    }
                    b'E' => return Some(of_server(&frame[HEADER_LEN..])),
                    _ => {}
                }
            }
        }
    }
}

/// Opens the connection; a server that takes none for a moment is tried again.
async fn open(route: &Route, startup: &Startup) -> Result<Stream, ErrorFields> {
    let deadline = Instant::now() + PRIMARY_TIMEOUT;
    loop {
        match connect::open(route, startup).await {
            Ok((stream, ..)) => return Ok(stream),
            Err(error) if Instant::now() >= deadline || !is_transient(&error) => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The listener of a key, from its first ear to its end.
async fn serve(shared: Arc<Shared>, key: Key, listener: Arc<Listener>) {
    let route = shared.primary_route();
    let mut startup = Startup {
        version: Version { major: 3, minor: 0 },
        parameters: vec![
            ("user".to_owned(), key.user.clone()),
            ("database".to_owned(), key.database.clone()),
            ("client_encoding".to_owned(), String::from_utf8_lossy(&key.encoding).into_owned()),
            ("application_name".to_owned(), "pangea listener".to_owned()),
        ],
    };
    route.label(&mut startup, Kind::Session);
    let mut changes = shared.gate.changes();
    let moves = async { changes.wait_for(|gate| gate.epoch != key.epoch).await.is_ok() };
    let mut generation = route.generation();
    let reason = tokio::select! {
        reason = listener.listen(&route, &startup, || shared.listeners.end(&key, &listener, None)) => reason,
        _ = moves => Some(moved()),
        () = generation.lost() => Some(lost(&route)),
        () = shared.stopped() => Some(crate::shutting_down()),
    };
    if let Some(reason) = reason {
        tracing::debug!(user = key.user, database = key.database, %route, "a listener has ended");
        shared.listeners.end(&key, &listener, Some(&reason));
    }
}

fn moved() -> ErrorFields {
    ErrorFields::terminated()
        .with_detail("The primary has moved, and what was notified meanwhile may have been missed.")
        .with_hint("Connect again, LISTEN, and look at what has changed.")
}

/// What a server says before it ends the connection. One that takes no connections now, or only reads, is no more the primary.
fn of_server(body: &[u8]) -> ErrorFields {
    let error = ErrorFields::of_server(body);
    let is_left =
        error.code == SqlState::CANNOT_CONNECT_NOW || error.code == SqlState::READ_ONLY_SQL_TRANSACTION;
    if is_left { moved() } else { error }
}

fn lost(route: &Route) -> ErrorFields {
    ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "the connection that listens for sessions is lost")
        .with_detail(format!("It was to {route}. What was notified since may have been missed."))
        .with_hint("Connect again, LISTEN, and look at what has changed.")
}

fn silent(route: &Route) -> ErrorFields {
    let text = "the server does not answer the connection that listens for sessions";
    ErrorFields::fatal(SqlState::CONNECTION_FAILURE, text).with_detail(format!("It is {route}."))
}

fn not_taken() -> ErrorFields {
    let text = "too many notifications wait for the client";
    ErrorFields::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .with_detail(format!("It has not taken {UNTAKEN_MAX} of them."))
        .with_hint("Read from the connection while it listens.")
}
