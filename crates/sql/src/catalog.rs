//! What the classifier knows about one database: which functions, relations, operators and types
//! it has, and which of them make a statement that uses them need the primary.
//!
//! Built from rows of the server itself (see [`CatalogTable`]), so every version of PostgreSQL is
//! described by its own catalogue. Names resolve without a search path: a bare name stands for
//! every object of that name in any schema, and one unsafe object makes the bare name unsafe. The
//! search path of a session may change inside a function, out of our sight; this way it does not
//! matter. Rejected: a copy of the session's path, which is wrong exactly when it is dangerous.

mod builder;
mod queries;

pub use builder::{CatalogBuilder, FunctionRow, OperatorRow, RelationRow, RowError, TypeRow};
pub use queries::{
    CatalogTable, DEPENDENTS_SQL, FINGERPRINT_SQL, FUNCTIONS_SQL, OPERATORS_SQL, RELATIONS_SQL, SESSION_SQL,
    TYPES_SQL,
};

use std::collections::{HashMap, HashSet};

use crate::builtin::Traits;

/// The schema of the builtins.
pub(crate) const PG_CATALOG: &str = "pg_catalog";

/// Knowledge about one database. The default one knows nothing: every statement that names
/// anything goes to the primary.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    functions: Names,
    relations: Names,
    operators: Names,
    types: Names,
    /// Volatile functions that take a row: `t.f` calls them, as `f(t)` does.
    row_functions: HashSet<Box<str>>,
    /// There is an implicit cast by a volatile function. It may run wherever two types meet, so
    /// nothing that reads a table is safe.
    unsafe_implicit_cast: bool,
}

/// Objects of one kind by bare name, then by schema. A schema is there once.
#[derive(Debug, Clone, Default)]
struct Names(HashMap<Box<str>, Vec<(Box<str>, Traits)>>);

impl Names {
    /// Adds an object; of two with one name (overloads) the worse counts.
    fn add(&mut self, schema: &str, name: &str, traits: Traits) {
        let homonyms = self.0.entry(name.into()).or_default();
        match homonyms.iter_mut().find(|(other, _)| **other == *schema) {
            Some((_, known)) => *known = known.or(traits),
            None => homonyms.push((schema.into(), traits)),
        }
    }

    /// `None` if there is no such object.
    fn get(&self, schema: Option<&str>, name: &str) -> Option<Traits> {
        self.0
            .get(name)?
            .iter()
            .filter(|(other, _)| schema.is_none_or(|schema| schema == &**other))
            .map(|(_, traits)| *traits)
            .reduce(Traits::or)
    }
}

impl Catalog {
    pub(crate) fn function(&self, schema: Option<&str>, name: &str) -> Option<Traits> {
        self.functions.get(schema, name)
    }

    /// Whether the name can only mean the builtin function.
    pub(crate) fn is_builtin_function(&self, schema: Option<&str>, name: &str) -> bool {
        schema == Some(PG_CATALOG)
            || self.functions.0.get(name).is_some_and(|homonyms| {
                schema.is_none() && homonyms.iter().all(|(other, _)| &**other == PG_CATALOG)
            })
    }

    pub(crate) fn relation(&self, schema: Option<&str>, name: &str) -> Option<Traits> {
        self.relations.get(schema, name)
    }

    pub(crate) fn operator(&self, schema: Option<&str>, name: &str) -> Option<Traits> {
        self.operators.get(schema, name)
    }

    /// A type by its name; an array type by its own name (`_int4`) is as its element.
    pub(crate) fn type_named(&self, schema: Option<&str>, name: &str) -> Option<Traits> {
        self.types.get(schema, name).or_else(|| {
            let element = name.strip_prefix('_')?;
            self.types.get(schema, element)
        })
    }

    pub(crate) fn is_unsafe_row_function(&self, name: &str) -> bool {
        self.row_functions.contains(name)
    }

    pub(crate) fn has_unsafe_implicit_cast(&self) -> bool {
        self.unsafe_implicit_cast
    }
}
