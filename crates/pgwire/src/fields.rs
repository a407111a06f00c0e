//! Fields of ErrorResponse and NoticeResponse.

use bytes::{BufMut, BytesMut};

use crate::build::frame;
use crate::sqlstate::SqlState;

/// An error that the gateway itself reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// `ERROR`, `FATAL`, ...
    pub severity: &'static str,
    /// What kind of error it is.
    pub code: SqlState,
    /// One line, lower case, no full stop.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The function of PostgreSQL that says the same: by it drivers tell apart what has one code (pgjdbc a stale plan).
    pub routine: Option<&'static str>,
}

impl ErrorFields {
    /// An error that ends the statement.
    #[must_use]
    pub fn error(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: "ERROR", code, message: message.into(), detail: None, hint: None, routine: None }
    }

    /// What a server has said in the body of an ErrorResponse, with severity ERROR whatever it was.
    #[must_use]
    pub fn of_server(body: &[u8]) -> Self {
        let text = |tag| field(body, tag).map(|text| String::from_utf8_lossy(text).into_owned());
        let code = code(body).unwrap_or(SqlState::CONNECTION_FAILURE);
        let mut error = Self::error(code, text(b'M').unwrap_or_default());
        (error.detail, error.hint) = (text(b'D'), text(b'H'));
        error
    }

    /// An error that ends the connection.
    #[must_use]
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: "FATAL", ..Self::error(code, message) }
    }

    /// The end of a connection by an administrator, in PostgreSQL's words.
    #[must_use]
    pub fn terminated() -> Self {
        Self::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
    }

    /// With more about it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the function of PostgreSQL that says it.
    #[must_use]
    pub fn with_routine(mut self, routine: &'static str) -> Self {
        self.routine = Some(routine);
        self
    }

    /// A warning, to be sent as a notice.
    #[must_use]
    pub fn warning(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: "WARNING", ..Self::error(code, message) }
    }

    /// Writes an ErrorResponse; a NoticeResponse when it is but a warning.
    pub fn write(&self, out: &mut BytesMut) {
        let tag = if self.severity == "WARNING" { b'N' } else { b'E' };
        frame(out, tag, |out| {
            let mut field = |tag: u8, value: &[u8]| {
                out.put_u8(tag);
                // A NUL would end the field early and shift all that follow.
                out.extend(value.iter().copied().filter(|&byte| byte != 0));
                out.put_u8(0);
            };
            field(b'S', self.severity.as_bytes());
            field(b'V', self.severity.as_bytes());
            field(b'C', &self.code.0);
            field(b'M', self.message.as_bytes());
            if let Some(detail) = &self.detail {
                field(b'D', detail.as_bytes());
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint.as_bytes());
            }
            if let Some(routine) = self.routine {
                field(b'R', routine.as_bytes());
            }
            out.put_u8(0);
        });
    }
}

/// The value of one field in the body of an ErrorResponse or NoticeResponse that a server sent.
#[must_use]
pub fn field(body: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = body;
    while let Some((&tag, after)) = rest.split_first() {
        if tag == 0 {
            return None;
        }
        let end = after.iter().position(|&byte| byte == 0)?;
        if tag == wanted {
            return Some(&after[..end]);
        }
        rest = &after[end + 1..];
    }
    None
}

/// The SQLSTATE in the body of an ErrorResponse that a server sent.
#[must_use]
pub fn code(body: &[u8]) -> Option<SqlState> {
    field(body, b'C')?.try_into().ok().map(SqlState)
}

/// Whether the error in this body ends the connection (severity FATAL or PANIC, untranslated field `V`).
#[must_use]
pub fn is_fatal(body: &[u8]) -> bool {
    matches!(field(body, b'V').or_else(|| field(body, b'S')), Some(b"FATAL" | b"PANIC"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HEADER_LEN, backend_header};

    #[test]
    fn what_is_written_is_read() {
        let error = ErrorFields::fatal(SqlState::ADMIN_SHUTDOWN, "going\0 down");
        let error = error.with_hint("wait").with_routine("ProcessInterrupts");
        let mut out = BytesMut::new();
        error.write(&mut out);
        let header = backend_header(&out).unwrap().unwrap();
        assert_eq!((header.tag, header.frame_len()), (b'E', out.len()));
        let body = &out[HEADER_LEN..];
        assert_eq!(code(body), Some(SqlState::ADMIN_SHUTDOWN));
        assert_eq!(field(body, b'M'), Some(&b"going down"[..]));
        assert_eq!(field(body, b'H'), Some(&b"wait"[..]));
        assert_eq!(field(body, b'R'), Some(&b"ProcessInterrupts"[..]));
        assert_eq!(field(body, b'D'), None);
        assert!(is_fatal(body));
    }

    #[test]
    fn broken_fields_are_no_field() {
        assert_eq!(field(b"", b'C'), None);
        assert_eq!(field(b"Cabc", b'C'), None);
        assert_eq!(code(b"Cabc\0\0"), None);
    }
}
