//! Servers that sessions share: between its transactions a session has none.
//!
//! What goes with a connection from one session to the next is its [`ServerState`]: who it is, what is set on it, and
//! which prepared statements it has. The next session makes of that what it needs ([`Session::attach`]): settings that
//! differ are made, or all are reset first; statements have names that tell what they are, so that sessions that
//! prepare the same use the same one.
//!
//! A connection that has something which cannot be made elsewhere (temporary tables, locks, cursors, what functions
//! have left that somebody has written) stays with its session. Whether something of the kind is left, the server is
//! asked after each statement that may have left or removed it.

use std::collections::HashMap;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use pangea_base::Timeline;
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::startup::{CancelKey, Startup};
use pangea_pgwire::{SqlState, build, fields, message};
use sha2::{Digest as _, Sha256};

use crate::leg::{Expect, Hold, Leg, LinkState};
use crate::own;
use crate::session::{Session, Transaction};
use crate::settings::{Change, Made, SetUp, Setting};
use crate::unit::{Consequence, Unit};

/// Most prepared statements on a server that sessions share; beyond that the one that was used longest ago goes.
const STATEMENTS_MAX: usize = 200;

/// Begins the names of statements on servers that sessions share.
const PREFIX: &str = "pangea_";

/// Length of those names.
const NAME_LEN: usize = PREFIX.len() + 32;

/// A statement that no server has: closing it succeeds and does nothing.
const NONE: &[u8] = b"pangea_none";

/// Makes a server's settings those of a new connection.
const RESET_SQL: &str = "RESET SESSION AUTHORIZATION; RESET ALL";

/// Takes from a server what may be told about it alone.
const PRIVATE_SQL: &str = "DISCARD SEQUENCES; DEALLOCATE ALL";

/// What a server that sessions share is like: goes with the connection.
#[derive(Debug, Default)]
pub struct ServerState {
    /// Cancels what runs on it.
    pub(crate) key: Option<CancelKey>,
    /// What is set on it.
    pub(crate) made: Made,
    pub(crate) statements: SharedStatements,
    /// Something has run on it that may have set more than is known.
    pub(crate) is_tainted: bool,
    /// [`own::GUARD_SQL`] was run on it since its settings may have changed.
    pub(crate) guarded: bool,
    /// Its timeline, when it was writable as the connection was opened.
    pub(crate) timeline: Option<Timeline>,
    /// Its commits may be acknowledged before they are flushed, if a session does not say otherwise.
    pub(crate) commits_async: bool,
}

impl ServerState {
    /// Of a new connection that has answered [`own::START_SQL`] with these values.
    #[must_use]
    pub fn new(key: Option<CancelKey>, start: &[Bytes]) -> Self {
        let (commits_async, timeline) = own::primary_facts(start.get(1), start.get(2));
        Self { key, timeline, commits_async, ..Self::default() }
    }

    /// The key that cancels what runs on it.
    #[must_use]
    pub fn key(&self) -> Option<&CancelKey> {
        self.key.as_ref()
    }
}

/// What a new session is told that begins without a server: what the servers of its kind have said.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// Names and values of reported parameters.
    pub parameters: Vec<(Bytes, Bytes)>,
    /// The answer to [`own::START_SQL`].
    pub start: Vec<Bytes>,
}

/// The prepared statements of a server that sessions share, by name.
#[derive(Debug, Default)]
pub(crate) struct SharedStatements {
    known: HashMap<Bytes, Known, ahash::RandomState>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    used: u64,
    /// As [`Age::of_preparation`] has told.
    made: u64,
}

impl SharedStatements {
    /// Whether one is there that is as good as if a session of this age had prepared it.
    pub(crate) fn has(&self, name: &[u8], age: Age) -> bool {
        self.known.get(name).is_some_and(|known| age.is_served_by(known.made))
    }

    /// Notes that one is used.
    pub(crate) fn touch(&mut self, name: &[u8]) {
        self.clock += 1;
        if let Some(known) = self.known.get_mut(name) {
            known.used = self.clock;
        }
    }

