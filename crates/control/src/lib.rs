//! Who may write, decided without I/O: topology, lease, switchover, failover.
//!
//! [`Controller`] is one region's part in it. It is told what is in the store, what the other regions say and how the
//! region's own server is, and says what is to be so: which role the server has, whether the gateway holds its
//! clients' writes, what is written to the store. It is asked again whenever something has changed and says the same
//! until it has (level-triggered), so that a crash of any participant at any step is no special case.
//!
//! ```text
//!                  lease held                       lease ends, or a higher epoch is heard of
//!   Secondary ──────────────────► Primary ──────────────────────────────► Secondary (fenced at once)
//!       ▲    claim: epoch + 1        │ transition recorded
//!       │                            ▼
//!       │          Preparing ► Quiescing ► Holding ► Stopping ► Offered ─ the target claims ─► Secondary
//!       │              └───────────┴──────────┴──────────┴─────────┴─► RollingBack ► Primary
//! ```
//! * ONE-WRITER: a claim is one conditional write of topology and lease; of two that were made from the same topology
//!   one fails. A server is promoted only after its region's claim.
//! * LEASE-BEFORE-WRITE: the holder counts from the moment *before* it renewed, an observer from the moment *after* it
//!   saw the renewal, each on its own monotonic clock, and the holder stops a margin earlier. No clock is compared
//!   with another.
//! * NO-LOSS-SWITCHOVER: the target claims only when it has replayed the shutdown checkpoint of the old primary's
//!   server, and the old primary takes writes again only after it has taken the transition out of the topology, which
//!   fails if the target has claimed.

mod change;
mod controller;
mod decide;
mod election;
mod handover;
mod interface;
mod lease;
mod membership;
mod preflight;
mod state;
mod topology;
mod writes;

pub use change::TopologyChange;
pub use controller::{Controller, Settings};
pub use decide::PREPARE_TIMEOUT;
pub use handover::{Step, StepKind};
pub use interface::{Desired, Gate, Hold, Loaded, Output, Scope, StoreWrite, Written};
pub use lease::Lease;
pub use membership::removal_objection;
pub use preflight::{Check, SwitchoverRequest};
pub use state::{Offer, PeerState, Promotion, Server};
pub use topology::{
    Cause, Change, Durability, InvalidDurability, Member, Outcome, Policy, Topology, Transition,
};

#[cfg(test)]
mod tests;
