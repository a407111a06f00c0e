//! Does again what was lost, on the primary of now, where that overwrites nothing.
//!
//! The lost changes of a row are one change from what it was at the fork to what it was after the last of them. It is
//! done only if the row still is as it was at the fork; otherwise it is a conflict, and nothing is done. TRUNCATE and
//! DDL are never done again. A row that already is as the lost changes left it is left alone.
//!
//! What was done is written down in `pangea.recovered` in the same transaction, so that nothing is done twice,
//! whatever happens in between.
//!
//! Triggers fire and foreign keys are checked, as for any other write (`session_replication_role` stays `origin`):
//! a change that breaks the integrity of what was written since must be a conflict. The price: what a trigger wrote
//! on the old primary, say to an audit table, is a lost change of its own, and the trigger writes it again. Whoever
//! minds applies the transactions that do not.
//!
//! A transaction of up to [`BATCH`] rows is committed at a time, so locks are held briefly. Rows of one lost
//! transaction may thus be applied in part, when others of them are conflicts.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;
use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

use super::catalog::Tables;
use super::error::RecoveryError;
use super::net::{Collapse, Net, Refused};
use super::report::{Change, ChangeKind, Report, Row, TableName};
use super::session::{Session, literal, parse_conninfo};
use super::target::{Attempt, attempt};

/// Rows in one transaction.
const BATCH: usize = 100;
/// Another session holds the row: a conflict, not a wait.
const BEGIN: &str = "BEGIN READ WRITE; SET LOCAL lock_timeout = '5s'; SET CONSTRAINTS ALL IMMEDIATE";

/// Whoever makes it first owns it.
const RECOVERED_SQL: &str = "CREATE SCHEMA IF NOT EXISTS pangea; \
     CREATE TABLE IF NOT EXISTS pangea.recovered (report text, ordinal bigint, \
     applied_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (report, ordinal)); \
     COMMENT ON TABLE pangea.recovered IS 'Lost changes that pangea recover has applied'";

/// What to apply.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Only the changes of these transactions; all when `None`.
    pub transactions: Option<BTreeSet<u32>>,
}

/// What was done; numbers are of changes in the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Done now (in a dry run: what could be).
    pub applied: u64,
    /// Of these, rows added to tables without a key: nobody can tell whether they were there.
    pub inserted_without_key: u64,
    /// Done by an earlier call.
    pub skipped_already: u64,
    /// Not done because the row is as they left it.
    pub already_so: u64,
    /// Not done.
    pub conflicts: Vec<Conflict>,
}

/// A lost change that was not done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The transaction, the first of them when several changed the row.
    pub xid: u32,
    /// The database, where known.
    pub database: Option<String>,
    /// The table; `None` for what is no change of rows.
    pub table: Option<TableName>,
    /// What was lost: `None` for what is no change of rows.
    pub kind: Option<ChangeKind>,
    /// The key of the row.
    pub key: Option<Row>,
    /// The row as the lost changes left it; `None` when they removed it.
    pub lost: Option<Row>,
    /// The row as it is now, where there is one.
    pub now: Option<Row>,
    /// Why it was not done.
    pub reason: ConflictReason,
}

/// Why a lost change was not done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum ConflictReason {
    /// There is another row with that key now.
    RowExists,
    /// The row has been changed since the failover.
    RowChanged,
    /// The row before the lost changes is not known, and the new primary cannot tell either.
    RowUnknown,
    /// There is no such row any more.
    RowGone,
    /// More than one row has that key.
    Ambiguous,
    /// The table has no key, or it is not known: the row cannot be found.
    NoKey,
    /// An emptied table is not emptied again.
    Truncate,
    /// There is no such table any more.
    NoTable,
    /// The table lacks a column.
    NoColumn {
        /// The column.
        column: String,
    },
    /// A large value of the row is not known.
    NotWhole,
    /// The database cannot be used.
    NoDatabase {
        /// What the server says.
        message: String,
    },
    /// Not a change of rows, or one that could not be decoded.
    NotRows {
        /// What is known of it.
        note: String,
    },
    /// The server refuses: a constraint, a trigger, a lock.
    Refused {
        /// The SQLSTATE.
        code: String,
        /// What the server says.
        message: String,
    },
}

