//! Tests of the controller.

mod bench;
mod invariants;
mod protocol;
mod rng;
mod schedule;
mod server;
mod simulation;
mod store;
mod tables;
mod traffic;
mod world;
