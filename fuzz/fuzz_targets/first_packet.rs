//! The first packet of a connection: what is read is written the same, and nothing panics.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pangea_pgwire::startup::{FirstPacket, PACKET_LEN_MAX, parse_first_packet};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((packet, len))) = parse_first_packet(bytes) else { return };
    assert!((8..=bytes.len().min(PACKET_LEN_MAX)).contains(&len));
    let mut again = BytesMut::new();
    match &packet {
        FirstPacket::Startup(startup) => {
            startup.write(&mut again);
            assert!(!startup.user().is_empty() && !startup.database().is_empty());
            let _ = (startup.option("pangea.read_consistency"), startup.is_replication());
        }
        FirstPacket::Cancel(key) => key.write_request(&mut again),
        FirstPacket::SslRequest | FirstPacket::GssEncRequest => return,
    }
    assert_eq!(parse_first_packet(&again), Ok(Some((packet, again.len()))));
});
