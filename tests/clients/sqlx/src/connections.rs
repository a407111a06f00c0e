//! Connections and pools of them: settings, TLS, LISTEN, locks, migrations.

use std::time::Duration;

use futures_util::future::{join, try_join_all};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgAdvisoryLock, PgConnection, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, Either, Executor as _, SqlSafeStr as _};
use tokio::time::timeout;

use crate::{Done, Scene, checks, count, sql, sqlstate};

checks! {
    refused_connections,
    tls_verified_to_the_name,
    settings_at_start_up_and_after,
    a_pool,
    a_pool_whose_connections_are_set_up,
    listen_and_notify,
    advisory_locks,
    migrations,
}

/// Long enough for a notification to arrive that should not.
const SILENCE: Duration = Duration::from_millis(300);

async fn refused_connections(scene: &Scene) -> Done {
    let refusal = async |options| sqlstate(PgConnection::connect_with(&options).await);
    assert_eq!(refusal(scene.options.clone().password("wrong")).await, "28P01");
    assert_eq!(refusal(scene.options.clone().username(&scene.table)).await, "28P01");
    assert_eq!(refusal(scene.options.clone().database(&scene.table)).await, "3D000");
    assert_eq!(refusal(scene.options.clone().options([("no_such_setting", "1")])).await, "42704");
    Ok(())
}

async fn tls_verified_to_the_name(scene: &Scene) -> Done {
    let options = scene.options.clone().host("localhost");
    let mut connection = PgConnection::connect_with(&options.clone().ssl_mode(PgSslMode::Require)).await?;
    connection.ping().await?;
    let verified = options.ssl_mode(PgSslMode::VerifyFull);
    let stranger = PgConnection::connect_with(&verified).await;
    assert!(matches!(stranger, Err(sqlx::Error::Tls(_) | sqlx::Error::Io(_))), "{stranger:?}");
    if let Ok(ca) = std::env::var("PANGEA_CA") {
        let mut connection = PgConnection::connect_with(&verified.ssl_root_cert(ca)).await?;
        connection.ping().await?;
    }
    Ok(())
}

async fn setting(connection: &mut PgConnection, name: &str) -> sqlx::Result<String> {
    sqlx::query_scalar(sql(format!("SHOW {name}"))).fetch_one(connection).await
}

async fn settings_at_start_up_and_after(scene: &Scene) -> Done {
    let settings = [("search_path", "pg_catalog"), ("work_mem", "7MB")];
    let options = scene.options.clone().application_name("suite").options(settings);
    let mut connection = PgConnection::connect_with(&options).await?;
    assert_eq!(setting(&mut connection, "application_name").await?, "suite");
    assert_eq!(setting(&mut connection, "search_path").await?, "pg_catalog");
    assert_eq!(setting(&mut connection, "work_mem").await?, "7MB");
    // The driver's own.
    assert_eq!(setting(&mut connection, "TimeZone").await?, "UTC");
    assert_eq!(setting(&mut connection, "extra_float_digits").await?, "2");
    connection.execute("SET work_mem = '9MB'").await?;
    assert_eq!(setting(&mut connection, "work_mem").await?, "9MB");
    connection.execute("RESET work_mem").await?;
    assert_eq!(setting(&mut connection, "work_mem").await?, "7MB");
    connection.execute("SET statement_timeout = 200").await?;
    let slow = sqlx::query("SELECT pg_sleep(30)").execute(&mut connection).await;
    assert_eq!(sqlstate(slow), "57014");
    Ok(())
}

async fn a_pool(scene: &Scene) -> Done {
    let table = &scene.table;
    scene.with_table("id int PRIMARY KEY").await?.close().await?;
    let pool = scene.pool(4).await?;
    try_join_all((0..40).map(async |id| {
        // Two statements, perhaps on two connections.
        sqlx::query(sql(format!("INSERT INTO {table} VALUES ($1)"))).bind(id).execute(&pool).await?;
        let select = sqlx::query_scalar(sql(format!("SELECT id FROM {table} WHERE id = $1")));
        let found: i32 = select.bind(id).fetch_one(&pool).await?;
        assert_eq!(found, id);
        let mut transaction = pool.begin().await?;
        sqlx::query(sql(format!("UPDATE {table} SET id = -id WHERE id = $1")))
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        if id % 2 == 0 { transaction.commit().await } else { transaction.rollback().await }
    }))
    .await?;
    assert!((1..=4).contains(&pool.size()), "{}", pool.size());
    assert_eq!(count(&mut *pool.acquire().await?, &format!("{table} WHERE id > 0")).await?, 20);
    pool.close().await;
    Ok(())
}

