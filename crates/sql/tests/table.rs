//! The tables of statements against the catalogue kept in `data/catalog.tsv`, without a server;
//! the effects of statements; and text that tries to hurt the parser.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed expectation is a failed test"
)]

mod support;

use pangea_sql::{Batch, Catalog, DiscardTarget, Effect, Isolation, Statement, TEXT_LEN_MAX, classify};
use support::cases;

fn catalog() -> Catalog {
    support::catalog(&support::read_rows())
}

#[test]
fn every_statement_goes_where_it_must() {
    support::check_all(&catalog());
}

#[test]
fn an_empty_catalogue_knows_nothing_and_trusts_nothing() {
    let empty = Catalog::default();
    for sql in cases::PRIMARY.iter().chain(cases::PINNED) {
        assert!(classify(sql, &empty).needs_primary(), "{sql}");
    }
    let batch = classify("SELECT now()", &empty);
    assert!(batch.needs_primary() && batch.unknown_names);
    assert!(!classify("SELECT 1", &empty).needs_primary());
}

fn statements(sql: &str) -> Vec<Statement> {
    classify(sql, &catalog()).statements
}

fn effect(sql: &str) -> Effect {
    let mut all = statements(sql);
    assert_eq!(all.len(), 1, "{sql}");
    all.remove(0).effect
}

fn set(name: &str, local: bool, value: Option<&str>) -> Effect {
    Effect::Set { name: name.to_owned(), local, value: value.map(str::to_owned) }
}

fn begin(read_only: Option<bool>, isolation: Option<Isolation>, deferrable: Option<bool>) -> Effect {
    Effect::Begin { start_transaction: false, read_only, isolation, deferrable }
}

#[test]
fn effects_on_the_transaction() {
    let name = || "s".to_owned();
    let table = [
        ("BEGIN", begin(None, None, None)),
        ("BEGIN READ WRITE", begin(Some(false), None, None)),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
            begin(Some(true), Some(Isolation::Serializable), Some(true)),
        ),
        ("BEGIN ISOLATION LEVEL READ UNCOMMITTED", begin(None, Some(Isolation::ReadCommitted), None)),
        (
            "START TRANSACTION NOT DEFERRABLE",
            Effect::Begin {
                start_transaction: true,
                read_only: None,
                isolation: None,
                deferrable: Some(false),
            },
        ),
        ("END", Effect::Commit { chain: false }),
        ("COMMIT AND CHAIN", Effect::Commit { chain: true }),
        ("ABORT", Effect::Rollback { chain: false }),
        ("ROLLBACK AND CHAIN", Effect::Rollback { chain: true }),
        ("SAVEPOINT S", Effect::Savepoint { name: name() }),
        ("RELEASE s", Effect::Release { name: name() }),
        ("ROLLBACK TO SAVEPOINT s", Effect::RollbackTo { name: name() }),
        ("PREPARE TRANSACTION 'x'", Effect::PrepareTransaction),
        ("COMMIT PREPARED 'x'", Effect::None),
        (
            "SET TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
            Effect::SetTransaction { read_only: Some(true), isolation: Some(Isolation::RepeatableRead) },
        ),
        (
            "SET LOCAL transaction_isolation = 'SERIALIZABLE'",
            Effect::SetTransaction { read_only: None, isolation: Some(Isolation::Serializable) },
        ),
        (
            "SELECT set_config('transaction_read_only', 'off', true)",
            Effect::SetTransaction { read_only: Some(false), isolation: None },
        ),
    ];
    for (sql, expected) in table {
        assert_eq!(effect(sql), expected, "{sql}");
    }
}

#[test]
fn effects_on_settings() {
    let table = [
        ("SET Search_Path = a", set("search_path", false, Some("a"))),
        ("SET LOCAL work_mem = 1", set("work_mem", true, Some("1"))),
        ("RESET work_mem", set("work_mem", false, None)),
        ("SET TIME ZONE LOCAL", set("timezone", false, None)),
        ("SET NAMES 'utf8'", set("client_encoding", false, Some("utf8"))),
        ("SET ROLE r", set("role", false, Some("r"))),
        ("RESET SESSION AUTHORIZATION", set("session_authorization", false, None)),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", set("session characteristics", false, None)),
        ("SELECT set_config('App.User', $1, true)", set("app.user", true, None)),
        ("SELECT set_config($1, 'x', 'off'::bool)", set("", false, Some("x"))),
        ("SELECT set_config('a.b', '1', false), set_config('a.c', '1', false)", set(",", false, Some("1"))),
        ("SHOW work_mem", Effect::Show { name: "work_mem".to_owned() }),
        ("SELECT set_config('a.b', '1', false), set_config('a.c', '1', true)", Effect::None),
        ("RESET ALL", Effect::ResetAll),
        ("DISCARD ALL", Effect::Discard(DiscardTarget::All)),
        ("DISCARD SEQUENCES", Effect::Discard(DiscardTarget::Sequences)),
        ("DISCARD TEMP", Effect::Discard(DiscardTarget::Temp)),
        ("DISCARD PLANS", Effect::Discard(DiscardTarget::Plans)),
        ("LOAD 'x'", Effect::Load),
    ];
    for (sql, expected) in table {
        assert_eq!(effect(sql), expected, "{sql}");
    }
}

