//! The console's side of the protocol: simple queries, and extended ones without parameters.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use pangea_pgwire::frame::{HEADER_LEN, frontend_header};
use pangea_pgwire::message::{Bind, Execute, Parse, Target, query_text};
use pangea_pgwire::startup::CancelKey;
use pangea_pgwire::{ErrorFields, SqlState, build};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::access::{Access, only_administrators};
use super::clients::Registered;
use super::command::{Command, parse};
use super::orders::{self, Done, PAUSE_TIMEOUT};
use super::show;
use super::table::{Formats, write_columns, write_complete, write_row};
use crate::cancel::{CancelReceiver, CancelRegistry, CancelRequest, Registration};
use crate::shared::Shared;
use crate::stream::Stream;

/// Longest message that is taken, and so the longest input that is kept.
const MESSAGE_LEN_MAX: usize = 64 << 10;

/// Prepared statements, and portals, that a console may have.
const PREPARED_MAX: usize = 64;

/// Longest wait for an operator to take an answer.
const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// One operator's connection.
pub(super) struct Console<'a> {
    shared: &'a Arc<Shared>,
    stream: Stream,
    input: BytesMut,
    out: BytesMut,
    registered: Registered,
    access: Access,
    statements: HashMap<Bytes, Option<Command>>,
    portals: HashMap<Bytes, (Option<Command>, Formats)>,
    /// Messages are dropped up to the next Sync: one before them has failed.
    skipping: bool,
    cancels: CancelReceiver,
    cancel_sender: mpsc::Sender<CancelRequest>,
}

/// Why a console ends.
enum End {
    /// The operator is gone, or has said so.
    Gone,
    Told(Box<ErrorFields>),
}

/// What comes while a command runs, beside more input.
enum Interrupt {
    End(End),
    Cancel,
}

impl From<ErrorFields> for End {
    fn from(error: ErrorFields) -> Self {
        Self::Told(Box::new(error))
    }
}

