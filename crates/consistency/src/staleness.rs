//! How stale a standby's reads are at most, from questions to the primary. Pure: time comes from the caller.
//!
//! Whoever asks the primary where it is at time t and hears position p knows: once p is replayed here, everything that
//! was acknowledged before t is visible here. No clock but the asking side's own is read, so clocks need not agree.

use std::collections::VecDeque;
use std::time::Duration;

use pangea_base::Position;

use crate::history::{History, Reach};

/// Answers remembered. At one in 100 ms this is a minute and more of lag that can be told.
const ANSWERS_MAX: usize = 1024;

/// The answers of the primary that tell how stale the local server is.
///
/// Times are durations since any moment that stays the same.
#[derive(Debug, Default)]
pub struct Staleness {
    /// When each was asked, and the answer; oldest first.
    answers: VecDeque<(Duration, Position)>,
    /// The newest time whose position was seen replayed.
    replayed: Option<Duration>,
}

impl Staleness {
    /// The primary was asked at `asked` and has said that it is at `position`, which covers everything acknowledged
    /// before `asked`.
    pub fn learn(&mut self, asked: Duration, position: Position) {
        if self.answers.len() >= ANSWERS_MAX {
            // Of those that wait the oldest but one is worth least.
            self.answers.remove(1);
        }
        self.answers.push_back((asked, position));
    }

    /// The local server has replayed up to here.
    pub fn replayed(&mut self, history: &History, replayed: Option<pangea_base::Lsn>) {
        while let Some((asked, position)) = self.answers.front() {
            match history.judge(*position, replayed) {
                Reach::Reached => self.replayed = self.replayed.max(Some(*asked)),
                Reach::Lost => {}
                Reach::Behind => return,
            }
            self.answers.pop_front();
        }
    }

    /// How stale a read at `now` is at most; `None` when that is not known.
    #[must_use]
    pub fn at(&self, now: Duration) -> Option<Duration> {
        self.replayed.map(|replayed| now.saturating_sub(replayed))
    }
}

#[cfg(test)]
mod tests {
    use pangea_base::{Lsn, Timeline};

    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn at(lsn: u64) -> Position {
        Position { timeline: Timeline(1), lsn: Lsn(lsn) }
    }

    #[test]
    fn staleness_counts_from_the_last_question_whose_answer_is_replayed() {
        let history = History::new(Timeline(1));
        let mut staleness = Staleness::default();
        assert_eq!(staleness.at(ms(5)), None, "LAG-IS-NEVER-GUESSED");
        staleness.learn(ms(100), at(10));
        staleness.learn(ms(200), at(20));
        staleness.replayed(&history, None);
        assert_eq!(staleness.at(ms(250)), None);
        staleness.replayed(&history, Some(Lsn(15)));
        assert_eq!(staleness.at(ms(250)), Some(ms(150)));
        staleness.replayed(&history, Some(Lsn(20)));
        assert_eq!(staleness.at(ms(250)), Some(ms(50)));
        // The primary does not answer any more: it grows.
        assert_eq!(staleness.at(ms(900)), Some(ms(700)));
    }

    #[test]
    fn answers_are_bounded_and_the_oldest_stays() {
        let mut staleness = Staleness::default();
        for number in 0..3000 {
            staleness.learn(ms(number), at(number));
        }
        assert_eq!(staleness.answers.len(), ANSWERS_MAX);
        staleness.replayed(&History::new(Timeline(1)), Some(Lsn(0)));
        assert_eq!(staleness.at(ms(3000)), Some(ms(3000)));
    }
}