    /// Adds one, or replaces it; returns the one that has to go for it.
    pub(crate) fn insert(&mut self, name: Bytes, made: u64) -> Option<Bytes> {
        self.clock += 1;
        self.known.insert(name, Known { used: self.clock, made });
        if self.known.len() <= STATEMENTS_MAX {
            return None;
        }
        let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(name, _)| name.clone())?;
        self.known.remove(&oldest);
        Some(oldest)
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.known.remove(name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

/// When a session has prepared a statement: twice the numbers of [`crate::Environment::next_parse`], and between them.
///
/// PostgreSQL looks up names and infers the types of parameters when it reads a statement; what it has found it keeps
/// through most of what changes there (`plancache.c`). So a client that prepares must not be given what a server has
/// read before, only what was read after: then that knows all that the client can know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    /// Of its own Parse, from before any server has read that.
    own: u64,
    /// What is of then or later is read later than its own Parse was; `None` until that was read.
    since: Option<u64>,
}

impl Age {
    /// Of a Parse of this number.
    pub(crate) fn new(number: u64) -> Self {
        Self { own: 2 * number, since: None }
    }

    /// A server has read it, after which the newest number was `latest`.
    pub(crate) fn is_read(&mut self, latest: u64) {
        self.since.get_or_insert(2 * latest + 1);
    }

    /// When a preparation of it was made that a server is sent now, or later than that.
    pub(crate) fn of_preparation(self) -> u64 {
        self.since.unwrap_or(self.own)
    }

    fn is_served_by(self, made: u64) -> bool {
        made == self.own || self.since.is_some_and(|since| made >= since)
    }
}

/// What else than text and types a prepared statement depends on: PostgreSQL reads literals when it prepares them, by the
/// settings of that moment, and some by the time.
pub(crate) type Salt = Option<[u8; 32]>;

/// Literals that are read as a time of that moment.
const MOMENTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Whether a text has a literal that may be one of those.
fn tells_the_moment(text: &[u8]) -> bool {
    let quotes = |at: usize| text[at] == b'\'' || !text.get(at + 1).is_some_and(u8::is_ascii_digit);
    if !memchr::memchr2_iter(b'\'', b'$', text).any(quotes) {
        return false;
    }
    let text = text.to_ascii_lowercase();
    MOMENTS.iter().any(|word| text.windows(word.len()).any(|window| window == *word))
}

fn salt_of<'a>(parts: impl Iterator<Item = &'a Bytes>) -> Salt {
    let mut parts = parts.peekable();
    parts.peek()?;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Some(hash.finalize().into())
}

/// The name of a statement on servers that sessions share: the same for what is the same statement, and for no other.
pub(crate) fn name_of(text: &[u8], types: &[u8], salt: Salt) -> Bytes {
    let mut hash = Sha256::new();
    hash.update(salt.unwrap_or_default());
    hash.update((types.len() as u64).to_be_bytes());
    hash.update(types);
    hash.update(text);
    let mut name = PREFIX.to_owned();
    for byte in &hash.finalize()[..16] {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.into()
}

/// A Parse of a statement under its shared name, after a Close of what may have that name already.
pub(crate) fn parse_anew(name: &[u8], text: &[u8], types: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(2 * name.len() + text.len() + types.len() + 14);
    build::close_statement(&mut out, name);
    build::parse(&mut out, name, text, types);
    out.freeze()
}

/// A Parse under another name.
pub(crate) fn renamed_parse(name: &[u8], text: &[u8], types: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + text.len() + types.len() + 7);
    build::parse(&mut out, name, text, types);
    out.freeze()
}

/// A Bind to a statement of another name.
pub(crate) fn renamed_bind(portal: &[u8], statement: &[u8], rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(portal.len() + statement.len() + rest.len() + 7);
    build::bind(&mut out, portal, statement, rest);
    out.freeze()
}

/// A Describe of a statement of another name.
pub(crate) fn renamed_describe(name: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + 7);
    build::frame(&mut out, b'D', |out| {
        out.extend_from_slice(b"S");
        build::cstr(out, name);
    });
    out.freeze()
}

/// Whether an error says that the columns of a prepared statement are others by now (`plancache.c`): preparing the same
/// again must not find the same statement.
pub(crate) fn is_stale_plan(error: &[u8]) -> bool {
    let body = &error[HEADER_LEN..];
    fields::code(body) == Some(SqlState::FEATURE_NOT_SUPPORTED)
        && fields::field(body, b'M') == Some(b"cached plan must not change result type")
}

