//! Frames of a client: found, limited, and read without a panic; views stay inside their frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pangea_pgwire::frame::{HEADER_LEN, LARGE_BODY_MAX, frontend_header};
use pangea_pgwire::message::{self, Bind, Execute, Parse, Target};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(header)) = frontend_header(rest) {
        assert!(header.body_len <= LARGE_BODY_MAX, "BOUNDED");
        let Some((frame, after)) = rest.split_at_checked(header.frame_len()) else { return };
        let body = &frame[HEADER_LEN..];
        if let Ok(text) = message::query_text(body) {
            assert_eq!(text.len() + 1, body.len());
        }
        if let Ok(Parse { statement, text, types }) = Parse::read(body) {
            assert_eq!(statement.len() + text.len() + types.len() + 2, body.len());
        }
        if let Ok(Bind { portal, statement, rest }) = Bind::read(body) {
            assert_eq!(portal.len() + statement.len() + rest.len() + 2, body.len());
        }
        let _ = (Target::read(body), Execute::read(body), message::sasl_initial_response(body));
        rest = after;
    }
});
