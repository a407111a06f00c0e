//! Pangea's own settings: what a session asks its servers about them, and statements about them put into words that
//! PostgreSQL understands.
//!
//! The settings are custom settings of the servers, so that transactions, savepoints, SET LOCAL, RESET, ALTER ROLE and
//! start-up options mean what they always mean. Whenever they may have changed, the server that knows is asked.

use bytes::{Bytes, BytesMut};
use pangea_base::{Lsn, Position, Timeline};
use pangea_consistency::{ReadSettings, SETTING_NAMES, Setting};
use pangea_pgwire::frame::{HEADER_LEN, frontend_header};
use pangea_pgwire::{ErrorFields, SqlState};
use pangea_sql::{Batch, Effect, Statement};

use crate::shared::HOLD_SQL;

/// Asked when a session begins, on the server that answers its start-up message.
///
/// In a transaction of its own level: a standby refuses queries at SERIALIZABLE, which may be the default.
pub const START_SQL: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SHOW default_transaction_isolation; SHOW synchronous_commit; \
     SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END; \
     SHOW apg_write_forward.consistency_mode; SHOW pangea.read_consistency; SHOW pangea.max_staleness; \
     SHOW pangea.consistency_timeout; SHOW pangea.consistency_timeout_action; SHOW pangea.token; COMMIT";

/// Asked when the settings may have changed. SHOW takes no snapshot: a transaction may not have taken its own yet.
pub(crate) const SETTINGS_SQL: &str = "SHOW pangea.read_consistency; SHOW pangea.max_staleness; \
     SHOW pangea.consistency_timeout; SHOW pangea.consistency_timeout_action; SHOW pangea.token";

/// Asked when a connection to the primary is opened beside the local one.
pub(crate) const PRIMARY_SQL: &str = "SHOW synchronous_commit; SELECT \
     pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)";

/// Run on the primary before a session's first statement there while commits wait for other regions: roles, databases
/// and start-up options may have made commits that do not wait, or hide the warning that one has stopped to wait.
pub(crate) const GUARD_SQL: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
     WHERE pg_catalog.current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); \
     SELECT pg_catalog.set_config('client_min_messages', 'warning', false) \
     WHERE pg_catalog.current_setting('client_min_messages') = 'error'";

/// Whether the first frame is a question that the gateway asks for itself, whose answer a session needs that leaves a server: none of
/// them writes. Its length, if it is.
#[must_use]
pub fn own_question(frames: &[u8]) -> Option<usize> {
    let header = frontend_header(frames).ok()??;
    let text = frames.get(HEADER_LEN..header.frame_len())?.strip_suffix(b"\0")?;
    let asked = [START_SQL, PRIMARY_SQL, SETTINGS_SQL, HOLD_SQL].iter().any(|sql| sql.as_bytes() == text);
    (header.tag == b'Q' && asked).then(|| header.frame_len())
}

/// An error, which makes the server refuse what follows in a transaction block.
pub(crate) const FAIL_SQL: &str = "ABORTED BY PANGEA: a statement was refused before it ran";

/// Number of answers of [`START_SQL`] before those of [`SETTINGS_SQL`].
pub(crate) const START_FACTS: usize = 4;

/// Aurora's names of `pangea.read_consistency`: of its PostgreSQL (write forwarding) and of its MySQL.
pub const ALIASES: [&str; 2] = ["apg_write_forward.consistency_mode", "aurora_replica_read_consistency"];

/// What a server has answered to [`PRIMARY_SQL`]: whether commits may be acknowledged before they are flushed, and its
/// timeline.
pub(crate) fn primary_facts(
    synchronous: Option<&Bytes>,
    timeline: Option<&Bytes>,
) -> (bool, Option<Timeline>) {
    let timeline = timeline.and_then(|text| std::str::from_utf8(text).ok());
    let timeline = timeline.and_then(|text| u32::from_str_radix(text, 16).ok()).map(Timeline);
    (synchronous.is_some_and(|value| value.as_ref() == b"off"), timeline)
}

/// Begins the name of a setting that no server has: setting it fails, and the error is replaced.
const REFUSED: &str = "pangea_refuses_";

/// Refusals remembered; when there are more, the oldest texts are lost and a general one is shown.
const REFUSALS_MAX: usize = 32;

