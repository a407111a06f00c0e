//! What clients did and what they were told.

use std::fmt;
use std::time::Duration;

use pangea_base::RegionId;

/// A row of the ledger. No two writes are given the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub i64);

/// Who writes; each has a counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub i32);

/// A server from one promotion to the next: by rights, what one epoch is written by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reign {
    /// The timeline that the server said it was writing.
    pub timeline: u32,
    /// The name of the server, which is that of its region.
    pub server: String,
}

impl fmt::Display for Reign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.server, self.timeline)
    }
}

/// What the client knows of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was told that it is committed, by this server.
    Acknowledged(Reign),
    /// It is certain that it is not committed, and never will be.
    Failed,
    /// Nobody has said.
    Unknown,
}

/// How a client reached a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// The cluster endpoint of a region.
    Endpoint(RegionId),
    /// The server's own socket, past everything that could hold it back: as a session that outlives its gateway.
    Server(RegionId),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(region) => write!(f, "by {region}"),
            Self::Server(region) => write!(f, "at the server of {region}"),
        }
    }
}

/// One transaction: it inserts rows and adds their number to the writer's counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// In this round.
    pub round: u32,
    /// By this writer.
    pub writer: WriterId,
    /// These rows.
    pub ids: Vec<RowId>,
    /// This way.
    pub via: Via,
    /// It was not committed before; since the runner began.
    pub sent: Duration,
    /// The client knew its outcome then.
    pub ended: Duration,
    /// What it knew.
    pub outcome: Outcome,
    /// What it was told, when that was an error.
    pub said: String,
}

impl Write {
    /// The server that acknowledged it.
    #[must_use]
    pub fn reign(&self) -> Option<&Reign> {
        match &self.outcome {
            Outcome::Acknowledged(reign) => Some(reign),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.ids.first().map_or(0, |id| id.0);
        let (sent, ended) = (self.sent.as_secs_f64(), self.ended.as_secs_f64());
        write!(f, "row {first}")?;
        if self.ids.len() > 1 {
            write!(f, " and {} more", self.ids.len() - 1)?;
        }
        write!(f, " of writer {} {}, {sent:.3} to {ended:.3} s: ", self.writer.0, self.via)?;
        match &self.outcome {
            Outcome::Acknowledged(reign) => write!(f, "acknowledged by {reign}"),
            Outcome::Failed => write!(f, "failed, {}", self.said),
            Outcome::Unknown => write!(f, "unknown, {}", self.said),
        }
    }
}
