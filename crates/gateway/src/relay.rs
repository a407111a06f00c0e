//! A session that one server serves: bytes go through as they are.
//!
//! This is the whole data path for sessions that another gateway forwards, and for replication.

mod turns;

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use bytes::BytesMut;
use pangea_base::Epoch;
use pangea_pgwire::frame::backend_header;
use pangea_pgwire::startup::CancelKey;
use pangea_pgwire::{ErrorFields, SqlState};

use crate::buffer::{FrameTracker, READ_LEN, poll_drain, poll_fill};
use crate::cancel::{CancelRegistry, CancelRequest, Registration};
use crate::link_server::wrong_primary;
use crate::links::{Generation, Route};
use crate::shared::Shared;
use crate::stream::Stream;

use turns::{Turns, Verdict};

/// A Terminate message.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// One relayed session.
pub(crate) struct Relay<'a> {
    client: Stream,
    server: Stream,
    /// Where the server is, to send cancel requests there.
    route: Route,
    /// From the client, not passed on yet.
    from_client: BytesMut,
    /// Passed on, not yet written to the server.
    to_server: BytesMut,
    /// From the server, not yet written to the client.
    to_client: BytesMut,
    tracker: FrameTracker,
    /// Of a session that another gateway forwards: when what may be executed.
    turns: Option<Turns<'a>>,
    /// The client's last bytes are a Terminate: the server is expected to close.
    terminated: bool,
    registry: CancelRegistry,
    cancel_sender: tokio::sync::mpsc::Sender<CancelRequest>,
    registration: Option<(CancelKey, Registration)>,
}

/// What ends or interrupts the relaying.
enum Event {
    ClientGone,
    ServerGone,
    /// The epoch has begun, or is not going to be this region's.
    Admitted(bool),
    GateChanged,
    /// Nothing of the session is executed any more.
    Ended(Verdict),
    Cancel(CancelRequest),
    Stopping,
}

/// What a relay connects.
pub(crate) struct Ends {
    pub(crate) client: Stream,
    pub(crate) server: Stream,
    pub(crate) route: Route,
    /// Taken before the server was connected, so that no loss of the link is missed.
    pub(crate) generation: Generation,
    /// The epoch that it was made for: with it the session ends.
    pub(crate) epoch: Epoch,
    /// What the client has sent behind the start-up message.
    pub(crate) from_client: BytesMut,
    /// That of a session that another gateway forwards.
    pub(crate) forwarded: Option<Forwarded>,
}

/// How a session that another gateway forwards begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// At once.
    Now,
    /// When the region has become primary.
    Ahead,
}

