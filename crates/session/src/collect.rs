//! What the client sends: frames become units.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use pangea_pgwire::frame::{FrameError, HEADER_LEN, Header, frontend_header};
use pangea_pgwire::message::{self, Bind, Execute, Parse, Target};
use pangea_pgwire::{ErrorFields, SqlState, build};
use pangea_sql::{Batch, DiscardTarget, Effect, Isolation, Statement};

use crate::leg::{Leg, LinkState};
use crate::prepared::{Origin, Portal, Prepared};
use crate::session::{Environment, Phase, Session, Transaction, UNIT_LEN_MAX};
use crate::settings::{RESET_ALL, Setting};
use crate::unit::{Begin, Consequence, Kind, Unit};

/// Bytes of a large Bind within which the names of portal and statement must end.
const LARGE_HEAD_LEN_MAX: usize = 4096;

impl Session {
    /// Takes frames of the client until one completes a unit; whether anything was taken.
    pub(crate) fn collect(&mut self, environment: &mut impl Environment) -> bool {
        let mut progress = false;
        while self.phase != Phase::Over && !self.on_hold && self.pending.is_empty() {
            match self.take_client(environment) {
                Ok(true) => progress = true,
                Ok(false) => break,
                Err(error) => {
                    self.fail(&ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()));
                    return true;
                }
            }
        }
        if self.phase == Phase::Leaving && !progress {
            self.leave();
        }
        progress
    }

    /// The client has left and everything that it sent has been looked at: ends when it is answered.
    fn leave(&mut self) {
        if self.in_flight.is_empty() && self.pending.is_empty() {
            for leg in [Leg::Local, Leg::Primary] {
                let link = self.link_mut(leg);
                if link.state == LinkState::Open {
                    build::terminate(&mut link.output);
                }
            }
            self.phase = Phase::Over;
        }
    }

    fn take_client(&mut self, environment: &mut impl Environment) -> Result<bool, FrameError> {
        if let Some((leg, rest)) = self.passing {
            return Ok(self.pass_client_bytes(leg, rest));
        }
        let Some(header) = frontend_header(&self.client_in)? else { return Ok(false) };
        if self.in_flight.back().is_some_and(|unit| unit.copies_in || unit.copy_active) {
            return Ok(self.take_copy_frame(header));
        }
        if header.tag == b'd' {
            // Data after a COPY that failed: PostgreSQL ignores it.
            if self.current.as_ref().is_some_and(|unit| unit.copies_in) {
                return Ok(self.flush_for_copy());
            }
            self.passing = Some((None, header.frame_len()));
            return Ok(true);
        }
        let collected = self.current.as_ref().map_or(0, |unit| unit.len);
        if header.frame_len() + collected > UNIT_LEN_MAX {
            return self.stream_large(header);
        }
        if self.client_in.len() < header.frame_len() {
            return Ok(false);
        }
        if matches!(header.tag, b'c' | b'f') && self.current.as_ref().is_some_and(|unit| unit.copies_in) {
            return Ok(self.flush_for_copy());
        }
        let frame = self.client_in.split_to(header.frame_len()).freeze();
        self.take_client_message(header.tag, frame, environment)?;
        Ok(true)
    }

    fn take_client_message(
        &mut self,
        tag: u8,
        frame: Bytes,
        environment: &mut impl Environment,
    ) -> Result<(), FrameError> {
        if let Some(status) = self.skip_until_sync {
            match tag {
                b'S' => {
                    self.skip_until_sync = None;
                    self.current = None;
                    build::ready_for_query(&mut self.client_out, status);
                }
                b'X' => self.phase = Phase::Leaving,
                _ => {}
            }
            return Ok(());
        }
        match tag {
            b'Q' => self.take_query(frame, environment)?,
            b'F' => {
                let mut unit = self.fresh_unit(Kind::Function);
                (unit.needs_primary, unit.executes, unit.reads) = (true, true, true);
                unit.push(frame);
                self.pending.push_back(unit);
            }
            b'P' => self.take_parse(frame, environment)?,
            b'B' => self.take_bind(frame, environment)?,
            b'E' => self.take_execute(frame)?,
            b'D' => {
                if let Target::Statement(name) = Target::read(&frame[HEADER_LEN..])? {
                    let name = frame.slice_ref(name);
                    self.collecting().uses.push(name);
                }
                self.collecting().reads = true;
                self.collecting().push(frame);
            }
            b'C' => {
                match Target::read(&frame[HEADER_LEN..])? {
                    Target::Statement(name) => {
                        let name = frame.slice_ref(name);
                        self.collecting().closes.push(name);
                    }
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                self.collecting().push(frame);
            }
            b'S' => self.end_part(Some(frame)),
            b'H' => {
                self.collecting().push(frame);
                self.end_part(None);
            }
            b'X' => self.phase = Phase::Leaving,
            // CopyDone and CopyFail after a COPY that failed are ignored, as PostgreSQL does.
            b'c' | b'f' => {}
            tag => return Err(FrameError::Tag(tag)),
        }
        Ok(())
    }

    /// The unit that is being collected.
    fn collecting(&mut self) -> &mut Unit {
        let continues = self.continues();
        self.current.get_or_insert_with(|| Unit { continues, ..Unit::new(Kind::Extended) })
    }

    /// A unit, or the next part of the one that was flushed: a Query or FunctionCall ends that one as well.
    fn fresh_unit(&self, kind: Kind) -> Unit {
        Unit { continues: self.continues(), ..Unit::new(kind) }
    }

    /// Whether what comes next belongs to a unit that was flushed.
    fn continues(&self) -> bool {
        self.in_flight.back().is_some_and(|open| !open.ended)
    }

    /// A Sync ends the unit; a Flush sends what there is of it.
    fn end_part(&mut self, sync: Option<Bytes>) {
        let mut unit = self.take_collected();
        if let Some(frame) = sync {
            unit.push(frame);
            unit.ended = true;
        }
        self.pending.push_back(unit);
    }

    /// Data follows a COPY that was not flushed: the server has to see it now.
    fn flush_for_copy(&mut self) -> bool {
        self.end_part(None);
        true
    }

    fn take_query(&mut self, frame: Bytes, environment: &mut impl Environment) -> Result<(), FrameError> {
        let text = message::query_text(&frame[HEADER_LEN..])?;
        let batch = environment.classify(&String::from_utf8_lossy(text));
        // Extended messages without a Sync before it are a unit with it.
        let mut unit = self.current.take().unwrap_or_else(|| self.fresh_unit(Kind::Simple));
        let mixed = unit.kind != Kind::Simple;
        self.judge_batch(&mut unit, &batch);
        let single = batch.statements.len() == 1;
        for statement in &batch.statements {
            let wire = if single { frame.clone() } else { query_of(text, statement) };
            self.judge(&mut unit, statement, &wire);
        }
        unit.mixes_control |= (!single || mixed) && (unit.begins || unit.ends_transaction);
        unit.needs_primary |= unit.mixes_control || (unit.begins && !single);
        unit.ended = true;
        unit.push(frame);
        // A simple query ends the unnamed statement.
        self.statements.remove(&b""[..]);
        self.pending.push_back(unit);
        Ok(())
    }

    fn take_parse(&mut self, frame: Bytes, environment: &mut impl Environment) -> Result<(), FrameError> {
        // A copy: what is remembered must not keep the buffer that it was read into.
        let kept = Bytes::copy_from_slice(&frame);
        let parse = Parse::read(&kept[HEADER_LEN..])?;
        let name = kept.slice_ref(parse.statement);
        let batch = environment.classify(&String::from_utf8_lossy(parse.text));
        let statement = Prepared {
            text: kept.slice_ref(parse.text),
            types: kept.slice_ref(parse.types),
            origin: Origin::Parse(kept.clone()),
            batch,
            on: [false; 2],
        };
        if name.is_empty() || !self.statements.contains_key(&name) {
            self.statements.insert(name.clone(), statement);
        } else {
            // It exists: the server has to have it, to say so.
            self.collecting().uses.push(name.clone());
        }
        let unit = self.collecting();
        unit.parses.push(name);
        unit.reads = true;
        unit.push(frame);
        Ok(())
    }

    fn take_bind(&mut self, frame: Bytes, environment: &mut impl Environment) -> Result<(), FrameError> {
        let bind = Bind::read(&frame[HEADER_LEN..])?;
        let name = frame.slice_ref(bind.statement);
        self.collecting().uses.push(name.clone());
        if let Some(statement) = self.statements.get_mut(&name) {
            if let Origin::Parse(_) = statement.origin {
                // The catalogue may have changed since the Parse.
                statement.batch = environment.classify(&String::from_utf8_lossy(&statement.text));
            }
            let statement = statement.clone();
            let portal = Portal {
                text: statement.text,
                types: statement.types,
                values: frame.slice_ref(bind.rest),
                batch: statement.batch,
            };
            self.portals.insert(frame.slice_ref(bind.portal), portal);
        }
        let named = !bind.portal.is_empty();
        let unit = self.collecting();
        unit.opens_cursor |= named;
        unit.reads = true;
        unit.executes = true;
        unit.push(frame);
        Ok(())
    }

    fn take_execute(&mut self, frame: Bytes) -> Result<(), FrameError> {
        let execute = Execute::read(&frame[HEADER_LEN..])?;
        let portal = self.portals.get(execute.portal).cloned();
        let mut unit = self.take_collected();
        let executed_before = unit.begins || unit.ends_transaction;
        unit.opens_cursor |= execute.row_limit > 0;
        match portal {
            Some(portal) => {
                self.judge_batch(&mut unit, &portal.batch);
                let wire = portal.wire();
                for statement in &portal.batch.statements {
                    self.judge(&mut unit, statement, &wire);
                }
            }
            // A cursor of SQL, or nothing: it is where the transaction is.
            None => unit.reads = true,
        }
        unit.executes = true;
        // BEGIN with its first statements, as JDBC sends them, is one way; anything after an end is not.
        unit.mixes_control |= executed_before && unit.ends_transaction;
        unit.push(frame);
        self.current = Some(unit);
        Ok(())
    }

    fn judge_batch(&mut self, unit: &mut Unit, batch: &Arc<Batch>) {
        unit.executes = true;
        unit.needs_primary |= batch.unparsable;
        unit.reads |= batch.unparsable;
    }

    /// Adds to a unit what one of its statements does. `wire` runs the statement alone.
    fn judge(&mut self, unit: &mut Unit, statement: &Statement, wire: &Bytes) {
        unit.needs_primary |= statement.needs_primary && !judged_by_effect(&statement.effect);
        unit.pins |= statement.pins && statement.effect != Effect::Listen;
        unit.reads_session_state |= statement.reads_session_state;
        match &statement.effect {
            Effect::None | Effect::CopyToStdout => unit.reads = true,
            Effect::Ddl => unit.changes_catalog = true,
            Effect::CopyFromStdin => unit.copies_in = true,
            Effect::Listen => unit.listens = true,
            Effect::Unlisten => unit.needs_primary |= self.listening || self.pinned,
            Effect::Discard(target) => self.judge_discard(unit, *target),
            Effect::Prepare { name, inner } => {
                let batch = Batch { statements: vec![(**inner).clone()], ..Batch::default() };
                let prepared = Prepared {
                    origin: Origin::Sql(Bytes::copy_from_slice(wire)),
                    text: Bytes::new(),
                    types: Bytes::new(),
                    batch: Arc::new(batch),
                    on: [false; 2],
                };
                unit.reads = true;
                let name = Bytes::copy_from_slice(name.as_bytes());
                unit.uses.push(name.clone());
                unit.consequences.push(Consequence::Prepare(name, Box::new(prepared)));
            }
            Effect::Execute { name } => self.judge_execute(unit, name.as_bytes()),
            Effect::Deallocate { name } => {
                let name = name.as_ref().map(|name| Bytes::copy_from_slice(name.as_bytes()));
                unit.uses.extend(name.clone());
                unit.consequences.push(Consequence::Deallocate(name));
            }
            Effect::DeclareCursor { .. } => {
                (unit.opens_cursor, unit.reads) = (true, true);
                unit.consequences.push(Consequence::Cursor);
            }
            Effect::Fetch { .. } | Effect::CloseCursor { .. } => {}
            Effect::Load => set(unit, format!("load {}", String::from_utf8_lossy(wire)), wire),
            Effect::ResetAll => set(unit, RESET_ALL.to_owned(), wire),
            Effect::Set { name, local: false } => set(unit, name.clone(), wire),
            Effect::Set { local: true, .. } => unit.consequences.push(Consequence::SetLocal(wire.clone())),
            effect => self.judge_control(unit, effect, wire),
        }
    }

    /// Transaction control.
    fn judge_control(&self, unit: &mut Unit, effect: &Effect, wire: &Bytes) {
        match effect {
            Effect::Begin { start_transaction, read_only, isolation, .. } => {
                let begin = begin(wire, *start_transaction, *read_only, *isolation);
                // Alone, a BEGIN is answered here whatever it says; with others it goes where they must.
                unit.needs_primary |= begin.on_primary && unit.kind != Kind::Simple;
                unit.begins = true;
                unit.consequences.push(Consequence::Begin(begin));
            }
            Effect::Commit { .. } => {
                unit.ends_transaction = true;
                unit.consequences.push(Consequence::Commit);
            }
            Effect::Rollback { .. } => {
                unit.ends_transaction = true;
                unit.consequences.push(Consequence::Rollback);
            }
            Effect::PrepareTransaction => {
                (unit.ends_transaction, unit.needs_primary) = (true, true);
                unit.consequences.push(Consequence::PrepareTransaction);
            }
            Effect::Savepoint { name } => {
                unit.consequences.push(Consequence::Savepoint(name.clone(), wire.clone()));
            }
            Effect::Release { .. } => unit.consequences.push(Consequence::Release(wire.clone())),
            Effect::RollbackTo { name } => unit.consequences.push(Consequence::RollbackTo(name.clone())),
            Effect::SetTransaction { read_only, isolation } => {
                let on_primary = begin(wire, false, *read_only, *isolation).on_primary;
                unit.needs_primary |= on_primary && !matches!(self.transaction, Transaction::Idle);
                unit.consequences.push(Consequence::SetLocal(wire.clone()));
                if *read_only == Some(true) {
                    unit.consequences.push(Consequence::ReadOnly);
                }
            }
            _ => {}
        }
    }

    fn judge_execute(&mut self, unit: &mut Unit, name: &[u8]) {
        unit.reads = true;
        unit.uses.push(Bytes::copy_from_slice(name));
        match self.statements.get(name) {
            Some(prepared) => {
                let batch = prepared.batch.clone();
                // A setting made by EXECUTE could be made elsewhere only together with its statement.
                let sets = batch.statements.iter().any(|inner| {
                    matches!(inner.effect, Effect::Set { .. } | Effect::ResetAll | Effect::Load)
                });
                unit.needs_primary |= batch.needs_primary() || sets;
                unit.pins |= batch.pins() || sets;
                unit.reads_session_state |= batch.statements.iter().any(|inner| inner.reads_session_state);
                unit.changes_catalog |= batch.statements.iter().any(|inner| inner.effect == Effect::Ddl);
            }
            None => unit.needs_primary = true,
        }
    }

    fn judge_discard(&mut self, unit: &mut Unit, target: DiscardTarget) {
        match target {
            DiscardTarget::All => unit.consequences.push(Consequence::DiscardAll),
            // Plans, sequence values and temporary tables are where the session has made them.
            DiscardTarget::Plans | DiscardTarget::Sequences | DiscardTarget::Temp => {
                unit.needs_primary |= self.primary.state != LinkState::Down;
            }
        }
    }

    /// Passes the bytes of a frame that is not collected.
    fn pass_client_bytes(&mut self, leg: Option<Leg>, rest: usize) -> bool {
        let len = rest.min(self.client_in.len());
        if len == 0 {
            return false;
        }
        let bytes = self.client_in.split_to(len);
        if let Some(leg) = leg {
            self.link_mut(leg).output.extend_from_slice(&bytes);
        }
        self.passing = (rest > len).then_some((leg, rest - len));
        true
    }

    /// A frame while a COPY FROM STDIN is under way: it belongs to the server that takes the data.
    fn take_copy_frame(&mut self, header: Header) -> bool {
        let Some(unit) = self.in_flight.back_mut() else { return false };
        let leg = unit.leg.unwrap_or(Leg::Primary);
        // Until the server says that it takes data, the client may not know whether it will.
        if !unit.copy_active || self.client_in.len() < HEADER_LEN {
            return false;
        }
        if header.tag == b'd' {
            self.passing = Some((Some(leg), header.frame_len()));
            return true;
        }
        if self.client_in.len() < header.frame_len() {
            return false;
        }
        let ends_data = matches!(header.tag, b'c' | b'f');
        let extended = unit.kind == Kind::Extended;
        let mut ask = false;
        match header.tag {
            // A Sync that was sent before the data was ignored by the server: another one ends the unit.
            _ if ends_data && extended => unit.ended = false,
            _ if ends_data => ask = true,
            b'S' if !unit.ended => ask = true,
            _ => {}
        }
        let idle = matches!(self.transaction, Transaction::Idle);
        if ask {
            (unit.ended, unit.copy_active, unit.copies_in) = (true, false, true);
            unit.asks_position = idle;
        }
        self.passing = Some((Some(leg), header.frame_len()));
        self.pass_client_bytes(Some(leg), header.frame_len());
        if ask && idle {
            self.send_position_query();
        }
        true
    }

    /// A frame that is too large to be collected: the primary gets it as it comes.
    fn stream_large(&mut self, header: Header) -> Result<bool, FrameError> {
        let open = self.in_flight.back().filter(|unit| !unit.ended).map(|unit| unit.leg);
        if !self.in_flight.is_empty() && open.is_none() {
            return Ok(false);
        }
        let names = &self.client_in[HEADER_LEN.min(self.client_in.len())..];
        let uses = match (header.tag, Bind::read(names)) {
            (b'B', Ok(bind)) => Some(Bytes::copy_from_slice(bind.statement)),
            // Names are short: they come with the first bytes.
            (b'B', Err(error)) if self.client_in.len() > LARGE_HEAD_LEN_MAX => return Err(error),
            (b'B', Err(_)) => return Ok(false),
            _ => None,
        };
        let query = header.tag == b'Q';
        let mut unit = if query { self.fresh_unit(Kind::Simple) } else { self.take_collected() };
        (unit.needs_primary, unit.run_on_primary) = (true, true);
        (unit.executes, unit.reads, unit.ended) = (true, true, false);
        unit.uses.extend(uses);
        // A statement that is not remembered cannot be made elsewhere.
        unit.pins |= header.tag == b'P';
        if unit.continues && open == Some(Some(Leg::Local)) {
            // The part before it ran here; it has to end first.
            self.pending.push_back(unit);
            return Ok(true);
        }
        self.send(Leg::Primary, unit);
        if let Some(unit) = self.in_flight.back_mut() {
            // What it writes is not known before it ends: reads ask for the position then.
            unit.ended = query;
        }
        self.passing = Some((Some(Leg::Primary), header.frame_len()));
        Ok(true)
    }

    fn take_collected(&mut self) -> Unit {
        self.current.take().unwrap_or_else(|| self.fresh_unit(Kind::Extended))
    }
}

