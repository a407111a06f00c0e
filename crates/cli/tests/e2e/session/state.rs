//! What a session sets up has to count wherever its next statement runs.

use crate::support::{AP, EU, Lab};

pub(crate) async fn temporary_tables(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE shade (id int); INSERT INTO shade VALUES (1)").await;
    eu.expect("SELECT count(*) FROM shade", 1).await;
    // Hides the table of the same name.
    eu.run("CREATE TEMP TABLE shade AS SELECT generate_series(1, 5) AS id").await;
    eu.expect("SELECT count(*) FROM shade", 5).await;
    eu.run("INSERT INTO shade VALUES (6)").await;
    eu.expect("SELECT count(*) FROM shade", 6).await;
    eu.expect("SELECT count(*) FROM public.shade", 1).await;
    lab.connect(EU).await.expect("SELECT count(*) FROM shade", 1).await;
    eu.run("DROP TABLE shade").await;
    eu.expect("SELECT count(*) FROM shade", 1).await;
    eu.run("CREATE TEMP TABLE gone (id int) ON COMMIT DROP").await;
    assert_eq!(eu.fails("SELECT * FROM gone").await, "42P01");
    eu.run("DROP TABLE public.shade").await;
}

pub(crate) async fn settings_count_on_both_servers(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE SCHEMA other; CREATE TABLE other.thing (at timestamptz)").await;
    eu.run("SET search_path = other, public; SET TimeZone = 'Asia/Tokyo'").await;
    eu.run("INSERT INTO thing VALUES ('2026-01-01 09:00')").await;
    // Read here, with the settings made before anything went to the primary.
    eu.expect("SELECT at FROM thing", "2026-01-01 09:00:00+09").await;
    eu.run("SET TimeZone = 'UTC'").await;
    eu.expect("SELECT at FROM thing", "2026-01-01 00:00:00+00").await;
    // Set in a transaction that is rolled back.
    eu.run("BEGIN; SET TimeZone = 'Asia/Tokyo'").await;
    eu.expect("SELECT at FROM thing", "2026-01-01 09:00:00+09").await;
    eu.run("ROLLBACK").await;
    eu.expect("SELECT at FROM thing", "2026-01-01 00:00:00+00").await;
    // Set locally, then written: the transaction moves to the primary.
    eu.run("BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'").await;
    eu.expect("SHOW TimeZone", "Asia/Tokyo").await;
    eu.expect("INSERT INTO thing VALUES ('2026-01-02 00:00') RETURNING at", "2026-01-02 00:00:00+09").await;
    eu.run("COMMIT").await;
    eu.expect("SHOW TimeZone", "UTC").await;
    eu.expect("SELECT max(at) FROM thing", "2026-01-01 15:00:00+00").await;
    eu.expect("SELECT set_config('TimeZone', 'Asia/Tokyo', false)", "Asia/Tokyo").await;
    eu.expect("SELECT max(at) FROM thing", "2026-01-02 00:00:00+09").await;
    eu.expect("UPDATE thing SET at = at WHERE at < '2026-01-02' RETURNING at", "2026-01-01 09:00:00+09")
        .await;
    eu.run("RESET ALL").await;
    assert_eq!(eu.fails("SELECT * FROM thing").await, "42P01");
    assert_eq!(eu.fails("SET TimeZone = 'Atlantis'").await, "22023");
    // Roles.
    eu.run("CREATE ROLE clerk; GRANT USAGE ON SCHEMA other TO clerk; GRANT SELECT ON other.thing TO clerk")
        .await;
    eu.run("SET ROLE clerk").await;
    eu.expect("SELECT current_user || count(*) FROM other.thing", "clerk2").await;
    assert_eq!(eu.fails("DELETE FROM other.thing").await, "42501");
    eu.run("RESET ROLE; DROP TABLE other.thing; DROP SCHEMA other; DROP ROLE clerk").await;
}

pub(crate) async fn sequences_and_advisory_locks(lab: &Lab) {
    let (eu, ap) = (lab.connect(EU).await, lab.connect(AP).await);
    eu.run("CREATE SEQUENCE ticket; CREATE TABLE numbered (id serial PRIMARY KEY, note text)").await;
    eu.expect("SELECT nextval('ticket')", 1).await;
    ap.expect("SELECT nextval('ticket')", 2).await;
    eu.expect("SELECT currval('ticket')", 1).await;
    assert_eq!(lab.connect(EU).await.fails("SELECT currval('ticket')").await, "55000");
    eu.expect("INSERT INTO numbered (note) VALUES ('x') RETURNING id", 1).await;
    eu.expect("SELECT lastval()", 1).await;
    eu.expect("SELECT note FROM numbered WHERE id = currval('numbered_id_seq')", "x").await;

    eu.expect("SELECT pg_try_advisory_lock(7)", "t").await;
    ap.expect("SELECT pg_try_advisory_lock(7)", "f").await;
    eu.expect("SELECT pg_advisory_unlock(7)", "t").await;
    ap.expect("SELECT pg_try_advisory_lock(7)", "t").await;
    ap.run("BEGIN; SELECT pg_advisory_xact_lock(8)").await;
    eu.expect("SELECT pg_try_advisory_lock(8)", "f").await;
    ap.run("COMMIT").await;
    eu.expect("SELECT pg_try_advisory_lock(8)", "t").await;
    eu.run("SELECT pg_advisory_unlock_all(); DROP SEQUENCE ticket; DROP TABLE numbered").await;
}

