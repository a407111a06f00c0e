//! The console's commands: reading them. Pure.

use pangea_pgwire::{ErrorFields, SqlState};

/// What a wrong command is answered with as its hint.
pub(super) const COMMANDS: &str = "Commands: SHOW POOLS|CLIENTS|SERVERS|STATS|CONFIG|DATABASES|LISTS|VERSION|REGIONS|LAG|HELP, \
     PAUSE [db], RESUME [db], RECONNECT [db], KILL db, KILL CLIENT id, RELOAD.";

/// Settings of drivers that are taken without effect: nothing that the console answers depends on them.
const IGNORED_SETTINGS: &[&str] = &[
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "statement_timeout",
    "timezone",
];

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    /// Lets no new transaction begin, of one database or all.
    Pause(Option<String>),
    Resume(Option<String>),
    /// Replaces the connections to servers as soon as they are free.
    Reconnect(Option<String>),
    /// Ends a database's sessions and lets in no others until it is resumed.
    Kill(String),
    KillClient(u64),
    Reload,
    /// A setting that is taken without effect.
    Set,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Pools,
    Clients,
    Servers,
    Stats,
    Config,
    Databases,
    Lists,
    Version,
    Regions,
    Lag,
    Help,
}

/// Every SHOW, with what it tells.
pub(super) const SHOWS: &[(&str, Show, &str)] = &[
    ("POOLS", Show::Pools, "clients and servers by database, user and endpoint"),
    ("CLIENTS", Show::Clients, "every client of this gateway"),
    ("SERVERS", Show::Servers, "every connection of theirs to a server"),
    ("STATS", Show::Stats, "transactions, queries, bytes and times by database"),
    ("CONFIG", Show::Config, "what the gateway was configured with"),
    ("DATABASES", Show::Databases, "databases, their clients, and whether they are paused"),
    ("LISTS", Show::Lists, "how many there are of everything"),
    ("VERSION", Show::Version, "the version of Pangea"),
    ("REGIONS", Show::Regions, "the regions as seen from here"),
    ("LAG", Show::Lag, "how far behind the primary each server is"),
    ("HELP", Show::Help, "this list"),
];

/// What else there is, with what it does.
pub(super) const OTHERS: &[(&str, &str)] = &[
    ("PAUSE [db]", "lets no new transaction begin, and answers when none is under way"),
    ("RESUME [db]", "ends a PAUSE or KILL"),
    ("RECONNECT [db]", "replaces connections to servers as soon as they are between transactions"),
    ("KILL db", "ends the sessions of a database; new ones wait for RESUME"),
    ("KILL CLIENT id", "ends a session; its id is in SHOW CLIENTS"),
    ("RELOAD", "reads the configuration again"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// As it was written.
    Word(String),
    /// Without its quotes.
    Quoted(String),
    Sign(char),
}

/// Reads the commands of a query, which are separated by semicolons.
pub(super) fn parse(text: &str) -> Result<Vec<Command>, ErrorFields> {
    let tokens = tokens(text)?;
    let statements = tokens.split(|token| *token == Token::Sign(';'));
    statements.filter(|statement| !statement.is_empty()).map(statement).collect()
}

fn statement(tokens: &[Token]) -> Result<Command, ErrorFields> {
    let Some((first, rest)) = tokens.split_first() else { return Err(unexpected(None)) };
    match keyword(first).as_str() {
        "SHOW" => show(rest),
        "PAUSE" => Ok(Command::Pause(one_name(rest)?)),
        "RESUME" => Ok(Command::Resume(one_name(rest)?)),
        "RECONNECT" => Ok(Command::Reconnect(one_name(rest)?)),
        "KILL" => kill(rest),
        "KILL_CLIENT" => kill_client(rest),
        "RELOAD" => nothing_more(rest, Command::Reload),
        "SET" => set(rest),
        _ => Err(unexpected(Some(first))),
    }
}

fn show(rest: &[Token]) -> Result<Command, ErrorFields> {
    let Some((what, rest)) = rest.split_first() else { return Err(unexpected(None)) };
    let name = keyword(what);
    let found = SHOWS.iter().find(|(known, _, _)| *known == name);
    let (_, show, _) = found.ok_or_else(|| unexpected(Some(what)))?;
    nothing_more(rest, Command::Show(*show))
}

fn kill(rest: &[Token]) -> Result<Command, ErrorFields> {
    match rest {
        [client, id @ ..] if !id.is_empty() && keyword(client) == "CLIENT" => kill_client(id),
        _ => one_name(rest)?.map(Command::Kill).ok_or_else(|| unexpected(None)),
    }
}

fn kill_client(rest: &[Token]) -> Result<Command, ErrorFields> {
    match rest {
        [Token::Word(id)] => {
            let id = id.parse().map_err(|_| unexpected(rest.first()))?;
            Ok(Command::KillClient(id))
        }
        _ => Err(unexpected(rest.first())),
    }
}

fn set(rest: &[Token]) -> Result<Command, ErrorFields> {
    let rest = match rest {
        [session, rest @ ..] if keyword(session) == "SESSION" => rest,
        _ => rest,
    };
    let name = rest.first().map(keyword).unwrap_or_default().to_ascii_lowercase();
    if IGNORED_SETTINGS.contains(&name.as_str()) { Ok(Command::Set) } else { Err(unexpected(rest.first())) }
}

fn one_name(rest: &[Token]) -> Result<Option<String>, ErrorFields> {
    match rest {
        [] => Ok(None),
        [Token::Word(name) | Token::Quoted(name)] => Ok(Some(name.clone())),
        [_, other, ..] | [other] => Err(unexpected(Some(other))),
    }
}

fn nothing_more(rest: &[Token], command: Command) -> Result<Command, ErrorFields> {
    match rest.first() {
        None => Ok(command),
        other => Err(unexpected(other)),
    }
}

/// A word in capitals; empty for anything else, which no keyword is.
fn keyword(token: &Token) -> String {
    match token {
        Token::Word(word) => word.to_ascii_uppercase(),
        Token::Quoted(_) | Token::Sign(_) => String::new(),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, ErrorFields> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if first == '"' || first == '\'' {
            let (quoted, after) = quoted(&rest[1..], first).ok_or_else(|| unterminated(rest))?;
            found.push(Token::Quoted(quoted));
            rest = after;
        } else {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let end = if end == 0 { first.len_utf8() } else { end };
            let (word, after) = rest.split_at(end);
            found.push(if is_word(first) { Token::Word(word.to_owned()) } else { Token::Sign(first) });
            rest = after;
        }
        rest = rest.trim_start();
    }
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$')
}

/// What stands before the closing quote, where two are one, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        if c != quote {
            name.push(c);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            name.push(quote);
        } else {
            return Some((name, &text[at + 1..]));
        }
    }
    None
}

