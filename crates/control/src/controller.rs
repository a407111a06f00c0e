//! One region's part in control.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pangea_base::{Epoch, Position, RegionId};

use crate::change::TopologyChange;
use crate::election::{Election, Peer};
use crate::handover::{Handover, Stage, Step, StepKind};
use crate::interface::{Gate, Hold, Loaded, Written};
use crate::lease::{Keeper, Observer};
use crate::membership::removal_objection;
use crate::preflight::{Check, SwitchoverRequest, preflight};
use crate::state::{Offer, PeerState, Server};
use crate::topology::{Cause, Topology, Transition};

/// Steps that are remembered.
const STEPS_MAX: usize = 64;

/// How long an operator's word to take over is good for.
const FORCED_TIMEOUT: Duration = Duration::from_secs(30);
/// Changes of the topology that wait to be written.
const WANTED_MAX: usize = 16;

/// What a controller is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the global cluster.
    pub cluster: String,
    /// Its region.
    pub me: RegionId,
    /// A number that no earlier process of the region had.
    pub process: u64,
    /// How long a lease is good for after a renewal.
    pub ttl: Duration,
    /// The topology to begin with when the store holds none; `None`: another region begins.
    pub bootstrap: Option<Topology>,
}

impl Settings {
    /// How long before the end of its lease a primary stops: for differences between clocks' rates, and for the time
    /// that stopping takes.
    pub(crate) fn margin(&self) -> Duration {
        (self.ttl / 6).max(Duration::from_millis(100))
    }

    /// Pause between two renewals.
    pub(crate) fn renewal_pause(&self) -> Duration {
        self.ttl / 4
    }
}

/// What a write under way is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Renew { renewal: u64 },
    Claim { epoch: Epoch, renewal: u64 },
    Topology,
}

/// What an operator allows to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Nothing,
    Anything,
}

/// An operator's word to take over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forced {
    /// It is good until then.
    pub(crate) until: Duration,
    pub(crate) loss: Loss,
}

/// One region's part in control. Times are durations since its process began.
#[derive(Debug)]
pub struct Controller {
    pub(crate) settings: Settings,
    pub(crate) loaded: Loaded,
    /// The transition in the topology that this process saw first: it was begun by an earlier process.
    pub(crate) inherited: Option<u64>,
    pub(crate) keeper: Keeper,
    pub(crate) observer: Observer,
    /// A write under way, and when it was begun.
    pub(crate) writing: Option<(Purpose, Duration)>,
    /// The number of the last lease that was written, or may have been. No two attempts have one number: what an
    /// earlier attempt has written late is not taken for the work of one that began later.
    pub(crate) attempt: u64,
    /// A write whose outcome is not known, or not seen yet.
    pub(crate) unsure: Option<(Purpose, Duration)>,
    /// That write was made, and these versions are older: what is loaded and no newer was read before it.
    pub(crate) outdated: Option<(u64, u64)>,
    /// The versions that were known when a write was begun last.
    pub(crate) begun_at: (u64, u64),
    /// Changes of the topology that were asked for and are not written.
    pub(crate) wanted: VecDeque<TopologyChange>,
    /// Until then a role that cannot be had is waited for.
    pub(crate) undecided_until: Option<Duration>,
    pub(crate) peers: BTreeMap<RegionId, Peer>,
    /// The newest epoch that was heard of, and its primary: the store may be away.
    pub(crate) newest: Option<(Epoch, RegionId)>,
    pub(crate) server: Server,
    /// What the gateway holds, when nothing of that is under way, and what keeps it from that.
    pub(crate) held: Option<Hold>,
    pub(crate) busy: u32,
    pub(crate) prepared: Option<u64>,
    pub(crate) handover: Option<Handover>,
    /// The primary's position as heard last.
    pub(crate) primary_was_at: Option<Position>,
    /// The former primary may still write until then: the server is promoted from then on.
    pub(crate) promote_from: Duration,
    /// An operator wants this region to take over.
    pub(crate) forced: Option<Forced>,
    pub(crate) was_writable: bool,
    /// Since when the server of this region, which is primary, has not run.
    pub(crate) down_since: Option<Duration>,
    /// Until then it does not renew its lease, so that a region with a server takes over.
    pub(crate) resigned_until: Duration,
    pub(crate) objection: Option<String>,
    /// The number of the last request to make the server's data anew.
    pub(crate) rebuilds: u64,
    /// That is under way: the server may still run, but what it has goes.
    pub(crate) rebuilding: Option<u64>,
    pub(crate) steps: VecDeque<Step>,
}

