//! What happens to the transactions that only a dead primary had, and how it comes back.
//!
//! ```text
//!  old primary A:  ---- F ---- lost commits ---- X (crash)
//!  new primary B:       \---- timeline T+1 ------------------->
//!
//!  while A is primary    keep_slots   a logical slot in every database, kept at what standbys have
//!  A is back, stopped    extract      commits past F as row changes, in a durable report
//!                        rewind       A becomes a copy of B (or is cloned anew), and starts as its standby
//!  later, on B           apply        what was lost is done again where the row still is as it was
//! ```
//!
//! What it guarantees (LOSS-IS-REPORTED):
//! * every transaction that A committed past F is in the report, by its commit record in A's log, whether or not
//!   its rows could be decoded. A transaction whose rows may be missing says so (`decoded`), and then the report
//!   is not `complete`;
//! * nothing of A is changed before the divergent log is copied; the report appears under its name only when it is
//!   complete and on disk;
//! * applying never overwrites what was written after the failover, and never does a change twice.
//!
//! Every public function takes plain paths and connection strings; nothing here decides *when* to do it.

mod apply;
mod catalog;
mod control;
mod decode;
mod error;
mod extract;
mod isolated;
mod lookup;
mod net;
mod report;
mod rewind;
mod rows;
mod session;
mod slots;
mod target;
mod waldump;

pub use apply::{Applied, ApplyOptions, Conflict, ConflictReason, apply};
pub(crate) use control::has_last_checkpoint;
pub use control::{ClusterState, ControlData, control_data};
pub use error::RecoveryError;
pub use extract::{Extract, Extracted, extract};
pub use report::{
    Cell, Change, ChangeKind, Header, LostTransaction, Report, ReportState, Row, TableName, Transactions,
    list_reports, open_report,
};
pub use rewind::{Fork, Rewind, Rewound, fork_of, rewind, timeline_of};
pub(crate) use session::{Session, parse_conninfo};
pub use slots::keep_slots;
pub(crate) use waldump::{Log, segment_name, tail};
