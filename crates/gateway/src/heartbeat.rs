//! Heartbeats between gateways: is the peer there, what is its epoch, how far is its server.
//!
//! A heartbeat is a simple query on a link connection of its own, answered by the peer's gateway itself. Question and
//! answer carry what the two regions' control planes tell one another; whoever has news does not wait for its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, BytesMut};
use pangea_base::{Epoch, Lsn, Position, RegionId};
use pangea_control::PeerState;
use pangea_pgwire::build;
use pangea_pgwire::frame::{HEADER_LEN, backend_header};
use pangea_pgwire::startup::{Startup, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::links::{Kind, Link};
use crate::shared::Shared;
use crate::stream::Stream;

/// Pause between two heartbeats.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// A peer that does not answer for so long is lost. Several times the longest round trip on Earth.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest question and answer that is taken.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// The control plane as the gateway sees it: it carries what regions tell one another.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// What the other regions are told, once it is known.
    fn state(&self) -> Option<PeerState>;

    /// A region tells its state and asks for this one's.
    fn asked(&self, state: PeerState) -> Option<PeerState>;

    /// A region has answered what it was asked at `asked`.
    fn heard(&self, asked: Instant, state: PeerState);

    /// A region does not answer.
    fn lost(&self, region: &RegionId);

    /// The configuration is to be read again, as on SIGHUP: names of the settings that have changed and wait for the next
    /// start.
    ///
    /// # Errors
    /// Why it was not taken over. Nothing has changed then.
    fn reload(&self) -> Result<Vec<String>, String>;

    /// Changes when the others are to be told at once.
    fn news(&self) -> watch::Receiver<u64>;
}

/// What a peer said last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pulse {
    pub(crate) reachable: bool,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) position: Option<Position>,
    pub(crate) received: Option<Lsn>,
    pub(crate) round_trip: Option<Duration>,
}

/// What a heartbeat is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    epoch: Option<Epoch>,
    position: Option<Position>,
    /// What a standby has received.
    received: Option<Lsn>,
    /// How long before the answer the server was at that position.
    age: Duration,
    /// What the region says of itself.
    state: Option<PeerState>,
}

/// Asks a peer, for ever.
pub(crate) async fn watch_peer(link: Arc<Link>, pulse: watch::Sender<Pulse>, shared: Arc<Shared>) {
    loop {
        let error = match beat(&link, &pulse, &shared).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // On a line of its own: a borrow that lives while the value is replaced is a deadlock.
        let last = *pulse.borrow();
        pulse.send_replace(Pulse { reachable: false, position: None, received: None, ..last });
        shared.control.lost(&link.region);
        if last.reachable {
            tracing::warn!(peer = %link.region, %error, "peer region does not answer");
        }
        // A peer that refuses or closes has told every connection so. One that is silent has not; and while it was
        // known to be away, a late refusal says nothing about connections that were opened since.
        if last.reachable || error.kind() == std::io::ErrorKind::TimedOut {
            link.report_lost();
            shared.pools.renew_region(&link.region);
        }
        sleep(INTERVAL).await;
    }
}

async fn beat(
    link: &Link,
    pulse: &watch::Sender<Pulse>,
    shared: &Shared,
) -> std::io::Result<std::convert::Infallible> {
    let mut news = shared.control.news();
    let mut stream = link.connect().await?;
    let mut out = BytesMut::new();
    let parameters = vec![("user".to_owned(), "pangea".to_owned())];
    let mut startup = Startup { version: Version { major: 3, minor: 0 }, parameters };
    link.label(&mut startup, Kind::Heartbeat, Epoch(0));
    startup.write(&mut out);
    let mut input = BytesMut::new();
    loop {
        news.borrow_and_update();
        let own = shared.control.state().and_then(|state| serde_json::to_string(&state).ok());
        build::query(&mut out, &own.unwrap_or_default());
        let asked = Instant::now();
        let exchange = async {
            stream.write_all_buf(&mut out).await?;
            answer(&mut stream, &mut input).await
        };
        let Answer { epoch, position, received, age, state } = timeout(ANSWER_TIMEOUT, exchange).await??;
        let round_trip = Some(asked.elapsed());
        let gate = shared.gate.now();
        let takes_writes = state.as_ref().is_some_and(|state| state.writable && state.epoch == gate.epoch);
        if let Some(position) = position.filter(|_| gate.primary == link.region && takes_writes) {
            shared.freshness.heard(asked, age, position, gate.epoch);
        }
        if let Some(state) = state.filter(|state| state.region == link.region) {
            shared.control.heard(asked, state);
        }
        let before = pulse.send_replace(Pulse { reachable: true, epoch, position, received, round_trip });
        if !before.reachable {
            tracing::info!(peer = %link.region, "peer region answers");
        }
        let _ = timeout(INTERVAL, news.changed()).await;
    }
}