impl<'a> Relay<'a> {
    /// Runs until either side is gone or the gateway stops. `to_server` is the start-up message.
    pub(crate) async fn run(ends: Ends, to_server: BytesMut, shared: &'a Shared) {
        let (gate, registry, mut stopping) = (&shared.gate, shared.cancels.clone(), shared.stopping.clone());
        let Ends { client, server, route, mut generation, epoch, from_client, forwarded } = ends;
        let (cancel_sender, mut cancels) = CancelRegistry::channel();
        let mut changes = gate.changes();
        let mut relay = Self {
            client,
            server,
            route,
            from_client,
            to_server,
            to_client: BytesMut::new(),
            tracker: FrameTracker::default(),
            turns: forwarded.map(|begins| Turns::new(gate, epoch, begins == Forwarded::Ahead)),
            terminated: false,
            registry,
            cancel_sender,
            registration: None,
        };
        let farewell = loop {
            let (forwarded, ahead) =
                relay.turns.as_ref().map_or((false, false), |turns| (!turns.is_ahead(), turns.is_ahead()));
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| relay.poll_copy(cx)) => event,
                Some(request) = cancels.recv() => Event::Cancel(request),
                _ = stopping.wait_for(|stop| *stop) => Event::Stopping,
                () = generation.lost() => Event::ServerGone,
                admitted = gate.admits(epoch), if ahead => Event::Admitted(admitted),
                Ok(()) = changes.changed(), if forwarded => Event::GateChanged,
                () = gate.epoch_passed(epoch), if !forwarded && !ahead => Event::ServerGone,
            };
            match event {
                Event::Admitted(true) => relay.admit(),
                Event::Admitted(false) => break Some(wrong_primary(shared, epoch)),
                Event::GateChanged => {}
                Event::Ended(Verdict::Refused) => break Some(wrong_primary(shared, epoch)),
                Event::Ended(Verdict::Lost) => break Some(server_lost(&relay.route)),
                Event::Cancel(request) => {
                    // Nothing is read from the client meanwhile: its next statement must not be hit.
                    if let Some((key, _)) = &relay.registration
                        && !ahead
                    {
                        relay.route.cancel(key).await;
                    }
                    drop(request);
                }
                Event::ClientGone => return,
                Event::ServerGone if relay.terminated => break None,
                Event::ServerGone if ahead => break Some(wrong_primary(shared, epoch)),
                Event::ServerGone => break Some(server_lost(&relay.route)),
                Event::Stopping => break Some(crate::shutting_down()),
            }
        };
        relay.finish(farewell).await;
    }

    /// The server is the primary.
    fn admit(&mut self) {
        if let Some(turns) = &mut self.turns {
            self.to_client.extend_from_slice(&turns.admit());
        }
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(verdict) = self.turns.as_ref().and_then(Turns::verdict) {
                return Poll::Ready(Event::Ended(verdict));
            }
            let mut progress = false;
            for step in [Self::poll_client_to_server, Self::poll_server_to_client] {
                match step(self, cx) {
                    ControlFlow::Break(event) => return Poll::Ready(event),
                    ControlFlow::Continue(moved) => progress |= moved,
                }
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Whether bytes moved.
    fn poll_client_to_server(&mut self, cx: &mut Context<'_>) -> ControlFlow<Event, bool> {
        let mut moved = false;
        if self.from_client.len() + self.to_server.len() < READ_LEN {
            match poll_fill(&mut self.client, &mut self.from_client, cx) {
                // What the client sent before it left is still the server's: a Terminate, or a last statement.
                Poll::Ready(Ok(0) | Err(_)) => {
                    let _ = poll_drain(&mut self.server, &mut self.to_server, cx);
                    return ControlFlow::Break(Event::ClientGone);
                }
                Poll::Ready(Ok(_)) => {
                    self.terminated = self.from_client.ends_with(TERMINATE);
                    moved = true;
                }
                Poll::Pending => {}
            }
        }
        moved |= self.pass_on();
        let before = self.to_server.len();
        match poll_drain(&mut self.server, &mut self.to_server, cx) {
            // Room that a write has made must be followed by a read: nothing else would wake it.
            Poll::Ready(Ok(())) | Poll::Pending => {
                ControlFlow::Continue(moved || self.to_server.len() < before)
            }
            // The server may have said why: its last words are still to be read.
            Poll::Ready(Err(_)) => {
                self.to_server.clear();
                ControlFlow::Continue(moved)
            }
        }
    }

    /// Passes on what the client may have executed now; whether there was any.
    fn pass_on(&mut self) -> bool {
        let passed = match &mut self.turns {
            None => self.from_client.len(),
            Some(turns) => turns.pass(&self.from_client),
        };
        if self.to_server.is_empty() && passed == self.from_client.len() {
            std::mem::swap(&mut self.from_client, &mut self.to_server);
        } else {
            self.to_server.extend_from_slice(&self.from_client.split_to(passed));
        }
        passed > 0
    }

    fn poll_server_to_client(&mut self, cx: &mut Context<'_>) -> ControlFlow<Event, bool> {
        let mut moved = false;
        let is_held = self.turns.as_ref().is_some_and(Turns::is_held);
        if self.to_client.len() < READ_LEN && !is_held {
            let start = self.to_client.len();
            match poll_fill(&mut self.server, &mut self.to_client, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return ControlFlow::Break(Event::ServerGone),
                Poll::Ready(Ok(_)) => {
                    if self.follow(start).is_err() {
                        return ControlFlow::Break(Event::ServerGone);
                    }
                    moved = true;
                }
                Poll::Pending => {}
            }
        }
        if !self.withhold() {
            return ControlFlow::Continue(moved);
        }
        let before = self.to_client.len();
        match poll_drain(&mut self.client, &mut self.to_client, cx) {
            Poll::Ready(Ok(())) | Poll::Pending => {
                ControlFlow::Continue(moved || self.to_client.len() < before)
            }
            Poll::Ready(Err(_)) => ControlFlow::Break(Event::ClientGone),
        }
    }

    /// Follows the server's frames; registers the cancel key when it passes by.
    fn follow(&mut self, start: usize) -> io::Result<()> {
        let (registry, sender, registration) = (&self.registry, &self.cancel_sender, &mut self.registration);
        let mut turns = self.turns.as_mut().filter(|turns| !turns.is_ahead());
        self.tracker.feed(&self.to_client[start..], |tag, body| {
            if let Some(turns) = &mut turns {
                turns.answered(tag, body);
            }
            if tag == b'K'
                && registration.is_none()
                && let Some((process, secret)) = body.split_first_chunk::<4>()
            {
                let key = CancelKey { process: u32::from_be_bytes(*process), secret: secret.to_vec() };
                *registration = Some((key.clone(), registry.register(key, sender.clone())));
            }
        })
    }

    /// Keeps the ReadyForQuery back of a server that is not primary yet; whether what came before it may be passed on.
    fn withhold(&mut self) -> bool {
        let Some(ready) = self.turns.as_mut().and_then(Turns::keeps_ready) else { return true };
        let mut at = 0;
        while let Ok(Some(header)) = backend_header(&self.to_client[at..]) {
            let end = at + header.frame_len();
            if end > self.to_client.len() {
                break;
            }
            if header.tag == b'Z' {
                let rest = self.to_client.split_off(end);
                *ready = self.to_client.split_off(at);
                self.to_client.unsplit(rest);
                return true;
            }
            at = end;
        }
        false
    }

    /// Ends the session: with an error, if there is one to tell, the stream to the client stands between two frames and the server has
    /// not ended it with an error of its own.
    async fn finish(mut self, error: Option<ErrorFields>) {
        if let Some(error) = error
            && self.tracker.at_boundary()
            && !self.tracker.saw_fatal
        {
            error.write(&mut self.to_client);
        }
        let Self { client, server, to_client, turns, .. } = self;
        // Those who wait for the server, or for it to be idle, need not wait for the client.
        drop((server, turns));
        crate::refuse(client, to_client).await;
    }
}

/// The error of a session whose server went away without a word.
pub(crate) fn server_lost(route: &Route) -> ErrorFields {
    ErrorFields::fatal(SqlState::CONNECTION_FAILURE, "server closed the connection unexpectedly")
        .with_detail(format!(
            "The connection to {route} broke. A transaction that was under way there may or may not have committed."
        ))
        .with_hint("Connect again; check whether the last transaction took effect before repeating it.")
}
