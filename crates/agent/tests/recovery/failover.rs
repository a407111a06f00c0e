use std::collections::BTreeMap;
use std::path::Path;

use pangea_agent::recovery::{
    Applied, ApplyOptions, Change, ClusterState, ConflictReason, Extract, Extracted, LostTransaction, Report,
    Rewind, Rewound, Row, apply, control_data, extract, fork_of, keep_slots, list_reports, rewind,
};
use pangea_base::{Epoch, Timeline};

use crate::support::{Node, Role, Sql, delegated, scratch, standby_of};

const SCHEMA: &str = r#"
CREATE TABLE acct (id int PRIMARY KEY, owner text NOT NULL, bal numeric(10,2), tags jsonb,
    twice int GENERATED ALWAYS AS (id * 2) STORED, ident int GENERATED ALWAYS AS IDENTITY);
INSERT INTO acct (id, owner, bal, tags) SELECT i, 'o' || i, i, '{}' FROM generate_series(1, 20) i;
CREATE TABLE nopk (x int, y text); ALTER TABLE nopk REPLICA IDENTITY FULL; INSERT INTO nopk VALUES (1, NULL), (2, 'b');
CREATE TABLE plain (v text); INSERT INTO plain VALUES ('a');
CREATE TABLE big (k text, n int, large text, PRIMARY KEY (n, k)); ALTER TABLE big ALTER large SET STORAGE EXTERNAL;
INSERT INTO big VALUES ('a b', 1, repeat('x', 5000)), ('c', 2, repeat('y', 5000));
CREATE TABLE emptied (id int PRIMARY KEY); INSERT INTO emptied VALUES (1);
CREATE TABLE child (id int PRIMARY KEY, acct int REFERENCES acct);
CREATE SEQUENCE seq;
CREATE SCHEMA "S ch.""x""";
CREATE TYPE "S ch.""x"""."My ]Type" AS ENUM ('it''s', '"q"', 'a b');
CREATE DOMAIN "S ch.""x""".dom AS text;
CREATE TABLE "S ch.""x"""."T: [1]" (
    "Id ""x""]:" bigint PRIMARY KEY, "new-tuple" text, "select" boolean, b bit(3), vb varbit, c char(5), q "char", n name,
    f4 real, f8 float8, i2 smallint, o oid, by bytea, ts timestamptz, t timestamp, d date, tm timetz, iv interval,
    j json, jb jsonb, u uuid, ip inet, mc macaddr, m money, p point, r int4range, mr int4multirange, tv tsvector,
    ia int[], ta text[], va varchar(9)[], e "S ch.""x"""."My ]Type", ea "S ch.""x"""."My ]Type"[], dm "S ch.""x""".dom,
    lsn pg_lsn, rc regclass, nn numeric);
"#;

const MANY_TYPES: &str = r#"INSERT INTO "S ch.""x"""."T: [1]" VALUES
  (1, 'it''s: new-tuple:', true, '101', '1', 'ab', 'z', 'na me', 0.1, 1e300, -1, 4000000000, '\x00ff', '2026-11-21 12:00:00.123456+02',
   'infinity', '0044-03-15 BC', '12:00:00+02', '1 mon -2 days 03:04:05.6', '{ "k" : 1 }', '{"k": "é\"'' ]"}',
   '6f1e4d9c-1111-4c4c-8888-000000000001', '10.0.0.1/8', '08:00:2b:01:02:03', 12.5, '(1,2)', '[1,5)', '{[1,2),[5,9)}', 'a:1 b''b:2',
   '{1,NULL,-3}', E'{"a b","c\\"d","e\\\\f",NULL,""}', '{x,"y z"}', 'it''s', '{"\"q\"","a b"}', '', '16/B374D848', 'pg_class', 'NaN'),
  (2, E'two\nlines\ttab \\ back', NULL, NULL, '', '', '', '', 'NaN', '-Infinity', NULL, NULL, '', '-infinity', NULL, NULL, NULL, '0', 'null',
   'null', NULL, '::1', NULL, -1, NULL, 'empty', '{}', '', '{}', '{{a,b},{c,d}}', '{}', '"q"', '{}', E'\n', '0/0', '-', '1e-20')"#;

