//! What the console asks of a session: to rest while its database is paused, to connect anew, to end. And the end of one
//! whose client has been idle for too long.

use pangea_pgwire::{ErrorFields, SqlState};
use pangea_session::Leg;

use super::home::PRIMARY_TIMEOUT;
use super::{Running, World};
use crate::console::{self, Order};
use crate::relay::server_lost;

impl Running {
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Look => {
                self.watch.take_notice();
                if let Some(overstay) = self.watch.overstays(&mut self.session) {
                    self.end(&overstay.error());
                }
            }
            Order::Kill => self.end(&console::killed()),
            Order::GiveUp => {
                let error = console::paused(&self.watch.database(), PRIMARY_TIMEOUT);
                self.refuse_held(&error);
            }
        }
    }

    /// Rests, or replaces its connections, as soon as nothing is under way.
    pub(super) fn attend_orders(&mut self) {
        if !self.watch.attend(&mut self.session, self.cancelling.is_some()) {
            return;
        }
        if self.session.shares_servers() {
            // What it has given back is replaced in its pool.
            return;
        }
        if self.session.primary_is_open() {
            self.primary = None;
            self.session.server_closed(Leg::Primary, &server_lost(&self.primary_route));
        }
        if self.session.local_is_open() {
            self.local = None;
            self.session.server_closed(Leg::Local, &server_lost(&self.local_route));
        }
    }

    /// Cancels what waits for the end of a pause; whether anything did.
    pub(super) fn cancel_held(&mut self) -> bool {
        let error = ErrorFields::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
            .with_detail("The statement was waiting for its database, which is paused.");
        self.watch.is_on_hold() && self.refuse_held(&error)
    }

    fn refuse_held(&mut self, error: &ErrorFields) -> bool {
        let mut world = World { catalog: &self.catalog, position: &self.position, shared: &self.shared };
        self.session.refuse_held(&mut world, error)
    }
}
