//! Where a unit runs, and sending it there.

use bytes::{Bytes, BytesMut};
use pangea_pgwire::build;

use crate::leg::{Expect, Leg, LinkState};
use crate::prepared::Origin;
use crate::session::{Environment, ReadConsistency, Session, Transaction};
use crate::settings::{IDENTITY, SET_UP_MAX};
use crate::unit::{Consequence, Kind, Parsed, Unit};

/// Bytes of a unit that are kept at most so that it can run again.
const RETRY_LEN_MAX: usize = 256 << 10;

/// Asks for a position at or past everything that the session has committed.
///
/// The flush position covers a commit that was synchronous; without synchronous commit only the insert position
/// does, which may be ahead of what standbys can get for a while (measured: 50 to 350 ms).
const POSITION_SQL: &str = "SELECT CASE pg_catalog.current_setting('synchronous_commit') \
     WHEN 'off' THEN pg_catalog.pg_current_wal_insert_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END";

/// Asks for a position at or past a commit that may have been asynchronous: the setting that made it so ended with
/// the transaction.
const INSERT_POSITION_SQL: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()";

/// What is to be done with the pending unit.
enum Decision {
    Send(Leg),
    /// It goes on at the primary though a part of it ran here: end that part first.
    MoveUnit,
    Wait,
}

impl Session {
    /// Sends the pending unit if it can go; whether anything was done.
    pub(crate) fn dispatch(&mut self, environment: &mut impl Environment) -> bool {
        if self.on_hold || self.pending.is_empty() {
            return false;
        }
        match self.decide(environment) {
            Decision::Wait => false,
            Decision::MoveUnit => {
                build::sync(&mut self.local.output);
                self.moving_unit = true;
                true
            }
            Decision::Send(leg) => {
                self.waiting_for = None;
                if self.confirm_identity(leg) {
                    return false;
                }
                if let Some(unit) = self.pending.pop_front() {
                    (self.gave_up, self.asked) = (false, false);
                    self.send(leg, unit);
                }
                true
            }
        }
    }

    fn decide(&mut self, environment: &mut impl Environment) -> Decision {
        let Some(unit) = self.pending.front() else { return Decision::Wait };
        if self.local.expects(Expect::Isolation) {
            return Decision::Wait;
        }
        let local_started = if unit.continues {
            let Some(open) = self.in_flight.back() else { return Decision::Wait };
            match open.leg {
                _ if self.moving_unit || open.retry => return Decision::Wait,
                Some(Leg::Local) if !open.errored => true,
                leg => return leg.map_or(Decision::Wait, Decision::Send),
            }
        } else {
            false
        };
        let leg = self.choose(unit);
        if !local_started && !self.in_flight.is_empty() && !self.may_overlap(leg, unit) {
            return Decision::Wait;
        }
        let decision = match leg {
            Leg::Primary => Decision::Send(Leg::Primary),
            Leg::Local => self.freshen(environment),
        };
        match decision {
            Decision::Send(Leg::Primary) if local_started => Decision::MoveUnit,
            decision => decision,
        }
    }

    /// The server that a unit has to run on, were everything there fresh.
    fn choose(&self, unit: &Unit) -> Leg {
        let elsewhere = self.pinned || self.gave_up || unit.run_on_primary;
        let local = match &self.transaction {
            // A failed transaction takes nothing but its end.
            Transaction::Local(local) if local.failed && !unit.run_again && !unit.begins_anew() => {
                return Leg::Local;
            }
            _ if elsewhere => return Leg::Primary,
            Transaction::Primary => return Leg::Primary,
            Transaction::Idle => {
                let cursor_of_block = unit.opens_cursor && unit.begins;
                return if unit.needs_primary || cursor_of_block { Leg::Primary } else { Leg::Local };
            }
            Transaction::Local(local) => local,
        };
        let read_only = local.begin.read_only;
        // Neither cursors nor a snapshot can be moved: a read-only transaction that has them gets from the standby
        // the errors that it would get from the primary.
        if read_only && (local.has_cursor || (local.begin.one_snapshot && local.has_read)) {
            return Leg::Local;
        }
        let begins_work = unit.executes && !unit.ends_transaction;
        let must = unit.needs_primary
            || (local.begin.on_primary && begins_work)
            || (unit.opens_cursor && !read_only)
            || self.set_up.len() >= SET_UP_MAX;
        if must { Leg::Primary } else { Leg::Local }
    }

