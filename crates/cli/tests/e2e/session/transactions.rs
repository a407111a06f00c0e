//! Transactions that begin here and write there.

use crate::support::{AP, EU, Lab, US, code};

pub(crate) async fn rollback_and_commit(lab: &Lab) {
    for region in [EU, US] {
        let session = lab.connect(region).await;
        session.run("CREATE TABLE ledger (id int PRIMARY KEY, amount int)").await;
        session.run("INSERT INTO ledger VALUES (1, 10)").await;
        for (end, after) in [("ROLLBACK", 10), ("COMMIT", 11)] {
            session.run("BEGIN").await;
            session.expect("SELECT amount FROM ledger WHERE id = 1", 10).await;
            session.run("UPDATE ledger SET amount = amount + 1 WHERE id = 1").await;
            session.expect("SELECT amount FROM ledger WHERE id = 1", 11).await;
            session.run("INSERT INTO ledger VALUES (2, 20)").await;
            session.expect("SELECT sum(amount) FROM ledger", 31).await;
            session.run(end).await;
            session.expect("SELECT amount FROM ledger WHERE id = 1", after).await;
        }
        session.expect("SELECT count(*) FROM ledger", 2).await;
        // Nothing but reads.
        session.run("BEGIN").await;
        session.expect("SELECT count(*) FROM ledger", 2).await;
        session.run("COMMIT").await;
        session.run("DROP TABLE ledger").await;
    }
}

pub(crate) async fn savepoints(lab: &Lab) {
    let mut eu = lab.connect(EU).await;
    eu.run("CREATE TABLE step (id int PRIMARY KEY)").await;
    eu.run("BEGIN").await;
    eu.expect("SELECT count(*) FROM step", 0).await;
    eu.run("SAVEPOINT before_any_write").await;
    eu.expect("SELECT count(*) FROM step", 0).await;
    eu.run("INSERT INTO step VALUES (1); SAVEPOINT a; INSERT INTO step VALUES (2)").await;
    assert_eq!(eu.fails("INSERT INTO step VALUES (2)").await, "23505");
    assert_eq!(eu.fails("SELECT 1").await, "25P02");
    eu.run("ROLLBACK TO a").await;
    eu.expect("SELECT count(*) FROM step", 1).await;
    eu.run("INSERT INTO step VALUES (3); RELEASE a").await;
    eu.run("ROLLBACK TO before_any_write").await;
    eu.expect("SELECT count(*) FROM step", 0).await;
    eu.run("INSERT INTO step VALUES (4); COMMIT").await;
    eu.expect("SELECT string_agg(id::text, ',') FROM step", 4).await;

    let mut outer = eu.transaction().await.unwrap();
    outer.execute("INSERT INTO step VALUES ($1)", &[&5]).await.unwrap();
    let inner = outer.transaction().await.unwrap();
    let error = inner.execute("INSERT INTO step VALUES ($1)", &[&5]).await.unwrap_err();
    assert_eq!(code(&error), "23505");
    inner.rollback().await.unwrap();
    let found = outer.query_one("SELECT count(*) FROM step", &[]).await.unwrap();
    assert_eq!(found.get::<_, i64>(0), 2);
    outer.commit().await.unwrap();
    eu.expect("SELECT count(*) FROM step", 2).await;
    eu.run("DROP TABLE step").await;
}

pub(crate) async fn a_failed_transaction_stays_failed(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE fragile (id int)").await;
    for (first, expected) in [("SELECT 1 / 0", "22012"), ("INSERT INTO fragile VALUES (1 / 0)", "22012")] {
        for end in ["COMMIT", "ROLLBACK"] {
            eu.run("BEGIN").await;
            assert_eq!(eu.fails(first).await, expected);
            assert_eq!(eu.fails("INSERT INTO fragile VALUES (1)").await, "25P02");
            assert_eq!(eu.fails("SELECT 1").await, "25P02");
            eu.run(end).await;
            eu.expect("SELECT count(*) FROM fragile", 0).await;
        }
    }
    eu.run("BEGIN; INSERT INTO fragile VALUES (1)").await;
    assert_eq!(eu.fails("SELECT * FROM nowhere").await, "42P01");
    eu.run("ROLLBACK").await;
    eu.expect("SELECT count(*) FROM fragile", 0).await;
    eu.run("DROP TABLE fragile").await;
}

