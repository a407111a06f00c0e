"""psycopg2: libpq with the simple query protocol, which is what most Python programs still speak."""

import datetime
import decimal
import io
import os
import threading
import time
import uuid

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions
import psycopg2.extras
import pytest

psycopg2.extras.register_uuid()

TRANSACTION_POOLING = "--pool-mode transaction" in os.environ.get("PANGEA_UP_OPTIONS", "")


@pytest.fixture
def connect(endpoint, table):
    """Opens connections and closes them after the test, before `table` is dropped: one may hold a lock on it."""
    opened = []

    def open_one(**settings):
        connection = psycopg2.connect(endpoint.uri, **settings)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def cursor(connection):
    connection.autocommit = True
    return connection.cursor()


def test_connects_with_scram(connection, endpoint):
    assert connection.info.used_password
    assert connection.info.dbname == endpoint.dbname
    assert connection.server_version >= 140000
    assert connection.info.parameter_status("server_encoding") == "UTF8"
    assert connection.info.parameter_status("is_superuser") == "on"
    assert connection.info.backend_pid > 0


def test_start_up_settings_reach_the_server(connect):
    connection = connect(application_name="suite", options="-c work_mem=7MB -c intervalstyle=iso_8601")
    with connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert cursor.fetchone() == ("suite",)
        cursor.execute("SHOW work_mem")
        assert cursor.fetchone() == ("7MB",)
    assert connection.info.parameter_status("IntervalStyle") == "iso_8601"


def test_ddl_insert_select_returning(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id serial PRIMARY KEY, name text, n numeric)")
    assert cursor.statusmessage == "CREATE TABLE"
    cursor.execute(f"INSERT INTO {table} (name, n) VALUES (%s, %s) RETURNING id, n", ("ä'\\", decimal.Decimal("1.50")))
    assert cursor.statusmessage == "INSERT 0 1"
    assert cursor.fetchone() == (1, decimal.Decimal("1.50"))
    cursor.execute(f"SELECT name FROM {table} WHERE id = %s", (1,))
    assert cursor.fetchall() == [("ä'\\",)]
    cursor.execute(f"UPDATE {table} SET n = n * 2")
    assert cursor.rowcount == 1
    cursor.execute(f"DELETE FROM {table} RETURNING *")
    assert cursor.fetchall() == [(1, "ä'\\", decimal.Decimal("3.00"))]
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchone() == (0,)


def test_transaction_reads_then_writes_then_reads(connection, connect, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int)")
    connection.commit()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (0,)
        assert connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_INTRANS
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (1,)
        other = connect(options="-c pangea.read_consistency=global").cursor()
        other.execute(f"SELECT count(*) FROM {table}")
        assert other.fetchone() == (0,), "an uncommitted row is visible elsewhere"
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (0,)


def test_with_block_commits_and_rolls_back(connection, table):
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation), connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (2)")
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT array_agg(id) FROM {table}")
        assert cursor.fetchone() == ([1],)


