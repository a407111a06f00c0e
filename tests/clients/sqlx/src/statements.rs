//! Prepared statements and their cache, what is sent in one string, streams, COPY.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{
    Column as _, Connection as _, Either, Executor as _, QueryBuilder, Row as _, SqlSafeStr as _,
    Statement as _, TypeInfo as _,
};

use crate::{Done, Scene, checks, count, sql, sqlstate};

checks! {
    statements_are_cached,
    more_statements_than_the_cache_takes,
    statements_that_are_not_kept,
    statements_are_described,
    a_cached_statement_and_ddl,
    several_statements_in_one_string,
    rows_are_streamed,
    many_parameters,
    copy_in_both_directions,
    copy_that_fails,
    large_values_both_ways,
}

async fn statements_are_cached(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int PRIMARY KEY, name text").await?;
    connection.clear_cached_statements().await?;
    for n in 0..20 {
        let insert = sqlx::query(sql(format!("INSERT INTO {table} VALUES ($1, $2)")));
        insert.bind(n).bind(format!("name {n}")).execute(&mut connection).await?;
        let select = sqlx::query_scalar(sql(format!("SELECT name FROM {table} WHERE id = $1")));
        let name: Option<String> = select.bind(n).fetch_optional(&mut connection).await?;
        assert_eq!(name, Some(format!("name {n}")));
    }
    assert_eq!(connection.cached_statements_size(), 2);
    connection.clear_cached_statements().await?;
    assert_eq!(connection.cached_statements_size(), 0);
    assert_eq!(count(&mut connection, table).await?, 20);
    Ok(())
}

async fn more_statements_than_the_cache_takes(scene: &Scene) -> Done {
    const CAPACITY: usize = 10;
    let options = scene.options.clone().statement_cache_capacity(CAPACITY);
    let small = Scene { options, table: scene.table.clone() };
    let mut connection = small.with_table("id int").await?;
    for round in 0..3 {
        for width in 1..=40 {
            // The oldest is closed on the server for each new one.
            let select =
                sqlx::query_scalar(sql(format!("SELECT $1::int * {width}, count(*) FROM {}", scene.table)));
            let product: i32 = select.bind(round).fetch_one(&mut connection).await?;
            assert_eq!(product, round * width);
        }
        let insert = sqlx::query(sql(format!("INSERT INTO {} VALUES ($1)", scene.table)));
        insert.bind(round).execute(&mut connection).await?;
    }
    assert_eq!(connection.cached_statements_size(), CAPACITY);
    assert_eq!(count(&mut connection, &scene.table).await?, 3);
    Ok(())
}

async fn statements_that_are_not_kept(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    connection.clear_cached_statements().await?;
    for n in 0..10_i64 {
        for persistent in [false, true] {
            let insert = sqlx::query(sql(format!("INSERT INTO {table} VALUES ($1)"))).bind(1);
            insert.persistent(persistent && n == 0).execute(&mut connection).await?;
            let select =
                sqlx::query_scalar(sql(format!("SELECT count(*) FROM {table} WHERE id = $1"))).bind(1);
            let found: i64 = select.persistent(persistent && n == 0).fetch_one(&mut connection).await?;
            assert_eq!(found, 2 * n + 1 + i64::from(persistent));
        }
    }
    assert_eq!(connection.cached_statements_size(), 2);
    Ok(())
}

async fn statements_are_described(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id bigint, name text, at timestamptz").await?;
    let text = format!("SELECT * FROM {table} WHERE id = $1 AND name = $2");
    let statement = connection.prepare(sql(text).into_sql_str()).await?;
    let columns: Vec<_> =
        statement.columns().iter().map(|column| (column.name(), column.type_info().name())).collect();
    assert_eq!(columns, [("id", "INT8"), ("name", "TEXT"), ("at", "TIMESTAMPTZ")]);
    let Some(Either::Left(parameters)) = statement.parameters() else { return Err("no parameters".into()) };
    let parameters: Vec<_> = parameters.iter().map(|parameter| parameter.name()).collect();
    assert_eq!(parameters, ["INT8", "TEXT"]);
    assert!(statement.query().bind(1_i64).bind("x").fetch_optional(&mut connection).await?.is_none());
    Ok(())
}

async fn a_cached_statement_and_ddl(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int").await?;
    connection.execute(sql(format!("INSERT INTO {table} VALUES (1)"))).await?;
    let columns = format!("SELECT * FROM {table} WHERE id = $1");
    let before = sqlx::query(sql(columns.clone())).bind(1).fetch_one(&mut connection).await?;
    assert_eq!(before.len(), 1);
    connection.execute(sql(format!("ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7"))).await?;
    // PostgreSQL refuses the plan that it has, once for each session that has it; a driver that forgets its statements
    // then gets another.
    let refused = sqlx::query(sql(columns.clone())).bind(1).fetch_one(&mut connection).await;
    assert!(matches!(sqlstate(refused).as_str(), "0A000" | ""));
    connection.clear_cached_statements().await?;
    let after = sqlx::query(sql(columns)).bind(1).fetch_one(&mut connection).await?;
    assert_eq!(after.try_get::<i32, _>("extra")?, 7);
    Ok(())
}