pub(crate) async fn serializable_conflicts_are_found(lab: &Lab) {
    let (one, two) = (lab.connect(EU).await, lab.connect(AP).await);
    one.run("CREATE TABLE doctor (name text, on_call bool)").await;
    one.run("INSERT INTO doctor VALUES ('a', true), ('b', true)").await;
    // Write skew: each sees two on call and goes home.
    for session in [&one, &two] {
        session.run("BEGIN ISOLATION LEVEL SERIALIZABLE").await;
        session.expect("SHOW transaction_isolation", "serializable").await;
        session.expect("SELECT count(*) FROM doctor WHERE on_call", 2).await;
    }
    one.run("UPDATE doctor SET on_call = false WHERE name = 'a'").await;
    one.run("COMMIT").await;
    let update = two.simple_query("UPDATE doctor SET on_call = false WHERE name = 'b'").await;
    let outcome = match update {
        Ok(_) => two.simple_query("COMMIT").await,
        Err(error) => Err(error),
    };
    assert_eq!(code(&outcome.unwrap_err()), "40001");
    two.run("ROLLBACK").await;
    one.expect("SELECT count(*) FROM doctor WHERE on_call", 1).await;

    // Repeatable read: one snapshot for all statements, the write in it included.
    two.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    two.expect("SELECT count(*) FROM doctor", 2).await;
    one.run("INSERT INTO doctor VALUES ('c', true)").await;
    two.expect("SELECT count(*) FROM doctor", 2).await;
    two.run("INSERT INTO doctor VALUES ('d', true)").await;
    two.expect("SELECT count(*) FROM doctor", 3).await;
    two.run("COMMIT").await;
    two.expect("SELECT count(*) FROM doctor", 4).await;

    // Apart: a transaction, even an implicit one, keeps the level that it began with.
    one.run("SET default_transaction_isolation = serializable").await;
    one.run("BEGIN").await;
    one.expect("SHOW transaction_isolation", "serializable").await;
    one.run("DELETE FROM doctor; COMMIT; DROP TABLE doctor").await;
}

pub(crate) async fn read_only_transactions_refuse_writes(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE closed (id int)").await;
    eu.run("BEGIN READ ONLY").await;
    eu.expect("SELECT count(*) FROM closed", 0).await;
    assert_eq!(eu.fails("INSERT INTO closed VALUES (1)").await, "25006");
    eu.run("ROLLBACK").await;
    eu.run("SET default_transaction_read_only = on").await;
    assert_eq!(eu.fails("INSERT INTO closed VALUES (1)").await, "25006");
    eu.run("BEGIN READ WRITE; INSERT INTO closed VALUES (1); COMMIT").await;
    eu.run("RESET default_transaction_read_only").await;
    eu.run("INSERT INTO closed VALUES (2)").await;
    eu.run("BEGIN; SET TRANSACTION READ ONLY").await;
    assert_eq!(eu.fails("DELETE FROM closed").await, "25006");
    eu.run("ROLLBACK").await;
    eu.expect("SELECT count(*) FROM closed", 2).await;
    eu.run("DROP TABLE closed").await;
}

pub(crate) async fn batches_of_statements_are_transactions(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE batch (id int PRIMARY KEY)").await;
    assert_eq!(
        eu.fails("INSERT INTO batch VALUES (1); SELECT 1; INSERT INTO batch VALUES (1)").await,
        "23505"
    );
    eu.expect("SELECT count(*) FROM batch", 0).await;
    let messages = eu
        .simple_query("SELECT 1; INSERT INTO batch VALUES (1); SELECT count(*) FROM batch; ; SELECT 'end'")
        .await
        .unwrap();
    let rows: Vec<String> = messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(rows, ["1", "1", "end"]);
    assert_eq!(eu.fails("INSERT INTO batch VALUES (2); COMMIT; SELECT 1 / 0").await, "22012");
    eu.expect("SELECT count(*) FROM batch", 2).await;
    eu.run("BEGIN; INSERT INTO batch VALUES (3); ROLLBACK; INSERT INTO batch VALUES (4)").await;
    eu.expect("SELECT string_agg(id::text, ',' ORDER BY id) FROM batch", "1,2,4").await;
    eu.run("DROP TABLE batch").await;
}

pub(crate) async fn locks_are_held_between_sessions(lab: &Lab) {
    let (one, two) = (lab.connect(EU).await, lab.connect(AP).await);
    one.run("CREATE TABLE seat (id int PRIMARY KEY, taken_by text); INSERT INTO seat VALUES (1)").await;
    one.run("BEGIN").await;
    one.expect("SELECT id FROM seat WHERE taken_by IS NULL FOR UPDATE", 1).await;
    assert_eq!(two.fails("SELECT id FROM seat FOR UPDATE NOWAIT").await, "55P03");
    two.expect("SELECT count(*) FROM (SELECT id FROM seat FOR UPDATE SKIP LOCKED) s", 0).await;
    let waiting =
        async { two.text("UPDATE seat SET taken_by = 'two' WHERE taken_by IS NULL RETURNING 1").await };
    let taking = one.run("UPDATE seat SET taken_by = 'one'; COMMIT");
    let (waited, ()) = futures_util::join!(waiting, taking);
    assert_eq!(waited, "(no row)");
    two.expect("SELECT taken_by FROM seat", "one").await;
    two.run("DROP TABLE seat").await;
}