def test_savepoints(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        connection.commit()
        cursor.execute(f"SELECT count(*) FROM {table}")
        cursor.execute("SAVEPOINT before_any_write")
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
        cursor.execute("SAVEPOINT a")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
        cursor.execute("ROLLBACK TO SAVEPOINT a")
        cursor.execute(f"INSERT INTO {table} VALUES (2)")
        cursor.execute("RELEASE SAVEPOINT a")
        cursor.execute(f"SELECT array_agg(id ORDER BY id) FROM {table}")
        assert cursor.fetchone() == ([1, 2],)
        cursor.execute("ROLLBACK TO SAVEPOINT before_any_write")
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (0,)
        cursor.execute(f"INSERT INTO {table} VALUES (3)")
    connection.commit()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT array_agg(id) FROM {table}")
        assert cursor.fetchone() == ([3],)


def test_savepoint_of_a_transaction_that_failed_before_any_write(connection, table):
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT a")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            cursor.execute("SELECT 1/0")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute(f"CREATE TABLE {table} (id int)")
        cursor.execute("ROLLBACK TO SAVEPOINT a")
        cursor.execute(f"CREATE TABLE {table} (id int)")
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
    connection.commit()


def test_commit_of_a_failed_transaction_rolls_back(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int)")
        with pytest.raises(psycopg2.errors.UndefinedTable):
            cursor.execute("SELECT * FROM does_not_exist")
        cursor.execute("COMMIT")
        assert cursor.statusmessage == "ROLLBACK"
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", (table,))
        assert cursor.fetchone() == (None,)


@pytest.mark.parametrize("withhold", [False, True])
def test_named_cursor(connection, withhold):
    cursor = connection.cursor("pages", withhold=withhold)
    cursor.itersize = 100
    cursor.execute("SELECT g FROM generate_series(1, %s) AS g", (1050,))
    assert cursor.fetchmany(10) == [(n,) for n in range(1, 11)]
    if withhold:
        connection.commit()
    assert [n for (n,) in cursor] == list(range(11, 1051))
    cursor.close()


def test_named_cursor_scrolls_and_sees_its_own_writes(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} AS SELECT g AS id FROM generate_series(1, 20) AS g")
    cursor = connection.cursor("scroller", scrollable=True)
    cursor.execute(f"SELECT id FROM {table} ORDER BY id")
    cursor.scroll(10)
    assert cursor.fetchone() == (11,)
    cursor.scroll(-5)
    assert cursor.fetchone() == (7,)
    with connection.cursor() as other:
        other.execute(f"DELETE FROM {table}")
    assert cursor.fetchone() == (8,), "a cursor keeps the snapshot of its opening"


def test_cursor_opened_before_the_first_write(connection, table):
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} AS SELECT g AS id FROM generate_series(1, 5) AS g")
    named = connection.cursor("reader")
    named.execute(f"SELECT id FROM {table} ORDER BY id")
    assert named.fetchone() == (1,)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET id = id + 100")
    assert named.fetchall() == [(2,), (3,), (4,), (5,)]
    connection.commit()


def test_copy_in_and_out(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int, name text)")
    rows = "".join(f"{n}\tname {n}\n" for n in range(5000))
    cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(rows))
    assert cursor.rowcount == 5000
    out = io.StringIO()
    cursor.copy_expert(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT", out)
    assert out.getvalue() == rows
    out = io.BytesIO()
    cursor.copy_expert(f"COPY {table} TO STDOUT (FORMAT binary)", out)
    assert out.getvalue().startswith(b"PGCOPY\n\xff\r\n\0")
    cursor.execute(f"TRUNCATE {table}")
    out.seek(0)
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", out)
    cursor.execute(f"SELECT count(*), sum(id) FROM {table}")
    assert cursor.fetchone() == (5000, sum(range(5000)))


def test_copy_error_leaves_the_connection_usable(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int)")
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation) as error:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO("1\n2\nthree\n" + "4\n" * 50000))
    assert f"COPY {table}, line 3" in error.value.diag.context
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchone() == (0,)

    class Broken(io.StringIO):
        def read(self, size=-1):
            raise RuntimeError("the file went away")

    with pytest.raises(psycopg2.errors.QueryCanceled, match="the file went away"):
        cursor.copy_expert(f"COPY {table} FROM STDIN", Broken())
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_many_rows_in_few_statements(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int, name text)")
    cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", [(n, str(n)) for n in range(50)])
    psycopg2.extras.execute_batch(
        cursor, f"INSERT INTO {table} VALUES (%s, %s)", [(n, str(n)) for n in range(50, 200)], page_size=40
    )
    rows = psycopg2.extras.execute_values(
        cursor, f"INSERT INTO {table} VALUES %s RETURNING id", [(n, str(n)) for n in range(200, 500)], fetch=True
    )
    assert len(rows) == 300
    cursor.execute(f"SELECT count(*), sum(id) FROM {table}")
    assert cursor.fetchone() == (500, sum(range(500)))


