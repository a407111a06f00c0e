//! Moving the bytes of a session between its sockets and the machine.

use std::task::{Context, Poll};

use pangea_session::Leg;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Running;
use crate::buffer::{READ_LEN, poll_drain, poll_fill};
use crate::relay::server_lost;
use crate::stream::Stream;

/// A session whose output is shorter looks at nothing else when that is written: only more than this holds it up.
const CLOGGED_LEN: usize = READ_LEN;

/// Who had nothing to read when asked last: need not be asked again before the session is woken.
#[derive(Default)]
pub(super) struct Silent {
    /// Not before its bell rings.
    client: bool,
    pub(super) servers: [bool; 2],
}

impl Running {
    /// Moves bytes until nothing moves any more. Ready when the session has to be attended to.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.silent.servers = [false; 2];
        // TLS may have taken bytes in that it has not given out.
        self.silent.client &= !self.client_bell.has_rung(cx) && !self.client.is_tls();
        loop {
            let mut changed = false;
            // What waited for a connection goes out with the first look at it.
            while self.is_acquiring() && self.poll_acquiring(cx) {
                self.advance();
                changed = true;
            }
            let mut moved = self.poll_client(cx);
            moved |= self.has_server(Leg::Local) && self.poll_server(Leg::Local, cx);
            moved |= self.has_server(Leg::Primary) && self.poll_server(Leg::Primary, cx);
            if moved {
                self.advance();
                self.suit_access();
            }
            // Else it is as it was attended to.
            if (moved || changed) && (self.session.is_over() || self.wants_attention()) {
                return Poll::Ready(());
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    pub(super) fn wants_attention(&self) -> bool {
        let opens = self.pooled.is_none();
        (opens && self.session.wants_primary() && self.opening.is_none())
            || self.waits_with_bound() != self.blocked.is_some()
            || (opens && self.session.wants_local() && self.opening_local.is_none())
            || self.session.waits_for() != self.waiting.as_ref().map(|(position, _)| *position)
            || (self.session.is_leaving() && self.leaving.is_none())
            || (self.registration.is_none() && self.session.client_key().is_some())
            || (self.cancel_wanted.is_some() && !matches!(self.session.busy(), Some((_, None))))
            || self.wants_ahead()
            || self.watch.wants_attention(&self.session)
    }

    /// Whether anything happened that the session should look at.
    #[inline(never)] // One copy, not one for each caller: docs/performance.md.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let output = self.session.client_output();
        let before = output.len();
        // Empty or not: what TLS has taken may still be on its way out.
        if let Poll::Ready(Err(_)) = poll_drain(&mut self.client, output, cx)
            && !self.client_gone
        {
            output.clear();
            self.leave();
            moved = true;
        }
        let left = self.session.client_output().len();
        moved |= left != before && before >= CLOGGED_LEN;
        self.watch.sent(before - left);
        if !self.client_gone && !self.silent.client && self.session.takes_client_input() {
            let mut cx = Context::from_waker(self.client_bell.waker());
            match poll_fill(&mut self.client, self.session.client_input(), &mut cx) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.leave();
                    moved = true;
                }
                Poll::Ready(Ok(bytes)) => {
                    self.watch.received(bytes);
                    moved = true;
                }
                Poll::Pending => self.silent.client = true,
            }
        }
        moved
    }

    pub(super) fn leave(&mut self) {
        self.client_gone = true;
        self.session.client_closed();
    }

    /// Whether there is a connection to a server. What the session has given up is closed: what is asked for next is for
    /// another.
    fn has_server(&mut self, leg: Leg) -> bool {
        let is_open = match leg {
            Leg::Local => self.session.local_is_open(),
            Leg::Primary => self.session.primary_is_open(),
        };
        let stream = self.stream(leg);
        if !is_open && stream.is_some() {
            *stream = None;
        }
        let there = stream.is_some();
        if let Some(pooled) = self.pooled.as_mut().filter(|_| !there) {
            pooled.end_lease(leg);
        }
        there
    }

    /// Whether anything happened that the session should look at.
    #[inline(never)] // One copy, not one for each caller: docs/performance.md.
    fn poll_server(&mut self, leg: Leg, cx: &mut Context<'_>) -> bool {
        let stream = match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        };
        let Some(stream) = stream else { return false };
        let output = self.session.server_output(leg);
        let before = output.len();
        // Empty or not: what TLS has taken may still be on its way out. A write that fails is followed by a read
        // that tells why.
        if let Poll::Ready(Err(_)) = poll_drain(stream, output, cx) {
            output.clear();
        }
        let left = self.session.server_output(leg).len();
        // Where no answer is due, nothing else tells the session that it is done with the server.
        let mut moved = left != before && (before >= CLOGGED_LEN || !self.session.awaits(leg));
        if !self.silent.servers[leg as usize] && self.session.takes_server_input(leg) {
            match poll_fill(stream, self.session.server_input(leg), cx) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.server_closed(leg);
                    moved = true;
                }
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Pending => self.silent.servers[leg as usize] = true,
            }
        }
        moved
    }

    pub(super) fn stream(&mut self, leg: Leg) -> &mut Option<Stream> {
        match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        }
    }

    pub(super) fn server_closed(&mut self, leg: Leg) {
        // Its last words come first.
        self.advance();
        *self.stream(leg) = None;
        let route = match leg {
            Leg::Local => &self.local_route,
            Leg::Primary => &self.primary_route,
        };
        let error = server_lost(route);
        self.session.server_closed(leg, &error);
    }

    /// Gives everybody the last bytes.
    pub(super) async fn finish(&mut self) {
        let last_words = async {
            for (leg, stream) in [(Leg::Local, &mut self.local), (Leg::Primary, &mut self.primary)] {
                if let Some(stream) = stream {
                    let _ = stream.write_all_buf(self.session.server_output(leg)).await;
                    let _ = stream.shutdown().await;
                }
            }
            if !self.client_gone {
                let _ = self.client.write_all_buf(self.session.client_output()).await;
                let _ = self.client.shutdown().await;
            }
        };
        let _ = timeout(crate::FAREWELL_TIMEOUT, last_words).await;
    }
}