/// The statement of a shared server that an error speaks of.
pub(crate) fn name_in(error: &[u8]) -> Option<&[u8]> {
    let at = error.windows(PREFIX.len()).position(|window| window == PREFIX.as_bytes())?;
    error.get(at..at + NAME_LEN)
}

/// Whether an error says that a prepared statement does not exist.
pub(crate) fn is_missing(error: &[u8]) -> bool {
    fields::code(&error[HEADER_LEN..]) == Some(SqlState::INVALID_SQL_STATEMENT_NAME)
}

/// The error that a statement does not exist, with the client's name for it.
pub(crate) fn with_own_name(error: &Bytes, name: &[u8]) -> Option<Bytes> {
    if !is_missing(error) {
        return None;
    }
    let at = error.windows(PREFIX.len()).position(|window| window == PREFIX.as_bytes())?;
    let end = at + NAME_LEN;
    let mut out = BytesMut::new();
    build::frame(&mut out, b'E', |out| {
        out.extend_from_slice(&error[HEADER_LEN..at]);
        out.extend_from_slice(name);
        out.extend_from_slice(error.get(end..).unwrap_or_default());
    });
    Some(out.freeze())
}

/// A Close that closes nothing: other sessions use the statement too.
pub(crate) fn close_of_nothing() -> Bytes {
    let mut out = BytesMut::with_capacity(NONE.len() + 7);
    build::close_statement(&mut out, NONE);
    out.freeze()
}

/// Asked after statements that may have left something on the server, or removed it: whether anything is left. Which
/// parameters somebody's function has set PostgreSQL does not tell: those are reset for the next session.
pub(crate) const HOLD_SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
     AND pid = pg_catalog.pg_backend_pid()) OR EXISTS (SELECT FROM pg_catalog.pg_class \
     WHERE relnamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_proc \
     WHERE pronamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_type \
     WHERE typnamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_cursors) \
     OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements \
     WHERE from_sql OR pg_catalog.left(name, 7) <> 'pangea_')";

impl Session {
    /// Whether the session shares its servers with others.
    #[must_use]
    pub fn shares_servers(&self) -> bool {
        self.client_key.is_some()
    }

    /// The start-up message for a server.
    #[must_use]
    pub fn startup(&self, leg: Leg) -> &Startup {
        match leg {
            Leg::Local => &self.local_startup,
            Leg::Primary => &self.primary_startup,
        }
    }

    /// A cancel request may still reach a server at any time: nobody else gets that.
    pub fn keep(&mut self, leg: Leg) {
        self.hold(leg, Hold::Forever);
    }

    /// Keeps the session's servers while a cancel request is on its way to one of them.
    pub fn set_cancelling(&mut self, cancelling: bool) {
        self.is_cancelling = cancelling;
    }

    /// Whether the next unit waits for leave to use the primary.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Another server than before serves the session's reads: what they have seen is not known there.
    pub fn set_moved(&mut self) {
        self.moved = true;
    }

    /// Begins without a server: tells the client what one has said.
    pub(crate) fn welcome(&mut self, welcome: &Welcome) {
        build::authentication_ok(&mut self.client_out);
        for (name, value) in &welcome.parameters {
            let own = self.application_name.as_ref().filter(|_| name.as_ref() == b"application_name");
            let value = own.map_or(value.as_ref(), String::as_bytes);
            let mut frame = BytesMut::new();
            build::frame(&mut frame, b'S', |out| {
                build::cstr(out, name);
                build::cstr(out, value);
            });
            self.report_parameter(&frame.freeze());
        }
        if let Some(key) = &self.client_key {
            build::backend_key_data(&mut self.client_out, key);
        }
        self.begun = true;
        self.set_base();
        self.begin(self.access.home(), &welcome.start);
        build::ready_for_query(&mut self.client_out, b'I');
    }