def test_several_statements_in_one_string(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (1); SELECT count(*) FROM {table}")
    assert cursor.fetchone() == (1,)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        cursor.execute(f"SELECT 1; INSERT INTO {table} VALUES (2); SELECT 1/0")
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchone() == (1,), "the string is one transaction: all of it was to be rolled back"


def test_sql_prepare_and_execute(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int)")
    cursor.execute(f"PREPARE put (int) AS INSERT INTO {table} VALUES ($1)")
    cursor.execute(f"PREPARE get AS SELECT count(*) FROM {table}")
    for n in range(5):
        cursor.execute("EXECUTE put(%s)", (n,))
        cursor.execute("EXECUTE get")
        assert cursor.fetchone() == (n + 1,)
    cursor.execute("DEALLOCATE get")
    with pytest.raises(psycopg2.errors.InvalidSqlStatementName):
        cursor.execute("EXECUTE get")


def test_listen_and_notify(connect, name):
    listener, notifier = connect(), connect()
    for connection in (listener, notifier):
        connection.autocommit = True
    listener.cursor().execute(f"LISTEN {name}")
    notifier.cursor().execute(f"NOTIFY {name}, 'hello'")
    notifier.cursor().execute("SELECT pg_notify(%s, %s)", (name, "again"))
    deadline = time.monotonic() + 10
    while len(listener.notifies) < 2 and time.monotonic() < deadline:
        listener.poll()
        time.sleep(0.01)
    assert [(notify.channel, notify.payload) for notify in listener.notifies] == [(name, "hello"), (name, "again")]
    # The sender of another session is named as the primary knows it; one's own notifications are one's own.
    listener.notifies.clear()
    listener.cursor().execute(f"NOTIFY {name}, 'mine'")
    listener.poll()
    assert [(notify.pid, notify.payload) for notify in listener.notifies] == [(listener.info.backend_pid, "mine")]


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(30)", "DO $$ BEGIN PERFORM pg_sleep(30); END $$"])
def test_cancel(connect, statement):
    connection, bystander = connect(), connect()
    bystander.autocommit = True
    outcome = []

    def sleep_beside():
        with bystander.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1.5)")
            outcome.append("slept")

    beside = threading.Thread(target=sleep_beside)
    beside.start()
    timer = threading.Timer(0.5, connection.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(psycopg2.errors.QueryCanceled, match="due to user request"), connection.cursor() as cursor:
        cursor.execute(statement)
    assert time.monotonic() - began < 10
    timer.join()
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    beside.join()
    assert outcome == ["slept"], "the cancel request reached a query of another session"


def test_cancel_inside_a_transaction_that_wrote(connection, table):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int)")
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("SELECT pg_sleep(30)")
        timer.join()
    connection.rollback()


def test_statement_timeout(cursor):
    cursor.execute("SET statement_timeout = 100")
    with pytest.raises(psycopg2.errors.QueryCanceled, match="statement timeout"):
        cursor.execute("SELECT pg_sleep(30)")


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("SELEC 1", "42601"),
        ("SELECT 1/0", "22012"),
        ("SELECT * FROM does_not_exist", "42P01"),
        ("INSERT INTO does_not_exist VALUES (1)", "42P01"),
        ("SELECT nope FROM pg_class", "42703"),
        ("SELECT 'a'::int", "22P02"),
        ("SELECT does_not_exist()", "42883"),
        ("CREATE TABLE pg_catalog.mine (id int)", "42501"),
        ("ROLLBACK TO SAVEPOINT nowhere", "25P01"),
        ("SET work_mem = 'much'", "22023"),
        ("DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'P0042'; END $$", "P0042"),
    ],
)
def test_errors_carry_their_sqlstate(cursor, statement, sqlstate):
    with pytest.raises(psycopg2.Error) as error:
        cursor.execute(statement)
    assert error.value.pgcode == sqlstate
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_error_fields(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int CONSTRAINT one_each PRIMARY KEY, n int CHECK (n > 0))")
    cursor.execute(f"INSERT INTO {table} VALUES (1, 1)")
    with pytest.raises(psycopg2.errors.UniqueViolation) as error:
        cursor.execute(f"INSERT INTO {table} VALUES (1, 2)")
    diag = error.value.diag
    assert (diag.severity, diag.sqlstate) == ("ERROR", psycopg2.errorcodes.UNIQUE_VIOLATION)
    assert (diag.schema_name, diag.table_name, diag.constraint_name) == ("public", table, "one_each")
    assert diag.message_primary == 'duplicate key value violates unique constraint "one_each"'
    assert diag.message_detail == "Key (id)=(1) already exists."
    assert diag.source_function == "_bt_check_unique"
    with pytest.raises(psycopg2.errors.UndefinedColumn) as error:
        cursor.execute("SELECT 1, nope FROM pg_class")
    assert error.value.diag.statement_position == "11"


def test_notices(cursor, connection):
    cursor.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING HINT = 'do'; END $$")
    assert [notice.strip() for notice in connection.notices[:1]] == ["NOTICE:  one"]
    assert "WARNING:  two" in connection.notices[1] and "HINT:  do" in connection.notices[1]
    cursor.execute("DROP TABLE IF EXISTS surely_not_there")
    assert 'NOTICE:  table "surely_not_there" does not exist, skipping\n' in connection.notices