/// Effects for which being on the primary is decided with the session's state.
fn judged_by_effect(effect: &Effect) -> bool {
    matches!(effect, Effect::Begin { .. } | Effect::SetTransaction { .. } | Effect::Unlisten)
}

fn set(unit: &mut Unit, key: String, wire: &Bytes) {
    // A copy: what is remembered must not keep the buffer that it was read into.
    let wire = Bytes::copy_from_slice(wire);
    unit.consequences.push(Consequence::Set(Setting { key, wire }));
}

fn begin(wire: &Bytes, start: bool, read_only: Option<bool>, isolation: Option<Isolation>) -> Begin {
    let one_snapshot = matches!(isolation, Some(Isolation::RepeatableRead | Isolation::Serializable));
    let read_only_said = read_only == Some(true);
    let on_primary = isolation == Some(Isolation::Serializable)
        || read_only == Some(false)
        || (one_snapshot && !read_only_said);
    Begin {
        wire: wire.clone(),
        start_transaction: start,
        read_only: read_only_said,
        one_snapshot,
        on_primary,
    }
}

/// A Query with one statement of a longer text.
fn query_of(text: &[u8], statement: &Statement) -> Bytes {
    let part = text.get(statement.range.clone()).unwrap_or_default();
    let mut out = BytesMut::new();
    build::frame(&mut out, b'Q', |out| build::cstr(out, part));
    debug_assert!(out.has_remaining());
    out.freeze()
}
