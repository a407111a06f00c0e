//! The shape of a text: the text with a mark in the place of each plain number and string.
//!
//! Most clients that write their values into the text send the same few shapes for ever, and the
//! classifier hardly looks at values. So an answer may be kept by shape, see [`crate::Cache`].
//! Two texts of one shape get one answer, and that rests on three things:
//!
//! 1. A mark stands for one whole token. The scanner follows the rules of PostgreSQL's `scan.l`
//!    with `standard_conforming_strings = on`, as [`crate::parse`] does, and everything else is
//!    kept as it is written, spaces and comments included. Marks are bytes that no kept part may
//!    hold. So texts of one shape are the same tokens in the same places, but for the values.
//! 2. The grammar looks at a token's kind, not at its value. There is a mark for each kind
//!    (integer, other number, string), because the grammar tells them apart. The one rule about a
//!    value that a query can reach is `float(n)`, so the word `float` has no shape. (All actions of
//!    `gram.y` that compare an `ival` or a `str` were read for version 18.) How deep the tree is
//!    nested and which length limits it meets depend on the tokens alone.
//! 3. The classifier did not look at a value either: [`crate::Batch::any_literals`].
//!
//! Where the scanner is not certain it gives up, and the text is its own key as it always was:
//! `E''`, `B''`, `X''`, `N''`, `U&''`, dollar quotes, strings continued on another line, `0x1F`,
//! `1_000`, numbers next to a letter or a dot, several statements, control characters.
//!
//! Rejected: pg_query's `normalize` and `fingerprint`, which parse; and a hash of the shape
//! instead of the shape, where a collision would send a write to a standby.

#[cfg(test)]
mod tests;

use crate::cache::CACHED_TEXT_LEN_MAX;
use crate::parse::TEXT_LEN_MAX;

/// In the place of a number that the server reads as `ICONST`.
const INTEGER: char = '\x01';
/// In the place of a number that the server reads as `FCONST`.
const NUMBER: char = '\x02';
/// In the place of a string (`SCONST`).
const STRING: char = '\x03';
/// Bytes below this may not be in what is kept: NUL, which ends the text for C, and the marks.
const KEPT_MIN: u8 = 4;

/// What is not the same in all texts of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    /// Where the first literal begins. What is before it is the same in all texts.
    pub(crate) first_literal: usize,
    /// Where the statement ends: at its semicolon, or with the text.
    pub(crate) end: usize,
}

/// Writes the shape of a text over `shape`. `None` if the text has no literals, more than one
/// statement, or anything the scanner is not certain of.
pub(crate) fn write_shape(text: &str, shape: &mut String) -> Option<Places> {
    shape.clear();
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    let bytes = text.as_bytes();
    let mut scanner = Scanner { text, bytes, at: 0, kept: 0, shape, first_literal: None, end: None };
    scanner.scan()?;
    scanner.keep_until(text.len())?;
    Some(Places { first_literal: scanner.first_literal?, end: scanner.end.unwrap_or(text.len()) })
}

/// A walk over the tokens of one text.
#[derive(Debug)]
struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// What is before this is in the shape.
    kept: usize,
    shape: &'a mut String,
    first_literal: Option<usize>,
    /// Where the first semicolon stands.
    end: Option<usize>,
}

