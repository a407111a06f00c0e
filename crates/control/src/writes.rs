//! What is written to the store: renewals, claims, changes.

use std::time::Duration;

use pangea_base::Epoch;

use crate::controller::Settings;
use crate::controller::{Controller, Loss, Purpose};
use crate::handover::{Handover, Stage, StepKind};
use crate::interface::StoreWrite;
use crate::lease::Lease;
use crate::state::{Offer, Server};
use crate::topology::{Cause, Topology};

impl Controller {
    /// What is to be written to the store next.
    pub(crate) fn next_write(&mut self, now: Duration, wall: u64) -> Option<StoreWrite> {
        if self.writing.is_some() || self.unsure.is_some() {
            return None;
        }
        let (purpose, write) = if self.loaded.topology.is_none() {
            self.bootstrap()?
        } else if self.is_primary() {
            self.objection = None;
            self.primary_write(now)?
        } else {
            self.claim(now, wall)?
        };
        match &purpose {
            Purpose::Renew { renewal } => (self.keeper.tried, self.attempt) = (Some(now), *renewal),
            Purpose::Claim { renewal, .. } => self.attempt = *renewal,
            Purpose::Topology => {}
        }
        self.writing = Some((purpose, now));
        self.begun_at = self.loaded.versions();
        Some(write)
    }

    fn lease(&self, epoch: Epoch, renewal: u64) -> Lease {
        let Settings { me, process, ttl, .. } = &self.settings;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Lease { epoch, holder: me.clone(), process: *process, renewal, ttl_ms }
    }

    /// The number of the next lease.
    fn next_renewal(&self) -> u64 {
        self.loaded.lease.as_ref().map_or(0, |(_, lease)| lease.renewal).max(self.attempt) + 1
    }

    fn bootstrap(&mut self) -> Option<(Purpose, StoreWrite)> {
        let topology = self.settings.bootstrap.clone()?;
        let (epoch, renewal) = (topology.epoch, self.next_renewal());
        let write = StoreWrite {
            expect_topology: Some(0),
            expect_lease: Some(0),
            lease: Some(self.lease(epoch, renewal)),
            topology: Some(topology),
        };
        Some((Purpose::Claim { epoch, renewal }, write))
    }

    fn primary_write(&mut self, now: Duration) -> Option<(Purpose, StoreWrite)> {
        let (version, topology) = self.loaded.topology.as_ref()?;
        let due = self.keeper.tried.is_none_or(|tried| now >= tried + self.settings.renewal_pause());
        if due && now >= self.resigned_until {
            let renewal = self.next_renewal();
            let write = StoreWrite {
                expect_topology: None,
                expect_lease: Some(self.loaded.lease.as_ref().map_or(0, |(version, _)| *version)),
                topology: None,
                lease: Some(self.lease(topology.epoch, renewal)),
            };
            return Some((Purpose::Renew { renewal }, write));
        }
        if let Some(Handover { stage: Stage::RollingBack(reason), .. }) = &self.handover {
            return Some(self.topology_write(*version, topology.rolled_back(reason)));
        }
        if let Some(promoted) = self.promotion_to_record(topology) {
            return Some(self.topology_write(*version, promoted));
        }
        self.change_to_write()
    }

    fn change_to_write(&mut self) -> Option<(Purpose, StoreWrite)> {
        let (version, topology) = self.loaded.topology.clone()?;
        let topology = &topology;
        while let Some(change) = self.wanted.pop_front() {
            if !self.may_write(&change) {
                continue;
            }
            if let Some(next) = change.clone().apply(topology) {
                // Kept until it is seen to be made: then it changes nothing any more.
                self.wanted.push_front(change);
                return Some(self.topology_write(version, next));
            }
        }
        None
    }

    fn topology_write(&self, version: u64, topology: Topology) -> (Purpose, StoreWrite) {
        let write = StoreWrite {
            expect_topology: Some(version),
            expect_lease: None,
            topology: Some(topology),
            lease: None,
        };
        (Purpose::Topology, write)
    }

    /// The topology with where the present epoch's timeline began, when that is not in it yet.
    fn promotion_to_record(&self, topology: &Topology) -> Option<Topology> {
        let Server::Primary { promotion: Some(promotion), .. } = &self.server else { return None };
        let missing = topology.last_change().is_some_and(|change| change.timeline.is_none());
        let known = topology.changes.iter().any(|change| change.timeline == Some(promotion.timeline));
        if !missing || known {
            return None;
        }
        let mut next = topology.clone();
        if let Some(change) = next.changes.last_mut() {
            change.timeline = Some(promotion.timeline);
            change.fork = Some(promotion.fork);
        }
        Some(next)
    }

