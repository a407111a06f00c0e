//! The answer of the classifier: what a statement needs and what it leaves behind.

use std::ops::Range;

/// What one query string (a simple query or the text of a Parse message) does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The statements in order; empty for an empty string or one of comments alone.
    pub statements: Vec<Statement>,
    /// The text could not be read: a syntax error, deeper nesting than the decoder allows, or
    /// longer than [`crate::TEXT_LEN_MAX`]. Only the primary can say what it does.
    pub unparsable: bool,
    /// A function, relation, operator or type is not in the catalogue. It may have been created
    /// after the catalogue was read: a refresh may turn the answer into a local read.
    pub unknown_names: bool,
    /// With other numbers and strings in the places of those that are there the answer is the
    /// same, but for the ranges. In doubt: false.
    pub any_literals: bool,
}

impl Batch {
    /// Whether any part of it must run on the primary (text that cannot be read included).
    pub fn needs_primary(&self) -> bool {
        self.unparsable || self.statements.iter().any(|statement| statement.needs_primary)
    }

    /// Whether it is one statement that does nothing but read.
    #[inline]
    pub fn only_reads(&self) -> bool {
        matches!(self.statements.as_slice(), [statement] if statement.only_reads()) && !self.unparsable
    }

    /// Whether it leaves state on the server's session that cannot be made again elsewhere.
    pub fn pins(&self) -> bool {
        self.statements.iter().any(|statement| statement.pins)
    }
}

/// What one statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// It may not run on a hot standby, or would mean something else there. In doubt: true.
    pub needs_primary: bool,
    /// What it does to the session or the transaction.
    pub effect: Effect,
    /// It leaves state on the server's session that cannot be replayed on another server.
    /// Whatever pins also needs the primary: a session pinned to a standby could never write.
    pub pins: bool,
    /// It may leave something on the server's session that its text does not tell how to make again: temporary
    /// tables, locks, cursors, and whatever code does that somebody has written. In doubt: true.
    pub holds: bool,
    /// It reads what only the connection knows on which the session has made it: `lastval`, the prepared statements.
    pub reads_private_state: bool,
    /// It reads state of the server's session. Such a statement also needs the primary, and the
    /// replayable state of the session must be there before it runs.
    pub reads_session_state: bool,
    /// Where it stands in the text, in bytes; empty for a statement inside another, and where [`crate::Cache`] has
    /// answered for a text that differs in literals alone: such a statement is the only one.
    pub range: Range<usize>,
}

impl Statement {
    /// Whether it does nothing but read, and nothing that only this connection has.
    #[inline]
    pub fn only_reads(&self) -> bool {
        let special =
            self.needs_primary | self.pins | self.holds | self.reads_private_state | self.reads_session_state;
        !special && matches!(self.effect, Effect::None)
    }

    /// A statement that changes nothing and may run anywhere.
    pub(crate) fn harmless(effect: Effect) -> Self {
        Self {
            needs_primary: false,
            effect,
            pins: false,
            holds: false,
            reads_private_state: false,
            reads_session_state: false,
            range: 0..0,
        }
    }

    /// A statement that must run on the primary.
    pub(crate) fn on_primary(effect: Effect) -> Self {
        Self { needs_primary: true, ..Self::harmless(effect) }
    }

    /// A statement that must run on the primary and ties the session to that server.
    pub(crate) fn pinning(effect: Effect) -> Self {
        Self { pins: true, ..Self::on_primary(effect) }
    }

    /// A statement that must run on the primary and may leave anything on the server's session.
    pub(crate) fn opaque() -> Self {
        Self { holds: true, ..Self::on_primary(Effect::None) }
    }
}

