//! The session: its state, and what the caller sees of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pangea_base::{Position, Timeline};
use pangea_consistency::{Reach, ReadSettings, TimeoutAction, Token};
use pangea_pgwire::startup::{CancelKey, Startup};
use pangea_pgwire::{ErrorFields, SqlState};
use pangea_sql::Batch;

use crate::leg::{Expect, Leg, Link, LinkState};
use crate::listening::Listening;
use crate::moving::Held;
use crate::observe::Answers;
use crate::own::{self, Refusals};
use crate::prepared::{Portals, Statements};
use crate::settings::{SetUp, Settings};
use crate::shared::Welcome;
use crate::shared_statements::{ParseNumbers, Salt};
use crate::unit::{Begin, Unit};

/// Largest frame, and largest unit, that is collected. What is larger is streamed to the primary.
pub const UNIT_LEN_MAX: usize = 4 << 20;

/// Bytes of output to one side beyond which nothing more is taken from the others (back-pressure).
pub(crate) const OUTPUT_LEN_MAX: usize = 256 << 10;

/// Local servers that are tried one after the other when a session has lost its own. The caller pauses between them.
pub(crate) const MOVES_MAX: u32 = 100;

/// What the session asks of the world. Answers are at once: what takes time is waited for by the caller.
pub trait Environment {
    /// What a statement's text does, in the session's database.
    fn classify(&mut self, text: &str) -> Arc<Batch>;

    /// Changes whenever [`Self::classify`] may answer differently than before.
    fn catalog_version(&self) -> u64;

    /// Whether what [`Self::classify`] knows of the catalogue is at least as new as this position. When it is
    /// not, it is to be read again.
    fn catalog_covers(&mut self, position: Position) -> bool;

    /// What the local server knows of a position.
    fn reach(&self, position: Position) -> Reach;

    /// Whether the local server is the primary.
    fn is_primary(&self) -> bool;

    /// The timeline that the local server is on; `None` when that is not known.
    fn timeline(&self) -> Option<Timeline>;

    /// How stale the local server's data are at most; `None` when that is not known.
    fn staleness(&self) -> Option<Duration>;

    /// Whether commits are to be on other regions before they are acknowledged: no session may do with less.
    fn commits_elsewhere(&self) -> bool;

    /// Asks leave to begin something on the primary; refused while the primary is being moved. What was granted is
    /// given back with [`Self::leave_primary`].
    fn enter_primary(&mut self) -> bool;

    /// Nothing of the session is under way on the primary any more.
    fn leave_primary(&mut self);

    /// The session has a transaction block open on the primary.
    fn block_begins(&mut self);

    /// It has no more.
    fn block_ends(&mut self);
}

/// Which servers a session uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads run on the local server, writes on the primary.
    Split,
    /// Everything runs on the local server, which refuses writes; the primary is read only when the local server is
    /// not fresh enough.
    Local,
    /// Everything runs on the primary.
    Primary,
}

impl Access {
    /// The server that answers the client's start-up message.
    pub(crate) fn home(self) -> Leg {
        match self {
            Self::Split | Self::Local => Leg::Local,
            Self::Primary => Leg::Primary,
        }
    }
}

/// How a session begins.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Which servers it uses.
    pub access: Access,
    /// The start-up message for the local server.
    pub local_startup: Startup,
    /// The start-up message for the primary.
    pub primary_startup: Startup,
    /// With this the session shares its servers with others, and begins without one.
    pub shared: Option<SharedOptions>,
}

