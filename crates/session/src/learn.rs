//! What the session learns of its servers by asking them: positions, timelines, its own settings.

use bytes::Bytes;
use pangea_base::{Lsn, Position};
use pangea_consistency::Reach;
use pangea_pgwire::{ErrorFields, SqlState, build};

use crate::leg::{Expect, Leg};
use crate::own::{self, START_FACTS};
use crate::session::{Access, Environment, Session};
use crate::settings::Setting;
use crate::unit::Unit;

/// The parameter that tells clients what a session of another region has to have seen to see what this one has
/// written.
const TOKEN: &str = "pangea.token";

impl Session {
    /// The answer to [`own::START_SQL`].
    pub(crate) fn begin(&mut self, leg: Leg, values: &[Bytes]) {
        let ([isolation, synchronous, timeline, alias], settings) =
            match values.split_first_chunk::<START_FACTS>() {
                Some((facts, settings)) if self.link(leg).hidden_error.is_none() => (facts, settings),
                _ => {
                    let error = self.link_mut(leg).hidden_error.take();
                    let said = error.as_ref().and_then(crate::respond::message_of);
                    let text = "the database server does not tell Pangea's settings";
                    let error = ErrorFields::fatal(SqlState::CONNECTION_FAILURE, text)
                        .with_detail(format!("It said: {}", said.unwrap_or_else(|| "nothing".to_owned())))
                        .with_hint("It must be run by Pangea, which gives it these settings.");
                    return self.fail(&error);
                }
            };
        // Transactions of a higher level start on the primary; here all of them are.
        self.reads_committed = isolation.as_ref() == b"read committed";
        self.pinned |= self.access == Access::Split && !self.reads_committed;
        self.learn_settings(settings);
        // What the primary is told when it is opened beside the local server: there it is the session's default as well.
        let is_second = self.access.home() != Leg::Primary;
        let names = pangea_consistency::SETTING_NAMES.iter().map(|(name, _)| *name).filter(|_| is_second);
        for (name, value) in names.zip(settings).filter(|(name, _)| *name != TOKEN) {
            let value = String::from_utf8_lossy(value).into_owned();
            self.primary_startup.parameters.retain(|(known, _)| known != name);
            self.primary_startup.parameters.push((name.to_owned(), value));
        }
        if !alias.is_empty() {
            self.set_alias(leg, alias);
        }
        if self.access.home() == Leg::Primary && !self.shares_servers() {
            self.learn_primary(&[synchronous.clone(), timeline.clone()]);
        }
    }

    /// Aurora's setting was given as a start-up option, or to the role or the database.
    fn set_alias(&mut self, leg: Leg, value: &[u8]) {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let name = pangea_consistency::Setting::ReadConsistency;
        if let Err(error) = self.read.set(name, &value) {
            let told = ErrorFields::warning(SqlState::INVALID_PARAMETER_VALUE, error.to_string());
            return told.with_hint(error.hint).write(&mut self.client_out);
        }
        let mut wire = bytes::BytesMut::new();
        build::query(&mut wire, &format!("SET {} TO '{value}'", name.name()));
        let wire = wire.freeze();
        if !self.shares_servers() {
            self.send_hidden(leg, &wire, Expect::Replay);
        }
        let number = self.settings.push(Setting { key: name.name().to_owned(), wire });
        self.link_mut(leg).applied = number;
    }

    /// The answer to [`own::PRIMARY_SQL`].
    pub(crate) fn learn_primary(&mut self, values: &[Bytes]) {
        let [synchronous, timeline] = values else { return };
        let (commits_async, timeline) = own::primary_facts(Some(synchronous), Some(timeline));
        self.primary_timeline = timeline;
        if commits_async {
            self.server_async = true;
            // What was asked before this was known is not past the commits.
            self.vain_positions =
                self.primary.expect.iter().filter(|expected| **expected == Expect::Position).count();
        }
    }

    /// The primary has said where its log is.
    pub(crate) fn learn_position(&mut self, value: Option<&Bytes>) {
        let vain = self.vain_positions > 0;
        self.vain_positions = self.vain_positions.saturating_sub(1);
        let lsn = value.and_then(|value| value.as_ref().try_into().ok()).map(u64::from_be_bytes).map(Lsn);
        let (Some(lsn), Some(timeline), false) = (lsn, self.primary_timeline, vain) else {
            // Cancelled, most likely: reads ask again.
            self.position_unknown = true;
            return;
        };
        let position = Position { timeline, lsn };
        (self.told, self.unknown_async) = (Some(position), false);
        if self.token.add(position) {
            build::parameter_status(&mut self.client_out, TOKEN, &position.to_string());
        }
        (self.position_unknown, self.moved) = (false, false);
        if std::mem::take(&mut self.catalog_changed) {
            self.catalog_needed = Some(position);
        }
    }

    /// The answer to [`own::SETTINGS_SQL`].
    pub(crate) fn learn_settings(&mut self, values: &[Bytes]) {
        let (settings, problems) = own::read_settings(values);
        for problem in problems {
            problem.write(&mut self.client_out);
        }
        self.read = settings;
    }

    /// What the local server has not reached: of the token that the session was given, and of what it has seen.
    fn unreached(&mut self, reach: impl Fn(Position) -> Reach) -> [Option<(Position, Reach)>; 2] {
        if std::mem::take(&mut self.forgets_lost) {
            self.token.forget_lost(&reach);
        }
        let given = self.read.token.map(|position| (position, reach(position)));
        let seen = self.token.missing(&reach);
        [given.filter(|(_, reach)| *reach != Reach::Reached), seen]
    }

    /// What a read on the local server would miss.
    pub(crate) fn missing(&mut self, environment: &impl Environment) -> Option<(Position, Reach)> {
        let [given, seen] = self.unreached(|position| environment.reach(position));
        given.filter(|(_, reach)| *reach == Reach::Lost).or(seen).or(given)
    }

    /// What a read on the primary would miss. What was written there is there unless it was lost; of a token that was
    /// given only the primary's own region knows for certain.
    pub(crate) fn missing_on_primary(&mut self, environment: &impl Environment) -> Option<(Position, Reach)> {
        let told = self.told;
        let here = |position: Position| {
            told.is_some_and(|told| told.timeline == position.timeline && told.lsn >= position.lsn)
        };
        let reach = |position| if here(position) { Reach::Reached } else { environment.reach(position) };
        let [given, seen] = self.unreached(reach);
        let lost = |found: &(Position, Reach)| found.1 == Reach::Lost;
        seen.filter(lost).or(given.filter(|found| lost(found) || environment.is_primary()))
    }

    /// Asks for the settings when a unit may have changed them.
    pub(crate) fn refresh_settings(&mut self, leg: Leg, unit: &Unit, rolls_back: bool, status: u8) {
        let undone = unit.ends_transaction || rolls_back || unit.errored;
        let changed = unit.sets_own || (self.set_in_transaction && undone);
        self.settings_due |= changed;
        self.primary.server.guarded &= !changed;
        self.set_in_transaction = status != b'I' && (self.set_in_transaction || unit.sets_own);
        // A query sent behind these would become part of what follows them; a failed transaction answers nothing.
        let in_the_way =
            self.in_flight.iter().any(|other| !other.ended || other.copies_in > 0 || other.streams);
        if self.settings_due && status != b'E' && !in_the_way {
            self.settings_due = false;
            let mut wire = bytes::BytesMut::new();
            build::query(&mut wire, own::SETTINGS_SQL);
            self.send_hidden(leg, &wire, Expect::Settings);
        }
    }
}
