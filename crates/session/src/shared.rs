//! Servers that sessions share: between its transactions a session has none.
//!
//! What goes with a connection from one session to the next is its [`ServerState`]: who it is, what is set on it, and
//! which prepared statements it has. The next session makes of that what it needs ([`Session::attach`]): settings that
//! differ are made, or all are reset first; statements have names that tell what they are, so that sessions that
//! prepare the same use the same one.
//!
//! A connection that has something which cannot be made elsewhere (temporary tables, locks, cursors, what functions
//! have left that somebody has written) stays with its session. Whether something of the kind is left, the server is
//! asked after each statement that may have left or removed it.

use bytes::{Bytes, BytesMut};
use pangea_base::Timeline;
use pangea_pgwire::startup::{CancelKey, Startup};
use pangea_pgwire::{ErrorFields, SqlState, build};

use crate::leg::{Expect, Hold, Leg, LinkState};
use crate::own;
use crate::session::{Session, Transaction};
use crate::settings::{Change, Made, Setting};
use crate::shared_statements::SharedStatements;
use crate::unit::Unit;

/// Makes a server's settings those of a new connection.
const RESET_SQL: &str = "RESET SESSION AUTHORIZATION; RESET ALL";

/// Takes from a server what may be told about it alone.
const PRIVATE_SQL: &str = "DISCARD SEQUENCES; DEALLOCATE ALL";

/// What a server that sessions share is like: goes with the connection.
#[derive(Debug, Default)]
pub struct ServerState {
    /// Cancels what runs on it.
    pub(crate) key: Option<CancelKey>,
    /// What is set on it.
    pub(crate) made: Made,
    pub(crate) statements: SharedStatements,
    /// Something has run on it that may have set more than is known.
    pub(crate) is_tainted: bool,
    /// [`own::GUARD_SQL`] was run on it since its settings may have changed.
    pub(crate) guarded: bool,
    /// Its timeline, when it was writable as the connection was opened.
    pub(crate) timeline: Option<Timeline>,
    /// Its commits may be acknowledged before they are flushed, if a session does not say otherwise.
    pub(crate) commits_async: bool,
}

impl ServerState {
    /// Of a new connection that has answered [`own::START_SQL`] with these values.
    #[must_use]
    pub fn new(key: Option<CancelKey>, start: &[Bytes]) -> Self {
        let (commits_async, timeline) = own::primary_facts(start.get(1), start.get(2));
        Self { key, timeline, commits_async, ..Self::default() }
    }

    /// The key that cancels what runs on it.
    #[must_use]
    pub fn key(&self) -> Option<&CancelKey> {
        self.key.as_ref()
    }
}

/// What a new session is told that begins without a server: what the servers of its kind have said.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// Names and values of reported parameters.
    pub parameters: Vec<(Bytes, Bytes)>,
    /// The answer to [`own::START_SQL`].
    pub start: Vec<Bytes>,
}

/// Asked after statements that may have left something on the server, or removed it: whether anything is left. Which
/// parameters somebody's function has set PostgreSQL does not tell: those are reset for the next session.
pub(crate) const HOLD_SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
     AND pid = pg_catalog.pg_backend_pid()) OR EXISTS (SELECT FROM pg_catalog.pg_class \
     WHERE relnamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_proc \
     WHERE pronamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_type \
     WHERE typnamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS (SELECT FROM pg_catalog.pg_cursors) \
     OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements \
     WHERE from_sql OR pg_catalog.left(name, 7) <> 'pangea_')";

impl Session {
    /// Whether the session shares its servers with others.
    #[must_use]
    pub fn shares_servers(&self) -> bool {
        self.client_key.is_some()
    }

    /// The start-up message for a server.
    #[must_use]
    pub fn startup(&self, leg: Leg) -> &Startup {
        match leg {
            Leg::Local => &self.local_startup,
            Leg::Primary => &self.primary_startup,
        }
    }

    /// A cancel request may still reach a server at any time: nobody else gets that.
    pub fn keep(&mut self, leg: Leg) {
        self.hold(leg, Hold::Forever);
    }

    /// Keeps the session's servers while a cancel request is on its way to one of them.
    pub fn set_cancelling(&mut self, cancelling: bool) {
        self.is_cancelling = cancelling;
    }

    /// Whether the next unit waits for leave to use the primary.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Another server than before serves the session's reads: what they have seen is not known there.
    pub fn set_moved(&mut self) {
        self.moved = true;
        self.forget_ages();
    }