/// How a session begins that shares its servers.
#[derive(Debug, Clone)]
pub struct SharedOptions {
    /// What the client is told.
    pub welcome: Arc<Welcome>,
    /// Cancels what the client runs, wherever that is.
    pub client_key: CancelKey,
    /// The client's name for itself: what it says with it is no reason to have servers of its own.
    pub application_name: Option<String>,
    /// Those of all sessions that share servers with it.
    pub parse_numbers: ParseNumbers,
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
    /// Connections that the session has had.
    pub(crate) links_made: u64,
    /// The client's, where servers are shared.
    pub(crate) client_key: Option<CancelKey>,
    /// What the client has called itself, where the server was not told when it was started.
    pub(crate) application_name: Option<String>,
    /// What names of shared statements depend on beside the statements, and what that was computed from.
    pub(crate) salt: Salt,
    pub(crate) salted: (u64, usize),
    /// A cancel request is on its way to a server: whoever had that next would be hit by it.
    pub(crate) is_cancelling: bool,
    /// A shared server has a plan whose result is not what it was made for.
    pub(crate) has_stale_plan: bool,
    /// Where the servers are shared.
    pub(crate) parse_numbers: Option<ParseNumbers>,
    /// Statements were prepared in the transaction.
    pub(crate) ages_due: bool,
    /// It has changed the catalogue.
    pub(crate) changed_catalog: bool,
    /// No server of this region can be had for the time being: the primary serves.
    pub(crate) local_away: bool,
    pub(crate) access: Access,
    pub(crate) local_startup: Startup,
    pub(crate) primary_startup: Startup,
    /// The client has its answer to the start-up message.
    pub(crate) begun: bool,
    /// Local servers tried since the last one that worked.
    pub(crate) moves: u32,
    /// The local server is another than the one that the last reads ran on: what they have seen is not known here.
    pub(crate) moved: bool,
    pub(crate) phase: Phase,

    pub(crate) transaction: Transaction,
    /// The last unit that was answered has left a failed transaction.
    pub(crate) failed: bool,
    /// What the open transaction has set up.
    pub(crate) set_up: Vec<SetUp>,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    pub(crate) portals: Portals,
    /// What the client was told since the caller has asked.
    pub(crate) answers: Answers,
    /// Values of reported parameters as the client knows them.
    pub(crate) parameters: HashMap<Bytes, Bytes, ahash::RandomState>,

    /// The unit that is being collected.
    pub(crate) current: Option<Box<Unit>>,
    /// One that is over, for the next: what it has allocated is used again.
    pub(crate) spare: Option<Box<Unit>>,
    /// Collected and not sent. More than one only while a unit is to run again.
    pub(crate) pending: VecDeque<Box<Unit>>,
    /// Sent and not answered; all on one server.
    pub(crate) in_flight: VecDeque<Box<Unit>>,
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
    /// The client knows of some prepared statement what it is.
    pub(crate) has_described: bool,
    /// Questions whether servers agree.
    pub(crate) questions: u64,
    /// Nothing is sent for the client while a cancel request is on its way.
    pub(crate) on_hold: bool,
    /// The primary is being moved: the session leaves it.
    pub(crate) primary_held: Held,
    /// The session has leave to use the primary, and it counts as one that does.
    pub(crate) entered: bool,
    /// The caller was told of a transaction block on the primary, and not of its end.
    pub(crate) block_counted: bool,
    /// The pending unit waits for that leave.
    pub(crate) held_back: bool,
    /// The local server is the primary: what runs there uses it.
    pub(crate) local_is_primary: bool,
    /// The BEGIN of a transaction that may turn out not to have begun on the primary.
    pub(crate) begin: Option<Bytes>,
    /// It is to be sent again.
    pub(crate) begin_due: bool,
    /// A statement of that transaction was refused: it has failed before it has begun.
    pub(crate) begin_fails: bool,
    /// How often the primary has refused the session since it last took it.
    pub(crate) refused: u32,
    /// What is sent to the primary may not be passed on to its server.
    pub(crate) primary_may_refuse: bool,
    /// Transactions are READ COMMITTED when they do not say otherwise.
    pub(crate) reads_committed: bool,

