//! One client's session on the cluster endpoint of a secondary region, as a pure machine.
//!
//! The session stands between a client and two servers: the *local* standby and the *primary*. It takes bytes
//! from the three and gives bytes to the three; sockets, time and waiting are the caller's ([`Session::advance`]).
//!
//! What it guarantees:
//! * The unit of routing is what PostgreSQL makes atomic: a simple query string, everything up to a Sync, a
//!   transaction. One write in it and all of it goes to the primary.
//! * PASS-THROUGH: frames that answer a client's unit reach the client as the server wrote them, in order. What
//!   the session runs for itself (settings replayed, positions asked) is answered to the session alone.
//! * READ-YOUR-WRITES: after a write the position of the commit is asked in the same flight; reads run on the
//!   local server only when it has replayed that position.
//! * AT-MOST-ONCE: a unit runs a second time only when it ran on the standby, which cannot commit, and nothing of
//!   its answer was passed on.
//! * BOUNDED: frames and units above [`UNIT_LEN_MAX`] are not collected but streamed to the primary.
//!
//! ```text
//!            client frames                     server frames
//!   Collecting --Sync/Flush/Query--> Pending --route--> in flight --ReadyForQuery--> done
//!        ^                             |  waits: replay, position, units in flight       |
//!        +-----------------------------+-------------------------------------------------+
//! ```
//!
//! Rejected: one server connection that is switched over (state would have to be moved at each switch), and
//! answering BEGIN without any server (its answer, notices and errors are PostgreSQL's to give).

mod collect;
mod conclude;
mod described;
mod dispatch;
mod learn;
mod leg;
mod listening;
mod lost;
mod moving;
mod observe;
mod own;
mod passing;
mod prepared;
mod respond;
mod session;
mod settings;
mod shared;
mod shared_statements;
#[cfg(test)]
mod tests;
mod unit;

pub use leg::Leg;
pub use listening::{about_channels, channel_of};
pub use moving::Held;
pub use observe::{Activity, Answers};
pub use own::{ALIASES, START_SQL, own_question};
pub use session::{Access, Environment, Session, SessionOptions, SharedOptions, UNIT_LEN_MAX};
pub use shared::{ServerState, Welcome};
pub use shared_statements::ParseNumbers;
