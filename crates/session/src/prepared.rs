//! Prepared statements and portals: which server has them, and what executing them does.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::{build, message};
use pangea_sql::Batch;

use crate::described::Told;
use crate::leg::{Leg, Link};
use crate::shared_statements::{self, Age};

/// How a statement was prepared: doing it again makes the same statement on another server.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A Parse message, whole.
    Parse(Bytes),
    /// A Query message with a PREPARE statement, whole.
    Sql(Bytes),
}

/// A prepared statement of the session.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) origin: Origin,
    /// Text of the Parse; empty for PREPARE.
    pub(crate) text: Bytes,
    /// Parameter types of the Parse, as sent.
    pub(crate) types: Bytes,
    /// What executing it does, by the catalogue of this version.
    pub(crate) batch: Arc<Batch>,
    pub(crate) catalog_version: u64,
    /// The connections that have it, by [`Leg::index`] and [`Link::id`]; 0 for none.
    pub(crate) on: [u64; 2],
    /// A server has prepared it.
    pub(crate) is_proven: bool,
    /// Its name on servers that sessions share, where it is not the client's.
    pub(crate) shared: Option<Bytes>,
    /// Which preparations of others serve it there.
    pub(crate) age: Age,
    /// What the client was told that it is.
    pub(crate) told: Option<Told>,
}

impl Prepared {
    /// The messages that make it; `None` where it was a Query.
    pub(crate) fn parse(&self, by_own_name: bool) -> Option<Bytes> {
        let Origin::Parse(frame) = &self.origin else { return None };
        Some(match (&self.shared, &self.told) {
            (Some(shared), _) if !by_own_name => {
                shared_statements::parse_anew(shared, &self.text, &self.types)
            }
            (_, Some(told)) => {
                let (name, _) = message::cstr(&frame[HEADER_LEN..]).ok()?;
                shared_statements::renamed_parse(name, &self.text, &told.types)
            }
            (_, None) => frame.clone(),
        })
    }

    /// Frames that make it on another server, with one ReadyForQuery as answer.
    pub(crate) fn wire(&self, by_own_name: bool) -> BytesMut {
        let mut out = BytesMut::new();
        match &self.origin {
            Origin::Parse(_) => {
                out.extend_from_slice(&self.parse(by_own_name).unwrap_or_default());
                build::sync(&mut out);
            }
            Origin::Sql(frame) => out.extend_from_slice(frame),
        }
        out
    }

    /// What a Bind with these formats and values makes of it.
    pub(crate) fn bind(&self, values: Bytes) -> Arc<Bound> {
        let (text, types) = (self.text.clone(), self.types.clone());
        Arc::new(Bound { text, types, values, batch: self.batch.clone() })
    }

    /// Whether a connection has it, under the client's name for it or under the shared one.
    pub(crate) fn is_on(&self, leg: Leg, link: &Link) -> bool {
        match &self.shared {
            Some(shared) => link.server.statements.has(shared, &self.age, leg),
            None => self.on[leg.index()] == link.id,
        }
    }
}

/// A portal: a prepared statement with its parameters.
#[derive(Debug)]
pub(crate) enum Portal {
    /// Of one statement that does nothing but read: no more need be known.
    Read,
    /// Of any other.
    Bound(Arc<Bound>),
}

/// What a portal was made of.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) text: Bytes,
    pub(crate) types: Bytes,
    /// Formats and values of the Bind, as sent.
    pub(crate) values: Bytes,
    pub(crate) batch: Arc<Batch>,
}

impl Bound {
    /// Frames that execute it once more on another server, with one ReadyForQuery as answer.
    pub(crate) fn wire(&self) -> Bytes {
        let mut out = BytesMut::new();
        build::parse(&mut out, b"", &self.text, &self.types);
        build::bind(&mut out, b"", b"", &self.values);
        build::execute_unnamed(&mut out);
        build::sync(&mut out);
        out.freeze()
    }

    /// The first parameter as text, if it was sent as text.
    pub(crate) fn first_parameter(&self) -> Option<&[u8]> {
        let (formats, rest) = self.values.split_first_chunk::<2>()?;
        let formats = usize::from(u16::from_be_bytes(*formats));
        let first_format = rest.first_chunk::<2>().filter(|_| formats > 0);
        if first_format.is_some_and(|format| *format != [0, 0]) {
            return None;
        }
        let (count, rest) = rest.get(2 * formats..)?.split_first_chunk::<2>()?;
        if u16::from_be_bytes(*count) == 0 {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        rest.get(..usize::try_from(i32::from_be_bytes(*length)).ok()?)
    }
}

/// The prepared statements of a session by name. Statements of Parse and of PREPARE share their names, as in PostgreSQL.
pub(crate) type Statements = ByName<Prepared>;

/// The portals of a transaction by name.
pub(crate) type Portals = ByName<Portal>;

/// Things by their names in the protocol. The one with the empty name, which most clients use with each statement, is
/// found without a look at a table.
#[derive(Debug)]
pub(crate) struct ByName<T> {
    unnamed: Option<T>,
    named: HashMap<Bytes, T, ahash::RandomState>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { unnamed: None, named: HashMap::default() }
    }
}

impl<T> ByName<T> {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&T> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    /// Adds one in the place of another of that name.
    pub(crate) fn insert(&mut self, name: Bytes, item: T) {
        if name.is_empty() {
            self.unnamed = Some(item);
        } else {
            self.named.insert(name, item);
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<T> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    /// All but the unnamed one.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Bytes, &T)> {
        self.named.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.unnamed.iter_mut().chain(self.named.values_mut())
    }

    /// Forgets all but the unnamed one.
    pub(crate) fn clear_named(&mut self) {
        self.named.clear();
    }

    pub(crate) fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}
