//! What this region knows of the primary's position, and so of its own staleness.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pangea_base::{Position, Timeline};
use pangea_consistency::Reach;

use crate::position::PositionWatch;

/// What the heartbeats of the primary have told.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Times are counted from here.
    start: Instant,
    /// The servers of this region: each is as stale as it is.
    servers: Vec<Arc<PositionWatch>>,
    /// The primary's timeline.
    timeline: Mutex<Option<Timeline>>,
}

impl Freshness {
    pub(crate) fn new(servers: Vec<Arc<PositionWatch>>) -> Self {
        Self { start: Instant::now(), servers, timeline: Mutex::default() }
    }

    /// The primary, asked at `asked`, was at `position` `age` before it answered.
    pub(crate) fn heard(&self, asked: Instant, age: Duration, position: Position) {
        // It had not said then what it has acknowledged since.
        let Some(covers) = asked.saturating_duration_since(self.start).checked_sub(age) else { return };
        for server in &self.servers {
            server.primary_was_at(covers, position);
        }
        *self.timeline.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.timeline);
    }

    /// How stale reads on this server are at most; `None` when that is not known.
    pub(crate) fn staleness(&self, server: &PositionWatch) -> Option<Duration> {
        server.staleness(self.start.elapsed())
    }

    /// What this server knows of a position. On a timeline that even the primary has not reached it is of no use.
    pub(crate) fn reach(&self, server: &PositionWatch, position: Position) -> Reach {
        let own = server.known().filter(|known| !known.in_recovery).map(|known| known.history.current());
        let newest = own.or(*self.timeline.lock().unwrap_or_else(PoisonError::into_inner));
        match newest {
            Some(newest) if position.timeline > newest => Reach::Lost,
            _ => server.reach(position),
        }
    }
}
