//! What a simulated server does with statements: a very small PostgreSQL, the same for the standby, for the
//! primary, and for the reference that sessions are compared with.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;

use super::wire;

/// The channel on which programs notify.
pub(super) const CHANNEL: &str = "ch";

/// What the tables hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Data {
    /// Column `id` of table `t`.
    ids: Vec<i64>,
    /// How often `UPDATE t SET n = n + 1` ran.
    updates: i64,
    tables: BTreeSet<String>,
}

/// What a primary keeps and its standbys replay.
#[derive(Debug)]
pub(super) struct Database {
    /// States by the position at which they were committed; never empty.
    versions: Vec<(u64, Data)>,
    sequence: i64,
    /// Every write that was executed, also of transactions that did not commit.
    pub(super) writes: Vec<String>,
    /// What statements that are prepared now say of their types.
    pub(super) types: u8,
    /// Who has notified something: a process for each notification that was committed, whose number is its text.
    pub(super) notified: Vec<u32>,
}

impl Database {
    pub(super) fn shared() -> Rc<RefCell<Self>> {
        let versions = vec![(0x1000, Data::default())];
        Rc::new(RefCell::new(Self {
            versions,
            sequence: 0,
            writes: Vec::new(),
            types: 0,
            notified: Vec::new(),
        }))
    }

    /// NotificationResponses, from this number on.
    pub(super) fn notifications(&self, from: usize) -> Vec<Bytes> {
        let frame = |(number, process): (usize, &u32)| {
            let text = format!("{CHANNEL}\0{number}\0");
            wire::frame(b'A', &[&process.to_be_bytes(), text.as_bytes()]).freeze()
        };
        self.notified.iter().enumerate().skip(from).map(frame).collect()
    }

    pub(super) fn newest(&self) -> (u64, &Data) {
        self.versions.last().map(|(lsn, data)| (*lsn, data)).unwrap()
    }

    /// The first position after this one at which something was committed.
    pub(super) fn after(&self, lsn: u64) -> Option<u64> {
        self.versions.iter().map(|(at, _)| *at).find(|at| *at > lsn)
    }

    fn at(&self, lsn: u64) -> &Data {
        self.versions.iter().rev().find(|(at, _)| *at <= lsn).map(|(_, data)| data).unwrap()
    }

    /// Another session inserts a row.
    pub(super) fn write_elsewhere(&mut self, id: i64) {
        let mut data = self.newest().1.clone();
        data.ids.push(id);
        self.commit(data);
    }

    fn commit(&mut self, data: Data) {
        let lsn = self.newest().0 + 0x10;
        self.versions.push((lsn, data));
    }
}

/// Which server it is.
#[derive(Debug, Clone)]
pub(super) enum Role {
    Primary,
    /// It has replayed up to this position.
    Standby(Rc<Cell<u64>>),
}

/// An error: SQLSTATE and text.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) &'static str, pub(super) String);

/// Whether data of COPY follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    No,
    In,
    Out,
}

/// The answer to a statement.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) notice: Option<Failure>,
    pub(super) has_columns: bool,
    pub(super) rows: Vec<String>,
    pub(super) copies: Copies,
    pub(super) end: Result<String, Failure>,
}

impl Answer {
    fn tag(tag: impl Into<String>) -> Self {
        let end = Ok(tag.into());
        Self { notice: None, has_columns: false, rows: Vec::new(), copies: Copies::No, end }
    }

    fn rows(rows: Vec<String>) -> Self {
        Self { has_columns: true, end: Ok(format!("SELECT {}", rows.len())), rows, ..Self::tag("") }
    }

    fn warning(tag: &str, code: &'static str, text: &str) -> Self {
        Self { notice: Some(Failure(code, text.to_owned())), ..Self::tag(tag) }
    }
}

type Settings = BTreeMap<String, String>;

/// What rolling back restores.
#[derive(Debug, Clone)]
struct Saved {
    lasting: Settings,
    effective: Settings,
    work: Option<Data>,
    listening: BTreeSet<String>,
}

