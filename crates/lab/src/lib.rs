//! A whole global database on one machine: a supervisor of region processes, and the WAN between them.
//!
//! `pangea up` is a thin wrapper around [`Cluster`]; end-to-end tests use it directly. The supervisor holds no
//! data and decides nothing: each region is an ordinary `pangea region run` process, which does not know that its
//! peers' addresses lead through an emulator.

mod admin;
mod certs;
pub mod chaos;
mod clock;
mod cluster;
mod down;
mod error;
mod files;
pub mod history;
mod http;
mod layout;
mod manifest;
mod ports;
mod process;
mod supervised;
mod trouble;
pub mod wan;

pub use admin::{LinkChange, RegionRemoval, RegionRemoved, add_region, admin_call, remove_region};
pub use clock::FakeTime;
pub use cluster::{Cluster, ClusterOptions, Progress};
pub use down::{Down, delete, down};
pub use error::ClusterError;
pub use http::{
    HttpError, region_control, region_status, request_change, request_failover, request_rebuild,
    request_reload, request_switchover,
};
pub use layout::Layout;
pub use manifest::{Manifest, RegionEntry, WanChoice};
