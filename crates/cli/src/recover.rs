//! `pangea recover`: what was lost in a failover, looked at, taken away, done again.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::{Context as _, bail};
use pangea_agent::recovery::{
    Applied, ApplyOptions, Cell, Change, ChangeKind, Conflict, ConflictReason, LostTransaction, Report, Row,
    apply, list_reports, open_report,
};
use pangea_lab::{Layout, Manifest, region_status};
use pangea_node::Role;
use serde_json::json;

use crate::args::{Recover, RecoverApply, RecoverCommand, RecoverExport};
use crate::exit::Exit;
use crate::table::{Align, render};
use crate::{print, print_json, runtime, say};

pub(crate) fn run(args: &Recover) -> anyhow::Result<Exit> {
    let layout = args.data_dir.layout();
    let manifest = Manifest::load(&layout)?;
    match &args.command {
        RecoverCommand::List => list(&layout, &manifest, args.json),
        RecoverCommand::Show { id } => show(&find(&layout, &manifest, id)?, args.json),
        RecoverCommand::Export(export) => write_out(&find(&layout, &manifest, &export.id)?, export),
        RecoverCommand::Apply(options) => {
            let report = find(&layout, &manifest, &options.id)?;
            runtime()?.block_on(apply_again(&layout, &manifest, report, options, args.json))
        }
        RecoverCommand::Discard { id } => {
            find(&layout, &manifest, id)?.discard()?;
            say(&format!(
                "{id} is discarded: its rows are kept for the record, its copy of the log is deleted"
            ));
            Ok(Exit::Done)
        }
    }
}

/// All reports of the cluster's regions, by their names.
fn reports(layout: &Layout, manifest: &Manifest) -> anyhow::Result<Vec<Report>> {
    let mut all = Vec::new();
    for entry in &manifest.regions {
        let dir = layout.region(&entry.name).join("recovery");
        if dir.exists() {
            all.extend(list_reports(&dir)?);
        }
    }
    all.sort_by(|a, b| a.header.id.cmp(&b.header.id));
    Ok(all)
}

fn find(layout: &Layout, manifest: &Manifest, id: &str) -> anyhow::Result<Report> {
    for entry in &manifest.regions {
        let dir = layout.region(&entry.name).join("recovery");
        if dir.join(id).join("report.jsonl").exists() {
            return Ok(open_report(&dir, id)?);
        }
    }
    bail!("there is no report {id}: `pangea recover list` shows which there are")
}

fn state(report: &Report) -> &'static str {
    match (&report.state.discarded_at, &report.state.applied_at) {
        (Some(_), _) => "discarded",
        (None, Some(_)) => "applied",
        (None, None) => "new",
    }
}

fn list(layout: &Layout, manifest: &Manifest, as_json: bool) -> anyhow::Result<Exit> {
    let reports = reports(layout, manifest)?;
    if as_json {
        let all: Vec<_> =
            reports.iter().map(|report| json!({ "report": report.header, "state": report.state })).collect();
        print_json(&json!(all))?;
        return Ok(Exit::Done);
    }
    if reports.is_empty() {
        say("nothing was lost: there are no reports");
        return Ok(Exit::Done);
    }
    let columns = [
        ("REPORT", Align::Left),
        ("LOST BY", Align::Left),
        ("EPOCH", Align::Right),
        ("TRANSACTIONS", Align::Right),
        ("CHANGES", Align::Right),
        ("ROWS", Align::Left),
        ("STATE", Align::Left),
        ("FOUND", Align::Left),
    ];
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let header = &report.header;
            vec![
                header.id.clone(),
                header.region.to_string(),
                header.lost_epoch.to_string(),
                header.transactions.to_string(),
                header.changes.to_string(),
                if header.complete { "all" } else { "not all" }.to_owned(),
                state(report).to_owned(),
                header.extracted_at.clone(),
            ]
        })
        .collect();
    print(&render(&columns, &rows));
    Ok(Exit::Done)
}

fn show(report: &Report, as_json: bool) -> anyhow::Result<Exit> {
    let header = &report.header;
    if as_json {
        let transactions: Vec<LostTransaction> = report.transactions()?.collect::<Result<_, _>>()?;
        print_json(&json!({ "report": header, "state": report.state, "transactions": transactions }))?;
        return Ok(Exit::Done);
    }
    let mut text = format!(
        "{}: {} transactions that {} committed as primary of epoch {} and {} never received ({})\n",
        header.id,
        header.transactions,
        header.region,
        header.lost_epoch,
        header.new_primary,
        state(report)
    );
    for note in &header.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    print(&text);
    for transaction in report.transactions()? {
        print(&describe(&transaction?));
    }
    Ok(Exit::Done)
}

fn describe(transaction: &LostTransaction) -> String {
    let LostTransaction { xid, part, commit_time, database, changes, decoded, note, .. } = transaction;
    let mut text = String::new();
    if *part == 0 {
        let database = database.as_deref().unwrap_or("an unknown database");
        text.push_str(&format!("\ntransaction {xid}, committed {commit_time}, in {database}\n"));
    }
    for change in changes {
        text.push_str(&format!("  {}\n", describe_change(change)));
    }
    if let Some(note) = note {
        text.push_str(&format!("  {note}\n"));
    } else if !decoded {
        text.push_str("  what it wrote is not known\n");
    }
    text
}

