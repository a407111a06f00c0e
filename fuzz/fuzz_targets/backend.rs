//! Frames of a server, and the fields of its errors: found, limited, and read without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pangea_pgwire::fields;
use pangea_pgwire::frame::{HEADER_LEN, LARGE_BODY_MAX, backend_header};
use pangea_pgwire::message::{self, Authentication};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(header)) = backend_header(rest) {
        assert!(header.body_len <= LARGE_BODY_MAX, "BOUNDED");
        let Some((frame, after)) = rest.split_at_checked(header.frame_len()) else { return };
        let body = &frame[HEADER_LEN..];
        let _ = (message::parameter_status(body), Authentication::read(body), fields::is_fatal(body));
        assert!(message::first_column(body).is_none_or(|column| column.len() < body.len()));
        for tag in *b"SVCMDHX" {
            let value = fields::field(body, tag);
            assert!(value.is_none_or(|value| value.len() < body.len() && !value.contains(&0)));
        }
        assert_eq!(
            fields::code(body).map(|code| code.0.to_vec()),
            fields::field(body, b'C').filter(|code| code.len() == 5).map(<[u8]>::to_vec)
        );
        rest = after;
    }
});
