//! Transactions, errors, futures that are dropped, and what a session sees of its own writes.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tokio::time::timeout;

use crate::{Done, Scene, checks, count, sql, sqlstate};

checks! {
    transactions_commit_and_roll_back,
    savepoints,
    a_failed_transaction,
    transactions_of_all_kinds,
    errors_carry_their_fields,
    a_deferred_constraint_fails_at_commit,
    a_dropped_query,
    a_dropped_query_inside_a_transaction,
    a_dropped_query_on_a_pool,
    read_your_own_writes,
}

async fn insert(connection: &mut PgConnection, table: &str, id: i32) -> sqlx::Result<()> {
    let insert = sqlx::query(sql(format!("INSERT INTO {table} (id) VALUES ($1)"))).bind(id);
    insert.execute(connection).await.map(drop)
}

async fn ids(connection: &mut PgConnection, table: &str) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar(sql(format!("SELECT id FROM {table} ORDER BY id"))).fetch_all(connection).await
}

async fn transactions_commit_and_roll_back(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    let mut transaction = connection.begin().await?;
    assert!(ids(&mut transaction, table).await?.is_empty());
    insert(&mut transaction, table, 1).await?;
    assert_eq!(ids(&mut transaction, table).await?, [1]);
    transaction.rollback().await?;
    assert!(ids(&mut connection, table).await?.is_empty());
    let mut transaction = connection.begin().await?;
    insert(&mut transaction, table, 2).await?;
    // As when a handler returns early: the rollback is sent with the next statement.
    drop(transaction);
    assert!(ids(&mut connection, table).await?.is_empty());
    let mut transaction = connection.begin().await?;
    insert(&mut transaction, table, 3).await?;
    transaction.commit().await?;
    assert_eq!(ids(&mut connection, table).await?, [3]);
    drop(connection.begin().await?);
    assert_eq!(ids(&mut connection, table).await?, [3]);
    Ok(())
}

async fn savepoints(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int PRIMARY KEY").await?;
    let mut transaction = connection.begin().await?;
    // Before the first write: the savepoint is made where nothing is written yet.
    let mut nested = transaction.begin().await?;
    assert!(ids(&mut nested, table).await?.is_empty());
    insert(&mut nested, table, 1).await?;
    nested.commit().await?;
    let mut nested = transaction.begin().await?;
    assert_eq!(sqlstate(insert(&mut nested, table, 1).await), "23505");
    nested.rollback().await?;
    let mut nested = transaction.begin().await?;
    insert(&mut nested, table, 2).await?;
    let mut deeper = nested.begin().await?;
    insert(&mut deeper, table, 3).await?;
    drop(deeper);
    assert_eq!(ids(&mut nested, table).await?, [1, 2]);
    nested.commit().await?;
    transaction.commit().await?;
    assert_eq!(ids(&mut connection, table).await?, [1, 2]);
    Ok(())
}

async fn a_failed_transaction(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int PRIMARY KEY").await?;
    let mut transaction = connection.begin().await?;
    insert(&mut transaction, table, 1).await?;
    assert_eq!(sqlstate(insert(&mut transaction, table, 1).await), "23505");
    assert_eq!(sqlstate(ids(&mut transaction, table).await), "25P02");
    // PostgreSQL answers COMMIT with ROLLBACK, which the driver does not take for an error.
    transaction.commit().await?;
    assert!(ids(&mut connection, table).await?.is_empty());
    Ok(())
}

async fn transactions_of_all_kinds(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    for level in ["read committed", "repeatable read", "serializable"] {
        let mut transaction = connection.begin_with(sql(format!("BEGIN ISOLATION LEVEL {level}"))).await?;
        let shown: String =
            sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&mut *transaction).await?;
        assert_eq!(shown, level);
        insert(&mut transaction, table, 1).await?;
        transaction.commit().await?;
    }
    let mut transaction = connection.begin_with("BEGIN READ ONLY").await?;
    assert_eq!(count(&mut transaction, table).await?, 3);
    assert_eq!(sqlstate(insert(&mut transaction, table, 1).await), "25006");
    transaction.rollback().await?;
    Ok(())
}

