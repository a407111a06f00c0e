//! Finding frames in a stream of bytes.
//!
//! A frame is a tag byte, a length of four bytes that counts itself, and a body. A frame need not be whole to be
//! passed on: only [`Header`] must be there.

/// Bytes of a tag and a length.
pub const HEADER_LEN: usize = 5;

/// Longest body of a large message: PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT` (1 GB - 1 B) less the length field.
pub const LARGE_BODY_MAX: usize = 0x3FFF_FFFE - 4;

/// Longest body of a message that carries no data: PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT` less the length field.
pub const SMALL_BODY_MAX: usize = 10_000 - 4;

/// Longest body of an authentication message: PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`.
pub const AUTH_BODY_MAX: usize = 65_535;

/// A frame's tag and the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message it is.
    pub tag: u8,
    /// Bytes of the body, without tag and length field.
    pub body_len: usize,
}

impl Header {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(self) -> usize {
        HEADER_LEN + self.body_len
    }
}

/// A frame that the protocol does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No message of that tag may come from this side.
    #[error("invalid frontend message type {0}")]
    Tag(u8),
    /// The length field is below four or above the limit of the message.
    #[error("invalid message length")]
    Length,
    /// The body does not have the form of its message.
    #[error("invalid message format")]
    Body,
}

/// Reads the header of a frame that a client sent; `None` while it is incomplete.
///
/// # Errors
/// As PostgreSQL does: an unknown tag, or a length that the message may not have.
pub fn frontend_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some(&tag) = bytes.first() else { return Ok(None) };
    let limit = match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => LARGE_BODY_MAX,
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL_BODY_MAX,
        b'p' => AUTH_BODY_MAX,
        _ => return Err(FrameError::Tag(tag)),
    };
    header(bytes, limit)
}

/// Reads the header of a frame that a server sent; `None` while it is incomplete.
///
/// # Errors
/// When the length is impossible.
pub fn backend_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    header(bytes, LARGE_BODY_MAX)
}

fn header(bytes: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    match length.checked_sub(4) {
        Some(body_len) if body_len <= limit => Ok(Some(Header { tag, body_len })),
        _ => Err(FrameError::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_headers_wait() {
        assert_eq!(frontend_header(b""), Ok(None));
        assert_eq!(frontend_header(b"Q\0\0\0"), Ok(None));
        assert_eq!(frontend_header(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', body_len: 0 })));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        assert_eq!(frontend_header(b"Q\x40\0\0\0"), Err(FrameError::Length));
        assert_eq!(frontend_header(b"Q\0\0\0\x03"), Err(FrameError::Length));
        assert_eq!(frontend_header(b"S\0\0\x27\x11"), Err(FrameError::Length));
        assert_eq!(frontend_header(b"!"), Err(FrameError::Tag(b'!')));
        assert_eq!(backend_header(b"D\xff\xff\xff\xff"), Err(FrameError::Length));
    }
}
