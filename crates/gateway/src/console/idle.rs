//! Clients that ask for nothing: how long they may, and what they are told when that is over.
//!
//! When its client has its answer a session notes the time, which is known then anyway; a [sweep](super::Clients::sweep)
//! looks at those times. So a message costs two stores, whatever the limits are.

use std::time::Duration;

use pangea_pgwire::{ErrorFields, SqlState};

use crate::pool::IdleTimeouts;

/// Pause between two looks at all clients: how much later than it should a session may end.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Since when a client has asked for nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// Microseconds since it connected.
    pub(crate) since: u64,
    pub(crate) in_transaction: bool,
}

/// A client has asked for nothing for longer than this, which it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overstay {
    /// Outside of a transaction.
    Session(Duration),
    /// Within one.
    Transaction(Duration),
}

impl Overstay {
    /// What the client is told.
    pub(crate) fn error(self) -> ErrorFields {
        let (code, what, longest, setting) = match self {
            Self::Session(longest) => {
                (SqlState::IDLE_SESSION_TIMEOUT, "idle-session", longest, "pool.client_idle_timeout_s")
            }
            Self::Transaction(longest) => {
                let code = SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT;
                (code, "idle-in-transaction", longest, "pool.idle_transaction_timeout_s")
            }
        };
        let becomes = match self {
            Self::Session(_) => "Nothing was under way.",
            Self::Transaction(_) => "The transaction is rolled back.",
        };
        ErrorFields::fatal(code, format!("terminating connection due to {what} timeout"))
            .with_detail(format!("Nothing was asked for {} s. {becomes}", longest.as_secs()))
            .with_hint(format!("Connect again. The limit is {setting} in the region's configuration."))
    }
}

/// Microseconds and a flag in one number, which is not 0.
pub(super) fn pack(since: u64, in_transaction: bool) -> u64 {
    since.max(1) << 1 | u64::from(in_transaction)
}

/// Whether a client overstays. `packed` is 0 while something is asked for.
pub(super) fn overstays(packed: u64, now: u64, timeouts: IdleTimeouts) -> Option<Overstay> {
    if packed == 0 {
        return None;
    }
    let idle = Duration::from_micros(now.saturating_sub(packed >> 1));
    let (longest, overstay): (_, fn(Duration) -> Overstay) = match packed & 1 {
        0 => (timeouts.session, Overstay::Session),
        _ => (timeouts.transaction, Overstay::Transaction),
    };
    longest.filter(|longest| idle >= *longest).map(overstay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn each_limit_counts_for_its_own_kind_of_rest() {
        let seconds = Duration::from_secs;
        let timeouts = IdleTimeouts { session: Some(seconds(60)), transaction: Some(seconds(5)) };
        let after = |in_transaction, time, timeouts| {
            overstays(pack(10 * SECOND, in_transaction), 10 * SECOND + time * SECOND, timeouts)
        };
        assert_eq!(after(false, 59, timeouts), None);
        assert_eq!(after(false, 60, timeouts), Some(Overstay::Session(seconds(60))));
        assert_eq!(after(true, 4, timeouts), None);
        assert_eq!(after(true, 5, timeouts), Some(Overstay::Transaction(seconds(5))));
        assert_eq!(after(true, 3600, IdleTimeouts { transaction: None, ..timeouts }), None);
        assert_eq!(after(false, 3600, IdleTimeouts::default()), None);
        // Something is under way.
        assert_eq!(overstays(0, 3600 * SECOND, timeouts), None);
        // From the very beginning.
        assert_eq!(overstays(pack(0, false), 61 * SECOND, timeouts), Some(Overstay::Session(seconds(60))));
    }

    #[test]
    fn the_client_is_told_which_limit_it_was() {
        let told = Overstay::Session(Duration::from_secs(60)).error();
        assert_eq!((told.severity, told.code.as_str()), ("FATAL", "57P05"));
        assert!(told.hint.is_some_and(|hint| hint.contains("pool.client_idle_timeout_s")));
        let told = Overstay::Transaction(Duration::from_secs(5)).error();
        assert_eq!((told.severity, told.code.as_str()), ("FATAL", "25P03"));
        assert!(told.detail.is_some_and(|detail| detail.contains("5 s. The transaction is rolled back")));
    }
}
