//! The protocol byte by byte.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::{CancelToken, NoTls};

/// Longest wait for what has to come.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_LEN: usize = 5;

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    input: BytesMut,
}

/// A frame with tag and length.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// A first packet: length, code, and names and values that end with a zero each.
pub(crate) fn startup(code: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    if !parameters.is_empty() {
        body.push(0);
    }
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], &body].concat()
}

impl Raw {
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, input: BytesMut::new() }
    }

    /// Sends what the other side still takes: it may have closed in the middle of our bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(READ_TIMEOUT, self.stream.write_all(bytes)).await.expect("nobody reads");
    }

    /// One byte that is no frame; `None` at the end.
    pub(crate) async fn byte(&mut self) -> Option<u8> {
        while self.input.is_empty() {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.input.get_u8())
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let [tag, a, b, c, d, ..] = self.input[..] {
                let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                if self.input.len() >= length {
                    let mut frame = self.input.split_to(length).freeze();
                    frame.advance(HEADER_LEN);
                    return Some((tag, frame));
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Skips frames up to one with this tag.
    pub(crate) async fn until(&mut self, tag: u8) -> Bytes {
        while let Some((found, body)) = self.frame().await {
            if found == tag {
                return body;
            }
            assert_ne!(found, b'E', "{:?}", String::from_utf8_lossy(&body));
        }
        panic!("the connection ended before a {:?}", char::from(tag));
    }

    /// SQLSTATE and message of the next error; `None` when the connection ends without.
    pub(crate) async fn error(&mut self) -> Option<(String, String)> {
        loop {
            let (tag, body) = self.frame().await?;
            if tag == b'E' {
                let field = |name: u8| {
                    let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&name));
                    String::from_utf8_lossy(found.and_then(|field| field.get(1..)).unwrap_or_default())
                        .into_owned()
                };
                return Some((field(b'C'), field(b'M')));
            }
        }
    }

    /// Waits for the end of the connection, whatever comes before.
    pub(crate) async fn closed(&mut self) {
        while self.fill().await {
            self.input.clear();
        }
    }

    /// Logs in: from a start-up packet to the first ReadyForQuery.
    pub(crate) async fn log_in(&mut self, startup: &[u8], password: &str) {
        self.send(startup).await;
        self.prove(password).await;
        self.until(b'Z').await;
    }

    /// SCRAM-SHA-256, by another implementation than Pangea's.
    pub(crate) async fn prove(&mut self, password: &str) {
        let body = self.until(b'R').await;
        assert_eq!(body[..4], [0, 0, 0, 10], "SASL is asked for");
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = scram.message();
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        self.send(&frame(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat())).await;
        let body = self.until(b'R').await;
        scram.update(&body[4..]).unwrap();
        self.send(&frame(b'p', scram.message())).await;
        let body = self.until(b'R').await;
        scram.finish(&body[4..]).unwrap();
    }

    async fn fill(&mut self) -> bool {
        let read = timeout(READ_TIMEOUT, self.stream.read_buf(&mut self.input)).await.expect("silence");
        // A reset is an end, too.
        read.unwrap_or(0) > 0
    }
}

/// Cancels as libpq does: returns when the server has closed the connection of the request, from which moment on
/// it can hit nothing that is sent later. (tokio-postgres itself does not wait for that.)
pub(crate) async fn cancel(token: &CancelToken, address: SocketAddr) {
    let stream = UntilClosed(TcpStream::connect(address).await.unwrap());
    let done = timeout(READ_TIMEOUT, token.cancel_query_raw(stream, NoTls));
    done.await.expect("the cancel request stays open").unwrap();
}

/// A stream whose shutdown is the other side's.
struct UntilClosed(TcpStream);

impl AsyncRead for UntilClosed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for UntilClosed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        assert!(buffer.filled().is_empty(), "a cancel request is never answered");
        Poll::Ready(Ok(()))
    }
}
