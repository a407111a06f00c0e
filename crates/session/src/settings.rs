//! What a session has set, in a form that makes the same state on another server.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::listening::ChannelChange;

/// Most settings remembered. A session that sets more different things stays on the primary.
pub(crate) const SETTINGS_MAX: usize = 512;

/// Settings that decide who the session is: a server must have confirmed them before anything else runs there.
pub(crate) const IDENTITY: [&str; 2] = ["role", "session_authorization"];

/// A change of the session's state: running `wire` makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// What it replaces: a later setting with the same key makes it superfluous. Empty when not known.
    pub(crate) key: String,
    /// Frames with exactly one ReadyForQuery as answer.
    pub(crate) wire: Bytes,
}

/// The key of RESET ALL, which supersedes all settings but those of [`IDENTITY`].
pub(crate) const RESET_ALL: &str = "*";

/// The settings of a session, numbered in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    entries: Made,
    newest: u64,
}

/// Settings with their numbers, as they were at a time. None are no allocation, nor anything else that threads share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made(Option<Arc<[(u64, Setting)]>>);

impl Made {
    fn new(entries: Vec<(u64, Setting)>) -> Self {
        Self((!entries.is_empty()).then(|| entries.into()))
    }

    /// Whether both are known to be the same without a look at what they are.
    fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Deref for Made {
    type Target = [(u64, Setting)];

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or_default()
    }
}

/// What has to be done on a server that has the settings of another session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// These are to be made.
    Make(Vec<Bytes>),
    /// All is to be reset first.
    Reset,
}

impl Settings {
    /// Number of the newest setting.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= SETTINGS_MAX
    }

    /// Adds a setting; returns its number.
    pub(crate) fn push(&mut self, setting: Setting) -> u64 {
        let is_identity = |key: &str| IDENTITY.contains(&key);
        let mut entries = self.entries.to_vec();
        match setting.key.as_str() {
            RESET_ALL => entries.retain(|(_, old)| is_identity(&old.key)),
            // A new session user also resets the role.
            "session_authorization" => entries.retain(|(_, old)| !is_identity(&old.key)),
            "" => {}
            key => entries.retain(|(_, old)| old.key != key),
        }
        self.newest += 1;
        entries.push((self.newest, setting));
        self.entries = Made::new(entries);
        self.newest
    }

    /// Settings newer than the number.
    pub(crate) fn since(&self, applied: u64) -> impl Iterator<Item = &Setting> {
        self.entries.iter().filter(move |(number, _)| *number > applied).map(|(_, setting)| setting)
    }

    /// As in a new session.
    pub(crate) fn clear(&mut self) {
        self.entries = Made::default();
    }

    /// Those that may change what a text means when it is prepared: literals are read by them, names are looked up.
    pub(crate) fn salt(&self) -> impl Iterator<Item = &Bytes> {
        let matters =
            |setting: &&Setting| setting.key != "application_name" && !setting.key.starts_with("pangea.");
        self.entries.iter().map(what).filter(matters).map(|setting| &setting.wire)
    }

    /// All of them.
    pub(crate) fn made(&self) -> &Made {
        &self.entries
    }

    /// What makes them on a server that has others.
    pub(crate) fn change_from(&self, made: &Made) -> Change {
        if made.is(&self.entries) || self.entries.iter().map(what).eq(made.iter().map(what)) {
            return Change::None;
        }
        let here = |key: &str| self.entries.iter().any(|(_, setting)| setting.key == key);
        let simple = |(_, setting): &(u64, Setting)| is_simple(&setting.key);
        let all_simple = self.entries.iter().all(simple) && made.iter().all(simple);
        if !all_simple || made.iter().any(|(_, setting)| !here(&setting.key)) {
            return Change::Reset;
        }
        let differs = |setting: &&Setting| !made.iter().any(|(_, there)| there == *setting);
        let missing = self.entries.iter().map(what).filter(differs);
        Change::Make(missing.map(|setting| setting.wire.clone()).collect())
    }
}

fn what((_, setting): &(u64, Setting)) -> &Setting {
    setting
}

/// Whether a setting is about one parameter, whose value is not a matter of order or of identity.
fn is_simple(key: &str) -> bool {
    let about_several = key.is_empty() || key == RESET_ALL || key.contains(' ');
    !about_several && !IDENTITY.contains(&key)
}

/// What a transaction has set up, to be done again when it moves to the primary, and to be remembered when it
/// commits.
#[derive(Debug, Clone)]
pub(crate) enum SetUp {
    /// Lasts beyond the transaction when it commits.
    Session(Setting),
    /// SET LOCAL, SET TRANSACTION, SET CONSTRAINTS.
    Local(Bytes),
    /// LISTEN, UNLISTEN: count from the end of the transaction.
    Channel(ChannelChange, Bytes),
    /// SAVEPOINT.
    Savepoint(String, Bytes),
}

