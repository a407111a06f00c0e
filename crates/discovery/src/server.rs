//! The sockets. Everything that a stranger could make many of has a limit.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Records;
use crate::zone::{Transport, Zone};

/// Longest request that is read over UDP; a question has less than 300 bytes.
const UDP_REQUEST_LEN_MAX: usize = 4096;

/// Connections at once. Those above wait in the system's queue.
const TCP_CONNECTIONS_MAX: usize = 128;

/// Longest wait for a whole request, and for an answer to be taken.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest a connection lives, however busy: nobody keeps a place for ever. Clients connect again (RFC 7766).
const TCP_LIFETIME: Duration = Duration::from_secs(60);

/// Pause after a socket failed, for instance for want of descriptors, so that it is not asked without pause.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Attempts to find a port that is free for both UDP and TCP.
const BIND_ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(crate) struct Server {
    local_addr: SocketAddr,
    /// Ended when dropped.
    tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(
        listen: SocketAddr,
        zone: Zone,
        records: watch::Receiver<Option<Records>>,
    ) -> io::Result<Self> {
        let (udp, tcp) = bind(listen).await?;
        let local_addr = tcp.local_addr()?;
        let answers = Arc::new(Answers { zone, latest: Mutex::new(Latest { records, served: None }) });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&answers)));
        tasks.spawn(serve_tcp(tcp, answers));
        Ok(Self { local_addr, tasks })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = 1;
    loop {
        let tcp = TcpListener::bind(listen).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            // The system chose a port for TCP that is taken for UDP.
            Err(error)
                if listen.port() == 0
                    && attempts < BIND_ATTEMPTS
                    && error.kind() == io::ErrorKind::AddrInUse =>
            {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What every socket answers from.
struct Answers {
    zone: Zone,
    latest: Mutex<Latest>,
}

impl Answers {
    fn answer(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        // Nothing panics while it is held; and if something did, `served` is whole all the same.
        let records = self.latest.lock().unwrap_or_else(PoisonError::into_inner).records();
        self.zone.answer(packet, transport, records.as_deref())
    }
}

struct Latest {
    records: watch::Receiver<Option<Records>>,
    /// Of the greatest epoch there was at a question.
    served: Option<Arc<Records>>,
}

impl Latest {
    fn records(&mut self) -> Option<Arc<Records>> {
        let latest = self.records.borrow_and_update();
        // The value that was there from the beginning counts as no change.
        if latest.has_changed() || self.served.is_none() {
            match (&*latest, &self.served) {
                (None, _) => {}
                (Some(new), Some(served)) if new.epoch < served.epoch => {
                    tracing::warn!(
                        epoch = new.epoch,
                        served = served.epoch,
                        "records of a past epoch are ignored"
                    );
                }
                (Some(new), _) => self.served = Some(Arc::new(new.clone())),
            }
        }
        self.served.clone()
    }
}

async fn serve_udp(socket: UdpSocket, answers: Arc<Answers>) {
    let mut packet = vec![0; UDP_REQUEST_LEN_MAX];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut packet).await else {
            // Also what a client's host says about an answer it did not want (ICMP).
            sleep(ERROR_PAUSE).await;
            continue;
        };
        let request = packet.get(..length).unwrap_or_default();
        if let Some(answer) = answers.answer(request, Transport::Udp) {
            // One that cannot be sent is one that was lost: the client asks again.
            let _ = socket.try_send_to(&answer, client);
        }
    }
}

async fn serve_tcp(listener: TcpListener, answers: Arc<Answers>) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ERROR_PAUSE).await;
            continue;
        };
        let answers = Arc::clone(&answers);
        connections.spawn(async move {
            // How a connection ended is its client's affair.
            let _ = timeout(TCP_LIFETIME, serve_connection(stream, &answers)).await;
            drop(place);
        });
    }
}

/// Requests one after the other, each after its length (RFC 1035, section 4.2.2).
async fn serve_connection(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Grows to the longest request that came, which its length field bounds.
    let mut packet = Vec::new();
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            packet.resize(usize::from(length), 0);
            stream.read_exact(&mut packet).await
        };
        timeout(TCP_IDLE_TIMEOUT, read).await??;
        let Some(answer) = answers.answer(&packet, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        // In one write, and so in one segment: some clients wait for the rest of a lone length.
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(TCP_IDLE_TIMEOUT, stream.write_all(&framed)).await??;
    }
}