    /// The session has state on the primary that cannot be made elsewhere: everything runs there.
    pub(crate) pinned: bool,
    /// The session listens on the primary, with a connection of its own.
    pub(crate) listening: bool,
    /// What it listens to otherwise.
    pub(crate) listens_elsewhere: Option<Box<Listening>>,
    /// What the session has set about its reads.
    pub(crate) read: ReadSettings,
    /// They may have changed, and the server is to be asked.
    pub(crate) settings_due: bool,
    /// Commits are to be on other regions before they are acknowledged.
    pub(crate) commits_elsewhere: bool,
    /// They were changed in the open transaction: its end may change them back.
    pub(crate) set_in_transaction: bool,
    pub(crate) refusals: Refusals,
    /// The primary was asked where it is for the pending unit.
    pub(crate) asked: bool,
    /// What local reads must have seen.
    pub(crate) token: Token,
    /// The timeline of the primary that the session is connected to.
    pub(crate) primary_timeline: Option<Timeline>,
    /// The last position that this connection to the primary has told.
    pub(crate) told: Option<Position>,
    /// Commits on the primary may be acknowledged before they are flushed: the server said so.
    pub(crate) server_async: bool,
    /// The same because of what the session has set.
    pub(crate) set_async: bool,
    /// The position that is not known is one of such a commit.
    pub(crate) unknown_async: bool,
    /// What was lost is not asked for any more, as the client has said.
    pub(crate) forgets_lost: bool,
    /// The open transaction on the primary has written.
    pub(crate) wrote: bool,
    /// Answers to [`Expect::Position`] under way that say too little.
    pub(crate) vain_positions: usize,
    /// The status that ReadyForQuery tells of a unit whose position is not known yet: the client is to have its token first.
    pub(crate) held_ready: Option<u8>,
    /// Something was committed and its position is not known: reads run on the primary until it is.
    pub(crate) position_unknown: bool,
    /// A statement that may have changed the catalogue has run since the last position.
    pub(crate) catalog_changed: bool,
    /// What the catalogue must have seen before statements may be judged harmless.
    pub(crate) catalog_needed: Option<Position>,
    pub(crate) waiting_for: Option<Position>,
    /// The pending unit has waited long enough.
    pub(crate) gave_up: bool,
}

impl Session {
    /// A session whose home server is connected (the primary with [`Access::Primary`], else the local one); its
    /// answer to the start-up message is the client's.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a line for each field")]
    pub fn new(options: SessionOptions) -> Self {
        let SessionOptions { access, local_startup, primary_startup, shared } = options;
        let mut home = Link::new(1);
        if shared.is_none() {
            home.state = LinkState::Open;
            let mut wire = BytesMut::new();
            let startup = if access == Access::Primary { &primary_startup } else { &local_startup };
            startup.write(&mut wire);
            home.send(&wire, Expect::Startup);
            home.query(own::START_SQL, Expect::Start);
        }
        let (local, primary) = match access.home() {
            Leg::Local => (home, Link::new(2)),
            Leg::Primary => (Link::new(2), home),
        };
        let (welcome, client_key, application_name, parse_numbers) = shared
            .map_or((None, None, None, None), |it| {
                (Some(it.welcome), Some(it.client_key), it.application_name, Some(it.parse_numbers))
            });
        let mut session = Self {
            links_made: 2,
            client_key,
            application_name,
            salt: None,
            salted: (0, 0),
            is_cancelling: false,
            has_stale_plan: false,
            parse_numbers,
            ages_due: false,
            changed_catalog: false,
            local_away: false,
            client_in: BytesMut::new(),
            client_out: BytesMut::new(),
            local,
            primary,
            access,
            local_startup,
            primary_startup,
            begun: false,
            moves: 0,
            moved: false,
            phase: Phase::Running,
            transaction: Transaction::Idle,
            failed: false,
            set_up: Vec::new(),
            settings: Settings::default(),
            statements: Statements::default(),
            portals: Portals::default(),
            answers: Answers::default(),
            parameters: HashMap::default(),
            current: None,
            spare: None,
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
            large_announced: false,
            may_commit_async: false,
            passing: None,
            skip_until_sync: None,
            moving_unit: false,
            confirming: None,
            has_described: false,
            questions: 0,
            on_hold: false,
            primary_held: Held::Nothing,
            block_counted: false,
            entered: access == Access::Primary && welcome.is_none(),
            held_back: false,
            local_is_primary: false,
            begin: None,
            begin_due: false,
            begin_fails: false,
            refused: 0,
            primary_may_refuse: false,
            reads_committed: false,
            pinned: false,
            listening: false,
            listens_elsewhere: None,
            read: ReadSettings::default(),
            settings_due: false,
            commits_elsewhere: false,
            set_in_transaction: false,
            refusals: Refusals::default(),
            asked: false,
            token: Token::default(),
            primary_timeline: None,
            told: None,
            server_async: false,
            set_async: false,
            unknown_async: false,
            forgets_lost: false,
            wrote: false,
            vain_positions: 0,
            held_ready: None,
            position_unknown: false,
            catalog_changed: false,
            catalog_needed: None,
            waiting_for: None,
            gave_up: false,
        };
        if let Some(welcome) = welcome {
            session.welcome(&welcome);
        }
        session
    }

