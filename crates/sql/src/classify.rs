//! One statement after the other: what it needs and what it does to the session.

use std::ops::Range;

use pg_query::protobuf::{
    CopyStmt, CreateTableAsStmt, DeclareCursorStmt, DiscardMode, ExplainStmt, PrepareStmt, RawStmt,
    SelectStmt, TransactionStmt, TransactionStmtKind,
};
use pg_query::{Node, NodeEnum};

use crate::catalog::Catalog;
use crate::parse;
use crate::settings::{self, TransactionOptions};
use crate::statement::{Batch, DiscardTarget, Effect, Statement};
use crate::walk::{Found, Walk, is_temporary};

/// `CURSOR_OPT_HOLD` of PostgreSQL's parsenodes.h.
const CURSOR_OPT_HOLD: i32 = 0x0020;

/// Says what each statement of a query string does. Never fails: what cannot be read is said to
/// be unparsable, and what is not understood needs the primary.
pub fn classify(text: &str, catalog: &Catalog) -> Batch {
    let Some(raw) = parse::parse(text) else {
        return Batch { unparsable: true, ..Batch::default() };
    };
    let mut classifier = Classifier { catalog, unknown_names: false, literals: false };
    // Kept for long, so without room for more.
    let mut statements = Vec::with_capacity(raw.len());
    statements.extend(raw.iter().filter_map(|raw| classifier.raw(raw, text)));
    let plain = raw.len() == 1
        && raw.iter().all(is_query)
        && statements.iter().all(|statement| statement.effect == Effect::None);
    Batch {
        statements,
        unparsable: false,
        unknown_names: classifier.unknown_names,
        any_literals: plain && !classifier.literals,
    }
}

/// Classifies the statements of one text.
#[derive(Debug)]
struct Classifier<'a> {
    catalog: &'a Catalog,
    unknown_names: bool,
    /// A value in the text was looked at.
    literals: bool,
}

