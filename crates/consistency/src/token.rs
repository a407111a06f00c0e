//! What a session must have seen: its token.

use pangea_base::Position;

use crate::history::Reach;

/// Timelines of which a position is remembered. A session that lives through more moves of the primary forgets the
/// oldest, which the newer ones stand on.
const TIMELINES_MAX: usize = 8;

/// The positions that a session has written, or read, or was told of: one for each timeline.
///
/// More than one, because a position of a former timeline is not covered by one of the next when it was lost between
/// them: that must come out, not be overwritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// Sorted by timeline.
    positions: Vec<Position>,
}

impl Token {
    /// Adds what the session has seen; whether the token has grown.
    pub fn add(&mut self, position: Position) -> bool {
        let at = self.positions.partition_point(|known| known.timeline < position.timeline);
        match self.positions.get_mut(at) {
            Some(known) if known.timeline == position.timeline => {
                let grows = known.lsn < position.lsn;
                known.lsn = known.lsn.max(position.lsn);
                grows
            }
            _ => {
                self.positions.insert(at, position);
                if self.positions.len() > TIMELINES_MAX {
                    self.positions.remove(0);
                }
                true
            }
        }
    }

    /// The position on the newest timeline.
    #[must_use]
    pub fn newest(&self) -> Option<Position> {
        self.positions.last().copied()
    }

    /// What keeps a server from being fresh enough: the first position that is not reached. When all are, those of
    /// former timelines are so for good and are forgotten.
    pub fn missing(&mut self, mut judge: impl FnMut(Position) -> Reach) -> Option<(Position, Reach)> {
        let verdicts = self.positions.iter().map(|position| (*position, judge(*position)));
        let missing = verdicts.into_iter().find(|(_, reach)| *reach != Reach::Reached);
        if missing.is_none() && self.positions.len() > 1 {
            self.positions.drain(..self.positions.len() - 1);
        }
        missing
    }

    /// Forgets what was lost: the session goes on without it.
    pub fn forget_lost(&mut self, mut judge: impl FnMut(Position) -> Reach) {
        self.positions.retain(|position| judge(*position) != Reach::Lost);
    }
}

#[cfg(test)]
mod tests {
    use pangea_base::{Lsn, Timeline};

    use super::*;
    use crate::history::History;

    fn at(timeline: u32, lsn: u64) -> Position {
        Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }

    #[test]
    fn a_token_only_grows() {
        let mut token = Token::default();
        assert_eq!(token.newest(), None);
        assert!(token.add(at(1, 10)));
        assert!(!token.add(at(1, 5)));
        assert!(!token.add(at(1, 10)));
        assert_eq!(token.newest(), Some(at(1, 10)));
        assert!(token.add(at(2, 3)));
        assert_eq!(token.newest(), Some(at(2, 3)));
        for timeline in 3..100 {
            token.add(at(timeline, 1));
        }
        assert_eq!(token.positions.len(), TIMELINES_MAX, "BOUNDED");
    }

    #[test]
    fn what_was_lost_is_not_covered_by_later_writes() {
        let history = History::parse(Timeline(2), "1\t0/64\t").unwrap();
        let mut token = Token::default();
        token.add(at(1, 0x65));
        token.add(at(2, 0x80));
        let replayed = Some(Lsn(0x100));
        assert_eq!(
            token.missing(|position| history.judge(position, replayed)),
            Some((at(1, 0x65), Reach::Lost))
        );
        // What was not lost is forgotten in favour of the newer one.
        let mut token = Token::default();
        token.add(at(1, 0x64));
        token.add(at(2, 0x180));
        let behind = Some((at(2, 0x180), Reach::Behind));
        assert_eq!(token.missing(|position| history.judge(position, replayed)), behind);
        assert_eq!(token.missing(|position| history.judge(position, Some(Lsn(0x180)))), None);
        assert_eq!(token.positions, [at(2, 0x180)]);
    }

    #[test]
    fn a_server_that_has_yet_to_follow_does_not_make_a_loss_forgotten() {
        let mut token = Token::default();
        token.add(at(1, 0x65));
        token.add(at(2, 0x80));
        let old = History::new(Timeline(1));
        assert_eq!(
            token.missing(|position| old.judge(position, Some(Lsn(0x70)))),
            Some((at(2, 0x80), Reach::Behind))
        );
        let new = History::parse(Timeline(2), "1\t0/64\t").unwrap();
        let judge = |position| new.judge(position, Some(Lsn(0x100)));
        assert_eq!(token.missing(judge), Some((at(1, 0x65), Reach::Lost)));
        token.forget_lost(judge);
        assert_eq!(token.missing(judge), None);
    }
}
