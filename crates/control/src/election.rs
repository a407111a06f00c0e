//! Which secondary takes over when the primary's lease has ended, and whether any may.

use std::collections::BTreeMap;
use std::time::Duration;

use pangea_base::{Lsn, Position, RegionId, Timeline};

use crate::state::{PeerState, Server};
use crate::topology::{Cause, Durability, Topology};

/// What a region has heard of another.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) state: PeerState,
    /// When the region was asked what it answered last; `None`: it does not answer.
    pub(crate) asked: Option<Duration>,
}

/// What the decision is made from.
#[derive(Debug)]
pub(crate) struct Election<'a> {
    pub(crate) me: &'a RegionId,
    pub(crate) topology: &'a Topology,
    pub(crate) server: &'a Server,
    pub(crate) peers: &'a BTreeMap<RegionId, Peer>,
    /// Answers to questions asked before this say nothing: the primary may have written since.
    pub(crate) since: Duration,
    /// The primary's position as heard last.
    pub(crate) primary_was_at: Option<Position>,
    /// Whether this region hears the primary, and that takes writes.
    pub(crate) hears_primary: bool,
}

/// How advanced a standby is: what it has received, not what it has replayed, since a promotion replays the rest. One
/// that has just started and still replays what it has on disk does not know it (`pg_last_wal_receive_lsn` is NULL
/// until then), and what it has replayed says nothing.
pub(crate) fn progress(server: &Server) -> Option<(Timeline, Lsn)> {
    match server {
        Server::Standby { timeline: Some(timeline), received: Some(received), replayed, .. } => {
            Some((*timeline, replayed.map_or(*received, |replayed| replayed.max(*received))))
        }
        Server::Primary { position: Some(position), .. } | Server::Stopped { checkpoint: position } => {
            Some((position.timeline, position.lsn))
        }
        Server::Standby { .. } | Server::Primary { .. } | Server::Down => None,
    }
}

