//! How many connections there are to a database, and of a user, in all pools of a server together.
//!
//! A pool asks before it opens a connection, and tells when one is closed: what sessions do between that touches
//! nothing here but a flag. A pool whose clients wait because of other pools' connections is *starved*. It gets those
//! that are idle at once, whoever has them; and if it has no connection at all, after [`PATIENCE`] the next that is given
//! back, though the other pool's clients wait for it too. Rejected: one queue for all pools of a limit. Each turn of
//! another user's would cost a new connection, which is a hundred times what a short transaction costs.
//!
//! The ledger is locked last: after a pool, never before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::PoolKey;
use super::limits::Full;

/// How long a pool without any connection leaves others' to them.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    /// Whether any pool is starved. The locks of the pools order it: who has put a connection into a pool sees it when a
    /// pool was starved before it looked there.
    starving: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    database_max: Option<usize>,
    user_max: Option<usize>,
    /// By server and name.
    databases: HashMap<(String, String), usize>,
    users: HashMap<(String, String), usize>,
    starved: Vec<Starved>,
}

#[derive(Debug)]
struct Starved {
    key: PoolKey,
    /// What keeps it from having more.
    full: Full,
    /// Whether it has no connection at all, and since when that or its being starved.
    has_none: bool,
    since: Instant,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_limits(&self, database_max: Option<usize>, user_max: Option<usize>) {
        let mut state = self.lock();
        (state.database_max, state.user_max) = (database_max, user_max);
    }

    /// Counts a connection that a pool with `own` of them is about to open; without room the pool is starved.
    pub(super) fn open(&self, now: Instant, key: &PoolKey, own: usize) -> Result<(), Full> {
        let mut state = self.lock();
        if let Some(full) = state.full(key) {
            state.starve(now, key, full, own == 0);
            self.starving.store(true, Ordering::Relaxed);
            return Err(full);
        }
        *state.databases.entry((key.server.clone(), key.database.clone())).or_default() += 1;
        *state.users.entry((key.server.clone(), key.user.clone())).or_default() += 1;
        Ok(())
    }

    /// A connection of the pool is closed.
    pub(super) fn close(&self, key: &PoolKey) {
        let mut state = self.lock();
        take_one(&mut state.databases, &(key.server.clone(), key.database.clone()));
        take_one(&mut state.users, &(key.server.clone(), key.user.clone()));
    }

    /// Nobody waits in the pool, or only for its own connections.
    pub(super) fn satisfy(&self, key: &PoolKey) {
        let mut state = self.lock();
        state.starved.retain(|starved| starved.key != *key);
        self.starving.store(!state.starved.is_empty(), Ordering::Relaxed);
    }

    /// What keeps the pool from having more connections.
    pub(super) fn full(&self, key: &PoolKey) -> Option<Full> {
        self.lock().full(key)
    }

    /// Whether any pool is starved: a cheap question.
    pub(super) fn is_starving(&self) -> bool {
        self.starving.load(Ordering::Relaxed)
    }

    /// The starved pools: those without any connection first, then who has been so for longest.
    pub(super) fn starved(&self) -> Vec<PoolKey> {
        let mut state = self.lock();
        state.starved.sort_by_key(|starved| (!starved.has_none, starved.since));
        state.starved.iter().map(|starved| starved.key.clone()).collect()
    }

    /// Whether an idle connection of this pool is of use to one that is starved.
    pub(super) fn is_wanted(&self, key: &PoolKey) -> bool {
        self.lock().starved.iter().any(|starved| starved.full.concerns(&starved.key, key))
    }

    /// Whether this pool has to leave a connection to another though its own clients wait for it.
    pub(super) fn yields(&self, now: Instant, key: &PoolKey) -> bool {
        let due =
            |starved: &Starved| starved.has_none && now.saturating_duration_since(starved.since) >= PATIENCE;
        let concerned = |starved: &Starved| starved.key != *key && starved.full.concerns(&starved.key, key);
        self.lock().starved.iter().any(|starved| due(starved) && concerned(starved))
    }
}

impl State {
    fn full(&self, key: &PoolKey) -> Option<Full> {
        let count = |counts: &HashMap<(String, String), usize>, name: &String| {
            counts.get(&(key.server.clone(), name.clone())).copied().unwrap_or(0)
        };
        let database = self.database_max.filter(|most| count(&self.databases, &key.database) >= *most);
        let user = self.user_max.filter(|most| count(&self.users, &key.user) >= *most);
        database.map(Full::Database).or(user.map(Full::User))
    }

