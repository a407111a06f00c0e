//! The primary moves: the session leaves the one and goes on at the other.
//!
//! A session that has nothing under way closes its connection to the primary when it is told to hold, and opens one to
//! the new primary with its next statement that needs it; settings and prepared statements are made there as they are
//! wherever the session comes to (`settings`, `prepared`). One that has state of which there is only one (temporary
//! tables, LISTEN) stays, and ends with its server.

use bytes::{Bytes, BytesMut};
use pangea_pgwire::ErrorFields;
use pangea_pgwire::startup::Startup;

use crate::leg::{Expect, Hold, Leg, LinkState};
use crate::own;
use crate::session::{Access, Environment, Phase, Session, Transaction, canceled};

/// How often a session that begins is refused by regions that are not, or not yet, primary.
const BEGINNINGS_MAX: u32 = 30;

/// What may not begin on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All may.
    Nothing,
    /// Transaction blocks.
    Blocks,
    /// Nothing may.
    All,
}

impl Session {
    /// Holds back what is new for the primary, or no longer does: it is being moved.
    pub fn hold_primary(&mut self, held: Held) {
        self.primary_held = held;
    }

    /// What is held back.
    #[must_use]
    pub fn held(&self) -> Held {
        self.primary_held
    }

    /// Whether a block that the caller was told of is still open.
    #[must_use]
    pub fn has_block(&self) -> bool {
        self.block_counted
    }

    /// Tells of a transaction block on the primary that has begun or ended.
    pub(crate) fn count_block(&mut self, environment: &mut impl Environment) {
        let on_primary = |leg| leg == Some(Leg::Primary) || self.local_is_primary;
        let begins = || self.in_flight.iter().any(|unit| unit.begins && on_primary(unit.leg));
        let begun = match self.transaction {
            Transaction::Idle => false,
            Transaction::Primary => !self.begin_due,
            Transaction::Local(_) => self.local_is_primary,
        };
        let open = self.phase != Phase::Over && (begun || begins());
        if open != std::mem::replace(&mut self.block_counted, open) {
            if open { environment.block_begins() } else { environment.block_ends() }
        }
    }

    /// Whether the caller's leave to use the primary is to be given back when the session ends.
    #[must_use]
    pub fn has_entered(&self) -> bool {
        self.entered
    }

    /// Whether something of this session is under way on the primary, or can be without asking.
    pub(crate) fn keeps_primary(&self) -> bool {
        let stays = self.stays_on(Leg::Primary);
        let uses = self.primary.state != LinkState::Down && !(stays && self.is_idle_on_primary());
        self.phase != Phase::Over && (uses || self.keeps_local())
    }

    /// Whether something is under way on the local server, which is the primary.
    fn keeps_local(&self) -> bool {
        let busy = self.in_flight.iter().any(|unit| unit.leg == Some(Leg::Local));
        self.local_is_primary && (busy || matches!(self.transaction, Transaction::Local(_)))
    }

    /// Whether the next unit waits for the primary to be there.
    #[must_use]
    pub fn waits_for_primary(&self) -> bool {
        self.held_back || self.wants_primary()
    }

    /// Whether the session uses the primary, or waits to, and will go on at the next one when it moves.
    #[must_use]
    pub fn goes_along(&self) -> bool {
        let uses = self.primary.state == LinkState::Open && !self.is_idle_on_primary();
        let needs = self.access != Access::Local && (uses || self.waits_for_primary());
        self.begun && needs && !self.stays_on(Leg::Primary)
    }

