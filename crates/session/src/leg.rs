//! One of the session's two servers.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pangea_pgwire::build;

use crate::described::Question;
use crate::settings::Made;
use crate::shared::ServerState;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// The standby of this region.
    Local,
    /// The writable server.
    Primary,
}

impl Leg {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Local => 0,
            Self::Primary => 1,
        }
    }
}

/// Whether there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// None, and none asked for.
    Down,
    /// Asked for; what is to be sent is collected.
    Wanted,
    /// Open.
    Open,
}

/// What the next answer of a server, up to its ReadyForQuery, is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The start-up message.
    Startup,
    /// The oldest unit in flight.
    Client,
    /// What is asked when a session begins, of its home server.
    Start,
    /// What is asked when a connection to the primary is opened beside the local one.
    PrimaryFacts,
    /// Pangea's own settings.
    Settings,
    /// A setting, a BEGIN or a savepoint that the session already has elsewhere. It must succeed.
    Replay,
    /// A prepared statement that the session already has elsewhere. Its error is the client's unit's error.
    Prepare,
    /// What a prepared statement is there, which is made first if need be.
    Description,
    /// Whether anything is left on the server that only this connection has.
    Hold,
    /// Where the write-ahead log is after a commit.
    Position,
    /// Clearing away. An error changes nothing.
    Cleanup,
}

/// A connection to a server, and what is under way on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    /// From the server, not looked at yet.
    pub(crate) input: BytesMut,
    /// To the server.
    pub(crate) output: BytesMut,
    /// Answers that are due, in order.
    pub(crate) expect: VecDeque<Expect>,
    /// Bytes of a frame still to come that are passed on (or dropped) without being looked at.
    pub(crate) rest: usize,
    /// They are passed on.
    pub(crate) rest_passes: bool,
    /// Number of the newest setting that it has.
    pub(crate) applied: u64,
    /// Which of the session's connections it is: prepared statements remember where they are.
    pub(crate) id: u64,
    /// What goes with the connection when another session gets it.
    pub(crate) server: Box<ServerState>,
    /// Stands in its place while there is none.
    pub(crate) no_server: Option<Box<ServerState>>,
    /// It was given to the session, which has not looked yet what it needs it for.
    pub(crate) is_fresh: bool,
    /// Something that may have written has run on it since the session has it.
    pub(crate) wrote_here: bool,
    /// Why it cannot be given away.
    pub(crate) hold: Hold,
    /// Channels on which the session has begun to listen there, and need not.
    pub(crate) listened: Vec<Bytes>,
    /// Something may have removed the reason.
    pub(crate) hold_check_due: bool,
    /// Statements that have to be closed to make room for others.
    pub(crate) evicted: Vec<Bytes>,
    /// The answer under way has an error in it.
    pub(crate) answer_failed: bool,
    /// Shared statements whose preparation is under way as [`Expect::Prepare`]; `None` for others.
    pub(crate) preparing: VecDeque<Option<Bytes>>,
    /// Under way as [`Expect::Description`].
    pub(crate) questions: VecDeque<Question>,
    /// Error of something that the session ran for itself, to be shown instead of its consequence.
    pub(crate) hidden_error: Option<Bytes>,
    /// The first values of the rows in the answer under way; empty for NULL.
    pub(crate) values: Vec<Bytes>,
}

/// Why a connection cannot be given to another session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// It can.
    #[default]
    No,
    /// There may be something on it that only it has; the server can be asked.
    Checked,
    /// What is on it cannot be told.
    Forever,
}

impl Link {
    /// No connection; the next one will be number `id` of the session's.
    pub(crate) fn new(id: u64) -> Self {
        Self {
            state: LinkState::Down,
            input: BytesMut::new(),
            output: BytesMut::new(),
            expect: VecDeque::new(),
            rest: 0,
            rest_passes: false,
            applied: 0,
            id,
            server: Box::default(),
            no_server: None,
            is_fresh: false,
            wrote_here: false,
            hold: Hold::No,
            listened: Vec::new(),
            hold_check_due: false,
            evicted: Vec::new(),
            answer_failed: false,
            preparing: VecDeque::new(),
            questions: VecDeque::new(),
            hidden_error: None,
            values: Vec::new(),
        }
    }

    /// DISCARD ALL was run on it.
    pub(crate) fn is_as_new(&mut self) {
        self.server.statements.clear();
        self.server.made = Made::default();
        (self.server.guarded, self.server.is_tainted) = (false, false);
        (self.hold, self.hold_check_due) = (Hold::No, false);
        self.listened.clear();
    }

    /// Sends something of the session's own; its answer is due after those before it.
    pub(crate) fn send(&mut self, wire: &[u8], expect: Expect) {
        self.output.extend_from_slice(wire);
        self.expect.push_back(expect);
    }

    /// [`Self::send`] of a Query.
    pub(crate) fn query(&mut self, sql: &str, expect: Expect) {
        build::query(&mut self.output, sql);
        self.expect.push_back(expect);
    }

    /// Whether something of the session's own that is under way will have ended the server's unnamed statement: a
    /// Query does, and a Parse of it, but no function call.
    pub(crate) fn ends_unnamed(&self) -> bool {
        self.expect.iter().any(|other| !matches!(other, Expect::Client | Expect::Position))
    }

    /// Whether an answer to something of the session's own that `which` names is due.
    pub(crate) fn expects(&self, which: Expect) -> bool {
        // Asked several times a unit, and mostly there is nothing: the search goes through both halves of the ring.
        !self.expect.is_empty() && self.expect.contains(&which)
    }
}