#[test]
fn effects_on_named_things() {
    let c = || "c".to_owned();
    let table = [
        ("EXECUTE c", Effect::Execute { name: c() }),
        ("EXECUTE c (1)", Effect::Execute { name: c() }),
        ("CREATE TABLE x AS EXECUTE c", Effect::Execute { name: c() }),
        ("EXPLAIN ANALYZE EXECUTE c", Effect::Execute { name: c() }),
        ("DEALLOCATE PREPARE c", Effect::Deallocate { name: Some(c()) }),
        ("DEALLOCATE ALL", Effect::Deallocate { name: None }),
        ("DECLARE c CURSOR FOR SELECT 1", Effect::DeclareCursor { name: c(), hold: false }),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Effect::DeclareCursor { name: c(), hold: true }),
        ("FETCH c", Effect::Fetch { name: c() }),
        ("MOVE FORWARD 5 FROM c", Effect::Fetch { name: c() }),
        ("CLOSE c", Effect::CloseCursor { name: Some(c()) }),
        ("CLOSE ALL", Effect::CloseCursor { name: None }),
        ("COPY t FROM STDIN", Effect::CopyFromStdin),
        ("COPY t TO STDOUT", Effect::CopyToStdout),
        ("COPY t TO '/x'", Effect::None),
        ("LISTEN c", Effect::Listen { channel: c() }),
        ("UNLISTEN c", Effect::Unlisten { channel: Some(c()) }),
        ("UNLISTEN *", Effect::Unlisten { channel: None }),
        ("CREATE TABLE x (a int)", Effect::Ddl),
        ("SELECT 1 INTO x", Effect::Ddl),
        ("SELECT 1 INTO x UNION SELECT 2", Effect::Ddl),
        ("TRUNCATE t", Effect::None),
        ("DO 'x'", Effect::None),
        ("CALL proc()", Effect::None),
        ("INSERT INTO t VALUES (1)", Effect::None),
    ];
    for (sql, expected) in table {
        assert_eq!(effect(sql), expected, "{sql}");
    }
}

#[test]
fn prepare_tells_what_execute_will_do() {
    let inner_of = |sql: &str| match statements(sql).remove(0) {
        Statement { needs_primary: false, pins: false, effect: Effect::Prepare { inner, .. }, .. } => *inner,
        other => panic!("{sql}: {other:?}"),
    };
    assert!(inner_of("PREPARE w AS INSERT INTO t VALUES ($1)").needs_primary);
    assert!(inner_of("PREPARE w AS SELECT pg_advisory_lock($1)").pins);
    assert!(inner_of("PREPARE w (d_bad) AS SELECT $1").needs_primary);
    assert!(!inner_of("PREPARE w (int) AS SELECT * FROM t WHERE id = $1").needs_primary);
}

#[test]
fn each_statement_of_a_batch_is_told_apart() {
    let batch = classify("SELECT 1; ; INSERT INTO t VALUES (1); COMMIT", &catalog());
    let needs: Vec<bool> = batch.statements.iter().map(|statement| statement.needs_primary).collect();
    assert_eq!(needs, [false, true, false]);
}

#[test]
fn hostile_text_is_unparsable_and_harmless_text_is_not() {
    let catalog = catalog();
    let unparsable = [
        "SELEC 1".to_owned(),
        "SELECT 1 /* open".to_owned(),
        "SELECT 'open".to_owned(),
        "SELECT 1\0; DELETE FROM t".to_owned(),
        format!("SELECT {}1{}", "(".repeat(32_000), ")".repeat(32_000)),
        format!("{}SELECT 1{}", "(".repeat(32_000), ")".repeat(32_000)),
        format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("SELECT 1{}", "+1".repeat(32_000)),
        format!("SELECT {}1", "- ".repeat(32_000)),
        format!("SELECT {}true", "NOT ".repeat(16_000)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(3_000)),
        format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(2_500), " END".repeat(2_500)),
        format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(3_500), ") x".repeat(3_500)),
        format!("SELECT {}", "x".repeat(TEXT_LEN_MAX)),
    ];
    for sql in unparsable {
        let batch = classify(&sql, &catalog);
        assert_eq!(batch, Batch { unparsable: true, ..Batch::default() }, "{sql:.60}");
    }
    let list = vec!["1"; 30_000].join(",");
    let wide = [
        format!("SELECT * FROM t WHERE id IN ({list})"),
        format!("SELECT * FROM t WHERE id = ANY ('{{{list}}}')"),
        format!("SELECT 1{}", " OR true".repeat(7_000)),
        format!("VALUES {}", vec!["(1,2)"; 10_000].join(",")),
        "SELECT 1;".repeat(7_000),
        format!("SELECT v{} FROM t", "[1]".repeat(20_000)),
        format!("SELECT 1{}", "+1".repeat(40)),
    ];
    for sql in wide {
        let batch = classify(&sql, &catalog);
        assert!(!batch.needs_primary() && !batch.unknown_names, "{sql:.60}");
    }
}

/// libpg_query redirects the standard error of the process while it parses.
#[test]
fn many_threads_may_parse_at_once_on_small_stacks() {
    let deep = format!("SELECT 1{}", "+1".repeat(30_000));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let parse = || {
                for _ in 0..20 {
                    assert!(classify(&deep, &Catalog::default()).unparsable);
                    assert!(!classify("SELECT 1", &Catalog::default()).unparsable);
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, parse).expect("spawn");
        }
    });
}