    /// Makes the settings that a shared server was not started with.
    pub(crate) fn set_base(&mut self) {
        if let Some(name) = &self.application_name {
            let mut wire = BytesMut::new();
            build::query(&mut wire, &format!("SET application_name TO '{}'", name.replace('\'', "''")));
            let key = "application_name".to_owned();
            self.settings.push(Setting { key, wire: wire.freeze() });
        }
    }

    /// No server of this region can be had, or one may be had again. Meanwhile the primary serves reads.
    pub fn set_local_away(&mut self, away: bool) {
        self.local_away = away;
        if away && self.local.state == LinkState::Wanted {
            self.forget_link(Leg::Local);
        }
    }

    /// Whether there is a connection to a server for what comes next; asks for one when there is none.
    pub(crate) fn is_attached(&mut self, leg: Leg) -> bool {
        if !self.shares_servers() || self.link(leg).state == LinkState::Open {
            return true;
        }
        self.link_mut(leg).state = LinkState::Wanted;
        false
    }

    /// The connection that was asked for is there: an open one, which nobody else uses.
    pub fn attach(&mut self, leg: Leg, state: Box<ServerState>) {
        if leg == Leg::Primary {
            (self.primary_timeline, self.server_async) = (state.timeline, state.commits_async);
            (self.told, self.vain_positions) = (None, 0);
            self.refused = 0;
        } else {
            self.moves = 0;
        }
        let change = match state.is_tainted {
            true => Change::Reset,
            false => self.settings.change_from(&state.made),
        };
        let (newest, made) = (self.settings.newest(), self.settings.made().clone());
        let link = self.link_mut(leg);
        link.state = LinkState::Open;
        link.no_server = Some(std::mem::replace(&mut link.server, state));
        (link.applied, link.is_fresh, link.wrote_here) = (newest, true, false);
        match change {
            Change::None => {}
            Change::Make(wires) => {
                (link.server.made, link.server.guarded) = (made, false);
                for wire in wires {
                    self.send_hidden(leg, &wire, Expect::Replay);
                }
            }
            Change::Reset => {
                (link.applied, link.server.guarded) = (0, false);
                let made = std::mem::take(&mut link.server.made);
                let tainted = std::mem::take(&mut link.server.is_tainted);
                if tainted || !made.is_empty() {
                    link.query(RESET_SQL, Expect::Replay);
                }
                // Of what was prepared then nobody knows under which settings, nor whether it is still there.
                if tainted && !link.server.statements.is_empty() {
                    link.query("DEALLOCATE ALL", Expect::Replay);
                    link.server.statements.clear();
                }
            }
        }
    }

    /// The connection that was asked for cannot be had: the pending unit fails, and nothing of it has run.
    pub fn attach_failed(&mut self, leg: Leg, error: &pangea_pgwire::ErrorFields) {
        if self.link(leg).state == LinkState::Wanted {
            self.forget_link(leg);
        }
        self.refuse_pending(error);
    }

    /// Whether shared servers have plans that are no good any more, since this was asked last: the connections of the
    /// session's pools are to be replaced.
    pub fn take_stale_plan(&mut self) -> bool {
        std::mem::take(&mut self.has_stale_plan)
    }

    /// Gives a connection away that the session does not need any more, if there is one.
    pub fn release(&mut self, leg: Leg) -> Option<Box<ServerState>> {
        if !self.is_releasable(leg) {
            return None;
        }
        if leg == Leg::Primary {
            (self.primary_timeline, self.told, self.server_async) = (None, None, false);
        }
        self.links_made += 1;
        let id = self.links_made;
        let link = self.link_mut(leg);
        (link.state, link.id, link.hidden_error) = (LinkState::Down, id, None);
        let none = link.no_server.take().unwrap_or_default();
        Some(std::mem::replace(&mut link.server, none))
    }

    fn is_releasable(&self, leg: Leg) -> bool {
        let link = self.link(leg);
        let idle = link.state == LinkState::Open
            && self.shares_servers()
            && !self.is_cancelling
            && !link.is_fresh
            && link.expect.is_empty()
            && link.hold == Hold::No
            && (link.rest, link.input.len(), link.output.len()) == (0, 0, 0);
        idle && self.in_flight.iter().all(|unit| unit.leg != Some(leg))
            && !self.moving_unit
            && self.confirming != Some(leg)
            && match self.transaction {
                Transaction::Idle => true,
                Transaction::Local(_) => leg == Leg::Primary,
                Transaction::Primary => leg == Leg::Local,
            }
            && !matches!(self.passing, Some((Some(to), _)) if to == leg)
    }

