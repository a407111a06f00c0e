//! Writing messages.

use bytes::{BufMut, BytesMut};

/// Writes a frame: tag, length, and what `body` writes.
///
/// Callers write bodies that are far below the 1 GB that the length field of the protocol allows.
#[expect(clippy::cast_possible_truncation, reason = "see the doc comment")]
pub fn frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a C string. A NUL in it would end it early: the caller passes text that came from a C string.
pub fn cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// Query: a simple query.
pub fn query(out: &mut BytesMut, text: &str) {
    frame(out, b'Q', |out| cstr(out, text.as_bytes()));
}

/// A Parse; `types` are number and OIDs of the parameter types, as in the message.
pub fn parse(out: &mut BytesMut, statement: &[u8], text: &[u8], types: &[u8]) {
    frame(out, b'P', |out| {
        cstr(out, statement);
        cstr(out, text);
        out.extend_from_slice(types);
    });
}

/// A Bind; `rest` are formats and values, as in the message.
pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: &[u8]) {
    frame(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.extend_from_slice(rest);
    });
}

/// Sync.
pub fn sync(out: &mut BytesMut) {
    out.put_slice(&[b'S', 0, 0, 0, 4]);
}

/// Terminate.
pub fn terminate(out: &mut BytesMut) {
    out.put_slice(&[b'X', 0, 0, 0, 4]);
}

/// Close of a prepared statement.
pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    frame(out, b'C', |out| {
        out.put_u8(b'S');
        cstr(out, name);
    });
}

/// Execute of the unnamed portal, all rows.
pub fn execute_unnamed(out: &mut BytesMut) {
    out.put_slice(&[b'E', 0, 0, 0, 9, 0, 0, 0, 0, 0]);
}

/// FunctionCall of a function without arguments; its result is asked for in binary.
pub fn function_call(out: &mut BytesMut, oid: u32) {
    frame(out, b'F', |out| {
        out.put_u32(oid);
        // No argument formats, no arguments, binary result.
        out.put_slice(&[0, 0, 0, 0, 0, 1]);
    });
}

/// ReadyForQuery with a transaction status: `I`, `T` or `E`.
pub fn ready_for_query(out: &mut BytesMut, status: u8) {
    out.put_slice(&[b'Z', 0, 0, 0, 5, status]);
}

/// ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    frame(out, b'S', |out| {
        cstr(out, name.as_bytes());
        cstr(out, value.as_bytes());
    });
}

/// BackendKeyData.
pub fn backend_key_data(out: &mut BytesMut, key: &crate::startup::CancelKey) {
    frame(out, b'K', |out| {
        out.put_u32(key.process);
        out.put_slice(&key.secret);
    });
}

/// NegotiateProtocolVersion: the newest minor version spoken here, and the `_pq_.` options that are not known.
#[expect(clippy::cast_possible_truncation, reason = "a first packet of 10,000 bytes names fewer options")]
pub fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unknown_options: &[&str]) {
    frame(out, b'v', |out| {
        out.put_u32(3 << 16 | u32::from(minor));
        out.put_u32(unknown_options.len() as u32);
        for option in unknown_options {
            cstr(out, option.as_bytes());
        }
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    frame(out, b'R', |out| out.put_u32(0));
}

/// AuthenticationSASL with the mechanisms offered.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    frame(out, b'R', |out| {
        out.put_u32(10);
        for mechanism in mechanisms {
            cstr(out, mechanism.as_bytes());
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    frame(out, b'R', |out| {
        out.put_u32(11);
        out.put_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    frame(out, b'R', |out| {
        out.put_u32(12);
        out.put_slice(data);
    });
}

/// SASLInitialResponse.
#[expect(clippy::cast_possible_truncation, reason = "SCRAM messages are short")]
pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &str, data: &[u8]) {
    frame(out, b'p', |out| {
        cstr(out, mechanism.as_bytes());
        out.put_u32(data.len() as u32);
        out.put_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut BytesMut, data: &[u8]) {
    frame(out, b'p', |out| out.put_slice(data));
}
