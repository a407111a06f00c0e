//! A session that one server serves: bytes go through as they are.
//!
//! This is the whole data path in the primary region, on the reader and writer endpoints, and for sessions that
//! another gateway forwards.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use bytes::BytesMut;
use pangea_base::Epoch;
use pangea_pgwire::frame::backend_header;
use pangea_pgwire::startup::CancelKey;
use pangea_pgwire::{ErrorFields, SqlState};
use tokio::io::AsyncWriteExt as _;

use crate::buffer::{FrameTracker, READ_LEN, poll_drain, poll_fill};
use crate::cancel::{CancelRegistry, CancelRequest, Registration};
use crate::link_server::wrong_primary;
use crate::links::{Generation, Route};
use crate::shared::Shared;
use crate::stream::Stream;

/// A Terminate message.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// One relayed session.
pub(crate) struct Relay {
    client: Stream,
    server: Stream,
    /// Where the server is, to send cancel requests there.
    route: Route,
    /// From the client, not yet written to the server.
    to_server: BytesMut,
    /// From the server, not yet written to the client.
    to_client: BytesMut,
    tracker: FrameTracker,
    /// Of a server that is not the primary yet: what the client has sent, and that the server is ready. Neither gets that
    /// before it is (ONE-WRITER), so that a client that is refused then knows that nothing has run.
    withheld: Option<Withheld>,
    /// The client's last bytes are a Terminate: the server is expected to close.
    terminated: bool,
    registry: CancelRegistry,
    cancel_sender: tokio::sync::mpsc::Sender<CancelRequest>,
    registration: Option<(CancelKey, Registration)>,
}

struct Withheld {
    from_client: BytesMut,
    /// The ReadyForQuery with which the server takes the session. Nothing is passed on before it has come.
    ready: BytesMut,
}

/// What ends or interrupts the relaying.
enum Event {
    ClientGone,
    ServerGone,
    /// The epoch has begun, or is not going to be this region's.
    Admitted(bool),
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
    /// Of a server that is to be the primary in that epoch: what the client has sent behind the start-up message. It gets
    /// that, and what follows, when it is.
    pub(crate) withheld: Option<BytesMut>,
}

impl Relay {
    /// Runs until either side is gone or the gateway stops. `to_server` begins with the start-up message.
    pub(crate) async fn run(ends: Ends, to_server: BytesMut, shared: &Shared) {
        let (gate, registry, mut stopping) = (&shared.gate, shared.cancels.clone(), shared.stopping.clone());
        let Ends { client, server, route, mut generation, epoch, withheld } = ends;
        let (cancel_sender, mut cancels) = CancelRegistry::channel();
        let (to_client, tracker) = (BytesMut::new(), FrameTracker::default());
        let registration = None;
        let withheld = withheld.map(|from_client| Withheld { from_client, ready: BytesMut::new() });
        let mut relay = Self {
            client,
            server,
            route,
            to_server,
            to_client,
            tracker,
            withheld,
            terminated: false,
            registry,
            cancel_sender,
            registration,
        };
        let farewell = loop {
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| relay.poll_copy(cx)) => event,
                Some(request) = cancels.recv() => Event::Cancel(request),
                _ = stopping.wait_for(|stop| *stop) => Event::Stopping,
                () = generation.lost() => Event::ServerGone,
                admitted = gate.admits(epoch), if relay.withheld.is_some() => Event::Admitted(admitted),
                () = gate.epoch_passed(epoch), if relay.withheld.is_none() => Event::ServerGone,
            };
            match event {
                Event::Admitted(true) => relay.admit(),
                Event::Admitted(false) => break Some(wrong_primary(shared, epoch)),
                Event::Cancel(request) => {
                    // Nothing is read from the client meanwhile: its next statement must not be hit.
                    if let Some((key, _)) = &relay.registration
                        && relay.withheld.is_none()
                    {
                        relay.route.cancel(key).await;
                    }
                    drop(request);
                }
                Event::ClientGone => return,
                Event::ServerGone if relay.terminated => break None,
                Event::ServerGone if relay.withheld.is_some() => break Some(wrong_primary(shared, epoch)),
                Event::ServerGone => break Some(server_lost(&relay.route)),
                Event::Stopping => break Some(crate::shutting_down()),
            }
        };
        relay.finish(farewell).await;
    }

    /// The server is the primary.
    fn admit(&mut self) {
        let Some(Withheld { from_client, ready }) = self.withheld.take() else { return };
        self.to_server.extend_from_slice(&from_client);
        self.to_client.extend_from_slice(&ready);
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
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
        let from_client = match &mut self.withheld {
            Some(withheld) => &mut withheld.from_client,
            None => &mut self.to_server,
        };
        if from_client.len() < READ_LEN {
            match poll_fill(&mut self.client, from_client, cx) {
                // What the client sent before it left is still the server's: a Terminate, or a last statement.
                Poll::Ready(Ok(0) | Err(_)) => {
                    let _ = poll_drain(&mut self.server, &mut self.to_server, cx);
                    return ControlFlow::Break(Event::ClientGone);
                }
                Poll::Ready(Ok(_)) => {
                    self.terminated = from_client.ends_with(TERMINATE);
                    moved = true;
                }
                Poll::Pending => {}
            }
        }
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

    fn poll_server_to_client(&mut self, cx: &mut Context<'_>) -> ControlFlow<Event, bool> {
        let mut moved = false;
        if self.to_client.len() < READ_LEN {
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
        self.tracker.feed(&self.to_client[start..], |tag, body| {
            if tag == b'K'
                && registration.is_none()
                && let Some((process, secret)) = body.split_first_chunk::<4>()
            {
                let key = CancelKey { process: u32::from_be_bytes(*process), secret: secret.to_vec() };
                *registration = Some((key.clone(), registry.register(key, sender.clone())));
            }
        })
    }

    /// Keeps the ReadyForQuery back; whether what came before it may be passed on.
    fn withhold(&mut self) -> bool {
        let Some(withheld) = self.withheld.as_mut().filter(|withheld| withheld.ready.is_empty()) else {
            return true;
        };
        let mut at = 0;
        while let Ok(Some(header)) = backend_header(&self.to_client[at..]) {
            let end = at + header.frame_len();
            if end > self.to_client.len() {
                break;
            }
            if header.tag == b'Z' {
                let rest = self.to_client.split_off(end);
                withheld.ready = self.to_client.split_off(at);
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
        let write = self.client.write_all_buf(&mut self.to_client);
        if tokio::time::timeout(crate::FAREWELL_TIMEOUT, write).await.is_ok_and(|done| done.is_ok()) {
            let _ = self.client.shutdown().await;
        }
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
