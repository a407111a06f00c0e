//! The session: its state, and what the caller sees of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pangea_base::Lsn;
use pangea_pgwire::startup::CancelKey;
use pangea_pgwire::{ErrorFields, SqlState, build};
use pangea_sql::Batch;

use crate::leg::{Expect, Leg, Link, LinkState};
use crate::prepared::{Portals, Statements};
use crate::settings::{SetUp, Settings};
use crate::unit::{Begin, Unit};

/// Largest frame, and largest unit, that is collected. What is larger is streamed to the primary.
pub const UNIT_LEN_MAX: usize = 4 << 20;

/// Bytes of output to one side beyond which nothing more is taken from the others (back-pressure).
pub(crate) const OUTPUT_LEN_MAX: usize = 256 << 10;

/// What the session asks of the world. Answers are at once: what takes time is waited for by the caller.
pub trait Environment {
    /// What a statement's text does, in the session's database.
    fn classify(&mut self, text: &str) -> Arc<Batch>;

    /// Changes whenever [`Self::classify`] may answer differently than before.
    fn catalog_version(&self) -> u64;

    /// Whether what [`Self::classify`] knows of the catalogue is at least as new as this position. When it is
    /// not, it is to be read again.
    fn catalog_covers(&mut self, lsn: Lsn) -> bool;

    /// How far the local server has replayed; `None` when that is not known.
    fn replayed(&self) -> Option<Lsn>;
}

/// How fresh a session's local reads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadConsistency {
    /// Whatever the local server has.
    Eventual,
    /// What the session itself has committed (READ-YOUR-WRITES).
    #[default]
    Session,
    /// What anybody had committed when the read began. Costs a round trip to the primary.
    Global,
    /// Reads run on the primary.
    Primary,
}

impl ReadConsistency {
    /// The levels by name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("eventual", Self::Eventual),
        ("session", Self::Session),
        ("global", Self::Global),
        ("primary", Self::Primary),
    ];

    /// Reads a level's name, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, level)| *level)
    }
}

/// How a session begins.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The start-up message for the local server.
    pub local_startup: Bytes,
    /// The start-up message for the primary.
    pub primary_startup: Bytes,
    /// How fresh its local reads are.
    pub read_consistency: ReadConsistency,
}

/// Where the session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The client has said Terminate or closed: what it sent before is finished.
    Leaving,
    Over,
}

/// The transaction of the session.
#[derive(Debug)]
pub(crate) enum Transaction {
    Idle,
    /// Open on the local server only; everything in it was a read.
    Local(LocalTransaction),
    /// Open on the primary.
    Primary,
}

#[derive(Debug)]
pub(crate) struct LocalTransaction {
    pub(crate) begin: Begin,
    /// Some statement of it failed.
    pub(crate) failed: bool,
    /// It has read: with one snapshot, it cannot be begun anew elsewhere unnoticed.
    pub(crate) has_read: bool,
    pub(crate) has_cursor: bool,
}

/// One client's session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own comment")]
pub struct Session {
    pub(crate) client_in: BytesMut,
    pub(crate) client_out: BytesMut,
    pub(crate) local: Link,
    pub(crate) primary: Link,
    pub(crate) primary_startup: Bytes,
    pub(crate) phase: Phase,

    pub(crate) transaction: Transaction,
    /// What the open transaction has set up.
    pub(crate) set_up: Vec<SetUp>,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    pub(crate) portals: Portals,
    /// Values of reported parameters as the client knows them.
    pub(crate) parameters: HashMap<Bytes, Bytes>,

    /// The unit that is being collected.
    pub(crate) current: Option<Unit>,
    /// Collected and not sent. More than one only while a unit is to run again.
    pub(crate) pending: VecDeque<Unit>,
    /// Sent and not answered; all on one server.
    pub(crate) in_flight: VecDeque<Unit>,
    /// A unit for the large frame at the head of the client's bytes has been made.
    pub(crate) large_announced: bool,
    /// The open transaction may commit without waiting for its log to be flushed.
    pub(crate) may_commit_async: bool,
    /// A frame too large to collect is passing: where to (`None`: dropped) and how much is left.
    pub(crate) passing: Option<(Option<Leg>, usize)>,
    /// A unit failed after a Flush: the client's frames are dropped up to its Sync, which is answered with this
    /// status.
    pub(crate) skip_until_sync: Option<u8>,
    /// The unit in flight was flushed on the local server, got its Sync there, and goes on at the primary.
    pub(crate) moving_unit: bool,
    /// Identity settings were sent to this server and are not confirmed.
    pub(crate) confirming: Option<Leg>,
    /// Nothing is sent for the client while a cancel request is on its way.
    pub(crate) on_hold: bool,

