//! SQLSTATE codes (PostgreSQL documentation, appendix A).

use std::fmt;

/// Five characters that say what kind of error it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState { $($(#[$doc])* pub const $name: SqlState = SqlState(*$code);)* }
    };
}

codes! {
    /// A warning.
    WARNING = b"01000";
    /// The client cannot establish the connection.
    SQLCLIENT_UNABLE_TO_CONNECT = b"08001";
    /// The connection failed.
    CONNECTION_FAILURE = b"08006";
    /// Whether the transaction took effect is not known.
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    /// A message that the protocol does not allow.
    PROTOCOL_VIOLATION = b"08P01";
    /// A feature that is not there.
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// A command that is none.
    SYNTAX_ERROR = b"42601";
    /// What is asked for is not allowed to the one who asks.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// A value that a parameter cannot have.
    INVALID_PARAMETER_VALUE = b"22023";
    /// A client was idle in a transaction for too long.
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    /// A write in a read-only transaction, or on a standby.
    READ_ONLY_SQL_TRANSACTION = b"25006";
    /// The role may not log in.
    INVALID_AUTHORIZATION = b"28000";
    /// Wrong password.
    INVALID_PASSWORD = b"28P01";
    /// No such prepared statement.
    INVALID_SQL_STATEMENT_NAME = b"26000";
    /// There is a prepared statement of this name already.
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    /// No such database.
    UNDEFINED_DATABASE = b"3D000";
    /// A serialization failure; on a standby also a conflict with recovery.
    SERIALIZATION_FAILURE = b"40001";
    /// An object is not in the state that the operation needs; on a standby, recovery is in progress.
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    /// Too many connections.
    TOO_MANY_CONNECTIONS = b"53300";
    /// More than the program can keep.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// Cancelled by the user.
    QUERY_CANCELED = b"57014";
    /// The server is going down.
    ADMIN_SHUTDOWN = b"57P01";
    /// The server does not take connections now.
    CANNOT_CONNECT_NOW = b"57P03";
    /// A client was idle for too long.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// A setting that there is not.
    UNDEFINED_OBJECT = b"42704";
    /// The configuration cannot be used.
    CONFIG_FILE_ERROR = b"F0000";
    /// Pangea's own: the local server has not caught up within `pangea.consistency_timeout`.
    CONSISTENCY_TIMEOUT = b"PGA01";
    /// Pangea's own: what the session's token stands for was lost in a failover, or is of another cluster.
    TOKEN_LOST = b"PGA02";
    /// Something that should not happen.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// The code as text; `?????` when a server sent something that is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
