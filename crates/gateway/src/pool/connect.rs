//! A new server connection for a pool: from the start-up message to the point where any session can use it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::{FrameError, HEADER_LEN, backend_header};
use pangea_pgwire::startup::{CancelKey, Startup};
use pangea_pgwire::{ErrorFields, build, message};
use pangea_session::{START_SQL, ServerState, Welcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::endpoint::unreachable;
use crate::links::Route;
use crate::stream::Stream;

/// Longest wait for a server to take a connection.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a connection, and asks what sessions have to know.
pub(crate) async fn open(
    route: &Route,
    startup: &Startup,
) -> Result<(Stream, Box<ServerState>, Welcome), ErrorFields> {
    match timeout(START_TIMEOUT, start(route, startup)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unreachable(route, &std::io::ErrorKind::TimedOut.into())),
    }
}

async fn start(route: &Route, startup: &Startup) -> Result<(Stream, Box<ServerState>, Welcome), ErrorFields> {
    let failed = |error: std::io::Error| unreachable(route, &error);
    let mut stream = route.open().await.map_err(failed)?;
    let mut wire = BytesMut::new();
    startup.write(&mut wire);
    build::query(&mut wire, START_SQL);
    stream.write_all(&wire).await.map_err(failed)?;
    let mut answer = Answer::default();
    let mut input = BytesMut::new();
    while answer.ready < 2 {
        while answer.ready < 2
            && let Some(frame) =
                take_frame(&mut input).map_err(|error| failed(std::io::Error::other(error)))?
        {
            answer.take(&frame)?;
        }
        if answer.ready < 2 && stream.read_buf(&mut input).await.map_err(failed)? == 0 {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
    let state = Box::new(ServerState::new(answer.key, &answer.start));
    Ok((stream, state, Welcome { parameters: answer.parameters, start: answer.start }))
}

/// Takes the first frame if it is whole.
pub(crate) fn take_frame(input: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    let len = backend_header(input)?.map(|header| header.frame_len()).filter(|len| input.len() >= *len);
    Ok(len.map(|len| input.split_to(len).freeze()))
}

/// What a server says to a new connection.
#[derive(Default)]
struct Answer {
    parameters: Vec<(Bytes, Bytes)>,
    key: Option<CancelKey>,
    start: Vec<Bytes>,
    /// How often it was ready for a query.
    ready: u8,
}

impl Answer {
    fn take(&mut self, frame: &Bytes) -> Result<(), ErrorFields> {
        let body = &frame[HEADER_LEN..];
        match frame.first() {
            Some(b'E') => return Err(ErrorFields::of_server(body)),
            Some(b'S') => {
                if let Ok((name, value)) = message::parameter_status(body) {
                    let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
                    self.parameters.retain(|(known, _)| *known != name);
                    self.parameters.push((name, value));
                }
            }
            Some(b'K') => {
                if let Some((process, secret)) = body.split_first_chunk::<4>() {
                    let process = u32::from_be_bytes(*process);
                    self.key = Some(CancelKey { process, secret: secret.to_vec() });
                }
            }
            Some(b'D') => {
                let value = message::first_column(body).unwrap_or_default();
                self.start.push(Bytes::copy_from_slice(value));
            }
            Some(b'Z') => self.ready += 1,
            _ => {}
        }
        Ok(())
    }
}
