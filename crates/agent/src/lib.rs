//! Drives the PostgreSQL servers of a region: create, clone, start, watch, stop.
//!
//! What it guarantees:
//! * a data directory appears under its final name only when it is complete (made beside it, then renamed);
//! * a directory that Pangea did not make, or that another major version made, is refused and not touched;
//! * never two postmasters on one data directory: what an earlier process left running is stopped first;
//! * a server that dies is started again, with a growing pause; one that is told to stop is gone afterwards;
//! * a server that is ordered not to write does not write any more when that is told.
//!
//! Servers are started as plain children (`postgres -D`), not through `pg_ctl`: readiness is read from
//! `postmaster.pid`, which costs milliseconds, and the exit status is ours to see.

mod bin;
mod create;
mod error;
mod functions;
mod postmaster;
mod promote;
pub mod recovery;
mod rejoin;
mod server;
mod settings;
mod status;
mod successor;

pub use bin::{PgBin, PgBinError, PgVersion};
pub use error::ServerError;
pub use functions::keep_functions;
pub use postmaster::{kill_leftover, kill_now, stop_leftover};
pub use promote::{checkpoint, is_synchronous};
pub use server::{Followed, Orders, Phase, Server, State};
pub use settings::ServerSpec;
pub use status::{ServerPosition, StatusPoller};
pub use successor::Reader;

/// The port number in the name of the socket `.s.PGSQL.5432`. No such TCP port is opened.
pub const SOCKET_PORT: u16 = 5432;