    fn starve(&mut self, now: Instant, key: &PoolKey, full: Full, has_none: bool) {
        match self.starved.iter_mut().find(|starved| starved.key == *key) {
            Some(known) => {
                if has_none && !known.has_none {
                    known.since = now;
                }
                (known.full, known.has_none) = (full, has_none);
            }
            None => self.starved.push(Starved { key: key.clone(), full, has_none, since: now }),
        }
    }
}

fn take_one(counts: &mut HashMap<(String, String), usize>, key: &(String, String)) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(server: &str, user: &str, database: &str) -> PoolKey {
        let [server, user, database] = [server, user, database].map(str::to_owned);
        PoolKey { server, epoch: None, user, database }
    }

    fn ledger(database_max: Option<usize>, user_max: Option<usize>) -> Ledger {
        let ledger = Ledger::default();
        ledger.set_limits(database_max, user_max);
        ledger
    }

    #[test]
    fn databases_and_users_of_a_server_are_counted_over_pools() {
        let (now, ledger) = (Instant::now(), ledger(Some(2), Some(3)));
        let (app, cron, other) = (key("s", "app", "a"), key("s", "cron", "a"), key("s", "app", "b"));
        assert_eq!(ledger.open(now, &app, 0), Ok(()));
        assert_eq!(ledger.open(now, &cron, 0), Ok(()));
        assert_eq!(ledger.open(now, &cron, 1), Err(Full::Database(2)));
        assert_eq!(ledger.open(now, &other, 0), Ok(()));
        assert_eq!(ledger.open(now, &other, 1), Ok(()));
        assert_eq!(ledger.full(&key("s", "app", "c")), Some(Full::User(3)));
        // Another server's are others.
        assert_eq!(ledger.open(now, &key("t", "app", "a"), 0), Ok(()));
        ledger.close(&app);
        assert_eq!(ledger.open(now, &cron, 1), Ok(()));
        assert_eq!(ledger.full(&key("s", "app", "c")), None);
        for key in [&cron, &cron, &other, &other, &key("t", "app", "a")] {
            ledger.close(key);
        }
        assert!(ledger.lock().databases.is_empty() && ledger.lock().users.is_empty());
    }

    #[test]
    fn who_has_none_comes_first_and_in_the_end_gets_one() {
        let (now, ledger) = (Instant::now(), ledger(Some(2), None));
        let (busy, none, stranger) = (key("s", "busy", "a"), key("s", "none", "a"), key("s", "busy", "b"));
        assert_eq!((ledger.open(now, &busy, 0), ledger.open(now, &busy, 1)), (Ok(()), Ok(())));
        assert!(!ledger.is_starving() && ledger.open(now, &busy, 2).is_err() && ledger.is_starving());
        let now = now + PATIENCE / 2;
        assert!(ledger.open(now, &none, 0).is_err());
        assert_eq!(ledger.starved(), [none.clone(), busy.clone()]);
        assert!(ledger.is_wanted(&busy) && !ledger.is_wanted(&stranger));
        assert!(!ledger.yields(now, &busy));
        let now = now + PATIENCE;
        assert!(ledger.yields(now, &busy) && !ledger.yields(now, &stranger) && !ledger.yields(now, &none));
        // It has got one, and wants more: nobody need yield for that.
        assert!(ledger.open(now, &none, 1).is_err());
        assert!(!ledger.yields(now, &busy));
        assert_eq!(ledger.starved(), [busy.clone(), none.clone()]);
        // Now it is the other's turn to have patience.
        assert!(ledger.open(now, &busy, 0).is_err() && !ledger.yields(now, &none));
        let now = now + PATIENCE;
        assert!(ledger.yields(now, &none));
        ledger.satisfy(&busy);
        assert!(ledger.is_starving());
        ledger.satisfy(&none);
        assert!(!ledger.is_starving());
    }

    #[test]
    fn limits_can_change() {
        let (now, ledger, app) = (Instant::now(), ledger(None, None), key("s", "app", "a"));
        for own in 0..5 {
            assert_eq!(ledger.open(now, &app, own), Ok(()));
        }
        ledger.set_limits(None, Some(4));
        assert_eq!(ledger.open(now, &app, 5), Err(Full::User(4)));
        ledger.set_limits(Some(6), None);
        assert_eq!((ledger.open(now, &app, 5), ledger.open(now, &app, 6)), (Ok(()), Err(Full::Database(6))));
    }
}