/// Applies a report to the primary that `target` names (a connection string without a database).
///
/// # Errors
/// When the report cannot be read, was discarded, or touches too many rows at once, or the way to the primary breaks.
/// What was committed by then is not done again by the next call.
pub async fn apply(
    report: &mut Report,
    target: &str,
    options: &ApplyOptions,
) -> Result<Applied, RecoveryError> {
    if report.state.discarded_at.is_some() {
        return Err(RecoveryError::Discarded(report.header.id.clone()));
    }
    let config = parse_conninfo(target)?;
    let mut applied = Applied::default();
    let selected = |xid: u32| options.transactions.as_ref().is_none_or(|chosen| chosen.contains(&xid));
    let mut databases = BTreeSet::new();
    for transaction in report.transactions()? {
        let transaction = transaction?;
        if !selected(transaction.xid) {
            continue;
        }
        if !transaction.changes.is_empty() {
            databases.extend(transaction.database.clone());
        }
        // What is more than its rows.
        if let Some(note) = transaction.note {
            applied.conflicts.push(Conflict {
                database: transaction.database,
                ..no_rows(transaction.xid, ConflictReason::NotRows { note })
            });
        }
    }
    for database in databases {
        Applier { report, config: &config, database: &database, options, applied: &mut applied }
            .run()
            .await?;
    }
    if !options.dry_run && options.transactions.is_none() {
        report.mark_applied()?;
    }
    Ok(applied)
}

fn no_rows(xid: u32, reason: ConflictReason) -> Conflict {
    Conflict { xid, database: None, table: None, kind: None, key: None, lost: None, now: None, reason }
}

/// One database's part.
struct Applier<'a> {
    report: &'a Report,
    config: &'a Config,
    database: &'a str,
    options: &'a ApplyOptions,
    applied: &'a mut Applied,
}

