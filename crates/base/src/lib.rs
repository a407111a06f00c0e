//! Words that every floor shares: region names, epochs, WAL positions, dates.
//!
//! Pure: no I/O, no clock. A value that is not known is an `Option`, never zero (LAG-IS-NEVER-GUESSED).

mod civil;
mod position;
mod region;

pub use civil::Civil;
pub use position::{Lsn, ParseLsnError, ParsePositionError, Position, Timeline};
pub use region::{Epoch, InvalidRegionId, RegionId};
