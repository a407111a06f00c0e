//! Whether what clients saw is what their consistency level promises.
//!
//! A workload ([`workload`]) has sessions in all regions read and write registers, and records what each was told and
//! when. [`check`] judges the record alone; it knows nothing of Pangea, so that it can be wrong only about the
//! definitions, which stand at the top of `sessions` and `linear`.
//!
//! It must never fire on correct behaviour, and must fire on every kind of wrong one: tests simulate a replicated
//! store that is correct, and one that is not.
//!
//! Transactions of several registers are judged elsewhere (serializability and its weaker kin need a graph search);
//! here they are a source of snapshots and of writes that commit together.

mod dependencies;
mod linear;
mod operation;
mod order;
mod report;
mod rng;
mod sessions;
#[cfg(test)]
mod tests;
pub mod workload;

pub use operation::{
    Action, History, Key, Operation, Outcome, PlaceId, Seen, SessionId, TransactionId, Version, WriteId,
};
pub use report::{Guarantee, Report, Violation};
pub use rng::Rng;

/// Finds all violations.
#[must_use]
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let order = order::Order::establish(history, &mut report);
    sessions::check(history, &order, &mut report);
    linear::check(history, &order, &mut report);
    report
}
