//! Expressions, and the small nodes that hold them.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AArrayExpr, AExpr, AIndices, AIndirection, BoolExpr, BooleanTest, CaseExpr, CaseWhen, CoalesceExpr,
    CollateClause, ColumnDef, FuncCall, GroupingFunc, GroupingSet, IndexElem, List, MinMaxExpr,
    MultiAssignRef, NamedArgExpr, NullTest, ResTarget, RowExpr, SortBy, SubLink, TypeCast, WindowDef,
    XmlExpr, XmlSerialize,
};

use super::Walk;

impl<'a> Walk<'a> {
    /// Walks an expression; false if it is none of the kinds the grammar makes.
    pub(super) fn expression(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            // Leaves. SQLValueFunction is CURRENT_USER, CURRENT_TIMESTAMP and their kin.
            NodeEnum::AConst(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::AStar(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::BitString(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::CurrentOfExpr(_)
            | NodeEnum::MergeSupportFunc(_) => {}
            NodeEnum::ColumnRef(column) => self.column(column),
            NodeEnum::TypeName(name) => self.type_name(name),
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::SubLink(link) => self.sublink(link),
            NodeEnum::List(List { items }) => self.nodes(items),
            NodeEnum::WindowDef(window) => self.window(window),
            _ => return self.operation(node) || self.holder(node),
        }
        true
    }

    /// Expressions made of other expressions.
    #[expect(clippy::too_many_lines, reason = "a flat table of nodes")]
    fn operation(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            NodeEnum::AExpr(operation) => {
                let AExpr {
                    kind: _,
                    name,
                    lexpr,
                    rexpr,
                    rexpr_list_start: _,
                    rexpr_list_end: _,
                    location: _,
                } = &**operation;
                self.operator(name);
                self.boxed(lexpr);
                self.boxed(rexpr);
            }
            NodeEnum::BoolExpr(operation) => {
                let BoolExpr { xpr: _, boolop: _, args, location: _ } = &**operation;
                self.nodes(args);
            }
            NodeEnum::NullTest(test) => {
                let NullTest { xpr: _, arg, nulltesttype: _, argisrow: _, location: _ } = &**test;
                self.boxed(arg);
            }
            NodeEnum::BooleanTest(test) => {
                let BooleanTest { xpr: _, arg, booltesttype: _, location: _ } = &**test;
                self.boxed(arg);
            }
            NodeEnum::CaseExpr(case) => self.case(case),
            NodeEnum::CaseWhen(when) => {
                let CaseWhen { xpr: _, expr, result, location: _ } = &**when;
                self.boxed(expr);
                self.boxed(result);
            }
            NodeEnum::CoalesceExpr(coalesce) => {
                let CoalesceExpr { xpr: _, coalescetype: _, coalescecollid: _, args, location: _ } =
                    &**coalesce;
                self.nodes(args);
            }
            NodeEnum::MinMaxExpr(extreme) => {
                let MinMaxExpr {
                    xpr: _,
                    minmaxtype: _,
                    minmaxcollid: _,
                    inputcollid: _,
                    op: _,
                    args,
                    location: _,
                } = &**extreme;
                self.implied_operators();
                self.nodes(args);
            }
            NodeEnum::RowExpr(row) => {
                let RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &**row;
                self.nodes(args);
            }
            NodeEnum::AArrayExpr(array) => {
                let AArrayExpr { elements, list_start: _, list_end: _, location: _ } = array;
                self.nodes(elements);
            }
            NodeEnum::GroupingFunc(grouping) => {
                let GroupingFunc { xpr: _, args, refs: _, agglevelsup: _, location: _ } = &**grouping;
                self.nodes(args);
            }
            NodeEnum::XmlExpr(xml) => self.xml(xml),
            NodeEnum::XmlSerialize(xml) => {
                let XmlSerialize { xmloption: _, expr, type_name, indent: _, location: _ } = &**xml;
                self.boxed(expr);
                self.optional_type(type_name);
            }
            _ => return false,
        }
        true
    }

    /// Nodes that hold one expression and say something about it.
    fn holder(&mut self, node: &'a NodeEnum) -> bool {
        match node {
            NodeEnum::ResTarget(target) => {
                let ResTarget { name: _, indirection, val, location: _ } = &**target;
                self.attributes(indirection);
                self.boxed(val);
            }
            NodeEnum::SortBy(sort) => {
                let SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = &**sort;
                if use_op.is_empty() {
                    self.implied_operators();
                } else {
                    self.operator(use_op);
                }
                self.boxed(node);
            }
            NodeEnum::TypeCast(cast) => {
                let TypeCast { arg, type_name, location: _ } = &**cast;
                self.boxed(arg);
                self.optional_type(type_name);
            }
            NodeEnum::CollateClause(collate) => {
                let CollateClause { arg, collname: _, location: _ } = &**collate;
                self.boxed(arg);
            }
            NodeEnum::NamedArgExpr(named) => {
                let NamedArgExpr { xpr: _, arg, name: _, argnumber: _, location: _ } = &**named;
                self.boxed(arg);
            }
            NodeEnum::AIndirection(indirection) => {
                let AIndirection { arg, indirection } = &**indirection;
                self.boxed(arg);
                self.attributes(indirection);
            }
            NodeEnum::AIndices(indices) => {
                let AIndices { is_slice: _, lidx, uidx } = &**indices;
                self.boxed(lidx);
                self.boxed(uidx);
            }
            NodeEnum::GroupingSet(GroupingSet { kind: _, content, location: _ }) => {
                self.nodes(content);
            }
            NodeEnum::MultiAssignRef(assign) => {
                let MultiAssignRef { source, colno: _, ncolumns: _ } = &**assign;
                self.boxed(source);
            }
            NodeEnum::ColumnDef(column) => self.column_definition(column),
            NodeEnum::IndexElem(element) => self.index_element(element),
            _ => return false,
        }
        true
    }

    fn call(&mut self, call: &'a FuncCall) {
        let FuncCall {
            funcname: _, // looked up with the arguments
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = call;
        self.function_name(call);
        if *agg_distinct {
            self.implied_operators();
        }
        self.nodes(args);
        self.nodes(agg_order);
        self.boxed(agg_filter);
        if let Some(window) = over {
            self.window(window);
        }
    }

    pub(super) fn window(&mut self, window: &'a WindowDef) {
        let WindowDef {
            name: _,
            refname: _,
            partition_clause,
            order_clause,
            frame_options: _,
            start_offset,
            end_offset,
            location: _,
        } = window;
        if !partition_clause.is_empty() {
            self.implied_operators();
        }
        self.nodes(partition_clause);
        self.nodes(order_clause);
        self.boxed(start_offset);
        self.boxed(end_offset);
    }

    fn sublink(&mut self, link: &'a SubLink) {
        let SubLink { xpr: _, sub_link_type: _, sub_link_id: _, testexpr, oper_name, subselect, location: _ } =
            link;
        self.boxed(testexpr);
        if !oper_name.is_empty() {
            self.operator(oper_name);
        } else if testexpr.is_some() {
            self.implied_operators(); // IN
        }
        self.boxed(subselect);
    }

    fn case(&mut self, case: &'a CaseExpr) {
        let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = case;
        if arg.is_some() {
            self.implied_operators();
        }
        self.boxed(arg);
        self.nodes(args);
        self.boxed(defresult);
    }

    fn xml(&mut self, xml: &'a XmlExpr) {
        let XmlExpr {
            xpr: _,
            op: _,
            name: _,
            named_args,
            arg_names: _,
            args,
            xmloption: _,
            indent: _,
            r#type: _,
            typmod: _,
            location: _,
        } = xml;
        self.nodes(named_args);
        self.nodes(args);
    }

    /// A column of the record that a function in `FROM` returns: a name and a type, and nothing
    /// of what a table's column may have.
    fn column_definition(&mut self, column: &'a ColumnDef) {
        self.optional_type(&column.type_name);
        let more = column.raw_default.is_some() || !column.constraints.is_empty();
        self.found.writes |= more;
    }

    /// `ON CONFLICT (element)`.
    fn index_element(&mut self, element: &'a IndexElem) {
        let IndexElem {
            name: _,
            expr,
            indexcolname: _,
            collation: _,
            opclass: _,
            opclassopts: _,
            ordering: _,
            nulls_ordering: _,
        } = element;
        self.boxed(expr);
    }
}
