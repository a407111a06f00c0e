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
pub(crate) fn poll_drain(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
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

/// Follows the frames of a server's stream without keeping them.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    /// Bytes of the current frame's body still to come.
    rest: usize,
    /// The begin of a header that was cut by the end of a read.
    partial: Vec<u8>,
    /// Whether the last whole frame was an ErrorResponse that ends the connection.
    pub(crate) saw_fatal: bool,
}

impl FrameTracker {
    /// Takes the next bytes of the stream; calls `on_frame` with tag and body of each frame that is whole in them.
    ///
    /// # Errors
    /// When the stream is no stream of frames.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(u8, &[u8])) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let step = self.rest.min(bytes.len());
                self.rest -= step;
                bytes = &bytes[step..];
                continue;
            }
            let joined;
            let mut view = bytes;
            let carried = self.partial.len();
            if carried > 0 {
                let missing = (HEADER_LEN - carried).min(bytes.len());
                self.partial.extend_from_slice(&bytes[..missing]);
                joined = std::mem::take(&mut self.partial);
                view = &joined;
            }
            let header =
                backend_header(view).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some(header) = header else {
                self.partial = view.to_vec();
                return Ok(());
            };
            bytes = &bytes[HEADER_LEN - carried..];
            self.saw_fatal = false;
            if let Some(body) = bytes.get(..header.body_len) {
                self.saw_fatal = header.tag == b'E' && fields::is_fatal(body);
                on_frame(header.tag, body);
                bytes = &bytes[header.body_len..];
            } else {
                self.rest = header.body_len;
            }
        }
        Ok(())
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
        let stream = b"Z\0\0\0\x05IS\0\0\0\x08ab\0\0K\0\0\0\x04";
        for cut in 0..stream.len() {
            let mut tracker = FrameTracker::default();
            let mut seen = 0;
            tracker.feed(&stream[..cut], |_, _| seen += 1).unwrap();
            tracker.feed(&stream[cut..], |_, _| seen += 1).unwrap();
            assert!(tracker.at_boundary(), "cut at {cut}");
            assert!(seen >= 2, "cut at {cut}: a frame is missed only when its body is cut");
        }
        let mut tracker = FrameTracker::default();
        tracker.feed(b"Z\0\0", |_, _| {}).unwrap();
        assert!(!tracker.at_boundary());
        assert!(tracker.feed(b"\0\0", |_, _| {}).is_err());
    }
}