/// What a statement does to the session or to the transaction it runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that outlives the statement, or nothing but data.
    None,
    /// `BEGIN` or `START TRANSACTION`. It needs the primary when a standby refuses its options
    /// (`READ WRITE`, `SERIALIZABLE`).
    Begin {
        /// It was spelled `START TRANSACTION`, which has its own command tag.
        start_transaction: bool,
        /// `READ ONLY` (true) or `READ WRITE` (false), if said.
        read_only: Option<bool>,
        /// The isolation level, if said.
        isolation: Option<Isolation>,
        /// `DEFERRABLE` (true) or `NOT DEFERRABLE` (false), if said.
        deferrable: Option<bool>,
    },
    /// `COMMIT` or `END`.
    Commit {
        /// `AND CHAIN`: another transaction with the same options begins.
        chain: bool,
    },
    /// `ROLLBACK` or `ABORT`.
    Rollback {
        /// `AND CHAIN`: another transaction with the same options begins.
        chain: bool,
    },
    /// `SAVEPOINT name`.
    Savepoint {
        /// The name, folded to lower case unless it was quoted.
        name: String,
    },
    /// `RELEASE name`.
    Release {
        /// The savepoint.
        name: String,
    },
    /// `ROLLBACK TO name`.
    RollbackTo {
        /// The savepoint.
        name: String,
    },
    /// `SET TRANSACTION …`, or `SET [LOCAL] transaction_isolation` and its kin.
    SetTransaction {
        /// The access mode, if said.
        read_only: Option<bool>,
        /// The isolation level, if said.
        isolation: Option<Isolation>,
    },
    /// `PREPARE TRANSACTION`, which ends the transaction block.
    PrepareTransaction,
    /// A setting is changed by `SET`, `RESET`, or a top-level `SELECT set_config(…)`. Running the
    /// same statement again on another server makes the same state there.
    Set {
        /// The setting in lower case; `session characteristics` for that statement; empty when
        /// `set_config` names it by its parameter, a comma when it names several.
        name: String,
        /// It ends with the transaction.
        local: bool,
        /// The value, when it is a constant; the members of a list are joined by commas. `None` for the
        /// default, and when the text does not say.
        value: Option<String>,
    },
    /// `SHOW name`.
    Show {
        /// The setting, as it is written there.
        name: String,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `DISCARD …`.
    Discard(DiscardTarget),
    /// `PREPARE name AS …`: runs anywhere, whatever the inner statement is.
    Prepare {
        /// The name of the prepared statement.
        name: String,
        /// What `EXECUTE` of it does.
        inner: Box<Statement>,
    },
    /// `EXECUTE name`: where it may run is decided by what was prepared. The statement itself
    /// needs the primary only for its arguments, or for `CREATE TABLE … AS EXECUTE` and `EXPLAIN
    /// EXECUTE`.
    Execute {
        /// The name of the prepared statement.
        name: String,
    },
    /// `DEALLOCATE`.
    Deallocate {
        /// The prepared statement; `None` for `ALL`.
        name: Option<String>,
    },
    /// `DECLARE name CURSOR`.
    DeclareCursor {
        /// The cursor.
        name: String,
        /// `WITH HOLD`: it outlives the transaction.
        hold: bool,
    },
    /// `FETCH` or `MOVE`: belongs where the cursor is.
    Fetch {
        /// The cursor.
        name: String,
    },
    /// `CLOSE`: belongs where the cursor is.
    CloseCursor {
        /// The cursor; `None` for `ALL`.
        name: Option<String>,
    },
    /// `COPY … FROM STDIN`.
    CopyFromStdin,
    /// `COPY … TO STDOUT`.
    CopyToStdout,
    /// `LISTEN`.
    Listen {
        /// The channel.
        channel: String,
    },
    /// `UNLISTEN`.
    Unlisten {
        /// The channel; `None` for `*`.
        channel: Option<String>,
    },
    /// `LOAD`: may be run again on another server.
    Load,
    /// The catalogue may have changed.
    Ddl,
}

/// What `DISCARD` throws away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardTarget {
    /// `DISCARD ALL`.
    All,
    /// `DISCARD PLANS`.
    Plans,
    /// `DISCARD SEQUENCES`.
    Sequences,
    /// `DISCARD TEMP`.
    Temp,
}

/// Isolation levels as PostgreSQL runs them: it treats `READ UNCOMMITTED` as `READ COMMITTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// One snapshot for the whole transaction.
    RepeatableRead,
    /// As if one after the other; refused by a hot standby.
    Serializable,
}

impl Isolation {
    /// Reads the value of `transaction_isolation`; any case, as PostgreSQL does.
    pub(crate) fn from_setting(value: &str) -> Option<Self> {
        match value.to_ascii_lowercase().as_str() {
            "read committed" | "read uncommitted" => Some(Self::ReadCommitted),
            "repeatable read" => Some(Self::RepeatableRead),
            "serializable" => Some(Self::Serializable),
            _ => None,
        }
    }
}