/// What a change says, in a line.
fn told(change: &Change) -> String {
    let row = |row: &Option<Row>| {
        let Some(row) = row else { return "-".to_owned() };
        let cell = |(name, cell): (&String, &pangea_agent::recovery::Cell)| {
            let value = if cell.unchanged { "?" } else { cell.value.as_deref().unwrap_or("null") };
            let value = if value.len() > 100 { &value[..1] } else { value };
            format!("{name}={value}")
        };
        row.iter().map(cell).collect::<Vec<_>>().join(" ")
    };
    let old = if change.old_known { row(&change.old) } else { format!("unknown{}", row(&change.old)) };
    format!("{:?} {} [{}] {old} > {}", change.kind, change.table, row(&change.key), row(&change.new))
}

async fn freeze(standby: &Sql) {
    standby.run("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.run("SELECT pg_reload_conf()").await;
    standby.until("SELECT count(*) FROM pg_stat_wal_receiver", "0").await;
}

async fn promote(standby: &Sql) {
    standby.run("SELECT pg_promote(false)").await;
    standby.until("SELECT pg_is_in_recovery()", "f").await;
    standby.run("ALTER SYSTEM RESET primary_conninfo").await;
}

async fn caught_up(primary: &Sql, standby: &Sql) {
    let target = primary.value("SELECT pg_current_wal_insert_lsn()").await;
    standby.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{target}'"), "t").await;
}

async fn request(dir: &Path, a: &Node, b: &Node) -> Extract {
    let timeline = Timeline(1);
    Extract {
        bin: a.spec.bin.clone(),
        pgdata: a.spec.pgdata.clone(),
        private_dir: dir.join("x"),
        reports_dir: dir.join("reports"),
        id: "epoch-7-a".to_owned(),
        region: "a".parse().unwrap(),
        lost_epoch: Epoch(7),
        new_primary: "b".parse().unwrap(),
        timeline,
        fork: fork_of(&b.conninfo(), timeline).await.unwrap().lsn,
        next_xid_at_fork: None,
        source: b.conninfo(),
    }
}

fn report_of(extracted: Extracted) -> Report {
    match extracted {
        Extracted::Report(report) => *report,
        other => panic!("{other:?}"),
    }
}

/// The lost transactions: what each is expected to tell, by its id.
struct Lost {
    expected: Vec<(u32, Vec<String>)>,
    many_types: Vec<Vec<String>>,
    late: u32,
}

async fn lose(a: &Node) -> Lost {
    let sql = a.connect("postgres").await;
    let app = a.connect("app").await;
    let mut expected = Vec::new();
    let mut lost = async |sql: &Sql, statements: &str, tells: &[&str]| {
        let xid = sql.transaction(statements).await;
        expected.push((xid, tells.iter().map(|line| (*line).to_owned()).collect()));
    };
    let five = "bal=5.00 id=5 ident=5 owner=o5 tags={} twice=10";
    let five_later = "bal=75.00 id=5 ident=5 owner=o5 tags={} twice=10";
    lost(
        &sql,
        "INSERT INTO acct (id, owner, bal, tags) VALUES (101, 'it''s', 7, '{\"k\": 1}'), (102, 'both', 1, NULL); UPDATE acct SET bal = 75 WHERE id = 5",
        &[
            "Insert public.acct [id=101] - > bal=7.00 id=101 ident=21 owner=it's tags={\"k\": 1} twice=202",
            "Insert public.acct [id=102] - > bal=1.00 id=102 ident=22 owner=both tags=null twice=204",
            &format!("Update public.acct [id=5] {five} > {five_later}"),
        ],
    )
    .await;
    lost(
        &sql,
        "UPDATE acct SET id = 105 WHERE id = 5; DELETE FROM acct WHERE id = 9; UPDATE acct SET owner = 'a' WHERE id IN (2, 3)",
        &[
            &format!("Update public.acct [id=5] {five_later} > bal=75.00 id=105 ident=5 owner=o5 tags={{}} twice=210"),
            "Delete public.acct [id=9] bal=9.00 id=9 ident=9 owner=o9 tags={} twice=18 > -",
            // Those two were written after the failover, too.
            "Update public.acct [id=2] unknown- > bal=2.00 id=2 ident=2 owner=a tags={} twice=4",
            "Update public.acct [id=3] unknown- > bal=3.00 id=3 ident=3 owner=a tags={} twice=6",
        ],
    )
    .await;
    // What was rolled back is not lost.
    sql.run("BEGIN; INSERT INTO acct (id, owner) VALUES (500, 'never'); ROLLBACK").await;
    lost(
        &sql,
        "SAVEPOINT s; INSERT INTO acct (id, owner) VALUES (501, 'never'); ROLLBACK TO s; SAVEPOINT t; \
         INSERT INTO child VALUES (1, 101); RELEASE t; UPDATE nopk SET y = 'zz' WHERE x = 1; DELETE FROM nopk WHERE x = 2",
        &[
            "Insert public.child [id=1] - > acct=101 id=1",
            "Update public.nopk [-] x=1 y=null > x=1 y=zz",
            "Delete public.nopk [-] x=2 y=b > -",
        ],
    )
    .await;
    lost(
        &sql,
        "INSERT INTO plain VALUES ('b'); UPDATE plain SET v = 'c' WHERE v = 'a'; DELETE FROM plain WHERE v = 'c'",
        &["Insert public.plain [-] - > v=b", "Update public.plain [-] unknown- > v=c", "Delete public.plain [-] unknown- > -"],
    )
    .await;
    lost(
        &sql,
        "UPDATE big SET k = 'c d' WHERE n = 2; UPDATE big SET n = 7 WHERE k = 'a b'",
        &[
            "Update public.big [k=c n=2] k=c large=y n=2 > k=c d large=y n=2",
            "Update public.big [k=a b n=1] k=a b large=x n=1 > k=a b large=x n=7",
        ],
    )
    .await;
    lost(&app, "INSERT INTO app VALUES (1, 'app')", &["Insert public.app [id=1] - > id=1 v=app"]).await;
    lost(
        &sql,
        "CREATE TABLE lost_ddl (i int PRIMARY KEY); INSERT INTO lost_ddl VALUES (1); TRUNCATE emptied",
        &["Insert public.lost_ddl [i=1] - > i=1", "Truncate public.emptied [-] unknown- > -"],
    )
    .await;
    lost(&sql, "CREATE TABLE only_ddl ()", &[]).await;
    lost(&sql, "SELECT nextval('seq')", &[]).await;
    // It commits later than the next one.
    let two_phase = sql.value("BEGIN; SELECT pg_current_xact_id(); INSERT INTO acct (id, owner) VALUES (110, '2pc'); PREPARE TRANSACTION 'g''1'").await;
    lost(&sql, "INSERT INTO emptied VALUES (7)", &["Insert public.emptied [id=7] - > id=7"]).await;
    sql.run("COMMIT PREPARED 'g''1'").await;
    let row = "Insert public.acct [id=110] - > bal=null id=110 ident=25 owner=2pc tags=null twice=220";
    expected.push((two_phase.parse().unwrap(), vec![row.to_owned()]));
    sql.run("BEGIN; INSERT INTO acct (id, owner) VALUES (111, 'never'); PREPARE TRANSACTION 'g2'").await;
    // Enough for several lines of the report.
    let many = "INSERT INTO emptied SELECT generate_series(1000, 2199)";
    let tells = (1000..2200).map(|id| format!("Insert public.emptied [id={id}] - > id={id}")).collect();
    expected.push((sql.transaction(many).await, tells));
    let types = sql.transaction(MANY_TYPES).await;
    expected.push((types, Vec::new()));
    sql.run("SET timezone = 'UTC'").await;
    let many_types = sql.rows("SELECT * FROM \"S ch.\"\"x\"\"\".\"T: [1]\" ORDER BY 1").await;
    let late = a.connect("late").await.transaction("INSERT INTO late VALUES (1)").await;
    expected.push((late, Vec::new()));
    Lost { expected, many_types, late }
}

/// Writes on the new primary that are in the way of what was lost.
async fn conflict(b: &Sql) {
    b.run("UPDATE acct SET owner = 'b' WHERE id = 2").await;
    b.run("DELETE FROM acct WHERE id = 3").await;
    b.run("INSERT INTO acct (id, owner) VALUES (102, 'other')").await;
    b.run("ALTER TABLE big ADD added int DEFAULT 3").await;
}

fn check_report(report: &Report, lost: &Lost) {
    let transactions: Vec<LostTransaction> =
        report.transactions().unwrap().collect::<Result<_, _>>().unwrap();
    let mut found: Vec<(u32, Vec<String>)> = Vec::new();
    let mut parts = BTreeMap::new();
    for transaction in &transactions {
        let part = parts.entry(transaction.xid).or_insert(0);
        assert_eq!(transaction.part, *part);
        *part += 1;
        let many_types = transaction.changes.iter().any(|change| change.table.name == "T: [1]");
        let lines = transaction.changes.iter().filter(|_| !many_types).map(told);
        match found.last_mut() {
            Some((xid, told)) if *xid == transaction.xid => told.extend(lines),
            _ => found.push((transaction.xid, lines.collect())),
        }
    }
    for (found, expected) in found.iter().zip(&lost.expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), lost.expected.len(), "{:?}", found.last());
    assert!(parts.values().any(|parts| *parts == 3), "{parts:?}");
    assert!(transactions.is_sorted_by_key(|transaction| transaction.commit_lsn));
    assert_eq!(report.header.transactions, u64::try_from(lost.expected.len()).unwrap());
    let changes: usize = transactions.iter().map(|transaction| transaction.changes.len()).sum();
    assert_eq!(report.header.changes, u64::try_from(changes).unwrap());

    // Every value of every type as the server shows it.
    let many_types = transactions.iter().flat_map(|transaction| &transaction.changes);
    let many_types: Vec<&Row> = many_types
        .filter(|change| change.table.name == "T: [1]")
        .filter_map(|change| change.new.as_ref())
        .collect();
    assert_eq!(many_types.len(), 2);
    for (row, expected) in many_types.iter().zip(&lost.many_types) {
        let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        let mut values: Vec<&str> = row.values().map(|cell| cell.value.as_deref().unwrap_or("-")).collect();
        expected.iter_mut().filter(|value| **value == "t").for_each(|value| *value = "true");
        expected.sort_unstable();
        values.sort_unstable();
        assert_eq!(values, expected);
    }

    // What could not be decoded is there, and said.
    let late = transactions.iter().find(|transaction| transaction.xid == lost.late).unwrap();
    assert_eq!((late.decoded, late.database.as_deref()), (false, Some("late")));
    assert!(
        late.note.as_ref().unwrap().contains("public.late")
            || late.note.as_ref().unwrap().contains("Heap of late"),
        "{late:?}"
    );
    assert_eq!(transactions.iter().filter(|transaction| !transaction.decoded).count(), 1);
    assert!(!report.header.complete);
    let notes = report.header.notes.join("\n");
    assert!(notes.contains("prepared as \"g2\"") && notes.contains("could not be decoded"), "{notes}");
    let only_ddl = &transactions.iter().find(|transaction| transaction.changes.is_empty()).unwrap();
    assert_eq!((only_ddl.decoded, only_ddl.database.as_deref()), (true, Some("postgres")));
    assert!(only_ddl.note.as_ref().unwrap().contains("Heap"), "{only_ddl:?}");
}

