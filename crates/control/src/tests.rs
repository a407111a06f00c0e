//! Tests of the controller.

mod invariants;
mod rng;
mod schedule;
mod server;
mod simulation;
mod store;
mod traffic;
mod world;
