//! Bytes that are no protocol.

use std::net::SocketAddr;

use futures_util::future::join_all;

use crate::support::{EU, Lab, Raw, US, frame, startup};

/// More than a debug build's buffers for these connections, and far less than what was announced.
const GROWTH_KB_MAX: u64 = 64 * 1024;

fn endpoints(lab: &Lab) -> Vec<SocketAddr> {
    let of = |region| {
        let entry = lab.entry(region);
        [entry.cluster, entry.reader, entry.writer]
    };
    [US, EU].into_iter().flat_map(of).collect()
}

async fn everybody_is_served(lab: &Lab) {
    for region in [US, EU] {
        lab.connect(region).await.expect("SELECT 1", 1).await;
    }
    lab.connect(EU).await.run("BEGIN; CREATE TABLE served (id int); ROLLBACK").await;
}

/// Resident memory of a region's process.
async fn resident_kb(lab: &Lab, region: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.pid(region).await)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The same bytes in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(super) async fn garbage(lab: &Lab) {
    let samples = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        vec![0, 0, 0, 7, 1, 2, 3],
        noise(4096),
        noise(100_000),
        // The length fits, what follows does not.
        [vec![0, 0, 0, 16, 0, 3, 0, 0], b"user\0xx\xff".to_vec()].concat(),
        [vec![0, 0, 0, 12, 0, 3, 0, 0], b"user".to_vec()].concat(),
        // A TLS hello that leads nowhere.
        [vec![0x16, 3, 1, 2, 0], noise(512)].concat(),
    ];
    for address in endpoints(lab) {
        for (number, sample) in samples.iter().enumerate() {
            let mut raw = Raw::dial(address).await;
            raw.send(sample).await;
            let (code, message) = raw.error().await.unwrap_or_else(|| panic!("sample {number}: no error"));
            assert!(
                ["08P01", "0A000", "28000"].contains(&code.as_str()),
                "sample {number}: {code} {message}"
            );
            raw.closed().await;
        }
    }
    // Links take TLS only, and nobody without a certificate.
    for region in [US, EU] {
        for sample in samples.iter().chain([&startup(3 << 16, &[("user", "postgres")])]) {
            let mut raw = Raw::dial(lab.entry(region).link).await;
            raw.send(sample).await;
            raw.closed().await;
        }
    }
    everybody_is_served(lab).await;
}

pub(super) async fn lengths_of_a_gigabyte_before_the_log_in(lab: &Lab) {
    for address in endpoints(lab) {
        let mut raw = Raw::dial(address).await;
        raw.send(&[0x40, 0, 0, 0, 0, 3, 0, 0]).await;
        let (code, message) = raw.error().await.unwrap();
        assert_eq!((code.as_str(), message.as_str()), ("08P01", "invalid length of startup packet"));
        raw.closed().await;

        let mut raw = Raw::dial(address).await;
        raw.send(&startup(3 << 16, &[("user", "postgres")])).await;
        raw.until(b'R').await;
        raw.send(&[b'p', 0x3f, 0xff, 0xff, 0xff]).await;
        assert_eq!(raw.error().await.unwrap().0, "08P01");
        raw.closed().await;
    }
    everybody_is_served(lab).await;
}

async fn logged_in(lab: &Lab, region: &str) -> Raw {
    let mut raw = Raw::dial(lab.entry(region).cluster).await;
    raw.log_in(&startup(3 << 16, &[("user", "postgres")]), lab.cluster.password()).await;
    raw
}

