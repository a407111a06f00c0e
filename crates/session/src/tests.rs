//! The session between simulated servers.
//!
//! [`engine`] and [`server`] are a very small PostgreSQL; [`rig`] puts a session between a client and two of
//! them. The tables of exact flows assert which frames go where and in which flight; [`simulation`] compares
//! random programs with one server that runs the same bytes.

mod consistency;
mod copy;
mod edges;
mod engine;
mod extended;
mod failures;
mod flows;
mod listening;
mod moving;
mod program;
mod rig;
mod server;
mod settings;
mod shared;
mod simulation;
mod state;
mod transactions;
mod wire;
