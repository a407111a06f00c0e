//! Ahead of a switchover: a connection to the region that is to be the next primary, made while the present one still
//! serves.
//!
//! When a hold ends all that waited would have server processes started, at once. So sessions that use the primary have
//! theirs started before, on the target while that is a standby; it goes on when the server is promoted. Nothing but the
//! start-up message is sent on it before the region is primary of the next epoch (ONE-WRITER), which the message names.
//! Settings of roles and databases are those that the standby has replayed by then.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use pangea_control::Gate;
use pangea_pgwire::frame::backend_header;
use pangea_pgwire::startup::Startup;
use pangea_session::{Leg, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Running;
use crate::links::{Kind, Route};
use crate::stream::Stream;

/// Longest time for a connection that is made ahead.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it is kept.
const AHEAD_AGE_MAX: Duration = Duration::from_secs(30);

/// How long a session waits for one that is not there yet before it opens another.
const PATIENCE: Duration = Duration::from_millis(500);

/// Longest answer to a start-up message.
const GREETING_LEN_MAX: usize = 16 << 10;

/// ReadyForQuery.
const LAST: u8 = b'Z';

/// A connection that is made, or has been made, ahead.
pub(super) struct Ahead {
    route: Route,
    /// The start-up message of a session that does not begin ahead.
    startup: BytesMut,
    /// Asks for what has been made.
    wanted: oneshot::Sender<()>,
    /// Its only task makes it and keeps it, and ends with this.
    making: JoinSet<io::Result<Made>>,
}

struct Made {
    stream: Stream,
    /// What the server has said.
    greeting: BytesMut,
}

impl Ahead {
    fn new(route: Route, mut startup: Startup) -> Self {
        let (mut wire, mut label) = (BytesMut::new(), BytesMut::new());
        route.label(&mut startup, Kind::Ahead);
        startup.write(&mut wire);
        route.label(&mut startup, Kind::Session);
        startup.write(&mut label);
        let (wanted, asked) = oneshot::channel();
        let mut making = JoinSet::new();
        making.spawn(make_and_keep(route.clone(), wire, asked));
        Self { route, startup: label, wanted, making }
    }

    /// The connection; `None` when there is none to use.
    pub(super) async fn opened(mut self) -> Option<Opened> {
        // An error: it has ended already.
        let _ = self.wanted.send(());
        let made = timeout(PATIENCE, self.making.join_next()).await.ok()??;
        let Made { stream, greeting } = made.ok()?.ok()?;
        Some(Opened { stream, sent: self.startup.len(), greeting })
    }
}

async fn make_and_keep(route: Route, startup: BytesMut, asked: oneshot::Receiver<()>) -> io::Result<Made> {
    let mut generation = route.generation();
    let mut made = timeout(AHEAD_TIMEOUT, make(&route, &startup)).await??;
    tokio::select! {
        biased;
        () = generation.lost() => return Err(io::ErrorKind::ConnectionReset.into()),
        _ = asked => {}
        () = sleep(AHEAD_AGE_MAX) => return Err(io::ErrorKind::TimedOut.into()),
    }
    // What it has said meanwhile: that it is ready, or has ended.
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(read) = pin!(made.stream.read_buf(&mut made.greeting)).poll(&mut cx) {
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        has_said(&made.greeting, LAST)?;
    }
    Ok(made)
}

/// Opens a connection, and has the server begin the session.
async fn make(route: &Route, startup: &[u8]) -> io::Result<Made> {
    let mut stream = route.open().await?;
    stream.write_all(startup).await?;
    let mut greeting = BytesMut::new();
    // The gateway of the other region keeps the ReadyForQuery that follows until the server is primary.
    let last = if matches!(route, Route::Link(..)) { b'K' } else { LAST };
    while !has_said(&greeting, last)? {
        if stream.read_buf(&mut greeting).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Made { stream, greeting })
}

/// Whether this frame is among those with which a server has answered a start-up message.
///
/// # Errors
/// When it refuses.
fn has_said(mut greeting: &[u8], tag: u8) -> io::Result<bool> {
    if greeting.len() > GREETING_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut found = false;
    while let Some(header) = backend_header(greeting).map_err(io::Error::other)? {
        if header.tag == b'E' {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let Some(rest) = greeting.get(header.frame_len()..) else { break };
        found |= header.tag == tag;
        greeting = rest;
    }
    Ok(found)
}

/// A connection to the primary.
pub(super) struct Opened {
    stream: Stream,
    /// Bytes that have been sent on it: the start-up message, or nothing.
    sent: usize,
    /// What the server has said to that.
    greeting: BytesMut,
}

impl From<Stream> for Opened {
    fn from(stream: Stream) -> Self {
        Self { stream, sent: 0, greeting: BytesMut::new() }
    }
}

impl Opened {
    /// Tells the session what has been said on it.
    pub(super) fn take(self, session: &mut Session) -> Stream {
        session.server_output(Leg::Primary).advance(self.sent);
        session.server_input(Leg::Primary).extend_from_slice(&self.greeting);
        self.stream
    }
}

impl Running {
    /// Makes a connection to the next primary when there is going to be one and the session is using the present one.
    /// Sessions that rest make theirs when they need it.
    pub(super) fn look_ahead(&mut self) {
        if self.wants_ahead()
            && let Some(route) = self.successor.clone()
        {
            self.ahead = Some(Box::new(Ahead::new(route, self.session.startup(Leg::Primary).clone())));
        }
    }

    pub(super) fn wants_ahead(&self) -> bool {
        self.successor.is_some() && self.ahead.is_none() && self.pooled.is_none() && self.session.goes_along()
    }

    /// Learns of the next primary.
    pub(super) fn follow_successor(&mut self, gate: &Gate) {
        let successor = gate.successor.as_ref().filter(|_| gate.hold.is_some());
        self.successor = successor.map(|region| self.shared.route_to(region, gate.epoch.next()));
        // What was rolled back, or was not used after an earlier switchover, is of no use any more.
        let to = self.successor.as_ref().unwrap_or(&self.primary_route);
        self.ahead.take_if(|ahead| !ahead.route.is_same(to));
    }

    /// What was made ahead, if it leads to the primary and begins as the session wants to.
    pub(super) fn take_ahead(&mut self) -> Option<Box<Ahead>> {
        let ahead = self.ahead.take_if(|ahead| ahead.route.is_same(&self.primary_route))?;
        self.session.server_output(Leg::Primary).starts_with(&ahead.startup).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_been_said_when_it_is_whole() {
        let whole: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";
        for (tag, end) in [(b'R', 9), (b'K', 22), (b'Z', 28)] {
            for len in 0..=whole.len() {
                assert_eq!(has_said(&whole[..len], tag).ok(), Some(len >= end), "{len}");
            }
        }
    }

    #[test]
    fn a_server_that_refuses_is_not_used() {
        let error = b"R\0\0\0\x08\0\0\0\0E\0\0\0\x0cSFATAL\0\0";
        assert!(has_said(error, b'R').is_err());
        assert!(has_said(b"HTTP/1.1 400", b'R').is_err());
    }
}
