//! sqlx, and tokio-postgres over TLS. (Other languages: `tests/clients`.)

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, Row as _};

use crate::support::{AP, EU, Lab, Logs, Tls, US, code, run, scenarios};

#[test]
fn drivers() {
    run(
        Logs::Quiet,
        |_| {},
        scenarios![
            sqlx_pool,
            sqlx_transactions,
            sqlx_statements_and_streams,
            sqlx_listener,
            sqlx_copy,
            tokio_postgres_over_tls,
        ],
    );
}

fn options(lab: &Lab, region: &str) -> PgConnectOptions {
    let address = lab.entry(region).cluster;
    PgConnectOptions::new()
        .host(&address.ip().to_string())
        .port(address.port())
        .username("postgres")
        .password(lab.cluster.password())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

async fn pool(lab: &Lab, region: &str) -> PgPool {
    PgPoolOptions::new().max_connections(5).connect_with(options(lab, region)).await.unwrap()
}

fn sqlstate(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).map_or_else(String::new, Into::into)
}

async fn sqlx_pool(lab: &Lab) {
    const TASKS: i64 = 100;
    let pool = pool(lab, EU).await;
    pool.execute("CREATE TABLE task (id bigint PRIMARY KEY, note text, at timestamptz DEFAULT now())")
        .await
        .unwrap();
    let work = (0..TASKS).map(async |id| {
        // One connection for both: what a session has written it sees.
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query("INSERT INTO task (id, note) VALUES ($1, $2)")
            .bind(id)
            .bind(format!("note {id}"))
            .execute(&mut *connection)
            .await
            .unwrap();
        let row =
            sqlx::query("SELECT note FROM task WHERE id = $1").bind(id).fetch_one(&mut *connection).await;
        assert_eq!(row.unwrap().get::<String, _>(0), format!("note {id}"));
    });
    join_all(work).await;
    let primary = self::pool(lab, US).await;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM task").fetch_one(&primary).await.unwrap();
    assert_eq!(count, TASKS);
    let again = sqlx::query("INSERT INTO task (id) VALUES (1)").execute(&pool).await.unwrap_err();
    assert_eq!(sqlstate(&again), "23505");
    pool.execute("DROP TABLE task").await.unwrap();
    pool.close().await;
    primary.close().await;
}

async fn sqlx_transactions(lab: &Lab) {
    let mut connection = PgConnection::connect_with(&options(lab, EU)).await.unwrap();
    connection.execute("CREATE TABLE account (id int PRIMARY KEY, balance bigint)").await.unwrap();
    connection.execute("INSERT INTO account VALUES (1, 100), (2, 0)").await.unwrap();
    let balances = "SELECT array_agg(balance ORDER BY id) FROM account";
    for (commit, after) in [(false, vec![100, 0]), (true, vec![70, 30])] {
        let mut transaction = connection.begin().await.unwrap();
        let before: Vec<i64> = sqlx::query_scalar(balances).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(before, [100, 0]);
        for (id, by) in [(1, -30_i64), (2, 30)] {
            let update =
                sqlx::query("UPDATE account SET balance = balance + $2 WHERE id = $1").bind(id).bind(by);
            assert_eq!(update.execute(&mut *transaction).await.unwrap().rows_affected(), 1);
        }
        let mut nested = transaction.begin().await.unwrap();
        sqlx::query("DELETE FROM account").execute(&mut *nested).await.unwrap();
        nested.rollback().await.unwrap();
        if commit {
            transaction.commit().await.unwrap();
        } else {
            // As when a handler returns early: the rollback is sent with the next statement.
            drop(transaction);
        }
        let now: Vec<i64> = sqlx::query_scalar(balances).fetch_one(&mut connection).await.unwrap();
        assert_eq!(now, after);
    }
    connection.execute("DROP TABLE account").await.unwrap();
    connection.close().await.unwrap();
}