fn conflicts(applied: &Applied) -> Vec<String> {
    let one = |conflict: &pangea_agent::recovery::Conflict| {
        let table = conflict.table.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = conflict
            .key
            .iter()
            .flat_map(|key| key.values())
            .filter_map(|cell| cell.value.clone())
            .collect::<Vec<_>>()
            .join(",");
        let reason = match &conflict.reason {
            ConflictReason::NotRows { .. } => "NotRows".to_owned(),
            other => format!("{other:?}"),
        };
        format!("{table} {key} {:?} {reason}", conflict.kind)
    };
    let mut all: Vec<String> =
        applied.conflicts.iter().map(one).filter(|line| !line.ends_with("NotRows")).collect();
    all.sort();
    all
}

const CONFLICTS: [&str; 9] = [
    "public.acct 102 Some(Insert) RowExists",
    "public.acct 2 Some(Update) RowChanged",
    "public.acct 3 Some(Update) RowGone",
    "public.emptied  Some(Truncate) Truncate",
    "public.lost_ddl 1 Some(Insert) NoTable",
    "public.nopk  Some(Delete) NoKey",
    "public.nopk  Some(Update) NoKey",
    "public.plain  Some(Delete) NoKey",
    "public.plain  Some(Update) NoKey",
];

async fn check_apply(report: &mut Report, b: &Node) {
    let sql = b.connect("postgres").await;
    let before = sql.rows("SELECT * FROM acct ORDER BY id").await;
    let dry = ApplyOptions { dry_run: true, transactions: None };
    let planned = apply(report, &b.conninfo(), &dry).await.unwrap();
    assert_eq!(conflicts(&planned), CONFLICTS);
    assert_eq!(sql.rows("SELECT * FROM acct ORDER BY id").await, before);
    assert_eq!(report.state.applied_at, None);

    // Some of it, then all of it.
    let first = report.transactions().unwrap().next().unwrap().unwrap().xid;
    let some = ApplyOptions { dry_run: false, transactions: Some([first].into()) };
    let applied = apply(report, &b.conninfo(), &some).await.unwrap();
    assert_eq!((applied.applied, conflicts(&applied)), (2, vec![CONFLICTS[0].to_owned()]));
    let all = ApplyOptions::default();
    let rest = apply(report, &b.conninfo(), &all).await.unwrap();
    assert_eq!(conflicts(&rest), CONFLICTS);
    assert_eq!((rest.skipped_already, rest.applied + 2), (2, planned.applied));
    assert_eq!(rest.inserted_without_key, 1);
    assert!(report.state.applied_at.is_some());

    let accounts = sql
        .rows("SELECT id, owner, bal, twice, ident FROM acct WHERE id IN (2, 3, 5, 9) OR id > 20 ORDER BY id")
        .await;
    let accounts: Vec<String> = accounts.iter().map(|row| row.join(" ")).collect();
    assert_eq!(accounts[..2], ["2 b 2.00 4 2", "101 it's 7.00 202 21"]);
    assert!(accounts[2].starts_with("102 other - 204"), "{accounts:?}");
    assert_eq!(accounts[3..], ["105 o5 75.00 210 5", "110 2pc - 220 25"]);
    assert_eq!(
        sql.rows("SELECT k, n, length(large), added FROM big ORDER BY n").await,
        [["c d", "2", "5000", "3"], ["a b", "7", "5000", "3"]]
    );
    assert_eq!(sql.value("SELECT count(*) FROM emptied").await, "1202");
    assert_eq!(b.connect("app").await.value("SELECT v FROM app").await, "app");

    let again = apply(report, &b.conninfo(), &all).await.unwrap();
    assert_eq!((again.applied, again.skipped_already), (0, planned.applied));
    assert_eq!(conflicts(&again), CONFLICTS);
    assert_eq!(sql.value("SELECT count(*) FROM plain WHERE v = 'b'").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_transactions_are_told_and_applied_and_the_old_primary_comes_back() {
    if delegated("failover::lost_transactions_are_told_and_applied_and_the_old_primary_comes_back") {
        return;
    }
    let dir = scratch();
    let mut a = Node::new(dir.path(), "a", Role::Primary);
    a.start().await;
    let mut b = Node::new(dir.path(), "b", standby_of(&a));
    b.start().await;
    let (on_a, on_b) = (a.connect("postgres").await, b.connect("postgres").await);
    on_a.run("CREATE DATABASE app").await;
    a.connect("app").await.run("CREATE TABLE app (id int PRIMARY KEY, v text)").await;
    on_a.client.batch_execute(SCHEMA).await.unwrap();
    let slots = tokio::spawn(keep_slots(a.spec.socket_dir.clone(), |_| false));
    on_a.until("SELECT count(*) FROM pg_replication_slots", "2").await;
    slots.abort();
    on_a.run("CREATE DATABASE late").await;
    a.connect("late").await.run("CREATE TABLE late (id int PRIMARY KEY)").await;
    caught_up(&on_a, &on_b).await;
    freeze(&on_b).await;
    let lost = lose(&a).await;
    a.kill().await;
    promote(&on_b).await;
    conflict(&on_b).await;

    let request = request(dir.path(), &a, &b).await;
    let mut report = report_of(extract(request.clone()).await.unwrap());
    check_report(&report, &lost);
    let known = std::fs::read(report.path()).unwrap();
    assert_eq!(report_of(extract(request).await.unwrap()).header, report.header);
    assert_eq!(std::fs::read(report.path()).unwrap(), known);
    assert_eq!(list_reports(&dir.path().join("reports")).unwrap().len(), 1);
    let control = control_data(&a.spec.bin, &a.spec.pgdata).await.unwrap();
    assert_eq!((control.state, control.timeline), (ClusterState::ShutDown, Timeline(1)));

    let how = Rewind { bin: a.spec.bin.clone(), pgdata: a.spec.pgdata.clone(), source: b.conninfo() };
    assert_eq!(rewind(how).await.unwrap(), Rewound::Rewound);
    std::fs::write(a.spec.pgdata.join("standby.signal"), "").unwrap();
    a.role = standby_of(&b);
    a.start().await;
    check_apply(&mut report, &b).await;
    let on_a = a.connect("postgres").await;
    caught_up(&on_b, &on_a).await;
    assert_eq!(on_a.value("SELECT received_tli FROM pg_stat_wal_receiver").await, "2");
    for table in ["acct", "nopk", "plain", "big", "emptied", "child"] {
        let rows = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let rows = if table == "emptied" || table == "plain" { rows.replace(", 2", "") } else { rows };
        assert_eq!(on_a.rows(&rows).await, on_b.rows(&rows).await, "{table}");
    }
    report.discard().unwrap();
    assert!(apply(&mut report, &b.conninfo(), &ApplyOptions::default()).await.is_err());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_nothing_of_its_own_loses_nothing() {
    if delegated("failover::a_server_with_nothing_of_its_own_loses_nothing") {
        return;
    }
    let dir = scratch();
    let mut a = Node::new(dir.path(), "a", Role::Primary);
    a.start().await;
    let mut b = Node::new(dir.path(), "b", standby_of(&a));
    b.start().await;
    let (on_a, on_b) = (a.connect("postgres").await, b.connect("postgres").await);
    on_a.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    caught_up(&on_a, &on_b).await;
    drop(on_a);
    a.stop().await;
    let end = control_data(&a.spec.bin, &a.spec.pgdata).await.unwrap();
    assert_eq!(end.state, ClusterState::ShutDown);
    on_b.until(&format!("SELECT pg_last_wal_receive_lsn() > '{}'", end.checkpoint), "t").await;
    promote(&on_b).await;
    assert!(fork_of(&b.conninfo(), Timeline(9)).await.is_err());
    let followed = request(dir.path(), &a, &b).await;
    assert!(matches!(extract(followed.clone()).await.unwrap(), Extracted::NotDiverged));

    // It starts as a primary once more: no transaction, but a log of its own.
    a.start().await;
    a.connect("postgres").await.run("CHECKPOINT").await;
    a.kill().await;
    assert!(matches!(extract(followed.clone()).await.unwrap(), Extracted::NothingLost));
    assert!(!dir.path().join("reports").exists());

    // One transaction, and no slot: told all the same.
    a.start().await;
    let xid = a.connect("postgres").await.transaction("INSERT INTO t VALUES (1)").await;
    a.kill().await;
    let report = report_of(extract(followed).await.unwrap());
    let all: Vec<LostTransaction> = report.transactions().unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!((all.len(), all[0].xid, all[0].decoded), (1, xid, false));
    assert!(all[0].note.as_ref().unwrap().contains("public.t,"), "{all:?}");
    assert!(!report.header.complete && all[0].changes.is_empty());

    let how = Rewind { bin: a.spec.bin.clone(), pgdata: a.spec.pgdata.clone(), source: b.conninfo() };
    assert_eq!(rewind(how.clone()).await.unwrap(), Rewound::Rewound);
    let broken = Rewind { source: "host=/nonexistent user=postgres".to_owned(), ..how };
    assert!(rewind(broken).await.unwrap_err().to_string().contains("checkpoint on the new primary"));
    b.stop().await;
}