fn unexpected(token: Option<&Token>) -> ErrorFields {
    let text = match token {
        None => "syntax error at end of input".to_owned(),
        Some(Token::Word(text) | Token::Quoted(text)) => format!("syntax error at or near \"{text}\""),
        Some(Token::Sign(sign)) => format!("syntax error at or near \"{sign}\""),
    };
    ErrorFields::error(SqlState::SYNTAX_ERROR, text).with_hint(COMMANDS)
}

fn unterminated(rest: &str) -> ErrorFields {
    let text = format!("unterminated quoted string at or near \"{rest}\"");
    ErrorFields::error(SqlState::SYNTAX_ERROR, text).with_hint(COMMANDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Command, ErrorFields> {
        parse(text).map(|mut commands| commands.pop().unwrap_or(Command::Set))
    }

    #[test]
    fn case_semicolons_spaces_and_comments_do_not_matter() -> Result<(), ErrorFields> {
        for text in ["SHOW POOLS", "show pools;", "  Show\n Pools ; ", "-- a comment\nshow pools -- another"]
        {
            assert_eq!(parse(text)?, [Command::Show(Show::Pools)], "{text}");
        }
        for text in ["", " ", ";;", "-- nothing"] {
            assert_eq!(parse(text)?, [], "{text}");
        }
        assert_eq!(parse("pause; resume")?, [Command::Pause(None), Command::Resume(None)]);
        for (name, show, _) in SHOWS {
            assert_eq!(one(&format!("SHOW {name}"))?, Command::Show(*show));
        }
        Ok(())
    }

    #[test]
    fn databases_are_named_as_they_are() -> Result<(), ErrorFields> {
        assert_eq!(one("PAUSE Orders-2")?, Command::Pause(Some("Orders-2".to_owned())));
        assert_eq!(one("resume \"a \"\"b\"\";\"")?, Command::Resume(Some("a \"b\";".to_owned())));
        assert_eq!(one("RECONNECT")?, Command::Reconnect(None));
        assert_eq!(one("KILL client")?, Command::Kill("client".to_owned()));
        Ok(())
    }

    #[test]
    fn clients_are_killed_by_number_in_both_spellings() -> Result<(), ErrorFields> {
        assert_eq!(one("KILL CLIENT 12")?, Command::KillClient(12));
        assert_eq!(one("kill_client 12;")?, Command::KillClient(12));
        for text in ["KILL CLIENT twelve", "KILL_CLIENT", "KILL CLIENT 1 2", "KILL_CLIENT -1"] {
            assert!(one(text).is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn drivers_may_set_what_does_not_matter() -> Result<(), ErrorFields> {
        assert_eq!(one("SET application_name = 'a;b'")?, Command::Set);
        assert_eq!(one("SET SESSION extra_float_digits TO 3")?, Command::Set);
        assert!(one("SET pool_mode = transaction").is_err());
        Ok(())
    }

    #[test]
    fn a_wrong_command_is_told_the_right_ones() {
        let wrong = [
            ("SELECT 1", "syntax error at or near \"SELECT\""),
            ("SHOW", "syntax error at end of input"),
            ("SHOW TABLES", "syntax error at or near \"TABLES\""),
            ("SHOW POOLS LAG", "syntax error at or near \"LAG\""),
            ("KILL", "syntax error at end of input"),
            ("RELOAD now", "syntax error at or near \"now\""),
            ("PAUSE a b", "syntax error at or near \"b\""),
            ("PAUSE =", "syntax error at or near \"=\""),
            ("PAUSE \"a", "unterminated quoted string at or near \"\"a\""),
        ];
        for (text, message) in wrong {
            let error = parse(text).err();
            let told = error.map(|error| (error.code, error.message, error.hint));
            let expected = (SqlState::SYNTAX_ERROR, message.to_owned(), Some(COMMANDS.to_owned()));
            assert_eq!(told, Some(expected), "{text}");
        }
    }
}
