//! `SET`, `RESET`, `SHOW` and `set_config`: which setting, and what its value means for a standby.

use pg_query::protobuf::{
    AConst, Boolean, FuncCall, Integer, SelectStmt, VariableSetKind, VariableSetStmt, a_const,
};
use pg_query::{Node, NodeEnum};

use crate::builtin;
use crate::statement::{Effect, Isolation, Statement};
use crate::walk::{is_constant, qualified, string_constant};

/// The options of `BEGIN` and `SET TRANSACTION`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TransactionOptions {
    pub(crate) read_only: Option<bool>,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) deferrable: Option<bool>,
}

impl TransactionOptions {
    /// Reads a list of options; the last of a kind counts.
    pub(crate) fn read(options: &[Node]) -> Self {
        let mut read = Self::default();
        for option in options {
            let Some(NodeEnum::DefElem(option)) = &option.node else { continue };
            let value = option.arg.as_deref();
            match option.defname.as_str() {
                "transaction_isolation" => {
                    read.isolation = value.and_then(string_constant).and_then(Isolation::from_setting);
                }
                "transaction_read_only" => read.read_only = value.and_then(bool_constant),
                "transaction_deferrable" => read.deferrable = value.and_then(bool_constant),
                _ => {}
            }
        }
        read
    }

    /// Whether a standby refuses them: it knows neither `READ WRITE` nor `SERIALIZABLE`.
    pub(crate) fn need_primary(self) -> bool {
        self.read_only == Some(false) || self.isolation == Some(Isolation::Serializable)
    }

    fn set_transaction(self) -> Statement {
        let effect = Effect::SetTransaction { read_only: self.read_only, isolation: self.isolation };
        Statement { needs_primary: self.need_primary(), ..Statement::harmless(effect) }
    }
}

/// `SET` and `RESET` in all their spellings.
pub(crate) fn variable_set(set: &VariableSetStmt) -> Statement {
    match VariableSetKind::try_from(set.kind) {
        Ok(VariableSetKind::VarResetAll) => Statement::harmless(Effect::ResetAll),
        Ok(VariableSetKind::VarSetMulti) => set_multi(set),
        Ok(VariableSetKind::VarSetValue) => {
            let values: Option<Vec<String>> = set.args.iter().map(constant_text).collect();
            let value = values.map_or(Value::Unknown, |values| Value::Text(values.join(",")));
            assignment(&set.name, &value, set.is_local)
        }
        Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => {
            assignment(&set.name, &Value::Default, set.is_local)
        }
        Ok(VariableSetKind::VarSetCurrent | VariableSetKind::Undefined) | Err(_) => {
            assignment(&set.name, &Value::Unknown, set.is_local)
        }
    }
}

fn set_multi(set: &VariableSetStmt) -> Statement {
    let options = TransactionOptions::read(&set.args);
    match set.name.as_str() {
        "TRANSACTION" => options.set_transaction(),
        "SESSION CHARACTERISTICS" => {
            let effect =
                Effect::Set { name: "session characteristics".to_owned(), local: false, value: None };
            match options.isolation {
                None | Some(Isolation::ReadCommitted) => Statement::harmless(effect),
                Some(Isolation::RepeatableRead | Isolation::Serializable) => Statement::pinning(effect),
            }
        }
        // TRANSACTION SNAPSHOT: the snapshot was exported by the primary.
        _ => Statement::on_primary(Effect::SetTransaction { read_only: None, isolation: None }),
    }
}

/// The value a setting gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// A constant; the members of a list are joined by commas.
    Text(String),
    /// What the server starts sessions with.
    Default,
    /// Not in the text.
    Unknown,
}

/// A setting gets a value, by any spelling.
fn assignment(name: &str, value: &Value, local: bool) -> Statement {
    let name = name.to_ascii_lowercase();
    let text = match value {
        Value::Text(text) => Some(text.to_ascii_lowercase()),
        Value::Default | Value::Unknown => None,
    };
    let mut options = TransactionOptions::default();
    let pins = match (name.as_str(), text) {
        ("transaction_isolation", text) => {
            options.isolation = text.as_deref().and_then(Isolation::from_setting);
            let needs_primary = options.isolation.is_none() || options.need_primary();
            return Statement { needs_primary, ..options.set_transaction() };
        }
        ("transaction_read_only", text) => {
            options.read_only = text.as_deref().and_then(bool_text);
            let needs_primary = options.read_only.is_none() || options.need_primary();
            return Statement { needs_primary, ..options.set_transaction() };
        }
        ("transaction_deferrable", _) => return options.set_transaction(),
        // Every later transaction would begin at a level that a standby refuses or that must
        // begin on the primary.
        ("default_transaction_isolation", Some(text)) => {
            Isolation::from_setting(&text) != Some(Isolation::ReadCommitted)
        }
        // From here on the server reads string constants by rules that our parser does not use.
        ("standard_conforming_strings", Some(text)) => bool_text(&text) != Some(true),
        // With this in the path a plain CREATE TABLE makes a temporary one.
        ("search_path", Some(text)) => text.contains("pg_temp"),
        ("default_transaction_isolation" | "standard_conforming_strings", None) => *value == Value::Unknown,
        _ => false,
    };
    let value = match value {
        Value::Text(text) => Some(text.clone()),
        Value::Default | Value::Unknown => None,
    };
    let effect = Effect::Set { name, local, value };
    if pins { Statement::pinning(effect) } else { Statement::harmless(effect) }
}

