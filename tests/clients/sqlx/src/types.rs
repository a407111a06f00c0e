//! Values in binary, there and back.

use std::ops::Bound;

use serde_json::json;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{PgInterval, PgRange};
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgHasArrayType, PgTypeInfo, PgValueRef, Postgres};
use sqlx::types::time::OffsetDateTime;
use sqlx::types::{Json, Uuid};
use sqlx::{Column as _, Connection as _, Decode, Encode, Executor as _, Row as _, Type, TypeInfo as _};

use crate::{Done, Scene, checks, sql};

checks! {
    values_of_many_types,
    types_that_users_have_made,
}

async fn values_of_many_types(scene: &Scene) -> Done {
    let columns = "b bool, i2 int2, i8 int8, f4 float4, f8 float8, t text, y bytea, ts timestamptz, iv interval, \
                   u uuid, j jsonb, a int4[], ta text[], r int4range, missing int4";
    let mut connection = scene.with_table(columns).await?;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(-999_999_000)?;
    let interval = PgInterval { months: 1, days: -2, microseconds: 3 };
    let uuid = Uuid::from_u128(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
    let document = json!({"a": [1.5, null], "☃": {}});
    let range = PgRange { start: Bound::Included(1), end: Bound::Excluded(5) };
    let text = format!(
        "INSERT INTO {} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING *",
        scene.table
    );
    let insert = sqlx::query(sql(text)).bind(true).bind(i16::MIN).bind(i64::MIN).bind(f32::MIN_POSITIVE);
    let insert = insert
        .bind(1e-300_f64)
        .bind("snow ☃")
        .bind(vec![0_u8, 255, b'\\'])
        .bind(moment)
        .bind(interval.clone());
    let insert = insert.bind(uuid).bind(Json(&document)).bind(vec![Some(1), None, Some(3)]);
    let insert = insert.bind(vec![Some("a"), None, Some("")]).bind(range.clone()).bind(None::<i32>);
    let returned = insert.fetch_one(&mut connection).await?;
    let found = sqlx::query(sql(format!("SELECT * FROM {}", scene.table))).fetch_one(&mut connection).await?;
    for row in [returned, found] {
        assert!(row.try_get::<bool, _>("b")?);
        assert_eq!(row.try_get::<i16, _>("i2")?, i16::MIN);
        assert_eq!(row.try_get::<i64, _>("i8")?, i64::MIN);
        assert_eq!(row.try_get::<f32, _>("f4")?, f32::MIN_POSITIVE);
        assert_eq!(row.try_get::<f64, _>("f8")?, 1e-300);
        assert_eq!(row.try_get::<String, _>("t")?, "snow ☃");
        assert_eq!(row.try_get::<Vec<u8>, _>("y")?, [0, 255, b'\\']);
        assert_eq!(row.try_get::<OffsetDateTime, _>("ts")?, moment);
        assert_eq!(row.try_get::<PgInterval, _>("iv")?, interval);
        assert_eq!(row.try_get::<Uuid, _>("u")?, uuid);
        assert_eq!(row.try_get::<serde_json::Value, _>("j")?, document);
        assert_eq!(row.try_get::<Vec<Option<i32>>, _>("a")?, [Some(1), None, Some(3)]);
        assert_eq!(
            row.try_get::<Vec<Option<String>>, _>("ta")?,
            [Some("a".into()), None, Some(String::new())]
        );
        assert_eq!(row.try_get::<PgRange<i32>, _>("r")?, range);
        assert_eq!(row.try_get::<Option<i32>, _>("missing")?, None);
    }
    Ok(())
}

/// An enum, which the driver knows by name: it asks the catalogue for its number and its kind.
#[derive(Debug, Clone, PartialEq)]
struct Mood(String);

impl Type<Postgres> for Mood {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("mood")
    }
}

impl PgHasArrayType for Mood {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("mood")
    }
}

impl Encode<'_, Postgres> for Mood {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode(&self.0, buffer)
    }
}

impl Decode<'_, Postgres> for Mood {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_str()?.to_owned()))
    }
}

async fn types_that_users_have_made(scene: &Scene) -> Done {
    let schema = &scene.table;
    let options = scene.options.clone().options([("search_path", schema)]);
    let mut maker = PgConnection::connect_with(&options).await?;
    let text = format!(
        "CREATE SCHEMA {schema}; CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (mood mood, n int); \
         CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0); CREATE TABLE moods (mood mood, pair pair, even even)"
    );
    maker.execute(sql(text)).await?;
    // The types are made before the driver asks for them: it keeps what it has found.
    let settings = [("search_path", schema.as_str()), ("pangea.read_consistency", "global")];
    let mut connection = PgConnection::connect_with(&scene.options.clone().options(settings)).await?;
    let happy = Mood("happy".to_owned());
    let insert =
        sqlx::query("INSERT INTO moods VALUES ($1, ROW($1, 3), 2) RETURNING mood, pair, even, ARRAY[mood]");
    let returned = insert.bind(&happy).fetch_one(&mut connection).await?;
    let select = sqlx::query("SELECT mood, pair, even, ARRAY[mood] FROM moods WHERE mood = ANY($1)");
    let found = select.bind(vec![happy.clone()]).fetch_one(&mut connection).await?;
    for row in [returned, found] {
        assert_eq!(row.try_get::<Mood, _>(0)?, happy);
        assert_eq!(row.column(1).type_info().name(), "pair");
        assert_eq!(row.try_get_unchecked::<i32, _>(2)?, 2);
        assert_eq!(row.try_get::<Vec<Mood>, _>(3)?, std::slice::from_ref(&happy));
    }
    maker.execute(sql(format!("DROP SCHEMA {schema} CASCADE"))).await?;
    Ok(())
}
