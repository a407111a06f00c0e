//! Moving bytes between sockets and buffers, and knowing where frames of a server begin.

use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use pangea_pgwire::fields;
use pangea_pgwire::frame::{HEADER_LEN, backend_header};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};

use crate::stream::Stream;

/// Bytes that one read asks for, and beyond which a buffer that is not drained stops further reads
/// (back-pressure).
pub(crate) const READ_LEN: usize = 16 * 1024;

/// A buffer with more room than this is given up when it is empty: idle clients are many.
const KEPT_LEN_MAX: usize = 1024;

thread_local! {
    /// Where reads go that may bring nothing: a stream that is idle needs no room of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_LEN].into_boxed_slice());
}

/// Reads once, appending to `buffer`. `Ok(0)` is the end of the stream.
#[inline(never)] // One copy, not one for each caller: docs/performance.md.
pub(crate) fn poll_fill(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // What comes in bulk is not copied.
    if buffer.len() >= KEPT_LEN_MAX {
        buffer.reserve(READ_LEN);
        return pin!(stream.read_buf(buffer)).poll(cx);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut read))?;
        buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// Writes until `buffer` is empty, then flushes.
#[inline]
pub(crate) fn poll_drain(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if buffer.is_empty() && buffer.capacity() <= KEPT_LEN_MAX && !stream.is_tls() {
        return Poll::Ready(Ok(()));
    }
    poll_write_all(stream, buffer, cx)
}

#[inline(never)] // One copy, not one for each caller: docs/performance.md.
fn poll_write_all(stream: &mut Stream, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !buffer.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, buffer))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        buffer.advance(written);
    }
    if buffer.capacity() > KEPT_LEN_MAX {
        *buffer = BytesMut::new();
    }
    Pin::new(stream).poll_flush(cx)
}

/// Frames as long as this, or shorter, are seen whole however they are cut: ReadyForQuery, BackendKeyData.
const CARRIED_LEN_MAX: usize = 32;

/// Follows the frames of a server's stream without keeping them.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    /// Bytes of the current frame's body still to come.
    rest: usize,
    /// The begin of a header, or of a short frame, that was cut by the end of a read.
    partial: Vec<u8>,
    /// Whether the last whole frame was an ErrorResponse that ends the connection.
    pub(crate) saw_fatal: bool,
}

impl FrameTracker {
    /// Takes the next bytes of the stream; calls `on_frame` with the tag of each frame, and with its body, which is empty if it
    /// is long and has been cut.
    ///
    /// # Errors
    /// When the stream is no stream of frames.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(u8, &[u8])) -> io::Result<()> {
        if !self.partial.is_empty() && !bytes.is_empty() {
            let mut joined = std::mem::take(&mut self.partial);
            let carried = joined.len();
            joined.extend_from_slice(&bytes[..bytes.len().min(CARRIED_LEN_MAX)]);
            let taken = self.take(&joined, &mut on_frame)?;
            match taken.checked_sub(carried) {
                Some(step) => bytes = &bytes[step..],
                // More of it is still to come.
                None => {
                    self.partial = joined;
                    return Ok(());
                }
            }
        }
        while !bytes.is_empty() {
            let step = self.rest.min(bytes.len());
            self.rest -= step;
            bytes = &bytes[step..];
            if bytes.is_empty() {
                break;
            }
            let taken = self.take(bytes, &mut on_frame)?;
            if taken == 0 {
                self.partial = bytes.to_vec();
                return Ok(());
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes one frame, or the begin of a long one; how many bytes that are. None when more is needed first.
    fn take(&mut self, bytes: &[u8], on_frame: &mut impl FnMut(u8, &[u8])) -> io::Result<usize> {
        let header =
            backend_header(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let Some(header) = header else { return Ok(0) };
        let body = bytes.get(HEADER_LEN..header.frame_len());
        if body.is_none() && header.frame_len() <= CARRIED_LEN_MAX {
            return Ok(0);
        }
        self.saw_fatal = header.tag == b'E' && body.is_some_and(fields::is_fatal);
        on_frame(header.tag, body.unwrap_or_default());
        let taken = header.frame_len().min(bytes.len());
        self.rest = header.frame_len() - taken;
        Ok(taken)
    }

    /// Whether the stream stands between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        self.rest == 0 && self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let mut stream = b"Z\0\0\0\x05IS\0\0\0\x08ab\0\0K\0\0\0\x04E\0\0\0\x34".to_vec();
        stream.extend_from_slice(&[b'x'; 0x30]);
        for cut in 0..stream.len() {
            for again in cut..stream.len() {
                let mut tracker = FrameTracker::default();
                let mut seen = Vec::new();
                for part in [&stream[..cut], &stream[cut..again], &stream[again..]] {
                    tracker.feed(part, |tag, body| seen.push((tag, body.len()))).unwrap();
                }
                assert!(tracker.at_boundary(), "cut at {cut} and {again}");
                assert_eq!(seen[..3], [(b'Z', 1), (b'S', 4), (b'K', 0)], "cut at {cut} and {again}");
                assert!(matches!(seen[3..], [(b'E', 0 | 0x30)]), "cut at {cut} and {again}");
            }
        }
        let mut tracker = FrameTracker::default();
        tracker.feed(b"Z\0\0", |_, _| {}).unwrap();
        assert!(!tracker.at_boundary());
        assert!(tracker.feed(b"\0\0", |_, _| {}).is_err());
    }
}
