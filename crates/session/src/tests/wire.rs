//! Messages that clients and servers write, and frames as text.

use crate::dispatch::{FLUSH_LSN_OID, INSERT_LSN_OID};
use crate::own;
use bytes::{BufMut as _, Bytes, BytesMut};
use pangea_pgwire::frame::{HEADER_LEN, backend_header};
use pangea_pgwire::message::{self, Bind, Execute, Parse, Target};
use pangea_pgwire::{build, fields};

/// A Query.
pub(super) fn query(text: &str) -> BytesMut {
    let mut out = BytesMut::new();
    build::query(&mut out, text);
    out
}

/// A frame whose body is these parts.
pub(super) fn frame(tag: u8, parts: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    build::frame(&mut out, tag, |out| parts.iter().for_each(|part| out.put_slice(part)));
    out
}

/// Extended messages in short: `P name text`, `B portal statement parameter`, `D S name`, `E portal limit`,
/// `C S name`, `S`, `H`, `d data`, `c`, `f`, `X`. `-` is an empty name, `_` a blank.
pub(super) fn extended(script: &str) -> BytesMut {
    let mut out = BytesMut::new();
    for line in script.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let tag = words.next().map_or(0, |word| word.as_bytes()[0]);
        let mut next = || words.next().map_or(String::new(), |word| word.replace('-', "").replace('_', " "));
        let (a, b, c) = (next(), next(), next());
        let (a_bytes, b_bytes) = (a.as_bytes(), b.as_bytes());
        out.extend_from_slice(&match tag {
            b'P' => {
                let text = line.splitn(3, ' ').nth(2).unwrap_or_default();
                frame(b'P', &[a_bytes, b"\0", text.as_bytes(), b"\0\0\0"])
            }
            b'B' if c.is_empty() => frame(b'B', &[a_bytes, b"\0", b_bytes, b"\0\0\0\0\0\0\0"]),
            b'B' => {
                let len = u32::try_from(c.len()).unwrap().to_be_bytes();
                frame(b'B', &[a_bytes, b"\0", b_bytes, b"\0\0\0\0\x01", &len, c.as_bytes(), b"\0\0"])
            }
            b'D' | b'C' => frame(tag, &[a_bytes, b_bytes, b"\0"]),
            b'E' => {
                let limit: u32 = b.parse().unwrap_or(0);
                frame(b'E', &[a_bytes, b"\0", &limit.to_be_bytes()])
            }
            b'd' => frame(b'd', &[a_bytes, b"\n"]),
            b'f' => frame(b'f', &[b"no\0"]),
            _ => frame(tag, &[]),
        });
    }
    out
}

/// Parse, Bind and Execute of an unnamed statement.
pub(super) fn unnamed(text: &str) -> BytesMut {
    extended(&format!("P - {text}; B - -; E - 0"))
}

/// The parameters of a Bind, as text.
pub(super) fn parameters(rest: &[u8]) -> Vec<String> {
    let short = |at: usize| rest.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let mut at = 2 + 2 * short(0);
    let count = short(at);
    at += 2;
    let mut values = Vec::new();
    for _ in 0..count {
        let Some(len) = rest.get(at..).and_then(<[u8]>::first_chunk::<4>) else { break };
        let len = u32::from_be_bytes(*len) as usize;
        let value = rest.get(at + 4..at + 4 + len).unwrap_or_default();
        values.push(String::from_utf8_lossy(value).into_owned());
        at += 4 + len;
    }
    values
}

/// Takes the first frame if it is whole.
pub(super) fn take_frame(bytes: &mut BytesMut) -> Option<Bytes> {
    let header = backend_header(bytes).unwrap()?;
    (bytes.len() >= header.frame_len()).then(|| bytes.split_to(header.frame_len()).freeze())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', " ").trim_end().to_owned()
}

/// A frame of a server in short.
pub(super) fn show_backend(frame: &[u8]) -> String {
    let body = &frame[HEADER_LEN..];
    let field = |tag| fields::field(body, tag).map(text).unwrap_or_default();
    match frame[0] {
        b'D' => format!("D:{}", message::first_column(body).map(text).unwrap_or_default()),
        b'C' => format!("C:{}", text(body)),
        b'E' if fields::is_fatal(body) => format!("FATAL:{}", field(b'C')),
        b'E' => format!("E:{}", field(b'C')),
        b'N' => format!("N:{}", field(b'C')),
        b'S' => {
            let (name, value) = message::parameter_status(body).unwrap();
            format!("S:{}={}", text(name), text(value))
        }
        b'Z' | b'd' => format!("{}:{}", char::from(frame[0]), text(body)),
        tag => char::from(tag).to_string(),
    }
}

/// A frame of a client in short.
pub(super) fn show_frontend(frame: &[u8]) -> String {
    let body = &frame[HEADER_LEN..];
    match frame[0] {
        b'F' if body.starts_with(&INSERT_LSN_OID.to_be_bytes()) => "insert_position".to_owned(),
        b'F' if is_position(body) => "position".to_owned(),
        b'Q' if body.starts_with(own::SETTINGS_SQL.as_bytes()) => "settings".to_owned(),
        b'Q' => format!("Q:{}", text(body)),
        b'P' => {
            let parse = Parse::read(body).unwrap();
            format!("P:{}:{}", text(parse.statement), text(parse.text))
        }
        b'B' => {
            let bind = Bind::read(body).unwrap();
            format!("B:{}:{}", text(bind.portal), text(bind.statement))
        }
        b'E' => format!("E:{}", text(Execute::read(body).unwrap().portal)),
        b'D' | b'C' => match Target::read(body).unwrap() {
            Target::Statement(name) => format!("{}:S{}", char::from(frame[0]), text(name)),
            Target::Portal(name) => format!("{}:P{}", char::from(frame[0]), text(name)),
        },
        tag => char::from(tag).to_string(),
    }
}

/// Whether a FunctionCall is the session's own question for a position.
pub(super) fn is_position(body: &[u8]) -> bool {
    [FLUSH_LSN_OID, INSERT_LSN_OID].iter().any(|oid| body.starts_with(&oid.to_be_bytes()))
}

/// Whether it is one of the session's own questions when a connection begins.
pub(super) fn is_greeting(frame: &[u8]) -> bool {
    let asks = |text: &str| frame.get(HEADER_LEN..).is_some_and(|body| body.starts_with(text.as_bytes()));
    frame.first() == Some(&b'Q') && [own::START_SQL, own::PRIMARY_SQL].into_iter().any(asks)
}

/// Whether it tells the client its token.
pub(super) fn is_token(frame: &[u8]) -> bool {
    frame.first() == Some(&b'S') && show_backend(frame).starts_with("S:pangea.token=")
}
