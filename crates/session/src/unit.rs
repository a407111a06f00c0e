//! What PostgreSQL makes atomic, and so the unit of routing: a simple query, or everything up to a Sync.

use bytes::{Bytes, BytesMut};

use crate::described::{Confirmed, Describes};
use crate::leg::{Hold, Leg};
use crate::listening::ChannelChange;
use crate::prepared::Prepared;
use crate::settings::Setting;

/// Frames and names of a unit for which there is room in the next: as many as most have.
const KEPT_MAX: usize = 8;

/// How a unit is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One Query.
    Simple,
    /// Parse, Bind, Describe, Execute, Close up to a Sync.
    #[default]
    Extended,
    /// One FunctionCall.
    Function,
}

/// The transaction that a BEGIN opens.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    /// The client's BEGIN as a Query.
    pub(crate) wire: Bytes,
    pub(crate) start_transaction: bool,
    pub(crate) read_only: bool,
    /// Its statements share one snapshot.
    pub(crate) one_snapshot: bool,
    /// Nothing of it may run on a standby.
    pub(crate) on_primary: bool,
}

/// What follows from a unit that succeeded, in order.
#[derive(Debug, Clone)]
pub(crate) enum Consequence {
    Begin(Begin),
    Commit,
    Rollback,
    PrepareTransaction,
    Set(Setting),
    /// SET LOCAL, SET TRANSACTION and the like; whether commits may no longer be synchronous.
    SetLocal {
        wire: Bytes,
        may_commit_async: bool,
    },
    /// The transaction is restricted from here.
    Restrict {
        read_only: bool,
        one_snapshot: bool,
    },
    /// LISTEN and UNLISTEN, where a listener hears for the session.
    Channel(ChannelChange, Bytes),
    Savepoint(String, Bytes),
    Release(String),
    RollbackTo(String),
    Prepare(Bytes, Box<Prepared>),
    /// `None` for all.
    Deallocate(Option<Bytes>),
    DiscardAll,
}

/// A Parse of a unit.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) name: Bytes,
    /// The session has put it in: the client must not see its answer.
    pub(crate) injected: bool,
    /// The name under which it was sent to a shared server: when it fails, the server does not have that.
    pub(crate) made: Option<Bytes>,
    /// Its number among those that go to shared servers; 0 where it has no shared name.
    pub(crate) number: u64,
}

/// A unit while it is collected, waits, and is in flight. It is long: it stays where it is on the heap.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about what the unit contains")]
pub(crate) struct Unit {
    pub(crate) kind: Kind,
    /// Frames not yet sent.
    pub(crate) frames: Vec<Bytes>,
    /// Bytes of all its frames.
    pub(crate) len: usize,
    /// Frames sent, kept while the unit may have to be sent again.
    pub(crate) sent: Vec<Bytes>,
    /// Its Sync (or it needs none) is among the frames.
    pub(crate) ended: bool,
    /// It goes on with a unit that is in flight and was flushed.
    pub(crate) continues: bool,