fn describe_change(change: &Change) -> String {
    let Change { table, kind, key, old, new, .. } = change;
    let old = old.as_ref().map(row).unwrap_or_default();
    let new = new.as_ref().map(row).unwrap_or_default();
    let key = key.as_ref().map(row).unwrap_or_default();
    match kind {
        ChangeKind::Insert => format!("insert into {table} {new}"),
        ChangeKind::Update if old.is_empty() => format!("update {table} {key} to {new}"),
        ChangeKind::Update => format!("update {table} {old} to {new}"),
        ChangeKind::Delete if old.is_empty() => format!("delete from {table} {key}"),
        ChangeKind::Delete => format!("delete from {table} {old}"),
        ChangeKind::Truncate => format!("truncate {table}"),
    }
}

fn row(row: &Row) -> String {
    let value = |cell: &Cell| cell.value.clone().unwrap_or_else(|| "null".to_owned());
    let columns: Vec<String> = row.iter().map(|(name, cell)| format!("{name}={}", value(cell))).collect();
    format!("({})", columns.join(", "))
}

fn write_out(report: &Report, export: &RecoverExport) -> anyhow::Result<Exit> {
    let mut file = std::fs::File::create(&export.file)
        .with_context(|| format!("cannot write {}", export.file.display()))?;
    let mut source = std::fs::File::open(report.path()).context("cannot read the report")?;
    std::io::copy(&mut source, &mut file)
        .with_context(|| format!("cannot write {}", export.file.display()))?;
    file.flush()?;
    say(&format!("{}: one JSON object a line, the first is about the report", export.file.display()));
    Ok(Exit::Done)
}

/// Connection string of the primary's server, by its own socket.
async fn primary(layout: &Layout, manifest: &Manifest) -> anyhow::Result<String> {
    for entry in &manifest.regions {
        if let Ok(status) = region_status(layout, &entry.name).await
            && status.role == Role::Primary
        {
            let dir = layout.region(&entry.name).join("run");
            return Ok(format!("host='{}' port=5432 user=postgres", dir.display()));
        }
    }
    bail!("no region is primary at present: see `pangea status`")
}

async fn apply_again(
    layout: &Layout,
    manifest: &Manifest,
    mut report: Report,
    options: &RecoverApply,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let target = primary(layout, manifest).await?;
    let chosen = (!options.transactions.is_empty())
        .then(|| options.transactions.iter().copied().collect::<BTreeSet<u32>>());
    let how = ApplyOptions { dry_run: options.dry_run, transactions: chosen };
    let applied = apply(&mut report, &target, &how).await?;
    let Applied { applied: done, inserted_without_key, skipped_already, already_so, conflicts } = applied;
    if as_json {
        print_json(&json!({
            "dry_run": options.dry_run,
            "applied": done,
            "inserted_without_key": inserted_without_key,
            "skipped_already": skipped_already,
            "already_so": already_so,
            "conflicts": conflicts,
        }))?;
    } else {
        let would = if options.dry_run { "would be " } else { "" };
        let mut text = format!("{done} rows {would}done again");
        for (count, what) in [
            (skipped_already, "were done before"),
            (already_so, "are so already"),
            (inserted_without_key, "are in tables without a key, where a second copy cannot be told"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        print(&format!("{text}\n"));
        for conflict in &conflicts {
            print(&describe_conflict(conflict));
        }
    }
    Ok(if conflicts.is_empty() { Exit::Done } else { Exit::Conflicts })
}

fn describe_conflict(conflict: &Conflict) -> String {
    let Conflict { xid, table, key, lost, now, reason, .. } = conflict;
    let table = table.as_ref().map(ToString::to_string).unwrap_or_default();
    let key = key.as_ref().map(row).unwrap_or_default();
    let mut text = format!("conflict: transaction {xid} {table} {key}: {}\n", because(reason));
    if let Some(lost) = lost {
        text.push_str(&format!("  lost: {}\n", row(lost)));
    }
    if let Some(now) = now {
        text.push_str(&format!("  now:  {}\n", row(now)));
    }
    text
}

fn because(reason: &ConflictReason) -> String {
    match reason {
        ConflictReason::RowExists => "there is another row with that key now".to_owned(),
        ConflictReason::RowChanged => "the row has been changed since the failover".to_owned(),
        ConflictReason::RowUnknown => "what the row was before is not known".to_owned(),
        ConflictReason::RowGone => "the row is gone".to_owned(),
        ConflictReason::Ambiguous => "more than one row has that key".to_owned(),
        ConflictReason::NoKey => "the table has no key by which the row could be found".to_owned(),
        ConflictReason::Truncate => "an emptied table is not emptied again".to_owned(),
        ConflictReason::NoTable => "the table is gone".to_owned(),
        ConflictReason::NoColumn { column } => format!("the table has no column {column} any more"),
        ConflictReason::NotWhole => "a large value of the row is not known".to_owned(),
        ConflictReason::NoDatabase { message } => format!("its database cannot be used: {message}"),
        ConflictReason::NotRows { note } => note.clone(),
        ConflictReason::Refused { code, message } => format!("{code} {message}"),
    }
}
