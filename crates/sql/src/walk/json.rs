//! The SQL/JSON expressions.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    JsonAggConstructor, JsonArgument, JsonArrayAgg, JsonArrayConstructor, JsonArrayQueryConstructor,
    JsonBehavior, JsonFuncExpr, JsonIsPredicate, JsonKeyValue, JsonObjectAgg, JsonObjectConstructor,
    JsonOutput, JsonParseExpr, JsonScalarExpr, JsonSerializeExpr, JsonTable, JsonTableColumn,
    JsonTablePathSpec, JsonValueExpr,
};

use super::Walk;

impl<'a> Walk<'a> {
    /// Walks an SQL/JSON expression; false if it is none.
    pub(super) fn json(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            NodeEnum::JsonFormat(_) | NodeEnum::JsonReturning(_) => {}
            NodeEnum::JsonOutput(output) => self.json_output_type(output),
            NodeEnum::JsonValueExpr(value) => self.json_value_node(value),
            NodeEnum::JsonBehavior(behavior) => self.json_behavior_node(behavior),
            NodeEnum::JsonTablePathSpec(path) => self.json_path_node(path),
            NodeEnum::JsonKeyValue(pair) => self.json_pair_node(pair),
            NodeEnum::JsonArgument(argument) => {
                let JsonArgument { val, name: _ } = &**argument;
                self.json_value(val);
            }
            NodeEnum::JsonTable(table) => self.json_table(table),
            NodeEnum::JsonTableColumn(column) => self.json_column(column),
            NodeEnum::JsonFuncExpr(function) => self.json_function(function),
            NodeEnum::JsonIsPredicate(predicate) => {
                let JsonIsPredicate { expr, format: _, item_type: _, unique_keys: _, location: _ } =
                    &**predicate;
                self.boxed(expr);
            }
            _ => return self.json_constructor(node),
        }
        true
    }

    fn json_constructor(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            NodeEnum::JsonParseExpr(parse) => {
                let JsonParseExpr { expr, output, unique_keys: _, location: _ } = &**parse;
                self.json_value(expr);
                self.json_output(output);
            }
            NodeEnum::JsonScalarExpr(scalar) => {
                let JsonScalarExpr { expr, output, location: _ } = &**scalar;
                self.boxed(expr);
                self.json_output(output);
            }
            NodeEnum::JsonSerializeExpr(serialize) => {
                let JsonSerializeExpr { expr, output, location: _ } = &**serialize;
                self.json_value(expr);
                self.json_output(output);
            }
            NodeEnum::JsonObjectConstructor(object) => {
                let JsonObjectConstructor { exprs, output, absent_on_null: _, unique: _, location: _ } =
                    object;
                self.nodes(exprs);
                self.json_output(output);
            }
            NodeEnum::JsonArrayConstructor(array) => {
                let JsonArrayConstructor { exprs, output, absent_on_null: _, location: _ } = array;
                self.nodes(exprs);
                self.json_output(output);
            }
            NodeEnum::JsonArrayQueryConstructor(array) => {
                let JsonArrayQueryConstructor { query, output, format: _, absent_on_null: _, location: _ } =
                    &**array;
                self.boxed(query);
                self.json_output(output);
            }
            NodeEnum::JsonAggConstructor(aggregate) => self.json_aggregate_node(aggregate),
            NodeEnum::JsonObjectAgg(aggregate) => {
                let JsonObjectAgg { constructor, arg, absent_on_null: _, unique: _ } = &**aggregate;
                self.json_aggregate(constructor);
                if let Some(pair) = arg {
                    self.json_pair_node(pair);
                }
            }
            NodeEnum::JsonArrayAgg(aggregate) => {
                let JsonArrayAgg { constructor, arg, absent_on_null: _ } = &**aggregate;
                self.json_aggregate(constructor);
                self.json_value(arg);
            }
            _ => return false,
        }
        true
    }

    fn json_function(&mut self, function: &'a JsonFuncExpr) {
        let JsonFuncExpr {
            op: _,
            column_name: _,
            context_item,
            pathspec,
            passing,
            output,
            on_empty,
            on_error,
            wrapper: _,
            quotes: _,
            location: _,
        } = function;
        self.json_value(context_item);
        self.boxed(pathspec);
        self.nodes(passing);
        self.json_output(output);
        self.json_behavior(on_empty);
        self.json_behavior(on_error);
    }

    fn json_table(&mut self, table: &'a JsonTable) {
        let JsonTable {
            context_item,
            pathspec,
            passing,
            columns,
            on_error,
            alias: _,
            lateral: _,
            location: _,
        } = table;
        self.json_value(context_item);
        self.json_path(pathspec);
        self.nodes(passing);
        self.nodes(columns);
        self.json_behavior(on_error);
    }

    fn json_column(&mut self, column: &'a JsonTableColumn) {
        let JsonTableColumn {
            coltype: _,
            name: _,
            type_name,
            pathspec,
            format: _,
            wrapper: _,
            quotes: _,
            columns,
            on_empty,
            on_error,
            location: _,
        } = column;
        self.optional_type(type_name);
        self.json_path(pathspec);
        self.nodes(columns);
        self.json_behavior(on_empty);
        self.json_behavior(on_error);
    }

    fn json_value(&mut self, value: &'a Option<Box<JsonValueExpr>>) {
        if let Some(value) = value {
            self.json_value_node(value);
        }
    }

    fn json_value_node(&mut self, value: &'a JsonValueExpr) {
        let JsonValueExpr { raw_expr, formatted_expr, format: _ } = value;
        self.boxed(raw_expr);
        self.boxed(formatted_expr);
    }

    fn json_behavior(&mut self, behavior: &'a Option<Box<JsonBehavior>>) {
        if let Some(behavior) = behavior {
            self.json_behavior_node(behavior);
        }
    }

    fn json_behavior_node(&mut self, behavior: &'a JsonBehavior) {
        let JsonBehavior { btype: _, expr, coerce: _, location: _ } = behavior;
        self.boxed(expr);
    }

    fn json_path(&mut self, path: &'a Option<Box<JsonTablePathSpec>>) {
        if let Some(path) = path {
            self.json_path_node(path);
        }
    }

    fn json_path_node(&mut self, path: &'a JsonTablePathSpec) {
        let JsonTablePathSpec { string, name: _, name_location: _, location: _ } = path;
        self.boxed(string);
    }

    fn json_pair_node(&mut self, pair: &'a JsonKeyValue) {
        let JsonKeyValue { key, value } = pair;
        self.boxed(key);
        self.json_value(value);
    }

    fn json_aggregate(&mut self, aggregate: &'a Option<Box<JsonAggConstructor>>) {
        if let Some(aggregate) = aggregate {
            self.json_aggregate_node(aggregate);
        }
    }

    fn json_aggregate_node(&mut self, aggregate: &'a JsonAggConstructor) {
        let JsonAggConstructor { output, agg_filter, agg_order, over, location: _ } = aggregate;
        self.json_output(output);
        self.boxed(agg_filter);
        self.nodes(agg_order);
        if let Some(window) = over {
            self.window(window);
        }
    }

    fn json_output(&mut self, output: &'a Option<JsonOutput>) {
        if let Some(output) = output {
            self.json_output_type(output);
        }
    }

    fn json_output_type(&mut self, output: &'a JsonOutput) {
        let JsonOutput { type_name, returning: _ } = output;
        self.optional_type(type_name);
    }
}