impl<'a> Console<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        stream: Stream,
        input: BytesMut,
        registered: Registered,
        access: Access,
    ) -> Self {
        let (cancel_sender, cancels) = CancelRegistry::channel();
        Self {
            shared,
            stream,
            input,
            out: BytesMut::new(),
            registered,
            access,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            cancels,
            cancel_sender,
        }
    }

    /// Serves to the end.
    pub(super) async fn run(mut self) {
        let Err(end) = self.converse().await;
        match end {
            End::Gone => drop(self.stream.shutdown().await),
            End::Told(error) => {
                // What was answered before comes first.
                if self.write().await.is_ok() {
                    crate::say_goodbye(self.stream, &error).await;
                }
            }
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, End> {
        let _registration = self.greet()?;
        loop {
            while let Some((tag, body)) = self.next_message()? {
                self.registered.client.requested(self.registered.client.now());
                self.take(tag, &body).await?;
            }
            self.write().await?;
            match self.read().await {
                // There is nothing to cancel.
                Ok(()) | Err(Interrupt::Cancel) => {}
                Err(Interrupt::End(end)) => return Err(end),
            }
        }
    }

    /// What a server says when a session begins.
    fn greet(&mut self) -> Result<Registration, End> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|_| ErrorFields::fatal(SqlState::INTERNAL_ERROR, "could not generate a cancel key"))?;
        let (process, secret) = random.split_at(4);
        let process = process.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let key = CancelKey { process, secret: secret.to_vec() };
        build::authentication_ok(&mut self.out);
        let version = concat!(env!("CARGO_PKG_VERSION"), "/pangea");
        let superuser = if self.access == Access::Administer { "on" } else { "off" };
        let parameters = [
            ("server_version", version),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", superuser),
            ("session_authorization", self.registered.client.identity.user.as_str()),
        ];
        for (name, value) in parameters {
            build::parameter_status(&mut self.out, name, value);
        }
        build::backend_key_data(&mut self.out, &key);
        build::ready_for_query(&mut self.out, b'I');
        Ok(self.shared.cancels.register(key, self.cancel_sender.clone()))
    }

    /// The next whole message, if it is there.
    fn next_message(&mut self) -> Result<Option<(u8, Bytes)>, End> {
        let violation = |text: String| ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, text);
        let header = frontend_header(&self.input).map_err(|error| violation(error.to_string()))?;
        let Some(header) = header else { return Ok(None) };
        if header.frame_len() > MESSAGE_LEN_MAX {
            let text = format!("a message to the console may have {MESSAGE_LEN_MAX} bytes");
            return Err(violation(text).with_hint("The console takes commands, and no data.").into());
        }
        if self.input.len() < header.frame_len() {
            return Ok(None);
        }
        let mut frame = self.input.split_to(header.frame_len());
        frame.advance(HEADER_LEN);
        Ok(Some((header.tag, frame.freeze())))
    }

    async fn take(&mut self, tag: u8, body: &Bytes) -> Result<(), End> {
        if self.skipping && !matches!(tag, b'S' | b'X') {
            return Ok(());
        }
        let done = match tag {
            b'Q' => return self.query(body).await,
            b'S' => {
                self.skipping = false;
                // Without transactions a portal lives to the next Sync.
                self.portals.clear();
                build::ready_for_query(&mut self.out, b'I');
                Ok(())
            }
            b'X' => return Err(End::Gone),
            b'H' => return self.write().await,
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => match self.execute(body).await {
                Ok(()) => Ok(()),
                Err(Failed::Command(error)) => Err(*error),
                Err(Failed::Connection(end)) => return Err(end),
            },
            b'C' => self.close(body),
            _ => {
                let text = "the console takes queries only";
                Err(ErrorFields::error(SqlState::FEATURE_NOT_SUPPORTED, text)
                    .with_hint("Connect to another database for COPY and function calls."))
            }
        };
        if let Err(error) = done {
            error.write(&mut self.out);
            self.skipping = true;
        }
        Ok(())
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), End> {
        let text = query_text(body).map_err(|error| malformed(&error))?;
        let commands = text_of(text).and_then(|text| parse(&text));
        match commands {
            Err(error) => error.write(&mut self.out),
            Ok(commands) if commands.is_empty() => build::frame(&mut self.out, b'I', |_| {}),
            Ok(commands) => {
                for command in commands {
                    match self.execute_command(&command, &Formats::default(), Describe::Yes).await {
                        Ok(()) => {}
                        Err(Failed::Connection(end)) => return Err(end),
                        // What follows an error in the same query does not run.
                        Err(Failed::Command(error)) => {
                            error.write(&mut self.out);
                            break;
                        }
                    }
                }
            }
        }
        build::ready_for_query(&mut self.out, b'I');
        Ok(())
    }

    fn parse(&mut self, body: &Bytes) -> Result<(), ErrorFields> {
        let Parse { statement, text, .. } = Parse::read(body).map_err(|error| malformed(&error))?;
        let mut commands = parse(&text_of(text)?)?;
        if commands.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(ErrorFields::error(SqlState::SYNTAX_ERROR, text).with_hint("Prepare one at a time."));
        }
        check_room(&self.statements, statement)?;
        self.statements.insert(Bytes::copy_from_slice(statement), commands.pop());
        build::frame(&mut self.out, b'1', |_| {});
        Ok(())
    }

    fn bind(&mut self, body: &Bytes) -> Result<(), ErrorFields> {
        let Bind { portal, statement, rest } = Bind::read(body).map_err(|error| malformed(&error))?;
        let command =
            self.statements.get(statement).ok_or_else(|| unknown("prepared statement", statement))?;
        // No parameters, and no formats of any: two counts. Some drivers name a format all the same.
        let formats = match rest {
            [0, 0, 0, 0, formats @ ..] | [0, 1, 0, 0 | 1, 0, 0, formats @ ..] => Formats::read(formats),
            _ => {
                let text = "the console's commands have no parameters";
                return Err(ErrorFields::error(SqlState::PROTOCOL_VIOLATION, text)
                    .with_hint("Write values into the command."));
            }
        };
        let columns = command.as_ref().map_or(0, |command| columns(command).map_or(0, <[_]>::len));
        let formats = formats.filter(|formats| columns == 0 || formats.suit(columns)).ok_or_else(|| {
            ErrorFields::error(SqlState::PROTOCOL_VIOLATION, "invalid result formats in a Bind message")
                .with_hint("Ask for one format, or for one for each column.")
        })?;
        let command = command.clone();
        check_room(&self.portals, portal)?;
        self.portals.insert(Bytes::copy_from_slice(portal), (command, formats));
        build::frame(&mut self.out, b'2', |_| {});
        Ok(())
    }

    fn describe(&mut self, body: &Bytes) -> Result<(), ErrorFields> {
        let none = Formats::default();
        let (command, formats) = match Target::read(body).map_err(|error| malformed(&error))? {
            Target::Statement(name) => {
                let command = self.statements.get(name).ok_or_else(|| unknown("prepared statement", name))?;
                build::frame(&mut self.out, b't', |out| out.put_u16(0));
                (command, &none)
            }
            Target::Portal(name) => {
                let (command, formats) = self.portals.get(name).ok_or_else(|| unknown("portal", name))?;
                (command, formats)
            }
        };
        match command.as_ref().and_then(columns) {
            Some(columns) => write_columns(&mut self.out, columns, formats),
            None => build::frame(&mut self.out, b'n', |_| {}),
        }
        Ok(())
    }

    /// All rows at once: a limit is not heeded, since nothing is so long that it would matter.
    async fn execute(&mut self, body: &Bytes) -> Result<(), Failed> {
        let Execute { portal, .. } = Execute::read(body).map_err(|error| malformed(&error))?;
        let found = self.portals.get(portal).cloned();
        let (command, formats) = found.ok_or_else(|| unknown("portal", portal))?;
        match command {
            None => {
                build::frame(&mut self.out, b'I', |_| {});
                Ok(())
            }
            Some(command) => self.execute_command(&command, &formats, Describe::No).await,
        }
    }

    fn close(&mut self, body: &Bytes) -> Result<(), ErrorFields> {
        match Target::read(body).map_err(|error| malformed(&error))? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        build::frame(&mut self.out, b'3', |_| {});
        Ok(())
    }

    async fn execute_command(
        &mut self,
        command: &Command,
        formats: &Formats,
        describe: Describe,
    ) -> Result<(), Failed> {
        if let Command::Show(what) = command {
            let rows = show::rows(*what, self.shared).await;
            if describe == Describe::Yes {
                write_columns(&mut self.out, show::columns(*what), formats);
            }
            rows.iter().for_each(|row| write_row(&mut self.out, row, formats));
            write_complete(&mut self.out, "SHOW");
            return Ok(());
        }
        if self.access != Access::Administer && *command != Command::Set {
            return Err(only_administrators().into());
        }
        let by = self.registered.client.identity.user.clone();
        let Done { tag, notice } = orders::obey(self.shared, command, &by).await?;
        if let Command::Pause(database) = command {
            self.wait_for_rest(database.as_deref()).await?;
        }
        if let Some(notice) = notice {
            notice.write(&mut self.out);
        }
        write_complete(&mut self.out, tag);
        Ok(())
    }

    /// Waits until nothing is under way in what is paused. A PAUSE that its operator does not see through is none.
    async fn wait_for_rest(&mut self, database: Option<&str>) -> Result<(), Failed> {
        let shared = self.shared;
        let settled = shared.console.settled(database);
        tokio::pin!(settled);
        let patience = sleep(PAUSE_TIMEOUT);
        tokio::pin!(patience);
        let failed = loop {
            tokio::select! {
                () = &mut settled => return Ok(()),
                () = &mut patience => break Failed::from(not_at_rest("transactions did not end in time")),
                read = self.read() => match read {
                    Ok(()) => {}
                    Err(Interrupt::End(end)) => break Failed::Connection(end),
                    Err(Interrupt::Cancel) => {
                        break not_at_rest("canceling statement due to user request").into();
                    }
                },
            }
        };
        shared.console.resume(database);
        Err(failed)
    }

    /// More input, or what interrupts the wait for it.
    async fn read(&mut self) -> Result<(), Interrupt> {
        let ended = |error: ErrorFields| Interrupt::End(error.into());
        let room = self.input.len() < MESSAGE_LEN_MAX;
        tokio::select! {
            read = self.stream.read_buf(&mut self.input), if room => match read {
                Ok(1..) => Ok(()),
                Ok(0) | Err(_) => Err(Interrupt::End(End::Gone)),
            },
            // Dropped, which tells the one who asked that it was delivered.
            Some(_) = self.cancels.recv() => Err(Interrupt::Cancel),
            _ = self.registered.nudges.recv() => {
                if self.registered.client.is_killed() { Err(ended(super::killed())) } else { Ok(()) }
            }
            () = self.shared.stopped() => Err(ended(crate::shutting_down())),
        }
    }

    async fn write(&mut self) -> Result<(), End> {
        let written = timeout(WRITE_TIMEOUT, self.stream.write_all_buf(&mut self.out)).await;
        if matches!(written, Ok(Ok(()))) { Ok(()) } else { Err(End::Gone) }
    }
}