#[derive(Debug)]
struct Transaction {
    /// Opened by BEGIN; else it ends with the unit.
    explicit: bool,
    failed: bool,
    read_only: bool,
    one_snapshot: bool,
    snapshot: Option<u64>,
    begun: Saved,
    savepoints: Vec<(String, Saved)>,
    cursors: HashMap<String, Vec<String>>,
    notifies: usize,
}

/// One connection's session on a server.
#[derive(Debug)]
pub(super) struct Engine {
    role: Role,
    pub(super) database: Rc<RefCell<Database>>,
    /// What SET has made of the settings, and what SET LOCAL has made of that.
    lasting: Settings,
    pub(super) effective: Settings,
    /// What the open transaction has written.
    work: Option<Data>,
    transaction: Option<Transaction>,
    pub(super) prepared: HashMap<String, String>,
    listening: BTreeSet<String>,
    /// Notifications that it has heard, or that were before it listened.
    heard: usize,
    /// The number of its process.
    pub(super) process: u32,
    /// Writes that the standby refused.
    pub(super) refused: Vec<String>,
}

fn failure<T>(code: &'static str, text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(code, text.into()))
}

impl Engine {
    pub(super) fn new(role: Role, database: Rc<RefCell<Database>>, process: u32) -> Self {
        Self {
            role,
            database,
            lasting: Settings::new(),
            effective: Settings::new(),
            work: None,
            transaction: None,
            prepared: HashMap::new(),
            listening: BTreeSet::new(),
            heard: 0,
            process,
            refused: Vec::new(),
        }
    }

    pub(super) fn listens(&self) -> bool {
        !self.listening.is_empty()
    }

    pub(super) fn is_standby(&self) -> bool {
        matches!(self.role, Role::Standby(_))
    }

    /// The status of ReadyForQuery.
    pub(super) fn status(&self) -> u8 {
        match &self.transaction {
            Some(transaction) if transaction.failed => b'E',
            Some(_) => b'T',
            None => b'I',
        }
    }

    pub(super) fn setting(&self, name: &str) -> &str {
        let default = match name {
            "default_transaction_isolation" => "read committed",
            "synchronous_commit" => "on",
            _ => pangea_consistency::Setting::by_name(name).map_or("", |setting| setting.default_value()),
        };
        self.effective.get(name).map_or(default, String::as_str)
    }

    fn saved(&self) -> Saved {
        Saved {
            lasting: self.lasting.clone(),
            effective: self.effective.clone(),
            work: self.work.clone(),
            listening: self.listening.clone(),
        }
    }

    fn open(&mut self, explicit: bool) -> &mut Transaction {
        let begun = self.saved();
        self.transaction.insert(Transaction {
            explicit,
            failed: false,
            read_only: false,
            one_snapshot: false,
            snapshot: None,
            begun,
            savepoints: Vec::new(),
            cursors: HashMap::new(),
            notifies: 0,
        })
    }

    /// Ends the transaction; whether it was committed.
    fn end(&mut self, commit: bool) -> bool {
        let Some(transaction) = self.transaction.take() else { return true };
        let work = self.work.take();
        if !commit || transaction.failed {
            (self.lasting, self.effective) = (transaction.begun.lasting, transaction.begun.effective);
            self.listening = transaction.begun.listening;
            return false;
        }
        self.effective.clone_from(&self.lasting);
        if let Some(data) = work {
            self.database.borrow_mut().commit(data);
        }
        let mut database = self.database.borrow_mut();
        if !transaction.begun.listening.contains(CHANNEL) {
            self.heard = database.notified.len();
        }
        database.notified.extend((0..transaction.notifies).map(|_| self.process));
        true
    }

    /// NotificationResponses that are due, between transactions.
    pub(super) fn notifications(&mut self) -> Vec<Bytes> {
        let database = self.database.borrow();
        let from = std::mem::replace(&mut self.heard, database.notified.len());
        if self.listening.contains(CHANNEL) { database.notifications(from) } else { Vec::new() }
    }

    /// The end of a unit: ends a transaction that no BEGIN has opened.
    pub(super) fn end_unit(&mut self) {
        if self.transaction.as_ref().is_some_and(|transaction| !transaction.explicit) {
            self.end(true);
        }
    }

