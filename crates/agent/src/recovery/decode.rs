//! Reads what PostgreSQL's output plugin `test_decoding` says, one row at a time.
//!
//! The format is that of `contrib/test_decoding/test_decoding.c`, the same in PostgreSQL 14 to 18. It was chosen
//! over `pgoutput`, which needs a publication of all tables made before the crash, and over plugins that have to be
//! installed. Pure; no input makes it panic.

/// One row of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A transaction begins.
    Begin,
    /// It ends; all its rows came since its `Begin`.
    Commit,
    /// A row was written.
    Change(Decoding),
    /// Tables, by schema and name, were emptied.
    Truncate(Vec<(String, String)>),
    /// A message of `pg_logical_emit_message`.
    Message,
}

/// A row that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoding {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) kind: Kind,
    /// The row, or its key, as it was; columns that were null are left out.
    pub(crate) old: Option<Vec<Column>>,
    /// The row as it is.
    pub(crate) new: Option<Vec<Column>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Update,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    /// A large value that the update did not touch, and that the log therefore does not have.
    Unchanged,
    Text(String),
}

/// A row that the plugin cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("test_decoding said {text:?}, which is not understood at byte {at}")]
pub(crate) struct NotUnderstood {
    at: usize,
    text: String,
}

/// What is quoted of a row in the error.
const QUOTED_MAX: usize = 200;

/// Reads one row.
pub(crate) fn parse(text: &str) -> Result<Decoded, NotUnderstood> {
    let mut reader = Reader { rest: text };
    reader.row().ok_or_else(|| NotUnderstood {
        at: text.len() - reader.rest.len(),
        text: text.chars().take(QUOTED_MAX).collect(),
    })
}

/// `None` anywhere means that the text is something else; what was read by then is gone.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn row(&mut self) -> Option<Decoded> {
        if self.eat("table ") {
            return self.table();
        }
        if self.rest.starts_with("message: ") || self.rest.starts_with("streaming message: ") {
            return Some(Decoded::Message);
        }
        let word = self.rest.split(' ').next()?;
        match word {
            "BEGIN" => Some(Decoded::Begin),
            "COMMIT" => Some(Decoded::Commit),
            _ => None,
        }
    }

    fn table(&mut self) -> Option<Decoded> {
        let mut tables = vec![self.qualified()?];
        while self.eat(", ") {
            tables.push(self.qualified()?);
        }
        self.expect(": ")?;
        if self.eat("TRUNCATE:") {
            return Some(Decoded::Truncate(tables));
        }
        let (schema, table) = tables.pop()?;
        if !tables.is_empty() {
            return None;
        }
        let (mut old, mut new) = (None, None);
        let kind = if self.eat("INSERT:") {
            new = self.tuple()?;
            Kind::Insert
        } else if self.eat("UPDATE:") {
            if self.eat(" old-key:") {
                old = self.tuple()?;
                self.expect(" new-tuple:")?;
            }
            new = self.tuple()?;
            Kind::Update
        } else {
            self.expect("DELETE:")?;
            old = self.tuple()?;
            Kind::Delete
        };
        self.rest.is_empty().then_some(Decoded::Change(Decoding { schema, table, kind, old, new }))
    }

    /// The columns up to the end or to the mark of the new row. The outer `None` is a failure, as everywhere.
    #[expect(clippy::option_option, reason = "a row that is not told is no failure")]
    fn tuple(&mut self) -> Option<Option<Vec<Column>>> {
        if self.eat(" (no-tuple-data)") {
            return Some(None);
        }
        let mut columns = Vec::new();
        // A column of that name would be quoted.
        while !self.rest.is_empty() && !self.rest.starts_with(" new-tuple:") {
            self.expect(" ")?;
            columns.push(self.column()?);
        }
        Some(Some(columns))
    }

    fn column(&mut self) -> Option<Column> {
        let name = self.identifier()?;
        self.expect("[")?;
        let type_name = self.type_name()?;
        self.expect("]:")?;
        Some(Column { name, type_name, value: self.value()? })
    }

    /// Up to the bracket that closes it: arrays have brackets of their own, and quoted names may have any.
    fn type_name(&mut self) -> Option<String> {
        let (mut depth, mut quoted) = (0_usize, false);
        for (at, byte) in self.rest.bytes().enumerate() {
            match byte {
                b'"' => quoted = !quoted,
                b'[' if !quoted => depth += 1,
                b']' if !quoted && depth == 0 => return self.take(at).map(str::to_owned),
                b']' if !quoted => depth -= 1,
                _ => {}
            }
        }
        None
    }

    fn value(&mut self) -> Option<Value> {
        if self.eat("B'") || self.eat("'") {
            return self.until_quote('\'').map(Value::Text);
        }
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        match self.take(end)? {
            "" => None,
            "null" => Some(Value::Null),
            "unchanged-toast-datum" => Some(Value::Unchanged),
            bare => Some(Value::Text(bare.to_owned())),
        }
    }

    fn qualified(&mut self) -> Option<(String, String)> {
        let schema = self.identifier()?;
        self.expect(".")?;
        Some((schema, self.identifier()?))
    }

    fn identifier(&mut self) -> Option<String> {
        if self.eat("\"") {
            return self.until_quote('"');
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let end = self.rest.bytes().position(|byte| !plain(byte)).unwrap_or(self.rest.len());
        self.take(end).filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// Up to the closing quote; a doubled one stands for itself.
    fn until_quote(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        loop {
            let (part, rest) = self.rest.split_once(quote)?;
            text.push_str(part);
            self.rest = rest;
            match rest.strip_prefix(quote) {
                Some(rest) => {
                    text.push(quote);
                    self.rest = rest;
                }
                None => return Some(text),
            }
        }
    }

    fn take(&mut self, end: usize) -> Option<&str> {
        let (taken, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(taken)
    }

    fn eat(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, word: &str) -> Option<()> {
        self.eat(word).then_some(())
    }
}

#[cfg(test)]
mod tests;
