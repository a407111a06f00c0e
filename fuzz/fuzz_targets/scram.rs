//! Messages of SCRAM: never a panic, and never a proof by somebody who does not know the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pangea_pgwire::scram::{ClientExchange, NONCE_LEN, ServerExchange, Verifier};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(verifier) = Verifier::parse(text)
    {
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier));
    }
    let verifier = || Verifier::new("pencil", b"salt", 1);
    let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let _ = ServerExchange::start(verifier(), first, &[7; NONCE_LEN]);
    let (client, ours) = ClientExchange::start(&[1; NONCE_LEN]);
    if let Ok((server, answer)) = ServerExchange::start(verifier(), ours.as_bytes(), &[7; NONCE_LEN]) {
        assert!(server.finish(bytes).is_err(), "a proof without the password");
        if let Ok((client, _)) = client.prove("pencil", answer.as_bytes()) {
            assert!(client.check(bytes).is_err(), "a server without the verifier");
        }
    }
    // Ten million iterations are allowed, and slow: more than three digits are not tried.
    let iterations = bytes.windows(3).rposition(|part| part == b",i=").map_or(0, |at| bytes.len() - at - 3);
    if iterations <= 3 {
        let _ = ClientExchange::start(&[1; NONCE_LEN]).0.prove("pencil", bytes);
    }
});