/// Most things that a transaction sets up here. One that sets up more goes on at the primary.
pub(crate) const SET_UP_MAX: usize = 1024;

impl SetUp {
    pub(crate) fn wire(&self) -> &Bytes {
        match self {
            Self::Session(Setting { wire, .. })
            | Self::Local(wire)
            | Self::Channel(_, wire)
            | Self::Savepoint(_, wire) => wire,
        }
    }
}

/// Goes back to a savepoint: what was set up after it is undone.
pub(crate) fn roll_back_to(log: &mut Vec<SetUp>, savepoint: &str) {
    let found =
        log.iter().rposition(|set_up| matches!(set_up, SetUp::Savepoint(name, _) if name == savepoint));
    if let Some(index) = found {
        log.truncate(index + 1);
    }
}

/// Forgets a savepoint and those after it: what was set up since stays.
pub(crate) fn release(log: &mut Vec<SetUp>, savepoint: &str) {
    let found =
        log.iter().rposition(|set_up| matches!(set_up, SetUp::Savepoint(name, _) if name == savepoint));
    if let Some(index) = found {
        let kept: Vec<SetUp> =
            log.drain(index..).filter(|set_up| !matches!(set_up, SetUp::Savepoint(..))).collect();
        log.extend(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, wire: &'static str) -> Setting {
        Setting { key: key.to_owned(), wire: Bytes::from_static(wire.as_bytes()) }
    }

    fn wires(settings: &Settings, since: u64) -> Vec<&[u8]> {
        settings.since(since).map(|setting| setting.wire.as_ref()).collect()
    }

    #[test]
    fn later_settings_supersede_earlier_ones() {
        let mut settings = Settings::default();
        settings.push(setting("a", "a1"));
        let seen = settings.push(setting("b", "b1"));
        settings.push(setting("a", "a2"));
        assert_eq!(wires(&settings, 0), [b"b1", b"a2"]);
        assert_eq!(wires(&settings, seen), [b"a2"]);
        settings.push(setting("role", "r"));
        settings.push(setting(RESET_ALL, "*"));
        assert_eq!(wires(&settings, 0), [b"r".as_slice(), b"*"]);
        settings.push(setting("session_authorization", "s"));
        assert_eq!(wires(&settings, 0), [b"*", b"s"]);
    }

    #[test]
    fn a_savepoint_undoes_what_came_after_it() {
        let wire = Bytes::new();
        let mut log = vec![
            SetUp::Savepoint("a".to_owned(), wire.clone()),
            SetUp::Session(setting("x", "x")),
            SetUp::Savepoint("b".to_owned(), wire.clone()),
            SetUp::Local(wire),
        ];
        roll_back_to(&mut log, "b");
        assert_eq!(log.len(), 3);
        roll_back_to(&mut log, "unknown");
        assert_eq!(log.len(), 3);
        roll_back_to(&mut log, "a");
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn a_released_savepoint_is_gone_and_its_settings_stay() {
        let wire = Bytes::new();
        let savepoint = || SetUp::Savepoint("a".to_owned(), wire.clone());
        let mut log = vec![savepoint(), SetUp::Session(setting("x", "x")), savepoint()];
        release(&mut log, "a");
        roll_back_to(&mut log, "a");
        assert_eq!(log.len(), 1);
        let mut log = vec![savepoint(), SetUp::Session(setting("x", "x"))];
        release(&mut log, "a");
        roll_back_to(&mut log, "a");
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn a_server_of_another_session_gets_what_differs_or_is_reset() {
        let of = |made: &[(&str, &'static str)]| {
            let mut settings = Settings::default();
            for (key, wire) in made {
                settings.push(setting(key, wire));
            }
            settings
        };
        let there = of(&[("a", "a1"), ("b", "b1")]);
        let change = |wanted: &[(&str, &'static str)]| of(wanted).change_from(there.made());
        assert_eq!(change(&[("a", "a1"), ("b", "b1")]), Change::None);
        let make = |wires: &[&'static str]| {
            Change::Make(wires.iter().map(|wire| Bytes::from_static(wire.as_bytes())).collect())
        };
        assert_eq!(change(&[("a", "a2"), ("b", "b1")]), make(&["a2"]));
        assert_eq!(change(&[("a", "a1"), ("b", "b1"), ("c", "c1")]), make(&["c1"]));
        // What the session has not set must not stay; nor does anybody know what these have set.
        assert_eq!(change(&[("a", "a1")]), Change::Reset);
        assert_eq!(change(&[("a", "a1"), ("b", "b1"), ("", "x")]), Change::Reset);
        assert_eq!(change(&[("a", "a1"), ("b", "b1"), ("role", "r")]), Change::Reset);
        assert_eq!(change(&[("a", "a1"), ("b", "b1"), (RESET_ALL, "*")]), Change::Reset);
        assert_eq!(of(&[]).change_from(there.made()), Change::Reset);
        assert_eq!(there.change_from(of(&[]).made()), make(&["a1", "b1"]));
    }
}
