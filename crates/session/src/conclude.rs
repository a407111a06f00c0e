//! What follows from a unit that is over: transactions, settings, prepared statements.

use bytes::{Bytes, BytesMut};
use pangea_pgwire::build;

use crate::leg::{Expect, Hold, Leg, LinkState};
use crate::listening::ChannelChange;
use crate::prepared::Prepared;
use crate::session::{Access, Session, Transaction};
use crate::settings::{RESET_ALL, SetUp, release, roll_back_to};
use crate::unit::{Begin, Consequence, Parsed, Unit};

/// A setting of two parts, of which each SET may change one: what is replayed is the whole, as it was reported.
const DATE_STYLE: &str = "datestyle";

const DISCARD_ALL: &str = "DISCARD ALL";

/// The same as it is reported.
const REPORTED_DATE_STYLE: &[u8] = b"DateStyle";

impl Session {
    /// Draws the consequences of a unit.
    pub(crate) fn conclude(&mut self, leg: Leg, mut unit: Box<Unit>, status: u8) {
        if status == b'I' && self.is_inconsequential(leg, &unit) {
            self.note_prepared(leg, &unit, status);
            self.failed = false;
            self.forget_portals();
        } else {
            self.conclude_any(leg, &mut unit, status);
        }
        self.close_evicted(leg);
        if status == b'I' {
            self.tell_notifications();
        }
        unit.empty();
        self.spare = Some(unit);
    }

    /// Whether nothing follows from a unit that is over, outside of a transaction: as from most reads.
    fn is_inconsequential(&self, leg: Leg, unit: &Unit) -> bool {
        let settled = !(self.wrote || self.may_commit_async || self.settings_due || self.set_in_transaction);
        unit.only_reads()
            && !unit.errored
            && unit.parse_completes == unit.parses.len()
            && settled
            && matches!(self.transaction, Transaction::Idle)
            && self.set_up.is_empty()
            && !self.ages_due
            && self.link(leg).hold == Hold::No
            && (!self.shares_servers() || self.salted == (self.settings.newest(), 0))
    }

    /// Notes what a unit has prepared.
    fn note_prepared(&mut self, leg: Leg, unit: &Unit, status: u8) {
        // What the session has sent behind the unit has ended its unnamed statement.
        let unnamed_ended = !unit.parses.is_empty() && self.link(leg).ends_unnamed();
        for parsed in unit.parses.iter().take(unit.parse_completes) {
            if !(parsed.name.is_empty() && unnamed_ended) {
                self.mark_prepared(parsed, leg, status);
            }
        }
    }

    /// Portals end with the transaction; those that the client is binding now belong to what comes next.
    fn forget_portals(&mut self) {
        if self.current.is_none() && self.pending.is_empty() {
            self.portals.clear();
        }
    }

    fn conclude_any(&mut self, leg: Leg, unit: &mut Unit, status: u8) {
        let was_primary = matches!(self.transaction, Transaction::Primary);
        let in_transaction = !matches!(self.transaction, Transaction::Idle);
        let split = self.access != Access::Primary;
        let wrote = unit.needs_primary || unit.unread || if split { was_primary } else { self.wrote };
        self.note_prepared(leg, unit, status);
        // What was read in a unit that changes the catalogue may not be so in the end.
        let kept = if unit.changes_catalog { 0 } else { unit.parse_completes };
        self.forget_shared(leg, unit, kept);
        self.forget_parses(unit, unit.parse_completes);
        self.catalog_changed |= unit.changes_catalog;
        self.changed_catalog |= unit.changes_catalog && self.shares_servers();
        self.conclude_closes(leg, unit);
        // What an error leaves of a string with transaction control is not worth finding out.
        let unknown = unit.errored && unit.mixes_control && !unit.consequences.is_empty();
        if unknown || (unit.unread && !unit.errored) {
            self.pin();
        }
        let may_commit_async = self.may_commit_async || unit.may_commit_async();
        let rolls_back = unit.consequences.iter().any(|(_, what)| matches!(what, Consequence::RollbackTo(_)));
        for (index, consequence) in std::mem::take(&mut unit.consequences) {
            let prepares = matches!(
                consequence,
                Consequence::Prepare(..) | Consequence::Deallocate(_) | Consequence::DiscardAll
            );
            let lasts = index < unit.command_completes && (in_transaction || prepares);
            if !unit.errored || lasts {
                self.follow(leg, consequence, unit);
            }
        }
        if let Transaction::Local(local) = &mut self.transaction {
            local.has_read |= unit.reads;
            local.has_cursor |= unit.opens_cursor;
        }
        self.settle(leg, status);
        let ended = status == b'I' || unit.ends_transaction;
        if leg == Leg::Primary && ended && wrote && !unit.asks_position {
            self.position_unknown = true;
            self.unknown_async |= may_commit_async;
        }
        self.refresh_settings(leg, unit, rolls_back, status);
        self.note_hold(leg, unit, status);
        self.note_ages(leg, status);
        self.name_statements();
    }

