//! Tests of the controller.

mod agent;
mod bench;
mod invariants;
mod membership;
mod protocol;
mod rng;
mod schedule;
mod search;
mod server;
mod simulation;
mod store;
mod tables;
mod traffic;
mod world;