async fn sqlx_statements_and_streams(lab: &Lab) {
    let mut connection =
        PgConnection::connect_with(&options(lab, AP).statement_cache_capacity(3)).await.unwrap();
    connection.execute("CREATE TABLE series (n int)").await.unwrap();
    let numbers: Vec<i32> = (0..5000).collect();
    let insert = sqlx::query("INSERT INTO series SELECT * FROM unnest($1::int[])").bind(&numbers);
    assert_eq!(insert.execute(&mut connection).await.unwrap().rows_affected(), 5000);
    let mut rows = sqlx::query("SELECT n FROM series ORDER BY n").fetch(&mut connection);
    let mut seen = Vec::new();
    while let Some(row) = rows.try_next().await.unwrap() {
        seen.push(row.get::<i32, _>(0));
    }
    drop(rows);
    assert_eq!(seen, numbers);
    // Abandoned in its middle; the rest has to be skipped.
    let mut rows = sqlx::query("SELECT n FROM series").fetch(&mut connection);
    rows.try_next().await.unwrap().unwrap();
    drop(rows);
    // More statements than the cache takes: the oldest are closed on the server.
    for round in 0..3 {
        for width in 1..8 {
            let text = format!("SELECT count(*) FROM series WHERE n < $1 AND n % {width} = 0");
            let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(text))
                .bind(840 * (round + 1))
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(
                count,
                i64::from(840 * (round + 1) / width + i32::from(840 * (round + 1) % width != 0))
            );
        }
        sqlx::query("UPDATE series SET n = n WHERE n = $1")
            .bind(round)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.execute("DROP TABLE series").await.unwrap();
    connection.close().await.unwrap();
}

async fn sqlx_listener(lab: &Lab) {
    let mut listener = PgListener::connect_with(&pool(lab, EU).await).await.unwrap();
    listener.listen_all(["orders", "returns"]).await.unwrap();
    let pool = pool(lab, AP).await;
    for number in 0..5 {
        let notify = sqlx::query("SELECT pg_notify('orders', $1)").bind(number.to_string());
        notify.execute(&pool).await.unwrap();
    }
    for number in 0..5 {
        let note = listener.recv().await.unwrap();
        assert_eq!((note.channel(), note.payload()), ("orders", number.to_string().as_str()));
    }
    pool.close().await;
}

async fn sqlx_copy(lab: &Lab) {
    let mut connection = PgConnection::connect_with(&options(lab, EU)).await.unwrap();
    connection.execute("CREATE TABLE copied (id int, note text)").await.unwrap();
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN (FORMAT csv)").await.unwrap();
    copy.send("1,one\n2,two\n".as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN (FORMAT csv)").await.unwrap();
    copy.send("3,three\n".as_bytes()).await.unwrap();
    copy.abort("changed my mind").await.unwrap();
    let mut text = Vec::new();
    let mut out = connection.copy_out_raw("COPY copied TO STDOUT (FORMAT csv)").await.unwrap();
    while let Some(chunk) = out.try_next().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    drop(out);
    assert_eq!(text, b"1,one\n2,two\n");
    connection.execute("DROP TABLE copied").await.unwrap();
    connection.close().await.unwrap();
}

async fn tokio_postgres_over_tls(lab: &Lab) {
    let tls = Tls::trusting(&lab.cluster.layout().data_dir().join("ca/ca.pem"));
    for region in [US, EU] {
        let mut config = lab.at(region).named("tls").0;
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        let (client, connection) = config.connect(tls.clone()).await.unwrap();
        let connection = tokio::spawn(connection);
        // A cancel request comes over TLS, too.
        let token = client.cancel_token();
        let cancel = async {
            lab.sleeping(region, "tls").await;
            token.cancel_query(tls.clone()).await.unwrap();
        };
        let (done, ()) = futures_util::join!(client.batch_execute("SELECT pg_sleep(100)"), cancel);
        assert_eq!(code(&done.unwrap_err()), "57014");
        client.batch_execute("CREATE TABLE sealed (id int); INSERT INTO sealed VALUES (1)").await.unwrap();
        let row = client.query_one("SELECT count(*) FROM sealed", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1);
        client.batch_execute("DROP TABLE sealed").await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }
}