    /// Whether a unit may be sent while others are in flight: only where their outcome cannot change its way.
    fn may_overlap(&self, leg: Leg, unit: &Unit) -> bool {
        let settled = self.in_flight.iter().all(|other| {
            other.leg == Some(Leg::Primary) && other.ended && other.copies_in == 0 && !other.streams
        });
        let ends =
            self.in_flight.iter().any(|other| other.ends_transaction || other.begins || other.mixes_control);
        let stays = match self.transaction {
            Transaction::Primary => !ends,
            Transaction::Idle => !ends && unit.needs_primary,
            Transaction::Local(_) => false,
        };
        leg == Leg::Primary && settled && (self.pinned || stays)
    }

    /// Whether a unit that may run locally finds there what it must see (READ-YOUR-WRITES).
    fn freshen(&mut self, environment: &mut impl Environment) -> Decision {
        let Some(unit) = self.pending.front() else { return Decision::Wait };
        let failed = matches!(&self.transaction, Transaction::Local(local) if local.failed);
        if !unit.reads || failed {
            return Decision::Send(Leg::Local);
        }
        match self.read_consistency {
            ReadConsistency::Eventual => return Decision::Send(Leg::Local),
            ReadConsistency::Primary => return Decision::Send(Leg::Primary),
            ReadConsistency::Global if !self.asked => {
                self.asked = true;
                self.open(Leg::Primary);
                self.send_position_query();
                return Decision::Wait;
            }
            ReadConsistency::Global | ReadConsistency::Session => {}
        }
        if self.primary.expects(Expect::Position) {
            return Decision::Wait;
        }
        if self.position_unknown || self.catalog_changed {
            return Decision::Send(Leg::Primary);
        }
        let Some(token) = self.token else { return Decision::Send(Leg::Local) };
        if environment.replayed().is_none_or(|replayed| replayed < token) {
            self.waiting_for = Some(token);
            return Decision::Wait;
        }
        match self.catalog_needed {
            Some(needed) if unit.executes && !environment.catalog_covers(needed) => {
                Decision::Send(Leg::Primary)
            }
            _ => Decision::Send(Leg::Local),
        }
    }

    /// Makes sure that a server knows who the session is before anything runs there; whether that takes time.
    fn confirm_identity(&mut self, leg: Leg) -> bool {
        if self.confirming == Some(leg) && self.link(leg).expects(Expect::Replay) {
            return true;
        }
        self.confirming = None;
        let applied = self.link(leg).applied;
        let open = self
            .settings
            .since(applied)
            .any(|setting| setting.key.is_empty() || IDENTITY.contains(&setting.key.as_str()));
        if open {
            self.open(leg);
            self.apply_settings(leg);
            self.confirming = Some(leg);
        }
        open
    }

    /// Asks for a connection when there is none.
    fn open(&mut self, leg: Leg) {
        if self.link(leg).state == LinkState::Down {
            let startup = self.primary_startup.clone();
            let link = self.link_mut(leg);
            link.state = LinkState::Wanted;
            link.send(&startup, Expect::Startup);
        }
    }

    fn apply_settings(&mut self, leg: Leg) {
        let newest = self.settings.newest();
        let applied = std::mem::replace(&mut self.link_mut(leg).applied, newest);
        let missing: Vec<Bytes> = self.settings.since(applied).map(|setting| setting.wire.clone()).collect();
        for wire in missing {
            self.send_hidden(leg, &wire, Expect::Replay);
        }
    }

    /// Sends something of the session's own.
    fn send_hidden(&mut self, leg: Leg, wire: &[u8], expect: Expect) {
        // A Query, and a Parse of the unnamed statement, end the unnamed statement of that server.
        if let Some(unnamed) = self.statements.get_mut(&b""[..]) {
            unnamed.on[leg.index()] = false;
        }
        self.link_mut(leg).send(wire, expect);
    }

    pub(crate) fn send(&mut self, leg: Leg, mut unit: Unit) {
        self.open(leg);
        self.apply_settings(leg);
        let was_local = matches!(self.transaction, Transaction::Local(_));
        if was_local && leg == Leg::Primary {
            self.move_transaction();
        }
        self.provide_statements(leg, &mut unit);
        self.pinned |= unit.pins;
        self.listening |= unit.listens;
        if leg == Leg::Local && unit.len <= RETRY_LEN_MAX {
            unit.retryable = !unit.continues;
            unit.sent.clone_from(&unit.frames);
        }
        let frames = std::mem::take(&mut unit.frames);
        match deferred_begin(leg, &unit) {
            Some(plain) => self.local.output.extend_from_slice(&plain),
            None => frames.iter().for_each(|frame| self.link_mut(leg).output.extend_from_slice(frame)),
        }
        unit.leg = Some(leg);
        if unit.continues {
            if let Some(open) = self.in_flight.back_mut() {
                let sent = std::mem::take(&mut unit.sent);
                open.absorb(&mut unit);
                open.sent.extend(sent);
            }
        } else {
            self.link_mut(leg).expect.push_back(Expect::Client);
            self.in_flight.push_back(unit);
        }
        self.ask_position(leg);
    }

