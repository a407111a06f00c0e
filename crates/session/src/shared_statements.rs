//! Prepared statements on servers that sessions share: their names, and which of them serve which session.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::{SqlState, build, fields, message};
use sha2::{Digest as _, Sha256};

use crate::described::Description;
use crate::leg::{Expect, Leg};
use crate::session::{Session, Transaction};
use crate::settings::SetUp;
use crate::unit::{Consequence, Unit};

/// Most prepared statements on a server that sessions share; beyond that the one that was used longest ago goes.
const STATEMENTS_MAX: usize = 200;

/// Begins the names of statements on servers that sessions share.
pub(crate) const PREFIX: &str = "pangea_";

/// A statement that no server has: closing it succeeds and does nothing.
const NONE: &[u8] = b"pangea_none";

/// The prepared statements of a server that sessions share, by name.
#[derive(Debug, Default)]
pub(crate) struct SharedStatements {
    known: HashMap<Bytes, Known, ahash::RandomState>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    used: u64,
    /// The number of the Parse that has made it, given before that was sent.
    made: u64,
    /// What it is, if anybody has asked.
    description: Option<Description>,
}

impl SharedStatements {
    /// Whether one is there that is as good as if a session of this age had prepared it.
    pub(crate) fn has(&self, name: &[u8], age: &Age, leg: Leg) -> bool {
        self.made(name, age, leg).is_some()
    }

    /// What one is there that [`Self::has`] finds.
    pub(crate) fn description(&self, name: &[u8], age: &Age, leg: Leg) -> Option<Description> {
        self.find(name, age, leg)?.description
    }

    /// Notes what one is that the Parse of this number has made.
    pub(crate) fn describe(&mut self, name: &[u8], made: u64, told: Description) {
        if let Some(known) = self.known.get_mut(name).filter(|known| known.made == made) {
            known.description = Some(told);
        }
    }

    /// The number of the Parse that has made one that [`Self::has`] finds.
    pub(crate) fn made(&self, name: &[u8], age: &Age, leg: Leg) -> Option<u64> {
        self.find(name, age, leg).map(|known| known.made)
    }

    fn find(&self, name: &[u8], age: &Age, leg: Leg) -> Option<&Known> {
        self.known.get(name).filter(|known| age.is_served_by(known.made, leg))
    }

