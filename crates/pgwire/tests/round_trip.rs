//! What is written is read again, however it is cut into pieces; what is no message is refused without a panic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use pangea_pgwire::frame::{
    AUTH_BODY_MAX, HEADER_LEN, LARGE_BODY_MAX, SMALL_BODY_MAX, backend_header, frontend_header,
};
use pangea_pgwire::message::{self, Authentication, Bind, Execute, Parse, Target};
use pangea_pgwire::startup::{
    CANCEL_SECRET_LEN_MAX, CancelKey, FirstPacket, Startup, Version, parse_first_packet, write_ssl_request,
};
use pangea_pgwire::{ErrorFields, SqlState, build, fields};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Bytes that a C string can hold.
fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 0..40)
}

/// Text that a C string can hold.
fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,40}"
}

fn startup() -> impl Strategy<Value = Startup> {
    let others = btree_map("[a-z_.]{1,12}", text(), 0..8);
    (0..=2_u16, "[^\u{0}]{1,20}", others).prop_map(
        |(minor, user, mut others): (u16, String, BTreeMap<_, _>)| {
            others.insert("user".to_owned(), user);
            Startup { version: Version { major: 3, minor }, parameters: others.into_iter().collect() }
        },
    )
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

/// The body of the one frame that `write` writes.
fn body(tag: u8, write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = written(write);
    let header = backend_header(&out).unwrap().unwrap();
    assert_eq!((header.tag, header.frame_len()), (tag, out.len()));
    out.split_off(HEADER_LEN)
}

proptest! {
    #[test]
    fn first_packets(sent in startup(), process: u32, secret in vec(any::<u8>(), 4..=CANCEL_SECRET_LEN_MAX), after: Vec<u8>) {
        let key = CancelKey { process, secret };
        let packets = [
            (written(|out| sent.write(out)), FirstPacket::Startup(sent)),
            (written(|out| key.write_request(out)), FirstPacket::Cancel(key)),
            (written(write_ssl_request), FirstPacket::SslRequest),
        ];
        for (mut bytes, packet) in packets {
            let len = bytes.len();
            for part in 0..len {
                prop_assert_eq!(parse_first_packet(&bytes[..part]), Ok(None));
            }
            bytes.extend_from_slice(&after);
            prop_assert_eq!(parse_first_packet(&bytes), Ok(Some((packet, len))));
        }
    }

    #[test]
    fn start_up_parameters_are_found(sent in startup(), value in "[a-z0-9]{1,9}") {
        for (key, value) in &sent.parameters {
            prop_assert_eq!(sent.get(key), Some(value.as_str()));
        }
        let mut sent = sent;
        sent.parameters.retain(|(key, _)| key != "options");
        for spelling in ["-c x.y=", "--x.y=", "-cx.y=", "-c x.y=other -c x.y="] {
            let mut given = sent.clone();
            given.parameters.push(("options".to_owned(), format!("{spelling}{value}")));
            prop_assert_eq!(given.option("X.Y"), Some(value.as_str()));
        }
    }

    #[test]
    fn any_bytes_are_a_first_packet_or_not(bytes in vec(any::<u8>(), 0..200), code in 0..6_usize) {
        // Random bytes rarely have a length and a code that can be.
        let codes = [[0, 3, 0, 0], [0, 3, 0, 2], [4, 210, 22, 46], [4, 210, 22, 47], [4, 210, 22, 48], [0, 2, 0, 0]];
        let length = u32::try_from(bytes.len() + 8).unwrap().to_be_bytes();
        let likely = [&length, &codes[code], bytes.as_slice()].concat();
        for bytes in [bytes, likely] {
            if let Ok(Some((_, len))) = parse_first_packet(&bytes) {
                prop_assert!((8..=bytes.len()).contains(&len));
            }
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut(
        frames in vec((prop::sample::select(b"QPBFdCDEHSXcfp".to_vec()), vec(any::<u8>(), 0..300)), 1..20),
        cuts in vec(1..400_usize, 1..20),
    ) {
        let stream = written(|out| frames.iter().for_each(|(tag, body)| build::frame(out, *tag, |out| out.put_slice(body))));
        let (mut buffer, mut found, mut rest) = (BytesMut::new(), Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
            while let Some(header) = frontend_header(&buffer).unwrap().filter(|h| h.frame_len() <= buffer.len()) {
                prop_assert_eq!(backend_header(&buffer), Ok(Some(header)));
                let frame = buffer.split_to(header.frame_len());
                found.push((header.tag, frame[HEADER_LEN..].to_vec()));
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn lengths_have_limits(tag: u8, length: u32) {
        let bytes = [&[tag][..], &length.to_be_bytes()].concat();
        let limit = match tag {
            b'Q' | b'P' | b'B' | b'F' | b'd' => LARGE_BODY_MAX,
            b'p' => AUTH_BODY_MAX,
            b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL_BODY_MAX,
            _ => 0,
        };
        for header in [frontend_header(&bytes), backend_header(&bytes)].into_iter().flatten() {
            let header = header.unwrap();
            prop_assert!(header.body_len <= LARGE_BODY_MAX);
            prop_assert_eq!(header.body_len + 4, length as usize);
        }
        if let Ok(Some(header)) = frontend_header(&bytes) {
            prop_assert!(header.body_len <= limit);
        }
    }

    #[test]
    fn client_messages(a in name(), b in name(), rest: Vec<u8>, row_limit: u32) {
        let query = String::from_utf8_lossy(&a).into_owned();
        let asked = body(b'Q', |out| build::query(out, &query));
        prop_assert_eq!(message::query_text(&asked), Ok(query.as_bytes()));
        let names = |out: &mut BytesMut| [&a, &b].iter().for_each(|name| build::cstr(out, name));
        let both = written(|out| {
            names(out);
            out.put_slice(&rest);
        });
        prop_assert_eq!(Parse::read(&both), Ok(Parse { statement: &a, text: &b, types: &rest }));
        prop_assert_eq!(Bind::read(&both), Ok(Bind { portal: &a, statement: &b, rest: &rest }));
        let execute = written(|out| {
            build::cstr(out, &a);
            out.put_u32(row_limit);
        });
        prop_assert_eq!(Execute::read(&execute), Ok(Execute { portal: &a, row_limit }));
        let close = body(b'C', |out| build::close_statement(out, &a));
        prop_assert_eq!(Target::read(&close), Ok(Target::Statement(&a)));
    }

    #[test]
    fn server_messages(name in text(), value in text(), data: Vec<u8>, number in 13..u32::MAX) {
        let status = body(b'S', |out| build::parameter_status(out, &name, &value));
        prop_assert_eq!(message::parameter_status(&status), Ok((name.as_bytes(), value.as_bytes())));
        let row = written(|out| {
            out.put_u16(1);
            out.put_u32(u32::try_from(data.len()).unwrap());
            out.put_slice(&data);
        });
        prop_assert_eq!(message::first_column(&row), Some(data.as_slice()));
        let done = body(b'R', build::authentication_ok);
        prop_assert_eq!(Authentication::read(&done), Ok(Authentication::Ok));
        let go_on = body(b'R', |out| build::authentication_sasl_continue(out, &data));
        prop_assert_eq!(Authentication::read(&go_on), Ok(Authentication::SaslContinue(&data)));
        let last = body(b'R', |out| build::authentication_sasl_final(out, &data));
        prop_assert_eq!(Authentication::read(&last), Ok(Authentication::SaslFinal(&data)));
        let other = number.to_be_bytes();
        prop_assert_eq!(Authentication::read(&other), Ok(Authentication::Other(number)));
        let first = body(b'p', |out| build::sasl_initial_response(out, &name, &data));
        prop_assert_eq!(message::sasl_initial_response(&first), Ok((name.as_bytes(), data.as_slice())));
    }

    #[test]
    fn error_fields(code in "[0-9A-Z]{5}", message: String, detail: Option<String>, hint: Option<String>, fatal: bool) {
        let code = SqlState(code.into_bytes().try_into().unwrap());
        let mut error = if fatal { ErrorFields::fatal(code, &message) } else { ErrorFields::error(code, &message) };
        (error.detail, error.hint) = (detail, hint);
        let body = body(b'E', |out| error.write(out));
        // A NUL cannot be written: it is left out.
        let plain = |text: &str| text.replace('\0', "").into_bytes();
        prop_assert_eq!(fields::code(&body), Some(code));
        prop_assert_eq!(fields::is_fatal(&body), fatal);
        prop_assert_eq!(fields::field(&body, b'M').map(<[u8]>::to_vec), Some(plain(&message)));
        prop_assert_eq!(fields::field(&body, b'D').map(<[u8]>::to_vec), error.detail.as_deref().map(plain));
        prop_assert_eq!(fields::field(&body, b'H').map(<[u8]>::to_vec), error.hint.as_deref().map(plain));
        prop_assert_eq!(fields::field(&body, b'X'), None);
        prop_assert_eq!(body.last(), Some(&0));
    }

    #[test]
    fn any_bytes_are_a_message_or_not(bytes in vec(prop_oneof![Just(0), any::<u8>()], 0..120), wanted: u8) {
        let inside = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr()) || part.is_empty();
        if let Ok(text) = message::query_text(&bytes) {
            prop_assert!(inside(text) && !text.contains(&0));
        }
        if let Ok(Parse { statement, text, types }) = Parse::read(&bytes) {
            prop_assert!(inside(statement) && inside(text) && inside(types));
            prop_assert_eq!(statement.len() + text.len() + types.len() + 2, bytes.len());
        }
        if let Ok(Bind { portal, statement, rest }) = Bind::read(&bytes) {
            prop_assert_eq!(portal.len() + statement.len() + rest.len() + 2, bytes.len());
        }
        let _ = (Target::read(&bytes), Execute::read(&bytes), Authentication::read(&bytes));
        let _ = (message::parameter_status(&bytes), message::sasl_initial_response(&bytes));
        let _ = (fields::code(&bytes), fields::is_fatal(&bytes));
        for part in [message::first_column(&bytes), fields::field(&bytes, wanted)].into_iter().flatten() {
            prop_assert!(inside(part));
        }
    }
}
