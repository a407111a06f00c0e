//! End-to-end tests: the real `pangea` program, real PostgreSQL servers, real drivers.
//!
//! A test is one cluster and a list of scenarios that use it one after the other. A scenario that fails does not
//! keep the next ones from running; all that failed are named at the end, and the cluster's directory with its logs
//! is kept. `PANGEA_E2E_ONLY=text` runs only the scenarios whose name contains the text.
//!
//! Nothing is tried twice and no time is asserted, but every wait has an end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

mod bad_input;
mod chaos;
mod consistency;
mod console;
mod drivers;
mod failures;
mod moving;
mod pgbench;
mod pooling;
mod regions;
mod session;
mod support;