impl Scanner<'_> {
    fn scan(&mut self) -> Option<()> {
        while let Some(byte) = self.peek(0) {
            match KINDS[usize::from(byte)] {
                Kind::Single => self.at += 1,
                Kind::Name => self.name()?,
                Kind::Digit => self.number()?,
                Kind::Quote => self.string()?,
                Kind::Other => self.other(byte)?,
            }
        }
        Some(())
    }

    /// What begins more than one kind of token, or none that is known.
    fn other(&mut self, byte: u8) -> Option<()> {
        match (byte, self.peek(1)) {
            // An operator ends where a comment begins within it: it may be skipped byte by byte.
            (b'-', Some(b'-')) | (b'/', Some(b'*')) => self.blanks(),
            (b'-' | b'/', _) => self.skip(),
            (b'.', Some(b'0'..=b'9')) => self.number(),
            (b'.', Some(b'.') | None) => None,
            (b'.', _) => self.skip(),
            (b'"', _) => self.quoted_name(),
            (b'$', _) => self.parameter(),
            (b';', _) => self.end(),
            _ => None,
        }
    }

    /// Behind the statement there may be nothing but more semicolons.
    fn end(&mut self) -> Option<()> {
        self.end = Some(self.at);
        while self.peek(0) == Some(b';') {
            self.at += 1;
            self.blanks()?;
        }
        self.peek(0).is_none().then_some(())
    }

    /// Skips spaces and comments.
    fn blanks(&mut self) -> Option<()> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(byte), _) if is_space(byte) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.line_comment()?,
                (Some(b'/'), Some(b'*')) => self.block_comment()?,
                _ => return Some(()),
            }
        }
    }

    /// A keyword or a name, unless what follows makes it the prefix of another kind of string.
    fn name(&mut self) -> Option<()> {
        let start = self.at;
        self.skip_while(is_name_byte);
        let name = &self.bytes[start..self.at];
        let is_prefix = match name {
            [b'b' | b'B' | b'e' | b'E' | b'n' | b'N' | b'x' | b'X'] => self.peek(0) == Some(b'\''),
            [b'u' | b'U'] => self.peek(0) == Some(b'&') && matches!(self.peek(1), Some(b'\'' | b'"')),
            _ => false,
        };
        (!is_prefix && !name.eq_ignore_ascii_case(b"float")).then_some(())
    }

    fn quoted_name(&mut self) -> Option<()> {
        self.at += 1;
        // A doubled quote is read as the end of one name and the beginning of the next, which
        // keeps the same bytes.
        loop {
            let byte = self.peek(0)?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                ..KEPT_MIN => return None,
                _ => {}
            }
        }
    }

    fn parameter(&mut self) -> Option<()> {
        self.at += 1;
        let is_number = self.digits() > 0;
        (is_number && !self.peek(0).is_some_and(is_name_byte)).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        self.digits();
        let mut mark = if fits_i32(&self.bytes[start..self.at]) { INTEGER } else { NUMBER };
        if self.peek(0) == Some(b'.') {
            self.at += 1;
            self.digits();
            mark = NUMBER;
        }
        if let Some(b'e' | b'E') = self.peek(0) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek(0) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return None;
            }
            mark = NUMBER;
        }
        if self.peek(0).is_some_and(|next| is_name_byte(next) || next == b'.') {
            return None;
        }
        self.replace(start, mark)
    }

    fn string(&mut self) -> Option<()> {
        let start = self.at;
        self.at += 1;
        loop {
            self.skip_while(|byte| byte != b'\'' && byte != 0);
            if self.peek(0)? == 0 {
                return None;
            }
            self.at += 1;
            if self.peek(0) != Some(b'\'') {
                break;
            }
            self.at += 1;
        }
        self.replace(start, STRING)?;
        // Another one may be the rest of it.
        self.blanks()?;
        (self.peek(0) != Some(b'\'')).then_some(())
    }

    fn line_comment(&mut self) -> Option<()> {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\n' | b'\r' => break,
                ..KEPT_MIN => return None,
                _ => self.at += 1,
            }
        }
        Some(())
    }

    /// They nest.
    fn block_comment(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0)?, self.peek(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Some(());
                    }
                }
                (..KEPT_MIN, _) => return None,
                _ => self.at += 1,
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    #[expect(clippy::unnecessary_wraps, reason = "an arm among arms that may give up")]
    fn skip(&mut self) -> Option<()> {
        self.at += 1;
        Some(())
    }

    /// Skips digits and says how many there were.
    fn digits(&mut self) -> usize {
        self.skip_while(|byte| byte.is_ascii_digit())
    }

    fn skip_while(&mut self, is_part: impl Fn(u8) -> bool) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|byte| !is_part(*byte)).unwrap_or(rest.len());
        self.at += len;
        len
    }

    fn replace(&mut self, start: usize, mark: char) -> Option<()> {
        self.keep_until(start)?;
        self.shape.push(mark);
        self.kept = self.at;
        self.first_literal.get_or_insert(start);
        Some(())
    }

    /// Gives up when the shape is too long to be cached.
    fn keep_until(&mut self, end: usize) -> Option<()> {
        let kept = self.text.get(self.kept..end)?;
        if self.shape.len() + kept.len() >= CACHED_TEXT_LEN_MAX {
            return None;
        }
        self.shape.push_str(kept);
        Some(())
    }
}

/// What a byte begins.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A token of one byte, white space, or a byte of an operator that begins no comment.
    Single,
    Name,
    Digit,
    Quote,
    Other,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0_u8;
    loop {
        kinds[byte as usize] = match byte {
            b'0'..=b'9' => Kind::Digit,
            b'$' => Kind::Other,
            b'\'' => Kind::Quote,
            b',' | b'(' | b')' | b'[' | b']' | b':' => Kind::Single,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'*' | b'%' | b'<'
            | b'>' | b'=' => Kind::Single,
            _ if is_space(byte) => Kind::Single,
            _ if NAME_BYTES[byte as usize] => Kind::Name,
            _ => Kind::Other,
        };
        if byte == u8::MAX {
            break kinds;
        }
        byte += 1;
    }
};

/// What `scan.l` takes for white space.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Letters, digits, `_`, `$` and whatever is not ASCII: what a name is made of. Only a part of
/// them may begin one.
fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES[usize::from(byte)]
}

const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Whether these digits are a number that the server takes for a 32-bit integer.
fn fits_i32(digits: &[u8]) -> bool {
    const MAX: &[u8] = b"2147483647";
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let digits = &digits[zeros..];
    digits.len() < MAX.len() || (digits.len() == MAX.len() && digits <= MAX)
}
