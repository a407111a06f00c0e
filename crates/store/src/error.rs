//! Errors: three kinds, because a caller can do three different things.

/// Why a call to the store did not end as asked. The text says what failed and where, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was read, or certainly nothing was written: try again.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A write that may have happened or may still happen: load, then decide.
    #[error("whether the store has written is not known: {0}")]
    Unknown(String),
    /// Corrupt, misconfigured or refused. Nothing was written, and trying again helps only after somebody has
    /// repaired it.
    #[error("the store cannot be used: {0}")]
    Invalid(String),
}

/// An error with its sources, for a reason of a [`StoreError`].
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = inner.source();
    }
    text
}