    /// A statement is being made on a server under its shared name, as old as that.
    pub(crate) fn note_shared(&mut self, leg: Leg, name: Bytes, made: u64) {
        let link = self.link_mut(leg);
        link.evicted.retain(|evicted| *evicted != name);
        link.evicted.extend(link.server.statements.insert(name, made));
    }

    /// What a unit may have prepared on a server, or may not have, is not taken to be there.
    pub(crate) fn forget_shared(&mut self, leg: Leg, unit: &Unit, succeeded: usize) {
        for parsed in unit.parses.iter().skip(succeeded) {
            if let Some(name) = &parsed.made {
                self.link_mut(leg).server.statements.remove(name);
            }
        }
    }

    /// Closes the statements that had to go.
    pub(crate) fn close_evicted(&mut self, leg: Leg) {
        for name in std::mem::take(&mut self.link_mut(leg).evicted) {
            let mut wire = BytesMut::new();
            build::close_statement(&mut wire, &name);
            build::sync(&mut wire);
            self.link_mut(leg).send(&wire, Expect::Cleanup);
        }
    }

    /// Writes a frame of a unit to a server that sessions share. What another session has prepared there under the same
    /// name makes room for a Parse of the client's own: that may find another catalogue.
    pub(crate) fn write_shared(&mut self, leg: Leg, unit: &mut Unit, frame: &Bytes) {
        let body = &frame[HEADER_LEN.min(frame.len())..];
        match frame.first() {
            Some(b'P') => {
                let name = message::cstr(body).map(|(name, _)| name).unwrap_or_default();
                let parsed = unit.parses.iter_mut().filter(|parsed| !parsed.injected).nth(unit.parses_sent);
                unit.parses_sent += 1;
                if !name.starts_with(PREFIX.as_bytes()) {
                    // The unnamed one, or under the client's own name.
                } else if self.failed && !unit.ends_transaction {
                    // Refused like everything in a failed transaction.
                } else if let Some(parsed) = parsed {
                    parsed.made = Some(frame.slice_ref(name));
                    unit.hides_close.push(true);
                    build::close_statement(&mut self.link_mut(leg).output, name);
                    self.note_shared(leg, Bytes::copy_from_slice(name), parsed.age);
                }
            }
            Some(b'C') => unit.hides_close.push(false),
            _ => {}
        }
        self.link_mut(leg).output.extend_from_slice(frame);
    }

    /// Whether something of the session is on a server that cannot be made elsewhere.
    pub(crate) fn stays_on(&self, leg: Leg) -> bool {
        match self.shares_servers() {
            true => self.link(leg).hold != Hold::No,
            false => self.pinned || self.listening,
        }
    }

    /// Something is on the server that may not be made elsewhere.
    pub(crate) fn hold(&mut self, leg: Leg, hold: Hold) {
        for unit in &mut self.in_flight {
            unit.bound_before.2 = unit.bound_before.2.max(hold);
        }
        let link = self.link_mut(leg);
        link.hold = link.hold.max(hold);
    }

    /// The shared name of a statement that is prepared now.
    pub(crate) fn shared_name_of(&self, text: &[u8], types: &[u8]) -> Bytes {
        let own = self.client_key.as_ref().filter(|_| tells_the_moment(text));
        // What the unit itself sets before counts as well.
        let units = self.current.iter().chain(&self.in_flight);
        let set = units.flat_map(|unit| &unit.consequences).filter_map(|(_, what)| match what {
            Consequence::Set(setting) => Some(&setting.wire),
            Consequence::SetLocal { wire, .. } => Some(wire),
            _ => None,
        });
        let known = self.salt.map(|salt| Bytes::copy_from_slice(&salt));
        let own = own.map(|key| Bytes::copy_from_slice(&key.secret));
        name_of(text, types, salt_of(known.iter().chain(&own).chain(set)))
    }

