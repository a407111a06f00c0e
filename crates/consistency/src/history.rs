//! The timelines that a server's log has followed, and what a position of another time means on it.
//!
//! A promotion ends one timeline at a position and begins the next there. What was written on the old one past that
//! position is not part of the new one: a token that points there can never be satisfied.

use pangea_base::{Lsn, Position, Timeline};

/// The line of timelines that leads to the one that a server is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    current: Timeline,
    /// Earlier timelines, oldest first, each with the position at which it was left.
    left: Vec<(Timeline, Lsn)>,
}

/// A history file that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the timeline history is not readable: {text:?}")]
pub struct InvalidHistory {
    line: usize,
    text: String,
}

/// What a server knows of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It has replayed it.
    Reached,
    /// It has not yet, or how far it is is not known.
    Behind,
    /// It never will: the position is on a timeline that was left before it.
    Lost,
}

impl History {
    /// A server that has always been on one timeline as far as is known.
    #[must_use]
    pub fn new(current: Timeline) -> Self {
        Self { current, left: Vec::new() }
    }

    /// Reads PostgreSQL's history file of a timeline: lines of timeline, position and reason
    /// (PostgreSQL documentation, section 26.3.6, and `timeline.c`).
    ///
    /// # Errors
    /// When a line is neither empty, nor a comment, nor of that form.
    pub fn parse(current: Timeline, file: &str) -> Result<Self, InvalidHistory> {
        let mut left = Vec::new();
        for (index, line) in file.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let timeline = first.parse().ok().map(Timeline);
            let lsn = words.next().and_then(|word| word.parse().ok());
            let entry = timeline.zip(lsn);
            left.push(entry.ok_or_else(|| InvalidHistory { line: index + 1, text: line.to_owned() })?);
        }
        Ok(Self { current, left })
    }

    /// The timeline that the server is on.
    #[must_use]
    pub fn current(&self) -> Timeline {
        self.current
    }

    /// Where an earlier timeline was left; `None` when the line never was on it, or is still.
    #[must_use]
    pub fn left_at(&self, timeline: Timeline) -> Option<Lsn> {
        self.left.iter().find(|(earlier, _)| *earlier == timeline).map(|(_, lsn)| *lsn)
    }

    /// What `token` means to a server on this line that has replayed up to `replayed`.
    #[must_use]
    pub fn judge(&self, token: Position, replayed: Option<Lsn>) -> Reach {
        let by_lsn = match replayed {
            Some(replayed) if replayed >= token.lsn => Reach::Reached,
            _ => Reach::Behind,
        };
        if token.timeline == self.current {
            return by_lsn;
        }
        if token.timeline > self.current {
            // The server has yet to follow that promotion.
            return Reach::Behind;
        }
        match self.left_at(token.timeline) {
            Some(left_at) if token.lsn <= left_at => by_lsn,
            _ => Reach::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(timeline: u32, lsn: u64) -> Position {
        Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }

    fn third() -> History {
        let file = "1\t0/64\tno recovery target specified\n\n# comment\n2\t0/C8\tbefore 2000-01-01\n";
        History::parse(Timeline(3), file).unwrap()
    }

    #[test]
    fn history_files() {
        assert_eq!(third().left, [(Timeline(1), Lsn(0x64)), (Timeline(2), Lsn(0xC8))]);
        for bad in ["x\t0/1", "1", "1 0-1"] {
            assert!(History::parse(Timeline(2), bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_left_behind_is_lost() {
        let replayed = Some(Lsn(0x200));
        for (token, reach) in [
            (at(3, 0x200), Reach::Reached),
            (at(3, 0x201), Reach::Behind),
            (at(2, 0xC8), Reach::Reached),
            (at(2, 0xC9), Reach::Lost),
            (at(1, 0x64), Reach::Reached),
            (at(1, 0x65), Reach::Lost),
            (at(4, 0x1), Reach::Behind),
        ] {
            assert_eq!(third().judge(token, replayed), reach, "{token}");
        }
        // A timeline that this line never was on.
        let forked = History::parse(Timeline(3), "1\t0/64\t").unwrap();
        assert_eq!(forked.judge(at(2, 1), replayed), Reach::Lost);
    }

    proptest! {
        #[test]
        fn nothing_is_reached_while_the_lag_is_unknown(timeline in 1_u32..5, lsn in 0_u64..0x300) {
            prop_assert_ne!(third().judge(at(timeline, lsn), None), Reach::Reached);
        }

        #[test]
        fn replaying_more_never_takes_back(timeline in 1_u32..5, lsn in 0_u64..0x300, a in 0_u64..0x300, b in 0_u64..0x300) {
            let (less, more) = (a.min(b), a.max(b));
            let token = at(timeline, lsn);
            if third().judge(token, Some(Lsn(less))) == Reach::Reached {
                prop_assert_eq!(third().judge(token, Some(Lsn(more))), Reach::Reached);
            }
        }
    }
}
