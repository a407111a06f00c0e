//! Failovers with real servers: what was lost is told, the old primary comes back, what was lost is done again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::too_many_lines, reason = "tests")]

mod failover;
mod slots;
mod support;
