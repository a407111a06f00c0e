//! What clients were told of their prepared statements, which must hold on every connection.
//!
//! A client that has described a statement writes its parameters and reads its rows by the types of then. PostgreSQL
//! sees to that on one connection: parameters keep their types, and a result with other columns is an error
//! (`plancache.c`, `RevalidateCachedQuery`). On another connection DDL may have been there before the statement was. There it is
//! prepared with the types of parameters that the client knows, and described before it is used: other columns are the
//! same error. Where sessions share statements those with other parameters are it too.

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::{FrameError, HEADER_LEN};
use pangea_pgwire::message::Target;
use pangea_pgwire::{SqlState, build};
use sha2::{Digest as _, Sha256};

use crate::leg::{Expect, Leg};
use crate::session::{Session, Transaction};
use crate::shared_statements;
use crate::unit::Unit;

/// What a Describe of a statement was answered with: types of parameters; names, types and modifiers of columns.
pub(crate) type Description = [u8; 32];

/// What a client was told of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) description: Description,
    /// The types of all its parameters, as a Parse has them.
    pub(crate) types: Bytes,
    has_rows: bool,
    /// Connections of the session's own where it is something else, as in [`crate::prepared::Prepared::on`].
    differs_on: [u64; 2],
}

/// The Describes of statements in a unit.
#[derive(Debug, Default)]
pub(crate) struct Describes {
    asked: Vec<Asked>,
    answered: usize,
    /// The ParameterDescription that came last; what follows it is the other half.
    parameters: Option<Bytes>,
}

/// A Describe of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    name: Bytes,
    /// Of the statement that had the name then, which this keeps from being another's at the same address.
    text: Bytes,
}

/// Whether a server has the statements of the pending unit as the client knows them.
#[derive(Debug, Default)]
pub(crate) enum Confirmed {
    /// Not looked at yet, or all right.
    #[default]
    Unknown,
    /// It was asked about this one.
    Asked(Bytes),
    /// It cannot prepare one: the unit will show why.
    Failed,
}

/// What is to be done with the pending unit.
pub(crate) enum Confirmation {
    Send,
    Wait,
    Refuse,
}

impl Describes {
    pub(crate) fn forget_answers(&mut self) {
        (self.answered, self.parameters) = (0, None);
    }

    pub(crate) fn append(&mut self, other: &mut Self) {
        self.asked.append(&mut other.asked);
    }
}

/// The description that two frames make, without what is the table's and not the types': where a column comes from.
fn description(parameters: &[u8], row: &[u8]) -> Description {
    let mut hash = Sha256::new();
    hash.update((parameters.len() as u64).to_be_bytes());
    hash.update(parameters);
    // The number of columns, then for each: name, table and number there (6 bytes), type (4), its size (2), modifier (4), format (2).
    let mut rest = row.get(2..).unwrap_or_default();
    while let Some(end) = memchr::memchr(0, rest)
        && let Some((column, after)) = rest[end + 1..].split_first_chunk::<18>()
    {
        hash.update(&rest[..=end]);
        hash.update(&column[6..10]);
        hash.update(&column[12..16]);
        rest = after;
    }
    hash.finalize().into()
}

/// PostgreSQL's own error, by which drivers know that they have to prepare anew.
pub(crate) fn changed() -> BytesMut {
    let mut out = BytesMut::new();
    let code = SqlState::FEATURE_NOT_SUPPORTED;
    let fields: [(u8, &[u8]); 6] = [
        (b'S', b"ERROR"),
        (b'V', b"ERROR"),
        (b'C', code.as_str().as_bytes()),
        (b'M', b"cached plan must not change result type"),
        (b'H', b"Prepare the statement again: types in it are others than when it was described."),
        (b'R', b"RevalidateCachedQuery"),
    ];
    build::frame(&mut out, b'E', |out| {
        for (tag, value) in fields {
            out.extend_from_slice(&[tag]);
            build::cstr(out, value);
        }
        out.extend_from_slice(&[0]);
    });
    out
}

impl Unit {
    /// Takes a frame of an answer; the last one of a description tells it.
    pub(crate) fn take_description(&mut self, tag: u8, body: &[u8]) -> Option<(Asked, Told)> {
        let describes = self.describes.as_deref_mut()?;
        match tag {
            b't' => {
                describes.parameters = Some(Bytes::copy_from_slice(body));
                None
            }
            b'T' | b'n' => {
                // Without: a portal's.
                let types = describes.parameters.take()?;
                let asked = describes.asked.get(describes.answered)?.clone();
                describes.answered += 1;
                let description = description(&types, body);
                Some((asked, Told { description, types, has_rows: tag == b'T', differs_on: [0; 2] }))
            }
            _ => None,
        }
    }
}

