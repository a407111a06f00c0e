//! SHOW REGIONS and SHOW LAG: what the gateway knows of servers here and elsewhere.
//!
//! What is not known is NULL, never 0 (LAG-IS-NEVER-GUESSED).

use std::sync::Arc;
use std::time::Duration;

use pangea_base::{Epoch, Lsn, Position, RegionId};
use pangea_control::Gate;

use super::table::{Column, Row, Type, row};
use crate::position::PositionWatch;
use crate::shared::Shared;

/// Columns of SHOW REGIONS.
pub(super) const REGIONS: &[Column] = &[
    ("region", Type::Text),
    ("role", Type::Text),
    ("here", Type::Int),
    ("reachable", Type::Int),
    ("epoch", Type::Int),
    ("position", Type::Text),
    ("received_lsn", Type::Text),
    ("round_trip_us", Type::Int),
    ("link", Type::Text),
];

/// Columns of SHOW LAG.
pub(super) const LAG: &[Column] = &[
    ("region", Type::Text),
    ("server", Type::Text),
    ("role", Type::Text),
    ("position", Type::Text),
    ("received_lsn", Type::Text),
    ("lag_bytes", Type::Int),
    ("receive_lag_bytes", Type::Int),
    ("staleness_us", Type::Int),
];

/// The regions as seen from here, this one first.
pub(super) fn region_rows(shared: &Shared) -> Vec<Row> {
    let (gate, here) = (shared.gate.now(), &shared.config.region);
    let own = Server::here(&shared.position);
    let number = |Epoch(epoch)| epoch;
    let (epoch, link) = (Some(gate.epoch).filter(|epoch| *epoch != Epoch(0)).map(number), shared.config.link);
    let position = own.position.map(|position| position.to_string());
    let received = own.received.map(|lsn| lsn.to_string());
    let answers = own.position.is_some();
    // To itself there is no round trip.
    let time = None::<Duration>;
    let mut rows = vec![row![
        here.to_string(),
        role(&gate, here),
        true,
        answers,
        epoch,
        position,
        received,
        time,
        link.to_string(),
    ]];
    let addresses = shared.links.addresses();
    for (region, pulse) in shared.peers.pulses() {
        let address = addresses.iter().find(|(known, _)| *known == region);
        rows.push(row![
            region.to_string(),
            role(&gate, &region),
            false,
            pulse.reachable,
            // Of one that does not answer what it said last is history.
            pulse.epoch.filter(|_| pulse.reachable).map(number),
            pulse.position.map(|position| position.to_string()),
            pulse.received.map(|lsn| lsn.to_string()),
            pulse.round_trip.filter(|_| pulse.reachable),
            address.map(|(_, address)| address.to_string()),
        ]);
    }
    rows
}

/// What a region is; before the topology is known nobody can say.
fn role(gate: &Gate, region: &RegionId) -> Option<&'static str> {
    let name = if *region == gate.primary { "primary" } else { "secondary" };
    (gate.epoch != Epoch(0)).then_some(name)
}

/// How far a server is.
#[derive(Debug, Clone, Copy, Default)]
struct Server {
    position: Option<Position>,
    received: Option<Lsn>,
}

impl Server {
    fn here(watch: &PositionWatch) -> Self {
        let known = watch.known();
        let received = known.as_ref().and_then(|known| known.received);
        Self { position: known.map(|known| known.position()), received }
    }
}

/// Every server that is known of, the primary's among them.
pub(super) fn lag_rows(shared: &Shared) -> Vec<Row> {
    let (gate, here) = (shared.gate.now(), &shared.config.region);
    let pulses = shared.peers.pulses();
    let primary = if gate.primary == *here {
        // What was asked of a server before it was promoted is not where the primary is.
        let promoted = shared.position.known().is_some_and(|known| !known.in_recovery);
        if promoted { Server::here(&shared.position) } else { Server::default() }
    } else {
        let pulse = pulses.iter().find(|(region, _)| *region == gate.primary);
        pulse.map_or_else(Server::default, |(_, pulse)| Server { position: pulse.position, received: None })
    };
    let mut rows = Vec::new();
    let own = |name: &str, role: Option<&'static str>, watch: &Arc<PositionWatch>| {
        let staleness = shared.freshness.staleness(watch);
        lag_row([here.as_str(), name], role, Server::here(watch), primary, staleness)
    };
    rows.push(own("main", role(&gate, here), &shared.position));
    for (number, reader) in (1..).zip(&shared.readers) {
        rows.push(own(&format!("reader{number}"), Some("reader"), reader));
    }
    for (region, pulse) in &pulses {
        let server = Server { position: pulse.position, received: pulse.received };
        // How stale reads are there only that region knows.
        rows.push(lag_row([region.as_str(), "main"], role(&gate, region), server, primary, None));
    }
    rows
}

fn lag_row(
    [region, name]: [&str; 2],
    role: Option<&'static str>,
    server: Server,
    primary: Server,
    staleness: Option<Duration>,
) -> Row {
    let lag = server.position.and_then(|position| bytes_behind(primary.position?, position));
    let flushed = server.received.zip(server.position);
    let received = flushed.map(|(lsn, position)| Position { lsn, ..position });
    let receive_lag = received.and_then(|received| bytes_behind(primary.position?, received));
    row![
        region,
        name,
        role,
        server.position.map(|position| position.to_string()),
        server.received.map(|lsn| lsn.to_string()),
        lag,
        receive_lag,
        staleness,
    ]
}

/// Bytes of the primary's log that a server does not have; not known across timelines, whose positions say nothing about one
/// another. What is ahead of what was last heard of the primary has all of that.
fn bytes_behind(primary: Position, server: Position) -> Option<u64> {
    (primary.timeline == server.timeline).then(|| primary.lsn.bytes_since(server.lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::table::Value;

    #[test]
    fn lag_is_known_only_between_known_positions_of_one_timeline()
    -> Result<(), pangea_base::ParsePositionError> {
        let at = |text: &str| text.parse::<Position>();
        let server = |position| Server { position: Some(position), received: None };
        let primary = server(at("2:0/200")?);
        let lag = |server, primary| lag_row(["a", "main"], None, server, primary, None).swap_remove(5);
        assert_eq!(lag(server(at("2:0/100")?), primary), Value::Int(256));
        assert_eq!(lag(server(at("2:0/300")?), primary), Value::Int(0));
        assert_eq!(lag(server(at("1:0/100")?), primary), Value::Null);
        assert_eq!(lag(Server::default(), primary), Value::Null);
        assert_eq!(lag(server(at("2:0/100")?), Server::default()), Value::Null);
        Ok(())
    }
}