    /// The session has state on the primary that cannot be made elsewhere: everything runs there.
    pub(crate) pinned: bool,
    /// The session listens on the primary.
    pub(crate) listening: bool,
    pub(crate) read_consistency: ReadConsistency,
    /// The primary was asked where it is for the pending unit.
    pub(crate) asked: bool,
    /// What local reads must have seen.
    pub(crate) token: Option<Lsn>,
    /// Something was committed and its position is not known: reads run on the primary until it is.
    pub(crate) position_unknown: bool,
    /// A statement that may have changed the catalogue has run since the last position.
    pub(crate) catalog_changed: bool,
    /// What the catalogue must have seen before statements may be judged harmless.
    pub(crate) catalog_needed: Option<Lsn>,
    pub(crate) waiting_for: Option<Lsn>,
    /// The pending unit has waited long enough.
    pub(crate) gave_up: bool,
}

impl Session {
    /// A session whose local server is connected; its answer to the start-up message is the client's.
    #[must_use]
    pub fn new(options: SessionOptions) -> Self {
        let SessionOptions { local_startup, primary_startup, read_consistency } = options;
        let mut local = Link::new();
        local.state = LinkState::Open;
        local.send(&local_startup, Expect::Startup);
        let mut show = BytesMut::new();
        build::query(&mut show, "SHOW default_transaction_isolation");
        local.send(&show, Expect::Isolation);
        Self {
            client_in: BytesMut::new(),
            client_out: BytesMut::new(),
            local,
            primary: Link::new(),
            primary_startup,
            phase: Phase::Running,
            transaction: Transaction::Idle,
            set_up: Vec::new(),
            settings: Settings::default(),
            statements: Statements::new(),
            portals: Portals::new(),
            parameters: HashMap::new(),
            current: None,
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            large_announced: false,
            may_commit_async: false,
            passing: None,
            skip_until_sync: None,
            moving_unit: false,
            confirming: None,
            on_hold: false,
            pinned: false,
            listening: false,
            read_consistency,
            asked: false,
            token: None,
            position_unknown: false,
            catalog_changed: false,
            catalog_needed: None,
            waiting_for: None,
            gave_up: false,
        }
    }

    /// Does all that can be done with the bytes that are there.
    pub fn advance(&mut self, environment: &mut impl Environment) {
        loop {
            let mut progress = self.take_answers(Leg::Local);
            progress |= self.take_answers(Leg::Primary);
            progress |= self.dispatch(environment);
            progress |= self.collect(environment);
            if !progress || self.phase == Phase::Over {
                return;
            }
        }
    }

    /// Where bytes from the client go.
    pub fn client_input(&mut self) -> &mut BytesMut {
        &mut self.client_in
    }

    /// Bytes for the client.
    pub fn client_output(&mut self) -> &mut BytesMut {
        &mut self.client_out
    }

    /// Where bytes from a server go.
    pub fn server_input(&mut self, leg: Leg) -> &mut BytesMut {
        &mut self.link_mut(leg).input
    }

    /// Bytes for a server.
    pub fn server_output(&mut self, leg: Leg) -> &mut BytesMut {
        &mut self.link_mut(leg).output
    }

    /// Whether more bytes from the client are of use now.
    #[must_use]
    pub fn takes_client_input(&self) -> bool {
        let full = self.client_in.len() > UNIT_LEN_MAX + pangea_pgwire::frame::HEADER_LEN;
        // While units wait nothing is taken apart, but a client that goes away must be noticed.
        let waits = !self.pending.is_empty() && self.client_in.len() > OUTPUT_LEN_MAX;
        let clogged = [&self.local, &self.primary].iter().any(|link| link.output.len() > OUTPUT_LEN_MAX);
        !full && !waits && !clogged
    }

    /// Whether more bytes from this server are of use now.
    #[must_use]
    pub fn takes_server_input(&self, leg: Leg) -> bool {
        self.client_out.len() < OUTPUT_LEN_MAX && self.link(leg).input.len() < OUTPUT_LEN_MAX
    }

    /// Whether the session wants a connection to the primary that it does not have.
    #[must_use]
    pub fn wants_primary(&self) -> bool {
        self.primary.state == LinkState::Wanted
    }

    /// Whether the session has a connection to the primary. What the caller holds otherwise is to be dropped.
    #[must_use]
    pub fn primary_is_open(&self) -> bool {
        self.primary.state == LinkState::Open
    }

    /// The connection to the primary is there.
    pub fn primary_opened(&mut self) {
        self.primary.state = LinkState::Open;
    }

    /// The connection to the primary cannot be had. Nothing was executed there.
    pub fn primary_failed(&mut self, error: &ErrorFields) {
        let mut frame = BytesMut::new();
        error.write(&mut frame);
        self.refuse_on_primary(&frame.freeze());
    }

