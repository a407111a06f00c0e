//! Where a unit runs, and sending it there.

use bytes::{Bytes, BytesMut};
use pangea_base::Position;
use pangea_consistency::{Level, Reach};
use pangea_pgwire::{ErrorFields, SqlState, build};

use crate::described::{self, Confirmation};
use crate::leg::{Expect, Leg, LinkState};
use crate::moving::Held;
use crate::own;
use crate::session::{Access, Environment, Session, Transaction};
use crate::settings::{IDENTITY, SET_UP_MAX};
use crate::unit::{Consequence, Kind, Parsed, Unit};

/// Bytes of a unit that are kept at most so that it can run again.
const RETRY_LEN_MAX: usize = 256 << 10;

/// Units that are in flight at most: enough for a pipeline to a primary far away, and few enough that a client with
/// thousands of statements in one pipeline takes turns with the others of its thread.
pub(crate) const IN_FLIGHT_MAX: usize = 256;

/// `pg_current_wal_flush_lsn`: at or past every commit that was synchronous. Functions of PostgreSQL's own keep their
/// OIDs for ever; the fast path costs the server a tenth of what a query does (`bench/consistency`).
pub(crate) const FLUSH_LSN_OID: u32 = 3330;

/// `pg_current_wal_insert_lsn`: at or past every commit, but ahead of what standbys can get for a while (measured: 50
/// to 350 ms).
pub(crate) const INSERT_LSN_OID: u32 = 2852;

/// What is to be done with the pending unit.
enum Decision {
    Send(Leg),
    /// It goes on at the primary though a part of it ran here: end that part first.
    MoveUnit,
    Wait,
    /// It runs nowhere.
    Refuse(ErrorFields),
}

