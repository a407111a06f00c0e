//! What clients did and what they were told: the input of every check.

use std::time::Duration;

/// A session as its client sees it: it may span connections when a token is carried from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub i32);

/// How many committed writes a register has had: its place in the order of the register's values. 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i64);

/// Names one write of the history; it is stored with the value. 0 is what was there at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub i64);

impl WriteId {
    /// The value that a register begins with.
    pub const INITIAL: Self = Self(0);
}

/// An explicit transaction, or several statements that commit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u32);

/// Index into [`History::places`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub usize);

/// What a read found in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The register.
    pub key: Key,
    /// The version that was there.
    pub version: Version,
    /// Who had written it.
    pub writer: WriteId,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reads registers in one snapshot, by one statement or by all of a transaction at a level that has one; a
    /// register that was read twice is there twice. Without what the reader's own transaction had written: nobody else
    /// could see that yet.
    Read(Vec<Seen>),
    /// Puts a new value into a register.
    Write {
        /// The register.
        key: Key,
        /// The new value.
        id: WriteId,
        /// The version that it became, where the server has said so.
        version: Option<Version>,
    },
}

/// What is known of an operation's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Certainly not done.
    Failed,
    /// Done or not: the answer did not come.
    Unknown,
}

/// One operation of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Whose it is.
    pub session: SessionId,
    /// Where it was sent.
    pub place: PlaceId,
    /// What it commits with, if not alone.
    pub transaction: Option<TransactionId>,
    /// What it does.
    pub action: Action,
    /// When it was sent, since the beginning of the history.
    pub invoked: Duration,
    /// When its answer was there; for a write, the answer to its commit.
    pub completed: Duration,
    /// What is known of its effect.
    pub outcome: Outcome,
}

/// Everything that happened. Operations of one session stand in the order in which it issued them; the order of
/// others has no meaning.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Where operations were sent, such as `eu-west-1 cluster`.
    pub places: Vec<String>,
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// One line about an operation, for people.
    #[must_use]
    pub fn describe(&self, index: usize) -> String {
        let Some(operation) = self.operations.get(index) else { return format!("no operation {index}") };
        let place = self.places.get(operation.place.0).map_or("?", String::as_str);
        let what = match &operation.action {
            Action::Read(seen) => {
                let seen: Vec<String> =
                    seen.iter().map(|seen| format!("{}@{}", seen.key.0, seen.version.0)).collect();
                format!("read {}", seen.join(" "))
            }
            Action::Write { key, id, version } => {
                let version = version.map_or_else(|| "?".to_owned(), |version| version.0.to_string());
                format!("write {}@{version} (write {})", key.0, id.0)
            }
        };
        let transaction =
            operation.transaction.map_or_else(String::new, |id| format!(" in transaction {}", id.0));
        let outcome = match operation.outcome {
            Outcome::Ok => "",
            Outcome::Failed => ", failed",
            Outcome::Unknown => ", outcome unknown",
        };
        format!(
            "#{index} session {} ({place}) {:.6}..{:.6} s: {what}{transaction}{outcome}",
            operation.session.0,
            operation.invoked.as_secs_f64(),
            operation.completed.as_secs_f64(),
        )
    }
}
