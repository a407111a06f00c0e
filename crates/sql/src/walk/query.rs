//! Statements and what stands in their clauses: tables, joins, `WITH`, locking, `RETURNING`.

use pg_query::protobuf::{
    CommonTableExpr, CteCycleClause, DeleteStmt, InferClause, InsertStmt, JoinExpr, MergeStmt,
    MergeWhenClause, OnConflictClause, RangeFunction, RangeSubselect, RangeTableFunc, RangeTableFuncCol,
    RangeTableSample, RangeVar, ReturningClause, SelectStmt, UpdateStmt, WithClause,
};
use pg_query::{Node, NodeEnum};

use super::Walk;
use super::names::qualified;

/// Sampling methods of PostgreSQL itself; others run code of an extension.
const SAMPLE_METHODS: &[&str] = &["bernoulli", "system"];

impl<'a> Walk<'a> {
    /// Walks a statement or a member of `FROM`; false if it is neither.
    pub(super) fn query(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            NodeEnum::RangeVar(relation) => self.range_var(relation),
            NodeEnum::JoinExpr(join) => self.join(join),
            NodeEnum::RangeSubselect(subselect) => {
                let RangeSubselect { lateral: _, subquery, alias: _ } = &**subselect;
                self.boxed(subquery);
            }
            NodeEnum::RangeFunction(function) => {
                let RangeFunction {
                    lateral: _,
                    ordinality: _,
                    is_rowsfrom: _,
                    functions,
                    alias: _,
                    coldeflist,
                } = function;
                self.nodes(functions);
                self.nodes(coldeflist);
            }
            NodeEnum::RangeTableFunc(function) => self.xml_table(function),
            NodeEnum::RangeTableFuncCol(column) => {
                let RangeTableFuncCol {
                    colname: _,
                    type_name,
                    for_ordinality: _,
                    is_not_null: _,
                    colexpr,
                    coldefexpr,
                    location: _,
                } = &**column;
                self.optional_type(type_name);
                self.boxed(colexpr);
                self.boxed(coldefexpr);
            }
            NodeEnum::RangeTableSample(sample) => self.sample(sample),
            NodeEnum::MergeWhenClause(when) => {
                let MergeWhenClause {
                    match_kind: _,
                    command_type: _,
                    r#override: _,
                    condition,
                    target_list,
                    values,
                } = &**when;
                self.boxed(condition);
                self.nodes(target_list);
                self.nodes(values);
            }
            _ => return false,
        }
        true
    }

    fn select(&mut self, select: &'a SelectStmt) {
        let SelectStmt {
            distinct_clause,
            into_clause,
            target_list,
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
            all,
            larg,
            rarg,
        } = select;
        let outer_names = self.with_names.len();
        self.with(with_clause);
        if let Some(into) = into_clause {
            self.found.writes = true;
            self.found.pins |= into.rel.as_ref().is_some_and(is_temporary);
        }
        self.found.writes |= !locking_clause.is_empty();
        if !distinct_clause.is_empty() || !group_clause.is_empty() || (larg.is_some() && !all) {
            self.implied_operators();
        }
        for side in [larg, rarg].into_iter().flatten() {
            self.select(side);
        }
        self.nodes(from_clause);
        for list in [distinct_clause, target_list, group_clause, window_clause, values_lists, sort_clause] {
            self.nodes(list);
        }
        for part in [where_clause, having_clause, limit_offset, limit_count] {
            self.boxed(part);
        }
        self.with_names.truncate(outer_names);
    }

    /// Walks the queries of a `WITH` and leaves their names in scope; the caller takes them out.
    fn with(&mut self, clause: &'a Option<WithClause>) {
        let Some(WithClause { ctes, recursive, location: _ }) = clause else { return };
        let queries = ctes.iter().filter_map(|node| match &node.node {
            Some(NodeEnum::CommonTableExpr(query)) => Some(&**query),
            _ => None,
        });
        if *recursive {
            self.with_names.extend(queries.clone().map(|query| query.ctename.as_str()));
        }
        for query in queries {
            let CommonTableExpr {
                ctename,
                aliascolnames: _,
                ctematerialized: _,
                ctequery,
                search_clause: _, // column names alone
                cycle_clause,
                location: _,
                cterecursive: _,
                cterefcount: _,
                ctecolnames: _,
                ctecoltypes: _,
                ctecoltypmods: _,
                ctecolcollations: _,
            } = query;
            self.boxed(ctequery);
            if let Some(cycle) = cycle_clause {
                let CteCycleClause {
                    cycle_col_list: _,
                    cycle_mark_column: _,
                    cycle_mark_value,
                    cycle_mark_default,
                    cycle_path_column: _,
                    location: _,
                    cycle_mark_type: _,
                    cycle_mark_typmod: _,
                    cycle_mark_collation: _,
                    cycle_mark_neop: _,
                } = &**cycle;
                self.boxed(cycle_mark_value);
                self.boxed(cycle_mark_default);
            }
            // Without RECURSIVE a query does not see its own name: `WITH t AS (SELECT * FROM t)`
            // reads the table.
            if !*recursive {
                self.with_names.push(ctename);
            }
        }
    }

    fn insert(&mut self, insert: &'a InsertStmt) {
        let InsertStmt {
            relation,
            cols,
            select_stmt,
            on_conflict_clause,
            returning_clause,
            with_clause,
            r#override: _,
        } = insert;
        let outer_names = self.write(relation, with_clause);
        self.nodes(cols);
        self.boxed(select_stmt);
        if let Some(conflict) = on_conflict_clause {
            let OnConflictClause { action: _, infer, target_list, where_clause, location: _ } = &**conflict;
            if let Some(infer) = infer {
                let InferClause { index_elems, where_clause, conname: _, location: _ } = &**infer;
                self.nodes(index_elems);
                self.boxed(where_clause);
            }
            self.nodes(target_list);
            self.boxed(where_clause);
        }
        self.returning(returning_clause);
        self.with_names.truncate(outer_names);
    }

    fn update(&mut self, update: &'a UpdateStmt) {
        let UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } =
            update;
        let outer_names = self.write(relation, with_clause);
        self.nodes(target_list);
        self.boxed(where_clause);
        self.nodes(from_clause);
        self.returning(returning_clause);
        self.with_names.truncate(outer_names);
    }

    fn delete(&mut self, delete: &'a DeleteStmt) {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = delete;
        let outer_names = self.write(relation, with_clause);
        self.nodes(using_clause);
        self.boxed(where_clause);
        self.returning(returning_clause);
        self.with_names.truncate(outer_names);
    }

    fn merge(&mut self, merge: &'a MergeStmt) {
        let MergeStmt {
            relation,
            source_relation,
            join_condition,
            merge_when_clauses,
            returning_clause,
            with_clause,
        } = merge;
        let outer_names = self.write(relation, with_clause);
        self.boxed(source_relation);
        self.boxed(join_condition);
        self.nodes(merge_when_clauses);
        self.returning(returning_clause);
        self.with_names.truncate(outer_names);
    }

    /// The beginning of every writing statement: gives the length to cut `with_names` back to.
    fn write(&mut self, relation: &'a Option<RangeVar>, with_clause: &'a Option<WithClause>) -> usize {
        self.found.writes = true;
        if let Some(relation) = relation {
            self.range_var(relation);
        }
        let outer_names = self.with_names.len();
        self.with(with_clause);
        outer_names
    }

    fn returning(&mut self, clause: &'a Option<ReturningClause>) {
        if let Some(ReturningClause { options: _, exprs }) = clause {
            self.nodes(exprs);
        }
    }

    fn join(&mut self, join: &'a JoinExpr) {
        let JoinExpr {
            jointype: _,
            is_natural,
            larg,
            rarg,
            using_clause,
            join_using_alias: _,
            quals,
            alias: _,
            rtindex: _,
        } = join;
        if *is_natural || !using_clause.is_empty() {
            self.implied_operators();
        }
        for part in [larg, rarg, quals] {
            self.boxed(part);
        }
    }

    fn xml_table(&mut self, table: &'a RangeTableFunc) {
        let RangeTableFunc { lateral: _, docexpr, rowexpr, namespaces, columns, alias: _, location: _ } =
            table;
        self.boxed(docexpr);
        self.boxed(rowexpr);
        self.nodes(namespaces);
        self.nodes(columns);
    }

    fn sample(&mut self, sample: &'a RangeTableSample) {
        let RangeTableSample { relation, method, args, repeatable, location: _ } = sample;
        let known = qualified(method).is_some_and(|(_, name)| SAMPLE_METHODS.contains(&name));
        self.found.runs |= !known;
        self.boxed(relation);
        self.nodes(args);
        self.boxed(repeatable);
    }
}

/// Whether a name being created is that of a temporary relation.
pub(crate) fn is_temporary(relation: &RangeVar) -> bool {
    relation.relpersistence == "t" || relation.schemaname == "pg_temp"
}

/// Whether a node is a plain constant or a parameter, casts included.
pub(crate) fn is_constant(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_constant),
        _ => false,
    }
}
