//! A simulated server: the protocol around [`Engine`].

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut as _, BytesMut};
use pangea_pgwire::frame::HEADER_LEN;
use pangea_pgwire::message::{self, Bind, Execute, Parse, Target};
use pangea_pgwire::startup::{CancelKey, parse_first_packet};
use pangea_pgwire::{SqlState, build};

use super::engine::{Answer, Copies, Engine, Failure};
use super::wire;

/// The setting that the server reports when it changes.
const REPORTED: &str = "application_name";

#[derive(Debug)]
struct Portal {
    text: String,
    /// The rest of what its execution has answered.
    rest: Option<(VecDeque<String>, String)>,
}

/// One connection to a server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) engine: Engine,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    started: bool,
    /// After an error in extended messages.
    skips_to_sync: bool,
    /// Data of COPY FROM STDIN so far, and whether it was asked for with extended messages.
    copy: Option<(String, bool)>,
    /// Statements of a simple query that are still to run.
    queue: VecDeque<String>,
    portals: HashMap<String, Portal>,
    /// The database's when the statement was prepared.
    types: HashMap<String, u8>,
    reported: String,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Server {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            input: BytesMut::new(),
            output: BytesMut::new(),
            started: false,
            skips_to_sync: false,
            copy: None,
            queue: VecDeque::new(),
            portals: HashMap::new(),
            types: HashMap::new(),
            reported: String::new(),
        }
    }

    /// Handles one message; `false` when none is whole.
    pub(super) fn step(&mut self) -> bool {
        if !self.started {
            let Some((_, len)) = parse_first_packet(&self.input).unwrap() else { return false };
            let _ = self.input.split_to(len);
            self.start();
            return true;
        }
        let Some(frame) = wire::take_frame(&mut self.input) else { return false };
        let (tag, body) = (frame[0], &frame[HEADER_LEN..]);
        if self.copy.is_some() {
            self.take_copy(tag, body);
        } else if !self.skips_to_sync || tag == b'S' {
            self.take(tag, body);
        }
        true
    }

    fn start(&mut self) {
        self.started = true;
        build::authentication_ok(&mut self.output);
        let standby = if self.engine.is_standby() { "on" } else { "off" };
        for (name, value) in
            [("in_hot_standby", standby), ("server_version", "18.1"), ("standard_conforming_strings", "on")]
        {
            build::parameter_status(&mut self.output, name, value);
        }
        let key = CancelKey { process: self.engine.process, secret: vec![1, 2, 3, 4] };
        build::backend_key_data(&mut self.output, &key);
        self.ready();
    }

    /// Ends a unit.
    fn ready(&mut self) {
        self.engine.end_unit();
        if self.engine.status() == b'I' {
            self.portals.clear();
        }
        let now = self.engine.setting(REPORTED).to_owned();
        if self.reported != now {
            build::parameter_status(&mut self.output, REPORTED, &now);
            self.reported = now;
        }
        if self.engine.status() == b'I' {
            self.engine.notifications().iter().for_each(|frame| self.output.extend_from_slice(frame));
        }
        build::ready_for_query(&mut self.output, self.engine.status());
    }

    fn take(&mut self, tag: u8, body: &[u8]) {
        let done = match tag {
            b'Q' => {
                self.take_query(body);
                Ok(())
            }
            b'P' => self.take_parse(body),
            b'B' => self.take_bind(body),
            b'D' => self.take_describe(body),
            b'E' => self.take_execute(body),
            b'C' => {
                self.take_close(body);
                Ok(())
            }
            b'F' if wire::is_position(body) => {
                let (lsn, _) = self.engine.database.borrow().newest();
                self.output
                    .extend_from_slice(&wire::frame(b'V', &[&8_u32.to_be_bytes(), &lsn.to_be_bytes()]));
                self.ready();
                Ok(())
            }
            b'F' => {
                self.take_function_call();
                Ok(())
            }
            b'S' => {
                self.skips_to_sync = false;
                self.ready();
                Ok(())
            }
            // Flush, Terminate, and data of a COPY that failed.
            _ => Ok(()),
        };
        if let Err(error) = done {
            self.error(&error);
            self.skips_to_sync = true;
        }
    }

    fn error(&mut self, Failure(code, message): &Failure) {
        self.report(b'E', "ERROR", code, message);
        self.engine.fail();
        if self.engine.status() == b'I' {
            self.portals.clear();
        }
    }

    fn report(&mut self, tag: u8, severity: &str, code: &str, message: &str) {
        build::frame(&mut self.output, tag, |out| {
            for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)] {
                out.put_u8(field);
                build::cstr(out, value.as_bytes());
            }
            out.put_u8(0);
        });
    }

    fn take_query(&mut self, body: &[u8]) {
        self.engine.prepared.remove("");
        self.portals.remove("");
        let query = text(message::query_text(body).unwrap());
        self.queue =
            query.split(';').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if self.queue.is_empty() {
            self.output.extend_from_slice(&wire::frame(b'I', &[]));
        }
        // The whole text is parsed before anything of it runs.
        if self.queue.iter().any(|statement| statement.starts_with("SYNTAX")) {
            self.queue.clear();
            self.error(&Failure("42601", "syntax error".to_owned()));
        }
        self.run_queue();
    }

    fn run_queue(&mut self) {
        while let Some(statement) = self.queue.pop_front() {
            let answer = self.engine.run(&statement);
            if answer.copies == Copies::In {
                self.output.extend_from_slice(&wire::frame(b'G', &[b"\0\0\x01\0\0"]));
                self.copy = Some((String::new(), false));
                return;
            }
            self.describe(&answer);
            if let Err(error) = self.give(answer) {
                self.error(&error);
                self.queue.clear();
            }
        }
        self.ready();
    }

    /// RowDescription of an answer that has columns.
    fn describe(&mut self, answer: &Answer) {
        if answer.has_columns {
            self.output.extend_from_slice(&wire::frame(b'T', &[&[0, 0]]));
        }
    }

    fn row(&mut self, row: &str) {
        let len = u32::try_from(row.len()).unwrap().to_be_bytes();
        self.output.extend_from_slice(&wire::frame(b'D', &[&[0, 1], &len, row.as_bytes()]));
    }

    /// Notice, rows and command tag.
    fn give(&mut self, answer: Answer) -> Result<(), Failure> {
        if let Some(Failure(code, message)) = &answer.notice {
            self.report(b'N', "WARNING", code, message);
        }
        if answer.copies == Copies::Out {
            self.output.extend_from_slice(&wire::frame(b'H', &[b"\0\0\x01\0\0"]));
            for row in &answer.rows {
                self.output.extend_from_slice(&wire::frame(b'd', &[row.as_bytes(), b"\n"]));
            }
            self.output.extend_from_slice(&wire::frame(b'c', &[]));
        } else {
            answer.rows.iter().for_each(|row| self.row(row));
        }
        self.complete(&answer.end?);
        Ok(())
    }

    fn complete(&mut self, tag: &str) {
        self.output.extend_from_slice(&wire::frame(b'C', &[tag.as_bytes(), b"\0"]));
    }

    fn take_copy(&mut self, tag: u8, body: &[u8]) {
        let Some((data, extended)) = self.copy.as_mut() else { return };
        let extended = *extended;
        match tag {
            b'd' => return data.push_str(&text(body)),
            // Ignored, as PostgreSQL does.
            b'S' | b'H' => return,
            _ => {}
        }
        let data = self.copy.take().map(|(data, _)| data).unwrap_or_default();
        let answer = if tag == b'c' {
            self.engine.copy_in(&data)
        } else {
            let error = Failure("57014", "COPY from stdin failed".to_owned());
            Answer { end: Err(error), ..self.engine.copy_in("") }
        };
        if let Err(error) = self.give(answer) {
            self.error(&error);
            self.queue.clear();
            self.skips_to_sync = extended;
        }
        if !extended {
            self.run_queue();
        }
    }

    fn take_parse(&mut self, body: &[u8]) -> Result<(), Failure> {
        let parse = Parse::read(body).unwrap();
        let (name, statement) = (text(parse.statement), text(parse.text));
        self.engine.check_not_failed(&statement)?;
        if name.is_empty() {
            self.engine.prepared.remove(&name);
        }
        if statement.starts_with("SYNTAX") {
            return Err(Failure("42601", "syntax error".to_owned()));
        }
        if !name.is_empty() && self.engine.prepared.contains_key(&name) {
            return Err(Failure("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let types = self.engine.database.borrow().types;
        self.types.insert(name.clone(), types);
        self.engine.prepared.insert(name, statement);
        self.output.extend_from_slice(&wire::frame(b'1', &[]));
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<String, Failure> {
        let missing = || Failure("26000", format!("prepared statement \"{name}\" does not exist"));
        self.engine.prepared.get(name).cloned().ok_or_else(missing)
    }

    fn take_bind(&mut self, body: &[u8]) -> Result<(), Failure> {
        let bind = Bind::read(body).unwrap();
        let (portal, statement) = (text(bind.portal), text(bind.statement));
        let mut statement = self.statement(&statement)?;
        self.engine.check_not_failed(&statement)?;
        for (number, value) in (1..).zip(wire::parameters(bind.rest)) {
            statement = statement.replace(&format!("${number}"), &value);
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Failure("42P03", format!("cursor \"{portal}\" already exists")));
        }
        self.portals.insert(portal, Portal { text: statement, rest: None });
        self.output.extend_from_slice(&wire::frame(b'2', &[]));
        Ok(())
    }

    fn portal(&mut self, name: &str) -> Result<&mut Portal, Failure> {
        let missing = || Failure("34000", format!("portal \"{name}\" does not exist"));
        self.portals.get_mut(name).ok_or_else(missing)
    }

    /// The types in a statement; those of PREPARE have none.
    pub(super) fn types_of(&self, name: &[u8]) -> u8 {
        self.types.get(&text(name)).copied().unwrap_or_default()
    }

    fn take_describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        let statement = match Target::read(body).unwrap() {
            Target::Statement(name) => {
                let statement = self.statement(&text(name))?;
                let parameters: &[u8] = match self.types_of(name) {
                    0 => &[0, 0],
                    types => &[0, 1, 0, 0, 0, types],
                };
                self.output.extend_from_slice(&wire::frame(b't', &[parameters]));
                statement
            }
            Target::Portal(name) => self.portal(&text(name))?.text.clone(),
        };
        self.engine.check_not_failed(&statement)?;
        let has_rows = ["SELECT", "SHOW", "FETCH"].iter().any(|word| statement.starts_with(word));
        let columns = if has_rows { wire::frame(b'T', &[&[0, 0]]) } else { wire::frame(b'n', &[]) };
        self.output.extend_from_slice(&columns);
        Ok(())
    }

    fn take_execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let execute = Execute::read(body).unwrap();
        let (name, limit) = (text(execute.portal), execute.row_limit as usize);
        let portal = self.portal(&name)?;
        let statement = portal.text.clone();
        let rest = portal.rest.take();
        self.engine.check_not_failed(&statement)?;
        let (mut rows, tag) = match rest {
            Some(rest) => rest,
            None => {
                let answer = self.engine.run(&statement);
                if answer.copies == Copies::In {
                    self.output.extend_from_slice(&wire::frame(b'G', &[b"\0\0\x01\0\0"]));
                    self.copy = Some((String::new(), true));
                    return Ok(());
                }
                match &answer.end {
                    Ok(tag) if answer.copies == Copies::No && answer.notice.is_none() => {
                        (answer.rows.iter().cloned().collect(), tag.clone())
                    }
                    _ => return self.give(answer),
                }
            }
        };
        let count = if limit == 0 { rows.len() } else { limit.min(rows.len()) };
        for row in rows.drain(..count).collect::<Vec<_>>() {
            self.row(&row);
        }
        if limit > 0 && count == limit {
            self.output.extend_from_slice(&wire::frame(b's', &[]));
            if let Some(portal) = self.portals.get_mut(&name) {
                portal.rest = Some((rows, tag));
            }
        } else if tag.starts_with("SELECT") {
            // The tag counts the rows of this part.
            self.complete(&format!("SELECT {count}"));
        } else {
            self.complete(&tag);
        }
        Ok(())
    }

    fn take_close(&mut self, body: &[u8]) {
        match Target::read(body).unwrap() {
            Target::Statement(name) => drop(self.engine.prepared.remove(&text(name))),
            Target::Portal(name) => drop(self.portals.remove(&text(name))),
        }
        self.output.extend_from_slice(&wire::frame(b'3', &[]));
    }

    fn take_function_call(&mut self) {
        let answer = self.engine.run("FASTPATH");
        match answer.end {
            Ok(_) => self.output.extend_from_slice(&wire::frame(b'V', &[&[0xff; 4]])),
            Err(error) => self.error(&error),
        }
        self.ready();
    }

    /// Ends the connection as an administrator does.
    pub(super) fn shut_down(&mut self) {
        let code = SqlState::ADMIN_SHUTDOWN;
        self.report(b'E', "FATAL", code.as_str(), "terminating connection due to administrator command");
    }
}
