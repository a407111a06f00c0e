//! A session follows the primary: where it is, and what of it has to wait meanwhile.

use std::time::Duration;

use pangea_control::Scope;
use pangea_session::{Held, Leg};
use tokio::time::sleep;

use super::{Running, lost};
use crate::endpoint::Endpoint;
use crate::links::Kind;
use crate::relay::server_lost;

/// How much longer transaction blocks wait than statements when a hold ends: all who waited open their connections then, and
/// what needs the least is done first.
const BLOCKS_LAST: Duration = Duration::from_millis(30);

impl Running {
    /// On the cluster endpoint: reads here when this region has become a secondary whose server serves, all on the
    /// primary when it has become that.
    pub(super) fn suit_access(&mut self) {
        if self.endpoint != Endpoint::Cluster || self.session.is_split() != self.shared.is_primary() {
            return;
        }
        if self.session.is_split() {
            if self.session.join() {
                self.local = None;
                self.opening_local = None;
                self.watch.look(&mut self.session);
            }
        } else if self.session.may_split() && self.position.known().is_some_and(|known| known.in_recovery) {
            self.session.split();
        }
    }

    /// Goes where the primary is now.
    pub(super) fn follow_gate(&mut self) {
        let gate = self.shared.gate.now();
        if gate.epoch != self.epoch {
            self.epoch = gate.epoch;
            if self.primary.take().is_some() && self.session.primary_is_open() {
                self.session.server_closed(Leg::Primary, &server_lost(&self.primary_route));
            }
            self.primary_route = self.shared.primary_route();
            self.lost = lost(&self.primary_route);
            (self.opening, self.trouble) = (None, None);
            if let Some(pooled) = &mut self.pooled {
                pooled.primary_moved();
            }
            let route = self.primary_route.clone();
            self.session.primary_moved(|startup| route.label(startup, Kind::Session));
        }
        self.follow_successor(&gate);
        let held = match gate.holds() {
            // Once in a hold: when its timer wakes it, blocks alone are held.
            None if self.session.is_held_back() && self.session.held() == Held::All => {
                self.blocks_last = Some(Box::pin(sleep(BLOCKS_LAST)));
                Held::Blocks
            }
            None => Held::Nothing,
            Some(Scope::Blocks) => Held::Blocks,
            Some(Scope::All) => Held::All,
        };
        self.session.hold_primary(held);
    }
}