def test_large_objects(connection):
    large = connection.lobject(0, "wb")
    oid = large.oid
    payload = bytes(range(256)) * 4096
    large.write(payload)
    large.close()
    connection.commit()
    large = connection.lobject(oid, "rb")
    assert large.read() == payload
    large.seek(100)
    assert large.read(10) == payload[100:110]
    assert large.tell() == 110
    large.close()
    connection.commit()
    large = connection.lobject(oid, "w")
    large.truncate(5)
    connection.commit()
    large = connection.lobject(oid, "rb")
    assert large.read() == payload[:5]
    large.unlink()
    connection.commit()
    with pytest.raises(psycopg2.OperationalError):
        connection.lobject(oid, "rb")


def test_two_phase_commit(connect, table, name):
    connection = connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int)")
    for end, rows in (("tpc_rollback", 0), ("tpc_commit", 1)):
        connection.tpc_begin(connection.xid(0, name, end))
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
        connection.tpc_prepare()
        connection.reset()
        other = connect()
        (mine,) = [xid for xid in other.tpc_recover() if xid.gtrid == name]
        getattr(other, end)(mine)
        with other.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchone() == (rows,)


def test_types(cursor, table):
    cursor.execute(
        f"CREATE TABLE {table} (i bigint, f float8, n numeric, b bool, t text, y bytea, d date, ts timestamptz,"
        " iv interval, u uuid, j jsonb, a int[], ta text[], r int4range, ip inet)"
    )
    moment = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=datetime.timezone.utc)
    row = (
        2**62, 0.1, decimal.Decimal("12345678901234567890.123456789"), True, "snow ☃ \U0001f600", b"\0\xff\\",
        moment.date(), moment, datetime.timedelta(days=3, microseconds=5), uuid.UUID(int=7),
        {"k": [1, None, "v"]}, [1, None, 3], ["a,b", 'q"', "\\", None], "[1,5)", "10.0.0.0/8",
    )  # fmt: skip
    cursor.execute(
        f"INSERT INTO {table} VALUES ({', '.join(['%s'] * 15)})",
        [psycopg2.extras.Json(value) if isinstance(value, dict) else value for value in row],
    )
    cursor.execute(f"SELECT i, f, n, b, t, y, d, ts, iv, u, j, a, ta, r::text, ip::text FROM {table}")
    found = list(cursor.fetchone())
    found[5] = bytes(found[5])
    assert found == list(row)
    cursor.execute(f"INSERT INTO {table} (i, t) VALUES (NULL, '') RETURNING i, t")
    assert cursor.fetchone() == (None, "")


def test_large_values_both_ways(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (b bytea)")
    payload = bytes(range(256)) * 40960
    cursor.execute(f"INSERT INTO {table} VALUES (%s) RETURNING md5(b)", (psycopg2.Binary(payload),))
    digest = cursor.fetchone()
    cursor.execute(f"SELECT b, md5(b) FROM {table}")
    found, found_digest = cursor.fetchone()
    assert bytes(found) == payload
    assert (found_digest,) == digest


def test_many_rows(cursor):
    cursor.execute("SELECT g, repeat('x', 100) FROM generate_series(1, 200000) AS g")
    assert cursor.rowcount == 200000
    assert cursor.fetchall()[-1][0] == 200000


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_tls_is_the_clients_choice(connect, sslmode):
    connection = connect(sslmode=sslmode)
    assert bool(connection.info.ssl_in_use) == (sslmode != "disable")


def test_tls_verified_to_the_name(connect, ca):
    connection = connect(host="localhost", sslmode="verify-full", sslrootcert=ca)
    assert connection.info.ssl_in_use
    assert connection.info.ssl_attribute("protocol") in ("TLSv1.2", "TLSv1.3")
    with pytest.raises(psycopg2.OperationalError, match="certificate|self-signed|self signed"):
        connect(host="localhost", sslmode="verify-full", sslrootcert="/etc/ssl/certs/ca-certificates.crt")


def test_wrong_password_user_and_database(connect, name):
    for settings, message in (
        ({"password": "wrong"}, 'password authentication failed for user "postgres"'),
        ({"user": name}, f'password authentication failed for user "{name}"'),
        ({"dbname": name}, f'database "{name}" does not exist'),
    ):
        with pytest.raises(psycopg2.OperationalError) as error:
            connect(**settings)
        assert f"FATAL:  {message}" in str(error.value)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels(connect, table, level):
    connection, other = connect(), connect()
    other.autocommit = True
    other.cursor().execute(f"CREATE TABLE {table} AS SELECT 1 AS n")
    connection.set_session(isolation_level=level)
    cursor = connection.cursor()
    cursor.execute("SHOW transaction_isolation")
    assert cursor.fetchone() == (level.lower(),)
    connection.rollback()
    # The table was created by another session; what this one sees of it starts with a write of its own.
    cursor.execute(f"UPDATE {table} SET n = 2")
    connection.commit()
    cursor.execute(f"SELECT n FROM {table}")
    assert cursor.fetchone() == (2,)
    other.cursor().execute(f"UPDATE {table} SET n = 3")
    if level == "READ COMMITTED":
        cursor.execute(f"UPDATE {table} SET n = n + 1 RETURNING n")
        assert cursor.fetchone() == (4,)
    else:
        cursor.execute(f"SELECT n FROM {table}")
        assert cursor.fetchone() == (2,)
        with pytest.raises(psycopg2.errors.SerializationFailure):
            cursor.execute(f"UPDATE {table} SET n = n + 1")
    connection.rollback()


def test_write_skew_is_refused_when_serializable(connect, table):
    with connect() as setup, setup.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} AS SELECT g AS id, true AS on_call FROM generate_series(1, 2) AS g")
    one, two = connect(), connect()
    with pytest.raises(psycopg2.errors.SerializationFailure):
        for connection in (one, two):
            connection.set_session(isolation_level="SERIALIZABLE")
            connection.cursor().execute(f"SELECT count(*) FROM {table} WHERE on_call")
        for connection, doctor in ((one, 1), (two, 2)):
            connection.cursor().execute(f"UPDATE {table} SET on_call = false WHERE id = %s", (doctor,))
        one.commit()
        two.commit()