    /// Removes one unless it has been made again.
    pub(crate) fn remove_made(&mut self, name: &[u8], made: u64) {
        if self.known.get(name).is_some_and(|known| known.made == made) {
            self.known.remove(name);
        }
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
        self.known.insert(name, Known { used: self.clock, made, description: None });
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

/// Numbers for the Parse messages that go to servers which sessions share: each is larger than those before.
#[derive(Debug, Clone, Default)]
pub struct ParseNumbers(Arc<AtomicU64>);

impl ParseNumbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn latest(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// When a session has prepared a statement, in [`ParseNumbers`].
///
/// PostgreSQL looks up names and infers the types of parameters when it reads a statement; what it has found it keeps
/// through most of what changes there (`plancache.c`). So a client that prepares must not be given what a server has
/// read before, only what was read after: then that knows all that the client can know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    /// Of the session's own Parse that was sent last.
    own: u64,
    /// What has a larger number was read there by a catalogue that is not older than the one by which the session's own
    /// was read; by [`Leg::index`]. `None` where that is not known.
    since: [Option<u64>; 2],
    /// It was read in a transaction that is open still, by a catalogue that may be of that alone.
    is_due: bool,
}

impl Age {
    /// Of a Parse of this number.
    pub(crate) fn new(own: u64) -> Self {
        Self { own, since: [None; 2], is_due: false }
    }

    pub(crate) fn number(&self) -> u64 {
        self.own
    }

    /// The session's own has been read in a transaction.
    pub(crate) fn is_read_in_block(&mut self) {
        self.is_due = true;
    }

    /// The session's own has been read, or can be now, when the newest number is this.
    pub(crate) fn is_read(&mut self, leg: Leg, latest: u64) {
        self.since[leg.index()].get_or_insert(latest);
    }

    fn is_served_by(&self, made: u64, leg: Leg) -> bool {
        made == self.own || self.since[leg.index()].is_some_and(|latest| made > latest)
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
    error[at..].split(|&byte| byte == b'"').next()
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
    let end = at + name_in(error)?.len();
    let mut out = BytesMut::new();
    build::frame(&mut out, b'E', |out| {
        out.extend_from_slice(&error[HEADER_LEN..at]);
        out.extend_from_slice(name);
        out.extend_from_slice(error.get(end..).unwrap_or_default());
    });
    Some(out.freeze())
}

/// The name of a statement that there is not.
pub(crate) fn no_name() -> Bytes {
    Bytes::from_static(NONE)
}

/// A Close that closes nothing: other sessions use the statement too.
pub(crate) fn close_of_nothing() -> Bytes {
    let mut out = BytesMut::with_capacity(NONE.len() + 7);
    build::close_statement(&mut out, NONE);
    out.freeze()
}

impl Session {
    /// What other sessions have prepared on the servers of the region is not known to be younger than what this one has:
    /// another server may be behind the one that it had.
    pub(crate) fn forget_ages(&mut self) {
        for statement in self.statements.values_mut() {
            statement.age.since[Leg::Local.index()] = None;
        }
    }

    /// The number of a Parse that goes to a server that sessions share.
    pub(crate) fn next_parse(&self) -> u64 {
        self.parse_numbers.as_ref().map_or(0, ParseNumbers::next)
    }

    /// The number given last.
    pub(crate) fn latest_parse(&self) -> u64 {
        self.parse_numbers.as_ref().map_or(0, ParseNumbers::latest)
    }

    /// The transaction has ended in which statements were prepared: what others prepare from here on was read later.
    pub(crate) fn age_statements(&mut self, leg: Leg) {
        let latest = self.latest_parse();
        for statement in self.statements.values_mut() {
            if std::mem::take(&mut statement.age.is_due) {
                statement.age.is_read(leg, latest);
            }
        }
        // What was read by a catalogue that nobody else has seen, and perhaps nobody will.
        if std::mem::take(&mut self.changed_catalog) {
            let link = self.link_mut(leg);
            link.evicted.extend(link.server.statements.known.drain().map(|(name, _)| name));
        }
    }

    /// A statement is being made on a server under its shared name, by the Parse of this number.
    pub(crate) fn note_shared(&mut self, leg: Leg, name: Bytes, made: u64) {
        let link = self.link_mut(leg);
        link.evicted.retain(|evicted| *evicted != name);
        link.evicted.extend(link.server.statements.insert(name, made));
    }

    /// The same for one that the session has prepared before.
    pub(crate) fn note_again(&mut self, leg: Leg, name: &Bytes, shared: Bytes, number: u64) {
        self.note_shared(leg, shared, number);
        let settled = matches!(self.transaction, Transaction::Idle) && self.in_flight.is_empty();
        self.ages_due |= !settled;
        if let Some(statement) = self.statements.get_mut(name) {
            statement.age.own = number;
            match settled {
                true => statement.age.is_read(leg, number - 1),
                false => statement.age.is_read_in_block(),
            }
        }
    }

    /// What a unit may have prepared on a server, or may not have, goes.
    pub(crate) fn forget_shared(&mut self, leg: Leg, unit: &Unit, succeeded: usize) {
        for parsed in unit.parses.iter().skip(succeeded) {
            if let Some(name) = &parsed.made {
                let link = self.link_mut(leg);
                link.server.statements.remove(name);
                link.evicted.push(Bytes::copy_from_slice(name));
            }
        }
    }

    /// Closes the statements that had to go, unless that would come into the middle of a unit.
    pub(crate) fn close_evicted(&mut self, leg: Leg) {
        let is_open = |unit: &Unit| !unit.ended || unit.copies_in > 0 || unit.streams;
        if self.link(leg).evicted.is_empty()
            || self.in_flight.back().is_some_and(|unit| unit.leg == Some(leg) && is_open(unit))
        {
            return;
        }
        let mut wire = BytesMut::new();
        for name in std::mem::take(&mut self.link_mut(leg).evicted) {
            build::close_statement(&mut wire, &name);
        }
        build::sync(&mut wire);
        self.link_mut(leg).send(&wire, Expect::Cleanup);
    }

    /// Writes a frame of a unit to a server that sessions share. What another session has prepared there under the same
    /// name makes room for a Parse of the client's own: that may find another catalogue.
    pub(crate) fn write_shared(&mut self, leg: Leg, unit: &mut Unit, frame: &Bytes) {
        let body = &frame[HEADER_LEN.min(frame.len())..];
        match frame.first() {
            Some(b'P') => {
                let parsed = unit.parses.iter_mut().filter(|parsed| !parsed.injected).nth(unit.parses_sent);
                unit.parses_sent += 1;
                // Others have no name, or the client's own.
                if let Some(parsed) = parsed.filter(|parsed| parsed.number > 0) {
                    let name = message::cstr(body).map(|(name, _)| name).unwrap_or_default();
                    parsed.made = Some(frame.slice_ref(name));
                    unit.hides_close.push(true);
                    build::close_statement(&mut self.link_mut(leg).output, name);
                    self.note_shared(leg, Bytes::copy_from_slice(name), parsed.number);
                }
            }
            Some(b'C') => unit.hides_close.push(false),
            _ => {}
        }
        self.link_mut(leg).output.extend_from_slice(frame);
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
            SetUp::Channel(..) | SetUp::Savepoint(..) => None,
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
}