impl Controller {
    /// A region that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            loaded: Loaded::default(),
            inherited: None,
            keeper: Keeper::default(),
            observer: Observer::default(),
            writing: None,
            attempt: 0,
            unsure: None,
            outdated: None,
            begun_at: (0, 0),
            wanted: VecDeque::new(),
            undecided_until: None,
            peers: BTreeMap::new(),
            newest: None,
            server: Server::Down,
            held: None,
            busy: 0,
            prepared: None,
            handover: None,
            primary_was_at: None,
            promote_from: Duration::ZERO,
            forced: None,
            was_writable: false,
            down_since: None,
            resigned_until: Duration::ZERO,
            objection: None,
            rebuilds: 0,
            rebuilding: None,
            steps: VecDeque::new(),
        }
    }

    /// The topology as it was loaded last.
    #[must_use]
    pub fn topology(&self) -> Option<&Topology> {
        self.loaded.topology.as_ref().map(|(_, topology)| topology)
    }

    /// The newest epoch that is known, and its primary.
    #[must_use]
    pub fn primary(&self) -> Option<(Epoch, RegionId)> {
        self.newest.clone()
    }

    /// The region.
    #[must_use]
    pub fn me(&self) -> &RegionId {
        &self.settings.me
    }

    /// The other region that is primary, when one is, and since which epoch.
    #[must_use]
    pub fn follows(&self) -> Option<(Epoch, RegionId)> {
        self.newest.clone().filter(|(_, primary)| *primary != self.settings.me)
    }

    /// Why this region does not take over, when the primary's lease has ended.
    #[must_use]
    pub fn objection(&self) -> Option<&str> {
        self.objection.as_deref()
    }

    /// What happened lately, oldest first.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.steps.iter().cloned().collect()
    }

    /// What the other regions have said last.
    pub fn peers(&self) -> impl Iterator<Item = &PeerState> {
        self.peers.values().filter(|peer| peer.asked.is_some()).map(|peer| &peer.state)
    }

    /// The store was read at `now`, which is after the moment that the answer speaks of.
    pub fn loaded(&mut self, now: Duration, loaded: Loaded) {
        // Reads may be answered out of order.
        let (known, fresh) = (self.loaded.versions(), loaded.versions());
        if fresh.0 < known.0 || fresh.1 < known.1 || self.outdated == Some(fresh) {
            return;
        }
        self.outdated = None;
        if let Some((version, topology)) = &loaded.topology {
            if self.loaded.topology.is_none() {
                self.inherited = topology.transition.as_ref().map(|transition| transition.id);
                self.undecided_until = Some(now + self.settings.ttl);
                // An earlier process may have given its word a moment ago.
                self.observer.promised = now + self.settings.ttl;
            }
            if topology.primary == self.settings.me
                && self.topology().is_none_or(|before| before.epoch != topology.epoch)
            {
                self.promote_from = self.promotable_from(now, topology);
            }
            if self.loaded.topology.as_ref().is_none_or(|(known, _)| known != version) {
                // It was said of the topology before. Whoever says it sees whether it is still to be said.
                self.wanted.retain(|change| !matches!(change, TopologyChange::InForce(_)));
            }
            let newer = self.newest.as_ref().is_none_or(|(epoch, _)| topology.epoch >= *epoch);
            if newer {
                self.newest = Some((topology.epoch, topology.primary.clone()));
            }
            if self.topology().is_some_and(|before| before.epoch != topology.epoch) {
                (self.handover, self.prepared, self.forced) = (None, None, None);
                self.primary_was_at = None;
                // A lease of an earlier epoch says nothing of this one, which may be this region's own: its claim is
                // seen in the store before the answer to the write has come.
                self.keeper = Keeper::default();
            }
        }
        if let Some((_, topology)) = &loaded.topology {
            // A region that was removed has no say, and is in nobody's way.
            self.peers.retain(|region, _| topology.members.contains_key(region));
        }
        if let Some((version, lease)) = &loaded.lease {
            self.observer.saw(now, *version, lease.ttl());
        }
        self.loaded = loaded;
        if let Some((purpose, began)) = self.unsure.take() {
            self.settle(&purpose, began);
        }
    }

    /// From when on the server may be promoted in an epoch that this region is found to be primary of at `now`. It
    /// follows from the topology, since the claim may have been made by an earlier process, or long after this one
    /// was told that its outcome is not known.
    fn promotable_from(&self, now: Duration, topology: &Topology) -> Duration {
        let change = topology.last_change().filter(|change| change.timeline.is_none());
        match change.map(|change| change.cause) {
            // No primary was before it; it has stopped; or the server has been promoted already.
            Some(Cause::Bootstrap | Cause::Switchover) | None => Duration::ZERO,
            // The word not to take over may have been given when the claim was thought to have failed.
            Some(Cause::Failover) => self.observer.promised,
            // The former primary may have renewed its lease just before.
            Some(Cause::Forced) => {
                self.observer.promised.max(now + self.settings.ttl + self.settings.margin())
            }
        }
    }

    /// A write that may or may not have been made is judged by what is there now.
    fn settle(&mut self, purpose: &Purpose, began: Duration) {
        let mine =
            self.loaded.lease.as_ref().filter(|(_, lease)| {
                lease.holder == self.settings.me && lease.process == self.settings.process
            });
        let Some((_, lease)) = mine else { return };
        let made = match purpose {
            Purpose::Renew { renewal } | Purpose::Claim { renewal, .. } => lease.renewal == *renewal,
            Purpose::Topology => false,
        };
        if made {
            self.made(purpose, began);
        }
    }

    fn made(&mut self, purpose: &Purpose, began: Duration) {
        match purpose {
            Purpose::Renew { .. } => self.keeper.renewed(began),
            Purpose::Claim { epoch, .. } => {
                self.keeper = Keeper::default();
                self.keeper.renewed(began);
                self.note(began, StepKind::Claimed { epoch: *epoch });
            }
            Purpose::Topology => {}
        }
    }

    /// What became of the write that was given out last. [`Self::loaded`] is to follow.
    pub fn written(&mut self, written: Written) {
        let Some((purpose, began)) = self.writing.take() else { return };
        match written {
            // What was made is known in full only when it was loaded, which also settles it.
            Written::Done | Written::Unknown => {
                self.unsure = Some((purpose, began));
                self.outdated = (written == Written::Done).then_some(self.begun_at);
            }
            Written::Conflict | Written::Failed => {}
        }
    }

    /// A region has answered what it was asked at `asked`.
    pub fn heard(&mut self, asked: Duration, state: PeerState) {
        if state.confirms.is_some() && state.confirms == self.topology().map(|topology| topology.epoch) {
            self.keeper.confirmed(state.region.clone(), asked);
        }
        self.note_peer(Some(asked), state);
    }

    /// A region asks; the answer is what it is to be told.
    pub fn asked(&mut self, now: Duration, state: PeerState) -> Option<PeerState> {
        let confirm = state.confirm_ms.map(Duration::from_millis);
        let (asker, epoch) = (state.region.clone(), state.epoch);
        self.note_peer(None, state);
        let mut answer = self.state(now)?;
        // Whoever has written a claim, or may have, gives no word against it; nor does a process that has not seen for
        // itself that this is the epoch: an earlier one of its region may have claimed the next.
        let seen = self.topology().is_some_and(|topology| topology.epoch == epoch);
        let free = seen && self.writing.is_none() && self.unsure.is_none() && self.forced.is_none();
        if let Some(longest) = confirm
            && free
            && self.newest.as_ref().is_some_and(|(known, primary)| *known == epoch && *primary == asker)
        {
            self.observer.promised = self.observer.promised.max(now + longest);
            answer.confirms = Some(epoch);
        }
        Some(answer)
    }

    fn note_peer(&mut self, asked: Option<Duration>, state: PeerState) {
        if self.newest.as_ref().is_none_or(|(epoch, _)| state.epoch > *epoch) {
            self.newest = Some((state.epoch, state.primary.clone()));
        }
        if let Server::Primary { position: Some(position), .. } = &state.server
            && self
                .newest
                .as_ref()
                .is_some_and(|(epoch, primary)| *epoch == state.epoch && *primary == state.region)
        {
            self.primary_was_at = Some(*position);
        }
        // Whom the topology does not name may tell of a newer epoch, since to believe that never harms; no more.
        if self.topology().is_some_and(|topology| !topology.members.contains_key(&state.region)) {
            return;
        }
        match self.peers.get_mut(&state.region) {
            Some(peer) => {
                peer.asked = asked.max(peer.asked);
                // Questions and answers travel on connections of their own, and may overtake one another.
                if peer.state.process != state.process || peer.state.at_us <= state.at_us {
                    peer.state = state;
                }
            }
            None => drop(self.peers.insert(state.region.clone(), Peer { state, asked })),
        }
    }

    /// A region does not answer.
    pub fn lost(&mut self, region: &RegionId) {
        if let Some(peer) = self.peers.get_mut(region) {
            peer.asked = None;
        }
    }

    /// How the region's own server is.
    pub fn server(&mut self, server: Server) {
        self.server = server;
    }

    /// The checkpoint for this transition is written.
    pub fn prepared(&mut self, transition: u64) {
        self.prepared = Some(transition);
    }

    /// What the gateway holds, once nothing of that is under way; and how many sessions keep it from that.
    pub fn gateway(&mut self, held: Option<Hold>, busy: u32) {
        (self.held, self.busy) = (held, busy);
    }

    /// Asks for a switchover. The checks are given back; when all have passed and it is no dry run, it begins.
    pub fn switchover(&mut self, now: Duration, id: u64, request: &SwitchoverRequest) -> Vec<Check> {
        let Some(topology) = self.topology() else {
            let found = "the store has not been read yet: try again in a moment".to_owned();
            return vec![Check { name: "topology".to_owned(), passed: false, found }];
        };
        let me = &self.settings.me;
        let mut checks =
            preflight(topology, me, self.is_writable(now), &self.server, &self.peers, &request.to);
        if self.wanted.len() >= WANTED_MAX {
            let found = "the store does not take changes at present: try again in a moment".to_owned();
            checks.push(Check { name: "store".to_owned(), passed: false, found });
        }
        if !request.dry_run && checks.iter().all(|check| check.passed) {
            let SwitchoverRequest { to, timeout_ms, .. } = request.clone();
            let transition = Transition { id, from: me.clone(), to, timeout_ms };
            self.wanted.push_back(TopologyChange::Transition(transition));
        }
        checks
    }

    /// Asks this region to take over, by an operator's word. What is known about what would be lost is given back:
    /// an error when it cannot be excluded and `allow_data_loss` is not given, or when there is nothing to do. Without
    /// `allow_data_loss` the region takes over when the lease has ended, and only if the proof holds then.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn failover(&mut self, now: Duration, allow_data_loss: bool) -> Result<String, String> {
        let Some(topology) = self.topology() else {
            return Err("the store has not been read yet: try again in a moment".to_owned());
        };
        let me = &self.settings.me;
        if topology.primary == *me {
            return Err(format!("{me} is the primary already: there is nothing to do"));
        }
        if !topology.members.contains_key(me) {
            return Err(format!("{me} is not a region of this cluster any more: add it again first"));
        }
        if !matches!(self.server, Server::Standby { .. }) || self.rebuilding.is_some() {
            return Err(format!("the server of {me} is not a running standby: see `pangea status`"));
        }
        let proof = self.election(topology, Duration::ZERO, now).nothing_lost();
        let until = now + FORCED_TIMEOUT;
        match (proof, allow_data_loss) {
            (Ok(_), false) if self.hears_primary(now) => Err(format!(
                "the primary {} answers and takes writes: move it with a switchover, which loses nothing, or give \
                 --allow-data-loss to take over all the same",
                topology.primary
            )),
            (Ok(why), false) => {
                self.forced = Some(Forced { until, loss: Loss::Nothing });
                Ok(format!("nothing is lost, as far as is known, and it is looked at again: {why}"))
            }
            (Ok(why), true) => {
                self.forced = Some(Forced { until, loss: Loss::Anything });
                Ok(format!("nothing is lost, unless the primary still takes writes: {why}"))
            }
            (Err(why), true) => {
                self.forced = Some(Forced { until, loss: Loss::Anything });
                Ok(format!("writes may be lost: {why}"))
            }
            (Err(why), false) => Err(format!(
                "it cannot be excluded that acknowledged writes would be lost: {why}. Give --allow-data-loss to \
                 take over all the same"
            )),
        }
    }

    /// Asks for a change of the topology.
    ///
    /// # Errors
    /// When the topology is not known, too many changes wait, or it must not be made.
    pub fn change(&mut self, change: TopologyChange) -> Result<(), String> {
        let Some(topology) = self.topology() else {
            return Err("the store has not been read yet: try again in a moment".to_owned());
        };
        if let TopologyChange::Remove(region) = &change
            && let Some(objection) = removal_objection(topology, region)
        {
            return Err(objection);
        }
        if self.wanted.len() >= WANTED_MAX {
            return Err("the store does not take changes at present: try again in a moment".to_owned());
        }
        if !self.may_write(&change) {
            return Err("only the primary's region adds a region: ask that one".to_owned());
        }
        if !self.wanted.contains(&change) {
            self.wanted.push_back(change);
        }
        Ok(())
    }

    pub(crate) fn election<'a>(
        &'a self,
        topology: &'a Topology,
        since: Duration,
        now: Duration,
    ) -> Election<'a> {
        Election {
            me: &self.settings.me,
            topology,
            server: &self.server,
            peers: &self.peers,
            since,
            primary_was_at: self.primary_was_at,
            hears_primary: self.hears_primary(now),
        }
    }

    pub(crate) fn hears_primary(&self, now: Duration) -> bool {
        let Some((_, primary)) = &self.newest else { return false };
        if *primary == self.settings.me {
            return self.holds_lease(now);
        }
        // One that has stopped to answer may be dead long before its connection is.
        let fresh = |asked: Duration| now < asked + self.settings.ttl / 2;
        self.peers.get(primary).is_some_and(|peer| peer.asked.is_some_and(fresh) && peer.state.writable)
    }

    pub(crate) fn gate(&self, now: Duration) -> Option<Gate> {
        let (epoch, primary) = self.newest.clone()?;
        let hold = if primary == self.settings.me {
            self.handover.as_ref().and_then(Handover::hold)
        } else {
            let peer = self.peers.get(&primary).filter(|peer| peer.state.epoch == epoch);
            peer.and_then(|peer| peer.state.hold)
        };
        // Of a primary that was not heard of it is not known that it takes none.
        let known = self.peers.get(&primary).filter(|peer| peer.state.epoch == epoch);
        let open = if primary == self.settings.me {
            self.is_writable(now)
        } else {
            known.is_none_or(|peer| peer.state.writable)
        };
        let topology = self.topology();
        // A transition of an earlier epoch has ended.
        let current = topology.filter(|topology| topology.epoch == epoch);
        let successor = current.and_then(|topology| Some(topology.transition.as_ref()?.to.clone()));
        let durability = topology.map(|topology| topology.durability).unwrap_or_default();
        Some(Gate { epoch, primary, open, hold, successor, durability })
    }

    /// What the other regions are to be told now.
    #[must_use]
    pub fn state(&self, now: Duration) -> Option<PeerState> {
        let (epoch, primary) = self.newest.clone()?;
        let own = self.handover.as_ref();
        let offer = own.and_then(|handover| match handover.stage {
            Stage::Offered(checkpoint) => Some(Offer { transition: handover.id, checkpoint }),
            _ => None,
        });
        let Settings { me, process, ttl, .. } = &self.settings;
        let resigned = now < self.resigned_until;
        let asks = self.is_primary() && !resigned && self.keeper.needs_confirmation(now, *ttl);
        Some(PeerState {
            region: me.clone(),
            process: *process,
            at_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            epoch,
            primary,
            server: self.server.clone(),
            writable: self.is_writable(now),
            hears_primary: self.hears_primary(now),
            hold: own.and_then(Handover::hold),
            held: self.held,
            busy: self.busy,
            offer,
            confirm_ms: asks.then(|| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            confirms: None,
        })
    }

    pub(crate) fn note(&mut self, now: Duration, kind: StepKind) {
        if self.steps.len() == STEPS_MAX {
            self.steps.pop_front();
        }
        let transition = self.topology().and_then(|topology| topology.transition.as_ref());
        let transition = transition.or_else(|| {
            self.topology().and_then(|topology| topology.last_transition.as_ref()).map(|(last, _)| last)
        });
        let transition = transition.map(|transition| transition.id);
        let at_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.steps.push_back(Step { transition, at_us, kind });
    }
}