    /// Prepared statements that were closed are gone from the other server too; a Close that did not come to run
    /// closed nothing.
    fn conclude_closes(&mut self, leg: Leg, unit: &mut Unit) {
        for (index, closed) in std::mem::take(&mut unit.closes).into_iter().enumerate() {
            let Some((name, statement)) = closed else { continue };
            if index < unit.close_completes {
                self.tidy_statement(other(leg), &name, &statement);
            } else if self.statements.get(&name).is_none() {
                self.statements.insert(Bytes::copy_from_slice(&name), statement);
            }
        }
    }

    fn follow(&mut self, leg: Leg, consequence: Consequence, unit: &Unit) {
        let in_transaction = !matches!(self.transaction, Transaction::Idle);
        match consequence {
            Consequence::Begin(begin) if !in_transaction => {
                self.set_up.clear();
                self.transaction = match leg {
                    Leg::Local => local_transaction(begin),
                    Leg::Primary => Transaction::Primary,
                };
            }
            // PostgreSQL warns and goes on with the transaction that is open.
            Consequence::Begin(_) => {}
            Consequence::Commit | Consequence::PrepareTransaction => {
                let set_up = std::mem::take(&mut self.set_up);
                if !unit.rolled_back {
                    self.keep_settings(leg, set_up);
                }
                self.end_transaction(unit);
            }
            Consequence::Rollback => {
                self.set_up.clear();
                self.end_transaction(unit);
            }
            Consequence::Set(setting) if in_transaction => self.set_up.push(SetUp::Session(setting)),
            Consequence::Set(setting) => self.keep_settings(leg, vec![SetUp::Session(setting)]),
            Consequence::SetLocal { wire, may_commit_async } if in_transaction => {
                self.may_commit_async |= may_commit_async;
                self.set_up.push(SetUp::Local(wire));
            }
            Consequence::Channel(change, wire) if in_transaction => {
                self.set_up.push(SetUp::Channel(change, wire));
            }
            Consequence::Channel(change, _) => self.change_channels(change),
            Consequence::Savepoint(name, wire) => self.set_up.push(SetUp::Savepoint(name, wire)),
            Consequence::Release(name) => release(&mut self.set_up, &name),
            Consequence::RollbackTo(name) => roll_back_to(&mut self.set_up, &name),
            Consequence::Restrict { read_only, one_snapshot } => {
                if let Transaction::Local(local) = &mut self.transaction {
                    local.begin.read_only |= read_only;
                    local.begin.one_snapshot |= one_snapshot;
                }
            }
            Consequence::Prepare(name, prepared) => self.insert_statement(leg, name, *prepared),
            Consequence::Deallocate(name) => self.deallocate(leg, name),
            Consequence::DiscardAll => {
                self.forget_everything(leg);
                self.change_channels(ChannelChange::UnlistenAll);
                // Unless the same query has come to that after it.
                (self.pinned, self.listening) = (unit.pins, unit.listens);
            }
            // Without a transaction it had no effect but a warning.
            Consequence::SetLocal { .. } => {}
        }
    }

    /// What follows in the same string is outside of the transaction, unless it was chained.
    fn end_transaction(&mut self, unit: &Unit) {
        if !unit.chains {
            self.transaction = Transaction::Idle;
        }
    }

    fn keep_settings(&mut self, leg: Leg, set_up: Vec<SetUp>) {
        for set_up in set_up {
            let mut setting = match set_up {
                SetUp::Session(setting) => setting,
                SetUp::Channel(change, _) => {
                    self.change_channels(change);
                    continue;
                }
                SetUp::Local(_) | SetUp::Savepoint(..) => continue,
            };
            if setting.key == DATE_STYLE
                && let Some(value) = self.parameters.get(REPORTED_DATE_STYLE)
            {
                setting.wire = set_date_style(value);
            }
            if self.settings.is_full() {
                // BOUNDED: a session that cannot be made anew elsewhere stays where all of it is.
                self.pin();
                self.hold(leg, Hold::Forever);
                continue;
            }
            let resets = setting.key == RESET_ALL;
            let number = self.settings.push(setting);
            let made = self.settings.made().clone();
            let link = self.link_mut(leg);
            (link.applied, link.server.made) = (number, made);
            if resets {
                self.set_base();
            }
        }
    }

