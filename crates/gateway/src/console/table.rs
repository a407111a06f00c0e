//! Rows of the console's answers, and how they are written. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, BytesMut};
use pangea_base::Civil;
use pangea_pgwire::build;

/// OID of `text`.
const TEXT_OID: u32 = 25;

/// OID of `bigint`.
const INT8_OID: u32 = 20;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int,
}

/// Name and type of a column.
pub(super) type Column = (&'static str, Type);

/// A value. What is not known is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(String),
    Int(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Int(number.into())
    }
}

/// As PgBouncer has them: 0 and 1.
impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Int(truth.into())
    }
}

/// In microseconds.
impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Int(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        let Ok(since) = time.duration_since(UNIX_EPOCH) else { return Self::Null };
        let Civil { year, month, day, hour, minute, second } = Civil::of(since.as_secs());
        Self::Text(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"))
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row of values of different types.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::console::table::Value::from($value)),*] };
}
pub(super) use row;

/// A row.
pub(super) type Row = Vec<Value>;

/// How a column's values are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

/// The formats of a Bind: none (all text), one for all, or one a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Formats(Vec<Format>);

impl Formats {
    /// Reads the end of a Bind; `None` when it does not have that form.
    pub(super) fn read(mut codes: &[u8]) -> Option<Self> {
        let (count, rest) = codes.split_first_chunk::<2>()?;
        codes = rest;
        if codes.len() != usize::from(u16::from_be_bytes(*count)) * 2 {
            return None;
        }
        let format = |code: &[u8]| match code {
            [0, 0] => Some(Format::Text),
            [0, 1] => Some(Format::Binary),
            _ => None,
        };
        codes.chunks(2).map(format).collect::<Option<_>>().map(Self)
    }

    /// Whether they are for so many columns.
    pub(super) fn suit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }

    fn of(&self, column: usize) -> Format {
        let format = if self.0.len() == 1 { self.0.first() } else { self.0.get(column) };
        format.copied().unwrap_or(Format::Text)
    }
}

/// Writes a RowDescription.
#[expect(clippy::cast_possible_truncation, reason = "the console's answers have few columns")]
pub(super) fn write_columns(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    build::frame(out, b'T', |out| {
        out.put_u16(columns.len() as u16);
        for (index, (name, kind)) in columns.iter().enumerate() {
            build::cstr(out, name.as_bytes());
            // Of no table.
            out.put_u32(0);
            out.put_u16(0);
            let (oid, length) = match kind {
                Type::Text => (TEXT_OID, -1),
                Type::Int => (INT8_OID, 8),
            };
            out.put_u32(oid);
            out.put_i16(length);
            out.put_i32(-1);
            out.put_u16(u16::from(formats.of(index) == Format::Binary));
        }
    });
}

/// Writes a DataRow.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the console's answers have few columns and short values"
)]
pub(super) fn write_row(out: &mut BytesMut, row: &[Value], formats: &Formats) {
    build::frame(out, b'D', |out| {
        out.put_u16(row.len() as u16);
        for (index, value) in row.iter().enumerate() {
            match (value, formats.of(index)) {
                (Value::Null, _) => out.put_i32(-1),
                (Value::Int(number), Format::Binary) => {
                    out.put_u32(8);
                    out.put_i64(*number);
                }
                (Value::Int(number), Format::Text) => {
                    let text = number.to_string();
                    out.put_u32(text.len() as u32);
                    out.put_slice(text.as_bytes());
                }
                (Value::Text(text), _) => {
                    out.put_u32(text.len() as u32);
                    out.put_slice(text.as_bytes());
                }
            }
        }
    });
}

/// Writes a CommandComplete.
pub(super) fn write_complete(out: &mut BytesMut, tag: &str) {
    build::frame(out, b'C', |out| build::cstr(out, tag.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_as_they_were_asked_for() {
        let row = row!["ab", 258_u64, None::<u64>, true];
        let mut out = BytesMut::new();
        write_row(&mut out, &row, &Formats::default());
        assert_eq!(out, &b"D\0\0\0\x1c\0\x04\0\0\0\x02ab\0\0\0\x03258\xff\xff\xff\xff\0\0\0\x011"[..]);
        out.clear();
        let formats = Formats(vec![Format::Binary]);
        write_row(&mut out, &row[..3], &formats);
        assert_eq!(out, &b"D\0\0\0\x1c\0\x03\0\0\0\x02ab\0\0\0\x08\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff"[..]);
    }

    #[test]
    fn columns_are_described_with_their_types() {
        let mut out = BytesMut::new();
        write_columns(&mut out, &[("n", Type::Int), ("t", Type::Text)], &Formats::default());
        let expected = b"T\0\0\0\x2e\0\x02n\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0\
            t\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        assert_eq!(out, &expected[..]);
    }

    #[test]
    fn formats_are_none_one_or_one_a_column() {
        assert_eq!(Formats::read(b"\0\0"), Some(Formats(vec![])));
        assert_eq!(Formats::read(b"\0\x01\0\x01"), Some(Formats(vec![Format::Binary])));
        for broken in [&b""[..], b"\0", b"\0\x01", b"\0\x01\0\x02", b"\0\x01\0\0\0\0"] {
            assert_eq!(Formats::read(broken), None, "{broken:?}");
        }
        let two = Formats(vec![Format::Text, Format::Binary]);
        assert!(two.suit(2) && !two.suit(3) && Formats::default().suit(3));
        assert_eq!((two.of(0), two.of(1)), (Format::Text, Format::Binary));
    }

    #[test]
    fn times_are_for_people_and_what_is_not_known_is_null() {
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(Value::from(time), Value::from("2000-02-29 00:00:00 UTC"));
        assert_eq!(Value::from(None::<Duration>), Value::Null);
        assert_eq!(Value::from(Duration::from_millis(2)), Value::Int(2000));
    }
}
