//! The walk over a parse tree: which names a statement uses and whether it writes.
//!
//! An expression that is not visited is a hole through which a write reaches a standby. Two
//! things keep the walk whole: every node is taken apart without `..`, so a field that a later
//! parser adds does not compile until somebody decides about it, and a node kind the walk does
//! not know counts as a write. pg_query's own `nodes()` was rejected: it skips window frames,
//! `LIMIT`, table samples and more.
//!
//! Recursion is bounded by the decoder (see [`crate::parse`]): no tree is deeper than 100
//! messages.

mod expression;
mod json;
mod names;
mod query;

pub(crate) use names::{qualified, string_constant};
pub(crate) use query::{is_constant, is_temporary};

use pg_query::protobuf::RangeVar;
use pg_query::{Node, NodeEnum};

use crate::builtin::Traits;
use crate::catalog::Catalog;

/// What a walk has found so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    /// It writes or locks rows, makes a relation, or has a part the walk does not know.
    pub(crate) writes: bool,
    /// It runs something that needs the primary. Planning alone does not run it.
    pub(crate) runs: bool,
    /// It reads a relation that needs the primary. A standby may refuse even to plan it.
    pub(crate) reads: bool,
    /// It reads state of the server's session.
    pub(crate) session: bool,
    /// It leaves state on the server's session.
    pub(crate) pins: bool,
    /// It may leave there what its text does not tell.
    pub(crate) holds: bool,
    /// It reads what only this connection to the server knows.
    pub(crate) private: bool,
    /// It names something that is not in the catalogue.
    pub(crate) unknown: bool,
    /// It calls a function that is judged by the value of an argument.
    pub(crate) literals: bool,
}

impl Found {
    /// Whether running it needs the primary.
    pub(crate) fn needs_primary(self) -> bool {
        self.writes || self.runs || self.reads || self.session || self.pins
    }
}

/// An object that a text names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UsedName {
    pub(crate) kind: UsedKind,
    pub(crate) schema: Option<Box<str>>,
    pub(crate) name: Box<str>,
}

/// The kinds of objects that may depend on others by SQL text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum UsedKind {
    Relation,
    Type,
}

/// One walk over one statement.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    catalog: &'a Catalog,
    pub(crate) found: Found,
    /// The names of `WITH` queries in scope, innermost last: they are not relations.
    with_names: Vec<&'a str>,
    /// The names used, when somebody wants them.
    used: Option<Vec<UsedName>>,
}

/// Walks the definition of a view (or a condition as a query): what it needs and the relations
/// and types it names. `None` if it cannot be read or is not made of queries.
pub(crate) fn names_used(text: &str, catalog: &Catalog) -> Option<(Traits, Vec<UsedName>)> {
    let statements = crate::parse::parse(text)?;
    let mut used = Vec::new();
    let mut traits = Traits::default();
    for statement in &statements {
        let node = statement.stmt.as_deref()?;
        let Some(NodeEnum::SelectStmt(_)) = &node.node else { return None };
        let mut walk = Walk { used: Some(Vec::new()), ..Walk::new(catalog) };
        walk.node(node);
        let found = walk.found;
        traits = traits.or(Traits {
            primary: found.needs_primary(),
            session: found.session,
            pins: found.pins,
            holds: found.holds,
            private: found.private,
        });
        used.extend(walk.used.unwrap_or_default());
    }
    Some((traits, used))
}

impl<'a> Walk<'a> {
    pub(crate) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, found: Found::default(), with_names: Vec::new(), used: None }
    }

    /// Walks any part of a query.
    pub(crate) fn node(&mut self, node: &'a Node) {
        if let Some(kind) = &node.node {
            self.kind(kind);
        }
    }

    pub(crate) fn kind(&mut self, kind: &'a NodeEnum) {
        if !self.query(kind) && !self.expression(kind) && !self.json(kind) {
            self.found.writes = true;
        }
    }

    pub(crate) fn nodes(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            self.node(node);
        }
    }

    pub(crate) fn relation(&mut self, relation: &'a RangeVar) {
        self.range_var(relation);
    }

    fn boxed(&mut self, node: &'a Option<Box<Node>>) {
        if let Some(node) = node {
            self.node(node);
        }
    }

    fn add(&mut self, traits: Traits) {
        self.found.session |= traits.session;
        self.found.pins |= traits.pins;
        self.found.holds |= traits.holds;
        self.found.private |= traits.private;
    }
}