    /// Begins without a server: tells the client what one has said.
    pub(crate) fn welcome(&mut self, welcome: &Welcome) {
        build::authentication_ok(&mut self.client_out);
        for (name, value) in &welcome.parameters {
            let own = self.application_name.as_ref().filter(|_| name.as_ref() == b"application_name");
            let value = own.map_or(value.as_ref(), String::as_bytes);
            let mut frame = BytesMut::new();
            build::frame(&mut frame, b'S', |out| {
                build::cstr(out, name);
                build::cstr(out, value);
            });
            self.report_parameter(&frame.freeze());
        }
        if let Some(key) = &self.client_key {
            build::backend_key_data(&mut self.client_out, key);
        }
        self.begun = true;
        self.set_base();
        self.begin(self.access.home(), &welcome.start);
        build::ready_for_query(&mut self.client_out, b'I');
    }

    /// Makes the settings that a shared server was not started with.
    pub(crate) fn set_base(&mut self) {
        if let Some(name) = &self.application_name {
            let mut wire = BytesMut::new();
            build::query(&mut wire, &format!("SET application_name TO '{}'", name.replace('\'', "''")));
            let key = "application_name".to_owned();
            self.settings.push(Setting { key, wire: wire.freeze() });
        }
    }

    /// No server of this region can be had, or one may be had again. Meanwhile the primary serves reads.
    pub fn set_local_away(&mut self, away: bool) {
        self.local_away = away;
        if away && self.local.state == LinkState::Wanted {
            self.forget_link(Leg::Local);
        }
    }

    /// Whether there is a connection to a server for what comes next; asks for one when there is none.
    pub(crate) fn is_attached(&mut self, leg: Leg) -> bool {
        if !self.shares_servers() || self.link(leg).state == LinkState::Open {
            return true;
        }
        self.link_mut(leg).state = LinkState::Wanted;
        false
    }

    /// The connection that was asked for is there: an open one, which nobody else uses.
    pub fn attach(&mut self, leg: Leg, state: Box<ServerState>) {
        if leg == Leg::Primary {
            (self.primary_timeline, self.server_async) = (state.timeline, state.commits_async);
            (self.told, self.vain_positions) = (None, 0);
            self.refused = 0;
        } else {
            self.moves = 0;
        }
        let change = match state.is_tainted {
            true => Change::Reset,
            false => self.settings.change_from(&state.made),
        };
        let (newest, made) = (self.settings.newest(), self.settings.made().clone());
        let link = self.link_mut(leg);
        link.state = LinkState::Open;
        link.no_server = Some(std::mem::replace(&mut link.server, state));
        (link.applied, link.is_fresh, link.wrote_here) = (newest, true, false);
        match change {
            Change::None => {}
            Change::Make(wires) => {
                (link.server.made, link.server.guarded) = (made, false);
                for wire in wires {
                    self.send_hidden(leg, &wire, Expect::Replay);
                }
            }
            Change::Reset => {
                (link.applied, link.server.guarded) = (0, false);
                let made = std::mem::take(&mut link.server.made);
                let tainted = std::mem::take(&mut link.server.is_tainted);
                if tainted || !made.is_empty() {
                    link.query(RESET_SQL, Expect::Replay);
                }
                // Of what was prepared then nobody knows under which settings, nor whether it is still there.
                if tainted && !link.server.statements.is_empty() {
                    link.query("DEALLOCATE ALL", Expect::Replay);
                    link.server.statements.clear();
                }
            }
        }
    }

    /// The connection that was asked for cannot be had: the pending unit fails, and nothing of it has run.
    pub fn attach_failed(&mut self, leg: Leg, error: &pangea_pgwire::ErrorFields) {
        if self.link(leg).state == LinkState::Wanted {
            self.forget_link(leg);
        }
        self.refuse_pending(error);
    }

    /// Whether shared servers have plans that are no good any more, since this was asked last: the connections of the
    /// session's pools are to be replaced.
    pub fn take_stale_plan(&mut self) -> bool {
        std::mem::take(&mut self.has_stale_plan)
    }

    /// Gives a connection away that the session does not need any more, if there is one.
    pub fn release(&mut self, leg: Leg) -> Option<Box<ServerState>> {
        if !self.is_releasable(leg) {
            return None;
        }
        if leg == Leg::Primary {
            (self.primary_timeline, self.told, self.server_async) = (None, None, false);
        }
        self.links_made += 1;
        let id = self.links_made;
        let link = self.link_mut(leg);
        (link.state, link.id, link.hidden_error) = (LinkState::Down, id, None);
        let none = link.no_server.take().unwrap_or_default();
        Some(std::mem::replace(&mut link.server, none))
    }

