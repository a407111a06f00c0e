//! What a session has set, in a form that makes the same state on another server.

use bytes::Bytes;

/// Most settings remembered. A session that sets more different things stays on the primary.
pub(crate) const SETTINGS_MAX: usize = 512;

/// Settings that decide who the session is: a server must have confirmed them before anything else runs there.
pub(crate) const IDENTITY: [&str; 2] = ["role", "session_authorization"];

/// A change of the session's state: running `wire` makes it.
#[derive(Debug, Clone)]
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
    entries: Vec<(u64, Setting)>,
    newest: u64,
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
        match setting.key.as_str() {
            RESET_ALL => self.entries.retain(|(_, old)| is_identity(&old.key)),
            // A new session user also resets the role.
            "session_authorization" => self.entries.retain(|(_, old)| !is_identity(&old.key)),
            "" => {}
            key => self.entries.retain(|(_, old)| old.key != key),
        }
        self.newest += 1;
        self.entries.push((self.newest, setting));
        self.newest
    }

    /// Settings newer than the number.
    pub(crate) fn since(&self, applied: u64) -> impl Iterator<Item = &Setting> {
        self.entries.iter().filter(move |(number, _)| *number > applied).map(|(_, setting)| setting)
    }

    /// As in a new session.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// What a transaction has set up, to be done again when it moves to the primary, and to be remembered when it
/// commits.
#[derive(Debug, Clone)]
pub(crate) enum SetUp {
    /// Lasts beyond the transaction when it commits.
    Session(Setting),
    /// SET LOCAL, SET TRANSACTION, SET CONSTRAINTS.
    Local(Bytes),
    /// SAVEPOINT.
    Savepoint(String, Bytes),
}

/// Most things that a transaction sets up here. One that sets up more goes on at the primary.
pub(crate) const SET_UP_MAX: usize = 1024;

impl SetUp {
    pub(crate) fn wire(&self) -> &Bytes {
        match self {
            Self::Session(Setting { wire, .. }) | Self::Local(wire) | Self::Savepoint(_, wire) => wire,
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
}
