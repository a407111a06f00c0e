//! Where clients come in: first packets, TLS, authentication, and which kind of session it becomes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use pangea_base::Epoch;
use pangea_consistency::{ReadSettings, SETTING_NAMES, Setting as ReadSetting};
use pangea_pgwire::startup::{self, FirstPacket, Startup, VERSION_MAX, Version};
use pangea_pgwire::{ErrorFields, SqlState, build};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::auth::{self, Refusal};
use crate::config::Auth;
use crate::console::{self, ClientKind, Identity, Registered};
use crate::links::{Generation, Kind, Route};
use crate::relay::{Ends, Forwarded, Relay};
use crate::session::PRIMARY_TIMEOUT;
use crate::shared::Shared;
use crate::stream::Stream;

/// First byte of a TLS handshake: a client that opens with it speaks TLS directly (PostgreSQL 17).
const TLS_HANDSHAKE: u8 = 0x16;

/// Which of a region's three endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Reads here, writes on the primary.
    Cluster,
    /// Read-only, served in this region.
    Reader,
    /// Always the primary.
    Writer,
}

impl Endpoint {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Reader => "reader",
            Self::Writer => "writer",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Cluster, Self::Reader, Self::Writer].into_iter().find(|endpoint| endpoint.name() == text)
    }
}

/// The start-up option that chooses an endpoint whatever the port.
const ENDPOINT_OPTION: &str = "pangea.endpoint";

/// Serves one connection to its end. What is awaited on the way is boxed: the task lives as long as the session, and would
/// be as large as the largest of it.
pub(crate) async fn serve(shared: Arc<Shared>, tcp: TcpStream, endpoint: Endpoint) {
    let deadline = Instant::now() + shared.config.authentication_timeout;
    let mut input = BytesMut::new();
    let (Ok(address), Ok(local)) = (tcp.peer_addr(), tcp.local_addr()) else { return };
    let encrypted = Box::pin(timeout_at(deadline, encrypt(&shared, tcp, &mut input)));
    let Ok(Some(mut stream)) = encrypted.await else { return };
    let greeted = tokio::select! {
        greeted = timeout_at(deadline, Box::pin(greet(&shared, &mut stream, &mut input, endpoint))) => greeted,
        () = shared.stopped() => return crate::say_goodbye(stream, &crate::shutting_down()).await,
    };
    let session = match greeted {
        Ok(Ok(Some(session))) => session,
        // Over TLS a close without farewell would look like an attack to the client.
        Ok(Ok(None)) => return drop(stream.shutdown().await),
        Ok(Err(Refusal::Gone)) => return,
        Ok(Err(Refusal::Told(error))) => return crate::say_goodbye(stream, &error).await,
        Err(_) => return crate::say_goodbye(stream, &too_slow(&shared)).await,
    };
    let registered = shared.console.register(session.identity(address, local, &stream));
    if session.is_console() {
        let Ok(_place) = shared.consoles.try_acquire() else {
            return crate::say_goodbye(stream, &too_many_consoles()).await;
        };
        return Box::pin(console::serve(&shared, stream, input, registered)).await;
    }
    let Some(_place) = shared.admit() else {
        let error = ErrorFields::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .with_detail(format!("This gateway takes {} clients.", shared.config.clients_max))
            .with_hint("Close idle connections, or connect to another region.");
        return crate::say_goodbye(stream, &error).await;
    };
    run(&shared, stream, input, session, registered).await;
}

fn too_many_consoles() -> ErrorFields {
    let text = "sorry, too many consoles already";
    ErrorFields::fatal(SqlState::TOO_MANY_CONNECTIONS, text)
        .with_detail(format!("This gateway takes {} consoles.", console::CONSOLES_MAX))
        .with_hint("Close one.")
}

fn too_slow(shared: &Shared) -> ErrorFields {
    let seconds = shared.config.authentication_timeout.as_secs();
    ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, "canceling authentication due to timeout")
        .with_detail(format!("The connection was not authenticated within {seconds} s."))
}

/// Answers what a client asks before its first real packet: TLS is begun, GSSAPI encryption refused politely.
/// `None` when the connection is over.
async fn encrypt(shared: &Shared, mut tcp: TcpStream, input: &mut BytesMut) -> Option<Stream> {
    loop {
        if input.first() == Some(&TLS_HANDSHAKE) {
            crate::say_goodbye(Stream::Tcp(tcp), &no_direct_tls()).await;
            return None;
        }
        match startup::parse_first_packet(input) {
            Ok(None) => {
                if tcp.read_buf(input).await.ok()? == 0 {
                    return None;
                }
            }
            Ok(Some((FirstPacket::GssEncRequest, length))) => {
                let _ = input.split_to(length);
                tcp.write_all(b"N").await.ok()?;
            }
            Ok(Some((FirstPacket::SslRequest, length))) => {
                let _ = input.split_to(length);
                // Bytes that came before the answer were not encrypted: somebody may have put them there
                // (CVE-2021-23214).
                if !input.is_empty() {
                    crate::say_goodbye(Stream::Tcp(tcp), &injected()).await;
                    return None;
                }
                tcp.write_all(b"S").await.ok()?;
                let tls = shared.tls.client_acceptor.accept(tcp).await;
                let tls =
                    tls.inspect_err(|error| tracing::debug!(%error, "TLS with a client failed")).ok()?;
                return Some(Stream::TlsServer(Box::new(tls)));
            }
            Ok(Some((FirstPacket::Startup(_) | FirstPacket::Cancel(_), _))) | Err(_) => {
                return Some(Stream::Tcp(tcp));
            }
        }
    }
}

