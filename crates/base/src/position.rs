//! Where a server is in the write-ahead log.
//!
//! The text form of an LSN is PostgreSQL's `pg_lsn`: two hexadecimal numbers of 32 bits with a slash
//! between them (PostgreSQL documentation, section 8.20).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log of one timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Text that is no `pg_lsn`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no WAL position: expected two hexadecimal numbers of up to 8 digits as in 16/B374D848")]
pub struct ParseLsnError(String);

impl Lsn {
    /// Bytes from `earlier` to this position; 0 when this one is not ahead.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let digits = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((half(high)?, half(low)?)))
            .map(|(high, low)| Self(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A PostgreSQL timeline: grows with each promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// How far a server is: a timeline and a position on it. An LSN alone lies after a failover.
///
/// As text it is the timeline in decimal digits, a colon and the LSN: `1:0/3000060`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The timeline that the position is on.
    pub timeline: Timeline,
    /// The position.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline.0, self.lsn)
    }
}

/// Text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position: expected a timeline, a colon and an LSN as in 1:16/B374D848")]
pub struct ParsePositionError(String);

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |(timeline, lsn): (&str, &str)| {
            let digits = !timeline.is_empty() && timeline.bytes().all(|byte| byte.is_ascii_digit());
            let timeline = digits.then(|| timeline.parse().ok()).flatten().filter(|number| *number > 0)?;
            Some(Self { timeline: Timeline(timeline), lsn: lsn.parse().ok()? })
        };
        text.split_once(':').and_then(read).ok_or_else(|| ParsePositionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text() {
        assert_eq!("16/B374D848".parse::<Lsn>(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        for bad in ["", "/", "1/", "/1", "1", "G/1", "123456789/1", "+1/1", "1/1/1", " 1/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn position_text() {
        let position = Position { timeline: Timeline(3), lsn: Lsn(0x16_B374_D848) };
        assert_eq!("3:16/B374D848".parse(), Ok(position));
        assert_eq!(position.to_string(), "3:16/B374D848");
        for bad in ["", "1", "1:", ":0/0", "0:0/0", "+1:0/0", "1:0", "-1:0/0", "4294967296:0/0", "1:0/0 "] {
            assert!(bad.parse::<Position>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn distance_never_wraps() {
        assert_eq!(Lsn(5).bytes_since(Lsn(3)), 2);
        assert_eq!(Lsn(3).bytes_since(Lsn(5)), 0);
    }
}
