//! The listener over real sockets, with messages as a resolver sends them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use pangea_discovery::{Discovery, DiscoveryConfig, DiscoveryError, Records};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for what comes at once.
const SOON: Duration = Duration::from_secs(5);

fn config() -> DiscoveryConfig {
    DiscoveryConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        zone: "mydb.pangea.internal".to_owned(),
        ttl: Duration::from_secs(10),
    }
}

fn records(epoch: u64, primary: &str, readers: u8) -> Records {
    let readers: Vec<IpAddr> = (0..readers).map(|n| [10, 0, 1, n].into()).collect();
    let regions = BTreeMap::from([(primary.to_owned(), readers.clone())]);
    Records { epoch, primary: primary.to_owned(), writer: vec![[10, 0, 0, 1].into()], readers, regions }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, packet: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

async fn send(stream: &mut TcpStream, packet: &[u8]) {
    stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
    stream.write_all(packet).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Message {
    let read = async {
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    };
    timeout(SOON, read).await.unwrap()
}

/// The text at the primary, or the code of its absence.
async fn primary(server: SocketAddr) -> Result<String, ResponseCode> {
    let answer = over_udp(server, &question("primary.mydb.pangea.internal.", RecordType::TXT)).await;
    let code = answer.metadata.response_code;
    answer.answers.first().map(|record| record.data.to_string()).ok_or(code)
}

#[tokio::test]
async fn answers_follow_the_epoch_and_never_go_back() {
    let (send, receive) = watch::channel(None);
    let discovery = Discovery::start(config(), receive).await.unwrap();
    let server = discovery.local_addr();
    let text = |region: &str, epoch: u64| Ok(format!("region={region};max-age=10;epoch={epoch}"));
    assert_eq!(primary(server).await, Err(ResponseCode::ServFail));
    send.send_replace(Some(records(5, "eu-west-1", 1)));
    assert_eq!(primary(server).await, text("eu-west-1", 5));
    send.send_replace(Some(records(6, "us-east-1", 1)));
    assert_eq!(primary(server).await, text("us-east-1", 6));
    for past in [Some(records(5, "eu-west-1", 1)), None] {
        send.send_replace(past);
        assert_eq!(primary(server).await, text("us-east-1", 6));
    }
    // Addresses may change within an epoch.
    send.send_replace(Some(records(6, "us-east-1", 3)));
    let readers = over_udp(server, &question("reader.mydb.pangea.internal.", RecordType::A)).await;
    assert_eq!(readers.answers.len(), 3);
    send.send_replace(Some(records(7, "eu-west-1", 1)));
    drop(send);
    assert_eq!(primary(server).await, text("eu-west-1", 7), "without a sender its last word holds");
    discovery.stop().await;
}

#[tokio::test]
async fn tcp_takes_what_udp_cuts() {
    let (_send, receiver) = watch::channel(Some(records(1, "eu-west-1", 200)));
    let discovery = Discovery::start(config(), receiver).await.unwrap();
    let server = discovery.local_addr();
    let packet = question("reader.mydb.pangea.internal.", RecordType::A);
    let cut = over_udp(server, &packet).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut stream = TcpStream::connect(server).await.unwrap();
    // Several on one connection, and two before the first is answered.
    for _ in 0..2 {
        send(&mut stream, &packet).await;
        send(&mut stream, &question("nobody.mydb.pangea.internal.", RecordType::A)).await;
        let whole = receive(&mut stream).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
        assert_eq!(receive(&mut stream).await.metadata.response_code, ResponseCode::NXDomain);
    }
    discovery.stop().await;
    let closed = timeout(SOON, stream.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    TcpStream::connect(server).await.unwrap_err();
}

#[tokio::test]
async fn bad_packets_harm_nobody_else() {
    let (_send, receiver) = watch::channel(Some(records(1, "eu-west-1", 1)));
    let discovery = Discovery::start(config(), receiver).await.unwrap();
    let server = discovery.local_addr();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let long = vec![0xff; 9000];
    for bad in [&b""[..], b"x", b"GET / HTTP/1.1\r\n\r\n", &[0; 12], &long] {
        socket.send_to(bad, server).await.unwrap();
        let mut stream = TcpStream::connect(server).await.unwrap();
        send(&mut stream, bad).await;
        // Half a request, and the end.
        stream.write_all(&[0, 40, 1, 2, 3]).await.ok();
    }
    assert!(primary(server).await.is_ok());
    let answer = over_udp(server, &[0; 12]).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "no question at all");
    discovery.stop().await;
}

#[tokio::test]
async fn silent_connections_are_closed_and_do_not_keep_others_out() {
    let (_send, receiver) = watch::channel(Some(records(1, "eu-west-1", 1)));
    let discovery = Discovery::start(config(), receiver).await.unwrap();
    let server = discovery.local_addr();
    // More than there are places.
    let mut silent = Vec::new();
    for _ in 0..140 {
        silent.push(TcpStream::connect(server).await.unwrap());
    }
    let began = Instant::now();
    assert!(primary(server).await.is_ok(), "UDP has nothing to do with it");
    // One more waits for a place, gets it when the silent ones are closed, and is answered.
    let mut late = TcpStream::connect(server).await.unwrap();
    send(&mut late, &question("writer.mydb.pangea.internal.", RecordType::A)).await;
    let answer = timeout(Duration::from_secs(30), late.read_u16()).await.unwrap();
    assert!(answer.is_ok(), "{answer:?}");
    assert!(began.elapsed() > Duration::from_secs(2), "there was a place: there is no limit");
    let closed = timeout(SOON, silent[0].read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    discovery.stop().await;
}

#[tokio::test]
async fn what_cannot_start_is_said() {
    let (_send, receiver) = watch::channel(None);
    let bad = DiscoveryConfig { zone: "a..b".to_owned(), ..config() };
    let refused = Discovery::start(bad, receiver.clone()).await;
    assert!(matches!(refused, Err(DiscoveryError::Zone { .. })));
    let discovery = Discovery::start(config(), receiver.clone()).await.unwrap();
    let taken = DiscoveryConfig { listen: discovery.local_addr(), ..config() };
    let refused = Discovery::start(taken.clone(), receiver.clone()).await;
    assert!(matches!(refused, Err(DiscoveryError::Listen { .. })));
    discovery.stop().await;
    // The port is free again.
    Discovery::start(taken, receiver).await.unwrap().stop().await;
}