    /// Something in it must run on the primary.
    pub(crate) needs_primary: bool,
    /// It leaves state on the server that cannot be made elsewhere.
    pub(crate) pins: bool,
    /// It may leave something on the server that only this connection has.
    pub(crate) holds: bool,
    /// It removes what may have been left so.
    pub(crate) frees: bool,
    /// It reads what only this connection has.
    pub(crate) reads_private_state: bool,
    /// It reads what is kept in the server's session.
    pub(crate) reads_session_state: bool,
    /// It reads data or the catalogue: what it sees must be fresh enough.
    pub(crate) reads: bool,
    /// It prepares what needs the primary. A standby that does not know a name in it is not the one to say so.
    pub(crate) prepares_write: bool,
    /// It executes something (more than Parse, Describe, Close).
    pub(crate) executes: bool,
    /// It opens a cursor or leaves a portal half read.
    pub(crate) opens_cursor: bool,
    pub(crate) begins: bool,
    /// It ends a transaction.
    pub(crate) ends_transaction: bool,
    /// It is more than one statement, with transaction control among them.
    pub(crate) mixes_control: bool,
    /// Number of COPY FROM STDIN in it.
    pub(crate) copies_in: usize,
    /// It is one frame that is passed on as it comes, too large to be collected.
    pub(crate) streams: bool,
    /// A transaction begins where one ends (AND CHAIN).
    pub(crate) chains: bool,
    /// It could not be read: what it leaves on the session is not known.
    pub(crate) unread: bool,
    pub(crate) changes_catalog: bool,
    pub(crate) listens: bool,
    /// Channels on which it begins to listen, where a listener hears for the session.
    pub(crate) channels: Vec<Bytes>,
    /// It may change Pangea's own settings.
    pub(crate) sets_own: bool,
    /// With the number of the command that each follows from.
    pub(crate) consequences: Vec<(usize, Consequence)>,
    /// Commands in it.
    pub(crate) commands: usize,
    /// Prepared statements that the server must have.
    pub(crate) uses: Vec<Bytes>,
    /// Those that it must have under the client's own names, because SQL names them.
    pub(crate) uses_by_name: Vec<Bytes>,
    /// A statement that it uses and that there is not.
    pub(crate) missing: Option<Bytes>,
    /// For each answer to a Close that is due, whether the session has put that Close in: the client must not see the
    /// answer. Of shared servers only.
    pub(crate) hides_close: Vec<bool>,
    /// Answers to a Close that have come, those of [`Self::hides_close`] included.
    pub(crate) close_answers: usize,
    /// Parse messages that were sent.
    pub(crate) parses_sent: usize,
    /// Statements that its Parse messages make, in order.
    pub(crate) parses: Vec<Parsed>,
    /// Its Describes of statements.
    pub(crate) describes: Option<Box<Describes>>,
    /// Which of the statements that it uses are as the client knows them.
    pub(crate) confirmed: Confirmed,
    /// What its Close messages remove, in order; `None` for a portal or what is not there.
    pub(crate) closes: Vec<Option<(Bytes, Prepared)>>,

    /// It has failed on the standby and runs again.
    pub(crate) run_again: bool,
    /// Whatever it does, it runs on the primary.
    pub(crate) run_on_primary: bool,
    /// Where it runs.
    pub(crate) leg: Option<Leg>,
    /// Nothing of its answer has been passed on, so that it may run again.
    pub(crate) retryable: bool,
    /// It is kept, because it may turn out that it has not run: the start-up message before it may be refused, or the region of
    /// the primary may not have had it executed.
    pub(crate) recallable: bool,
    /// What the session was bound to before it was sent: whether it was pinned, listened, and what held its connection.
    pub(crate) bound_before: (bool, bool, Hold),
    /// Its client has asked to cancel it.
    pub(crate) is_cancelled: bool,
    /// It is to run again on the primary.
    pub(crate) retry: bool,
    /// Answers held back while it is retryable.
    pub(crate) held: BytesMut,
    pub(crate) errored: bool,
    pub(crate) parse_completes: usize,
    pub(crate) close_completes: usize,
    pub(crate) command_completes: usize,
    /// The last command was answered with ROLLBACK: a COMMIT of a failed transaction.
    pub(crate) rolled_back: bool,
    /// The server has begun to take data of COPY.
    pub(crate) copy_started: bool,
    /// The server takes data of COPY.
    pub(crate) copy_active: bool,
    /// A position is asked after it.
    pub(crate) asks_position: bool,
    /// Its commit did not wait for other regions as it should have: what it says from here on is not passed on.
    pub(crate) unconfirmed: bool,
}

impl Unit {
    /// Has nothing any more, but for room within bounds: clients that are idle are many.
    pub(crate) fn empty(&mut self) {
        let (mut frames, mut uses, mut parses) = (
            std::mem::take(&mut self.frames),
            std::mem::take(&mut self.uses),
            std::mem::take(&mut self.parses),
        );
        frames.clear();
        uses.clear();
        parses.clear();
        frames.shrink_to(KEPT_MAX);
        uses.shrink_to(KEPT_MAX);
        parses.shrink_to(KEPT_MAX);
        *self = Self { frames, uses, parses, ..Self::default() };
    }