async fn errors_carry_their_fields(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table(&format!("id int CONSTRAINT {table}_id PRIMARY KEY")).await?;
    insert(&mut connection, table, 1).await?;
    let again = insert(&mut connection, table, 1).await;
    let refused = again.err().and_then(sqlx::Error::into_database_error).ok_or("it was not refused")?;
    assert!(refused.is_unique_violation());
    assert_eq!(
        (refused.table(), refused.constraint()),
        (Some(table.as_str()), Some(&*format!("{table}_id")))
    );
    for (text, expected) in [
        ("SELEC $1", "42601"),
        ("SELECT 1 / $1", "22012"),
        ("SELECT nope + $1", "42703"),
        ("TABLE nowhere", "42P01"),
    ] {
        for persistent in [true, false] {
            let query = sqlx::query(text).persistent(persistent);
            let query = if text.contains("$1") { query.bind(0) } else { query };
            assert_eq!(sqlstate(query.fetch_all(&mut connection).await), expected, "{text}");
        }
        assert!(!sqlstate(connection.execute(sqlx::raw_sql(text)).await).is_empty());
    }
    assert_eq!(ids(&mut connection, table).await?, [1]);
    Ok(())
}

async fn a_deferred_constraint_fails_at_commit(scene: &Scene) -> Done {
    let mut connection = scene.with_table("id int UNIQUE DEFERRABLE INITIALLY DEFERRED").await?;
    let mut transaction = connection.begin().await?;
    insert(&mut transaction, &scene.table, 1).await?;
    insert(&mut transaction, &scene.table, 1).await?;
    assert_eq!(sqlstate(transaction.commit().await), "23505");
    assert_eq!(count(&mut connection, &scene.table).await?, 0);
    Ok(())
}

/// Statements that are still running when the future is dropped; the driver sends no cancel request, but reads their
/// answers before that of the next one.
const SLOW: &str = "SELECT pg_sleep(0.4), $1::int";
const PATIENCE: Duration = Duration::from_millis(100);

async fn a_dropped_query(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    for n in 0..3 {
        let slow = sqlx::query(SLOW).bind(n).execute(&mut connection);
        assert!(timeout(PATIENCE, slow).await.is_err());
        let answer: i32 = sqlx::query_scalar("SELECT $1 + 1").bind(n).fetch_one(&mut connection).await?;
        assert_eq!(answer, n + 1);
        let slow = format!("INSERT INTO {table} SELECT $1 FROM pg_sleep(0.4)");
        assert!(timeout(PATIENCE, sqlx::query(sql(slow)).bind(n).execute(&mut connection)).await.is_err());
        // It was sent, and nobody has told the server to stop.
        assert_eq!(ids(&mut connection, table).await?, (0..=n).collect::<Vec<_>>());
    }
    connection.ping().await?;
    Ok(())
}

async fn a_dropped_query_inside_a_transaction(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    for commit in [true, false] {
        let mut transaction = connection.begin().await?;
        insert(&mut transaction, table, 1).await?;
        let slow = sqlx::query(SLOW).bind(1).execute(&mut *transaction);
        assert!(timeout(PATIENCE, slow).await.is_err());
        if commit {
            transaction.commit().await?;
        } else {
            drop(transaction);
        }
        assert_eq!(ids(&mut connection, table).await?, [1]);
    }
    // The statement that begins one.
    for _ in 0..20 {
        let _ = timeout(Duration::ZERO, connection.begin()).await;
        assert_eq!(ids(&mut connection, table).await?, [1]);
    }
    Ok(())
}

async fn a_dropped_query_on_a_pool(scene: &Scene) -> Done {
    let pool = scene.pool(2).await?;
    for n in 0..6 {
        assert!(timeout(PATIENCE, sqlx::query(SLOW).bind(n).execute(&pool)).await.is_err());
        let answer: i32 = sqlx::query_scalar("SELECT $1 + 1").bind(n).fetch_one(&pool).await?;
        assert_eq!(answer, n + 1);
    }
    pool.close().await;
    Ok(())
}

async fn read_your_own_writes(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int PRIMARY KEY, v text").await?;
    let mut missed = Vec::new();
    for n in 0..200 {
        let insert = sqlx::query(sql(format!("INSERT INTO {table} VALUES ($1, $2)")));
        insert.bind(n).bind(format!("v{n}")).execute(&mut connection).await?;
        let select = sqlx::query_scalar(sql(format!("SELECT v FROM {table} WHERE id = $1")));
        let found: Option<String> = select.bind(n).fetch_optional(&mut connection).await?;
        if found != Some(format!("v{n}")) {
            missed.push(n);
        }
    }
    assert_eq!(missed, Vec::<i32>::new());
    Ok(())
}