impl Session {
    /// The client asks what a statement or a portal is.
    pub(crate) fn take_describe(&mut self, mut frame: Bytes) -> Result<(), FrameError> {
        if let Target::Statement(name) = Target::read(&frame[HEADER_LEN..])? {
            let name = frame.slice_ref(name);
            if let Some(shared) = self.shared_name(&name) {
                frame = shared_statements::renamed_describe(&shared);
            }
            let text = self.statements.get(&name).map(|known| known.text.clone()).unwrap_or_default();
            let describes = self.collecting().describes.get_or_insert_default();
            describes.asked.push(Asked { name: name.clone(), text });
            self.collecting().uses.push(name);
        }
        self.collecting().reads = true;
        self.collecting().push(frame);
        Ok(())
    }

    /// The client is told what a statement is.
    pub(crate) fn note_description(&mut self, leg: Leg, asked: &Asked, told: Told) {
        let is_it = |text: &Bytes| !text.is_empty() && text.as_ptr() == asked.text.as_ptr();
        let Some(statement) = self.statements.get_mut(&asked.name).filter(|known| is_it(&known.text)) else {
            return;
        };
        let (description, shared) = (told.description, statement.shared.clone());
        statement.told = Some(told);
        self.has_described = true;
        if let Some(shared) = shared {
            self.link_mut(leg).server.statements.describe(&shared, description);
        }
    }

    /// Makes sure that a server has the statements of the pending unit as the client knows them.
    pub(crate) fn confirm_descriptions(&mut self, leg: Leg) -> Confirmation {
        if !self.has_described {
            return Confirmation::Send;
        }
        match self.confirmed {
            Confirmed::Asked(_) if self.link(leg).expects(Expect::Description) => return Confirmation::Wait,
            Confirmed::Failed => return Confirmation::Send,
            Confirmed::Unknown | Confirmed::Asked(_) => self.confirmed = Confirmed::Unknown,
        }
        let Some(unit) = self.pending.front() else { return Confirmation::Wait };
        // What the transaction has set by which names are read is not there yet.
        let moves = matches!(self.transaction, Transaction::Local(_)) || self.begin_due;
        if unit.continues || leg == Leg::Primary && moves && !self.set_up.is_empty() {
            return Confirmation::Send;
        }
        let unconfirmed = unit.uses.iter().find_map(|name| {
            let statement = self.statements.get(name)?;
            let (told, link) = (statement.told.as_ref()?, self.link(leg));
            let fits = match &statement.shared {
                Some(shared) => {
                    let there = link.server.statements.description(shared, &statement.age, leg);
                    there.map(|there| there == told.description)
                }
                None if told.has_rows && !statement.is_on(leg, link) => None,
                None => Some(told.differs_on[leg.index()] != link.id),
            };
            (fits != Some(true) && !self.makes(unit, leg, name)).then(|| (name.clone(), fits.is_some()))
        });
        match unconfirmed {
            None => Confirmation::Send,
            Some((_, true)) => Confirmation::Refuse,
            Some((name, false)) => {
                self.ask_description(leg, name);
                Confirmation::Wait
            }
        }
    }

    /// Whether the pending unit waits for that.
    pub(crate) fn asks_description(&self) -> bool {
        matches!(self.confirmed, Confirmed::Asked(_))
    }

    /// Prepares a statement if the server has not got it, and asks what it is there.
    fn ask_description(&mut self, leg: Leg, name: Bytes) {
        let Some(statement) = self.statements.get(&name).cloned() else { return };
        self.open(leg);
        self.apply_settings(leg);
        let mut wire = BytesMut::new();
        let is_there = statement.is_on(leg, self.link(leg));
        if !is_there {
            wire.extend_from_slice(&statement.parse(false).unwrap_or_default());
        }
        let there = statement.shared.as_ref().unwrap_or(&name);
        wire.extend_from_slice(&shared_statements::renamed_describe(there));
        build::sync(&mut wire);
        self.send_hidden(leg, &wire, Expect::Description);
        if !is_there {
            let number = if statement.shared.is_some() { self.next_parse() } else { 0 };
            self.note_provided(leg, &name, statement.shared, number);
        }
        self.confirmed = Confirmed::Asked(name);
    }

    /// A server has told what a statement is there, or why it is not.
    pub(crate) fn learn_description(&mut self, leg: Leg, answer: &[Bytes], failed: bool) {
        let Confirmed::Asked(name) = std::mem::take(&mut self.confirmed) else { return };
        let id = self.link(leg).id;
        let Some(statement) = self.statements.get_mut(&name) else { return };
        let Some(told) = &mut statement.told else { return };
        let there = match answer {
            [parameters, row] if !failed => Some(description(parameters, row)),
            _ => None,
        };
        self.confirmed = if there.is_some() { Confirmed::Unknown } else { Confirmed::Failed };
        let Some(shared) = statement.shared.clone() else {
            match there {
                Some(there) if there == told.description => {}
                Some(_) => told.differs_on[leg.index()] = id,
                None => statement.on[leg.index()] = 0,
            }
            return;
        };
        let statements = &mut self.link_mut(leg).server.statements;
        match there {
            Some(there) => statements.describe(&shared, there),
            None => statements.remove(&shared),
        }
    }
}
