//! Tables of round-trip times between regions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pangea_base::RegionId;
use serde::Deserialize;

/// The regions of the built-in table. The first three are what `pangea up` starts.
pub const AWS_REGIONS: [&str; 11] = [
    "us-east-1",
    "eu-west-1",
    "ap-southeast-1",
    "us-west-2",
    "eu-central-1",
    "ap-northeast-1",
    "ap-south-1",
    "ap-southeast-2",
    "sa-east-1",
    "ca-central-1",
    "us-east-2",
];

/// Round-trip times in milliseconds between [`AWS_REGIONS`], in that order: typical public measurements
/// (medians as published by cloudping-like monitors), rounded. Row n holds the regions after n.
const AWS_RTT_MS: [&[u16]; 10] = [
    &[68, 215, 64, 92, 148, 187, 198, 114, 16, 12], // us-east-1
    &[174, 127, 25, 202, 122, 256, 177, 68, 79],    // eu-west-1
    &[163, 160, 69, 57, 93, 326, 216, 205],         // ap-southeast-1
    &[141, 97, 219, 139, 175, 60, 50],              // us-west-2
    &[226, 111, 251, 203, 92, 101],                 // eu-central-1
    &[127, 105, 257, 144, 136],                     // ap-northeast-1
    &[145, 300, 192, 198],                          // ap-south-1
    &[312, 198, 189],                               // ap-southeast-2
    &[125, 123],                                    // sa-east-1
    &[26],                                          // ca-central-1
];

/// How two regions are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distance {
    /// There and back.
    pub round_trip: Duration,
    /// Up to this much is added to each way, at random.
    pub jitter: Duration,
    /// Bits per second each way; unlimited when absent.
    pub bandwidth: Option<u64>,
}