    /// How often the primary has refused the session since it last took it.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.refused
    }

    /// The primary is another server from now on. What was under way on the former one is lost; `startup` is called
    /// to address the start-up message to the new one.
    pub fn primary_moved(&mut self, startup: impl FnOnce(&mut Startup)) {
        startup(&mut self.primary_startup);
        if self.primary.state == LinkState::Wanted {
            if self.primary.expects(Expect::Start) {
                self.begin_again();
            } else {
                self.requeue();
            }
        }
        self.refused = 0;
        self.leave_primary();
    }

    /// Whether the session leaves the primary as soon as nothing is under way there. One that waits with a block does so
    /// ahead: while all wait, that connections are closed takes the longest.
    fn leaves_primary(&self) -> bool {
        let leaves = match self.primary_held {
            Held::Nothing => false,
            Held::Blocks => self.held_back,
            Held::All => true,
        };
        leaves && !self.stays_on(Leg::Primary)
    }

    fn is_idle_on_primary(&self) -> bool {
        let busy = self.in_flight.iter().any(|unit| unit.leg == Some(Leg::Primary));
        let passing = matches!(self.passing, Some((Some(Leg::Primary), _))) || self.primary.rest > 0;
        !busy
            && !passing
            && self.primary.expect.is_empty()
            && !matches!(self.transaction, Transaction::Primary)
            && !self.moving_unit
            && self.held_ready.is_none()
    }

    /// Closes the connection to the primary when the session is to leave it and may; whether it has.
    pub(crate) fn leave_primary(&mut self) -> bool {
        let leaves =
            self.leaves_primary() && self.primary.state != LinkState::Down && self.is_idle_on_primary();
        if leaves {
            self.drop_primary();
        }
        leaves
    }

    /// Takes back what was sent and has not run (AT-MOST-ONCE); whether that could be done.
    pub(crate) fn requeue(&mut self) -> bool {
        self.unbind();
        let unsent = self.in_flight.iter().all(|unit| unit.recallable && unit.leg == Some(Leg::Primary));
        let nothing_ran = match self.transaction {
            Transaction::Idle => true,
            Transaction::Primary => self.begin.is_some(),
            Transaction::Local(_) => false,
        };
        let possible = self.begun && unsent && nothing_ran && !self.stays_on(Leg::Primary);
        if possible {
            let asked = self.primary.expects(Expect::Position);
            // Where what has been answered has led to.
            let unknown = self.position_unknown || self.held_ready.is_some();
            self.requeue_in_flight();
            self.begin_due = self.begin.is_some();
            for unit in &mut self.pending {
                unit.asks_position = false;
            }
            self.drop_primary();
            self.position_unknown = unknown;
            // A read that has asked the primary where it is asks again.
            self.asked &= !asked;
            self.confirming = None;
        }
        possible
    }

    /// The primary has taken the start-up message: what follows it runs, unless the primary may refuse that.
    pub(crate) fn is_admitted(&mut self) {
        if !self.primary.expects(Expect::Start) {
            self.refused = 0;
        }
        if self.primary_may_refuse {
            return;
        }
        // Unless it is still to be sent: what was taken may have been about something else.
        if !self.begin_due {
            (self.begin, self.begin_fails) = (None, false);
        }
        for unit in &mut self.in_flight {
            if std::mem::take(&mut unit.recallable) {
                unit.sent = Vec::new();
            }
        }
    }

    /// The region of the primary passes statements on to its server in turn, and may end the connection and say that what was
    /// not answered was not passed on. It says so with the error of a server that takes no connections, which a server
    /// itself says before a session only.
    pub fn set_primary_may_refuse(&mut self, may: bool) {
        self.primary_may_refuse = may;
    }

    /// Whether what is sent to the primary may turn out not to have run.
    pub(crate) fn may_be_refused(&self) -> bool {
        self.begun && (self.primary_may_refuse || self.primary.expects(Expect::Startup))
    }

    /// The region of the primary has said that it has not executed what is not answered, nor will.
    pub(crate) fn is_refused(&mut self, error: &Bytes) {
        if self.may_begin_again() {
            return self.begin_again();
        }
        let sent = self.in_flight.iter().any(|unit| unit.leg == Some(Leg::Primary));
        self.unbind();
        // What the server was asked about the session's settings it has told nobody.
        let unknown = self.primary.expects(Expect::Settings) || self.primary.expects(Expect::Start);
        if self.stays_on(Leg::Primary) || unknown {
            let detail = "The primary is being moved, and the session has state on it that cannot be.";
            self.fail(&ErrorFields::terminated().with_detail(detail));
        } else if !sent && (self.begin.is_some() || !matches!(self.transaction, Transaction::Primary)) {
            self.asked &= !self.primary.expects(Expect::Position);
            self.confirming = self.confirming.filter(|leg| *leg == Leg::Local);
            self.drop_primary();
        } else if self.requeue() {
            self.refused += 1;
            if self.pending.front().is_some_and(|unit| unit.is_cancelled) {
                self.refuse_pending(&canceled(
                    "The primary is being moved, and had not begun the statement.",
                ));
            }
        } else {
            self.refuse_on_primary(error);
        }
    }

    /// Something that has run binds the session to the primary.
    pub(crate) fn pin(&mut self) {
        self.pinned = true;
        for unit in &mut self.in_flight {
            unit.bound_before.0 = true;
        }
    }

    /// What binds the session to its connection to the primary if nothing of what is in flight there has run: whether it is
    /// pinned, listens, and what holds the connection.
    pub(crate) fn bound_by_what_has_run(&self) -> (bool, bool, Hold) {
        let first = self.in_flight.front().filter(|unit| unit.leg == Some(Leg::Primary));
        let before = first.map(|unit| unit.bound_before);
        before.unwrap_or((self.pinned, self.listening, self.primary.hold))
    }

    /// Nothing of what is in flight on the primary has run.
    pub(crate) fn unbind(&mut self) {
        (self.pinned, self.listening, self.primary.hold) = self.bound_by_what_has_run();
    }

    /// Whether the session's first connection may be asked for again: its client has been told nothing of it.
    pub(crate) fn may_begin_again(&self) -> bool {
        let untold = self.begun || (self.parameters.is_empty() && self.client_out.is_empty());
        self.primary_may_refuse
            && self.primary.expects(Expect::Start)
            && untold
            && self.refused < BEGINNINGS_MAX
    }

    /// Asks for the session's first connection again.
    pub(crate) fn begin_again(&mut self) {
        self.forget_link(Leg::Primary);
        let mut wire = BytesMut::new();
        self.primary_startup.write(&mut wire);
        self.primary.state = LinkState::Wanted;
        self.primary.send(&wire, Expect::Startup);
        self.primary.query(own::START_SQL, Expect::Start);
        self.refused += 1;
    }

    /// Whether everything runs on the primary, and need not.
    #[must_use]
    pub fn may_split(&self) -> bool {
        self.access == Access::Primary && self.reads_committed && !(self.pinned || self.listening)
    }

    /// Runs everything on the primary, which is the local server by now; whether it does.
    pub fn join(&mut self) -> bool {
        let possible = self.access == Access::Split
            && self.begun
            && self.phase == Phase::Running
            && self.in_flight.is_empty()
            && self.pending.is_empty()
            && self.local.expect.is_empty()
            && self.local.rest == 0
            && matches!(self.transaction, Transaction::Idle);
        if possible {
            self.access = Access::Primary;
            self.forget_link(Leg::Local);
        }
        possible
    }

    /// Whether reads run on the local server and writes on the primary.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.access == Access::Split
    }

    /// Reads in this region again, which has become a secondary; whether it does by now.
    pub fn split(&mut self) -> bool {
        let possible = self.access == Access::Primary
            && self.begun
            && self.reads_committed
            && self.phase == Phase::Running
            && !(self.pinned || self.listening)
            && self.in_flight.is_empty()
            && self.held_ready.is_none()
            && self.primary.expect.is_empty()
            && matches!(self.transaction, Transaction::Idle);
        if possible {
            self.access = Access::Split;
            self.open_local();
        }
        possible
    }
}