    /// Whether this region takes over, and how.
    fn claim(&mut self, now: Duration, wall: u64) -> Option<(Purpose, StoreWrite)> {
        let (version, topology) = self.loaded.topology.clone()?;
        let topology = &topology;
        let superseded = self.newest.as_ref().is_some_and(|(epoch, _)| *epoch > topology.epoch);
        if superseded || !topology.members.contains_key(&self.settings.me) {
            return None;
        }
        if self.rebuilding.is_some() {
            self.objection = Some("the data of its server are being made anew".to_owned());
            return self.change_to_write();
        }
        let cause = if self.is_offered(topology) {
            Cause::Switchover
        } else if self.forced.is_some_and(|forced| forced.loss == Loss::Anything) {
            Cause::Forced
        } else {
            let objection = if self.forced.is_some() {
                self.proof_objection(topology, now)
            } else {
                self.failover_objection(topology, now, wall)
            };
            self.objection.clone_from(&objection);
            if objection.is_some() {
                return self.change_to_write();
            }
            Cause::Failover
        };
        let next = topology.claimed(&self.settings.me, cause, wall);
        let lease = self.loaded.lease.as_ref().map_or(0, |(version, _)| *version);
        let (epoch, renewal) = (next.epoch, self.next_renewal());
        let write = StoreWrite {
            expect_topology: Some(version),
            // The old primary of a switchover goes on renewing, so that nobody else takes over meanwhile.
            expect_lease: (cause == Cause::Failover).then_some(lease),
            lease: Some(self.lease(epoch, renewal)),
            topology: Some(next),
        };
        if cause == Cause::Switchover {
            self.note(now, StepKind::CaughtUp);
        }
        Some((Purpose::Claim { epoch, renewal }, write))
    }

    /// Whether the old primary has stopped for this region, and this one has all that it wrote.
    fn is_offered(&self, topology: &Topology) -> bool {
        let Some(transition) = topology.transition.as_ref().filter(|t| t.to == self.settings.me) else {
            return false;
        };
        let offer = self.peers.get(&transition.from).and_then(|peer| peer.state.offer);
        let Some(Offer { checkpoint, .. }) = offer.filter(|offer| offer.transition == transition.id) else {
            return false;
        };
        match &self.server {
            Server::Standby { timeline: Some(timeline), replayed: Some(replayed), .. } => {
                // Past where the checkpoint begins: a record counts as replayed as a whole.
                *timeline == checkpoint.timeline && *replayed > checkpoint.lsn
            }
            Server::Standby { .. } | Server::Primary { .. } | Server::Stopped { .. } | Server::Down => false,
        }
    }

    /// When the lease ended, and from when on answers count: the primary has stopped a margin before, and what others
    /// say from then on is final.
    fn lease_ended(&self, now: Duration) -> Result<(Duration, Duration), String> {
        let ends = self.observer.ends().ok_or_else(|| "the lease was never seen".to_owned())?;
        if now < ends {
            return Err("the primary holds its lease".to_owned());
        }
        Ok((ends, ends.saturating_sub(self.settings.margin() / 2)))
    }

    /// Why this region does not take over by the word of an operator who allows no loss. Nothing that was known while
    /// the primary could acknowledge writes proves anything.
    fn proof_objection(&self, topology: &Topology, now: Duration) -> Option<String> {
        let ended = self.lease_ended(now);
        ended.and_then(|(_, since)| self.election(topology, since, now).nothing_lost().map(drop)).err()
    }

    /// Why this region does not take over; `None` when it should.
    fn failover_objection(&self, topology: &Topology, now: Duration, wall: u64) -> Option<String> {
        let (ends, since) = match self.lease_ended(now) {
            Ok(ended) => ended,
            Err(objection) => return Some(objection),
        };
        let election = self.election(topology, since, now);
        if let Some(objection) = election.objection() {
            return Some(objection);
        }
        let back_off = election.back_off(wall);
        (now < ends + back_off).then(|| {
            let left = (ends + back_off).saturating_sub(now);
            format!("failovers have been frequent: the next one waits for another {} s", left.as_secs() + 1)
        })
    }
}