def test_read_only_transactions(connection, table):
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id int)")
    connection.set_session(readonly=True)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
    connection.rollback()
    connection.set_session(readonly=False)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1)")


def test_set_show_and_reset(connection):
    cursor = connection.cursor()
    cursor.execute("SHOW transaction_read_only")
    assert cursor.fetchone() == ("off",)
    connection.rollback()
    cursor.execute("SET work_mem = '9MB'")
    connection.rollback()
    cursor.execute("SHOW work_mem")
    before = cursor.fetchone()
    assert before != ("9MB",), "SET is undone by ROLLBACK"
    cursor.execute("SET work_mem = '9MB'")
    connection.commit()
    cursor.execute("SET LOCAL work_mem = '10MB'; SHOW work_mem")
    assert cursor.fetchone() == ("10MB",)
    connection.commit()
    cursor.execute("SELECT current_setting('work_mem')")
    assert cursor.fetchone() == ("9MB",)
    cursor.execute("RESET work_mem; SHOW work_mem")
    assert cursor.fetchone() == before
    cursor.execute("SET TIME ZONE 'Asia/Kathmandu'")
    assert connection.info.parameter_status("TimeZone") == "Asia/Kathmandu"
    connection.rollback()
    assert connection.info.parameter_status("TimeZone") != "Asia/Kathmandu"
    connection.set_client_encoding("LATIN1")
    cursor.execute("SELECT 'é'")
    assert cursor.fetchone() == ("é",)


def test_settings_hold_for_reads_and_writes_alike(cursor, table):
    """A setting made once applies to statements that may run on different servers."""
    cursor.execute("SET extra_float_digits = 0; SET TIME ZONE 'America/St_Johns'; SET suite.mark = 'here'")
    cursor.execute("SELECT current_setting('suite.mark'), '2024-07-01 12:00Z'::timestamptz::text")
    read = cursor.fetchone()
    cursor.execute(f"CREATE TABLE {table} (mark text, at text)")
    cursor.execute(
        f"INSERT INTO {table} VALUES (current_setting('suite.mark'), '2024-07-01 12:00Z'::timestamptz::text) RETURNING *"
    )
    assert cursor.fetchone() == read == ("here", "2024-07-01 09:30:00-02:30")


def test_search_path(cursor, connect, name):
    cursor.execute(f"CREATE SCHEMA {name}")
    try:
        cursor.execute(f"SET search_path = {name}, public")
        cursor.execute("CREATE TABLE only_here (id int)")
        cursor.execute("INSERT INTO only_here VALUES (1)")
        cursor.execute("SELECT count(*) FROM only_here")
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT current_schema()")
        assert cursor.fetchone() == (name,)
        cursor.execute("SELECT 'only_here'::regclass::text")
        assert cursor.fetchone() == ("only_here",)
        with connect(options=f"-c search_path={name}") as other, other.cursor() as other_cursor:
            other_cursor.execute("INSERT INTO only_here VALUES (2) RETURNING id")
            assert other_cursor.fetchone() == (2,)
    finally:
        cursor.execute(f"DROP SCHEMA {name} CASCADE")


