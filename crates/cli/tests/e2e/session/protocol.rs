//! The extended protocol, COPY, errors, notices, parameters.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio_postgres::AsyncMessage;

use crate::support::{EU, Lab, Raw, US, code, frame, startup};

pub(crate) async fn prepared_statements(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE item (id int PRIMARY KEY, name text)").await;
    let insert = eu.prepare("INSERT INTO item VALUES ($1, $2) RETURNING id").await.unwrap();
    let select = eu.prepare("SELECT id, name FROM item WHERE id = $1").await.unwrap();
    assert_eq!(select.columns().len(), 2);
    for id in 0..20 {
        let name = format!("item {id}");
        let row = eu.query_one(&insert, &[&id, &name]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), id);
        let row = eu.query_one(&select, &[&id]).await.unwrap();
        assert_eq!(row.get::<_, String>(1), name);
    }
    let error = eu.query_one(&insert, &[&1, &"again"]).await.unwrap_err();
    assert_eq!(code(&error), "23505");
    // The same statements in a transaction that moves to the primary.
    eu.run("BEGIN").await;
    assert_eq!(eu.query(&select, &[&3]).await.unwrap().len(), 1);
    eu.query_one(&insert, &[&100, &"hundred"]).await.unwrap();
    assert_eq!(eu.query(&select, &[&100]).await.unwrap().len(), 1);
    eu.run("ROLLBACK").await;
    assert_eq!(eu.query(&select, &[&100]).await.unwrap().len(), 0);
    eu.run("DROP TABLE item").await;
}

/// As PostgreSQL does when the table has changed under a statement.
pub(crate) async fn a_table_changes_under_a_statement(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE item AS SELECT id, 'item ' || id AS name FROM generate_series(0, 19) id").await;
    let select = eu.prepare("SELECT id, name FROM item WHERE id = $1").await.unwrap();
    assert_eq!(eu.query_one(&select, &[&3]).await.unwrap().len(), 2);
    eu.run("ALTER TABLE item ALTER COLUMN name TYPE varchar(50), ADD COLUMN more int").await;
    let all = eu.prepare("SELECT * FROM item WHERE id = $1").await.unwrap();
    assert_eq!(eu.query_one(&all, &[&3]).await.unwrap().len(), 3);
    eu.run("ALTER TABLE item DROP COLUMN more").await;
    let error = eu.query_one(&all, &[&3]).await.unwrap_err();
    assert_eq!(code(&error), "0A000");
    drop(all);
    eu.expect("SELECT count(*) FROM item", 20).await;
    eu.run("DROP TABLE item").await;
}

pub(crate) async fn copy_in_and_out(lab: &Lab) {
    const ROWS: usize = 50_000;
    for region in [EU, US] {
        let session = lab.connect(region).await;
        session.run("CREATE TABLE bulk (id int, note text)").await;
        let mut sink = pin!(session.copy_in("COPY bulk FROM STDIN").await.unwrap());
        for chunk in (0..ROWS).collect::<Vec<_>>().chunks(500) {
            let text: String = chunk.iter().map(|id| format!("{id}\tnote number {id}\n")).collect();
            sink.send(Bytes::from(text)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), ROWS as u64);
        session.expect("SELECT count(*) FROM bulk", ROWS).await;
        let out = session.copy_out("COPY (SELECT * FROM bulk ORDER BY id) TO STDOUT").await.unwrap();
        let text: Vec<Bytes> = out.try_collect().await.unwrap();
        let text = String::from_utf8(text.concat()).unwrap();
        assert_eq!(text.lines().count(), ROWS);
        assert!(text.starts_with("0\tnote number 0\n1\t"), "{}", &text[..40]);
        // A row that is none, and an abandoned COPY.
        let mut sink = pin!(session.copy_in("COPY bulk FROM STDIN").await.unwrap());
        sink.send(Bytes::from_static(b"no number\tx\n")).await.unwrap();
        assert_eq!(code(&sink.finish().await.unwrap_err()), "22P02");
        {
            let mut sink = pin!(session.copy_in("COPY bulk FROM STDIN").await.unwrap());
            sink.send(Bytes::from_static(b"1\tnever\n")).await.unwrap();
        }
        session.expect("SELECT count(*) FROM bulk", ROWS).await;
        // In a transaction.
        session.run("BEGIN").await;
        session.expect("SELECT count(*) FROM bulk", ROWS).await;
        let mut sink = pin!(session.copy_in("COPY bulk FROM STDIN").await.unwrap());
        sink.send(Bytes::from_static(b"-1\tone\n-2\ttwo\n")).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 2);
        session.expect("SELECT count(*) FROM bulk", ROWS + 2).await;
        session.run("ROLLBACK; DROP TABLE bulk").await;
    }
}

