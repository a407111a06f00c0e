//! What a statement does: classification with the parser of PostgreSQL. Pure.
//!
//! The gateway of a secondary region asks, for the text of a simple query or a Parse message:
//! may this run on the local hot standby, or must it go to the primary? And what does it leave
//! on the session? [`classify()`] answers from the text and a [`Catalog`] of the database.
//!
//! What it promises: a statement said to run anywhere ([`Statement::needs_primary`] false) reads
//! only what a standby has, runs no function that writes, and means the same there. It is wrong
//! only about what the catalogue itself is wrong about: a function declared `STABLE` that writes,
//! and C code behind the types of columns. What it does not understand goes to the primary.
//!
//! Two rejected designs. Matching the first word of the text (and regular expressions) sends
//! writing functions, `WITH … INSERT` and `SELECT … FOR UPDATE` to a standby, where some of them
//! *succeed silently* (advisory locks, functions that swallow the error). Letting the standby
//! refuse and running again on the primary is kept as a net below, but it has those same holes.
//!
//! The text must be what the server will see with `standard_conforming_strings = on` and a client
//! encoding in which no byte below 0x80 is part of a longer character; `SET`s that change the
//! first pin the session to the primary, where a wrong reading does no harm.

mod builtin;
mod cache;
mod catalog;
mod classify;
mod parse;
mod settings;
mod shape;
mod statement;
mod walk;

pub use cache::{CACHED_TEXT_LEN_MAX, Cache};
pub use catalog::{
    Catalog, CatalogBuilder, CatalogTable, DEPENDENTS_SQL, FINGERPRINT_SQL, FUNCTIONS_SQL, FunctionRow,
    OPERATORS_SQL, OperatorRow, RELATIONS_SQL, RelationRow, RowError, SESSION_SQL, TYPES_SQL, TypeRow,
};
pub use classify::classify;
pub use parse::TEXT_LEN_MAX;
pub use statement::{Batch, DiscardTarget, Effect, Isolation, Statement};
