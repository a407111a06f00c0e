//! Failovers with real servers: what was lost is told, the old primary comes back, what was lost is done again.

mod failover;
mod slots;
mod support;
