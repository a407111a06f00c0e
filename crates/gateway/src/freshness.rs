//! What this region knows of the primary's position, and so of its own staleness.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pangea_base::{Epoch, Position, Timeline};
use pangea_consistency::Reach;

use crate::gate::GateWatch;
use crate::position::PositionWatch;

/// What the heartbeats of the primary have told.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Times are counted from here.
    start: Instant,
    /// The servers of this region: each is as stale as it is.
    servers: Vec<Arc<PositionWatch>>,
    /// The primary's timeline, and the epoch in which it said so.
    timeline: Mutex<Option<(Epoch, Timeline)>>,
}

impl Freshness {
    pub(crate) fn new(servers: Vec<Arc<PositionWatch>>) -> Self {
        Self { start: Instant::now(), servers, timeline: Mutex::default() }
    }

    /// The primary of this epoch, asked at `asked`, was at `position` `age` before it answered.
    pub(crate) fn heard(&self, asked: Instant, age: Duration, position: Position, epoch: Epoch) {
        // It had not said then what it has acknowledged since.
        let Some(covers) = asked.saturating_duration_since(self.start).checked_sub(age) else { return };
        for server in &self.servers {
            server.primary_was_at(covers, position);
        }
        *self.timeline.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, position.timeline));
    }

    /// How stale reads on this server are at most; `None` when that is not known.
    pub(crate) fn staleness(&self, server: &PositionWatch) -> Option<Duration> {
        server.staleness(self.start.elapsed())
    }

    /// What this server knows of a position. On a timeline that even the primary has not reached it is of no use.
    /// The primary of another epoch says nothing about this one's.
    pub(crate) fn reach(&self, server: &PositionWatch, position: Position, gate: &GateWatch) -> Reach {
        let own = server.known().filter(|known| !known.in_recovery && gate.is_primary());
        let own = own.map(|known| known.history.current());
        let told = *self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.filter(|(epoch, _)| *epoch == gate.epoch()).map(|(_, timeline)| timeline);
        let newest = own.or(told);
        match newest {
            Some(newest) if position.timeline > newest => Reach::Lost,
            _ => server.reach(position),
        }
    }
}
