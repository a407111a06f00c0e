//! A server is lost, or cannot be had: the session goes on at another if nothing goes with it.

use bytes::BytesMut;
use pangea_pgwire::ErrorFields;

use crate::leg::{Expect, Leg, Link, LinkState};
use crate::session::{Access, MOVES_MAX, Phase, Session, Transaction};
use crate::unit::Unit;

impl Session {
    /// Goes on at another server of this region, if nothing is lost with the connection; whether it does.
    pub(crate) fn move_local(&mut self) -> bool {
        let again = |unit: &Unit| unit.retryable && unit.ended && !unit.needs_primary;
        let movable = match self.access {
            Access::Local => {
                self.moves < MOVES_MAX
                    && matches!(self.transaction, Transaction::Idle)
                    && !self.stays_on(Leg::Local)
            }
            // Meanwhile the primary serves. A read that was under way may be what the server has died of.
            Access::Split => {
                let reads = self.in_flight.iter().any(|unit| unit.leg == Some(Leg::Local));
                !reads && !matches!(self.transaction, Transaction::Local(_))
            }
            Access::Primary => false,
        };
        let movable = movable
            && self.begun
            && self.phase == Phase::Running
            && self.in_flight.iter().all(|unit| unit.leg == Some(Leg::Primary) || again(unit))
            && (self.current.is_none() || self.in_flight.is_empty());
        if movable {
            self.moves += 1;
            // AT-MOST-ONCE: reads of which nothing was passed on.
            if self.in_flight.front().is_some_and(|unit| unit.leg == Some(Leg::Local)) {
                self.requeue_in_flight();
            }
            self.open_local();
        }
        movable
    }

    /// Asks for a connection to a server of this region.
    pub(crate) fn open_local(&mut self) {
        self.forget_link(Leg::Local);
        if !self.shares_servers() {
            self.local.state = LinkState::Wanted;
            let mut wire = BytesMut::new();
            self.local_startup.write(&mut wire);
            self.local.send(&wire, Expect::Startup);
        }
        // MONOTONIC-READS: the server that is gone may have been ahead of the next.
        self.set_moved();
        self.waiting_for = None;
    }

    pub(crate) fn requeue_in_flight(&mut self) {
        for mut unit in self.in_flight.drain(..).rev() {
            unit.reset();
            self.pending.push_front(unit);
        }
    }

    /// The connection to the primary cannot be had. Nothing was executed there.
    pub fn primary_failed(&mut self, error: &ErrorFields) {
        if self.shares_servers() {
            return self.attach_failed(Leg::Primary, error);
        }
        if self.primary.expects(Expect::Start) {
            return self.fail(&ErrorFields { severity: "FATAL", ..error.clone() });
        }
        if self.held_back {
            return self.refuse_pending(error);
        }
        let mut frame = BytesMut::new();
        error.write(&mut frame);
        self.refuse_on_primary(&frame.freeze());
    }

    /// A server closed its connection; `error` is what the client is told when that matters to it.
    pub fn server_closed(&mut self, leg: Leg, error: &ErrorFields) {
        if leg == Leg::Primary {
            self.take_awaited_answers();
        }
        if leg == Leg::Primary && self.may_begin_again() {
            return self.begin_again();
        }
        let busy = self.in_flight.front().is_some_and(|unit| unit.leg == Some(leg));
        let matters = match leg {
            _ if !self.begun => true,
            // A session of the primary has none.
            Leg::Local => self.access != Access::Primary,
            Leg::Primary => {
                busy || self.stays_on(Leg::Primary)
                    || matches!(self.transaction, Transaction::Primary)
                    || self.primary.expects(Expect::Replay)
                    || self.primary.expects(Expect::Start)
            }
        };
        if !matters {
            self.drop_primary();
        } else if leg == Leg::Primary || !self.move_local() {
            self.fail(error);
        }
    }

    /// The connection to the primary is gone, and nothing that mattered was on it.
    pub(crate) fn drop_primary(&mut self) {
        // A position that was asked for will not come.
        self.position_unknown |= self.primary.expects(Expect::Position);
        (self.primary_timeline, self.told, self.server_async, self.vain_positions) = (None, None, false, 0);
        self.release_ready();
        self.forget_link(Leg::Primary);
        if let Some((leg @ Some(Leg::Primary), _)) = &mut self.passing {
            *leg = None;
        }
    }

    /// There is no connection to this server any more, and no statement on it.
    pub(crate) fn forget_link(&mut self, leg: Leg) {
        self.links_made += 1;
        *self.link_mut(leg) = Link::new(self.links_made);
        if leg == Leg::Primary {
            self.await_nothing();
        }
    }
}