    /// A statement of the unit failed.
    pub(super) fn fail(&mut self) {
        match &mut self.transaction {
            Some(transaction) if transaction.explicit => transaction.failed = true,
            Some(_) => {
                self.end(false);
            }
            None => {}
        }
    }

    /// Whether a transaction that has failed refuses the statement.
    pub(super) fn check_not_failed(&self, text: &str) -> Result<(), Failure> {
        let ends = ["COMMIT", "END", "ROLLBACK", "ABORT"].iter().any(|word| text.starts_with(word));
        if self.status() == b'E' && !ends {
            return failure("25P02", "current transaction is aborted");
        }
        Ok(())
    }

    /// What statements see.
    fn data(&mut self) -> Data {
        if let Some(work) = &self.work {
            return work.clone();
        }
        let database = self.database.borrow();
        let now = match &self.role {
            Role::Primary => database.newest().0,
            Role::Standby(replayed) => replayed.get(),
        };
        let at = match &mut self.transaction {
            Some(transaction) if transaction.one_snapshot => *transaction.snapshot.get_or_insert(now),
            _ => now,
        };
        database.at(at).clone()
    }

    /// Writes, or refuses to.
    fn write(&mut self, text: &str, change: impl FnOnce(&mut Data)) -> Result<(), Failure> {
        if self.is_standby() {
            self.refused.push(text.to_owned());
        }
        if self.is_standby() || self.transaction.as_ref().is_some_and(|transaction| transaction.read_only) {
            return failure("25006", format!("cannot execute {text} in a read-only transaction"));
        }
        let mut data = self.data();
        change(&mut data);
        self.work = Some(data);
        self.database.borrow_mut().writes.push(text.to_owned());
        Ok(())
    }

    /// Runs one statement. An error in it does not yet end the transaction: [`Self::fail`] does.
    pub(super) fn run(&mut self, text: &str) -> Answer {
        let text = text.trim();
        let run = self.check_not_failed(text).and_then(|()| {
            if self.transaction.is_none() {
                self.open(false);
            }
            let words: Vec<&str> = text.split_whitespace().collect();
            match self.control(&words) {
                Some(done) => done,
                None => self.statement(text, &words),
            }
        });
        run.unwrap_or_else(|error| Answer { end: Err(error), ..Answer::tag("") })
    }