/// Whether a setting is one of ours. Names with that beginning that mean nothing are refused as such.
pub(crate) fn is_own(name: &str) -> bool {
    name.starts_with("pangea.") || ALIASES.contains(&name)
}

/// Reads the answers of [`SETTINGS_SQL`]. What has no valid value keeps its default, and is told of.
pub(crate) fn read_settings(values: &[Bytes]) -> (ReadSettings, Vec<ErrorFields>) {
    let mut settings = ReadSettings::default();
    let mut problems = Vec::new();
    for ((_, setting), value) in SETTING_NAMES.iter().zip(values) {
        if let Err(error) = settings.set(*setting, &String::from_utf8_lossy(value)) {
            let hint = error.hint.clone();
            let told = ErrorFields::warning(SqlState::INVALID_PARAMETER_VALUE, error.to_string());
            problems.push(told.with_hint(hint).with_detail("The default is used."));
        }
    }
    (settings, problems)
}

/// The errors that statements were replaced by.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    errors: Vec<ErrorFields>,
    /// Errors dropped for want of room.
    dropped: usize,
}

impl Refusals {
    /// A statement that fails, in whose place `error` is shown.
    fn statement(&mut self, error: ErrorFields) -> String {
        let found = self.errors.iter().position(|known| *known == error);
        let index = found.unwrap_or_else(|| {
            if self.errors.len() >= REFUSALS_MAX {
                self.errors.remove(0);
                self.dropped += 1;
            }
            self.errors.push(error);
            self.errors.len() - 1
        });
        format!("SET {REFUSED}{} TO DEFAULT", self.dropped + index)
    }

    /// The error to show instead of one with this message.
    pub(crate) fn replacement(&self, message: &[u8]) -> Option<BytesMut> {
        let message = std::str::from_utf8(message).ok()?;
        let (_, rest) = message.split_once(REFUSED)?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let number: usize = rest[..digits].parse().ok()?;
        let known = number.checked_sub(self.dropped).and_then(|index| self.errors.get(index));
        let forgotten = || {
            let text = "invalid value for one of Pangea's settings";
            ErrorFields::error(SqlState::INVALID_PARAMETER_VALUE, text)
        };
        let mut frame = BytesMut::new();
        known.cloned().unwrap_or_else(forgotten).write(&mut frame);
        Some(frame)
    }
}

/// The setting with which a session says what its commits wait for.
const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";

/// The setting that may hide the warning that a commit has stopped to wait.
const CLIENT_MIN_MESSAGES: &str = "client_min_messages";

/// Whether [`GUARD_SQL`] is about a setting.
pub(crate) fn is_guarded(name: &str) -> bool {
    name == SYNCHRONOUS_COMMIT || name == CLIENT_MIN_MESSAGES
}

/// Whether commits with this value wait until another region has flushed them, and say so when they do not.
fn waits_elsewhere(name: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match name {
        SYNCHRONOUS_COMMIT => matches!(
            value.as_str(),
            "on" | "remote_apply" | "true" | "yes" | "1" | "t" | "tr" | "tru" | "y" | "ye"
        ),
        _ => value != "error",
    }
}

/// What a statement's rewriting has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// What the session has written.
    pub(crate) token: Option<Position>,
    /// The timeline that the local server replays.
    pub(crate) timeline: Option<Timeline>,
    /// Commits are to be on other regions before they are acknowledged.
    pub(crate) commits_elsewhere: bool,
    /// What the client has called itself, where the server was not told so when it was started.
    pub(crate) application_name: Option<&'a str>,
}