    /// A server closed its connection; `error` is what the client is told when that matters to it.
    pub fn server_closed(&mut self, leg: Leg, error: &ErrorFields) {
        let busy = self.in_flight.front().is_some_and(|unit| unit.leg == Some(leg));
        let matters = match leg {
            Leg::Local => true,
            Leg::Primary => {
                busy || self.pinned
                    || self.listening
                    || matches!(self.transaction, Transaction::Primary)
                    || self.primary.expects(Expect::Replay)
            }
        };
        if matters {
            self.fail(error);
        } else {
            self.drop_primary();
        }
    }

    /// The connection to the primary is gone, and nothing that mattered was on it.
    pub(crate) fn drop_primary(&mut self) {
        // A position that was asked for will not come.
        self.position_unknown |= self.primary.expects(Expect::Position);
        self.primary = Link::new();
        if let Some((leg @ Some(Leg::Primary), _)) = &mut self.passing {
            *leg = None;
        }
        for statement in self.statements.values_mut() {
            statement.on[Leg::Primary.index()] = false;
        }
    }

    /// What the pending unit waits for: the local server must have replayed this.
    #[must_use]
    pub fn waits_for(&self) -> Option<Lsn> {
        self.waiting_for
    }

    /// The wait has taken too long: the unit runs on the primary instead.
    pub fn give_up_waiting(&mut self) {
        self.gave_up = self.waiting_for.take().is_some();
    }

    /// The client has closed its side.
    pub fn client_closed(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Leaving;
        }
    }

    /// Whether the session is over. What is in [`Self::client_output`] is still to be written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the client has left and its last statements are being finished.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    /// The server that works for the client now, and the key that cancels it there, once the server has told it.
    #[must_use]
    pub fn busy(&self) -> Option<(Leg, Option<&CancelKey>)> {
        let leg = self.in_flight.front()?.leg?;
        Some((leg, self.link(leg).key.as_ref()))
    }

    /// Holds back what the client sends next, so that a cancel request that is on its way cannot hit it.
    pub fn set_on_hold(&mut self, on_hold: bool) {
        self.on_hold = on_hold;
    }

    /// The key of the local server, which is also the client's.
    #[must_use]
    pub fn client_key(&self) -> Option<&CancelKey> {
        self.local.key.as_ref()
    }

    /// Cancels a unit that waits for the local server to catch up; `false` when none does.
    pub fn cancel_waiting(&mut self) -> bool {
        // The rest of a unit that has begun to run is not for the session to cancel.
        if self.waiting_for.is_none() || self.pending.front().is_some_and(|unit| unit.continues) {
            return false;
        }
        (self.waiting_for, self.gave_up, self.asked) = (None, false, false);
        let error = ErrorFields::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
            .with_detail(
                "The statement was waiting for this region to catch up with the session's own writes.",
            );
        let mut frame = BytesMut::new();
        error.write(&mut frame);
        if let Some(unit) = self.pending.pop_front() {
            self.answer_with_error(&unit, &frame);
        }
        true
    }

    /// Answers a unit that was sent nowhere.
    pub(crate) fn answer_with_error(&mut self, unit: &Unit, error: &[u8]) {
        self.client_out.extend_from_slice(error);
        self.forget_parses(unit, 0);
        let status = match &mut self.transaction {
            Transaction::Idle => b'I',
            Transaction::Primary => b'E',
            Transaction::Local(transaction) => {
                transaction.failed = true;
                // The server has to refuse further statements as well: only an error there makes it so.
                let mut fail = BytesMut::new();
                build::query(&mut fail, "ABORTED BY PANGEA: a statement was cancelled before it ran");
                self.local.send(&fail, Expect::Cleanup);
                b'E'
            }
        };
        if unit.ended {
            build::ready_for_query(&mut self.client_out, status);
        } else {
            self.skip_until_sync = Some(status);
        }
    }

    /// Ends the session with an error.
    pub(crate) fn fail(&mut self, error: &ErrorFields) {
        if self.phase == Phase::Over {
            return;
        }
        let cut = self.local.rest > 0 && self.local.rest_passes
            || self.primary.rest > 0 && self.primary.rest_passes;
        // In the middle of a frame an error could not be told from data.
        if !cut {
            error.write(&mut self.client_out);
        }
        self.phase = Phase::Over;
    }

    pub(crate) fn link(&self, leg: Leg) -> &Link {
        match leg {
            Leg::Local => &self.local,
            Leg::Primary => &self.primary,
        }
    }

    pub(crate) fn link_mut(&mut self, leg: Leg) -> &mut Link {
        match leg {
            Leg::Local => &mut self.local,
            Leg::Primary => &mut self.primary,
        }
    }
}