def test_temporary_tables(connect, name):
    connection = connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE {name} (id int)")
        cursor.execute(f"INSERT INTO {name} VALUES (1)")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {name}")
        assert cursor.fetchone() == (1,)
    with pytest.raises(psycopg2.errors.UndefinedTable), connect() as other, other.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {name}")


def test_advisory_locks_exclude_other_sessions(connect):
    one, two = connect(), connect()
    for connection in (one, two):
        connection.autocommit = True
    with one.cursor() as first, two.cursor() as second:
        first.execute("SELECT pg_try_advisory_lock(4242)")
        assert first.fetchone() == (True,)
        second.execute("SELECT pg_try_advisory_lock(4242)")
        assert second.fetchone() == (False,)
        first.execute("SELECT pg_advisory_unlock(4242)")
        assert first.fetchone() == (True,)


def test_row_locks_exclude_other_sessions(connect, table):
    one, two = connect(), connect()
    with one, one.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} AS SELECT 1 AS id")
    with one.cursor() as first, two.cursor() as second:
        first.execute(f"SELECT id FROM {table} FOR UPDATE")
        assert first.fetchone() == (1,)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            second.execute(f"SELECT id FROM {table} FOR UPDATE NOWAIT")
        two.rollback()
        second.execute(f"SELECT id FROM {table} FOR UPDATE SKIP LOCKED")
        assert second.fetchall() == []
    one.rollback()
    two.rollback()


def test_sequences(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id bigserial)")
    if TRANSACTION_POOLING:
        # What a sequence has given last only the server connection knows, which is another for each transaction: never
        # a value of somebody else. Who has asked for it keeps its connection from then on.
        cursor.execute(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")
        with pytest.raises(psycopg2.Error) as refused:
            cursor.execute("SELECT lastval()")
        assert refused.value.pgcode == "55000"
        cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1, false)")
    cursor.execute(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")
    assert cursor.fetchone() == (1,)
    cursor.execute("SELECT lastval(), currval(pg_get_serial_sequence(%s, 'id'))", (table,))
    assert cursor.fetchone() == (1, 1)


def test_functions_that_write(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int)")
    cursor.execute(
        f"CREATE FUNCTION {table}_put(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO {table} VALUES (n) RETURNING id'"
    )
    try:
        for n in range(3):
            cursor.execute(f"SELECT {table}_put(%s)", (n,))
            assert cursor.fetchone() == (n,)
        cursor.execute(f"WITH moved AS (DELETE FROM {table} RETURNING id) SELECT count(*) FROM moved")
        assert cursor.fetchone() == (3,)
    finally:
        cursor.execute(f"DROP FUNCTION {table}_put")


def test_read_your_own_writes(cursor, table):
    cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text)")
    missed = []
    for n in range(200):
        cursor.execute(f"INSERT INTO {table} VALUES (%s, %s)", (n, f"v{n}"))
        cursor.execute(f"SELECT v FROM {table} WHERE id = %s", (n,))
        if cursor.fetchone() != (f"v{n}",):
            missed.append(n)
    assert missed == []


def test_dropping_the_connection_ends_its_transaction(connect, table):
    with connect() as setup, setup.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} AS SELECT 1 AS id")
    gone = connect()
    gone.cursor().execute(f"UPDATE {table} SET id = 2")
    gone.close()
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '10s'")
        cursor.execute(f"UPDATE {table} SET id = 3 RETURNING id")
        assert cursor.fetchone() == (3,)
        cursor.execute(f"SELECT array_agg(id) FROM {table}")
        assert cursor.fetchone() == ([3],)
    connection.rollback()


def test_asynchronous_connection(endpoint):
    """libpq's non-blocking start-up and queries take other code paths than the blocking ones."""
    connection = psycopg2.connect(endpoint.uri, async_=True)
    psycopg2.extras.wait_select(connection)
    cursor = connection.cursor()
    cursor.execute("SELECT g FROM generate_series(1, 3) AS g")
    psycopg2.extras.wait_select(connection)
    assert cursor.fetchall() == [(1,), (2,), (3,)]
    connection.close()