    /// Names the session's statements by what they are under its settings, when those have changed.
    pub(crate) fn name_statements(&mut self) {
        let version = (self.settings.newest(), self.set_up.len());
        if !self.shares_servers() || std::mem::replace(&mut self.salted, version) == version {
            return;
        }
        let set_up = self.set_up.iter().filter_map(|set_up| match set_up {
            SetUp::Session(setting) => Some(&setting.wire),
            SetUp::Local(wire) => Some(wire),
            SetUp::Savepoint(..) => None,
        });
        let salt = salt_of(self.settings.salt().chain(set_up));
        if std::mem::replace(&mut self.salt, salt) == salt {
            return;
        }
        let named = self.statements.named().filter(|(_, statement)| statement.shared.is_some());
        let names: Vec<Bytes> =
            named.map(|(_, statement)| self.shared_name_of(&statement.text, &statement.types)).collect();
        let named = self.statements.values_mut().filter(|statement| statement.shared.is_some());
        for (statement, name) in named.zip(names) {
            statement.shared = Some(name);
        }
    }

    /// Whether a unit in flight may change what statements are called: those of later units cannot be named yet.
    pub(crate) fn may_rename(&self) -> bool {
        let sets = |unit: &Unit| {
            unit.consequences.iter().any(|(_, what)| {
                matches!(what, Consequence::Set(_) | Consequence::SetLocal { .. })
                    || !self.set_up.is_empty() && !matches!(what, Consequence::Savepoint(..))
            })
        };
        self.shares_servers() && self.in_flight.iter().any(|unit| sets(unit))
    }

    /// Notes what a unit may have left on its server, and asks whether it has.
    pub(crate) fn note_hold(&mut self, leg: Leg, unit: &Unit, status: u8) {
        if !self.shares_servers() {
            return;
        }
        // Pinned by a search_path with temporary tables first, say: then any table may be one.
        if unit.holds || (self.pinned && unit.changes_catalog) {
            self.hold(leg, Hold::Checked);
            self.link_mut(leg).server.is_tainted = true;
        }
        if (unit.unread && !unit.errored) || (unit.errored && unit.mixes_control) {
            self.hold(leg, Hold::Forever);
        }
        let in_flight = !self.in_flight.is_empty();
        let link = self.link_mut(leg);
        link.hold_check_due |= unit.holds || unit.changes_catalog || unit.ends_transaction || unit.frees;
        if status != b'I' || in_flight || link.hold != Hold::Checked || !link.hold_check_due {
            return;
        }
        link.hold_check_due = false;
        let mut wire = BytesMut::new();
        build::query(&mut wire, HOLD_SQL);
        self.send_hidden(leg, &wire, Expect::Hold);
    }

    /// The answer to [`HOLD_SQL`].
    pub(crate) fn learn_hold(&mut self, leg: Leg, value: Option<&Bytes>) {
        let nothing = value.is_some_and(|value| value.as_ref() == b"f");
        let link = self.link_mut(leg);
        if nothing && link.hold == Hold::Checked {
            link.hold = Hold::No;
            if leg == Leg::Primary {
                self.listening = false;
            }
            for unit in self.in_flight.iter_mut().filter(|unit| unit.bound_before.2 == Hold::Checked) {
                unit.bound_before.2 = Hold::No;
            }
        }
    }

    /// A unit asks for what only its own connection may know: what others have left there goes, and the connection
    /// stays with the session.
    pub(crate) fn make_private(&mut self, leg: Leg, unit: &mut Unit) {
        if !self.shares_servers() || !unit.reads_private_state || self.link(leg).hold == Hold::Forever {
            return;
        }
        if self.failed {
            return;
        }
        // What the session itself has taken from sequences since it has this connection is its own to ask.
        let own = self.link(leg).wrote_here;
        let mut wire = BytesMut::new();
        build::query(&mut wire, if own { "DEALLOCATE ALL" } else { PRIVATE_SQL });
        self.send_hidden(leg, &wire, Expect::Cleanup);
        self.link_mut(leg).server.statements.clear();
        self.hold(leg, Hold::Forever);
        for statement in self.statements.values_mut() {
            statement.on[leg.index()] = 0;
        }
        unit.uses_by_name.extend(self.statements.named().map(|(name, _)| name.clone()));
    }
}
