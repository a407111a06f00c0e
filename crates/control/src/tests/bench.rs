//! One controller, told by hand what it is to know.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_base::{Epoch, Lsn, Position, RegionId, Timeline};

use crate::{
    Cause, Controller, Lease, Loaded, Member, Output, PeerState, Server, Settings, StoreWrite, Topology,
};

pub(super) const TTL: Duration = Duration::from_secs(3);

pub(super) fn id(name: &str) -> RegionId {
    name.parse().unwrap()
}

pub(super) fn seconds(number: f64) -> Duration {
    Duration::from_secs_f64(number)
}

/// Three regions, `a` primary in epoch 1.
pub(super) fn topology() -> Topology {
    let members: BTreeMap<RegionId, Member> =
        ["a", "b", "c"].into_iter().map(|name| (id(name), Member::default())).collect();
    Topology::new("test".to_owned(), id("a"), members, 1000)
}

/// The topology after `by` has taken over.
pub(super) fn taken(topology: &Topology, by: &str, cause: Cause) -> Topology {
    topology.claimed(&id(by), cause, 1000)
}

pub(super) fn controller(region: &str) -> Controller {
    Controller::new(Settings {
        cluster: "test".to_owned(),
        me: id(region),
        process: 7,
        ttl: TTL,
        bootstrap: None,
    })
}

pub(super) fn lease(holder: &str, renewal: u64) -> Lease {
    Lease { epoch: Epoch(1), holder: id(holder), process: 1, renewal, ttl_ms: 3000 }
}

pub(super) fn loaded(versions: (u64, u64), topology: &Topology, lease: &Lease) -> Loaded {
    Loaded { topology: Some((versions.0, topology.clone())), lease: Some((versions.1, lease.clone())) }
}

pub(super) fn standby(timeline: u32, lsn: u64) -> Server {
    Server::Standby {
        timeline: Some(Timeline(timeline)),
        received: Some(Lsn(lsn)),
        replayed: Some(Lsn(lsn)),
        streaming: true,
    }
}

pub(super) fn position(timeline: u32, lsn: u64) -> Position {
    Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

pub(super) fn primary(timeline: u32, lsn: u64) -> Server {
    Server::Primary { position: Some(position(timeline, lsn)), promotion: None }
}

/// What a region says in epoch 1 of `a`.
pub(super) fn says(region: &str, server: Server) -> PeerState {
    let writable = matches!(server, Server::Primary { .. });
    PeerState {
        region: id(region),
        process: 1,
        at_us: 1,
        epoch: Epoch(1),
        primary: id("a"),
        server,
        writable,
        hears_primary: false,
        hold: None,
        held: None,
        busy: 0,
        offer: None,
        confirm_ms: None,
        confirms: None,
    }
}

/// The next write, and what else is so.
pub(super) fn poll(controller: &mut Controller, at: f64) -> (Option<StoreWrite>, Output) {
    let output = controller.poll(seconds(at), 1000);
    (output.write.clone(), output)
}
