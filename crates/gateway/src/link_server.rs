//! The accepting end of links: what other gateways ask of this region.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use pangea_base::{Epoch, RegionId};
use pangea_control::Gate;
use pangea_pgwire::startup::{FirstPacket, Startup, parse_first_packet};
use pangea_pgwire::{ErrorFields, SqlState};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::Via;
use crate::links::{Kind, parameter};
use crate::relay::Forwarded;
use crate::shared::Shared;
use crate::stream::Stream;

/// Longest time for TLS on a new link connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that a warm connection may wait for its first packet: longer than the other side keeps it.
const WARM_TIMEOUT: Duration = Duration::from_secs(600);

/// Serves one link connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, tcp: TcpStream) {
    let Ok(Ok(tls)) = timeout(HANDSHAKE_TIMEOUT, shared.tls.link_acceptor.accept(tcp)).await else {
        tracing::debug!("a link connection without a certificate of the cluster was refused");
        return;
    };
    let mut stream = Stream::TlsServer(Box::new(tls));
    let mut input = BytesMut::new();
    let packet = tokio::select! {
        packet = timeout(WARM_TIMEOUT, first_packet(&mut stream, &mut input)) => packet,
        () = shared.stopped() => return,
    };
    match packet {
        Ok(Some(FirstPacket::Cancel(key))) => shared.cancels.cancel(&key).await,
        Ok(Some(FirstPacket::Startup(startup))) => begin(shared, stream, input, startup).await,
        Ok(Some(FirstPacket::SslRequest | FirstPacket::GssEncRequest) | None) | Err(_) => {}
    }
}

async fn first_packet(stream: &mut Stream, input: &mut BytesMut) -> Option<FirstPacket> {
    loop {
        if let Some((packet, length)) = parse_first_packet(input).ok()? {
            let _ = input.split_to(length);
            return Some(packet);
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn begin(shared: Arc<Shared>, stream: Stream, input: BytesMut, startup: Startup) {
    let kind = startup.get(parameter::KIND).and_then(Kind::parse);
    let epoch = startup.get(parameter::EPOCH).and_then(|text| text.parse::<Epoch>().ok());
    let (Some(kind), Some(epoch)) = (kind, epoch) else {
        let error = ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, "link start-up without kind or epoch");
        return crate::say_goodbye(stream, &error).await;
    };
    if kind == Kind::Heartbeat {
        let served = tokio::select! {
            served = crate::heartbeat::serve(stream, input, &shared) => served,
            () = shared.stopped() => return,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "heartbeat connection ended");
        }
        return;
    }
    let origin = startup.get(parameter::ORIGIN).unwrap_or_default();
    let Some(link) = origin.parse().ok().and_then(|origin| shared.links.get(&origin)) else {
        return crate::say_goodbye(stream, &stranger(&shared.config.region, origin)).await;
    };
    // A region that has vanished does not say so on its connections: its sessions must not keep their locks.
    let generation = link.generation();
    // ONE-WRITER: what was meant for another epoch's primary is not for this server. What is made ahead waits for its epoch.
    let takes = if kind == Kind::Ahead {
        tokio::select! {
            succeeds = shared.gate.succeeds(epoch) => succeeds,
            () = shared.stopped() => return,
        }
    } else {
        let gate = shared.gate.now();
        gate.primary == shared.config.region && epoch == gate.epoch && gate.open
    };
    if !takes {
        let mut words = BytesMut::new();
        wrong_primary(&shared, epoch).write(&mut words);
        return crate::refuse(stream, words).await;
    }
    shared.forwarded.fetch_add(1, Ordering::Relaxed);
    // What is about this server, and not about the cluster, goes on while clients are held.
    let forwarded = match kind {
        Kind::Ahead => Some((epoch, Forwarded::Ahead)),
        Kind::Session if !startup.is_replication() => Some((epoch, Forwarded::Now)),
        Kind::Session | Kind::Uplink | Kind::Heartbeat => None,
    };
    let via = Via { route: shared.local_route(), kind, generation, forwarded };
    crate::endpoint::relay(shared.clone(), stream, input, startup, via).await;
    shared.forwarded.fetch_sub(1, Ordering::Relaxed);
}

/// The refusal of what was meant for this region as the primary of an epoch. Nothing of it has run.
pub(crate) fn wrong_primary(shared: &Shared, asked: Epoch) -> ErrorFields {
    let (region, Gate { epoch, primary, .. }) = (&shared.config.region, shared.gate.now());
    if primary == *region && epoch == asked {
        let text = format!("region {region}, the primary, does not take writes yet");
        return ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, text).with_hint("Try again in a moment.");
    }
    let text = format!("region {region} is not the primary of epoch {asked}");
    ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, text)
        .with_detail(format!("It is in epoch {epoch}, whose primary is {primary}."))
        .with_hint("Try again: the asking gateway will have learnt of the change.")
}

/// A region that was taken out, or that this one has not been told of yet. It may ask how things are, no more.
fn stranger(region: &RegionId, origin: &str) -> ErrorFields {
    let text = format!("region {origin:?} is not among the peers of region {region}");
    ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, text)
        .with_hint("Add it to [[peers]] in the configuration of that region, and reload it.")
}