impl Session {
    /// Sends the pending unit if it can go; whether anything was done.
    pub(crate) fn dispatch(&mut self, environment: &mut impl Environment) -> bool {
        (self.local.is_fresh, self.primary.is_fresh) = (false, false);
        self.held_back = false;
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
            Decision::Refuse(error) => {
                self.refuse_pending(&error);
                true
            }
            Decision::Send(leg) => {
                self.waiting_for = None;
                if !self.is_listened_for(leg) || !self.is_attached(leg) || self.confirm_identity(leg) {
                    return false;
                }
                match self.confirm_descriptions(leg) {
                    Confirmation::Send => {}
                    Confirmation::Wait => return false,
                    Confirmation::Refuse => {
                        self.refuse_pending(&described::changed());
                        return true;
                    }
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
        let home = self.link(self.access.home());
        if !unit.continues && self.in_flight.len() >= IN_FLIGHT_MAX {
            return Decision::Wait;
        }
        let asked = [&self.local, &self.primary].iter().any(|link| link.expects(Expect::Settings));
        if home.expects(Expect::Start) || (asked && !unit.continues) {
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
        if leg == Leg::Local && self.held_ready.is_some() {
            return Decision::Wait;
        }
        // An error, or a wait that may end with one, must not come before the answers under way.
        let busy = !local_started && (!self.in_flight.is_empty() || self.held_ready.is_some());
        if leg == Leg::Primary && self.refuses_writes(unit) {
            return match (local_started, busy) {
                (true, _) => Decision::Send(Leg::Local),
                (false, true) => Decision::Wait,
                (false, false) => Decision::Refuse(writes_are_off()),
            };
        }
        if !local_started && !self.in_flight.is_empty() && !self.may_overlap(leg, unit) {
            return Decision::Wait;
        }
        let decision = match leg {
            Leg::Primary => self.check_token(environment),
            Leg::Local => self.freshen(environment),
        };
        match decision {
            Decision::Refuse(_) | Decision::Wait if busy => {
                (self.waiting_for, self.held_back) = (None, false);
                Decision::Wait
            }
            // Too late for an error of the unit's own: a part of it has been answered.
            Decision::Refuse(error) if local_started => {
                self.fail(&ErrorFields { severity: "FATAL", ..error });
                Decision::Wait
            }
            Decision::Send(leg) if !self.enter_on(leg, environment) => {
                self.held_back &= !busy;
                Decision::Wait
            }
            Decision::Send(Leg::Primary) if local_started => Decision::MoveUnit,
            decision => decision,
        }
    }

    /// Whether something may begin on this server.
    fn enter_on(&mut self, leg: Leg, environment: &mut impl Environment) -> bool {
        match leg {
            Leg::Primary => self.enter(environment),
            Leg::Local => self.enter_local(environment),
        }
    }

    /// Whether something may begin on the primary; else it waits until that has been moved.
    fn enter(&mut self, environment: &mut impl Environment) -> bool {
        // What goes on there is let end; but a session that would never be idle must not go on for ever.
        let begins = !matches!(self.transaction, Transaction::Primary) || self.begin.is_some();
        let in_block = !matches!(self.transaction, Transaction::Idle);
        self.commits_elsewhere = environment.commits_elsewhere();
        let held = begins
            && match self.primary_held {
                Held::Nothing => false,
                Held::Blocks => in_block || self.pending.front().is_some_and(|unit| unit.begins),
                Held::All => true,
            };
        if !self.entered && !held {
            self.entered = environment.enter_primary();
        }
        self.held_back = !self.entered || held;
        !self.held_back
    }

    /// The same on the local server: where that is the primary, it is it that is moved.
    fn enter_local(&mut self, environment: &mut impl Environment) -> bool {
        self.local_is_primary = environment.is_primary();
        !self.local_is_primary || matches!(self.transaction, Transaction::Local(_)) || self.enter(environment)
    }

    /// The server that a unit has to run on, were everything there fresh.
    fn choose(&self, unit: &Unit) -> Leg {
        // What a string sets counts for what it reads: the primary is fresh enough for whatever that is.
        let sets_and_reads = unit.sets_own && unit.reads && unit.commands > 1;
        let on_primary = matches!(self.transaction, Transaction::Primary);
        match self.access {
            Access::Primary => return Leg::Primary,
            _ if self.is_tied() && !self.pinned => return Leg::Local,
            Access::Split if self.local_away => return Leg::Primary,
            Access::Split if self.local.state != LinkState::Open && !self.shares_servers() => {
                return Leg::Primary;
            }
            Access::Split => {}
            Access::Local if self.gave_up || on_primary || sets_and_reads => return Leg::Primary,
            Access::Local => return Leg::Local,
        }
        let elsewhere = self.pinned || self.gave_up || unit.run_on_primary || sets_and_reads;
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
        let begins_work = unit.executes && !unit.ends_transaction;
        let must = unit.needs_primary
            || (local.begin.on_primary && begins_work)
            || (unit.opens_cursor && !read_only)
            || self.set_up.len() >= SET_UP_MAX;
        if must { Leg::Primary } else { Leg::Local }
    }

    /// Whether the open transaction cannot be moved: neither cursors nor a snapshot can. A read-only transaction that
    /// has them gets from the standby the errors that it would get from the primary.
    pub(crate) fn is_tied(&self) -> bool {
        match &self.transaction {
            Transaction::Local(local) => {
                let stays = match self.access {
                    Access::Local => true,
                    // What is to run on the primary has only been prepared here.
                    Access::Split | Access::Primary => local.begin.read_only && !local.begin.on_primary,
                };
                stays && !local.failed && (local.has_cursor || local.begin.one_snapshot && local.has_read)
            }
            _ => false,
        }
    }

    /// Whether a unit may be sent while others are in flight: only where their outcome cannot change its way.
    fn may_overlap(&self, leg: Leg, unit: &Unit) -> bool {
        let settled = self.in_flight.iter().all(|other| {
            other.leg == Some(Leg::Primary) && other.ended && other.copies_in == 0 && !other.streams
        });
        let ends = self
            .in_flight
            .iter()
            .any(|other| other.ends_transaction || other.begins || other.mixes_control || other.sets_own);
        let stays = match self.transaction {
            Transaction::Primary => !ends,
            Transaction::Idle => !ends && unit.needs_primary,
            Transaction::Local(_) => false,
        };
        // Whether a transaction has failed decides how a statement is prepared that is there, and whether it is there is
        // not known while it is being prepared.
        let in_block = ends || !matches!(self.transaction, Transaction::Idle);
        let making =
            || self.in_flight.iter().flat_map(|other| &other.parses).any(|parsed| !parsed.name.is_empty());
        let names = |unit: &Unit| !(unit.parses.is_empty() && unit.uses.is_empty());
        if self.shares_servers() && (in_block && !unit.parses.is_empty() || names(unit) && making()) {
            return false;
        }
        leg == Leg::Primary && settled && (self.pinned || stays || self.access == Access::Primary)
    }

    /// Whether a unit that may run locally finds there what it must see (READ-YOUR-WRITES).
    fn freshen(&mut self, environment: &mut impl Environment) -> Decision {
        let Some(unit) = self.pending.front() else { return Decision::Wait };
        // Nothing makes a snapshot that is taken newer.
        let settled = matches!(&self.transaction, Transaction::Local(local)
            if local.failed || local.begin.one_snapshot && local.has_read);
        if !unit.reads || settled {
            return Decision::Send(Leg::Local);
        }
        let tied = self.is_tied();
        match self.freshen_read(environment) {
            Decision::Send(Leg::Primary) if tied => Decision::Refuse(not_fresh_enough()),
            decision => decision,
        }
    }

    fn freshen_read(&mut self, environment: &mut impl Environment) -> Decision {
        match self.read.level {
            Level::Eventual | Level::Off => return Decision::Send(Leg::Local),
            Level::Primary => return Decision::Send(Leg::Primary),
            // What a server that is gone has shown, the primary has.
            level if (level == Level::Global || self.moved) && !self.asked => {
                if !self.enter(environment) {
                    return Decision::Wait;
                }
                if !self.is_attached(Leg::Primary) {
                    return Decision::Wait;
                }
                self.asked = true;
                self.open(Leg::Primary);
                self.send_position_query();
                return Decision::Wait;
            }
            Level::Bounded => {
                let longest = self.read.max_staleness;
                if environment.staleness().is_none_or(|staleness| staleness > longest) {
                    return Decision::Send(Leg::Primary);
                }
            }
            Level::Global | Level::Session => {}
        }
        if self.primary.expects(Expect::Position) {
            return Decision::Wait;
        }
        if self.position_unknown || self.catalog_changed {
            return Decision::Send(Leg::Primary);
        }
        match (self.missing(environment), self.catalog_needed) {
            (Some((position, Reach::Lost)), _) => return Decision::Refuse(token_lost(position)),
            (Some((position, _)), _) => {
                self.waiting_for = Some(position);
                return Decision::Wait;
            }
            (None, Some(needed)) => {
                let executes = self.pending.front().is_some_and(|unit| unit.executes);
                if executes && self.access == Access::Split && !environment.catalog_covers(needed) {
                    return Decision::Send(Leg::Primary);
                }
            }
            (None, None) => {}
        }
        Decision::Send(Leg::Local)
    }

    /// A read on the primary is as fresh as can be, but what was lost it cannot show either.
    fn check_token(&mut self, environment: &impl Environment) -> Decision {
        let reads = self.pending.front().is_some_and(|unit| unit.reads && !unit.needs_primary);
        if !reads || self.gave_up || matches!(self.read.level, Level::Eventual | Level::Off) {
            return Decision::Send(Leg::Primary);
        }
        match self.missing_on_primary(environment) {
            Some((position, Reach::Lost)) => Decision::Refuse(token_lost(position)),
            Some((position, _)) => {
                self.waiting_for = Some(position);
                Decision::Wait
            }
            None => Decision::Send(Leg::Primary),
        }
    }

    /// Whether a unit is a write though write forwarding is off. What is open on the primary goes on there.
    fn refuses_writes(&self, unit: &Unit) -> bool {
        self.access == Access::Split
            && self.read.level == Level::Off
            && !matches!(self.transaction, Transaction::Primary)
            && (unit.needs_primary || matches!(self.transaction, Transaction::Local(_)))
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
    pub(crate) fn open(&mut self, leg: Leg) {
        if self.link(leg).state == LinkState::Down {
            let mut wire = BytesMut::new();
            self.primary_startup.write(&mut wire);
            let link = self.link_mut(leg);
            link.state = LinkState::Wanted;
            link.send(&wire, Expect::Startup);
            link.query(own::PRIMARY_SQL, Expect::PrimaryFacts);
        }
    }

    pub(crate) fn apply_settings(&mut self, leg: Leg) {
        let newest = self.settings.newest();
        let applied = std::mem::replace(&mut self.link_mut(leg).applied, newest);
        if applied == newest {
            return;
        }
        let missing: Vec<Bytes> = self.settings.since(applied).map(|setting| setting.wire.clone()).collect();
        for wire in missing {
            self.send_hidden(leg, &wire, Expect::Replay);
        }
        self.link_mut(leg).server.made = self.settings.made().clone();
    }

    /// Sends something of the session's own.
    pub(crate) fn send_hidden(&mut self, leg: Leg, wire: &[u8], expect: Expect) {
        // A Query, and a Parse of the unnamed statement, end the unnamed statement of that server.
        if let Some(unnamed) = self.statements.get_mut(b"") {
            unnamed.on[leg.index()] = 0;
        }
        self.link_mut(leg).send(wire, expect);
    }

    pub(crate) fn send(&mut self, leg: Leg, mut unit: Box<Unit>) {
        self.open(leg);
        self.apply_settings(leg);
        // After what the session has set when that was allowed.
        if leg == Leg::Primary {
            self.guard_commits();
        }
        unit.bound_before = (self.pinned, self.listening, self.link(leg).hold);
        if leg == Leg::Primary {
            self.listen_for_own(&unit);
        }
        let was_local = matches!(self.transaction, Transaction::Local(_));
        if was_local && leg == Leg::Primary {
            self.move_transaction();
        } else if leg == Leg::Primary
            && std::mem::take(&mut self.begin_due)
            && let Some(begin) = self.begin.clone()
        {
            self.begin_on_primary(&begin);
        }
        self.make_private(leg, &mut unit);
        self.provide_statements(leg, &mut unit);
        self.wrote |= leg == Leg::Primary && (unit.needs_primary || unit.unread);
        self.link_mut(leg).wrote_here |= unit.needs_primary || unit.unread;
        self.pinned |= unit.pins;
        self.listening |= unit.listens;
        self.mark_listened(leg, &unit.channels);
        let mut keeps = false;
        if leg == Leg::Local && unit.len <= RETRY_LEN_MAX {
            // To the primary, or to another reader when this one goes.
            unit.retryable = !unit.continues && (self.may_forward() || self.access == Access::Local);
            keeps = true;
        }
        // Of one that was flushed not all that was sent is known.
        if leg == Leg::Primary && self.may_be_refused() && !unit.continues && !unit.streams {
            (unit.recallable, keeps) = (true, true);
        }
        let frames = std::mem::take(&mut unit.frames);
        match deferred_begin(leg, &unit).filter(|_| self.access == Access::Split) {
            Some(plain) => self.local.output.extend_from_slice(&plain),
            None if self.shares_servers() => {
                frames.iter().for_each(|frame| self.write_shared(leg, &mut unit, frame));
            }
            None => frames.iter().for_each(|frame| self.link_mut(leg).output.extend_from_slice(frame)),
        }
        unit.put_away(frames, keeps);
        unit.leg = Some(leg);
        if unit.continues {
            if let Some(open) = self.in_flight.back_mut() {
                let sent = std::mem::take(&mut unit.sent);
                open.absorb(&mut unit);
                open.sent.extend(sent);
                open.recallable = false;
            }
        } else {
            self.link_mut(leg).expect.push_back(Expect::Client);
            self.in_flight.push_back(unit);
        }
        self.close_evicted(leg);
        self.ask_position(leg);
    }

    /// Sees to it that commits wait for other regions where they have to (ZERO-LOSS-WHEN-SYNC).
    fn guard_commits(&mut self) {
        let begins = !matches!(self.transaction, Transaction::Primary) || self.begin_due;
        if self.commits_elsewhere && begins && self.in_flight.is_empty() && !self.primary.server.guarded {
            let mut wire = BytesMut::new();
            build::query(&mut wire, own::GUARD_SQL);
            self.send_hidden(Leg::Primary, &wire, Expect::Replay);
            self.primary.server.guarded = true;
        }
    }

    /// Whether what the local server refuses may run on the primary.
    pub(crate) fn may_forward(&self) -> bool {
        self.access == Access::Split && self.read.level != Level::Off
    }

    /// Opens on the primary the transaction that is open here: what it has set up is done again there.
    fn move_transaction(&mut self) {
        let Transaction::Local(local) = std::mem::replace(&mut self.transaction, Transaction::Primary) else {
            return;
        };
        let mut rollback = BytesMut::new();
        build::query(&mut rollback, "ROLLBACK");
        self.send_hidden(Leg::Local, &rollback, Expect::Cleanup);
        self.begin_on_primary(&local.begin.wire);
        if self.may_be_refused() {
            self.begin = Some(local.begin.wire);
        }
        self.portals.clear();
    }

    fn begin_on_primary(&mut self, begin: &[u8]) {
        self.send_hidden(Leg::Primary, begin, Expect::Replay);
        for set_up in self.set_up.clone() {
            self.send_hidden(Leg::Primary, set_up.wire(), Expect::Replay);
        }
        if self.begin_fails {
            self.primary.query(own::FAIL_SQL, Expect::Cleanup);
        }
    }

    /// Makes the prepared statements that the unit uses on its server.
    fn provide_statements(&mut self, leg: Leg, unit: &mut Unit) {
        if unit.reads_session_state && !self.shares_servers() {
            unit.uses = self.statements.named().map(|(name, _)| name.clone()).collect();
        }
        // What it makes itself, as those do that prepare nothing else.
        let makes_unnamed = unit.parses.iter().any(|parsed| parsed.name.is_empty());
        let is_made = makes_unnamed && unit.uses.iter().all(Bytes::is_empty);
        if unit.uses_by_name.is_empty() && (is_made || unit.uses.is_empty()) {
            return;
        }
        // Put back: the unit may have to run again elsewhere.
        let (uses, by_name) = (std::mem::take(&mut unit.uses), std::mem::take(&mut unit.uses_by_name));
        for name in &uses {
            self.provide_statement(leg, unit, name, false);
        }
        for name in &by_name {
            self.provide_statement(leg, unit, name, true);
        }
        (unit.uses, unit.uses_by_name) = (uses, by_name);
    }

    fn provide_statement(&mut self, leg: Leg, unit: &mut Unit, name: &Bytes, by_own_name: bool) {
        let Some(statement) = self.used(unit, name) else {
            if !name.is_empty() {
                unit.missing.get_or_insert_with(|| name.clone());
            } else if self.shares_servers()
                && !unit.continues
                && !unit.parses.iter().any(|it| it.name.is_empty())
            {
                // Another session's may be there.
                let mut wire = BytesMut::new();
                build::close_statement(&mut wire, b"");
                build::sync(&mut wire);
                self.send_hidden(leg, &wire, Expect::Cleanup);
            }
            return;
        };
        let link = self.link(leg);
        let is_there = match &statement.shared {
            Some(_) if by_own_name => statement.on[leg.index()] == link.id,
            _ => statement.is_on(leg, link),
        };
        let renamed = by_own_name && statement.shared.is_some();
        if is_there || !renamed && self.makes(unit, leg, name) {
            if let Some(shared) = statement.shared.clone() {
                self.link_mut(leg).server.statements.touch(&shared);
            }
            return;
        }
        let statement = statement.clone();
        let shared = statement.shared.clone().filter(|_| !by_own_name);
        let number = if shared.is_some() { self.next_parse() } else { statement.age.number() };
        if unit.continues {
            // A Sync would end the unit: the Parse becomes part of it, and its answer is kept from the client.
            let Some(frame) = statement.parse(by_own_name) else { return };
            self.link_mut(leg).output.extend_from_slice(&frame);
            unit.hides_close.extend(shared.is_some().then_some(true));
            let parsed = Parsed { name: name.clone(), injected: true, made: shared.clone(), number };
            let before = unit.parses.iter().take_while(|parsed| parsed.injected).count();
            unit.parses.insert(before, parsed);
        } else {
            self.link_mut(leg).preparing.push_back(shared.clone());
            self.send_hidden(leg, &statement.wire(by_own_name), Expect::Prepare);
        }
        (unit.holds, unit.frees) = (unit.holds | by_own_name, unit.frees | by_own_name);
        self.note_provided(leg, name, shared, number);
    }

    /// Whether a statement is made by the unit that uses it, or by one in flight.
    pub(crate) fn makes(&self, unit: &Unit, leg: Leg, name: &[u8]) -> bool {
        let makes = |unit: &Unit| unit.parses.iter().any(|parsed| parsed.name == name);
        // What the session has sent behind a unit has ended the unnamed statement that it made.
        let ended = name.is_empty() && self.link(leg).ends_unnamed();
        makes(unit) || (!ended && self.in_flight.iter().any(|unit| makes(unit)))
    }

    /// A statement of the session is being made on a server: under its shared name, by the Parse of this number, or under the client's.
    pub(crate) fn note_provided(&mut self, leg: Leg, name: &Bytes, shared: Option<Bytes>, number: u64) {
        let id = self.link(leg).id;
        match shared {
            Some(shared) => self.note_again(leg, name, shared, number),
            None => {
                if let Some(statement) = self.statements.get_mut(name) {
                    statement.on[leg.index()] = id;
                }
            }
        }
    }

    /// Asks where the log is, in the same flight, if the unit sent last ends what it wrote.
    pub(crate) fn ask_position(&mut self, leg: Leg) {
        let split = self.access != Access::Primary;
        let moves_nothing =
            !(split || self.position_unknown) && self.in_flight.back().is_some_and(|unit| unit.only_reads());
        if leg != Leg::Primary || moves_nothing {
            return;
        }
        // Whether what is in flight before it has opened a transaction.
        let control =
            self.in_flight.iter().rev().skip(1).find(|other| other.begins || other.ends_transaction);
        let in_transaction = control.is_some_and(|other| other.begins && !other.ends_transaction);
        let Some(unit) = self.in_flight.back_mut() else { return };
        // A query sent behind these would become part of what follows them: data, or another transaction.
        let in_the_way = unit.copies_in > 0 || unit.streams || unit.mixes_control || unit.chains;
        if !unit.ended || unit.asks_position || in_the_way {
            return;
        }
        // A read that runs there sees more than the session knows of: what it reads here next must not be older. A
        // session that never reads here need not know; for others SHOW pangea.token tells.
        let writes = unit.needs_primary || unit.unread;
        let (ends, wrote) = (unit.ends_transaction, self.wrote || writes);
        let commits = match self.transaction {
            Transaction::Idle if in_transaction => ends && (split || wrote),
            Transaction::Primary => ends && (split || wrote),
            Transaction::Idle => {
                !unit.begins && (writes || (split && unit.reads && unit.executes) || self.position_unknown)
            }
            Transaction::Local(_) => false,
        };
        if commits {
            self.wrote = false;
            unit.asks_position = true;
            self.send_position_query();
        }
    }

    pub(crate) fn send_position_query(&mut self) {
        let may_commit_async = self.may_commit_async
            || self.server_async
            || self.set_async
            || self.unknown_async
            || self.in_flight.iter().any(|unit| unit.may_commit_async());
        let mut wire = BytesMut::new();
        build::function_call(&mut wire, if may_commit_async { INSERT_LSN_OID } else { FLUSH_LSN_OID });
        // Neither does it end the unnamed statement.
        self.primary.send(&wire, Expect::Position);
    }
}

fn writes_are_off() -> ErrorFields {
    let text = "cannot write in a secondary region: write forwarding is off";
    ErrorFields::error(SqlState::READ_ONLY_SQL_TRANSACTION, text).with_hint(
        "Connect to the writer endpoint, or SET pangea.read_consistency to another level than off.",
    )
}

fn not_fresh_enough() -> ErrorFields {
    let text = "this region is not fresh enough, and the transaction has a cursor here that cannot be moved";
    ErrorFields::error(SqlState::CONSISTENCY_TIMEOUT, text)
        .with_hint("Try again, or begin the transaction with SET pangea.read_consistency = 'primary'.")
}

fn token_lost(position: Position) -> ErrorFields {
    let text = format!("position {position}, which this session must see, is not part of this database");
    ErrorFields::error(SqlState::TOKEN_LOST, text)
        .with_detail(
            "It was lost in a failover, or the token is of another cluster: no read could show what it stands for.",
        )
        .with_hint("Check what was lost; RESET pangea.token to go on without it.")
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
