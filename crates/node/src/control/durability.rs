//! Puts the cluster's durability in force on this region's server, with PostgreSQL's own synchronous replication.

use std::time::{Duration, Instant};

use pangea_base::RegionId;
use pangea_control::{Durability, PeerState, Server, Topology};

use crate::lag::LagTracker;

/// How far below its bound the lag must be before commits stop to wait: else they would start and stop at every moment.
const RELIEF: u32 = 2;

/// In the place of standbys where none counts. No region has such a name.
const NOBODY: &str = "no secondary region";

/// What a primary knows of how much would be lost with it.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    written: LagTracker,
    /// Since when no secondary was heard of.
    alone: Option<Instant>,
    waits: bool,
}

impl Exposure {
    /// Whether commits have to wait because every secondary that counts is further behind than the bound of the
    /// durability, if it has one.
    pub(crate) fn exceeds<'a>(
        &mut self,
        now: Instant,
        own: &Server,
        topology: Option<&Topology>,
        peers: impl Iterator<Item = &'a PeerState>,
    ) -> bool {
        let Some(topology) = topology else { return false };
        let Durability::Bounded { seconds } = topology.durability else { return false };
        let bound = Duration::from_secs(u64::from(seconds));
        let counts = |peer: &&PeerState| topology.members.get(&peer.region).is_some_and(|m| !m.drained);
        let peers = peers.filter(counts);
        let Server::Primary { position: Some(own), .. } = own else { return self.waits };
        self.written.hear(now, own.lsn);
        let received = peers.filter_map(|peer| match &peer.server {
            Server::Standby { timeline: Some(timeline), received: Some(received), .. }
                if *timeline == own.timeline =>
            {
                Some(*received)
            }
            _ => None,
        });
        // LAG-IS-NEVER-GUESSED: of whom nothing is heard it is not known that they have anything.
        let lag = match received.max() {
            Some(received) => {
                self.alone = None;
                self.written.lag(now, received)
            }
            None => Some(now.duration_since(*self.alone.get_or_insert(now))),
        };
        let limit = if self.waits { bound / RELIEF } else { bound };
        self.waits = lag.is_none_or(|lag| lag > limit);
        self.waits
    }
}

/// The `synchronous_standby_names` of a region's server, for when it is primary.
pub(crate) fn synchronous(topology: &Topology, me: &RegionId, exceeds: bool) -> String {
    let count = match topology.durability {
        Durability::Async => return String::new(),
        Durability::Bounded { .. } if !exceeds => return String::new(),
        Durability::Bounded { .. } => 1,
        Durability::Sync { regions } => regions,
    };
    let others = topology.members.iter().filter(|(region, member)| *region != me && !member.drained);
    let mut names: Vec<String> = others.map(|(region, _)| format!("\"{region}\"")).collect();
    if names.is_empty() {
        // Commits wait, as they are ordered to: an empty list is no valid setting.
        names.push(format!("\"{NOBODY}\""));
    }
    format!("ANY {count} ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pangea_control::Member;

    use super::*;

    #[test]
    fn names_the_other_regions_that_count() -> Result<(), Box<dyn std::error::Error>> {
        let (a, b, c): (RegionId, RegionId, RegionId) = ("a".parse()?, "b".parse()?, "c".parse()?);
        let members: BTreeMap<_, _> =
            [&a, &b, &c].into_iter().map(|region| (region.clone(), Member::default())).collect();
        let mut topology = Topology::new("x".to_owned(), a.clone(), members, 0);
        assert_eq!(synchronous(&topology, &a, true), "");
        topology.durability = "sync(2)".parse()?;
        assert_eq!(synchronous(&topology, &a, false), "ANY 2 (\"b\", \"c\")");
        assert_eq!(synchronous(&topology, &b, false), "ANY 2 (\"a\", \"c\")");
        topology.durability = "bounded(5)".parse()?;
        assert_eq!(synchronous(&topology, &a, false), "");
        assert_eq!(synchronous(&topology, &a, true), "ANY 1 (\"b\", \"c\")");
        topology.members.entry(c).or_default().drained = true;
        assert_eq!(synchronous(&topology, &a, true), "ANY 1 (\"b\")");
        Ok(())
    }
}