    fn in_block(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.explicit)
    }

    /// Transaction control.
    fn control(&mut self, words: &[&str]) -> Option<Result<Answer, Failure>> {
        Some(match words {
            ["BEGIN", options @ ..] => self.begin("BEGIN", options),
            ["START", "TRANSACTION", options @ ..] => self.begin("START TRANSACTION", options),
            ["COMMIT" | "END", "AND", "CHAIN"] => self.finish(true, true),
            ["ROLLBACK" | "ABORT", "AND", "CHAIN"] => self.finish(false, true),
            ["COMMIT" | "END"] => self.finish(true, false),
            ["ROLLBACK" | "ABORT"] => self.finish(false, false),
            ["SAVEPOINT" | "RELEASE", ..] | ["ROLLBACK", "TO", _] if !self.in_block() => {
                failure("25P01", "can only be used in transaction blocks")
            }
            ["SAVEPOINT", name] => {
                let saved = self.saved();
                let transaction = self.transaction.as_mut()?;
                transaction.savepoints.push(((*name).to_owned(), saved));
                Ok(Answer::tag("SAVEPOINT"))
            }
            ["RELEASE", name] => self.savepoint(name).map(|(index, _)| {
                self.transaction.as_mut().unwrap().savepoints.truncate(index);
                Answer::tag("RELEASE")
            }),
            ["ROLLBACK", "TO", name] => self.savepoint(name).map(|(index, saved)| {
                let transaction = self.transaction.as_mut().unwrap();
                transaction.savepoints.truncate(index + 1);
                transaction.failed = false;
                (self.lasting, self.effective, self.work) = (saved.lasting, saved.effective, saved.work);
                self.listening = saved.listening;
                Answer::tag("ROLLBACK")
            }),
            _ => return None,
        })
    }

    fn savepoint(&self, name: &str) -> Result<(usize, Saved), Failure> {
        let savepoints = self.transaction.iter().flat_map(|transaction| &transaction.savepoints);
        let found = savepoints.enumerate().filter(|(_, (known, _))| known == name).last();
        found
            .map(|(index, (_, saved))| (index, saved.clone()))
            .ok_or_else(|| Failure("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    fn begin(&mut self, tag: &str, options: &[&str]) -> Result<Answer, Failure> {
        if self.in_block() {
            return Ok(Answer::warning(tag, "25001", "there is already a transaction in progress"));
        }
        let has = |wanted: &str| options.join(" ").contains(wanted);
        if self.is_standby() && (has("READ WRITE") || has("SERIALIZABLE")) {
            return failure("0A000", "cannot do that during recovery");
        }
        let transaction = self.transaction.as_mut().unwrap();
        transaction.explicit = true;
        transaction.read_only = has("READ ONLY");
        transaction.one_snapshot = has("REPEATABLE READ") || has("SERIALIZABLE");
        Ok(Answer::tag(tag))
    }

    fn finish(&mut self, commit: bool, chain: bool) -> Result<Answer, Failure> {
        let tag = if commit { "COMMIT" } else { "ROLLBACK" };
        if !self.in_block() {
            if chain {
                return failure("25P01", "AND CHAIN can only be used in transaction blocks");
            }
            self.end(commit);
            return Ok(Answer::warning(tag, "25P01", "there is no transaction in progress"));
        }
        let old = self.transaction.as_ref().map(|old| (old.read_only, old.one_snapshot)).unwrap();
        let committed = self.end(commit);
        if chain {
            let next = self.open(true);
            (next.read_only, next.one_snapshot) = old;
        }
        Ok(Answer::tag(if committed { "COMMIT" } else { "ROLLBACK" }))
    }

    fn statement(&mut self, text: &str, words: &[&str]) -> Result<Answer, Failure> {
        match words {
            // Which timeline it writes.
            ["SELECT", ..] if text.contains("pg_walfile_name") => {
                let timeline = if self.is_standby() { "" } else { "00000001" };
                Ok(Answer::rows(vec![timeline.to_owned()]))
            }
            ["SELECT", ..] if text.contains("pg_my_temp_schema") => {
                let left = if self.has_left_something() { "t" } else { "f" };
                Ok(Answer::rows(vec![left.to_owned()]))
            }
            ["SELECT" | "TABLE" | "VALUES", ..] => self.select(text, words),
            ["INSERT", "INTO", "t", "VALUES", value] => {
                let id = value.trim_matches(['(', ')']).parse().or(failure("22P02", "no integer"))?;
                self.write(text, |data| data.ids.push(id)).map(|()| Answer::tag("INSERT 0 1"))
            }
            ["UPDATE", "t", ..] => {
                self.write(text, |data| data.updates += 1).map(|()| Answer::tag("UPDATE 1"))
            }
            ["CREATE", "TABLE", name, ..] => {
                if self.data().tables.contains(*name) {
                    return failure("42P07", format!("relation \"{name}\" already exists"));
                }
                let create = |data: &mut Data| data.tables.extend([(*name).to_owned()]);
                self.write(text, create).map(|()| Answer::tag("CREATE TABLE"))
            }
            ["COPY", "t", "FROM", "STDIN"] => {
                self.write(text, |_| ()).map(|()| Answer { copies: Copies::In, ..Answer::tag("") })
            }
            ["COPY", "t", "TO", "STDOUT"] => {
                let rows: Vec<String> = self.data().ids.iter().map(i64::to_string).collect();
                let tag = Ok(format!("COPY {}", rows.len()));
                Ok(Answer { rows, copies: Copies::Out, end: tag, ..Answer::tag("") })
            }
            ["FASTPATH"] => self.write(text, |data| data.updates += 1).map(|()| Answer::tag("")),
            _ => self.session_statement(text, words),
        }
    }

    /// Whether there is anything that only this connection has.
    fn has_left_something(&self) -> bool {
        !self.listening.is_empty()
            || self.prepared.keys().any(|name| !name.is_empty() && !name.starts_with("pangea_"))
    }

    /// Data of COPY FROM STDIN have ended.
    pub(super) fn copy_in(&mut self, lines: &str) -> Answer {
        let ids: Vec<i64> = lines.lines().filter_map(|line| line.parse().ok()).collect();
        let tag = format!("COPY {}", ids.len());
        let done = self.write(&format!("COPY {lines:?}"), |data| data.ids.extend(ids));
        Answer { end: done.map(|()| tag), ..Answer::tag("") }
    }

    fn select(&mut self, text: &str, words: &[&str]) -> Result<Answer, Failure> {
        let data = self.data();
        let rows = match words {
            ["SELECT", "1"] => vec!["1".to_owned()],
            ["SELECT", "id", "FROM", "t"] => data.ids.iter().map(i64::to_string).collect(),
            ["SELECT", "id", "FROM", "t", "WHERE", "id", "=", id] => {
                data.ids.iter().map(i64::to_string).filter(|row| row == id).collect()
            }
            ["SELECT", "sum(n)", "FROM", "t"] => vec![data.updates.to_string()],
            ["SELECT", "1/0"] => return failure("22012", "division by zero"),
            ["SELECT", "nextval('sq')"] => {
                self.write(text, |_| ())?;
                self.database.borrow_mut().sequence += 1;
                vec![self.database.borrow().sequence.to_string()]
            }
            ["SELECT", "id", "FROM", "t", "FOR", "UPDATE"] => {
                self.write(text, |_| ())?;
                data.ids.iter().map(i64::to_string).collect()
            }
            // Declared harmless, and not: the classifier cannot know.
            ["SELECT", "reader()"] => return Ok(self.writing_function(text, vec!["7".to_owned()], 0)),
            ["SELECT", "*", "FROM", "rows_of(1)"] => {
                return Ok(self.writing_function(text, vec!["1".to_owned(), "2".to_owned()], 1));
            }
            ["SELECT", "a", "FROM", table] if data.tables.contains(*table) => Vec::new(),
            _ => return failure("42P01", "relation does not exist"),
        };
        Ok(Answer::rows(rows))
    }

    /// A function that writes after it has returned some rows.
    fn writing_function(&mut self, text: &str, rows: Vec<String>, before: usize) -> Answer {
        match self.write(text, |data| data.updates += 1) {
            Ok(()) => Answer::rows(rows),
            Err(error) => Answer { end: Err(error), ..Answer::rows(rows[..before].to_vec()) },
        }
    }

    fn session_statement(&mut self, text: &str, words: &[&str]) -> Result<Answer, Failure> {
        match words {
            ["SET", "LOCAL", name, "=" | "TO", value] => {
                let value = value.trim_matches('\'');
                if !self.in_block() {
                    return Ok(Answer::warning("SET", "25P01", "SET LOCAL needs a transaction block"));
                }
                self.effective.insert((*name).to_owned(), value.to_owned());
                Ok(Answer::tag("SET"))
            }
            ["SET", name, ..] if name.starts_with("pangea_refuses_") => {
                failure("42704", format!("unrecognized configuration parameter \"{name}\""))
            }
            ["SET", name, "TO", "DEFAULT"] => {
                self.lasting.remove(*name);
                self.effective.remove(*name);
                Ok(Answer::tag("SET"))
            }
            ["SET", name, "=" | "TO", value] => {
                let value = value.trim_matches('\'');
                for settings in [&mut self.lasting, &mut self.effective] {
                    settings.insert((*name).to_owned(), value.to_owned());
                }
                Ok(Answer::tag("SET"))
            }
            ["RESET", "SESSION", "AUTHORIZATION"] => Ok(Answer::tag("RESET")),
            ["DISCARD", "SEQUENCES"] => Ok(Answer::tag("DISCARD SEQUENCES")),
            ["RESET", name] if *name != "ALL" => {
                self.lasting.remove(*name);
                self.effective.remove(*name);
                Ok(Answer::tag("RESET"))
            }
            ["RESET", "ALL"] => {
                self.lasting.clear();
                self.effective.clear();
                Ok(Answer::tag("RESET"))
            }
            ["SHOW", name] => {
                Ok(Answer { end: Ok("SHOW".to_owned()), ..Answer::rows(vec![self.setting(name).to_owned()]) })
            }
            ["DISCARD", "ALL"] if self.in_block() => failure("25001", "DISCARD ALL in a transaction block"),
            ["DISCARD", "ALL"] => {
                self.lasting.clear();
                self.effective.clear();
                self.prepared.clear();
                // It is committed at once.
                self.listening.clear();
                self.transaction.iter_mut().for_each(|transaction| transaction.begun.listening.clear());
                Ok(Answer::tag("DISCARD ALL"))
            }
            ["LISTEN" | "UNLISTEN" | "NOTIFY", ..] => self.notification_statement(text, words),
            ["DECLARE" | "FETCH" | "CLOSE", ..] => self.cursor_statement(words),
            _ => self.prepared_statement(text, words),
        }
    }

    fn notification_statement(&mut self, text: &str, words: &[&str]) -> Result<Answer, Failure> {
        // UNLISTEN does nothing there, and may.
        if self.is_standby() && words[0] != "UNLISTEN" {
            self.refused.push(text.to_owned());
            return failure("25006", "cannot execute that during recovery");
        }
        let channel = words[1].trim_matches('"').to_owned();
        match words[0] {
            "LISTEN" => _ = self.listening.insert(channel),
            "UNLISTEN" if channel == "*" => self.listening.clear(),
            "UNLISTEN" => _ = self.listening.remove(&channel),
            _ => self.transaction.as_mut().unwrap().notifies += 1,
        }
        Ok(Answer::tag(words[0]))
    }

    fn cursor_statement(&mut self, words: &[&str]) -> Result<Answer, Failure> {
        if let ["DECLARE", name, "CURSOR", "FOR", query @ ..] = words {
            if !self.in_block() {
                return failure("25P01", "DECLARE CURSOR can only be used in transaction blocks");
            }
            let query: Vec<&str> = query.to_vec();
            let answer = self.select(&query.join(" "), &query)?;
            answer.end?;
            self.transaction.as_mut().unwrap().cursors.insert((*name).to_owned(), answer.rows);
            return Ok(Answer::tag("DECLARE CURSOR"));
        }
        let cursors = &mut self.transaction.as_mut().unwrap().cursors;
        let missing = |name: &str| Failure("34000", format!("cursor \"{name}\" does not exist"));
        match words {
            ["FETCH", name] => {
                let rows = cursors.get_mut(*name).ok_or_else(|| missing(name))?;
                let row: Vec<String> = rows.drain(..rows.len().min(1)).collect();
                Ok(Answer { end: Ok(format!("FETCH {}", row.len())), ..Answer::rows(row) })
            }
            [_, name] => {
                cursors.remove(*name).ok_or_else(|| missing(name)).map(|_| Answer::tag("CLOSE CURSOR"))
            }
            _ => failure("42601", "syntax error"),
        }
    }

    fn prepared_statement(&mut self, text: &str, words: &[&str]) -> Result<Answer, Failure> {
        match words {
            ["PREPARE", name, "AS", ..] => {
                let (_, inner) = text.split_once(" AS ").unwrap_or_default();
                if self.prepared.contains_key(*name) {
                    return failure("42P05", format!("prepared statement \"{name}\" already exists"));
                }
                self.prepared.insert((*name).to_owned(), inner.to_owned());
                Ok(Answer::tag("PREPARE"))
            }
            ["EXECUTE", name] => match self.prepared.get(*name).cloned() {
                Some(inner) => {
                    let words: Vec<&str> = inner.split_whitespace().collect();
                    self.statement(&inner, &words)
                }
                None => failure("26000", format!("prepared statement \"{name}\" does not exist")),
            },
            ["DEALLOCATE", "ALL"] => {
                self.prepared.retain(|name, _| name.is_empty());
                Ok(Answer::tag("DEALLOCATE ALL"))
            }
            ["DEALLOCATE", name] => match self.prepared.remove(*name) {
                Some(_) => Ok(Answer::tag("DEALLOCATE")),
                None => failure("26000", format!("prepared statement \"{name}\" does not exist")),
            },
            _ => failure("42601", format!("syntax error in \"{text}\"")),
        }
    }
}
