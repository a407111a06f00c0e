//! What the store holds about the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use pangea_base::{Epoch, Lsn, RegionId, Timeline};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Changes of primary that are remembered.
const CHANGES_MAX: usize = 64;

/// Version of the form of [`Topology`] as it is stored.
const FORMAT: u32 = 1;

/// Which regions there are, which of them is primary, and what is being done about that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Version of this form.
    pub format: u32,
    /// Name of the global cluster.
    pub cluster: String,
    /// Grows by one with each change of primary.
    pub epoch: Epoch,
    /// The region that may write, while it holds the lease.
    pub primary: RegionId,
    /// PostgreSQL's identifier of the data, once there are any.
    #[serde(default)]
    pub system: Option<u64>,
    /// All regions.
    pub members: BTreeMap<RegionId, Member>,
    /// How safe a commit is before it is acknowledged.
    pub durability: Durability,
    /// The primary has put [`Self::durability`] in force, and everything written before is as safe.
    #[serde(default)]
    pub durability_in_force: bool,
    /// When another region takes over by itself.
    pub policy: Policy,
    /// A switchover under way.
    #[serde(default)]
    pub transition: Option<Transition>,
    /// How the last switchover ended.
    #[serde(default)]
    pub last_transition: Option<(Transition, Outcome)>,
    /// Changes of primary, oldest first.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// A region in the topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Of two equally advanced candidates the one with the higher priority takes over; 0: never by itself.
    pub priority: u8,
    /// It is being emptied: it does not become primary, and does not count for durability.
    #[serde(default)]
    pub drained: bool,
}

impl Default for Member {
    fn default() -> Self {
        Self { priority: 100, drained: false }
    }
}

/// How safe a commit is before it is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Durability {
    /// On the primary's disk.
    #[default]
    Async,
    /// On the primary's disk; commits wait while no secondary is less than so many seconds behind.
    Bounded {
        /// The bound.
        seconds: u32,
    },
    /// On the primary's disk and on those of so many secondary regions.
    Sync {
        /// How many.
        regions: u8,
    },
}

/// Text that names no durability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no durability: use async, bounded(SECONDS) or sync(REGIONS), as in sync(1)")]
pub struct InvalidDurability(String);

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Async => f.write_str("async"),
            Self::Bounded { seconds } => write!(f, "bounded({seconds})"),
            Self::Sync { regions } => write!(f, "sync({regions})"),
        }
    }
}

impl FromStr for Durability {
    type Err = InvalidDurability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let argument = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        let parsed = match text {
            "async" => Some(Self::Async),
            "sync" => Some(Self::Sync { regions: 1 }),
            _ => None,
        };
        let bounded = || Some(Self::Bounded { seconds: argument("bounded")?.parse().ok()? });
        let sync = || Some(Self::Sync { regions: argument("sync")?.parse().ok()? });
        let valid = |durability: &Self| {
            !matches!(durability, Self::Bounded { seconds: 0 } | Self::Sync { regions: 0 })
        };
        parsed.or_else(bounded).or_else(sync).filter(valid).ok_or_else(|| InvalidDurability(text.to_owned()))
    }
}

impl TryFrom<String> for Durability {
    type Error = InvalidDurability;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Durability> for String {
    fn from(durability: Durability) -> Self {
        durability.to_string()
    }
}

/// When another region takes over by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether it does at all.
    pub automatic: bool,
    /// Bytes of log that may be lost, as far as is known; without a number any amount may.
    pub loss_bytes_max: Option<u64>,
    /// Regions, the candidate among them, that must agree that the primary is gone; a majority when absent.
    #[schemars(range(min = 1))]
    pub observers_min: Option<u8>,
    /// Failovers within `flap_window_s` that happen without delay.
    pub flap_limit: u32,
    /// Seconds in which failovers are counted.
    pub flap_window_s: u64,
    /// Seconds that a failover beyond the limit waits; doubled with each further one.
    pub flap_back_off_s: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            automatic: true,
            loss_bytes_max: Some(64 << 20),
            observers_min: None,
            flap_limit: 3,
            flap_window_s: 600,
            flap_back_off_s: 30,
        }
    }
}

/// A switchover that was asked for and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Tells it from others.
    pub id: u64,
    /// The primary now.
    pub from: RegionId,
    /// The primary to be.
    pub to: RegionId,
    /// Longest wait, in milliseconds, for transactions to end.
    pub timeout_ms: u64,
}

/// How a transition ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target is primary.
    Done,
    /// The old primary goes on, because of this.
    RolledBack(String),
}

/// Why the primary changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The cluster was made.
    Bootstrap,
    /// Planned; nothing lost.
    Switchover,
    /// The primary's lease had ended.
    Failover,
    /// An operator's word, while the lease may still have been held.
    Forced,
}

/// A change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The epoch that it began.
    pub epoch: Epoch,
    /// The primary of that epoch.
    pub primary: RegionId,
    /// Why.
    pub cause: Cause,
    /// When, in seconds since 1970 by the new primary's clock.
    pub at: u64,
    /// The timeline that the new primary writes, once it is promoted.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    /// Where that timeline leaves the one before: what the former primary wrote past it is lost.
    #[serde(default)]
    pub fork: Option<Lsn>,
}

impl Topology {
    /// The topology of a new cluster.
    #[must_use]
    pub fn new(cluster: String, primary: RegionId, members: BTreeMap<RegionId, Member>, at: u64) -> Self {
        let change = Change {
            epoch: Epoch(1),
            primary: primary.clone(),
            cause: Cause::Bootstrap,
            at,
            timeline: None,
            fork: None,
        };
        Self {
            format: FORMAT,
            cluster,
            epoch: Epoch(1),
            primary,
            system: None,
            members,
            durability: Durability::Async,
            durability_in_force: true,
            policy: Policy::default(),
            transition: None,
            last_transition: None,
            changes: vec![change],
        }
    }

    /// The same with another primary, in the next epoch.
    #[must_use]
    pub(crate) fn claimed(&self, by: &RegionId, cause: Cause, at: u64) -> Self {
        let mut next = self.clone();
        next.epoch = self.epoch.next();
        next.primary = by.clone();
        if let Some(transition) = next.transition.take() {
            let outcome = match cause {
                Cause::Switchover => Outcome::Done,
                Cause::Bootstrap | Cause::Failover | Cause::Forced => {
                    Outcome::RolledBack(format!("{by} took over while it was under way"))
                }
            };
            next.last_transition = Some((transition, outcome));
        }
        let (epoch, primary) = (next.epoch, by.clone());
        let change = Change { epoch, primary, cause, at, timeline: None, fork: None };
        next.changes.push(change);
        let surplus = next.changes.len().saturating_sub(CHANGES_MAX);
        next.changes.drain(..surplus);
        next
    }

    /// The same without its transition.
    #[must_use]
    pub(crate) fn rolled_back(&self, reason: &str) -> Self {
        let mut next = self.clone();
        if let Some(transition) = next.transition.take() {
            next.last_transition = Some((transition, Outcome::RolledBack(reason.to_owned())));
        }
        next
    }

    /// Regions that must agree that the primary is gone, the candidate among them.
    #[must_use]
    pub fn observers_needed(&self) -> usize {
        let majority = self.members.len() / 2 + 1;
        self.policy.observers_min.map_or(majority, usize::from)
    }

    /// The change that began the present epoch.
    #[must_use]
    pub fn last_change(&self) -> Option<&Change> {
        self.changes.last().filter(|change| change.epoch == self.epoch)
    }
}
