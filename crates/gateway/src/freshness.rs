//! What this region knows of the primary's position, and so of its own staleness.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pangea_base::{Position, Timeline};
use pangea_consistency::{Reach, Staleness};

use crate::position::PositionWatch;

/// What the heartbeats of the primary have told.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Times are counted from here.
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    staleness: Staleness,
    timeline: Option<Timeline>,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), state: Mutex::default() }
    }

    /// The primary, asked at `asked`, was at `position` `age` before it answered.
    pub(crate) fn heard(&self, asked: Instant, age: Duration, position: Position) {
        let mut state = self.lock();
        // It had not said then what it has acknowledged since.
        let Some(covers) = asked.saturating_duration_since(self.start).checked_sub(age) else { return };
        state.staleness.learn(covers, position);
        state.timeline = Some(position.timeline);
    }

    /// How stale reads on this server are at most; `None` when that is not known.
    pub(crate) fn staleness(&self, server: &PositionWatch) -> Option<Duration> {
        let known = server.known()?;
        if !known.in_recovery {
            return Some(Duration::ZERO);
        }
        let mut state = self.lock();
        state.staleness.replayed(&known.history, Some(known.lsn));
        state.staleness.at(self.start.elapsed())
    }

    /// What this server knows of a position. On a timeline that even the primary has not reached it is of no use.
    pub(crate) fn reach(&self, server: &PositionWatch, position: Position) -> Reach {
        let own = server.known().filter(|known| !known.in_recovery).map(|known| known.history.current());
        match own.or(self.lock().timeline) {
            Some(newest) if position.timeline > newest => Reach::Lost,
            _ => server.reach(position),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