pub(crate) async fn prepared_statements_of_sql(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE shelf (id int, book text)").await;
    eu.run("PREPARE put (int, text) AS INSERT INTO shelf VALUES ($1, $2)").await;
    eu.run("PREPARE look (int) AS SELECT book FROM shelf WHERE id = $1").await;
    for id in 0..5 {
        eu.run(&format!("EXECUTE put ({id}, 'book {id}')")).await;
        eu.expect(&format!("EXECUTE look ({id})"), format!("book {id}")).await;
        eu.run("BEGIN").await;
        eu.expect(&format!("EXECUTE look ({id})"), format!("book {id}")).await;
        eu.run(&format!("EXECUTE put ({id}, 'again')")).await;
        eu.expect(&format!("SELECT count(*) FROM shelf WHERE id = {id}"), 2).await;
        eu.run("ROLLBACK").await;
    }
    eu.expect("SELECT string_agg(name, ',' ORDER BY name) FROM pg_prepared_statements", "look,put").await;
    assert_eq!(eu.fails("PREPARE look AS SELECT 1").await, "42P05");
    eu.run("DEALLOCATE look").await;
    assert_eq!(eu.fails("EXECUTE look (1)").await, "26000");
    eu.run("DEALLOCATE ALL").await;
    assert_eq!(eu.fails("EXECUTE put (1, '')").await, "26000");
    eu.run("DROP TABLE shelf").await;
}

pub(crate) async fn cursors(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("CREATE TABLE row_of (n int); INSERT INTO row_of SELECT generate_series(1, 20)").await;
    eu.run("BEGIN; DECLARE c SCROLL CURSOR FOR SELECT n FROM row_of ORDER BY n").await;
    eu.expect("FETCH 3 FROM c", 1).await;
    eu.expect("FETCH FROM c", 4).await;
    eu.run("INSERT INTO row_of VALUES (0)").await;
    eu.expect("FETCH PRIOR FROM c", 3).await;
    eu.run("UPDATE row_of SET n = 100 WHERE n = 20; MOVE ABSOLUTE 10 IN c").await;
    eu.expect("FETCH FROM c", 11).await;
    eu.run("CLOSE c; COMMIT").await;
    assert_eq!(eu.fails("FETCH FROM c").await, "34000");
    eu.run("BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT n FROM row_of ORDER BY n; COMMIT").await;
    eu.expect("FETCH FROM h", 0).await;
    eu.run("INSERT INTO row_of VALUES (-1)").await;
    eu.expect("FETCH FROM h", 1).await;
    eu.run("CLOSE ALL; DROP TABLE row_of").await;
}

pub(crate) async fn large_objects(lab: &Lab) {
    let eu = lab.connect(EU).await;
    let oid = eu.text("SELECT lo_from_bytea(0, 'hello')").await;
    eu.expect(&format!("SELECT convert_from(lo_get({oid}), 'UTF8')"), "hello").await;
    eu.run(&format!("SELECT lo_put({oid}, 5, ' there')")).await;
    eu.expect(&format!("SELECT convert_from(lo_get({oid}), 'UTF8')"), "hello there").await;
    eu.run(&format!("BEGIN; SELECT lo_open({oid}, 393216)")).await;
    eu.expect("SELECT convert_from(loread(0, 5), 'UTF8')", "hello").await;
    eu.run("COMMIT").await;
    eu.expect(&format!("SELECT lo_unlink({oid})"), 1).await;
    assert_eq!(eu.fails(&format!("SELECT lo_get({oid})")).await, "42704");
}

pub(crate) async fn discard_all(lab: &Lab) {
    let eu = lab.connect(EU).await;
    eu.run("SET TimeZone = 'Asia/Tokyo'; PREPARE p AS SELECT 1; CREATE TEMP TABLE t (id int)").await;
    eu.expect("SELECT pg_try_advisory_lock(99)", "t").await;
    eu.run("DISCARD ALL").await;
    assert_eq!(eu.fails("EXECUTE p").await, "26000");
    assert_eq!(eu.fails("SELECT * FROM t").await, "42P01");
    assert_ne!(eu.text("SHOW TimeZone").await, "Asia/Tokyo");
    lab.connect(AP).await.expect("SELECT pg_try_advisory_lock(99)", "t").await;
    assert_eq!(eu.fails("BEGIN; DISCARD ALL").await, "25001");
    eu.run("ROLLBACK").await;
}
