//! What role the region's server has, and the old primary's way through a switchover.

use std::time::Duration;

use pangea_base::RegionId;

use crate::change::TopologyChange;
use crate::controller::Controller;
use crate::election::Peer;
use crate::handover::{Handover, Stage, StepKind};
use crate::interface::{Desired, Output};
use crate::state::Server;
use crate::topology::Transition;

/// Longest wait for the checkpoint ahead of a switchover.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the server to shut down.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a primary keeps its lease without a server. Crash recovery and restarts are to fit in.
const DOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for the target to claim.
const OFFER_TIMEOUT: Duration = Duration::from_secs(3);

impl Controller {
    /// Decides.
    pub fn poll(&mut self, now: Duration, wall: u64) -> Output {
        self.forced = self.forced.filter(|forced| now < forced.until);
        let desired = self.decide(now);
        let writable = self.is_writable(now) && desired == Desired::Primary;
        if writable && !self.was_writable {
            self.note(now, StepKind::Writable);
        }
        self.was_writable = writable;
        self.resign_without_server(now);
        let write = self.next_write(now, wall);
        let prepare = self
            .handover
            .as_ref()
            .filter(|handover| handover.stage == Stage::Preparing && self.prepared != Some(handover.id));
        Output {
            desired,
            prepare: prepare.map(|handover| handover.id),
            gate: self.gate(now),
            lease_until: self.lease_until().filter(|_| self.is_primary()),
            state: self.state(now),
            again: self.settings.margin() / 4,
            write,
        }
    }

    /// A primary whose server does not come back leaves the lease to others, if there are any.
    fn resign_without_server(&mut self, now: Duration) {
        let down = self.holds_lease(now) && self.server == Server::Down && self.handover.is_none();
        let since = *self.down_since.get_or_insert(now);
        if !down {
            self.down_since = None;
        } else if now >= since + DOWN_TIMEOUT
            && self.peers().any(|peer| matches!(peer.server, Server::Standby { .. }))
        {
            self.resigned_until = now + 4 * self.settings.ttl;
            self.down_since = None;
            let reason = format!("its server has not run for {DOWN_TIMEOUT:?}");
            self.note(now, StepKind::Fenced { reason });
        }
    }

    /// Whether this region is the primary of the newest epoch that it has heard of.
    pub(crate) fn is_primary(&self) -> bool {
        self.newest.as_ref().is_some_and(|(epoch, primary)| {
            *primary == self.settings.me && self.topology().is_some_and(|topology| topology.epoch == *epoch)
        })
    }

    pub(crate) fn lease_until(&self) -> Option<Duration> {
        // A region that is being added may be a member already, and has given no word yet.
        let added = self.wanted.iter().filter_map(TopologyChange::member);
        let members = self.topology()?.members.keys().chain(added);
        let others = members.filter(|region| **region != self.settings.me);
        self.keeper.until(others, self.settings.ttl, self.settings.margin())
    }

    pub(crate) fn holds_lease(&self, now: Duration) -> bool {
        self.is_primary() && self.lease_until().is_some_and(|until| now < until)
    }

    pub(crate) fn is_writable(&self, now: Duration) -> bool {
        let handed_over = self.handover.as_ref().is_some_and(Handover::stops);
        let primary = matches!(self.server, Server::Primary { .. });
        primary && self.holds_lease(now) && !handed_over && now >= self.promotes_from(now)
    }

    fn decide(&mut self, now: Duration) -> Desired {
        if self.newest.is_none() {
            return Desired::Undecided;
        }
        if !self.is_primary() {
            self.handover = None;
            return Desired::Standby;
        }
        self.observe_handover(now);
        if !self.holds_lease(now) {
            if !self.keeper.was_held() && self.undecided_until.is_some_and(|until| now < until) {
                // A server that has been primary is better started as such a moment later.
                return Desired::Undecided;
            }
            if self.was_writable {
                self.note(now, StepKind::Fenced { reason: "the lease could not be renewed".to_owned() });
            }
            return Desired::Standby;
        }
        match &self.handover {
            Some(handover) if handover.stops() => Desired::Stopped,
            _ if now < self.promotes_from(now) => Desired::Standby,
            _ => Desired::Primary,
        }
    }

    /// From when on the server may be promoted: at once, when all who may still take writes are known to have stopped.
    /// That is more than the former primary, when it took over by force and was itself not promoted yet.
    fn promotes_from(&self, now: Duration) -> Duration {
        let (Some(topology), Some((epoch, _))) = (self.topology(), &self.newest) else {
            return self.promote_from;
        };
        let mut promoted = false;
        let mut formers = topology.changes.iter().rev().skip(1).take_while(|change| {
            let before_it_all_had_stopped = promoted;
            promoted = change.timeline.is_some();
            !before_it_all_had_stopped
        });
        let stepped_down = formers.all(|former| {
            former.primary == self.settings.me
                || self.peers.get(&former.primary).is_some_and(|peer| {
                    let writes = matches!(peer.state.server, Server::Primary { .. });
                    peer.state.epoch >= *epoch && !writes && peer.asked.is_some()
                })
        });
        if stepped_down { now } else { self.promote_from }
    }

