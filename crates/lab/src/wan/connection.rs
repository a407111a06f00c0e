//! One TCP connection over an emulated link.
//!
//! Each direction is a delay line: a reader stamps what it reads with the moment of its arrival, a writer
//! delivers it then. Order is kept whatever the jitter. The bytes on the way are bounded, so that a fast sender
//! meets back-pressure as it would with a full TCP window.
//!
//! What is not emulated: `connect` itself returns at once, because the kernel answers it. The round trip of
//! the handshake is charged to the first bytes instead; whoever waits for an answer cannot tell the difference.
//! Over a cut link a connection is accepted and then silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::direction::Direction;
use super::timer::Timer;

/// Bytes on the way in one direction of one connection: at 115 ms one way still 1.1 Gbit/s.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pieces on the way; small messages run into this bound before the one in bytes.
const IN_FLIGHT_PIECES_MAX: usize = 16 * 1024;
/// Bytes of one read.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Both directions of a link, as seen by the side that dials.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) forth: Arc<Direction>,
    pub(super) back: Arc<Direction>,
}

/// Something on the way. The end of the stream travels like bytes do.
struct Piece {
    due: Instant,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Carries a connection to `target` until both ends have closed it or one has broken.
pub(super) async fn carry(client: TcpStream, target: SocketAddr, path: Path) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let handshake = path.back.arrival(path.forth.arrival(Instant::now(), 0), 0);
    Timer::new()?.until(handshake).await?;
    path.forth.passable().await;
    path.back.passable().await;
    // Refused: dropping the client's connection is the answer, one round trip after it asked.
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::try_join!(
        delay_line(client_read, server_write, path.forth),
        delay_line(server_read, client_write, path.back),
    )?;
    Ok(())
}

async fn delay_line(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: Arc<Direction>,
) -> std::io::Result<()> {
    let (send, receive) = mpsc::channel(IN_FLIGHT_PIECES_MAX);
    tokio::try_join!(read(from, send, &direction), deliver(to, receive, &direction))?;
    Ok(())
}

async fn read(
    mut from: OwnedReadHalf,
    send: mpsc::Sender<Piece>,
    direction: &Direction,
) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
    let mut buffer = BytesMut::new();
    let mut last_due = Instant::now();
    loop {
        buffer.reserve(PIECE_BYTES_MAX);
        // A reset travels as an end: the other side learns of it when it would have.
        let length = (&mut from).take(PIECE_BYTES_MAX as u64).read_buf(&mut buffer).await.unwrap_or(0);
        // Monotonic, because jitter must not let later bytes overtake earlier ones.
        last_due = last_due.max(direction.arrival(Instant::now(), length));
        let permits = u32::try_from(length).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(permits).await else { return Ok(()) };
        let piece = Piece { due: last_due, bytes: buffer.split().freeze(), _room: permit };
        if send.send(piece).await.is_err() || length == 0 {
            return Ok(());
        }
    }
}

async fn deliver(
    mut to: OwnedWriteHalf,
    mut receive: mpsc::Receiver<Piece>,
    direction: &Direction,
) -> std::io::Result<()> {
    let mut timer = Timer::new()?;
    while let Some(piece) = receive.recv().await {
        timer.until(piece.due).await?;
        direction.passable().await;
        if piece.bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&piece.bytes).await?;
    }
    Ok(())
}