/// `SELECT set_config(name, value, local)` with nothing else in the query, or several of them
/// with the same `local` (as PostgREST begins its transactions). `None` if it is anything else,
/// also if `local` is a parameter: nobody could say then until when the setting holds.
pub(crate) fn set_config(select: &SelectStmt) -> Option<Statement> {
    if !has_targets_alone(select) {
        return None;
    }
    let mut sets = Vec::new();
    for target in &select.target_list {
        let Some(NodeEnum::ResTarget(target)) = &target.node else { return None };
        let Some(NodeEnum::FuncCall(call)) = &target.val.as_deref()?.node else { return None };
        sets.push(set_config_call(call)?);
    }
    sets.into_iter().map(Some).reduce(|first, next| merge_sets(&first?, &next?)).flatten()
}

fn has_targets_alone(select: &SelectStmt) -> bool {
    let SelectStmt {
        distinct_clause,
        into_clause,
        target_list: _,
        from_clause,
        where_clause,
        group_clause,
        group_distinct: _,
        having_clause,
        window_clause,
        values_lists,
        sort_clause,
        limit_offset,
        limit_count,
        limit_option: _,
        locking_clause,
        with_clause,
        op: _,
        all: _,
        larg,
        rarg,
    } = select;
    let lists = [
        distinct_clause,
        from_clause,
        group_clause,
        window_clause,
        values_lists,
        sort_clause,
        locking_clause,
    ];
    let parts = [where_clause, having_clause, limit_offset, limit_count];
    lists.iter().all(|list| list.is_empty())
        && parts.iter().all(|part| part.is_none())
        && [larg, rarg].iter().all(|side| side.is_none())
        && into_clause.is_none()
        && with_clause.is_none()
}

fn set_config_call(call: &FuncCall) -> Option<Statement> {
    let (None | Some("pg_catalog"), "set_config") = qualified(&call.funcname)? else {
        return None;
    };
    let plain = call.agg_filter.is_none() && call.over.is_none() && call.agg_order.is_empty();
    let [name, value, local] = call.args.as_slice() else { return None };
    if !plain || !is_constant(name) || !is_constant(value) {
        return None;
    }
    let local = bool_constant(local)?;
    let value = constant_text(value).map_or(Value::Default, Value::Text);
    Some(assignment(constant_text(name).unwrap_or_default().as_str(), &value, local))
}

/// Instead of a name: several settings, or nobody knows which.
const SEVERAL: &str = ",";

/// Two settings in one query: the names cannot both be told.
fn merge_sets(first: &Statement, next: &Statement) -> Option<Statement> {
    let (Effect::Set { name, local, .. }, Effect::Set { name: other, local: other_local, value }) =
        (&first.effect, &next.effect)
    else {
        return None;
    };
    let name = if name == other && !name.is_empty() { name.clone() } else { SEVERAL.to_owned() };
    let effect = Effect::Set { name, local: *local, value: value.clone() };
    (local == other_local).then(|| Statement {
        needs_primary: first.needs_primary || next.needs_primary,
        pins: first.pins || next.pins,
        ..Statement::harmless(effect)
    })
}

/// `SHOW name`. A setting of the server goes to the primary, and so does one that a session may
/// set but whose default is in the server's file: the session's state must be there first.
pub(crate) fn show(name: &str) -> Statement {
    let local = builtin::is_session_setting(name);
    let effect = Effect::Show { name: name.to_owned() };
    Statement { needs_primary: !local, reads_session_state: !local, ..Statement::harmless(effect) }
}

/// The text of a constant as `SET` reads it.
fn constant_text(node: &Node) -> Option<String> {
    match &node.node {
        Some(NodeEnum::AConst(AConst { val: Some(value), .. })) => Some(match value {
            a_const::Val::Sval(text) => text.sval.clone(),
            a_const::Val::Ival(Integer { ival }) => ival.to_string(),
            a_const::Val::Fval(number) => number.fval.clone(),
            a_const::Val::Boolval(Boolean { boolval }) => boolval.to_string(),
            a_const::Val::Bsval(bits) => bits.bsval.clone(),
        }),
        Some(NodeEnum::TypeCast(cast)) => constant_text(cast.arg.as_deref()?),
        _ => None,
    }
}

/// The value of an option of a utility statement, which is a bare word or a number.
pub(crate) fn option_bool(node: &Node) -> Option<bool> {
    match &node.node {
        Some(NodeEnum::String(word)) => bool_text(&word.sval),
        Some(NodeEnum::Integer(Integer { ival })) => bool_text(&ival.to_string()),
        Some(NodeEnum::Boolean(Boolean { boolval })) => Some(*boolval),
        _ => bool_constant(node),
    }
}

/// A constant read as PostgreSQL reads a boolean option.
fn bool_constant(node: &Node) -> Option<bool> {
    bool_text(&constant_text(node)?)
}

/// The spellings PostgreSQL takes for a boolean, unambiguous beginnings included.
fn bool_text(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |word: &str, letters: usize| text.len() >= letters && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}