pub(super) async fn lengths_of_a_gigabyte_after_the_log_in(lab: &Lab) {
    const CONNECTIONS: usize = 20;
    for region in [EU, US] {
        let before = resident_kb(lab, region).await;
        // Longer than any message may be.
        for tag in *b"QPBDECdf" {
            let mut raw = logged_in(lab, region).await;
            raw.send(&[tag, 0x7f, 0xff, 0xff, 0xff]).await;
            let (code, message) = raw.error().await.unwrap();
            // PostgreSQL itself hangs up without a word, which a relay reports as 08006.
            assert!(["08P01", "08006"].contains(&code.as_str()), "{region}, {}: {message}", char::from(tag));
            raw.closed().await;
        }
        // As long as one may be, but it never comes.
        let mut waiting = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut raw = logged_in(lab, region).await;
            raw.send(&[b'Q', 0x3f, 0xff, 0xff, 0xfd]).await;
            raw.send(&noise(100_000)).await;
            waiting.push(raw);
        }
        everybody_is_served(lab).await;
        let grown = resident_kb(lab, region).await.saturating_sub(before);
        assert!(grown < GROWTH_KB_MAX, "{region}: {CONNECTIONS} connections took {grown} kB");
    }
    everybody_is_served(lab).await;
}

/// First bytes of connections that then say nothing more.
fn halves() -> Vec<Vec<u8>> {
    let whole = startup(3 << 16, &[("user", "postgres"), ("database", "postgres")]);
    let ssl = startup(80_877_103, &[]);
    // The last two: a log-in that is begun, and TLS that is begun.
    vec![Vec::new(), whole[..3].to_vec(), whole[..20].to_vec(), ssl[..6].to_vec(), whole, ssl]
}

pub(super) async fn half_a_start_up_packet_held_open(lab: &Lab) {
    let stall = async |address: SocketAddr, bytes: Vec<u8>| {
        let mut raw = Raw::dial(address).await;
        raw.send(&bytes).await;
        // Fails after 30 s; the limit is a tenth of that.
        raw.closed().await;
    };
    let everywhere = endpoints(lab).into_iter().chain([lab.entry(EU).link, lab.entry(US).link]);
    let stalls = everywhere.flat_map(|address| halves().into_iter().map(move |bytes| (address, bytes)));
    join_all(stalls.map(|(address, bytes)| stall(address, bytes))).await;
    everybody_is_served(lab).await;
}

pub(super) async fn half_open_connections_do_not_keep_others_out(lab: &Lab) {
    const CROWD: usize = 200;
    for region in [EU, US] {
        let halves = halves();
        let mut crowd = Vec::new();
        for bytes in halves.iter().cycle().take(CROWD) {
            let mut raw = Raw::dial(lab.entry(region).cluster).await;
            raw.send(bytes).await;
            crowd.push(raw);
        }
        everybody_is_served(lab).await;
        drop(crowd);
    }
}

pub(super) async fn unknown_messages_after_the_log_in(lab: &Lab) {
    for region in [EU, US] {
        for tag in [b'z', 0, 0xff, b'R'] {
            let mut raw = logged_in(lab, region).await;
            raw.send(&frame(tag, b"")).await;
            let (code, message) = raw.error().await.unwrap();
            assert_eq!(code, "08P01", "{region}: {message}");
            assert_eq!(message, format!("invalid frontend message type {tag}"), "{region}");
            raw.closed().await;
        }
    }
}

pub(super) async fn broken_messages_after_the_log_in(lab: &Lab) {
    let bodies: [(u8, &[u8]); 9] = [
        (b'Q', b"SELECT 1"),
        (b'P', b"name"),
        (b'P', b"\0SELECT 1\0\0\x05"),
        (b'B', b"\0\0\0\x01"),
        (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
        (b'D', b"X\0"),
        (b'C', b"\0"),
        (b'E', b"\0\0"),
        (b'Q', b"SELECT '\xff\xfe'\0"),
    ];
    for (tag, body) in bodies {
        let mut found = Vec::new();
        // What the primary, a relay to PostgreSQL itself, says is what is right.
        for region in [US, EU] {
            let mut raw = logged_in(lab, region).await;
            raw.send(&[frame(tag, body), frame(b'S', b"")].concat()).await;
            found.push(raw.error().await.map(|(code, _)| code));
        }
        assert!(found[0].is_some(), "{} {body:?}", char::from(tag));
        assert_eq!(found[0], found[1], "{} {body:?}", char::from(tag));
    }
    everybody_is_served(lab).await;
}
