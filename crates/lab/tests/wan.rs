//! The WAN emulator between an echo server and a client. No upper bounds on times: machines are slow at will.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pangea_base::RegionId;
use pangea_lab::wan::{Change, Distance, Table, Wan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUND_TRIP: Duration = Duration::from_millis(30);
/// Long enough to tell silence from delay.
const SILENCE: Duration = Duration::from_millis(300);

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn wan(bandwidth: Option<u64>) -> Wan {
    let distance = Distance { round_trip: ROUND_TRIP, jitter: Duration::ZERO, bandwidth };
    let targets = BTreeMap::from([(region("a"), echo_server().await), (region("b"), echo_server().await)]);
    Wan::start(&Table::uniform(distance), &targets).await.unwrap()
}

async fn dial(wan: &Wan) -> TcpStream {
    TcpStream::connect(wan.link(&region("a"), &region("b")).unwrap().address()).await.unwrap()
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_costs_two_round_trips_and_a_message_one() {
    let wan = wan(None).await;
    let start = Instant::now();
    let mut stream = dial(&wan).await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert!(start.elapsed() >= ROUND_TRIP * 2);
    let start = Instant::now();
    assert_eq!(echo(&mut stream, b"again").await, b"again");
    assert!(start.elapsed() >= ROUND_TRIP);
}

#[tokio::test]
async fn much_data_arrives_whole_and_the_end_travels() {
    let wan = wan(None).await;
    let (mut read, mut write) = dial(&wan).await.into_split();
    let sent: Vec<u8> = (0..24 * 1024 * 1024_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    writer.await.unwrap();
    assert!(received == expected);
}

#[tokio::test]
async fn a_cut_holds_bytes_and_new_connections_until_it_is_restored() {
    let wan = wan(None).await;
    let mut old = dial(&wan).await;
    echo(&mut old, b"x").await;
    let link = wan.link(&region("b"), &region("a")).unwrap();
    link.cut();
    // Only the way back is cut: the bytes arrive there, the answer does not come.
    old.write_all(b"held").await.unwrap();
    let mut new = dial(&wan).await;
    new.write_all(b"new").await.unwrap();
    let mut answer = [0; 4];
    assert!(tokio::time::timeout(SILENCE, old.read(&mut answer)).await.is_err());
    assert!(tokio::time::timeout(SILENCE, new.read(&mut answer)).await.is_err());
    link.restore();
    old.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"held");
    let mut answer = [0; 3];
    new.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"new");
}

#[tokio::test]
async fn an_isolated_region_hears_nothing_even_of_an_end() {
    let wan = wan(None).await;
    let mut stream = dial(&wan).await;
    echo(&mut stream, b"x").await;
    wan.isolate(&region("b"));
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    assert!(tokio::time::timeout(SILENCE, stream.read_to_end(&mut rest)).await.is_err());
    wan.rejoin(&region("b"));
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
}

#[tokio::test]
async fn bandwidth_and_delay_can_be_changed() {
    let wan = wan(None).await;
    let mut stream = dial(&wan).await;
    echo(&mut stream, b"x").await;
    let there = wan.link(&region("a"), &region("b")).unwrap();
    there.set(Change { bandwidth_mbit: Some(8.0), ..Change::default() }).unwrap();
    let start = Instant::now();
    echo(&mut stream, &vec![1; 200_000]).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    there.set(Change { bandwidth_mbit: Some(0.0), delay_ms: Some(100.0), ..Change::default() }).unwrap();
    let start = Instant::now();
    echo(&mut stream, b"x").await;
    assert!(start.elapsed() >= Duration::from_millis(115));
    assert!(there.set(Change { delay_ms: Some(-1.0), ..Change::default() }).is_err());
}

#[tokio::test]
async fn a_dead_target_closes_the_connection() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let distance = Distance { round_trip: ROUND_TRIP, jitter: Duration::ZERO, bandwidth: None };
    let targets = BTreeMap::from([(region("a"), dead), (region("b"), dead)]);
    let wan = Wan::start(&Table::uniform(distance), &targets).await.unwrap();
    let mut stream = dial(&wan).await;
    let start = Instant::now();
    let ended = stream.read_to_end(&mut Vec::new()).await;
    assert!(ended.is_err() || ended.is_ok_and(|length| length == 0));
    assert!(start.elapsed() >= ROUND_TRIP / 2);
}
