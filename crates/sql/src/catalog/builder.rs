//! From rows to a [`Catalog`].

use std::collections::{HashMap, HashSet};

use thiserror::Error;

use super::{Catalog, CatalogTable, PG_CATALOG};
use crate::builtin::{self, Traits};
use crate::walk::{UsedKind, UsedName, names_used};

/// A row that does not look as its query promises.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RowError {
    /// Too few or too many columns.
    #[error("row of {table:?} has {found} columns, not {}", table.columns())]
    Columns {
        /// The query it came from.
        table: CatalogTable,
        /// The number of columns.
        found: usize,
    },
    /// A column is null.
    #[error("row of {table:?} has a null in column {column}")]
    Null {
        /// The query it came from.
        table: CatalogTable,
        /// The column, from 0.
        column: usize,
    },
}

/// All functions of one name in one schema.
#[derive(Debug, Clone, Copy)]
pub struct FunctionRow<'a> {
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The worst volatility of them: `i`, `s` or `v`; anything else counts as `v`.
    pub volatility: char,
    /// One takes an argument that may be a row, so that `t.name` may call it.
    pub takes_row: bool,
}

/// A table, view, sequence and so on.
#[derive(Debug, Clone, Copy)]
pub struct RelationRow<'a> {
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `pg_class.relkind`.
    pub kind: char,
    /// `pg_class.relpersistence`; `u` too if a descendant is unlogged or foreign.
    pub persistence: char,
}

/// All operators of one name in one schema.
#[derive(Debug, Clone, Copy)]
pub struct OperatorRow<'a> {
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The worst volatility of the functions behind them.
    pub volatility: char,
}

/// Something known about a type; see [`super::TYPES_SQL`] for the facts.
#[derive(Debug, Clone, Copy)]
pub struct TypeRow<'a> {
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `type`, `volatile`, `implicit` or `check`.
    pub fact: &'a str,
    /// The expression of a `check`.
    pub detail: &'a str,
}

/// Collects rows, then judges views, policies and domains in the light of all of them.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    catalog: Catalog,
    /// SQL that runs whenever an object is used.
    dependents: Vec<(UsedName, Box<str>)>,
    /// Views whose definition has not come. One still here at the end is unsafe.
    undefined_views: HashSet<UsedName>,
}

impl CatalogBuilder {
    /// A builder without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row of one of the queries, as text.
    pub fn add_row(&mut self, table: CatalogTable, row: &[Option<&str>]) -> Result<(), RowError> {
        if row.len() != table.columns() {
            return Err(RowError::Columns { table, found: row.len() });
        }
        let text = |column: usize| row[column].ok_or(RowError::Null { table, column });
        let letter = |column: usize| text(column).map(|text| text.chars().next().unwrap_or('?'));
        let (schema, name) = (text(0)?, text(1)?);
        match table {
            CatalogTable::Functions => {
                let takes_row = text(3)? != "false";
                self.add_function(FunctionRow { schema, name, volatility: letter(2)?, takes_row });
            }
            CatalogTable::Relations => {
                let (kind, persistence) = (letter(2)?, letter(3)?);
                self.add_relation(RelationRow { schema, name, kind, persistence });
            }
            // A view or policy dropped while the query runs has a null definition: it is unsafe
            // until the next refresh.
            CatalogTable::Dependents => self.add_dependent(schema, name, row[2].unwrap_or("?")),
            CatalogTable::Operators => {
                self.add_operator(OperatorRow { schema, name, volatility: letter(2)? });
            }
            CatalogTable::Types => {
                let detail = row[3].unwrap_or("?");
                self.add_type(TypeRow { schema, name, fact: text(2)?, detail });
            }
        }
        Ok(())
    }

    /// Adds functions.
    pub fn add_function(&mut self, row: FunctionRow<'_>) {
        let traits = if row.schema == PG_CATALOG {
            builtin::function(row.name, row.volatility)
        } else {
            Traits::written(is_volatile(row.volatility))
        };
        self.catalog.functions.add(row.schema, row.name, traits);
        if row.takes_row && traits.primary && row.schema != PG_CATALOG {
            self.catalog.row_functions.insert(row.name.into());
        }
    }