impl Classifier<'_> {
    fn raw(&mut self, raw: &RawStmt, text: &str) -> Option<Statement> {
        let node = raw.stmt.as_deref()?.node.as_ref()?;
        let mut statement = self.statement(node);
        statement.range = statement_range(raw, text);
        // A name in the temporary schema makes the object temporary whatever kind it is. A
        // mention of the schema anywhere is taken for that.
        if statement.effect == Effect::Ddl && mentions_pg_temp(statement_text(raw, text)) {
            (statement.pins, statement.holds) = (true, true);
        }
        Some(statement)
    }

    fn statement(&mut self, node: &NodeEnum) -> Statement {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select, node),
            NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_) => {
                let found = self.walk(node);
                run(found, Effect::None)
            }
            NodeEnum::TransactionStmt(transaction) => transaction_statement(transaction),
            NodeEnum::VariableSetStmt(set) => settings::variable_set(set),
            NodeEnum::VariableShowStmt(show) => settings::show(&show.name),
            NodeEnum::ExplainStmt(explain) => self.explain(explain),
            NodeEnum::CopyStmt(copy) => self.copy(copy),
            NodeEnum::PrepareStmt(prepare) => self.prepare(prepare),
            NodeEnum::ExecuteStmt(execute) => {
                let found = self.walk_nodes(&execute.params);
                run(found, Effect::Execute { name: execute.name.clone() })
            }
            NodeEnum::DeallocateStmt(deallocate) => Statement::harmless(Effect::Deallocate {
                name: (!deallocate.isall).then(|| deallocate.name.clone()),
            }),
            NodeEnum::DeclareCursorStmt(declare) => self.declare_cursor(declare),
            NodeEnum::FetchStmt(fetch) => {
                Statement::harmless(Effect::Fetch { name: fetch.portalname.clone() })
            }
            NodeEnum::ClosePortalStmt(close) => {
                let name = Some(close.portalname.clone()).filter(|name| !name.is_empty());
                Statement::harmless(Effect::CloseCursor { name })
            }
            NodeEnum::DiscardStmt(discard) => match DiscardMode::try_from(discard.target) {
                Ok(DiscardMode::DiscardAll) => discarding(DiscardTarget::All),
                Ok(DiscardMode::DiscardPlans) => discarding(DiscardTarget::Plans),
                Ok(DiscardMode::DiscardSequences) => discarding(DiscardTarget::Sequences),
                Ok(DiscardMode::DiscardTemp) => discarding(DiscardTarget::Temp),
                Ok(DiscardMode::Undefined) | Err(_) => Statement::on_primary(Effect::None),
            },
            NodeEnum::ListenStmt(listen) => {
                let effect = Effect::Listen { channel: listen.conditionname.clone() };
                Statement { holds: true, ..Statement::pinning(effect) }
            }
            NodeEnum::UnlistenStmt(unlisten) => {
                let channel = Some(unlisten.conditionname.clone()).filter(|channel| !channel.is_empty());
                Statement::on_primary(Effect::Unlisten { channel })
            }
            NodeEnum::LoadStmt(_) => Statement { holds: true, ..Statement::harmless(Effect::Load) },
            NodeEnum::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeEnum::CallStmt(call) => {
                let found =
                    call.funccall.as_ref().map_or_else(Found::default, |call| self.walk_nodes(&call.args));
                Statement { needs_primary: true, holds: true, ..run(found, Effect::None) }
            }
            NodeEnum::DoStmt(_) => Statement::opaque(),
            // They change data, files or other sessions, but not the catalogue's meaning. Some
            // succeed silently on a standby: CHECKPOINT, ALTER SYSTEM, weak LOCK TABLE.
            NodeEnum::AlterSystemStmt(_)
            | NodeEnum::CheckPointStmt(_)
            | NodeEnum::ClusterStmt(_)
            | NodeEnum::ConstraintsSetStmt(_)
            | NodeEnum::LockStmt(_)
            | NodeEnum::NotifyStmt(_)
            | NodeEnum::RefreshMatViewStmt(_)
            | NodeEnum::ReindexStmt(_)
            | NodeEnum::TruncateStmt(_)
            | NodeEnum::VacuumStmt(_) => Statement::on_primary(Effect::None),
            NodeEnum::CreateStmt(create) => ddl(create.relation.as_ref().is_some_and(is_temporary)),
            NodeEnum::ViewStmt(create) => ddl(create.view.as_ref().is_some_and(is_temporary)),
            NodeEnum::CreateSeqStmt(create) => ddl(create.sequence.as_ref().is_some_and(is_temporary)),
            _ => ddl(false),
        }
    }

    fn select(&mut self, select: &SelectStmt, node: &NodeEnum) -> Statement {
        if self.catalog.is_builtin_function(None, "set_config")
            && let Some(statement) = settings::set_config(select)
        {
            return statement;
        }
        let effect = if selects_into(select) { Effect::Ddl } else { Effect::None };
        run(self.walk(node), effect)
    }

    /// `EXPLAIN` plans and does not run: planning an `INSERT` is no write. A standby refuses to
    /// plan over a relation that it cannot read.
    fn explain(&mut self, explain: &ExplainStmt) -> Statement {
        let Some(inner) = node_of(explain.query.as_deref()) else {
            return Statement::on_primary(Effect::None);
        };
        let analyze = explain.options.iter().any(is_analyze);
        let query = match inner {
            NodeEnum::ExecuteStmt(execute) => {
                return Statement::on_primary(Effect::Execute { name: execute.name.clone() });
            }
            NodeEnum::CreateTableAsStmt(create) if analyze => return self.create_table_as(create),
            NodeEnum::CreateTableAsStmt(create) => match node_of(create.query.as_deref()) {
                Some(NodeEnum::ExecuteStmt(_)) | None => {
                    return Statement::on_primary(Effect::None);
                }
                Some(query) => query,
            },
            NodeEnum::DeclareCursorStmt(declare) => match node_of(declare.query.as_deref()) {
                None => return Statement::on_primary(Effect::None),
                Some(query) => query,
            },
            NodeEnum::SelectStmt(_)
            | NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_) => inner,
            _ => return Statement::on_primary(Effect::None),
        };
        let found = self.walk(query);
        if analyze {
            return run(found, Effect::None);
        }
        Statement {
            needs_primary: found.reads || found.session,
            reads_session_state: found.session,
            ..Statement::harmless(Effect::None)
        }
    }

    fn copy(&mut self, copy: &CopyStmt) -> Statement {
        let stream = !copy.is_program && copy.filename.is_empty();
        if copy.is_from {
            let effect = if stream { Effect::CopyFromStdin } else { Effect::None };
            return Statement::on_primary(effect);
        }
        let mut walk = Walk::new(self.catalog);
        if let Some(relation) = &copy.relation {
            walk.relation(relation);
        }
        if let Some(query) = &copy.query {
            walk.node(query);
        }
        let found = self.keep(&walk);
        if stream {
            run(found, Effect::CopyToStdout)
        } else {
            Statement { needs_primary: true, ..run(found, Effect::None) }
        }
    }

    fn prepare(&mut self, prepare: &PrepareStmt) -> Statement {
        let types = self.walk_nodes(&prepare.argtypes);
        let mut inner = match node_of(prepare.query.as_deref()) {
            Some(query) => self.statement(query),
            None => Statement::on_primary(Effect::None),
        };
        inner.needs_primary |= types.needs_primary();
        let name = prepare.name.clone();
        Statement { holds: true, ..Statement::harmless(Effect::Prepare { name, inner: Box::new(inner) }) }
    }

    fn declare_cursor(&mut self, declare: &DeclareCursorStmt) -> Statement {
        let hold = declare.options & CURSOR_OPT_HOLD != 0;
        let found = node_of(declare.query.as_deref())
            .map_or(Found { writes: true, ..Found::default() }, |query| self.walk(query));
        let cursor = run(found, Effect::DeclareCursor { name: declare.portalname.clone(), hold });
        Statement {
            needs_primary: cursor.needs_primary || hold,
            pins: cursor.pins || hold,
            holds: cursor.holds || hold,
            ..cursor
        }
    }

    fn create_table_as(&mut self, create: &CreateTableAsStmt) -> Statement {
        let (found, effect) = match node_of(create.query.as_deref()) {
            Some(NodeEnum::ExecuteStmt(execute)) => {
                let found = self.walk_nodes(&execute.params);
                (found, Effect::Execute { name: execute.name.clone() })
            }
            Some(query) => (self.walk(query), Effect::Ddl),
            None => (Found::default(), Effect::Ddl),
        };
        let relation = create.into.as_ref().and_then(|into| into.rel.as_ref());
        let temporary = relation.is_some_and(is_temporary);
        let ran = run(found, effect);
        Statement { needs_primary: true, pins: ran.pins || temporary, holds: ran.holds || temporary, ..ran }
    }

    fn walk(&mut self, node: &NodeEnum) -> Found {
        let mut walk = Walk::new(self.catalog);
        walk.kind(node);
        self.keep(&walk)
    }

    fn walk_nodes(&mut self, nodes: &[Node]) -> Found {
        let mut walk = Walk::new(self.catalog);
        walk.nodes(nodes);
        self.keep(&walk)
    }

    fn keep(&mut self, walk: &Walk<'_>) -> Found {
        self.unknown_names |= walk.found.unknown;
        self.literals |= walk.found.literals;
        walk.found
    }
}

