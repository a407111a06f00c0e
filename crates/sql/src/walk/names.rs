//! Names in a statement, looked up in the catalogue.

use pg_query::protobuf::{AConst, ColumnRef, FuncCall, RangeVar, TypeName, a_const};
use pg_query::{Node, NodeEnum};

use super::{UsedKind, UsedName, Walk};
use crate::builtin;
use crate::catalog::PG_CATALOG;

/// Functions whose arguments the classifier looks at: here, and for `SELECT set_config(…)`. Nothing
/// else in a query is judged by a literal; what is added must be added here, or a statement with
/// another literal gets the cached answer of this one.
const JUDGED_BY_LITERALS: &[&str] = &["current_setting", "set_config"];

impl<'a> Walk<'a> {
    pub(super) fn range_var(&mut self, relation: &'a RangeVar) {
        let RangeVar {
            catalogname: _, // another database than this one is refused by every server
            schemaname,
            relname,
            inh: _,
            relpersistence: _,
            alias: _,
            location: _,
        } = relation;
        if schemaname.is_empty() && self.with_names.contains(&relname.as_str()) {
            return;
        }
        let schema = Some(schemaname.as_str()).filter(|schema| !schema.is_empty());
        self.note(UsedKind::Relation, schema, relname);
        if schema == Some("pg_temp") {
            self.found.reads = true;
            return;
        }
        match self.catalog.relation(schema, relname) {
            Some(traits) => {
                self.found.reads |= traits.primary;
                self.add(traits);
            }
            None => {
                self.found.reads = true;
                self.found.unknown = true;
            }
        }
        self.found.runs |= self.catalog.has_unsafe_implicit_cast();
    }

    pub(super) fn function_name(&mut self, call: &'a FuncCall) {
        let Some((schema, name)) = qualified(&call.funcname) else {
            self.found.runs = true;
            return;
        };
        self.found.literals |= JUDGED_BY_LITERALS.contains(&name);
        if name == "current_setting"
            && self.catalog.is_builtin_function(schema, name)
            && let Some(setting) = call.args.first().and_then(string_constant)
        {
            if !builtin::is_session_setting(setting) {
                self.found.runs = true;
                self.found.session = true;
            }
            return;
        }
        // `name(x)` may also be a cast: PostgreSQL tries that for one argument.
        let function = self.catalog.function(schema, name);
        let cast = (call.args.len() == 1).then(|| self.catalog.type_named(schema, name)).flatten();
        if cast.is_some() {
            self.note(UsedKind::Type, schema, name);
        }
        for traits in [function, cast].into_iter().flatten() {
            self.found.runs |= traits.primary;
            self.add(traits);
        }
        if function.is_none() && cast.is_none() {
            // Nobody knows what it leaves behind.
            (self.found.runs, self.found.holds) = (true, true);
            self.found.unknown |= schema != Some("pg_temp");
        }
    }

    pub(super) fn operator(&mut self, name: &'a [Node]) {
        let Some((schema, name)) = qualified(name) else {
            self.found.runs = true;
            return;
        };
        // How the grammar writes BETWEEN, which compares by these.
        let names: &[&str] = if name.contains("BETWEEN") { &["<", "<=", ">", ">="] } else { &[name] };
        for name in names {
            match self.catalog.operator(schema, name) {
                Some(traits) => {
                    self.found.runs |= traits.primary;
                    self.add(traits);
                }
                None => {
                    self.found.runs = true;
                    self.found.unknown = true;
                }
            }
        }
    }

    /// `ORDER BY`, `GROUP BY`, `DISTINCT`, `USING`, `GREATEST` and so on compare by operators
    /// they do not name.
    pub(super) fn implied_operators(&mut self) {
        for name in ["=", "<", ">", "<=", ">="] {
            let known = self.catalog.operator(None, name);
            self.found.runs |= known.is_some_and(|traits| traits.primary);
        }
    }

    pub(super) fn type_name(&mut self, name: &'a TypeName) {
        let TypeName {
            names,
            type_oid: _,
            setof: _,
            pct_type: _,
            typmods,
            typemod: _,
            array_bounds,
            location: _,
        } = name;
        self.nodes(typmods);
        self.nodes(array_bounds);
        let Some((schema, name)) = qualified(names) else {
            self.found.runs = true;
            return;
        };
        self.note(UsedKind::Type, schema, name);
        match self.catalog.type_named(schema, name) {
            Some(traits) => {
                self.found.runs |= traits.primary;
                self.add(traits);
            }
            // What the grammar itself writes for `int`, `varchar` and so on needs no look-up.
            None if schema == Some(PG_CATALOG) => {}
            None => {
                self.found.runs = true;
                self.found.unknown = true;
            }
        }
    }

    pub(super) fn optional_type(&mut self, name: &'a Option<TypeName>) {
        if let Some(name) = name {
            self.type_name(name);
        }
    }

    /// `t.f` is a column, or a call of `f(t)`.
    pub(super) fn column(&mut self, column: &'a ColumnRef) {
        let ColumnRef { fields, location: _ } = column;
        self.attributes(fields.get(1..).unwrap_or_default());
    }

    /// Names after a dot.
    pub(super) fn attributes(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            match &node.node {
                Some(NodeEnum::String(name)) => {
                    self.found.runs |= self.catalog.is_unsafe_row_function(&name.sval);
                }
                Some(NodeEnum::AStar(_)) | None => {}
                Some(_) => self.node(node), // a subscript
            }
        }
    }

    fn note(&mut self, kind: UsedKind, schema: Option<&str>, name: &str) {
        if let Some(used) = &mut self.used {
            used.push(UsedName { kind, schema: schema.map(Into::into), name: name.into() });
            if let (UsedKind::Type, Some(element)) = (kind, name.strip_prefix('_')) {
                used.push(UsedName { kind, schema: schema.map(Into::into), name: element.into() });
            }
        }
    }
}

/// Schema and name of a dotted name; of three parts the first is the database.
pub(crate) fn qualified(parts: &[Node]) -> Option<(Option<&str>, &str)> {
    let text = |node: &'_ Node| match &node.node {
        Some(NodeEnum::String(_)) => Some(()),
        _ => None,
    };
    parts.iter().try_for_each(text)?;
    let mut names = parts.iter().rev().filter_map(|node| match &node.node {
        Some(NodeEnum::String(part)) => Some(part.sval.as_str()),
        _ => None,
    });
    let name = names.next()?;
    Some((names.next(), name))
}

/// The text of a string constant, casts of it to a type included.
pub(crate) fn string_constant(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::AConst(AConst { val: Some(a_const::Val::Sval(text)), .. })) => Some(&text.sval),
        Some(NodeEnum::TypeCast(cast)) => string_constant(cast.arg.as_deref()?),
        _ => None,
    }
}