pub(crate) async fn errors_keep_code_and_fields(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE parent (id int PRIMARY KEY CHECK (id < 100)); INSERT INTO parent VALUES (1)").await;
    eu.run("CREATE TABLE child (parent int REFERENCES parent, must text NOT NULL)").await;
    let cases = [
        ("SELECT 1 / 0", "22012"),
        ("SELECT 'x'::int", "22P02"),
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT nothing FROM parent", "42703"),
        ("SELECT no_function()", "42883"),
        ("INSERT INTO parent VALUES (1)", "23505"),
        ("INSERT INTO parent VALUES (100)", "23514"),
        ("INSERT INTO child VALUES (2, '')", "23503"),
        ("INSERT INTO child VALUES (1, NULL)", "23502"),
        ("CREATE TABLE parent (id int)", "42P07"),
        ("DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'PNG42'; END $$", "PNG42"),
        ("SELECT * FROM parent FOR UPDATE OF nobody", "42P01"),
        ("COMMIT PREPARED 'nothing'", "42704"),
        ("SET nonsense_setting = 1", "42704"),
    ];
    for (statement, expected) in cases {
        assert_eq!(eu.fails(statement).await, expected, "{statement}");
        let error = match eu.prepare(statement).await {
            Ok(prepared) => eu.execute(&prepared, &[]).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(code(&error), expected, "{statement} by the extended protocol");
        eu.expect("SELECT count(*) FROM parent", 1).await;
    }
    for region in [EU, US] {
        let session = lab.connect(region).await;
        let error = session.simple_query("INSERT INTO parent VALUES (1)").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.constraint(), Some("parent_pkey"));
        assert_eq!(error.detail(), Some("Key (id)=(1) already exists."));
        assert_eq!((error.schema(), error.table()), (Some("public"), Some("parent")));
        let error = session.simple_query("SELECT   wrong FROM parent").await.unwrap_err();
        let position = error.as_db_error().unwrap().position();
        assert_eq!(position, Some(&tokio_postgres::error::ErrorPosition::Original(10)));
    }
    eu.run("DROP TABLE child; DROP TABLE parent").await;
}

pub(crate) async fn notices_come_through(lab: &Lab) {
    let mut eu = lab.connect(EU).await;
    for statement in
        ["DO $$ BEGIN RAISE NOTICE 'from a block'; END $$", "DROP TABLE IF EXISTS never_was", "ROLLBACK"]
    {
        eu.run(statement).await;
        let expected = match statement {
            "ROLLBACK" => ("25P01", "there is no transaction in progress"),
            "DROP TABLE IF EXISTS never_was" => ("00000", "table \"never_was\" does not exist, skipping"),
            _ => ("00000", "from a block"),
        };
        match eu.message().await {
            AsyncMessage::Notice(notice) => assert_eq!((notice.code().code(), notice.message()), expected),
            other => panic!("{statement}: {other:?}"),
        }
    }
}

pub(crate) async fn pipelined_statements_keep_their_order(lab: &Lab) {
    const COUNT: i64 = 200;
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE queue (id bigint PRIMARY KEY)").await;
    let insert = eu.prepare("INSERT INTO queue VALUES ($1)").await.unwrap();
    let count = eu.prepare("SELECT count(*) + $1::bigint * 0 FROM queue").await.unwrap();
    let statements = (0..COUNT).map(|id| {
        let (eu, insert, count) = (&eu, &insert, &count);
        async move {
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
            let (done, seen) =
                futures_util::join!(eu.execute(insert, &parameters), eu.query_one(count, &parameters));
            (done.unwrap(), seen.unwrap().get::<_, i64>(0))
        }
    });
    let results = join_all(statements).await;
    for (id, (done, seen)) in (1..).zip(results) {
        assert_eq!((done, seen), (1, id));
    }
    // Texts that are prepared on the way.
    let texts = join_all((0..COUNT).map(async |id| {
        let row = eu.query_one(&format!("SELECT count(*) + {id} FROM queue"), &[]).await;
        row.unwrap().get::<_, i64>(0)
    }));
    assert_eq!(texts.await, (COUNT..2 * COUNT).collect::<Vec<_>>());
    eu.run("DROP TABLE queue").await;
}

pub(crate) async fn an_error_skips_the_rest_of_its_pipeline_only(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE unit (id int PRIMARY KEY)").await;
    let mut raw = Raw::dial(lab.entry(EU).cluster).await;
    raw.log_in(&startup(3 << 16, &[("user", "postgres")]), lab.cluster.password()).await;
    let statement = |text: &str| {
        let parse = frame(b'P', format!("\0{text}\0\0\0").as_bytes());
        [parse, frame(b'B', b"\0\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0")].concat()
    };
    let sync = frame(b'S', b"");
    // Three units: the second fails in its middle.
    let mut bytes = [statement("INSERT INTO unit VALUES (1)"), statement("SELECT 1"), sync.clone()].concat();
    for text in ["INSERT INTO unit VALUES (2)", "INSERT INTO unit VALUES (1)", "INSERT INTO unit VALUES (3)"]
    {
        bytes.extend(statement(text));
    }
    bytes.extend([sync.clone(), statement("INSERT INTO unit VALUES (4)"), sync].concat());
    raw.send(&bytes).await;
    let mut tags = String::new();
    while tags.matches('Z').count() < 3 {
        let (tag, body) = raw.frame().await.unwrap();
        if tag == b'E' {
            assert!(String::from_utf8_lossy(&body).contains("C23505"));
        }
        tags.push(char::from(tag));
    }
    // The token of what was written comes before the client is ready.
    assert_eq!(tags, "12C12DCSZ12C12EZ12CSZ");
    let us = lab.connect(US).await;
    us.expect("SELECT string_agg(id::text, ',' ORDER BY id) FROM unit", "1,4").await;
    eu.run("DROP TABLE unit").await;
}