/// A statement that runs what a walk has found.
fn run(found: Found, effect: Effect) -> Statement {
    Statement {
        needs_primary: found.needs_primary(),
        pins: found.pins,
        holds: found.holds,
        reads_private_state: found.private,
        reads_session_state: found.session,
        ..Statement::harmless(effect)
    }
}

fn transaction_statement(transaction: &TransactionStmt) -> Statement {
    let chain = transaction.chain;
    let name = || transaction.savepoint_name.clone();
    match TransactionStmtKind::try_from(transaction.kind) {
        Ok(TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) => begin(transaction),
        Ok(TransactionStmtKind::TransStmtCommit) => Statement::harmless(Effect::Commit { chain }),
        Ok(TransactionStmtKind::TransStmtRollback) => Statement::harmless(Effect::Rollback { chain }),
        Ok(TransactionStmtKind::TransStmtSavepoint) => {
            Statement::harmless(Effect::Savepoint { name: name() })
        }
        Ok(TransactionStmtKind::TransStmtRelease) => Statement::harmless(Effect::Release { name: name() }),
        Ok(TransactionStmtKind::TransStmtRollbackTo) => {
            Statement::harmless(Effect::RollbackTo { name: name() })
        }
        Ok(TransactionStmtKind::TransStmtPrepare) => Statement::on_primary(Effect::PrepareTransaction),
        Ok(
            TransactionStmtKind::TransStmtCommitPrepared
            | TransactionStmtKind::TransStmtRollbackPrepared
            | TransactionStmtKind::Undefined,
        )
        | Err(_) => Statement::on_primary(Effect::None),
    }
}

