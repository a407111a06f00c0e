//! Log-ins that cannot succeed, and the ways of asking for one.

use crate::support::{Database, EU, Lab, Raw, US, code, frame, startup};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const V3_0: u32 = 3 << 16;

async fn dial(lab: &Lab) -> Raw {
    Raw::dial(lab.entry(EU).cluster).await
}

pub(super) async fn gss_encryption_is_refused_politely(lab: &Lab) {
    let mut raw = dial(lab).await;
    raw.send(&startup(GSSENC_REQUEST, &[])).await;
    assert_eq!(raw.byte().await, Some(b'N'));
    // And the client may go on on the same connection.
    raw.log_in(&startup(V3_0, &[("user", "postgres")]), lab.cluster.password()).await;
    raw.send(&frame(b'Q', b"SELECT 1\0")).await;
    raw.until(b'Z').await;
}

pub(super) async fn junk_after_an_ssl_request(lab: &Lab) {
    let mut raw = dial(lab).await;
    raw.send(&startup(SSL_REQUEST, &[])).await;
    assert_eq!(raw.byte().await, Some(b'S'));
    raw.send(b"this is no TLS at all, and it goes on for a while longer").await;
    raw.closed().await;
}

pub(super) async fn unencrypted_data_after_an_ssl_request(lab: &Lab) {
    let mut raw = dial(lab).await;
    raw.send(&[startup(SSL_REQUEST, &[]), startup(V3_0, &[("user", "postgres")])].concat()).await;
    let (code, message) = raw.error().await.unwrap();
    assert_eq!(code, "08P01");
    assert_eq!(message, "received unencrypted data after SSL request");
    raw.closed().await;
}

pub(super) async fn unknown_sasl_mechanism(lab: &Lab) {
    for mechanism in ["SCRAM-SHA-1", "PLAIN", "SCRAM-SHA-256-PLUS", ""] {
        let mut raw = dial(lab).await;
        raw.send(&startup(V3_0, &[("user", "postgres")])).await;
        raw.until(b'R').await;
        let body = [mechanism.as_bytes(), b"\0", &[0xff; 4]].concat();
        raw.send(&frame(b'p', &body)).await;
        let (code, message) = raw.error().await.unwrap();
        assert_eq!(code, "08P01");
        assert_eq!(message, "client selected an invalid SASL authentication mechanism");
        raw.closed().await;
    }
}

pub(super) async fn broken_sasl_messages(lab: &Lab) {
    let first = |text: &[u8]| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        frame(b'p', &[b"SCRAM-SHA-256\0", &length[..], text].concat())
    };
    let messages = [
        frame(b'p', b""),
        frame(b'p', b"SCRAM-SHA-256"),
        frame(b'p', b"SCRAM-SHA-256\0\0\0\x10\0n"),
        frame(b'Q', b"SELECT 1\0"),
        first(b""),
        first(b"n,,"),
        first(b"n,,n=,r="),
        first(b"n,a=other,n=,r=abcdefghijkl"),
        first(b"y,,m=ext,n=,r=abcdefghijkl"),
        first(b"p=tls-unique,,n=,r=abcdefghijkl"),
        first(b"\xff\xfe\xfd"),
        frame(b'p', &[b'a'; 60_000]),
    ];
    for message in messages {
        let mut raw = dial(lab).await;
        raw.send(&startup(V3_0, &[("user", "postgres")])).await;
        raw.until(b'R').await;
        raw.send(&message).await;
        let (code, text) = raw.error().await.unwrap();
        assert!(["08P01", "0A000"].contains(&code.as_str()), "{code} {text}");
        raw.closed().await;
    }
    // A first message that is right, and a last one that is not.
    for last in ["", "c=biws,r=other,p=AAAA", "c=biws", "p=AAAA,c=biws,r=x"] {
        let mut raw = dial(lab).await;
        raw.send(&startup(V3_0, &[("user", "postgres")])).await;
        raw.until(b'R').await;
        raw.send(&first(b"n,,n=,r=abcdefghijkl")).await;
        raw.until(b'R').await;
        raw.send(&frame(b'p', last.as_bytes())).await;
        let (code, text) = raw.error().await.unwrap();
        assert!(["08P01", "28P01"].contains(&code.as_str()), "{code} {text}");
        raw.closed().await;
    }
}

/// SQLSTATE and message of a refusal.
async fn refused(database: &Database) -> (String, String) {
    match database.try_connect().await {
        Ok(_) => panic!("{database:?} gets in"),
        Err(error) => {
            (code(&error), error.as_db_error().map_or(String::new(), |error| error.message().to_owned()))
        }
    }
}