impl Applier<'_> {
    async fn run(mut self) -> Result<(), RecoveryError> {
        let session = match Session::open(self.config, self.database).await {
            Ok(session) => session,
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
                return self.no_database(&error.to_string());
            }
            Err(error) => return Err(RecoveryError::sql("connect to the primary")(error)),
        };
        let done = self.done(&session).await?;
        let mut collapse = Collapse::default();
        let (mut ordinal, mut skipped) = (0_u64, 0_u64);
        for transaction in self.report.transactions()? {
            let transaction = transaction?;
            let ours = transaction.database.as_deref() == Some(self.database)
                && self.options.transactions.as_ref().is_none_or(|chosen| chosen.contains(&transaction.xid));
            for change in transaction.changes {
                if ours && done.contains(&ordinal) {
                    skipped += 1;
                } else if ours {
                    collapse.add(transaction.xid, ordinal, change)?;
                }
                ordinal += 1;
            }
        }
        self.applied.skipped_already += skipped;
        let (nets, refused) = collapse.finish();
        for refused in refused {
            let conflict = self.refused(refused);
            self.applied.conflicts.push(conflict);
        }
        self.all(&session, &nets).await
    }

    /// Places in the report of what earlier calls have applied.
    async fn done(&self, session: &Session) -> Result<HashSet<u64>, RecoveryError> {
        let reading = "read pangea.recovered on the primary";
        if !self.options.dry_run {
            let sql = format!("BEGIN READ WRITE; {RECOVERED_SQL}; COMMIT");
            let making = "make pangea.recovered on the primary";
            session.client.batch_execute(&sql).await.map_err(RecoveryError::sql(making))?;
        }
        let there = session.value("SELECT to_regclass('pangea.recovered') IS NOT NULL").await;
        if there.map_err(RecoveryError::sql(reading))?.as_deref() != Some("t") {
            return Ok(HashSet::new());
        }
        let sql = format!(
            "SELECT ordinal FROM pangea.recovered WHERE report = {}",
            literal(&self.report.header.id)
        );
        let rows = session.rows(&sql).await.map_err(RecoveryError::sql(reading))?;
        Ok(rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect())
    }

    async fn all(&mut self, session: &Session, nets: &[Net]) -> Result<(), RecoveryError> {
        let applying = "apply lost changes on the primary";
        let execute =
            async |sql: &str| session.client.batch_execute(sql).await.map_err(RecoveryError::sql(applying));
        let mut tables = Tables::default();
        // A dry run is one transaction: later changes build on earlier ones.
        let batch = if self.options.dry_run { nets.len().max(1) } else { BATCH };
        for nets in nets.chunks(batch) {
            execute(BEGIN).await?;
            for net in nets {
                execute("SAVEPOINT change").await?;
                let attempted =
                    match attempt(session, &mut tables, net, self.report.header.next_xid_at_fork).await {
                        Ok(Attempt::Done { without_key }) if !self.options.dry_run => {
                            self.write_down(session, net).await.map(|()| Attempt::Done { without_key })
                        }
                        other => other,
                    };
                match attempted {
                    Ok(attempted) => self.count(net, attempted),
                    Err(error) => {
                        let Some(refusal) = error.as_db_error() else {
                            return Err(RecoveryError::sql(applying)(error));
                        };
                        execute("ROLLBACK TO SAVEPOINT change").await?;
                        let reason = ConflictReason::Refused {
                            code: refusal.code().code().to_owned(),
                            message: refusal.message().to_owned(),
                        };
                        self.count(net, Attempt::Conflict { reason, now: None });
                    }
                }
                execute("RELEASE SAVEPOINT change").await?;
            }
            execute(if self.options.dry_run { "ROLLBACK" } else { "COMMIT" }).await?;
        }
        Ok(())
    }

    async fn write_down(&self, session: &Session, net: &Net) -> Result<(), tokio_postgres::Error> {
        let id = literal(&self.report.header.id);
        let rows: Vec<String> = net.changes.iter().map(|(_, ordinal)| format!("({id}, {ordinal})")).collect();
        let sql = format!("INSERT INTO pangea.recovered (report, ordinal) VALUES {}", rows.join(", "));
        session.client.batch_execute(&sql).await
    }

    fn count(&mut self, net: &Net, attempt: Attempt) {
        let changes = u64::try_from(net.changes.len()).unwrap_or(u64::MAX);
        match attempt {
            Attempt::Done { without_key } => {
                self.applied.applied += changes;
                self.applied.inserted_without_key += if without_key { changes } else { 0 };
            }
            Attempt::AlreadySo => self.applied.already_so += changes,
            Attempt::Conflict { reason, now } => {
                let kind = match (&net.key, net.lost()) {
                    (None, _) => ChangeKind::Insert,
                    (Some(_), Some(_)) => ChangeKind::Update,
                    (Some(_), None) => ChangeKind::Delete,
                };
                self.applied.conflicts.push(Conflict {
                    xid: net.changes.first().map_or(0, |(xid, _)| *xid),
                    database: Some(self.database.to_owned()),
                    table: Some(net.table.clone()),
                    kind: Some(kind),
                    key: net.key.clone().or_else(|| net.new_key.clone()),
                    lost: net.lost().cloned(),
                    now,
                    reason,
                });
            }
        }
    }

    fn refused(&self, Refused { xid, change }: Refused) -> Conflict {
        let Change { table, kind, key, new, .. } = change;
        let reason =
            if kind == ChangeKind::Truncate { ConflictReason::Truncate } else { ConflictReason::NoKey };
        let database = Some(self.database.to_owned());
        Conflict { xid, database, table: Some(table), kind: Some(kind), key, lost: new, now: None, reason }
    }

    fn no_database(&mut self, message: &str) -> Result<(), RecoveryError> {
        let mut told = HashSet::new();
        for transaction in self.report.transactions()? {
            let transaction = transaction?;
            let chosen =
                self.options.transactions.as_ref().is_none_or(|chosen| chosen.contains(&transaction.xid));
            if transaction.database.as_deref() == Some(self.database)
                && chosen
                && told.insert(transaction.xid)
            {
                let reason = ConflictReason::NoDatabase { message: message.to_owned() };
                let database = transaction.database;
                self.applied.conflicts.push(Conflict { database, ..no_rows(transaction.xid, reason) });
            }
        }
        Ok(())
    }
}