fn no_direct_tls() -> ErrorFields {
    ErrorFields::fatal(
        SqlState::PROTOCOL_VIOLATION,
        "TLS without a preceding SSLRequest is taken on links only",
    )
    .with_hint("Leave sslnegotiation at its default, postgres.")
}

fn injected() -> ErrorFields {
    ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, "received unencrypted data after SSL request").with_detail(
        "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
    )
}

/// What an authenticated client wants.
struct Session {
    startup: Startup,
    endpoint: Endpoint,
}

impl Session {
    /// A database of that name is shadowed, but for replication.
    fn is_console(&self) -> bool {
        self.startup.database() == console::DATABASE && !self.startup.is_replication()
    }

    fn identity(&self, address: SocketAddr, local: SocketAddr, stream: &Stream) -> Identity {
        let kind = match (self.is_console(), self.startup.is_replication()) {
            (true, _) => ClientKind::Console,
            (false, true) => ClientKind::Replication,
            (false, false) => ClientKind::Session,
        };
        Identity {
            user: self.startup.user().to_owned(),
            database: self.startup.database().to_owned(),
            application: self.startup.get("application_name").unwrap_or_default().to_owned(),
            endpoint: self.endpoint,
            kind,
            address,
            local,
            tls: matches!(stream, Stream::TlsServer(_)),
        }
    }
}

/// From the first byte to a proven identity. `None` when the connection was for something else and is done.
async fn greet(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    input: &mut BytesMut,
    endpoint: Endpoint,
) -> Result<Option<Session>, Refusal> {
    let Some(startup) = first_packet(shared, stream, input).await? else { return Ok(None) };
    let endpoint = match startup.option(ENDPOINT_OPTION) {
        None => endpoint,
        Some(name) => Endpoint::parse(name).ok_or_else(|| {
            let text = format!("invalid value for parameter \"{ENDPOINT_OPTION}\": \"{name}\"");
            ErrorFields::fatal(SqlState::INVALID_PARAMETER_VALUE, text)
                .with_hint("Available values: cluster, reader, writer.")
        })?,
    };
    let mut startup = startup;
    settings(&mut startup)?;
    negotiate(stream, &startup).await?;
    match shared.config.auth {
        Auth::Trust => {}
        Auth::Scram => {
            auth::scram(stream, input, &startup, &shared.admin, &shared.mock_secret).await?;
        }
    }
    Ok(Some(Session { startup, endpoint }))
}

/// Reads the start-up message; `None` when it was a cancel request, which is done then.
async fn first_packet(
    shared: &Shared,
    stream: &mut Stream,
    input: &mut BytesMut,
) -> Result<Option<Startup>, Refusal> {
    loop {
        let Some((packet, length)) =
            startup::parse_first_packet(input).map_err(|error| startup_error(&error))?
        else {
            if stream.read_buf(input).await? == 0 {
                return Err(Refusal::Gone);
            }
            continue;
        };
        let _ = input.split_to(length);
        match packet {
            FirstPacket::Startup(startup) => return Ok(Some(startup)),
            FirstPacket::Cancel(key) => {
                shared.cancels.cancel(&key).await;
                return Ok(None);
            }
            FirstPacket::GssEncRequest => stream.write_all(b"N").await?,
            FirstPacket::SslRequest => {
                let text = "unsupported frontend protocol: TLS has been negotiated already";
                return Err(ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
            }
        }
    }
}

fn startup_error(error: &startup::StartupError) -> ErrorFields {
    let code = match error {
        startup::StartupError::NoUser => SqlState::INVALID_AUTHORIZATION,
        startup::StartupError::Version(_) => SqlState::FEATURE_NOT_SUPPORTED,
        startup::StartupError::Length
        | startup::StartupError::Layout
        | startup::StartupError::Repeated(_) => SqlState::PROTOCOL_VIOLATION,
    };
    ErrorFields::fatal(code, error.to_string())
}

/// Checks what the client says of Pangea's own settings; Aurora's names become ours.
fn settings(startup: &mut Startup) -> Result<(), Refusal> {
    let level = ReadSetting::ReadConsistency;
    for (name, _) in &mut startup.parameters {
        if pangea_session::ALIASES.iter().any(|alias| alias.eq_ignore_ascii_case(name)) {
            level.name().clone_into(name);
        }
    }
    for (name, setting) in SETTING_NAMES {
        if let Some(value) = startup.option(name)
            && let Err(error) = ReadSettings::default().set(setting, value)
        {
            let told = ErrorFields::fatal(SqlState::INVALID_PARAMETER_VALUE, error.to_string());
            return Err(told.with_hint(error.hint).into());
        }
    }
    Ok(())
}

/// Tells a client that asks for more than is spoken here what is.
async fn negotiate(stream: &mut Stream, startup: &Startup) -> Result<(), Refusal> {
    let unknown: Vec<&str> = startup
        .parameters
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("_pq_."))
        .collect();
    if startup.version > VERSION_MAX || !unknown.is_empty() {
        let mut out = BytesMut::new();
        build::negotiate_protocol_version(&mut out, startup.version.min(VERSION_MAX).minor, &unknown);
        stream.write_all(&out).await?;
    }
    Ok(())
}