pub(super) async fn wrong_passwords_and_unknown_roles_are_told_apart_by_nobody(lab: &Lab) {
    let admin = lab.connect(US).await;
    admin.run("CREATE ROLE bare LOGIN; CREATE ROLE known LOGIN PASSWORD 'right'").await;
    admin.run("CREATE ROLE late LOGIN PASSWORD 'right' VALID UNTIL '2020-01-01'").await;
    admin.run("CREATE ROLE guest NOLOGIN PASSWORD 'right'").await;
    lab.replicated(EU, "SELECT count(*) FROM pg_roles WHERE rolname IN ('bare', 'known', 'late', 'guest')")
        .await;
    for region in [US, EU] {
        for (user, password) in [
            ("known", "wrong"),
            ("nobody", "wrong"),
            ("bare", "wrong"),
            ("late", "right"),
            ("guest", "wrong"),
        ] {
            let (code, message) = refused(&lab.at(region).user(user, password)).await;
            assert_eq!(code, "28P01", "{region}: {user}");
            assert_eq!(message, format!("password authentication failed for user \"{user}\""), "{region}");
        }
        // Proven, but may not log in: PostgreSQL's own answer.
        assert_eq!(refused(&lab.at(region).user("guest", "right")).await.0, "28000", "{region}");
        let known = lab.at(region).user("known", "right").connect().await;
        known.expect("SELECT current_user", "known").await;
    }
    // A changed password counts where it has arrived.
    admin.run("ALTER ROLE known PASSWORD 'new'").await;
    lab.replicated(EU, "SELECT rolpassword FROM pg_authid WHERE rolname = 'known'").await;
    for region in [US, EU] {
        assert_eq!(refused(&lab.at(region).user("known", "right")).await.0, "28P01");
        lab.at(region).user("known", "new").connect().await;
    }
    admin.run("DROP ROLE bare; DROP ROLE known; DROP ROLE late; DROP ROLE guest").await;
}

pub(super) async fn unknown_databases(lab: &Lab) {
    for region in [US, EU] {
        let entry = lab.entry(region);
        for address in [entry.cluster, entry.reader, entry.writer] {
            let database = Database::tcp(address, lab.cluster.password()).database("atlantis");
            let (code, message) = refused(&database).await;
            assert_eq!((code.as_str(), message.as_str()), ("3D000", "database \"atlantis\" does not exist"));
        }
        assert_eq!(refused(&lab.at(region).user("postgres", "wrong").database("atlantis")).await.0, "28P01");
    }
}

pub(super) async fn newer_protocols_are_negotiated(lab: &Lab) {
    for region in [US, EU] {
        for (version, option, negotiated) in [
            ((3 << 16) + 2, None, None),
            ((3 << 16) + 99, None, Some((2, 0))),
            ((3 << 16) + 99, Some("_pq_.magic"), Some((2, 1))),
            (V3_0, Some("_pq_.magic"), Some((0, 1))),
        ] {
            let mut raw = Raw::dial(lab.entry(region).cluster).await;
            let mut parameters = vec![("user", "postgres")];
            parameters.extend(option.map(|name| (name, "on")));
            raw.send(&startup(version, &parameters)).await;
            if let Some((minor, options)) = negotiated {
                let body = raw.until(b'v').await;
                // The newest minor version here; protocol 3.2 servers send the whole version or only this.
                let number = u32::from_be_bytes(body[..4].try_into().unwrap());
                assert_eq!(number & 0xffff, minor, "{region} {version:x}");
                assert_eq!(u32::from_be_bytes(body[4..8].try_into().unwrap()), options);
                assert_eq!(&body[8..], option.map_or(String::new(), |name| format!("{name}\0")).as_bytes());
            }
            raw.prove(lab.cluster.password()).await;
            raw.until(b'Z').await;
            raw.send(&frame(b'Q', b"SELECT 1\0")).await;
            raw.until(b'D').await;
        }
    }
}

pub(super) async fn older_protocols_are_refused(lab: &Lab) {
    for (version, parameters, expected) in [
        (2 << 16, &[("user", "postgres")][..], "0A000"),
        (4 << 16, &[("user", "postgres")], "0A000"),
        (V3_0, &[("database", "postgres")], "28000"),
        (V3_0, &[("user", "")], "28000"),
        (V3_0, &[("user", "postgres"), ("pangea.endpoint", "nowhere")], "22023"),
    ] {
        let mut raw = dial(lab).await;
        raw.send(&startup(version, parameters)).await;
        assert_eq!(raw.error().await.unwrap().0, expected, "{version:x} {parameters:?}");
        raw.closed().await;
    }
}
