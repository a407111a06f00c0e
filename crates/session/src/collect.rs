//! What the client sends: frames become units.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pangea_pgwire::frame::{FrameError, HEADER_LEN, frontend_header};
use pangea_pgwire::message::{self, Bind, Execute, Parse, Target};
use pangea_pgwire::{ErrorFields, SqlState, build};
use pangea_sql::{Batch, DiscardTarget, Effect, Isolation, Statement};

use crate::leg::{Leg, LinkState};
use crate::listening::ChannelChange;
use crate::own;
use crate::prepared::{Origin, Portal, Prepared};
use crate::session::{Environment, Phase, Session, Transaction, UNIT_LEN_MAX};
use crate::settings::{RESET_ALL, Setting};
use crate::shared_statements::{self, Age};
use crate::unit::{Begin, Consequence, Kind, Parsed, Unit};

/// Bytes of a large Bind within which the names of portal and statement must end.
pub(crate) const LARGE_HEAD_LEN_MAX: usize = 4096;

impl Session {
    /// Takes frames of the client until one completes a unit.
    pub(crate) fn collect(&mut self, environment: &mut impl Environment) {
        while self.phase != Phase::Over && !self.on_hold && self.pending.is_empty() {
            match self.take_client(environment) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.fail(&ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()));
                    return;
                }
            }
        }
        if self.phase == Phase::Leaving {
            self.leave();
        }
    }

    /// The client has left and everything that it sent has been looked at: ends when it is answered.
    fn leave(&mut self) {
        if self.in_flight.is_empty() && self.pending.is_empty() && self.held_ready.is_none() {
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
        if self.in_flight.back().is_some_and(|unit| unit.copies_in > 0 || unit.copy_started) {
            return Ok(self.take_copy_frame(header));
        }
        // What these will have prepared or thrown away decides about what comes next.
        if !self.continues() && (self.in_flight.iter().any(|unit| unit.is_structural()) || self.may_rename())
        {
            return Ok(false);
        }
        if header.tag == b'd' {
            // Data after a COPY that failed: PostgreSQL ignores it.
            if self.current.as_ref().is_some_and(|unit| unit.copies_in > 0) {
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
        if matches!(header.tag, b'c' | b'f') && self.current.as_ref().is_some_and(|unit| unit.copies_in > 0) {
            return Ok(self.flush_for_copy());
        }
        if matches!(header.tag, b'P' | b'C' | b'Q') && self.is_in_use(&self.client_in[..header.frame_len()]) {
            return Ok(false);
        }
        let frame = self.client_in.split_to(header.frame_len()).freeze();
        self.take_client_message(header.tag, frame, environment)?;
        Ok(true)
    }

    /// Whether a message replaces or closes a statement that something uses which may have to be sent again. A Query does so with
    /// the unnamed one.
    fn is_in_use(&self, frame: &[u8]) -> bool {
        if !self.in_flight.iter().any(|unit| unit.recallable) {
            return false;
        }
        let body = &frame[HEADER_LEN..];
        let name = match frame[0] {
            b'C' if body.first() != Some(&b'S') => return false,
            b'C' => &body[1..],
            b'Q' => b"\0",
            _ => body,
        };
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let uses = |unit: &Unit| {
            let made = unit.parses.iter().any(|parsed| parsed.name == name);
            let named = || unit.uses.iter().chain(&unit.uses_by_name).any(|used| used == name);
            unit.recallable && !made && (unit.reads_session_state || named())
        };
        self.in_flight.iter().any(|unit| uses(unit))
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
                    self.tell_ready(status);
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
                // Which function it is only the server knows.
                unit.holds = true;
                unit.push(frame);
                self.pending.push_back(unit);
            }
            b'P' => self.take_parse(&frame, environment)?,
            b'B' => self.take_bind(frame, environment)?,
            b'E' => self.take_execute(frame)?,
            b'D' => self.take_describe(frame)?,
            b'C' => {
                let mut frame = frame;
                match Target::read(&frame[HEADER_LEN..])? {
                    Target::Statement(name) => {
                        let closed = self.statements.remove(name).map(|known| (frame.slice_ref(name), known));
                        let of_others = closed.is_none() && self.is_of_others(name);
                        // Where SQL has named it, it is there under the client's own name.
                        if of_others
                            || closed
                                .as_ref()
                                .is_some_and(|(_, known)| known.shared.is_some() && known.on == [0; 2])
                        {
                            frame = shared_statements::close_of_nothing();
                        }
                        self.collecting().closes.push(closed);
                    }
                    Target::Portal(name) => {
                        self.portals.remove(name);
                        self.collecting().closes.push(None);
                    }
                }
                self.collecting().push(frame);
            }
            b'S' => self.end_part(Some(frame)),
            // With nothing before it there is nothing to flush: every answer is passed on as it comes.
            b'H' if self.current.is_none() => {}
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
    pub(crate) fn collecting(&mut self) -> &mut Unit {
        let unit = self.take_collected();
        self.current.insert(unit)
    }

    /// A unit, or the next part of the one that was flushed: a Query or FunctionCall ends that one as well.
    pub(crate) fn fresh_unit(&mut self, kind: Kind) -> Box<Unit> {
        let mut unit = self.spare.take().unwrap_or_default();
        unit.begin(kind, self.continues());
        unit
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
        let mut batch = environment.classify(&lossy(text));
        let rewritten = self.rewrite(text, &mut batch, environment).map(|text| {
            let mut out = BytesMut::new();
            build::query(&mut out, &text);
            out.freeze()
        });
        let frame = rewritten.unwrap_or(frame);
        let text = message::query_text(&frame[HEADER_LEN..])?;
        // Extended messages without a Sync before it are a unit with it.
        let mut unit = self.take_current(Kind::Simple);
        let mixed = unit.kind != Kind::Simple;
        self.judge_batch(&mut unit, &batch);
        unit.unread |= batch.unparsable && !is_plain_write(text);
        let single = batch.statements.len() == 1;
        for statement in &batch.statements {
            let wire = || if single { frame.clone() } else { query_of(text, statement) };
            self.judge(&mut unit, statement, &wire, None);
        }
        unit.mixes_control |= (!single || mixed) && (unit.begins || unit.ends_transaction);
        unit.needs_primary |= unit.mixes_control || (unit.begins && !single);
        unit.ended = true;
        unit.push(frame);
        // A simple query ends the unnamed statement.
        self.statements.remove(b"");
        self.pending.push_back(unit);
        Ok(())
    }

    /// Puts statements about Pangea's settings into words for PostgreSQL; the batch is then that of the new text.
    fn rewrite(
        &mut self,
        text: &[u8],
        batch: &mut Arc<Batch>,
        environment: &mut impl Environment,
    ) -> Option<String> {
        let about_settings =
            |statement: &Statement| matches!(statement.effect, Effect::Set { .. } | Effect::Show { .. });
        if !batch.statements.iter().any(about_settings) {
            return None;
        }
        let seen = own::Seen {
            token: self.token.newest(),
            timeline: environment.timeline(),
            commits_elsewhere: environment.commits_elsewhere(),
            application_name: self.application_name.as_deref(),
        };
        let text = own::rewrite(std::str::from_utf8(text).ok()?, batch, seen, &mut self.refusals)?;
        let shows: Vec<bool> = batch.statements.iter().map(own::shows_token).collect();
        let mut rewritten = Batch::clone(&environment.classify(&text));
        for (statement, shows_token) in rewritten.statements.iter_mut().zip(shows) {
            statement.needs_primary &= !shows_token;
            statement.reads_session_state &= !shows_token;
        }
        *batch = Arc::new(rewritten);
        Some(text)
    }

    /// Takes a Parse that makes the unnamed statement what it already is, as clients do that prepare nothing; whether it is one.
    fn takes_parse_again(&mut self, frame: &Bytes, version: u64) -> bool {
        let Some(known) = self.statements.get_mut(b"") else { return false };
        let Origin::Parse(kept) = &known.origin else { return false };
        if kept != frame || known.catalog_version != version || !known.batch.only_reads() {
            return false;
        }
        let kept = kept.clone();
        (known.on, known.is_proven, known.told) = ([0; 2], false, None);
        let unit = self.collecting();
        unit.parses.push(Parsed { name: Bytes::new(), injected: false, made: None, number: 0 });
        unit.reads = true;
        unit.push(kept);
        true
    }

    fn take_parse(&mut self, frame: &Bytes, environment: &mut impl Environment) -> Result<(), FrameError> {
        if self.takes_parse_again(frame, environment.catalog_version()) {
            return Ok(());
        }
        // A copy: what is remembered must not keep the buffer that it was read into.
        let mut kept = Bytes::copy_from_slice(frame);
        let parse = Parse::read(&kept[HEADER_LEN..])?;
        let mut batch = environment.classify(&lossy(parse.text));
        if let Some(text) = self.rewrite(parse.text, &mut batch, environment) {
            let mut out = BytesMut::new();
            build::parse(&mut out, parse.statement, text.as_bytes(), parse.types);
            kept = out.freeze();
        }
        let parse = Parse::read(&kept[HEADER_LEN..])?;
        let name = kept.slice_ref(parse.statement);
        let prepares_write = batch.needs_primary();
        // Its connection is made private before the unit, where it will run: within it would be too late.
        let reads_private_state =
            self.shares_servers() && batch.statements.iter().any(|statement| statement.reads_private_state);
        let shared =
            (self.shares_servers() && !name.is_empty()).then(|| self.shared_name_of(parse.text, parse.types));
        let mut number = if shared.is_some() { self.next_parse() } else { 0 };
        let statement = Prepared {
            text: kept.slice_ref(parse.text),
            types: kept.slice_ref(parse.types),
            origin: Origin::Parse(kept.clone()),
            catalog_version: environment.catalog_version(),
            batch,
            on: [0; 2],
            is_proven: false,
            shared: shared.clone(),
            age: Age::new(number),
            told: None,
        };
        let mut frame = kept.clone();
        if name.is_empty() || self.statements.get(&name).is_none() {
            if let Some(shared) = &shared {
                frame = shared_statements::renamed_parse(shared, &statement.text, &statement.types);
            }
            self.statements.insert(name.clone(), statement);
        } else {
            // It exists: the server has to have it, to say so.
            number = 0;
            self.collecting().uses_by_name.push(name.clone());
        }
        let unit = self.collecting();
        unit.prepares_write |= prepares_write;
        unit.reads_private_state |= reads_private_state;
        unit.needs_primary |= reads_private_state && prepares_write;
        unit.parses.push(Parsed { name, injected: false, made: None, number });
        unit.reads = true;
        unit.push(frame);
        Ok(())
    }

    fn take_bind(&mut self, frame: Bytes, environment: &mut impl Environment) -> Result<(), FrameError> {
        let bind = Bind::read(&frame[HEADER_LEN..])?;
        let name = frame.slice_ref(bind.statement);
        let mut shared = None;
        let mut bound = None;
        if let Some(statement) = self.statements.get_mut(&name) {
            let version = environment.catalog_version();
            if matches!(statement.origin, Origin::Parse(_)) && statement.catalog_version != version {
                statement.batch = environment.classify(&lossy(&statement.text));
                statement.catalog_version = version;
            }
            shared.clone_from(&statement.shared);
            let portal = match statement.batch.only_reads() {
                true => Portal::Read,
                false => Portal::Bound(bound.insert(statement.bind(frame.slice_ref(bind.rest))).clone()),
            };
            self.portals.insert(frame.slice_ref(bind.portal), portal);
        } else {
            shared = self.shared_name(&name);
        }
        let unit = self.collecting();
        unit.uses.push(name);
        // A portal cannot be moved: it is made where it will be executed.
        if let Some(bound) = bound {
            bound.batch.statements.iter().for_each(|statement| judge_place(unit, statement));
            unit.needs_primary |= bound.batch.unparsable;
        }
        unit.opens_cursor |= !bind.portal.is_empty();
        unit.reads = true;
        unit.executes = true;
        unit.push(match shared {
            Some(shared) => shared_statements::renamed_bind(bind.portal, &shared, bind.rest),
            None => frame,
        });
        Ok(())
    }

    fn take_execute(&mut self, frame: Bytes) -> Result<(), FrameError> {
        let execute = Execute::read(&frame[HEADER_LEN..])?;
        let bound = match self.portals.get(execute.portal) {
            Some(Portal::Read) => {
                let unit = self.collecting();
                (unit.reads, unit.executes) = (true, true);
                unit.opens_cursor |= execute.row_limit > 0;
                unit.mixes_control |= unit.ends_transaction;
                unit.commands += 1;
                unit.push(frame);
                return Ok(());
            }
            Some(Portal::Bound(bound)) => Some(bound.clone()),
            None => None,
        };
        let mut unit = self.take_collected();
        let executed_before = unit.begins || unit.ends_transaction;
        unit.opens_cursor |= execute.row_limit > 0;
        match bound {
            Some(bound) => {
                self.judge_batch(&mut unit, &bound.batch);
                unit.unread |= bound.batch.unparsable && !is_plain_write(&bound.text);
                for statement in &bound.batch.statements {
                    self.judge(&mut unit, statement, &|| bound.wire(), bound.first_parameter());
                }
            }
            // A cursor of SQL, or nothing: it is where the transaction is.
            None => {
                unit.reads = true;
                unit.needs_primary |= matches!(self.transaction, Transaction::Idle);
                unit.commands += 1;
            }
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
        unit.holds |= batch.unparsable;
        unit.needs_primary |= batch.unparsable;
        unit.reads |= batch.unparsable;
    }

    /// Adds to a unit what one of its statements does. `wire` runs the statement alone.
    /// `parameter` is the first one of a Bind.
    fn judge(
        &mut self,
        unit: &mut Unit,
        statement: &Statement,
        wire: &dyn Fn() -> Bytes,
        parameter: Option<&[u8]>,
    ) {
        if statement.only_reads() {
            unit.reads = true;
            unit.commands += 1;
            return;
        }
        judge_place(unit, statement);
        judge_hold(unit, statement);
        match &statement.effect {
            Effect::None | Effect::CopyToStdout => unit.reads = true,
            // Of the session: no data that could be stale. (SHOW of the token has been made a query.)
            Effect::Show { .. } => {}
            Effect::Ddl => unit.changes_catalog = true,
            Effect::CopyFromStdin => unit.copies_in += 1,
            Effect::Discard(target) => self.judge_discard(unit, *target),
            Effect::Prepare { name, inner } => {
                let batch = Batch { statements: vec![(**inner).clone()], ..Batch::default() };
                let prepared = Prepared {
                    catalog_version: 0,
                    origin: Origin::Sql(Bytes::copy_from_slice(&wire())),
                    text: Bytes::new(),
                    types: Bytes::new(),
                    batch: Arc::new(batch),
                    on: [0; 2],
                    is_proven: false,
                    shared: None,
                    age: Age::new(0),
                    told: None,
                };
                unit.reads = true;
                let name = Bytes::copy_from_slice(name.as_bytes());
                unit.uses_by_name.push(name.clone());
                unit.follows(Consequence::Prepare(name, Box::new(prepared)));
            }
            Effect::Execute { name } => self.judge_execute(unit, name.as_bytes()),
            Effect::Deallocate { name } => {
                let name = name.as_ref().map(|name| Bytes::copy_from_slice(name.as_bytes()));
                unit.uses_by_name.extend(name.clone());
                unit.follows(Consequence::Deallocate(name));
            }
            Effect::DeclareCursor { .. } => {
                (unit.opens_cursor, unit.reads) = (true, true);
            }
            Effect::Fetch { .. } | Effect::CloseCursor { .. } => {}
            Effect::Load => set(unit, format!("load {}", String::from_utf8_lossy(&wire())), &wire()),
            Effect::ResetAll => {
                unit.sets_own = true;
                set(unit, RESET_ALL.to_owned(), &wire());
            }
            Effect::Set { name, local, value } => {
                let given = parameter.filter(|_| name.is_empty()).map(String::from_utf8_lossy);
                let name = given.map_or_else(|| name.clone(), |name| name.to_ascii_lowercase());
                // Several at once, or none that is known.
                let name = if name == "," { String::new() } else { name };
                self.forgets_lost |= name == "pangea.token" && value.is_none();
                // Roles, configurations, encodings: what is set may be something that the session has just made.
                unit.reads |= !own::is_own(&name);
                unit.sets_own |= own::is_own(&name) || own::is_guarded(&name) || name.is_empty();
                let waits = value.as_deref().is_some_and(is_synchronous);
                let synchronous = name != "synchronous_commit" && !name.is_empty() || waits;
                self.set_async |= !(*local || synchronous);
                if *local {
                    let may_commit_async = name.is_empty() || name == "synchronous_commit";
                    unit.follows(Consequence::SetLocal { wire: wire(), may_commit_async });
                } else {
                    set(unit, name, &wire());
                }
            }
            effect => self.judge_control(unit, effect, wire),
        }
        unit.commands += 1;
    }

    /// Transaction control, and what else counts from the end of a transaction.
    fn judge_control(&self, unit: &mut Unit, effect: &Effect, wire: &dyn Fn() -> Bytes) {
        match effect {
            Effect::Begin { start_transaction, read_only, isolation, .. } => {
                let begin = begin(wire(), *start_transaction, *read_only, *isolation);
                // Alone, a BEGIN is answered here whatever it says; with others it goes where they must.
                unit.needs_primary |= begin.on_primary && unit.kind != Kind::Simple;
                unit.begins = true;
                unit.follows(Consequence::Begin(begin));
            }
            Effect::Commit { chain } => {
                (unit.ends_transaction, unit.chains) = (true, unit.chains || *chain);
                unit.follows(Consequence::Commit);
            }
            Effect::Rollback { chain } => {
                (unit.ends_transaction, unit.chains) = (true, unit.chains || *chain);
                unit.follows(Consequence::Rollback);
            }
            Effect::PrepareTransaction => {
                (unit.ends_transaction, unit.needs_primary) = (true, true);
                unit.follows(Consequence::PrepareTransaction);
            }
            Effect::Savepoint { name } => unit.follows(Consequence::Savepoint(name.clone(), wire())),
            Effect::Release { name } => unit.follows(Consequence::Release(name.clone())),
            Effect::RollbackTo { name } => unit.follows(Consequence::RollbackTo(name.clone())),
            Effect::SetTransaction { read_only, isolation } => {
                let Begin { wire, read_only, one_snapshot, on_primary, .. } =
                    begin(wire(), false, *read_only, *isolation);
                let in_transaction = unit.begins
                    || !matches!(self.transaction, Transaction::Idle)
                    || self.in_flight.iter().any(|unit| unit.begins);
                unit.needs_primary |= on_primary && in_transaction;
                unit.follows(Consequence::SetLocal { wire, may_commit_async: false });
                unit.follows(Consequence::Restrict { read_only, one_snapshot });
            }
            Effect::Listen { channel } => {
                unit.listens = true;
                unit.holds |= !self.judge_channel(unit, ChannelChange::listen(channel), wire);
            }
            Effect::Unlisten { channel } => {
                unit.needs_primary |= self.listening || self.pinned || self.listens_on_primary();
                self.judge_channel(unit, ChannelChange::unlisten(channel.as_deref()), wire);
            }
            _ => {}
        }
    }

    fn judge_execute(&mut self, unit: &mut Unit, name: &[u8]) {
        unit.reads = true;
        unit.uses_by_name.push(Bytes::copy_from_slice(name));
        match self.statements.get(name) {
            Some(prepared) => {
                let batch = prepared.batch.clone();
                // A setting made by EXECUTE could be made elsewhere only together with its statement.
                let sets = batch.statements.iter().any(|inner| {
                    matches!(inner.effect, Effect::Set { .. } | Effect::ResetAll | Effect::Load)
                });
                unit.sets_own |= sets;
                unit.needs_primary |= batch.needs_primary() || sets;
                unit.pins |= batch.pins() || sets;
                unit.holds |= sets || batch.statements.iter().any(|inner| inner.holds);
                unit.reads_private_state |= batch.statements.iter().any(|inner| inner.reads_private_state);
                unit.reads_session_state |= batch.statements.iter().any(|inner| inner.reads_session_state);
                unit.changes_catalog |= batch.statements.iter().any(|inner| inner.effect == Effect::Ddl);
            }
            None => unit.needs_primary = true,
        }
    }

    fn judge_discard(&mut self, unit: &mut Unit, target: DiscardTarget) {
        match target {
            DiscardTarget::All => {
                unit.sets_own = true;
                unit.follows(Consequence::DiscardAll);
            }
            // Plans, sequence values and temporary tables are where the session has made them.
            DiscardTarget::Plans | DiscardTarget::Sequences | DiscardTarget::Temp => {
                unit.needs_primary |= self.primary.state != LinkState::Down;
            }
        }
    }

    /// The name of a prepared statement on servers that sessions share, where it is not the client's.
    pub(crate) fn shared_name(&self, name: &[u8]) -> Option<Bytes> {
        match self.statements.get(name) {
            Some(statement) => statement.shared.clone(),
            None => self.is_of_others(name).then(shared_statements::no_name),
        }
    }

    /// Whether a name that the session does not know may be that of another session's statement.
    fn is_of_others(&self, name: &[u8]) -> bool {
        self.shares_servers() && name.starts_with(shared_statements::PREFIX.as_bytes())
    }

    pub(crate) fn take_collected(&mut self) -> Box<Unit> {
        self.take_current(Kind::Extended)
    }

    /// What was collected; with nothing, a unit of this kind.
    fn take_current(&mut self, kind: Kind) -> Box<Unit> {
        match self.current.take() {
            Some(unit) => unit,
            None => self.fresh_unit(kind),
        }
    }
}

/// Adds to a unit where one of its statements has to run.
fn judge_place(unit: &mut Unit, statement: &Statement) {
    unit.needs_primary |= statement.needs_primary && !judged_by_effect(&statement.effect);
    unit.pins |= statement.pins && !matches!(statement.effect, Effect::Listen { .. });
    unit.reads_session_state |= statement.reads_session_state;
}

/// Adds to a unit what one of its statements needs of its very connection.
fn judge_hold(unit: &mut Unit, statement: &Statement) {
    unit.holds |= statement.holds && !matches!(statement.effect, Effect::Listen { .. });
    unit.reads_private_state |= statement.reads_private_state;
    unit.frees |= matches!(
        statement.effect,
        Effect::CloseCursor { .. } | Effect::Unlisten { .. } | Effect::Deallocate { .. } | Effect::ResetAll
    );
}

/// Effects for which being on the primary is decided with the session's state.
fn judged_by_effect(effect: &Effect) -> bool {
    matches!(effect, Effect::Begin { .. } | Effect::SetTransaction { .. } | Effect::Unlisten { .. })
}

/// Whether commits wait for the log with this value of `synchronous_commit`.
fn is_synchronous(value: &str) -> bool {
    ["on", "true", "yes", "1", "local", "remote_write", "remote_apply"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(value))
}

fn set(unit: &mut Unit, key: String, wire: &Bytes) {
    // A copy: what is remembered must not keep the buffer that it was read into.
    let wire = Bytes::copy_from_slice(wire);
    unit.follows(Consequence::Set(Setting { key, wire }));
}

fn begin(wire: Bytes, start: bool, read_only: Option<bool>, isolation: Option<Isolation>) -> Begin {
    let one_snapshot = matches!(isolation, Some(Isolation::RepeatableRead | Isolation::Serializable));
    let read_only_said = read_only == Some(true);
    let on_primary = isolation == Some(Isolation::Serializable)
        || read_only == Some(false)
        || (one_snapshot && !read_only_said);
    Begin { wire, start_transaction: start, read_only: read_only_said, one_snapshot, on_primary }
}

/// A statement's text, which is mostly UTF-8: to find that out is faster than to mend it.
fn lossy(text: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed)
}

/// A Query with one statement of a longer text.
fn query_of(text: &[u8], statement: &Statement) -> Bytes {
    let part = text.get(statement.range.clone()).unwrap_or_default();
    let mut out = BytesMut::new();
    build::frame(&mut out, b'Q', |out| build::cstr(out, part));
    out.freeze()
}

/// Whether a text that could not be read is one statement that writes or reads and leaves nothing on the session:
/// a bulk insert that is too long to be parsed, most likely.
fn is_plain_write(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let single = text
        .iter()
        .rposition(|&byte| byte == b';')
        .is_none_or(|last| last + 1 == text.len() && !text[..last].contains(&b';'));
    single && starts_plain_write(text)
}

pub(crate) fn starts_plain_write(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let plain = [&b"insert"[..], b"update", b"delete", b"merge", b"values"];
    plain.iter().any(|word| text[..end].eq_ignore_ascii_case(word))
}