    /// Brings the transaction in line with what the server says.
    fn settle(&mut self, leg: Leg, status: u8) {
        self.failed = status == b'E';
        match (status, &mut self.transaction) {
            (b'I', _) => {
                self.transaction = Transaction::Idle;
                self.may_commit_async = false;
                // Of those that were sent since it is not known yet.
                self.wrote &= !self.in_flight.is_empty();
                self.set_up.clear();
                self.forget_portals();
            }
            (_, Transaction::Local(local)) if leg == Leg::Local => local.failed = status == b'E',
            (_, Transaction::Idle) if leg == Leg::Local => {
                let mut local = local_transaction(Begin::plain());
                if let Transaction::Local(local) = &mut local {
                    local.failed = status == b'E';
                }
                self.transaction = local;
            }
            _ => self.transaction = Transaction::Primary,
        }
    }

    fn mark_prepared(&mut self, parsed: &Parsed, leg: Leg, status: u8) {
        let id = self.link(leg).id;
        let latest = if parsed.number > 0 { self.latest_parse() } else { 0 };
        // By now the name may be that of another, of which nothing is known yet.
        let statement = self.statements.get_mut(&parsed.name);
        if let Some(statement) = statement.filter(|statement| statement.age.number() == parsed.number) {
            statement.is_proven = true;
            if status == b'I' {
                statement.age.is_read(leg, latest);
            } else if parsed.number > 0 {
                statement.age.is_read_in_block();
                self.ages_due = true;
            }
            if statement.shared.is_none() {
                statement.on[leg.index()] = id;
            }
        }
    }

    /// What was prepared in a transaction may have been read by a catalogue of its own.
    fn note_ages(&mut self, leg: Leg, status: u8) {
        if status == b'I' {
            if std::mem::take(&mut self.ages_due) {
                self.age_statements(leg);
            }
            self.changed_catalog = false;
        }
    }

    /// Statements whose Parse did not succeed are not there.
    pub(crate) fn forget_parses(&mut self, unit: &Unit, succeeded: usize) {
        for Parsed { name, .. } in unit.parses.iter().skip(succeeded) {
            if self.statements.get(name).is_some_and(|statement| !statement.is_proven) {
                self.statements.remove(name);
            }
        }
    }

    fn insert_statement(&mut self, leg: Leg, name: Bytes, mut prepared: Prepared) {
        prepared.on = [0; 2];
        prepared.on[leg.index()] = self.link(leg).id;
        prepared.is_proven = true;
        self.statements.insert(name, prepared);
    }

    fn remove_statement(&mut self, leg: Leg, name: &[u8]) {
        if let Some(statement) = self.statements.remove(name) {
            self.tidy_statement(other(leg), name, &statement);
        }
    }

    fn tidy_statement(&mut self, leg: Leg, name: &[u8], statement: &Prepared) {
        if statement.shared.is_none() && statement.is_on(leg, self.link(leg)) {
            let mut wire = BytesMut::new();
            build::close_statement(&mut wire, name);
            build::sync(&mut wire);
            self.link_mut(leg).send(&wire, Expect::Cleanup);
        }
    }

    fn deallocate(&mut self, leg: Leg, name: Option<Bytes>) {
        if let Some(name) = name {
            return self.remove_statement(leg, &name);
        }
        self.statements.clear_named();
        self.link_mut(leg).server.statements.clear();
        self.tidy_other(leg, "DEALLOCATE ALL");
    }

    fn forget_everything(&mut self, leg: Leg) {
        self.statements.clear();
        self.settings.clear();
        self.set_async = false;
        self.link_mut(leg).is_as_new();
        self.tidy_other(leg, DISCARD_ALL);
        self.set_base();
    }

    fn tidy_other(&mut self, leg: Leg, sql: &str) {
        let shares = self.shares_servers();
        let link = self.link_mut(other(leg));
        if link.state == LinkState::Open || (link.state == LinkState::Wanted && !shares) {
            link.query(sql, Expect::Cleanup);
            link.server.statements.clear();
            if sql == DISCARD_ALL {
                link.is_as_new();
            }
        }
    }
}

pub(crate) fn other(leg: Leg) -> Leg {
    match leg {
        Leg::Local => Leg::Primary,
        Leg::Primary => Leg::Local,
    }
}

fn set_date_style(value: &[u8]) -> Bytes {
    let mut wire = BytesMut::new();
    build::query(
        &mut wire,
        &format!("SET datestyle TO '{}'", String::from_utf8_lossy(value).replace('\'', "''")),
    );
    wire.freeze()
}

fn local_transaction(begin: Begin) -> Transaction {
    Transaction::Local(crate::session::LocalTransaction {
        begin,
        failed: false,
        has_read: false,
        has_cursor: false,
    })
}