    /// Goes from stage to stage.
    fn observe_handover(&mut self, now: Duration) {
        let Some((_, topology)) = &self.loaded.topology else { return };
        let Some(transition) = topology.transition.clone() else {
            if self.handover.take().is_some() {
                (self.prepared, self.held) = (None, None);
            }
            return;
        };
        if self.handover.as_ref().is_none_or(|handover| handover.id != transition.id) {
            let earlier = self.inherited == Some(transition.id);
            let stage = if earlier {
                Stage::RollingBack(
                    "the process of the primary region ended while it was under way".to_owned(),
                )
            } else {
                Stage::Preparing
            };
            let Transition { id, to, timeout_ms, .. } = transition;
            let timeout = Duration::from_millis(timeout_ms);
            // What an earlier process has offered the target may still take.
            let offered = earlier;
            self.handover =
                Some(Handover { id, to, timeout, stage, since: now, deadline: now, received: None, offered });
            self.note(now, StepKind::Began);
        }
        if let Some(handover) = &mut self.handover
            && matches!(handover.stage, Stage::Offered(_))
            && let Some(Server::Standby { received, .. }) =
                self.peers.get(&handover.to).map(|peer| &peer.state.server)
            && *received > handover.received
        {
            // The rest of the log may take a while to get there.
            (handover.received, handover.since) = (*received, now);
        }
        let next = self.handover.as_ref().and_then(|handover| self.next_stage(handover, now));
        if let Some(next) = next {
            let kind = match &next {
                Stage::Quiescing => StepKind::Prepared,
                Stage::Holding => StepKind::Quiet,
                Stage::Stopping => StepKind::Held,
                Stage::Offered(checkpoint) => StepKind::Stopped { checkpoint: *checkpoint },
                Stage::RollingBack(reason) => StepKind::RolledBack { reason: reason.clone() },
                Stage::Preparing => StepKind::Began,
            };
            self.note(now, kind);
            if let Some(handover) = &mut self.handover {
                handover.enter(now, next);
            }
        }
    }

    /// The stage that a switchover is in from now on, if that is another.
    fn next_stage(&self, handover: &Handover, now: Duration) -> Option<Stage> {
        let fenced = !self.holds_lease(now);
        let waited = now.saturating_sub(handover.since);
        match &handover.stage {
            Stage::RollingBack(_) => None,
            _ if fenced => Some(Stage::RollingBack("the primary could not renew its lease".to_owned())),
            Stage::Preparing if self.prepared == Some(handover.id) => {
                Some(self.target_problem(handover).map_or(Stage::Quiescing, Stage::RollingBack))
            }
            Stage::Preparing if waited > PREPARE_TIMEOUT => {
                Some(Stage::RollingBack("the checkpoint took too long".to_owned()))
            }
            Stage::Quiescing | Stage::Holding => match self.not_held(handover) {
                None if handover.stage == Stage::Quiescing => Some(Stage::Holding),
                None => Some(Stage::Stopping),
                Some(who) if now > handover.deadline => Some(Stage::RollingBack(format!(
                    "transactions did not end within {:?}: {who}",
                    handover.timeout
                ))),
                Some(_) => None,
            },
            Stage::Stopping => match &self.server {
                Server::Stopped { checkpoint } => Some(Stage::Offered(*checkpoint)),
                _ if waited > STOP_TIMEOUT => {
                    Some(Stage::RollingBack("the server did not shut down in time".to_owned()))
                }
                _ => None,
            },
            Stage::Offered(_) if waited > OFFER_TIMEOUT => Some(Stage::RollingBack(format!(
                "{} did not take over within {OFFER_TIMEOUT:?}",
                handover.to
            ))),
            Stage::Preparing | Stage::Offered(_) => None,
        }
    }

    /// Why the target could not take over at present.
    fn target_problem(&self, handover: &Handover) -> Option<String> {
        let target = self.peers.get(&handover.to).filter(|peer| peer.asked.is_some());
        let streams = |peer: &Peer| matches!(peer.state.server, Server::Standby { streaming: true, .. });
        match target {
            None => Some(format!("{} does not answer", handover.to)),
            Some(target) if !streams(target) => {
                Some(format!("{} does not stream from the primary", handover.to))
            }
            Some(_) => None,
        }
    }

    /// Who still has something under way that is to end. What other regions send statement by statement this one executes in
    /// turn, or has it go to the next primary: only of blocks their gateways have to tell.
    fn not_held(&self, handover: &Handover) -> Option<String> {
        let name = |region: &RegionId, busy: u32| match busy {
            0 => format!("{region} has not answered"),
            1 => format!("1 session in {region}"),
            _ => format!("{busy} sessions in {region}"),
        };
        let hold = handover.hold();
        let own = (self.held != hold).then(|| name(&self.settings.me, self.busy));
        let asks = handover.stage == Stage::Quiescing;
        let others = self.peers.iter().filter(|(_, peer)| asks && peer.asked.is_some());
        let others = others
            .filter(|(_, peer)| peer.state.held != hold)
            .map(|(region, peer)| name(region, peer.state.busy));
        let all: Vec<String> = own.into_iter().chain(others).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}
