//! The settings by which a session says how fresh its reads must be.
//!
//! They are custom settings of PostgreSQL itself (`pangea.…`, PostgreSQL documentation, section 20.16), so SET, SET
//! LOCAL, RESET, SHOW, ALTER ROLE and DATABASE, start-up options and the server's configuration mean for them what
//! they mean for all others. Here is which values they take.

use std::time::Duration;

use pangea_base::Position;

/// How fresh a session's local reads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Whatever the local server has.
    Eventual,
    /// What the session itself has written and seen.
    #[default]
    Session,
    /// What anybody had committed when the read began. Costs a round trip to the primary.
    Global,
    /// As [`Self::Session`], and no staler than `pangea.max_staleness`; else the primary is read.
    Bounded,
    /// Reads run on the primary.
    Primary,
    /// As [`Self::Eventual`], and writes are refused: write forwarding is off, as with Aurora's `OFF`.
    Off,
}

/// What happens to a read that has waited for `pangea.consistency_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It runs on the primary.
    #[default]
    Primary,
    /// It fails.
    Error,
}

/// One of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `pangea.read_consistency`
    ReadConsistency,
    /// `pangea.max_staleness`
    MaxStaleness,
    /// `pangea.consistency_timeout`
    ConsistencyTimeout,
    /// `pangea.consistency_timeout_action`
    ConsistencyTimeoutAction,
    /// `pangea.token`
    Token,
}

/// All settings by name.
pub const SETTING_NAMES: [(&str, Setting); 5] = [
    ("pangea.read_consistency", Setting::ReadConsistency),
    ("pangea.max_staleness", Setting::MaxStaleness),
    ("pangea.consistency_timeout", Setting::ConsistencyTimeout),
    ("pangea.consistency_timeout_action", Setting::ConsistencyTimeoutAction),
    ("pangea.token", Setting::Token),
];

const LEVELS: [(&str, Level); 6] = [
    ("eventual", Level::Eventual),
    ("session", Level::Session),
    ("global", Level::Global),
    ("bounded", Level::Bounded),
    ("primary", Level::Primary),
    ("off", Level::Off),
];

const ACTIONS: [(&str, TimeoutAction); 2] =
    [("primary", TimeoutAction::Primary), ("error", TimeoutAction::Error)];

/// Longest `pangea.max_staleness` and `pangea.consistency_timeout`.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// What a session has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSettings {
    /// `pangea.read_consistency`
    pub level: Level,
    /// `pangea.max_staleness`, for [`Level::Bounded`].
    pub max_staleness: Duration,
    /// `pangea.consistency_timeout`: longest wait for the local server to catch up.
    pub timeout: Duration,
    /// `pangea.consistency_timeout_action`
    pub timeout_action: TimeoutAction,
    /// `pangea.token`: what the session must have seen.
    pub token: Option<Position>,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            level: Level::default(),
            max_staleness: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            timeout_action: TimeoutAction::default(),
            token: None,
        }
    }
}

/// A value that a setting does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for parameter \"{name}\": \"{value}\"")]
pub struct SettingError {
    name: &'static str,
    value: String,
    /// Which values it takes.
    pub hint: String,
}

impl Setting {
    /// The setting of this name, in any case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let found = SETTING_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, setting)| *setting)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        SETTING_NAMES.iter().find(|(_, setting)| *setting == self).map_or("", |(name, _)| name)
    }

    /// The value that a server has when nobody has said anything else.
    #[must_use]
    pub fn default_value(self) -> &'static str {
        match self {
            Self::ReadConsistency => "session",
            Self::MaxStaleness => "10s",
            Self::ConsistencyTimeout => "5s",
            Self::ConsistencyTimeoutAction => "primary",
            Self::Token => "",
        }
    }

    fn hint(self) -> String {
        match self {
            Self::ReadConsistency => available(&LEVELS),
            Self::ConsistencyTimeoutAction => available(&ACTIONS),
            Self::MaxStaleness | Self::ConsistencyTimeout => {
                "Valid values are 0 to 1 hour, with a unit of \"us\", \"ms\", \"s\", \"min\" or \"h\"; \
                 milliseconds without one."
                    .to_owned()
            }
            Self::Token => "A token is what SHOW pangea.token has told, such as 1:0/3000060.".to_owned(),
        }
    }
}

impl ReadSettings {
    /// Sets one of them.
    ///
    /// # Errors
    /// When it does not take that value; nothing is changed then.
    pub fn set(&mut self, setting: Setting, value: &str) -> Result<(), SettingError> {
        let text = value.trim();
        let done = match setting {
            Setting::ReadConsistency => by_name(&LEVELS, text).map(|level| self.level = level),
            Setting::MaxStaleness => duration(text).map(|longest| self.max_staleness = longest),
            Setting::ConsistencyTimeout => duration(text).map(|timeout| self.timeout = timeout),
            Setting::ConsistencyTimeoutAction => {
                by_name(&ACTIONS, text).map(|action| self.timeout_action = action)
            }
            Setting::Token if text.is_empty() => {
                self.token = None;
                Some(())
            }
            Setting::Token => text.parse().ok().map(|token| self.token = Some(token)),
        };
        let error = || SettingError { name: setting.name(), value: value.to_owned(), hint: setting.hint() };
        done.ok_or_else(error)
    }
}

fn available<T>(names: &[(&str, T)]) -> String {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    format!("Available values: {}.", names.join(", "))
}

fn by_name<T: Copy>(names: &[(&str, T)], text: &str) -> Option<T> {
    names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
}

/// A time as PostgreSQL's settings take it (PostgreSQL documentation, section 20.1.1), of whole units.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let micros = match unit.trim_start() {
        "us" => 1,
        "" | "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    let duration = Duration::from_micros(number.checked_mul(micros)?);
    (duration <= DURATION_MAX).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_default_values() {
        let mut settings = ReadSettings { level: Level::Off, ..ReadSettings::default() };
        for (_, setting) in SETTING_NAMES {
            settings.set(setting, setting.default_value()).unwrap();
        }
        assert_eq!(settings, ReadSettings::default());
    }

    #[test]
    fn values_in_any_case_and_with_units() {
        let mut settings = ReadSettings::default();
        for (setting, value) in [
            (Setting::ReadConsistency, "BOUNDED"),
            (Setting::MaxStaleness, "1500"),
            (Setting::ConsistencyTimeout, "2 min"),
            (Setting::ConsistencyTimeoutAction, "Error"),
            (Setting::Token, "2:0/A"),
        ] {
            settings.set(setting, value).unwrap();
        }
        assert_eq!(
            settings,
            ReadSettings {
                level: Level::Bounded,
                max_staleness: Duration::from_millis(1500),
                timeout: Duration::from_secs(120),
                timeout_action: TimeoutAction::Error,
                token: "2:0/A".parse().ok(),
            }
        );
    }

    #[test]
    fn other_values_are_refused() {
        let mut settings = ReadSettings::default();
        for (setting, value) in [
            (Setting::ReadConsistency, "bogus"),
            (Setting::ReadConsistency, ""),
            (Setting::MaxStaleness, "-1"),
            (Setting::MaxStaleness, "2h"),
            (Setting::MaxStaleness, "1 week"),
            (Setting::ConsistencyTimeout, "99999999999999999999"),
            (Setting::ConsistencyTimeout, "99999999999999999h"),
            (Setting::Token, "0/3000060"),
        ] {
            let error = settings.set(setting, value).unwrap_err();
            assert!(error.to_string().contains(setting.name()) && !error.hint.is_empty(), "{error}");
        }
        assert_eq!(settings, ReadSettings::default());
    }
}
