//! A session follows the primary: where it is, and what of it has to wait meanwhile.

use std::time::Duration;

use pangea_control::Scope;
use pangea_session::{Held, Leg};
use tokio::time::{Instant, sleep};

use super::{Running, lost};
use crate::endpoint::Endpoint;
use crate::links::{Kind, Route};
use crate::relay::server_lost;

/// How much longer transaction blocks wait than statements when a hold ends: all who waited open their connections then, and
/// what needs the least is done first.
const BLOCKS_LAST: Duration = Duration::from_millis(30);

/// Longest wait, after a switchover, for what the former primary's region says of a statement that was sent there: the longest
/// round trip on Earth, and something.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(500);

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

    /// Knows the way to the primary.
    pub(super) fn find_primary(&mut self) {
        self.primary_route = self.shared.primary_route();
        self.session.set_primary_may_refuse(self.primary_is_remote());
    }

    pub(super) fn primary_is_remote(&self) -> bool {
        matches!(self.primary_route, Route::Link(..))
    }

    /// Whether the primary is in another region, and a switchover from there is under way.
    pub(super) fn is_moving_from_afar(&self) -> bool {
        self.primary_is_remote() && self.session.held() != Held::Nothing
    }

    /// Whether the former primary is still to say what has become of something under way there: that it was not executed, as
    /// a rule.
    pub(super) fn hears_last_words(&mut self) -> bool {
        let busy = matches!(self.session.busy(), Some((Leg::Primary, _)));
        if !busy || self.primary.is_none() || !self.is_moving_from_afar() {
            return false;
        }
        let since = *self.moved.get_or_insert_with(Instant::now);
        let left = VERDICT_TIMEOUT.saturating_sub(since.elapsed());
        if !left.is_zero() && self.look_again.is_none() {
            self.look_again = Some(Box::pin(sleep(left)));
        }
        !left.is_zero()
    }

    /// Goes where the primary is now.
    pub(super) fn follow_gate(&mut self) {
        let gate = self.shared.gate.now();
        if gate.epoch != self.epoch && self.hears_last_words() {
            return;
        }
        if gate.epoch != self.epoch {
            (self.epoch, self.moved) = (gate.epoch, None);
            if self.primary.take().is_some() && self.session.primary_is_open() {
                self.session.server_closed(Leg::Primary, &server_lost(&self.primary_route));
            }
            self.find_primary();
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
                self.look_again = Some(Box::pin(sleep(BLOCKS_LAST)));
                Held::Blocks
            }
            None => Held::Nothing,
            Some(Scope::Blocks) => Held::Blocks,
            Some(Scope::All) => Held::All,
        };
        self.session.hold_primary(held);
    }
}