    /// Does all that can be done with the bytes that are there.
    pub fn advance(&mut self, environment: &mut impl Environment) {
        loop {
            self.take_answers(Leg::Local);
            // The end of a frame from there was waited for.
            let mut more = self.take_answers(Leg::Primary) && !self.local.input.is_empty();
            self.collect(environment);
            // What is sent makes room for what is next.
            more |= self.dispatch(environment);
            more |= self.leave_primary();
            if self.entered && !self.keeps_primary() {
                self.entered = false;
                environment.leave_primary();
            }
            if !more || self.phase == Phase::Over {
                self.count_block(environment);
                return self.settle_channels();
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

    /// Whether this server owes an answer to something that was sent to it, or is to be sent.
    #[must_use]
    pub fn awaits(&self, leg: Leg) -> bool {
        !self.link(leg).expect.is_empty()
    }

    /// Whether the session wants a connection to the primary that it does not have.
    #[must_use]
    pub fn wants_primary(&self) -> bool {
        self.primary.state == LinkState::Wanted
    }

    /// Whether the session wants a connection to another local server: it has lost the one that it had.
    #[must_use]
    pub fn wants_local(&self) -> bool {
        self.local.state == LinkState::Wanted
    }

    /// Whether the session has a connection to the local server. What the caller holds otherwise is to be dropped.
    #[must_use]
    pub fn local_is_open(&self) -> bool {
        self.local.state == LinkState::Open
    }

    /// The connection to another local server is there.
    pub fn local_opened(&mut self) {
        self.local.state = LinkState::Open;
    }

    /// How often another server of this region was tried since one was found.
    #[must_use]
    pub fn moves(&self) -> u32 {
        self.moves
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

    /// What the pending unit waits for: the local server must have replayed this. [`Self::wait_timeout`] says how
    /// long it may take.
    #[must_use]
    pub fn waits_for(&self) -> Option<Position> {
        self.waiting_for
    }

    /// Longest wait for the local server to catch up.
    #[must_use]
    pub fn wait_timeout(&self) -> Duration {
        self.read.timeout
    }

    /// The wait has taken too long: the unit runs on the primary instead, or fails, as the session has set.
    pub fn give_up_waiting(&mut self) {
        let Some(position) = self.waiting_for.take() else { return };
        // What the primary does not have nobody has. The rest of a unit that has begun to run is not for the session
        // to fail.
        let fails = (self.read.timeout_action == TimeoutAction::Error
            || self.access == Access::Primary
            || self.is_tied())
            && self.pending.front().is_some_and(|unit| !unit.continues);
        if !fails {
            self.gave_up = true;
            return;
        }
        let text = "this region did not catch up in time with what the session must see";
        let timeout = self.read.timeout;
        let error = ErrorFields::error(SqlState::CONSISTENCY_TIMEOUT, text)
            .with_detail(format!("Position {position} was not replayed here within {timeout:?}."))
            .with_hint(
                "Try again, raise pangea.consistency_timeout, or read from the primary instead with \
                 SET pangea.consistency_timeout_action = 'primary'.",
            );
        self.refuse_pending(&error);
    }

    /// Answers the pending unit with an error; it runs nowhere.
    pub(crate) fn refuse_pending(&mut self, error: &ErrorFields) {
        let mut frame = BytesMut::new();
        error.write(&mut frame);
        self.refuse_pending_with(&frame);
    }

    /// The same with an ErrorResponse.
    pub(crate) fn refuse_pending_with(&mut self, frame: &[u8]) {
        (self.waiting_for, self.gave_up, self.asked, self.held_back) = (None, false, false, false);
        if let Some(unit) = self.pending.pop_front() {
            self.answer_with_error(&unit, frame);
        }
    }

    /// Passes on the ReadyForQuery that was held back for a position.
    pub(crate) fn release_ready(&mut self) {
        if let Some(status) = self.held_ready.take() {
            self.tell_ready(status);
        }
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
        let asked = || {
            [Leg::Local, Leg::Primary].into_iter().find(|leg| self.link(*leg).expects(Expect::Description))
        };
        let leg = self.in_flight.front().map_or_else(asked, |unit| unit.leg)?;
        Some((leg, self.link(leg).server.key.as_ref()))
    }

    /// Holds back what the client sends next, so that a cancel request that is on its way cannot hit it.
    pub fn set_on_hold(&mut self, on_hold: bool) {
        self.on_hold = on_hold;
    }

    /// The client's key: that of the home server, where that is the session's alone.
    #[must_use]
    pub fn client_key(&self) -> Option<&CancelKey> {
        self.client_key.as_ref().or(self.link(self.access.home()).server.key.as_ref())
    }

    /// Cancels a unit that waits for the local server to catch up; `false` when none does.
    pub fn cancel_waiting(&mut self) -> bool {
        // The rest of a unit that has begun to run is not for the session to cancel.
        let waits = self.waiting_for.is_some() || self.held_back || self.waits_for_listener();
        if !waits || self.pending.front().is_some_and(|unit| unit.continues) {
            return false;
        }
        self.refuse_pending(&canceled(if self.held_back {
            "The statement was waiting for the primary, which is being moved."
        } else if self.waiting_for.is_some() {
            "The statement was waiting for this region to catch up with the session's own writes."
        } else {
            "The statement was waiting for the connection that listens for sessions."
        }));
        true
    }

    /// A cancel request for what is under way has been passed on: should that turn out not to have run, it need not.
    pub fn note_cancel(&mut self) {
        if let Some(unit) = self.in_flight.front_mut() {
            unit.is_cancelled = true;
        }
    }

    /// Answers a unit that was sent nowhere.
    pub(crate) fn answer_with_error(&mut self, unit: &Unit, error: &[u8]) {
        self.client_out.extend_from_slice(error);
        self.forget_parses(unit, 0);
        let failed_on = match &mut self.transaction {
            Transaction::Idle => None,
            Transaction::Primary => Some(Leg::Primary),
            Transaction::Local(transaction) => {
                transaction.failed = true;
                Some(Leg::Local)
            }
        };
        let status = if failed_on.is_some() { b'E' } else { b'I' };
        self.begin_fails |= failed_on == Some(Leg::Primary) && self.begin_due;
        if let Some(leg) = failed_on
            && self.link(leg).state == LinkState::Open
        {
            // The server has to refuse further statements as well: only an error there makes it so.
            self.link_mut(leg).query(own::FAIL_SQL, Expect::Cleanup);
        }
        if unit.ended {
            self.tell_ready(status);
        } else {
            self.skip_until_sync = Some(status);
        }
    }

    /// Ends the session with an error: the gateway stops, say.
    pub fn fail(&mut self, error: &ErrorFields) {
        if self.phase == Phase::Over {
            return;
        }
        self.release_ready();
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

pub(crate) fn canceled(detail: &'static str) -> ErrorFields {
    ErrorFields::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        .with_detail(detail)
}
