//! The uplink: a socket on which this region's own PostgreSQL reaches the primary's server.
//!
//! A standby's `primary_conninfo` names this socket and never changes; the gateway connects it to whichever
//! region is primary. Base backup and rewind come the same way. The directory is 0700: only the OS user of the
//! servers gets in, as on the servers' own sockets.

use std::sync::Arc;

use bytes::BytesMut;
use pangea_pgwire::startup::{FirstPacket, parse_first_packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::endpoint::{Via, relay};
use crate::links::Kind;
use crate::shared::Shared;
use crate::stream::Stream;

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, unix: UnixStream) {
    let mut stream = Stream::Unix(unix);
    let mut input = BytesMut::new();
    loop {
        match parse_first_packet(&input) {
            Ok(Some((packet, length))) => {
                let _ = input.split_to(length);
                match packet {
                    FirstPacket::Startup(startup) => {
                        let via = Via::new(shared.primary_route(), Kind::Uplink);
                        return relay(shared, stream, input, startup, via).await;
                    }
                    FirstPacket::Cancel(key) => return shared.cancels.cancel(&key).await,
                    FirstPacket::SslRequest | FirstPacket::GssEncRequest => {
                        if stream.write_all(b"N").await.is_err() {
                            return;
                        }
                    }
                }
            }
            Ok(None) => {
                if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
