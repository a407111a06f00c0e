//! The parser of PostgreSQL, fenced so that no client text can hurt the process.
//!
//! libpg_query is C: it measures the stack of the calling thread and answers "stack depth limit
//! exceeded" before it overflows, and prost refuses to decode messages nested deeper than 100.
//! The second limit is the one that bites (about 45 operators in a row, `1+1+…`) and it also
//! bounds the recursion of our own walk and of dropping the tree. What goes over it is
//! unparsable, that is: goes to the primary.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use pg_query::protobuf::RawStmt;

/// Longest text that is parsed; longer text goes to the primary unread. Measured: a select list
/// of bare columns takes two thousand times its own length while it is parsed (a text of 240 kB
/// took 470 MB and a second in a debug build), and only one text is parsed at a time.
pub const TEXT_LEN_MAX: usize = 64 * 1024;

/// One parse at a time. libpg_query points file descriptor 2 of the *process* at a pipe while it
/// parses and then puts the old one back; two threads doing that at once can put back each
/// other's pipe, and the process has lost its stderr for good.
pub(crate) static PARSING: Mutex<()> = Mutex::new(());

/// The statements of `text`, or `None` if it cannot be read.
pub(crate) fn parse(text: &str) -> Option<Vec<RawStmt>> {
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    // A panic inside pg_query (it has a few unwraps on tree shapes) means "unparsable" too; the
    // lock guards no data, so poison says nothing.
    let _one_at_a_time = PARSING.lock().unwrap_or_else(PoisonError::into_inner);
    let parsed = catch_unwind(AssertUnwindSafe(|| pg_query::parse(text, 0)));
    Some(parsed.ok()?.ok()?.protobuf.stmts)
}
