//! Puts the report together: the account of the log, with the rows of each database where there are any.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::super::error::RecoveryError;
use super::super::report::{FORMAT, Header, Lines, LostTransaction, REPORT_FILE, now};
use super::super::rows::Spooled;
use super::super::waldump::Commit;
use super::{Extraction, Learned, SPOOL_DIR, sync_dir};

impl Extraction {
    /// Writes the report and removes what it was made of. The rows of each database are in the order of the commits
    /// already, so one line of each is held at a time.
    pub(super) fn write(
        &mut self,
        unfinished: &Path,
        next_xid: Option<u64>,
        learned: &Learned,
    ) -> Result<(), RecoveryError> {
        let body_path = unfinished.join("body");
        let body = File::create(&body_path).map_err(RecoveryError::file("create", &body_path))?;
        let mut body = BufWriter::new(body);
        let mut spools = Vec::new();
        for rows in &learned.rows {
            spools.push((Lines::open(&rows.spool)?, None::<Spooled>, rows));
        }
        let commits = std::mem::take(&mut self.tail.commits);
        for commit in &commits {
            let mut part = 0;
            for (lines, head, rows) in &mut spools {
                if !rows.decoded.contains(&commit.xid) {
                    continue;
                }
                if head.is_none() {
                    *head = lines.next_value()?;
                }
                while let Some(spooled) = head.take_if(|head| head.xid == commit.xid) {
                    let line = LostTransaction {
                        part,
                        changes: spooled.changes,
                        note: schema_note(commit).filter(|_| part == 0),
                        ..line(commit, Some(rows.database.clone()))
                    };
                    write_line(&mut body, &body_path, &line)?;
                    part += 1;
                    *head = lines.next_value()?;
                }
            }
            if part == 0 {
                let line = self.without_rows(commit, learned);
                write_line(&mut body, &body_path, &line)?;
            }
        }
        body.flush().map_err(RecoveryError::file("write", &body_path))?;
        drop(body);
        let header = Header {
            format: FORMAT,
            id: self.request.id.clone(),
            region: self.request.region.clone(),
            lost_epoch: self.request.lost_epoch,
            timeline: self.request.timeline,
            fork: self.request.fork,
            new_primary: self.request.new_primary.clone(),
            next_xid_at_fork: next_xid,
            extracted_at: now(),
            transactions: u64::try_from(commits.len()).unwrap_or(u64::MAX),
            changes: learned.rows.iter().map(|rows| rows.changes).sum(),
            complete: self.complete,
            notes: std::mem::take(&mut self.notes),
        };
        let path = unfinished.join(REPORT_FILE);
        let mut file = File::create(&path).map_err(RecoveryError::file("create", &path))?;
        write_line(&mut file, &path, &header)?;
        let mut body = File::open(&body_path).map_err(RecoveryError::file("open", &body_path))?;
        std::io::copy(&mut body, &mut file)
            .and_then(|_| file.sync_all())
            .map_err(RecoveryError::file("write", &path))?;
        fs::remove_file(&body_path).map_err(RecoveryError::file("remove", &body_path))?;
        // Also that of a database whose decoding failed.
        let spools = unfinished.join(SPOOL_DIR);
        if spools.exists() {
            fs::remove_dir_all(&spools).map_err(RecoveryError::file("remove", &spools))?;
        }
        sync_dir(unfinished)
    }

    /// A transaction of which no row was decoded: because it wrote none, or because they could not be.
    fn without_rows(&mut self, commit: &Commit, learned: &Learned) -> LostTransaction {
        let oid = commit.written.relations.iter().map(|file| file.database).find(|oid| *oid != 0);
        let sound = oid.and_then(|oid| learned.sound_from.get(&oid)).is_some_and(|from| *from <= commit.lsn);
        let decoded = sound || oid.is_none();
        let managers: Vec<&str> = commit.written.managers.iter().map(String::as_str).collect();
        let relations: Vec<String> = commit
            .written
            .relations
            .iter()
            .map(|file| {
                let number = || format!("{}/{}/{}", file.tablespace, file.database, file.number);
                learned.relations.get(file).cloned().unwrap_or_else(number)
            })
            .collect();
        let mut note = match (decoded, managers.is_empty()) {
            (true, true) => "nothing was written".to_owned(),
            (true, false) => "no rows of tables were written".to_owned(),
            (false, _) => {
                "its rows could not be decoded: there was no slot for its database at that time".to_owned()
            }
        };
        if !managers.is_empty() {
            note.push_str(&format!("; the log has {}", managers.join(", ")));
        }
        if !relations.is_empty() {
            note.push_str(&format!(" of {}", relations.join(", ")));
        }
        if !decoded && self.complete {
            self.incomplete("the rows of some transactions could not be decoded: see their notes".to_owned());
        }
        let database = oid.and_then(|oid| learned.names.get(&oid)).cloned();
        LostTransaction { decoded, note: Some(note), ..line(commit, database) }
    }
}

fn line(commit: &Commit, database: Option<String>) -> LostTransaction {
    LostTransaction {
        xid: commit.xid,
        part: 0,
        commit_time: commit.time.clone(),
        commit_lsn: commit.lsn,
        database,
        changes: Vec::new(),
        decoded: true,
        note: None,
    }
}

fn schema_note(commit: &Commit) -> Option<String> {
    commit
        .catalog
        .then(|| "it changed the catalogue too (DDL, TRUNCATE, ANALYZE), which rows do not show".to_owned())
}

fn write_line(
    file: &mut impl std::io::Write,
    path: &Path,
    line: &impl serde::Serialize,
) -> Result<(), RecoveryError> {
    let text = serde_json::to_vec(line).map_err(std::io::Error::from);
    let written = text.and_then(|mut text| {
        text.push(b'\n');
        file.write_all(&text)
    });
    written.map_err(RecoveryError::file("write", path))
}