async fn several_statements_in_one_string(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.connect().await?;
    let text = format!(
        "CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1), (2); SELECT id FROM {table} ORDER BY id; \
         SELECT 3"
    );
    let results = sqlx::raw_sql(sql(text)).fetch_many(&mut connection).try_collect::<Vec<_>>().await?;
    let row = |row: &PgRow| row.try_get::<i32, _>(0);
    let rows = results.iter().filter_map(|result| result.as_ref().right().map(row));
    assert_eq!(rows.collect::<sqlx::Result<Vec<_>>>()?, [1, 2, 3]);
    let affected = results.iter().filter_map(|result| Some(result.as_ref().left()?.rows_affected()));
    assert_eq!(affected.collect::<Vec<_>>(), [0, 2, 2, 1]);
    // One transaction: the first is undone by the failure of the second.
    let half = sqlx::raw_sql(sql(format!("INSERT INTO {table} VALUES (3); SELECT 1 / 0")));
    assert_eq!(sqlstate(half.execute(&mut connection).await), "22012");
    assert_eq!(count(&mut connection, table).await?, 2);
    Ok(())
}

async fn rows_are_streamed(scene: &Scene) -> Done {
    let mut connection = scene.with_table("n int").await?;
    let insert = format!("INSERT INTO {} SELECT generate_series(1, 20000) RETURNING n", scene.table);
    let written =
        sqlx::query(sql(insert)).fetch(&mut connection).try_fold(0, async |sum, _| Ok(sum + 1)).await?;
    assert_eq!(written, 20_000);
    let select = format!("SELECT n FROM {} WHERE n > $1 ORDER BY n", scene.table);
    let mut rows = sqlx::query_scalar::<_, i32>(sql(select.clone())).bind(0).fetch(&mut connection);
    let mut sum = 0_i64;
    while let Some(n) = rows.try_next().await? {
        sum += i64::from(n);
    }
    drop(rows);
    assert_eq!(sum, 20_000 * 20_001 / 2);
    // Abandoned in its middle: the driver skips the rest before the next statement.
    let mut rows = sqlx::query_scalar::<_, i32>(sql(select)).bind(100).fetch(&mut connection);
    assert_eq!(rows.try_next().await?, Some(101));
    drop(rows);
    assert_eq!(count(&mut connection, &scene.table).await?, 20_000);
    Ok(())
}

async fn many_parameters(scene: &Scene) -> Done {
    let mut connection = scene.with_table("id int, name text").await?;
    let mut insert = QueryBuilder::new(format!("INSERT INTO {} ", scene.table));
    insert.push_values(0..1000, |mut row, n| {
        row.push_bind(n).push_bind(format!("name {n}"));
    });
    assert_eq!(insert.build().execute(&mut connection).await?.rows_affected(), 1000);
    let arrays =
        sqlx::query(sql(format!("INSERT INTO {} SELECT * FROM unnest($1::int[], $2::text[])", scene.table)));
    let (ids, names): (Vec<i32>, Vec<String>) = (1000..3000).map(|n| (n, format!("name {n}"))).unzip();
    assert_eq!(arrays.bind(ids).bind(names).execute(&mut connection).await?.rows_affected(), 2000);
    let wrong = count(&mut connection, &format!("{} WHERE name <> 'name ' || id", scene.table)).await?;
    assert_eq!(wrong, 0);
    assert_eq!(count(&mut connection, &scene.table).await?, 3000);
    Ok(())
}

async fn copy_in_both_directions(scene: &Scene) -> Done {
    let table = &scene.table;
    let mut connection = scene.with_table("id int, name text").await?;
    let lines: String = (0..5000).map(|n| format!("{n}\tname {n}\n")).collect();
    let mut transaction = connection.begin().await?;
    let mut copy = transaction.copy_in_raw(&format!("COPY {table} FROM STDIN")).await?;
    for part in lines.as_bytes().chunks(1000) {
        copy.send(part).await?;
    }
    assert_eq!(copy.finish().await?, 5000);
    transaction.commit().await?;
    let copy =
        connection.copy_out_raw(&format!("COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT")).await?;
    let out = copy.try_fold(Vec::new(), async |all, part| Ok([all, part.to_vec()].concat())).await?;
    assert_eq!(String::from_utf8(out)?, lines);
    Ok(())
}

async fn copy_that_fails(scene: &Scene) -> Done {
    let mut connection = scene.with_table("id int, name text").await?;
    let text = format!("COPY {} FROM STDIN", scene.table);
    let mut copy = connection.copy_in_raw(&text).await?;
    copy.send(&b"1\tone\n"[..]).await?;
    copy.abort("changed my mind").await?;
    let mut copy = connection.copy_in_raw(&text).await?;
    copy.send(&b"x\ty\n"[..]).await?;
    assert_eq!(sqlstate(copy.finish().await), "22P02");
    // After a copy that was dropped halfway the driver itself loses count of the answers: that is not tried.
    assert_eq!(count(&mut connection, &scene.table).await?, 0);
    let refused = connection.copy_out_raw("COPY nowhere TO STDOUT").await;
    assert_eq!(sqlstate(refused.map(drop)), "42P01");
    Ok(())
}

async fn large_values_both_ways(scene: &Scene) -> Done {
    let mut connection = scene.with_table("b bytea").await?;
    let payload: Vec<u8> = (0..=255).cycle().take(10 << 20).collect();
    let insert = sqlx::query_scalar(sql(format!("INSERT INTO {} VALUES ($1) RETURNING b", scene.table)));
    let returned: Vec<u8> = insert.bind(&payload).fetch_one(&mut connection).await?;
    assert!(returned == payload);
    let select = sqlx::query_scalar(sql(format!("SELECT b FROM {}", scene.table)));
    let found: Vec<u8> = select.fetch_one(&mut connection).await?;
    assert!(found == payload);
    Ok(())
}
