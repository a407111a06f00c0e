//! What the checks found.

use std::collections::BTreeMap;
use std::fmt;

use super::operation::History;

/// Violations of one guarantee that are kept with their operations; the others are counted.
const EXAMPLES_MAX: usize = 3;

/// Something that histories are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarantee {
    /// A read sees what its session has written before.
    ReadYourWrites,
    /// A read sees what an earlier read of its session saw.
    MonotonicReads,
    /// Who sees a write sees what its session had written before it.
    MonotonicWrites,
    /// Who sees a write sees what its session had read before it.
    WritesFollowReads,
    /// Each register behaves as if every operation happened at one moment between its begin and its end.
    Linearizability,
    /// Reads of one snapshot find a register in one version. Holds at every level.
    OneSnapshot,
    /// The versions of a register are one order, each written once, by a write that was not rolled back. Holds at
    /// every level.
    VersionOrder,
}

impl Guarantee {
    /// The four session guarantees.
    pub const SESSION: [Self; 4] =
        [Self::ReadYourWrites, Self::MonotonicReads, Self::MonotonicWrites, Self::WritesFollowReads];

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ReadYourWrites,
        Self::MonotonicReads,
        Self::MonotonicWrites,
        Self::WritesFollowReads,
        Self::Linearizability,
        Self::OneSnapshot,
        Self::VersionOrder,
    ];
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadYourWrites => "read your writes",
            Self::MonotonicReads => "monotonic reads",
            Self::MonotonicWrites => "monotonic writes",
            Self::WritesFollowReads => "writes follow reads",
            Self::Linearizability => "linearizability",
            Self::OneSnapshot => "one snapshot",
            Self::VersionOrder => "version order",
        })
    }
}

/// One thing that must not be, and the operations that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is violated.
    pub guarantee: Guarantee,
    /// Indices into the history, the cause first, the operation that is wrong last.
    pub operations: Vec<usize>,
    /// What is wrong.
    pub what: &'static str,
}

/// All violations of a history.
#[derive(Debug, Clone, Default)]
pub struct Report {
    counts: BTreeMap<Guarantee, usize>,
    examples: Vec<Violation>,
    in_snapshots: usize,
}

impl Report {
    pub(super) fn add(&mut self, guarantee: Guarantee, operations: Vec<usize>, what: &'static str) {
        let count = self.counts.entry(guarantee).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.examples.push(Violation { guarantee, operations, what });
        }
    }

    pub(super) fn add_snapshot(&mut self) {
        self.in_snapshots += 1;
    }

    /// How many of the violations of monotonic writes and of writes follow reads one snapshot shows by itself: those
    /// must not be at any level.
    #[must_use]
    pub fn in_snapshots(&self) -> usize {
        self.in_snapshots
    }

    /// How many violations of a guarantee there are.
    #[must_use]
    pub fn count(&self, guarantee: Guarantee) -> usize {
        self.counts.get(&guarantee).copied().unwrap_or_default()
    }

    /// The first violations of each guarantee.
    #[must_use]
    pub fn examples(&self) -> &[Violation] {
        &self.examples
    }

    /// The examples of some guarantees with their operations, for people.
    #[must_use]
    pub fn explain(&self, history: &History, guarantees: &[Guarantee]) -> String {
        let mut lines = Vec::new();
        for violation in self.examples.iter().filter(|found| guarantees.contains(&found.guarantee)) {
            lines.push(format!("{}: {}", violation.guarantee, violation.what));
            lines
                .extend(violation.operations.iter().map(|index| format!("    {}", history.describe(*index))));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, guarantee) in Guarantee::ALL.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{guarantee} {}", self.count(guarantee))?;
        }
        Ok(())
    }
}