/// Whether rows come with their description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Describe {
    Yes,
    No,
}

/// Why a command was not answered.
enum Failed {
    Command(Box<ErrorFields>),
    Connection(End),
}

impl From<ErrorFields> for Failed {
    fn from(error: ErrorFields) -> Self {
        Self::Command(Box::new(error))
    }
}

/// The columns of what a command answers, if it answers rows.
fn columns(command: &Command) -> Option<&'static [super::table::Column]> {
    match command {
        Command::Show(what) => Some(show::columns(*what)),
        _ => None,
    }
}

fn text_of(text: &[u8]) -> Result<String, ErrorFields> {
    let text = std::str::from_utf8(text).map_err(|_| {
        ErrorFields::error(SqlState::SYNTAX_ERROR, "invalid byte sequence for encoding \"UTF8\"")
            .with_hint("The console takes UTF-8.")
    })?;
    Ok(text.to_owned())
}

fn check_room<T>(known: &HashMap<Bytes, T>, name: &[u8]) -> Result<(), ErrorFields> {
    if known.len() < PREPARED_MAX || known.contains_key(name) {
        return Ok(());
    }
    let text = format!("a console may have {PREPARED_MAX} prepared statements and portals");
    Err(ErrorFields::error(SqlState::TOO_MANY_CONNECTIONS, text).with_hint("Close some."))
}

fn unknown(what: &str, name: &[u8]) -> ErrorFields {
    let text = format!("{what} \"{}\" does not exist", String::from_utf8_lossy(name));
    ErrorFields::error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
        .with_hint("On the console a portal lives to the next Sync.")
}

fn malformed(error: &pangea_pgwire::FrameError) -> ErrorFields {
    ErrorFields::error(SqlState::PROTOCOL_VIOLATION, error.to_string())
}

fn not_at_rest(text: &str) -> ErrorFields {
    ErrorFields::error(SqlState::QUERY_CANCELED, text)
        .with_detail("Transactions were still under way. Nothing is paused any more.")
        .with_hint("SHOW CLIENTS tells which clients are active; KILL CLIENT ends one.")
}