    /// Opens on the primary the transaction that is open here: what it has set up is done again there.
    fn move_transaction(&mut self) {
        let Transaction::Local(local) = std::mem::replace(&mut self.transaction, Transaction::Primary) else {
            return;
        };
        let mut rollback = BytesMut::new();
        build::query(&mut rollback, "ROLLBACK");
        self.send_hidden(Leg::Local, &rollback, Expect::Cleanup);
        self.send_hidden(Leg::Primary, &local.begin.wire, Expect::Replay);
        for set_up in self.set_up.clone() {
            self.send_hidden(Leg::Primary, set_up.wire(), Expect::Replay);
        }
        self.portals.clear();
    }

    /// Makes the prepared statements that the unit uses on its server.
    fn provide_statements(&mut self, leg: Leg, unit: &mut Unit) {
        let names: Vec<Bytes> = if unit.reads_session_state {
            self.statements.keys().filter(|name| !name.is_empty()).cloned().collect()
        } else {
            unit.uses.clone()
        };
        for name in names {
            // It may be closed by the very unit that uses it.
            let closed =
                || unit.closes.iter().flatten().find(|(closed, _)| *closed == name).map(|(_, st)| st);
            let known = self.statements.get(&name).or_else(closed);
            let Some(statement) = known.filter(|statement| !statement.is_on(leg)) else { continue };
            let makes = |unit: &Unit| unit.parses.iter().any(|parsed| parsed.name == name);
            // What the session has sent behind a unit has ended the unnamed statement that it made.
            let ended = name.is_empty() && self.link(leg).expect.iter().any(|other| *other != Expect::Client);
            if makes(unit) || (!ended && self.in_flight.iter().any(makes)) {
                continue;
            }
            let statement = statement.clone();
            if unit.continues {
                // A Sync would end the unit: the Parse becomes part of it, and its answer is kept from the client.
                let Origin::Parse(frame) = &statement.origin else { continue };
                self.link_mut(leg).output.extend_from_slice(frame);
                unit.parses.insert(0, Parsed { name: name.clone(), injected: true });
            } else {
                self.send_hidden(leg, &statement.wire(), Expect::Prepare);
            }
            if let Some(statement) = self.statements.get_mut(&name) {
                statement.on[leg.index()] = true;
            }
        }
    }

    /// Asks where the log is, in the same flight, if the unit sent last ends what it wrote.
    pub(crate) fn ask_position(&mut self, leg: Leg) {
        let Some(unit) = self.in_flight.back_mut() else { return };
        // A query sent behind these would become part of what follows them: data, or another transaction.
        let in_the_way = unit.copies_in > 0 || unit.streams || unit.mixes_control || unit.chains;
        if leg != Leg::Primary || !unit.ended || unit.asks_position || in_the_way {
            return;
        }
        // A read that runs there sees more than the session knows of: what it reads here next must not be older.
        let commits = match self.transaction {
            Transaction::Primary => unit.ends_transaction,
            Transaction::Idle => {
                !unit.begins && (unit.needs_primary || (unit.reads && unit.executes) || self.position_unknown)
            }
            Transaction::Local(_) => false,
        };
        if commits {
            unit.asks_position = true;
            self.send_position_query();
        }
    }

    pub(crate) fn send_position_query(&mut self) {
        let async_here = |consequence: &Consequence| {
            matches!(consequence, Consequence::SetLocal { may_commit_async: true, .. })
        };
        let may_commit_async = self.may_commit_async
            || self.in_flight.iter().any(|unit| unit.consequences.iter().any(|(_, what)| async_here(what)));
        let mut wire = BytesMut::new();
        build::query(&mut wire, if may_commit_async { INSERT_POSITION_SQL } else { POSITION_SQL });
        self.send_hidden(Leg::Primary, &wire, Expect::Position);
    }
}

/// What to say to the standby instead of a BEGIN whose transaction has to run on the primary: its answer is the
/// client's, and it costs no round trip. The client's own words go to the primary with its first statement.
fn deferred_begin(leg: Leg, unit: &Unit) -> Option<BytesMut> {
    let [(_, Consequence::Begin(begin))] = unit.consequences.as_slice() else { return None };
    if leg != Leg::Local || unit.kind != Kind::Simple || !begin.on_primary {
        return None;
    }
    let mut plain = BytesMut::new();
    build::query(&mut plain, if begin.start_transaction { "START TRANSACTION" } else { "BEGIN" });
    Some(plain)
}