    /// What was sent is kept while it may have to be sent again; else its room is for the next unit.
    pub(crate) fn put_away(&mut self, mut frames: Vec<Bytes>, keeps: bool) {
        if keeps {
            self.sent = frames;
        } else {
            frames.clear();
            frames.shrink_to(KEPT_MAX);
            self.frames = frames;
        }
    }

    /// One that is empty becomes another.
    pub(crate) fn begin(&mut self, kind: Kind, continues: bool) {
        (self.kind, self.ended, self.continues) = (kind, kind != Kind::Extended, continues);
    }

    /// Whether it does nothing but read, and prepare what it reads with: nothing follows from it.
    pub(crate) fn only_reads(&self) -> bool {
        let special = self.continues
            | self.needs_primary
            | self.pins
            | self.holds
            | self.frees
            | self.reads_private_state
            | self.reads_session_state
            | self.begins
            | self.ends_transaction
            | self.streams
            | self.unread
            | self.changes_catalog
            | self.listens
            | self.sets_own;
        !special && self.copies_in == 0 && self.consequences.is_empty() && self.closes.is_empty()
    }

    /// Whether it changes which prepared statements there are in a way that is known only when it has run.
    pub(crate) fn is_structural(&self) -> bool {
        self.consequences.iter().any(|(_, consequence)| {
            matches!(
                consequence,
                Consequence::Prepare(..) | Consequence::Deallocate(_) | Consequence::DiscardAll
            )
        })
    }

    /// Whether it makes commits of its transaction asynchronous, perhaps.
    pub(crate) fn may_commit_async(&self) -> bool {
        let makes = |what: &Consequence| matches!(what, Consequence::SetLocal { may_commit_async: true, .. });
        self.consequences.iter().any(|(_, what)| makes(what))
    }

    /// Whether its first command ends a transaction that has failed, and more follows.
    pub(crate) fn begins_anew(&self) -> bool {
        self.mixes_control && matches!(self.consequences.first(), Some((0, Consequence::Rollback)))
    }

    pub(crate) fn follows(&mut self, consequence: Consequence) {
        self.consequences.push((self.commands, consequence));
    }

    pub(crate) fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        self.frames.push(frame);
    }

    /// Takes over what a later part of the same unit contains.
    pub(crate) fn absorb(&mut self, part: &mut Unit) {
        self.ended = part.ended;
        self.kind = part.kind;
        self.len += part.len;
        self.needs_primary |= part.needs_primary;
        self.pins |= part.pins;
        self.holds |= part.holds;
        self.frees |= part.frees;
        self.reads |= part.reads;
        self.prepares_write |= part.prepares_write;
        self.executes |= part.executes;
        self.opens_cursor |= part.opens_cursor;
        self.begins |= part.begins;
        self.ends_transaction |= part.ends_transaction;
        self.mixes_control |= part.mixes_control;
        self.copies_in += part.copies_in;
        self.streams |= part.streams;
        self.chains |= part.chains;
        self.unread |= part.unread;
        self.changes_catalog |= part.changes_catalog;
        self.listens |= part.listens;
        self.sets_own |= part.sets_own;
        let before = self.commands;
        self.consequences.extend(part.consequences.drain(..).map(|(index, what)| (before + index, what)));
        self.commands += part.commands;
        if self.retryable {
            remember(&mut self.uses, &part.uses);
            remember(&mut self.uses_by_name, &part.uses_by_name);
        }
        self.parses.append(&mut part.parses);
        self.closes.append(&mut part.closes);
        if let Some(describes) = &mut part.describes {
            self.describes.get_or_insert_default().append(describes);
        }
        self.hides_close.append(&mut part.hides_close);
    }
}

/// Adds names that are not there. Copies: they must not keep the buffers that they were read into.
fn remember(names: &mut Vec<Bytes>, more: &[Bytes]) {
    for name in more {
        if !names.contains(name) {
            names.push(Bytes::copy_from_slice(name));
        }
    }
}

impl Begin {
    /// A transaction of which only is known that it is open.
    pub(crate) fn plain() -> Self {
        let mut wire = BytesMut::new();
        pangea_pgwire::build::query(&mut wire, "BEGIN");
        let wire = wire.freeze();
        Self { wire, start_transaction: false, read_only: false, one_snapshot: false, on_primary: false }
    }
}
