//! PostgreSQL's wire protocol, version 3: frames, start-up packets, messages, SCRAM-SHA-256 and error fields.
//!
//! Pure: bytes in, bytes out. Frames are found without copying them ([`frame`]), so that what the gateway need
//! not change can be passed on as it is (PASS-THROUGH). Every length field is checked against a named limit
//! before anything is allocated (BOUNDED).
//!
//! Source of the rules: PostgreSQL documentation, part "Frontend/Backend Protocol", sections 53.2 "Message Flow",
//! 53.3 "SASL Authentication", 53.7 "Message Formats" and 53.8 "Error and Notice Message Fields".

pub mod build;
pub mod fields;
pub mod frame;
pub mod message;
pub mod requests;
pub mod scram;
pub mod sqlstate;
pub mod startup;

pub use fields::ErrorFields;
pub use frame::{FrameError, Header};
pub use sqlstate::SqlState;