/// What a server is told of a client: its parameters without those that are the gateway's, in protocol 3.0.
pub(crate) fn server_startup(client: &Startup) -> Startup {
    let ours = |name: &str| {
        use crate::links::parameter::{EPOCH, KIND, ORIGIN};
        name.starts_with("_pq_.") || [EPOCH, KIND, ORIGIN].contains(&name)
    };
    let parameters = client.parameters.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    Startup { version: Version { major: 3, minor: 0 }, parameters }
}

async fn run(
    shared: &Arc<Shared>,
    stream: Stream,
    input: BytesMut,
    session: Session,
    mut registered: Registered,
) {
    let Session { startup, endpoint } = session;
    // A replication connection is about one server, not about the cluster.
    if startup.is_replication() {
        let route = match endpoint {
            Endpoint::Cluster | Endpoint::Reader => shared.local_route(),
            Endpoint::Writer => shared.primary_route(),
        };
        let via = Via::new(route, Kind::Session);
        let relayed = Box::pin(relay(shared.clone(), stream, input, startup, via));
        return tokio::select! {
            () = relayed => {}
            () = registered.replicates() => {}
        };
    }
    let admitted = tokio::select! {
        admitted = console::admitted(&mut registered, PRIMARY_TIMEOUT) => admitted,
        () = shared.stopped() => Err(crate::shutting_down()),
    };
    if let Err(error) = admitted {
        return crate::say_goodbye(stream, &error).await;
    }
    let opening = crate::session::open(shared.clone(), stream, input, startup, endpoint, registered);
    // Boxed so that only a pointer of it is left in a session's task once it runs.
    if let Some(running) = Box::pin(opening).await {
        running.run().await;
    }
}

/// How a relayed session reaches its server.
pub(crate) struct Via {
    pub(crate) route: Route,
    pub(crate) kind: Kind,
    /// With its loss the session ends.
    pub(crate) generation: Generation,
    /// Of a session that another gateway forwards: the epoch that it is for.
    pub(crate) forwarded: Option<(Epoch, Forwarded)>,
}

impl Via {
    pub(crate) fn new(route: Route, kind: Kind) -> Self {
        Self { generation: route.generation(), route, kind, forwarded: None }
    }
}

/// Connects a client to one server and passes everything through.
pub(crate) async fn relay(shared: Arc<Shared>, client: Stream, input: BytesMut, startup: Startup, via: Via) {
    let Via { route, kind, generation, forwarded } = via;
    let epoch = match (&route, forwarded) {
        (_, Some((epoch, _))) => epoch,
        (Route::Link(_, epoch), None) => *epoch,
        (Route::Local(_) | Route::Unlinked(_), None) => shared.gate.epoch(),
    };
    let server = match route.open().await {
        Ok(server) => server,
        Err(error) => {
            let mut words = BytesMut::new();
            unreachable(&route, &error).write(&mut words);
            return crate::refuse(client, words).await;
        }
    };
    let mut to_server = BytesMut::new();
    route.startup(&startup, kind).write(&mut to_server);
    let forwarded = forwarded.map(|(_, begins)| begins);
    let ends = Ends { client, server, route, generation, epoch, from_client: input, forwarded };
    Relay::run(ends, to_server, &shared).await;
}

/// The error of a session whose server cannot be reached.
pub(crate) fn unreachable(route: &Route, error: &std::io::Error) -> ErrorFields {
    let (code, hint) = match route {
        Route::Local(_) => (
            SqlState::CANNOT_CONNECT_NOW,
            "The server may be starting: try again in a moment, or connect to another region.",
        ),
        Route::Link(..) => (
            SqlState::SQLCLIENT_UNABLE_TO_CONNECT,
            "Nothing was executed. Reads in this region still work; try the write again.",
        ),
        Route::Unlinked(_) => (
            SqlState::SQLCLIENT_UNABLE_TO_CONNECT,
            "Nothing was executed. Add the region to [[peers]] and reload the configuration.",
        ),
    };
    ErrorFields::fatal(code, format!("cannot connect to {route}: {error}")).with_hint(hint)
}