    /// Adds a relation. A sequence is unsafe (its values are logged ahead, so a standby shows
    /// ones not yet given out), and so is a foreign table (its server is reached from here).
    pub fn add_relation(&mut self, row: RelationRow<'_>) {
        let unsafe_kind = !matches!(row.kind, 'r' | 'p' | 'v' | 'm');
        let stored = Traits { primary: unsafe_kind || row.persistence != 'p', ..Traits::default() };
        let builtin = if row.schema == PG_CATALOG { builtin::relation(row.name) } else { Traits::default() };
        self.catalog.relations.add(row.schema, row.name, stored.or(builtin));
        if row.kind == 'v' && !matches!(row.schema, PG_CATALOG | "information_schema") {
            self.undefined_views.insert(object(UsedKind::Relation, row.schema, row.name));
        }
    }

    /// Adds SQL that reading a relation runs: a view's definition, a policy's condition.
    pub fn add_dependent(&mut self, schema: &str, name: &str, sql: &str) {
        let relation = object(UsedKind::Relation, schema, name);
        self.undefined_views.remove(&relation);
        self.dependents.push((relation, sql.into()));
    }

    /// Adds operators.
    pub fn add_operator(&mut self, row: OperatorRow<'_>) {
        let traits = Traits::written(is_volatile(row.volatility));
        self.catalog.operators.add(row.schema, row.name, traits);
    }

    /// Adds a fact about a type. An unknown fact makes the type unsafe.
    pub fn add_type(&mut self, row: TypeRow<'_>) {
        let traits = match row.fact {
            "type" => Traits::default(),
            "check" => {
                let sql = format!("SELECT ({})", row.detail);
                let domain = object(UsedKind::Type, row.schema, row.name);
                self.dependents.push((domain, sql.into()));
                Traits::default()
            }
            "implicit" => {
                self.catalog.unsafe_implicit_cast = true;
                Traits::PRIMARY
            }
            _ => Traits::PRIMARY,
        };
        self.catalog.types.add(row.schema, row.name, traits);
    }

    /// Judges what depends on other objects and gives the catalogue.
    ///
    /// Each text is read once, as if every view and domain were safe, keeping the names it uses;
    /// then being unsafe is spread from the used to the users until nothing changes. That finds
    /// the same as a recursive walk, with no depth to bound and no order of rows to trust.
    pub fn build(mut self) -> Catalog {
        let mut users: HashMap<UsedName, Vec<UsedName>> = HashMap::new();
        let undefined = std::mem::take(&mut self.undefined_views);
        let mut spread: Vec<_> = undefined.into_iter().map(|view| (view, Traits::PRIMARY)).collect();
        for (user, sql) in std::mem::take(&mut self.dependents) {
            let Some((found, used)) = names_used(&sql, &self.catalog) else {
                spread.push((user, Traits::PRIMARY));
                continue;
            };
            if found != Traits::default() {
                spread.push((user.clone(), found));
            }
            for name in used {
                users.entry(name).or_default().push(user.clone());
            }
        }
        let mut reached = HashSet::new();
        while let Some((name, traits)) = spread.pop() {
            if !reached.insert((name.clone(), traits)) {
                continue;
            }
            if let Some(schema) = &name.schema {
                let names = match name.kind {
                    UsedKind::Relation => &mut self.catalog.relations,
                    UsedKind::Type => &mut self.catalog.types,
                };
                names.add(schema, &name.name, traits);
            }
            // A user may have named it bare or with its schema.
            for spelling in [name.clone(), UsedName { schema: None, ..name }] {
                for user in users.get(&spelling).into_iter().flatten() {
                    spread.push((user.clone(), traits));
                }
            }
        }
        self.catalog
    }
}

fn is_volatile(volatility: char) -> bool {
    !matches!(volatility, 'i' | 's')
}

fn object(kind: UsedKind, schema: &str, name: &str) -> UsedName {
    UsedName { kind, schema: Some(schema.into()), name: name.into() }
}
