//! What the caller may know of a session: whether anything is under way, and that it can be kept at rest.
//!
//! A session at rest is between transactions. There [`Session::set_on_hold`] keeps it, as long as the caller wants.

use pangea_pgwire::{ErrorFields, build};

use crate::leg::Leg;
use crate::session::{Environment, Session, Transaction};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Something is under way, or a transaction is open.
    Active,
    /// The client waits, and no server works for it.
    Waiting,
}

/// How often a client was told that it can go on: ReadyForQuery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// All of them, but for the one that begins the session.
    pub all: u64,
    /// Those outside of a transaction.
    pub outside: u64,
    /// Whether the last one was within one.
    pub in_transaction: bool,
}

impl Session {
    /// Ends an answer to the client.
    pub(crate) fn tell_ready(&mut self, status: u8) {
        build::ready_for_query(&mut self.client_out, status);
        let outside = status == b'I';
        self.answers.all += 1;
        self.answers.outside += u64::from(outside);
        self.answers.in_transaction = !outside;
    }

    /// The answers since this was asked last.
    pub fn take_answers_told(&mut self) -> Answers {
        std::mem::take(&mut self.answers)
    }

    /// Whether the client can ask for something: it was told that the session has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// What the session is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let held = self.on_hold && self.has_request();
        let waits = self.in_flight.is_empty() && (held || !self.pending.is_empty());
        if !self.begun || waits || self.wants_primary() {
            return Activity::Waiting;
        }
        let idle = self.in_flight.is_empty()
            && matches!(self.transaction, Transaction::Idle)
            && self.passing.is_none()
            && self.held_ready.is_none();
        if idle { Activity::Idle } else { Activity::Active }
    }

    /// Whether nothing of the client's is under way and no transaction is open. What it has asked for may be waiting.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.begun
            && self.in_flight.is_empty()
            && matches!(self.transaction, Transaction::Idle)
            && self.passing.is_none()
            && self.held_ready.is_none()
    }

    /// Whether the session is at rest and has asked its servers nothing for itself either.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_at_rest() && self.local.expect.is_empty() && self.primary.expect.is_empty()
    }

    /// Whether the session comes to rest without more from its client.
    #[must_use]
    pub fn comes_to_rest(&self) -> bool {
        let needs_no_more =
            self.in_flight.iter().all(|unit| unit.ended && unit.copies_in == 0 && !unit.streams);
        needs_no_more && matches!(self.transaction, Transaction::Idle) && self.passing.is_none()
    }

    /// Whether the client has asked for something, or has begun to, that was sent nowhere.
    #[must_use]
    pub fn has_request(&self) -> bool {
        !self.pending.is_empty() || self.current.is_some() || !self.client_in.is_empty()
    }

    /// Whether the client waits for an answer to what was sent to a server.
    #[must_use]
    pub fn owes_answer(&self) -> bool {
        self.busy().is_some() || self.held_ready.is_some() || self.passing.is_some()
    }

    /// Whether the session has state on its servers that cannot be made on others.
    #[must_use]
    pub fn keeps_servers(&self) -> bool {
        self.stays_on(Leg::Local) || self.stays_on(Leg::Primary)
    }

    /// The process that serves the session on this server, once the server has told it.
    #[must_use]
    pub fn server_process(&self, leg: Leg) -> Option<u32> {
        self.link(leg).server.key.as_ref().map(|key| key.process)
    }

    /// Answers what a session on hold and at rest has been asked for with an error: nothing of it has run, and nothing
    /// will. Whether there was anything.
    pub fn refuse_held(&mut self, environment: &mut impl Environment, error: &ErrorFields) -> bool {
        let mut refused = false;
        while self.on_hold && self.is_at_rest() {
            // Taking a unit apart sends nothing.
            self.on_hold = false;
            self.collect(environment);
            self.on_hold = true;
            if self.pending.is_empty() {
                break;
            }
            self.refuse_pending(error);
            refused = true;
        }
        refused
    }
}
