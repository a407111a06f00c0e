//! SCRAM-SHA-256 between our two sides: the right password always, no other password and no changed message ever.

use pangea_pgwire::scram::{ClientExchange, NONCE_LEN, ScramError, ServerExchange, Verifier};
use proptest::collection::vec;
use proptest::prelude::*;

/// Which message is changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    ClientFirst,
    ServerFirst,
    ClientFinal,
    ServerFinal,
}

/// One exchange, in which a bit of one message may be turned.
fn exchange(
    verifier: Verifier,
    password: &str,
    nonces: ([u8; NONCE_LEN], [u8; NONCE_LEN]),
    change: Option<(Changed, usize)>,
) -> Result<(), ScramError> {
    let on_the_way = |which: Changed, text: String| {
        let mut bytes = text.into_bytes();
        if let Some((_, bit)) = change.filter(|(changed, _)| *changed == which) {
            // The iterations stay: ten million of them are allowed, and slow.
            let end = bytes.windows(3).rposition(|part| part == b",i=").unwrap_or(bytes.len());
            let bit = bit % (8 * end);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes
    };
    let (client, first) = ClientExchange::start(&nonces.0);
    let (server, answer) =
        ServerExchange::start(verifier, &on_the_way(Changed::ClientFirst, first), &nonces.1)?;
    let (client, proof) = client.prove(password, &on_the_way(Changed::ServerFirst, answer))?;
    let last = server.finish(&on_the_way(Changed::ClientFinal, proof))?;
    client.check(&on_the_way(Changed::ServerFinal, last))
}

fn changed() -> impl Strategy<Value = Changed> {
    prop_oneof![
        Just(Changed::ClientFirst),
        Just(Changed::ServerFirst),
        Just(Changed::ClientFinal),
        Just(Changed::ServerFinal)
    ]
}

proptest! {
    // Key derivation is slow on purpose.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_right_password_and_no_other(
        password: String,
        other: String,
        salt in vec(any::<u8>(), 1..40),
        iterations in 1..40_u32,
        nonces: ([u8; NONCE_LEN], [u8; NONCE_LEN]),
    ) {
        let verifier = Verifier::new(&password, &salt, iterations);
        prop_assert_eq!(exchange(verifier.clone(), &password, nonces, None), Ok(()));
        prop_assert_eq!(exchange(verifier.clone(), &format!("{password}x"), nonces, None), Err(ScramError::Proof));
        // SASLprep may make two spellings one password; then they have one verifier.
        if Verifier::new(&other, &salt, iterations) != verifier {
            prop_assert_eq!(exchange(verifier.clone(), &other, nonces, None), Err(ScramError::Proof));
        }
        prop_assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier));
        prop_assert_eq!(exchange(Verifier::mock(&password, &salt), &password, nonces, None), Err(ScramError::Proof));
    }

    #[test]
    fn no_changed_message_is_accepted(
        password: String,
        nonces: ([u8; NONCE_LEN], [u8; NONCE_LEN]),
        which in changed(),
        bit: usize,
    ) {
        let verifier = Verifier::new(&password, b"0123456789abcdef", 2);
        let outcome = exchange(verifier, &password, nonces, Some((which, bit)));
        prop_assert!(outcome.is_err(), "{which:?}");
    }

    #[test]
    fn any_bytes_are_refused_or_understood(bytes: Vec<u8>, text in "[cnyrspiv=,:A-Z/+$0-9-]{0,60}") {
        let verifier = || Verifier::new("x", b"salt", 1);
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            let _ = ServerExchange::start(verifier(), bytes, &[0; NONCE_LEN]);
            let (server, answer) = ServerExchange::start(verifier(), b"n,,n=,r=a", &[0; NONCE_LEN]).unwrap();
            prop_assert!(server.finish(bytes).is_err());
            prop_assert!(ClientExchange::start(&[1; NONCE_LEN]).0.prove("x", bytes).is_err());
            let (client, first) = ClientExchange::start(&[1; NONCE_LEN]);
            let (_, ours) = ServerExchange::start(verifier(), first.as_bytes(), &[0; NONCE_LEN]).unwrap();
            prop_assert_ne!(&ours, &answer);
            let (client, _) = client.prove("x", ours.as_bytes()).unwrap();
            prop_assert!(client.check(bytes).is_err());
        }
        let _ = Verifier::parse(&text);
    }
}
