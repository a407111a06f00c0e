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
use pangea_pgwire::{ErrorFields, SqlState, build, fields};
use sha2::{Digest as _, Sha256};

use crate::leg::{Expect, Leg};
use crate::prepared::Prepared;
use crate::respond::is_refusal;
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
    /// Connections of the session's own where it is the same, as in [`crate::prepared::Prepared::on`].
    agrees_on: [u64; 2],
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

/// A question of the session's own: whether a statement is on a server what the client was told.
#[derive(Debug)]
pub(crate) struct Question {
    number: u64,
    asked: Asked,
    told: Description,
    /// It is made there first.
    makes: bool,
    /// Its shared name, and the number of the Parse that has made it there.
    shared: Option<(Bytes, u64)>,
}

/// How far the statements that a unit uses are known to be what the client was told.
#[derive(Debug, Default)]
pub(crate) struct Confirmed {
    /// The connection, as in [`crate::leg::Link::id`].
    on: u64,
    /// How many of them.
    count: usize,
    /// The question that was asked last.
    question: u64,
}

/// What is to be done with the pending unit.
pub(crate) enum Confirmation {
    Send,
    Wait,
    Refuse,
}

impl Asked {
    /// Whether this is the statement.
    fn is(&self, statement: &Prepared) -> bool {
        !self.text.is_empty() && statement.text.as_ptr() == self.text.as_ptr()
    }
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
pub(crate) fn changed() -> ErrorFields {
    ErrorFields::error(SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .with_hint("Prepare the statement again: types in it are others than when it was described.")
        .with_routine("RevalidateCachedQuery")
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
                Some((asked, Told { description, types, has_rows: tag == b'T', agrees_on: [0; 2] }))
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
        let id = self.link(leg).id;
        let known = self.statements.get_mut(&asked.name);
        let Some(statement) = known.filter(|known| asked.is(known)) else { return };
        let description = told.description;
        statement.told.insert(told).agrees_on[leg.index()] = id;
        self.has_described = true;
        let (shared, age) = (statement.shared.clone(), statement.age);
        let statements = &mut self.link_mut(leg).server.statements;
        if let Some(shared) = shared
            && let Some(made) = statements.made(&shared, &age, leg)
        {
            statements.describe(&shared, made, description);
        }
    }

    /// Makes sure that a server has the statements of the pending unit as the client knows them.
    pub(crate) fn confirm_descriptions(&mut self, leg: Leg) -> Confirmation {
        // What the transaction has set by which names are read is not there yet.
        let moves = matches!(self.transaction, Transaction::Local(_)) || self.begin_due;
        if !self.has_described || self.failed || leg == Leg::Primary && moves && !self.set_up.is_empty() {
            return Confirmation::Send;
        }
        if self.link(leg).expects(Expect::Description) {
            return Confirmation::Wait;
        }
        let id = self.link(leg).id;
        let Some(unit) = self.pending.front() else { return Confirmation::Wait };
        let known = if unit.confirmed.on == id { unit.confirmed.count } else { 0 };
        let unconfirmed = unit.uses.iter().enumerate().skip(known).find_map(|(at, name)| {
            let statement = self.used(unit, name).filter(|_| !self.makes(unit, leg, name))?;
            let (told, link) = (statement.told.as_ref()?, self.link(leg));
            let fits = match &statement.shared {
                Some(shared) => {
                    let there = link.server.statements.description(shared, &statement.age, leg);
                    there.map(|there| there == told.description)
                }
                None if told.has_rows && !statement.is_on(leg, link) => None,
                None => (!told.has_rows || told.agrees_on[leg.index()] == link.id).then_some(true),
            };
            (fits != Some(true)).then(|| (at, name.clone(), fits.is_some()))
        });
        match unconfirmed {
            None => Confirmation::Send,
            _ if unit.continues => Confirmation::Send,
            // An error must not come before the answers under way.
            _ if !self.in_flight.is_empty() || self.held_ready.is_some() => Confirmation::Wait,
            Some((.., true)) => Confirmation::Refuse,
            Some((at, name, false)) => {
                self.ask_description(leg, at, name);
                Confirmation::Wait
            }
        }
    }

    /// A statement that a unit uses; the unit may close it as well.
    pub(crate) fn used<'a>(&'a self, unit: &'a Unit, name: &[u8]) -> Option<&'a Prepared> {
        let closed = || unit.closes.iter().flatten().find(|(closed, _)| closed == name).map(|(_, it)| it);
        self.statements.get(name).or_else(closed)
    }

    /// Prepares a statement if the server has not got it, and asks what it is there.
    fn ask_description(&mut self, leg: Leg, at: usize, name: Bytes) {
        let Some(unit) = self.pending.front() else { return };
        let Some(statement) = self.used(unit, &name).cloned() else { return };
        let Some(told) = &statement.told else { return };
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
        let statements = &self.link(leg).server.statements;
        let mut made = statement.shared.as_ref().and_then(|it| statements.made(it, &statement.age, leg));
        if !is_there {
            made = statement.shared.is_some().then(|| self.next_parse());
            self.note_provided(leg, &name, statement.shared.clone(), made.unwrap_or_default());
            self.close_evicted(leg);
        }
        self.questions += 1;
        let (number, link) = (self.questions, self.link_mut(leg));
        let shared = statement.shared.clone().zip(made);
        let asked = Asked { name, text: statement.text.clone() };
        link.questions.push_back(Question {
            number,
            asked,
            told: told.description,
            makes: !is_there,
            shared,
        });
        let on = link.id;
        if let Some(unit) = self.pending.front_mut() {
            unit.confirmed = Confirmed { on, count: at + 1, question: number };
        }
    }

    /// A server has told what a statement is there, or why it is not.
    pub(crate) fn learn_description(&mut self, leg: Leg, answer: &[Bytes]) {
        let link = self.link_mut(leg);
        let (id, error) = (link.id, link.hidden_error.take());
        let Some(question) = link.questions.pop_front() else { return };
        let there = match answer {
            [parameters, row] if error.is_none() => Some(description(parameters, row)),
            _ => None,
        };
        let agrees = there == Some(question.told);
        // An error after it has kept the session from learning that it was made.
        let code = error.as_ref().and_then(|error| fields::code(&error[HEADER_LEN..]));
        let exists = question.shared.is_none() && code == Some(SqlState::DUPLICATE_PREPARED_STATEMENT);
        match (question.shared, there) {
            (Some((shared, made)), Some(there)) => link.server.statements.describe(&shared, made, there),
            (Some((shared, made)), None) => link.server.statements.remove_made(&shared, made),
            (None, _) => {
                let known = self.statements.get_mut(&question.asked.name);
                if let Some(statement) = known.filter(|known| question.asked.is(known)) {
                    if question.makes && there.is_none() && !exists {
                        statement.on[leg.index()] = 0;
                    }
                    if let Some(told) = statement.told.as_mut().filter(|_| agrees) {
                        told.agrees_on[leg.index()] = id;
                    }
                }
            }
        }
        let is_idle = matches!(self.transaction, Transaction::Idle);
        let may_forward = leg == Leg::Local && self.may_forward() && is_idle;
        let unit = self.pending.front_mut().filter(|unit| unit.confirmed.question == question.number);
        match (unit, error) {
            (None, _) => {}
            (Some(_), None) if agrees => {}
            (Some(_), None) => self.refuse_pending(&changed()),
            (Some(unit), Some(_)) if exists && is_idle => unit.confirmed = Confirmed::default(),
            (Some(unit), Some(error)) if may_forward && is_refusal(&error[HEADER_LEN..]) => {
                unit.run_on_primary = true;
            }
            (Some(_), Some(error)) => self.refuse_pending_with(&error),
        }
    }
}
