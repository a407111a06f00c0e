//! How far a server is, what a session must have seen, and who waits for it. Pure.
//!
//! READ-YOUR-WRITES and MONOTONIC-READS rest on this: a session reads locally only after the local server has
//! replayed the position that the session carries. LAG-IS-NEVER-GUESSED: a position that is not known satisfies
//! nobody, and neither does one on a timeline that the server has left.

mod history;
mod settings;
mod staleness;
mod token;
mod waiters;

pub use history::{History, InvalidHistory, Reach};
pub use settings::{Level, ReadSettings, SETTING_NAMES, Setting, SettingError, TimeoutAction};
pub use staleness::Staleness;
pub use token::Token;
pub use waiters::Waiters;
