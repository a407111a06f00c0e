//! Why a client of a test has no answer, and what that says about its transaction.

use std::fmt;

use tokio_postgres::Error;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server, the driver or the connection says so.
    Error(Error),
    /// It took too long.
    Silence,
    /// The answer has another form than the question.
    Nonsense,
}

impl Trouble {
    /// The SQLSTATE, or what there is in its place.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Error(error) => error.code().map_or("client", |code| code.code()),
            Self::Silence => "silence",
            Self::Nonsense => "nonsense",
        }
    }

    /// Whether the transaction that this ended is certainly not committed, though its commit was sent.
    ///
    /// Only what PostgreSQL says when it rolls back by itself: conflicts (but for 40003, which says that it does not
    /// know), errors of the statement, a read-only server. Classes 08 and 57 may come from anywhere on the way.
    pub(crate) fn rolled_back(&self) -> bool {
        let code = self.code();
        code.len() == 5 && code != "40003" && ["40", "42", "25", "22", "23"].contains(&&code[..2])
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => match error.as_db_error() {
                Some(error) => write!(f, "{}: {}", error.code().code(), error.message()),
                None => write!(f, "{error}"),
            },
            Self::Silence => f.write_str("no answer in time"),
            Self::Nonsense => f.write_str("an answer of another form than the question"),
        }
    }
}