/// A text in which the statements about our settings are such that a server can run them; `None` when it is so
/// already.
pub(crate) fn rewrite(text: &str, batch: &Batch, seen: Seen<'_>, refusals: &mut Refusals) -> Option<String> {
    let mut out: Option<String> = None;
    // From the end: the ranges of those before stay right.
    for statement in batch.statements.iter().rev() {
        let part = text.get(statement.range.clone()).unwrap_or_default();
        let replaced = match &statement.effect {
            Effect::Set { name, local, value } if is_own(name) => {
                rewrite_set(part, name, *local, value.as_deref(), refusals)
            }
            Effect::Set { name, value: Some(value), .. }
                if seen.commits_elsewhere && is_guarded(name) && !waits_elsewhere(name, value) =>
            {
                let text = format!("cannot set parameter \"{name}\" to \"{value}\"");
                let error = ErrorFields::error(SqlState::INSUFFICIENT_PRIVILEGE, text)
                    .with_detail("The durability of this cluster is sync: commits wait for other regions.")
                    .with_hint("An operator can change that with `pangea durability async`.");
                Some(refusals.statement(error))
            }
            // What is reset to may be less, by the role, the database or the start-up options.
            Effect::Set { name, local, value: None } if seen.commits_elsewhere && is_guarded(name) => {
                let scope = if *local { "LOCAL " } else { "" };
                let value = if name == SYNCHRONOUS_COMMIT { "on" } else { "warning" };
                Some(format!("SET {scope}{name} TO {value}"))
            }
            // On a shared server it would become that of nobody.
            Effect::Set { name, local, value: None } if name == "application_name" => {
                let scope = if *local { "LOCAL " } else { "" };
                let own = seen.application_name.map(|own| own.replace('\'', "''"));
                own.map(|own| format!("SET {scope}application_name TO '{own}'"))
            }
            Effect::Show { name } => rewrite_show(&name.to_ascii_lowercase(), seen),
            _ => None,
        };
        if let Some(replaced) = replaced {
            out.get_or_insert_with(|| text.to_owned()).replace_range(statement.range.clone(), &replaced);
        }
    }
    out
}

fn rewrite_set(
    part: &str,
    name: &str,
    local: bool,
    value: Option<&str>,
    refusals: &mut Refusals,
) -> Option<String> {
    let by_function = part.to_ascii_lowercase().contains("set_config");
    let alias = ALIASES.contains(&name);
    if alias && by_function {
        let error = ErrorFields::error(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("parameter \"{name}\" cannot be set with set_config()"),
        );
        let hint = "Use SET, or set_config() with pangea.read_consistency.";
        return Some(refusals.statement(error.with_hint(hint)));
    }
    let setting = if alias { Some(Setting::ReadConsistency) } else { Setting::by_name(name) };
    let Some(setting) = setting else {
        let text = format!("unrecognized configuration parameter \"{name}\"");
        let names: Vec<&str> = SETTING_NAMES.iter().map(|(name, _)| *name).collect();
        let error = ErrorFields::error(SqlState::UNDEFINED_OBJECT, text);
        return Some(refusals.statement(error.with_hint(format!("There are: {}.", names.join(", ")))));
    };
    if let Some(value) = value
        && let Err(error) = ReadSettings::default().set(setting, value)
    {
        let text = error.to_string().replace(setting.name(), name);
        let told = ErrorFields::error(SqlState::INVALID_PARAMETER_VALUE, text).with_hint(error.hint);
        return Some(refusals.statement(told));
    }
    let scope = if local { "LOCAL " } else { "" };
    let value =
        value.map_or_else(|| "DEFAULT".to_owned(), |value| format!("'{}'", value.to_ascii_lowercase()));
    alias.then(|| format!("SET {scope}{} TO {value}", setting.name()))
}

/// The token of a session is what it has written, and all that the server that it reads has replayed.
fn rewrite_show(name: &str, seen: Seen<'_>) -> Option<String> {
    if ALIASES.contains(&name) {
        let setting = Setting::ReadConsistency.name();
        return Some(format!(
            "SELECT pg_catalog.upper(pg_catalog.current_setting('{setting}')) AS \"{name}\""
        ));
    }
    if Setting::by_name(name) != Some(Setting::Token) {
        return None;
    }
    let replayed = seen.timeline.or(seen.token.map(|token| token.timeline)).map_or(1, |timeline| timeline.0);
    let (timeline, lsn) = seen.token.map_or((0, Lsn(0)), |token| (token.timeline.0, token.lsn));
    Some(format!(
        "SELECT CASE WHEN s.timeline > {timeline} OR s.timeline = {timeline} AND s.lsn > '{lsn}' \
         THEN s.timeline || ':' || s.lsn ELSE '{timeline}:{lsn}' END AS \"pangea.token\" FROM (SELECT \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_flush_lsn() END AS lsn, \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN {replayed} ELSE ('x' || pg_catalog.substr(\
         pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::pg_catalog.bit(32)::int \
         END AS timeline) s"
    ))
}

/// Whether a statement asks for the token: any server may answer it, whatever its functions say.
pub(crate) fn shows_token(statement: &Statement) -> bool {
    matches!(&statement.effect, Effect::Show { name } if Setting::by_name(name) == Some(Setting::Token))
}
