//! What pools may have, and the errors of those who had to wait for too long.

use std::collections::HashMap;
use std::time::Duration;

use pangea_pgwire::{ErrorFields, SqlState};

use super::PoolKey;

/// Limits of the pools and of their clients. They can be changed while a gateway runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLimits {
    /// Most connections of one user to one database of one server.
    pub size: usize,
    /// The same by user, where it differs.
    pub sizes: HashMap<String, usize>,
    /// Most connections to one database of one server.
    pub database_max: Option<usize>,
    /// Most connections of one user to one server.
    pub user_max: Option<usize>,
    /// Longest wait for a connection.
    pub wait_timeout: Duration,
    /// An idle connection is closed after this time.
    pub idle_timeout: Duration,
    /// A connection that is older is closed when it becomes idle.
    pub lifetime: Duration,
    /// How long clients may ask for nothing, whether they share connections or not.
    pub client_idle: IdleTimeouts,
}

/// How long clients may ask for nothing before they are disconnected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleTimeouts {
    /// Outside of a transaction.
    pub session: Option<Duration>,
    /// Within one.
    pub transaction: Option<Duration>,
}

/// What of them counts for one pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) size: usize,
    pub(super) wait_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) lifetime: Duration,
}

impl PoolLimits {
    pub(super) fn of(&self, user: &str) -> Bounds {
        let Self { wait_timeout, idle_timeout, lifetime, .. } = *self;
        Bounds { size: self.size_of(user), wait_timeout, idle_timeout, lifetime }
    }

    fn size_of(&self, user: &str) -> usize {
        self.sizes.get(user).copied().unwrap_or(self.size)
    }

    /// Whether there may be fewer connections of any kind than `before`.
    pub(super) fn are_below(&self, before: &Self) -> bool {
        let fewer = |now: Option<usize>, then: Option<usize>| {
            now.is_some_and(|now| then.is_none_or(|then| now < then))
        };
        let mut users = self.sizes.keys().chain(before.sizes.keys());
        self.size < before.size
            || fewer(self.database_max, before.database_max)
            || fewer(self.user_max, before.user_max)
            || users.any(|user| self.size_of(user) < before.size_of(user))
    }
}

/// What there are as many connections of as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The pool.
    Pool(usize),
    /// The database, in all pools.
    Database(usize),
    /// The user, in all pools.
    User(usize),
}

impl Full {
    /// Whether the connections of the one pool keep the other from having more.
    pub(super) fn concerns(self, one: &PoolKey, other: &PoolKey) -> bool {
        match self {
            Self::Pool(_) => one == other,
            Self::Database(_) => one.server == other.server && one.database == other.database,
            Self::User(_) => one.server == other.server && one.user == other.user,
        }
    }

    /// The error of a statement that has waited for so long.
    pub(super) fn error(self, key: &PoolKey, waited: Duration) -> ErrorFields {
        let PoolKey { user, database, .. } = key;
        let (whose, setting) = match self {
            Self::Pool(size) => (
                format!("{size} connections of user \"{user}\" to database \"{database}\""),
                "pool.default_pool_size, or pool_size of the user in pool.users",
            ),
            Self::Database(most) => {
                (format!("{most} connections to database \"{database}\""), "pool.max_db_connections")
            }
            Self::User(most) => {
                (format!("{most} connections of user \"{user}\""), "pool.max_user_connections")
            }
        };
        let text = format!("no server connection became free within {} s", waited.as_secs_f32());
        ErrorFields::error(SqlState::TOO_MANY_CONNECTIONS, text)
            .with_detail(format!("All {whose} are in use. Nothing was executed."))
            .with_hint(format!(
                "Make transactions shorter, or raise {setting}; SHOW POOLS on database \"pangea\" tells who waits."
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> PoolLimits {
        PoolLimits {
            size: 20,
            sizes: HashMap::from([("few".to_owned(), 2)]),
            database_max: None,
            user_max: Some(50),
            wait_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
            client_idle: IdleTimeouts::default(),
        }
    }

    #[test]
    fn users_have_sizes_of_their_own() {
        assert_eq!((limits().of("few").size, limits().of("others").size), (2, 20));
    }

    #[test]
    fn only_lower_limits_are_below() {
        let before = limits();
        let below = |change: fn(&mut PoolLimits)| {
            let mut now = before.clone();
            change(&mut now);
            now.are_below(&before)
        };
        assert!(!below(|_| {}));
        assert!(!below(|limits| limits.size = 21));
        assert!(!below(|limits| limits.user_max = None));
        assert!(!below(|limits| limits.wait_timeout = Duration::ZERO));
        assert!(!below(|limits| _ = limits.sizes.insert("few".to_owned(), 3)));
        // The user has the default then.
        assert!(!below(|limits| _ = limits.sizes.remove("few")));
        assert!(below(|limits| limits.size = 19));
        assert!(below(|limits| limits.user_max = Some(49)));
        assert!(below(|limits| limits.database_max = Some(1000)));
        assert!(below(|limits| _ = limits.sizes.insert("few".to_owned(), 1)));
        assert!(below(|limits| _ = limits.sizes.insert("other".to_owned(), 19)));
    }

    #[test]
    fn the_error_names_the_limit_and_its_setting() {
        let key = PoolKey {
            server: "here".to_owned(),
            epoch: None,
            user: "app".to_owned(),
            database: "shop".to_owned(),
        };
        for (full, detail, setting) in [
            (
                Full::Pool(20),
                "All 20 connections of user \"app\" to database \"shop\" are",
                "default_pool_size",
            ),
            (Full::Database(30), "All 30 connections to database \"shop\" are", "max_db_connections"),
            (Full::User(40), "All 40 connections of user \"app\" are", "max_user_connections"),
        ] {
            let error = full.error(&key, Duration::from_secs(2));
            assert_eq!((error.severity, error.code.as_str()), ("ERROR", "53300"));
            assert_eq!(error.message, "no server connection became free within 2 s");
            assert!(error.detail.is_some_and(|told| told.starts_with(detail)), "{full:?}");
            assert!(error.hint.is_some_and(|told| told.contains(setting)), "{full:?}");
        }
    }
}