/// Distances between regions, the same both ways.
#[derive(Debug, Clone, Default)]
pub struct Table {
    name: String,
    pairs: BTreeMap<(RegionId, RegionId), Distance>,
    fallback: Option<Distance>,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("cannot read the table of distances {path} (--wan takes off, aws or a TOML file)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no such table.
    #[error("the table of distances {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// A number that no link can have.
    #[error("the table of distances {path} is not valid: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two regions that are not in it.
    #[error(
        "the table {table} has no distance between {from} and {to}: use regions that it knows \
         ({known}), a table of your own (--wan FILE) or none (--wan off)"
    )]
    Missing {
        /// Name of the table.
        table: String,
        /// One region.
        from: RegionId,
        /// The other.
        to: RegionId,
        /// What it knows.
        known: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    /// For pairs that are not listed.
    default: Option<DistanceFile>,
    #[serde(default)]
    pair: Vec<PairFile>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct DistanceFile {
    rtt_ms: f64,
    #[serde(default)]
    jitter_ms: f64,
    bandwidth_mbit: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairFile {
    regions: [RegionId; 2],
    rtt_ms: f64,
    #[serde(default)]
    jitter_ms: f64,
    bandwidth_mbit: Option<f64>,
}

impl Table {
    /// The built-in table of eleven AWS regions.
    #[must_use]
    pub fn aws() -> Self {
        let mut table = Self { name: "aws".to_owned(), ..Self::default() };
        for (row, distances) in AWS_RTT_MS.iter().enumerate() {
            for (offset, milliseconds) in distances.iter().enumerate() {
                let names = (AWS_REGIONS.get(row), AWS_REGIONS.get(row + 1 + offset));
                let (Some(Ok(from)), Some(Ok(to))) = (names.0.map(|n| n.parse()), names.1.map(|n| n.parse()))
                else {
                    continue;
                };
                let round_trip = Duration::from_millis(u64::from(*milliseconds));
                table.put(from, to, Distance { round_trip, jitter: Duration::ZERO, bandwidth: None });
            }
        }
        table
    }

    /// One distance for every pair.
    #[must_use]
    pub fn uniform(distance: Distance) -> Self {
        Self { name: "uniform".to_owned(), pairs: BTreeMap::new(), fallback: Some(distance) }
    }

    /// Reads a TOML file: `[[pair]] regions = ["a", "b"]  rtt_ms = 68  jitter_ms = 1  bandwidth_mbit = 100`, and
    /// `[default]` for the pairs that are not listed.
    ///
    /// # Errors
    /// When it cannot be read or is not of this form.
    pub fn load(path: &Path) -> Result<Self, TableError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TableError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, TableError> {
        let file: TableFile = toml::from_str(text)
            .map_err(|source| TableError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let invalid = |problem| TableError::Invalid { path: path.to_owned(), problem };
        let mut table = Self { name: path.display().to_string(), ..Self::default() };
        table.fallback = file.default.map(|default| default.check().map_err(invalid)).transpose()?;
        for PairFile { regions: [from, to], rtt_ms, jitter_ms, bandwidth_mbit } in file.pair {
            let distance = DistanceFile { rtt_ms, jitter_ms, bandwidth_mbit }
                .check()
                .map_err(|problem| invalid(format!("{from} and {to}: {problem}")))?;
            table.put(from, to, distance);
        }
        Ok(table)
    }

    fn put(&mut self, from: RegionId, to: RegionId, distance: Distance) {
        self.pairs.insert((from.clone(), to.clone()), distance);
        self.pairs.insert((to, from), distance);
    }

    /// The distance between two regions.
    ///
    /// # Errors
    /// When the table does not have it.
    pub fn distance(&self, from: &RegionId, to: &RegionId) -> Result<Distance, TableError> {
        let listed = self.pairs.get(&(from.clone(), to.clone())).copied();
        listed.or(self.fallback).ok_or_else(|| {
            let mut known: Vec<&str> = self.pairs.keys().map(|(from, _)| from.as_str()).collect();
            known.dedup();
            TableError::Missing {
                table: self.name.clone(),
                from: from.clone(),
                to: to.clone(),
                known: known.join(", "),
            }
        })
    }
}

impl DistanceFile {
    fn check(self) -> Result<Distance, String> {
        /// A minute: longer than any link, and far from overflow.
        const MILLISECONDS_MAX: f64 = 60_000.0;
        let duration = |name: &str, milliseconds: f64| {
            if (0.0..=MILLISECONDS_MAX).contains(&milliseconds) {
                Ok(Duration::from_secs_f64(milliseconds / 1000.0))
            } else {
                Err(format!("{name} must be 0 to {MILLISECONDS_MAX}, not {milliseconds}"))
            }
        };
        let bandwidth = match self.bandwidth_mbit {
            None => None,
            Some(megabits) => Some(bits(megabits)?),
        };
        Ok(Distance {
            round_trip: duration("rtt_ms", self.rtt_ms)?,
            jitter: duration("jitter_ms", self.jitter_ms)?,
            bandwidth,
        })
    }
}

/// Bits per second of a number of megabits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
pub(super) fn bits(megabits: f64) -> Result<u64, String> {
    if (0.001..=1e6).contains(&megabits) {
        Ok((megabits * 1e6) as u64)
    } else {
        Err(format!("bandwidth_mbit must be 0.001 to 1000000, not {megabits}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn aws_has_every_pair_both_ways() {
        let table = Table::aws();
        for from in AWS_REGIONS {
            for to in AWS_REGIONS.into_iter().filter(|to| *to != from) {
                let there = table.distance(&region(from), &region(to)).unwrap();
                assert_eq!(there, table.distance(&region(to), &region(from)).unwrap());
                assert!((10..=400).contains(&there.round_trip.as_millis()), "{from} {to} {there:?}");
            }
        }
        let far = table.distance(&region("us-east-1"), &region("ap-southeast-1")).unwrap();
        assert_eq!(far.round_trip, Duration::from_millis(215));
        let error = table.distance(&region("us-east-1"), &region("moon")).unwrap_err().to_string();
        assert!(error.contains("--wan off") && error.contains("eu-west-1"), "{error}");
    }

    #[test]
    fn files() {
        let text = "[default]\nrtt_ms = 5\n[[pair]]\nregions = ['a', 'b']\nrtt_ms = 80\njitter_ms = 1.5\n\
                    bandwidth_mbit = 100\n";
        let table = Table::parse(text, Path::new("t.toml")).unwrap();
        let listed = table.distance(&region("b"), &region("a")).unwrap();
        assert_eq!(listed.round_trip, Duration::from_millis(80));
        assert_eq!(listed.bandwidth, Some(100_000_000));
        assert_eq!(table.distance(&region("a"), &region("c")).unwrap().round_trip, Duration::from_millis(5));
        for bad in ["rtt = 1", "[default]\nrtt_ms = -1", "[default]\nrtt_ms = nan", "[[pair]]\nregions=['a']"]
        {
            assert!(Table::parse(bad, Path::new("t.toml")).is_err(), "{bad}");
        }
    }
}
