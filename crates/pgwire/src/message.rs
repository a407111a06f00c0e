//! Reading the messages that the gateway has to understand. Views borrow from the frame's body.

use memchr::memchr;

use crate::frame::FrameError;

/// A C string at the start of `bytes`, and what follows it.
///
/// # Errors
/// When there is no NUL.
pub fn cstr(bytes: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    // Most names are empty.
    let end = if bytes.first() == Some(&0) { Some(0) } else { memchr(0, bytes) };
    let (text, rest) = bytes.split_at(end.ok_or(FrameError::Body)?);
    Ok((text, &rest[1..]))
}

/// The text of a Query.
///
/// # Errors
/// When the body is no single C string.
pub fn query_text(body: &[u8]) -> Result<&[u8], FrameError> {
    match body.split_last() {
        Some((0, text)) if memchr(0, text).is_none() => Ok(text),
        _ => Err(FrameError::Body),
    }
}

/// A Parse message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the prepared statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Its text.
    pub text: &'a [u8],
    /// Number and OIDs of the parameter types, as sent.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it does not have the form of a Parse.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let (statement, rest) = cstr(body)?;
        let (text, types) = cstr(rest)?;
        Ok(Self { statement, text, types })
    }
}

/// A Bind message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the prepared statement.
    pub statement: &'a [u8],
    /// Formats and values, as sent.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names; formats and values stay as they are.
    ///
    /// # Errors
    /// When it does not have the form of a Bind.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let (portal, rest) = cstr(body)?;
        let (statement, rest) = cstr(rest)?;
        Ok(Self { portal, statement, rest })
    }
}

/// What a Describe or Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads the body of a Describe or Close.
    ///
    /// # Errors
    /// When it does not have that form.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        match body.split_first() {
            Some((b'S', rest)) => Ok(Self::Statement(cstr(rest)?.0)),
            Some((b'P', rest)) => Ok(Self::Portal(cstr(rest)?.0)),
            _ => Err(FrameError::Body),
        }
    }
}

/// An Execute message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Name of the portal.
    pub portal: &'a [u8],
    /// Most rows to return; 0 for all.
    pub row_limit: u32,
}

impl<'a> Execute<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it does not have the form of an Execute.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let (portal, rest) = cstr(body)?;
        let limit = rest.first_chunk::<4>().ok_or(FrameError::Body)?;
        Ok(Self { portal, row_limit: u32::from_be_bytes(*limit) })
    }
}

/// Name and value of a ParameterStatus.
///
/// # Errors
/// When the body does not have that form.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Ok((name, value))
}

/// The first column of a DataRow; `None` when there is none or it is NULL.
#[must_use]
pub fn first_column(body: &[u8]) -> Option<&[u8]> {
    let (_, rest) = body.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

/// The value of a FunctionCallResponse; `None` when it is NULL.
#[must_use]
pub fn function_result(body: &[u8]) -> Option<&[u8]> {
    let (length, rest) = body.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

/// An authentication request of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The session may begin.
    Ok,
    /// Mechanisms offered, separated by NUL.
    Sasl(&'a [u8]),
    /// SCRAM's server-first-message.
    SaslContinue(&'a [u8]),
    /// SCRAM's server-final-message.
    SaslFinal(&'a [u8]),
    /// Another method, by its number.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of an Authentication message.
    ///
    /// # Errors
    /// When it is shorter than its number.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let (number, rest) = body.split_first_chunk::<4>().ok_or(FrameError::Body)?;
        Ok(match u32::from_be_bytes(*number) {
            0 => Self::Ok,
            10 => Self::Sasl(rest),
            11 => Self::SaslContinue(rest),
            12 => Self::SaslFinal(rest),
            other => Self::Other(other),
        })
    }
}

/// Mechanism and data of a SASLInitialResponse.
///
/// # Errors
/// When the body does not have that form.
pub fn sasl_initial_response(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let (mechanism, rest) = cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>().ok_or(FrameError::Body)?;
    let expected = u32::from_be_bytes(*length);
    match expected {
        u32::MAX if data.is_empty() => Ok((mechanism, data)),
        _ if expected as usize == data.len() => Ok((mechanism, data)),
        _ => Err(FrameError::Body),
    }
}
