//! The state of one direction of a link: how slow it is, and whether anything passes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How one direction of a link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Behaviour {
    /// Time from one end to the other.
    pub delay: Duration,
    /// Up to this much is added to it, at random.
    pub jitter: Duration,
    /// Bits per second; unlimited when absent. Shared by all connections of the direction.
    pub bandwidth: Option<u64>,
    /// Whether nothing passes: what was sent is held, as TCP holds it while it gets no acknowledgement.
    pub cut: bool,
}

/// One direction, shared by its connections and by whoever changes it.
#[derive(Debug)]
pub(super) struct Direction {
    behaviour: watch::Sender<Behaviour>,
    /// The bandwidth is a queue of one server: when it is free again, and a random state for jitter.
    wire: Mutex<Wire>,
}

#[derive(Debug)]
struct Wire {
    free_at: Instant,
    random: u64,
}

impl Direction {
    pub(super) fn new(behaviour: Behaviour, seed: u64) -> Self {
        let wire = Wire { free_at: Instant::now(), random: seed | 1 };
        Self { behaviour: watch::Sender::new(behaviour), wire: Mutex::new(wire) }
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        *self.behaviour.borrow()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        self.behaviour.send_modify(change);
    }

    /// Returns when something can pass, which may be at once.
    pub(super) async fn passable(&self) {
        // An error means that the sender is gone, and it lives in `self`.
        let _ = self.behaviour.subscribe().wait_for(|behaviour| !behaviour.cut).await;
    }

    /// When `length` bytes that are sent at `now` arrive.
    pub(super) fn arrival(&self, now: Instant, length: usize) -> Instant {
        let behaviour = self.behaviour();
        let mut wire = self.wire();
        let sent = match behaviour.bandwidth {
            Some(bits) if bits > 0 => {
                let seconds = length as f64 * 8.0 / bits as f64;
                wire.free_at = wire.free_at.max(now) + Duration::from_secs_f64(seconds);
                wire.free_at
            }
            _ => now,
        };
        sent + behaviour.delay + behaviour.jitter.mul_f64(wire.random_unit())
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// xorshift64: jitter needs no better randomness, and a seed makes a run repeatable.
    fn random_unit(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_is_serialisation_plus_delay() {
        let behaviour = Behaviour {
            delay: Duration::from_millis(40),
            jitter: Duration::ZERO,
            bandwidth: Some(8_000_000),
            cut: false,
        };
        let direction = Direction::new(behaviour, 1);
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(direction.arrival(now, 1000), now + Duration::from_millis(41));
        // The wire is still busy with the first thousand.
        assert_eq!(direction.arrival(now, 1000), now + Duration::from_millis(42));
        direction.change(|behaviour| behaviour.bandwidth = None);
        assert_eq!(direction.arrival(now, 1000), now + Duration::from_millis(40));
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        let behaviour = Behaviour {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(2),
            bandwidth: None,
            cut: false,
        };
        let direction = Direction::new(behaviour, 7);
        let now = Instant::now();
        for _ in 0..1000 {
            let delay = direction.arrival(now, 1) - now;
            assert!((Duration::from_millis(5)..=Duration::from_millis(7)).contains(&delay), "{delay:?}");
        }
    }
}
