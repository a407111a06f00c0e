//! The truth about a standby: a real primary and its hot standby, the catalogue loaded with the
//! queries of the crate, and every statement that is said to be local run on the standby.
//!
//! `PANGEA_REWRITE=1` also writes the rows to `data/catalog.tsv`, from which `table.rs` works
//! without a server.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

mod support;

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pangea_sql::{CatalogTable, FINGERPRINT_SQL, SESSION_SQL};
use support::{Row, cases};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A primary and its standby. Dropping it stops both and removes their files, also on panic.
struct Pair {
    dir: PathBuf,
}

impl Pair {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("pangea-sql-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("create the directory of the pair");
        let pair = Self { dir };
        if let Some((uid, gid)) = postgres_user() {
            chown(&pair.dir, Some(uid), Some(gid)).expect("give the directory to postgres");
        }
        std::fs::set_permissions(&pair.dir, std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let (primary, standby) = (pair.path("primary"), pair.path("standby"));
        run("initdb", &["-D", &primary, "-A", "trust", "-U", "postgres", "--no-sync"]);
        pair.launch("primary", 5501, "-c max_prepared_transactions=2");
        let host = pair.dir.to_string_lossy().into_owned();
        let from = ["-h", &host, "-p", "5501", "-U", "postgres"];
        run("pg_basebackup", &[&from[..], &["-D", &standby, "-R", "-c", "fast", "--no-sync"]].concat());
        pair.launch("standby", 5502, "-c max_prepared_transactions=2");
        pair
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    fn launch(&self, name: &str, port: u16, more: &str) {
        let options = format!(
            "-p {port} -c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off {more}",
            self.dir.display()
        );
        let (data, log) = (self.path(name), self.path(&format!("{name}.log")));
        run("pg_ctl", &["-D", &data, "-l", &log, "-o", &options, "-t", "60", "-w", "start"]);
    }

    async fn connect(&self, port: u16) -> Client {
        let mut config = Config::new();
        config.host_path(&self.dir).port(port).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.expect("connect");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in ["standby", "primary"] {
            let data = self.path(name);
            let stop = as_postgres("pg_ctl").args(["-D", &data, "-m", "immediate", "-w", "stop"]).output();
            if let Err(error) = stop {
                eprintln!("stop {name}: {error}");
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("remove {}: {error}", self.dir.display());
        }
    }
}

/// Servers refuse to run as root: then they run as the user `postgres`.
fn postgres_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| {
        let output = Command::new("id").arg(flag).args(user).output().expect("run id");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().expect("a number from id")
    };
    (id("-u", &[]) == 0).then(|| (id("-u", &["postgres"]), id("-g", &["postgres"])))
}

fn as_postgres(program: &str) -> Command {
    let bin = std::env::var_os("PANGEA_PG_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    let mut command = Command::new(Path::new(&bin).join(program));
    command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Output goes to nowhere: a server that inherits a pipe would hold it open for ever.
fn run(program: &str, arguments: &[&str]) {
    let status = as_postgres(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("run {program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
        }
    }
    rows
}

async fn one(client: &Client, sql: &str) -> String {
    rows(client, sql).await.remove(0).remove(0).expect("not null")
}

async fn catalog_rows(client: &Client) -> Vec<Row> {
    client.batch_execute(SESSION_SQL).await.expect("set the session up");
    let mut all = Vec::new();
    for table in CatalogTable::ALL {
        all.extend(rows(client, table.sql()).await.into_iter().map(|row| (table, row)));
    }
    all
}

/// Waits until the standby has replayed all that the primary has written.
async fn caught_up(primary: &Client, standby: &Client) {
    let target = one(primary, "SELECT pg_current_wal_insert_lsn()").await;
    let sql = format!("SELECT (pg_last_wal_replay_lsn() >= '{target}')::text");
    for _ in 0..500 {
        if one(standby, &sql).await == "true" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the standby did not reach {target}");
}

/// Runs one statement; the SQLSTATE of its error, if any.
async fn state_of(client: &Client, sql: &str) -> Option<String> {
    let outcome = if sql.starts_with("COPY") {
        client.copy_out(sql).await.map(drop)
    } else if sql.contains("$1") && !sql.starts_with("PREPARE") {
        client.prepare(sql).await.map(drop)
    } else {
        client.simple_query(sql).await.map(drop)
    };
    let error = outcome.err()?;
    Some(error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned()))
}

/// What a statement of the table may fail with on any server, for it runs out of its context:
/// no transaction, no such cursor, no such prepared statement.
const OUT_OF_CONTEXT: &[&str] = &["25P01", "34000", "26000"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_to_be_local_runs_on_a_standby() {
    let pair = Pair::start();
    let primary = pair.connect(5501).await;
    primary.batch_execute(include_str!("data/schema.sql")).await.expect("make the schema");
    let standby = pair.connect(5502).await;
    caught_up(&primary, &standby).await;

    let rows = catalog_rows(&standby).await;
    assert_eq!(rows, catalog_rows(&primary).await, "primary and standby say the same");
    support::check_all(&support::catalog(&rows));
    if std::env::var_os("PANGEA_REWRITE").is_some() {
        support::write_rows(&rows);
    }

    let mut wrong = Vec::new();
    for sql in cases::LOCAL {
        let client = pair.connect(5502).await;
        if let Some(state) = state_of(&client, sql).await
            && !OUT_OF_CONTEXT.contains(&state.as_str())
        {
            wrong.push(format!("{state}: {sql}"));
        }
    }
    assert!(wrong.is_empty(), "{} failed on the standby:\n{}", wrong.len(), wrong.join("\n"));
    check_fingerprint(&primary, &standby).await;
}

/// Every change that a catalogue would show moves the fingerprint, on both servers alike; what
/// it does not show leaves it.
async fn check_fingerprint(primary: &Client, standby: &Client) {
    let changes = [
        "CREATE TABLE public.f1 (a int)",
        "ALTER TABLE public.f1 RENAME TO f2",
        "ALTER TABLE public.f2 SET UNLOGGED",
        "CREATE VIEW public.f3 AS SELECT 1 AS a",
        "CREATE OR REPLACE VIEW public.f3 AS SELECT public.writer() AS a",
        "ALTER FUNCTION public.reader() VOLATILE",
        "DROP FUNCTION app.writer2()",
        "ALTER SCHEMA app RENAME TO app2",
        "CREATE POLICY f4 ON public.t USING (public.writer() = 1)",
        "ALTER POLICY f4 ON public.t USING (true)",
        "DROP OPERATOR public.### (int, int)",
        "CREATE DOMAIN public.f5 AS int",
        "ALTER DOMAIN public.f5 ADD CHECK (public.checker(VALUE))",
        "DROP CAST (int AS public.pair)",
    ];
    let mut before = one(primary, FINGERPRINT_SQL).await;
    for change in changes {
        primary.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let after = one(primary, FINGERPRINT_SQL).await;
        assert_ne!(before, after, "{change}");
        before = after;
    }
    let quiet = [
        "INSERT INTO public.t VALUES (77)",
        "TRUNCATE public.dup",
        "CREATE TEMP TABLE f6 (a int)",
        "CREATE TEMP VIEW f7 AS SELECT 1",
        "VACUUM ANALYZE public.t",
        "VACUUM FULL pg_class",
        "VACUUM FREEZE pg_proc",
    ];
    for change in quiet {
        primary.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        assert_eq!(before, one(primary, FINGERPRINT_SQL).await, "{change}");
    }
    caught_up(primary, standby).await;
    assert_eq!(before, one(standby, FINGERPRINT_SQL).await);
}