    fn is_releasable(&self, leg: Leg) -> bool {
        let link = self.link(leg);
        let idle = link.state == LinkState::Open
            && self.shares_servers()
            && !self.is_cancelling
            && !link.is_fresh
            && link.expect.is_empty()
            && link.hold == Hold::No
            && link.evicted.is_empty()
            && (link.rest, link.input.len(), link.output.len()) == (0, 0, 0);
        idle && self.in_flight.iter().all(|unit| unit.leg != Some(leg))
            && !self.moving_unit
            && self.confirming != Some(leg)
            && match self.transaction {
                Transaction::Idle => true,
                Transaction::Local(_) => leg == Leg::Primary,
                Transaction::Primary => leg == Leg::Local,
            }
            && !matches!(self.passing, Some((Some(to), _)) if to == leg)
    }

    /// Whether something of the session is on a server that cannot be made elsewhere.
    pub(crate) fn stays_on(&self, leg: Leg) -> bool {
        match self.shares_servers() {
            true => self.link(leg).hold != Hold::No,
            false => self.pinned || self.listening,
        }
    }

    /// Something is on the server that may not be made elsewhere.
    pub(crate) fn hold(&mut self, leg: Leg, hold: Hold) {
        for unit in &mut self.in_flight {
            unit.bound_before.2 = unit.bound_before.2.max(hold);
        }
        let link = self.link_mut(leg);
        link.hold = link.hold.max(hold);
    }

    /// Notes what a unit may have left on its server, and asks whether it has.
    pub(crate) fn note_hold(&mut self, leg: Leg, unit: &Unit, status: u8) {
        if !self.shares_servers() {
            return;
        }
        // Pinned by a search_path with temporary tables first, say: then any table may be one.
        if unit.holds || (self.pinned && unit.changes_catalog) {
            self.hold(leg, Hold::Checked);
            self.link_mut(leg).server.is_tainted = true;
        }
        self.note_listened(leg, unit, status);
        if (unit.unread && !unit.errored) || (unit.errored && unit.mixes_control) {
            self.hold(leg, Hold::Forever);
        }
        let in_flight = !self.in_flight.is_empty();
        let link = self.link_mut(leg);
        link.hold_check_due |= unit.holds || unit.changes_catalog || unit.ends_transaction || unit.frees;
        if status != b'I' || in_flight || link.hold != Hold::Checked || !link.hold_check_due {
            return;
        }
        link.hold_check_due = false;
        self.unlisten(leg);
        let mut wire = BytesMut::new();
        build::query(&mut wire, HOLD_SQL);
        self.send_hidden(leg, &wire, Expect::Hold);
    }

    /// The answer to [`HOLD_SQL`].
    pub(crate) fn learn_hold(&mut self, leg: Leg, value: Option<&Bytes>) {
        let nothing = value.is_some_and(|value| value.as_ref() == b"f");
        let link = self.link_mut(leg);
        if nothing && link.hold == Hold::Checked {
            link.hold = Hold::No;
            if leg == Leg::Primary {
                self.listening = false;
            }
            for unit in self.in_flight.iter_mut().filter(|unit| unit.bound_before.2 == Hold::Checked) {
                unit.bound_before.2 = Hold::No;
            }
        }
    }

    /// A unit asks for what only its own connection may know: what others have left there goes, and the connection
    /// stays with the session.
    pub(crate) fn make_private(&mut self, leg: Leg, unit: &mut Unit) {
        let is_private = self.link(leg).hold == Hold::Forever;
        if !self.shares_servers() || !unit.reads_private_state || is_private || self.failed {
            return;
        }
        if unit.continues {
            if !unit.executes {
                // In time with the unit that executes it.
                return;
            }
            let text = "a statement that reads what only its connection has must not follow a Flush";
            let error = ErrorFields::fatal(SqlState::FEATURE_NOT_SUPPORTED, text);
            return self.fail(&error.with_hint("Prepare it, or execute it, after a Sync."));
        }
        // What the session itself has taken from sequences since it has this connection is its own to ask.
        let own = self.link(leg).wrote_here;
        let mut wire = BytesMut::new();
        build::query(&mut wire, if own { "DEALLOCATE ALL" } else { PRIVATE_SQL });
        self.send_hidden(leg, &wire, Expect::Cleanup);
        self.link_mut(leg).server.statements.clear();
        self.hold(leg, Hold::Forever);
        for statement in self.statements.values_mut() {
            statement.on[leg.index()] = 0;
        }
        unit.uses_by_name.extend(self.statements.named().map(|(name, _)| name.clone()));
    }
}