fn begin(transaction: &TransactionStmt) -> Statement {
    let options = TransactionOptions::read(&transaction.options);
    let effect = Effect::Begin {
        start_transaction: transaction.kind == TransactionStmtKind::TransStmtStart as i32,
        read_only: options.read_only,
        isolation: options.isolation,
        deferrable: options.deferrable,
    };
    Statement { needs_primary: options.need_primary(), ..Statement::harmless(effect) }
}

fn discarding(target: DiscardTarget) -> Statement {
    Statement::harmless(Effect::Discard(target))
}

fn ddl(temporary: bool) -> Statement {
    Statement { pins: temporary, holds: temporary, ..Statement::on_primary(Effect::Ddl) }
}

/// Whether it is a query and no utility statement. Of those many are told apart by values
/// (`EXPLAIN (ANALYZE 0)`, `SET x = 1`), and the grammar itself reads the values of some.
fn is_query(raw: &RawStmt) -> bool {
    matches!(
        node_of(raw.stmt.as_deref()),
        Some(
            NodeEnum::SelectStmt(_)
                | NodeEnum::InsertStmt(_)
                | NodeEnum::UpdateStmt(_)
                | NodeEnum::DeleteStmt(_)
                | NodeEnum::MergeStmt(_)
        )
    )
}

/// Whether it is a `SELECT … INTO`. Of a `UNION` the first query holds the clause.
fn selects_into(select: &SelectStmt) -> bool {
    let mut leftmost = select;
    while let Some(left) = &leftmost.larg {
        leftmost = left;
    }
    leftmost.into_clause.is_some()
}

/// `ANALYZE` among the options of `EXPLAIN`, unless clearly switched off.
fn is_analyze(option: &Node) -> bool {
    let Some(NodeEnum::DefElem(option)) = &option.node else { return true };
    option.defname.eq_ignore_ascii_case("analyze")
        && option.arg.as_deref().and_then(settings::option_bool) != Some(false)
}

fn mentions_pg_temp(text: &str) -> bool {
    text.to_ascii_lowercase().contains("pg_temp")
}

fn node_of(node: Option<&Node>) -> Option<&NodeEnum> {
    node?.node.as_ref()
}

/// The part of the text that is this statement.
fn statement_text<'a>(raw: &RawStmt, text: &'a str) -> &'a str {
    text.get(statement_range(raw, text)).unwrap_or(text)
}

/// Where it stands (a length of 0 means up to the end).
fn statement_range(raw: &RawStmt, text: &str) -> Range<usize> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0);
    let length = usize::try_from(raw.stmt_len).unwrap_or(0);
    let end = if length == 0 { text.len() } else { start.saturating_add(length) };
    start..end
}