impl Election<'_> {
    fn heard(&self) -> impl Iterator<Item = (&RegionId, &PeerState)> {
        let fresh = |peer: &&Peer| peer.asked.is_some_and(|asked| asked >= self.since);
        let heard = self.peers.iter().filter(move |(_, peer)| fresh(peer));
        // A region that was removed has no say.
        heard
            .filter(|(region, _)| self.topology.members.contains_key(*region))
            .map(|(region, peer)| (region, &peer.state))
    }

    fn priority(&self, region: &RegionId) -> u8 {
        let member = self.topology.members.get(region).filter(|member| !member.drained);
        member.map_or(0, |member| member.priority)
    }

    /// Why this region must not take over by itself, or `None` when it should.
    pub(crate) fn objection(&self) -> Option<String> {
        if !self.topology.policy.automatic {
            return Some("automatic failover is switched off".to_owned());
        }
        if self.priority(self.me) == 0 {
            return Some("this region is drained or has priority 0".to_owned());
        }
        let own = progress(self.server).filter(|_| matches!(self.server, Server::Standby { .. }));
        let Some(own) = own else {
            return Some(
                "the server of this region is no running standby whose position is known".to_owned(),
            );
        };
        let blind =
            self.heard().filter(|(region, state)| **region != self.topology.primary && !state.hears_primary);
        let observers = blind.count() + usize::from(!self.hears_primary);
        let needed = self.topology.observers_needed();
        if observers < needed {
            return Some(format!(
                "{observers} of {needed} regions that must agree find that the primary is gone"
            ));
        }
        if let Some(better) = self.better_than(own) {
            return Some(format!("{better} is to take over"));
        }
        self.loss_objection(own)
    }

    /// A region that should take over instead of this one.
    fn better_than(&self, own: (Timeline, Lsn)) -> Option<&RegionId> {
        let candidates = self.heard().filter(|(region, _)| self.priority(region) > 0);
        // By name last, so that all regions find the same.
        let mine = (own, self.priority(self.me), std::cmp::Reverse(self.me));
        let rank = |(region, state): (&'_ RegionId, &PeerState)| {
            let progress = progress(&state.server)
                .filter(|_| matches!(state.server, Server::Standby { .. } | Server::Stopped { .. }))?;
            ((progress, self.priority(region), std::cmp::Reverse(region)) > mine).then_some(())
        };
        candidates.filter(|candidate| rank(*candidate).is_some()).map(|(region, _)| region).next()
    }

    /// Why taking over could lose more than is allowed.
    fn loss_objection(&self, own: (Timeline, Lsn)) -> Option<String> {
        if let Durability::Sync { .. } = self.topology.durability
            && self.topology.durability_in_force
        {
            // ZERO-LOSS-WHEN-SYNC.
            return self.nothing_lost().err();
        }
        let limit = self.topology.policy.loss_bytes_max?;
        let Some(last) = self.primary_was_at else {
            return Some(
                "how far the primary was is not known, and so neither what would be lost".to_owned(),
            );
        };
        if own.0 < last.timeline {
            return Some(format!("this region has not followed the primary to timeline {}", last.timeline.0));
        }
        let missing = if last.timeline == own.0 { last.lsn.bytes_since(own.1) } else { 0 };
        (missing > limit).then(|| {
            format!("{missing} bytes of log would be lost, more than the {limit} that the policy allows")
        })
    }

    /// Whether it can be proved that this region has every acknowledged write; the error says why not.
    pub(crate) fn nothing_lost(&self) -> Result<&'static str, String> {
        let own = progress(self.server);
        let Some(own) = own else {
            return Err("the position of this region's server is not known".to_owned());
        };
        let primary = self.heard().find(|(region, _)| **region == self.topology.primary);
        if let Some((_, PeerState { server: Server::Stopped { checkpoint }, .. })) = primary
            && checkpoint.timeline == own.0
            && checkpoint.lsn < own.1
        {
            return Ok("the primary has shut down in order, and all that it wrote is here");
        }
        let Durability::Sync { regions } = self.topology.durability else {
            return Err(format!(
                "with durability {} the primary may have acknowledged writes that no other region has",
                self.topology.durability
            ));
        };
        if !self.topology.durability_in_force {
            return Err(format!("durability {} was not in force yet", self.topology.durability));
        }
        // Of any `regions` secondaries that hold a write at least one must be among those that are compared.
        let secondaries = |region: &&RegionId| {
            **region != self.topology.primary
                && self.topology.members.get(*region).is_some_and(|m| !m.drained)
        };
        let all = self.topology.members.keys().filter(secondaries).count();
        let compared: Vec<_> = self
            .heard()
            .filter(|(region, _)| secondaries(region))
            .filter_map(|(_, state)| progress(&state.server))
            .collect();
        let needed = (all + 1).saturating_sub(usize::from(regions));
        // A drained region that takes over by an operator's word is none of those that commits have waited for.
        let heard = compared.len() + usize::from(secondaries(&self.me));
        if heard < needed {
            return Err(format!(
                "{heard} of {all} secondary regions are heard of, and the write may be on any {regions} of them: \
                 {needed} are needed"
            ));
        }
        if compared.iter().any(|other| *other > own) {
            return Err("another region has received more".to_owned());
        }
        Ok("every acknowledged write is on a region that was asked, and none has more than this one")
    }

    /// Longest back-off, in seconds: nobody waits for a day.
    const BACK_OFF_MAX_S: u64 = 24 * 3600;

    /// How long to wait because failovers have been frequent.
    pub(crate) fn back_off(&self, wall: u64) -> Duration {
        let policy = &self.topology.policy;
        // A change far in the future was dated by a clock that was wrong: it says nothing of how frequent they are.
        let recent = self.topology.changes.iter().filter(|change| {
            change.cause == Cause::Failover && wall.abs_diff(change.at) < policy.flap_window_s
        });
        let count = u32::try_from(recent.count()).unwrap_or(u32::MAX);
        let Some(surplus) = count.checked_sub(policy.flap_limit) else { return Duration::ZERO };
        let seconds = policy.flap_back_off_s.saturating_mul(1 << surplus.min(6));
        Duration::from_secs(seconds.min(Self::BACK_OFF_MAX_S))
    }
}