/// Reads frames up to ReadyForQuery; the DataRow among them is the answer.
async fn answer(stream: &mut Stream, input: &mut BytesMut) -> std::io::Result<Answer> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut found = None;
    loop {
        while let Some(header) = backend_header(input).map_err(|_| invalid())? {
            if header.frame_len() > ANSWER_LEN_MAX {
                return Err(invalid());
            }
            if input.len() < header.frame_len() {
                break;
            }
            let mut frame = input.split_to(header.frame_len());
            frame.advance(HEADER_LEN);
            match header.tag {
                b'D' => found = Some(read_row(&frame).ok_or_else(invalid)?),
                b'E' => return Err(std::io::ErrorKind::ConnectionRefused.into()),
                b'Z' => return found.ok_or_else(invalid),
                _ => {}
            }
        }
        if stream.read_buf(input).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn read_row(mut body: &[u8]) -> Option<Answer> {
    body.try_get_u16().ok()?;
    let mut column = || {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else { return Some(None) };
        let text = std::str::from_utf8(body.get(..length)?).ok()?;
        body.advance(length);
        Some(Some(text))
    };
    let epoch = column()?.and_then(|text| text.parse().ok());
    let position = column()?.and_then(|text| text.parse().ok());
    let received = column()?.and_then(|text| text.parse().ok());
    let age = column()?.and_then(|text| text.parse().ok()).map(Duration::from_micros)?;
    let state = column()?.and_then(|text| serde_json::from_str(text).ok());
    Some(Answer { epoch, position, received, age, state })
}

/// Answers the heartbeats of a peer until it goes.
pub(crate) async fn serve(mut stream: Stream, mut input: BytesMut, shared: &Shared) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    build::authentication_ok(&mut out);
    loop {
        while let Some(header) = pangea_pgwire::frame::frontend_header(&input)
            .ok()
            .flatten()
            .filter(|header| input.len() >= header.frame_len())
        {
            let frame = input.split_to(header.frame_len());
            if header.tag == b'Q' {
                let asked = frame.get(HEADER_LEN..frame.len().saturating_sub(1)).unwrap_or_default();
                let state = match serde_json::from_slice(asked) {
                    Ok(state) => shared.control.asked(state),
                    // Who does not know the topology yet says nothing.
                    Err(_) => shared.control.state(),
                };
                let epoch = shared.gate.now().epoch;
                // What was asked of a server before it was promoted is not where the primary is.
                let known =
                    shared.position.known().filter(|known| !(shared.is_primary() && known.in_recovery));
                let age = known.as_ref().map_or(Duration::ZERO, |known| known.asked.elapsed());
                let received = known.as_ref().and_then(|known| known.received);
                let position = known.map(|known| known.position());
                write_answer(&mut out, Answer { epoch: Some(epoch), position, received, age, state });
            }
        }
        if input.len() > ANSWER_LEN_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        stream.write_all_buf(&mut out).await?;
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "numbers and positions are short texts")]
fn write_answer(out: &mut BytesMut, answer: Answer) {
    let columns = [
        answer.epoch.map(|epoch| epoch.to_string()),
        answer.position.map(|position| position.to_string()),
        answer.received.map(|lsn| lsn.to_string()),
        Some(answer.age.as_micros().to_string()),
        answer.state.and_then(|state| serde_json::to_string(&state).ok()),
    ];
    build::frame(out, b'D', |out| {
        out.put_u16(columns.len() as u16);
        for column in columns {
            match column {
                Some(text) => {
                    out.put_u32(text.len() as u32);
                    out.put_slice(text.as_bytes());
                }
                None => out.put_i32(-1),
            }
        }
    });
    build::ready_for_query(out, b'I');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for position in [None, "2:1/FF".parse().ok()] {
            let mut out = BytesMut::new();
            let age = Duration::from_micros(1234);
            let answer = Answer { epoch: Some(Epoch(7)), position, received: Some(Lsn(9)), age, state: None };
            write_answer(&mut out, answer.clone());
            let header = backend_header(&out).unwrap().unwrap();
            let row = read_row(&out[HEADER_LEN..header.frame_len()]);
            assert_eq!(row, Some(answer));
        }
        assert_eq!(read_row(b"\0\x02\0\0\0\x09abc"), None);
    }
}