async fn a_pool_whose_connections_are_set_up(scene: &Scene) -> Done {
    let options = PgPoolOptions::new().max_connections(3).after_connect(|connection, _| {
        Box::pin(async move { connection.execute("SET work_mem = '9MB'").await.map(drop) })
    });
    let pool = options.connect_with(scene.options.clone()).await?;
    let mut neighbour = scene.connect().await?;
    try_join_all((0..30).map(async |_| {
        let found: String = sqlx::query_scalar("SHOW work_mem").fetch_one(&pool).await?;
        assert_eq!(found, "9MB");
        Ok::<_, sqlx::Error>(())
    }))
    .await?;
    assert_ne!(setting(&mut neighbour, "work_mem").await?, "9MB");
    pool.close().await;
    Ok(())
}

async fn listen_and_notify(scene: &Scene) -> Done {
    let channel = &scene.table;
    let pool = scene.pool(2).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all([channel.as_str(), "elsewhere"]).await?;
    let mut notifier = scene.connect().await?;
    let mut transaction = notifier.begin().await?;
    for number in 0..3 {
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(number.to_string());
        notify.execute(&mut *transaction).await?;
    }
    assert!(timeout(SILENCE, listener.recv()).await.is_err());
    transaction.commit().await?;
    for number in 0..3 {
        let heard = listener.recv().await?;
        assert_eq!((heard.channel(), heard.payload()), (channel.as_str(), number.to_string().as_str()));
    }
    // The listener is a connection like any other.
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT $1").bind(7).fetch_one(&mut listener).await?, 7);
    listener.unlisten(channel).await?;
    notifier.execute(sql(format!("NOTIFY {channel}"))).await?;
    assert!(timeout(SILENCE, listener.recv()).await.is_err());
    // What it listens to does not stay with the connection that it gives back.
    drop(listener);
    pool.close().await;
    Ok(())
}

async fn advisory_locks(scene: &Scene) -> Done {
    let lock = PgAdvisoryLock::new(&scene.table);
    let (mut one, mut other) = (scene.connect().await?, scene.connect().await?);
    let guard = lock.acquire(&mut one).await?;
    assert!(matches!(lock.try_acquire(&mut other).await?, Either::Right(_)));
    guard.release_now().await?;
    let Either::Left(guard) = lock.try_acquire(&mut other).await? else {
        return Err("it was not released".into());
    };
    // Dropped: it is released with the next statement.
    drop(guard);
    other.ping().await?;
    lock.acquire(&mut one).await?.release_now().await?;
    Ok(())
}

/// They take an advisory lock, and each is a transaction of several statements.
async fn migrations(scene: &Scene) -> Done {
    let table = &scene.table;
    let migration = |version: i64, text: String| {
        let description = format!("number {version}").into();
        Migration::new(version, description, MigrationType::Simple, sql(text).into_sql_str(), false)
    };
    let steps = vec![
        migration(1, format!("CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1), (2);")),
        migration(
            2,
            format!("ALTER TABLE {table} ADD COLUMN name text DEFAULT 'x'; UPDATE {table} SET name = 'y'"),
        ),
    ];
    let mut migrator = Migrator::with_migrations(steps);
    migrator.dangerous_set_table_name(format!("{table}_steps"));
    let pool = scene.pool(2).await?;
    // Two copies of an application start at once.
    let other = scene.pool(2).await?;
    let (first, second) = join(migrator.run(&pool), migrator.run(&other)).await;
    first?;
    second?;
    migrator.run(&pool).await?;
    let mut connection = other.acquire().await?;
    assert_eq!(count(&mut connection, &format!("{table} WHERE name = 'y'")).await?, 2);
    assert_eq!(count(&mut connection, &format!("{table}_steps WHERE success")).await?, 2);
    connection.execute(sql(format!("DROP TABLE {table}_steps"))).await?;
    drop(connection);
    pool.close().await;
    other.close().await;
    Ok(())
}