pub(crate) async fn portals_with_a_row_limit(lab: &Lab) {
    let mut eu = lab.connect(EU).await;
    eu.run("CREATE TABLE many (n int); INSERT INTO many SELECT generate_series(1, 10)").await;
    for write_first in [true, false] {
        let transaction = eu.transaction().await.unwrap();
        if write_first {
            transaction.execute("INSERT INTO many VALUES (11)", &[]).await.unwrap();
        }
        let statement = transaction.prepare("SELECT n FROM many ORDER BY n").await.unwrap();
        let portal = transaction.bind(&statement, &[]).await.unwrap();
        let mut seen: Vec<i32> = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 3).await.unwrap();
            if rows.is_empty() {
                break;
            }
            assert!(rows.len() <= 3);
            seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
            // Other statements between two fetches.
            transaction.query_one("SELECT count(*) FROM many", &[]).await.unwrap();
        }
        assert_eq!(seen, (1..=if write_first { 11 } else { 10 }).collect::<Vec<i32>>());
        transaction.rollback().await.unwrap();
    }
    eu.run("DROP TABLE many").await;
}

/// Reads frames to the next ReadyForQuery and keeps the parameters among them.
async fn reported(raw: &mut Raw) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    loop {
        let (tag, body) = raw.frame().await.unwrap();
        match tag {
            b'S' => {
                let text = String::from_utf8(body.to_vec()).unwrap();
                let mut parts = text.split('\0').map(str::to_owned);
                parameters.insert(parts.next().unwrap(), parts.next().unwrap());
            }
            b'Z' => return parameters,
            _ => {}
        }
    }
}

pub(crate) async fn parameters_are_reported(lab: &Lab) {
    let mut at_start = Vec::new();
    for region in [US, EU] {
        let mut raw = Raw::dial(lab.entry(region).cluster).await;
        raw.send(&startup(3 << 16, &[("user", "postgres"), ("application_name", "first")])).await;
        raw.prove(lab.cluster.password()).await;
        at_start.push(reported(&mut raw).await);
        for (statement, expected) in [
            ("SET application_name = 'second'", &[("application_name", "second")][..]),
            ("SET TimeZone = 'Asia/Tokyo'; SELECT 1", &[("TimeZone", "Asia/Tokyo")]),
            ("SELECT 1", &[]),
            ("CREATE TABLE reporting (id int)", &[]),
            ("BEGIN; SET LOCAL DateStyle = 'German'", &[("DateStyle", "German, DMY")]),
            ("INSERT INTO reporting VALUES (1)", &[]),
            ("ROLLBACK", &[("DateStyle", "ISO, MDY")]),
            ("DROP TABLE reporting", &[]),
            ("RESET application_name", &[("application_name", "first")]),
        ] {
            raw.send(&frame(b'Q', format!("{statement}\0").as_bytes())).await;
            let expected =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut told = reported(&mut raw).await;
            let token = told.remove("pangea.token");
            assert_eq!(told, expected, "{region}: {statement}");
            assert!(token.is_some() || !statement.contains(" TABLE "), "a commit is told of: {statement}");
        }
    }
    assert_eq!(at_start[0], at_start[1], "a secondary region reports what the primary does");
    assert_eq!(at_start[1]["in_hot_standby"], "off");
    assert_eq!(at_start[1]["application_name"], "first");
}

/// Several times: how the last bytes of a large write leave depends on the filling of the buffers on the way.
pub(crate) async fn large_values_pass(lab: &Lab) {
    const ROUNDS: i32 = 8;
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE large (id int, value text)").await;
    let value = "0123456789abcdef".repeat(1024 * 1024);
    for id in 0..ROUNDS {
        eu.execute("INSERT INTO large VALUES ($1, $2)", &[&id, &value]).await.unwrap();
        let row = eu.query_one("SELECT value FROM large WHERE id = $1", &[&id]).await.unwrap();
        assert!(row.get::<_, &str>(0) == value, "the value has changed");
        eu.run(&format!("UPDATE large SET value = '{value}' WHERE id = {id}")).await;
    }
    eu.expect("SELECT sum(length(value)) FROM large", 8 * value.len()).await;
    eu.run("DROP TABLE large").await;
}
