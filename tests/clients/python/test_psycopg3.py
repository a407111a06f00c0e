"""psycopg 3: the extended protocol, pipelines, binary formats, COPY as a stream."""

import asyncio
import datetime
import decimal
import ipaddress
import os
import threading
import time
import uuid

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

TRANSACTION_POOLING = "--pool-mode transaction" in os.environ.get("PANGEA_UP_OPTIONS", "")


@pytest.fixture
def connect(endpoint, table):
    """Opens connections and closes them after the test, before `table` is dropped: one may hold a lock on it."""
    opened = []

    def open_one(**settings):
        connection = psycopg.connect(endpoint.uri, **settings)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect):
    return connect(autocommit=True)


def value(connection, query, parameters=None, **how):
    return connection.execute(query, parameters, **how).fetchone()[0]


def test_connects_with_scram(connection):
    assert connection.pgconn.used_password
    assert connection.info.server_version >= 140000
    assert connection.info.encoding == "utf-8"
    assert connection.info.parameter_status("integer_datetimes") == "on"
    assert connection.info.transaction_status == TransactionStatus.IDLE


def test_ddl_insert_select_returning(connection, table):
    connection.execute(f"CREATE TABLE {table} (id serial PRIMARY KEY, name text)")
    cursor = connection.execute(f"INSERT INTO {table} (name) VALUES (%s), (%s) RETURNING id", ("a", "b"))
    assert cursor.statusmessage == "INSERT 0 2"
    assert cursor.fetchall() == [(1,), (2,)]
    with connection.cursor(row_factory=dict_row) as rows:
        found = rows.execute(f"SELECT * FROM {table} WHERE name = %s", ("b",)).fetchall()
    assert found == [{"id": 2, "name": "b"}]
    assert connection.execute(f"SELECT FROM {table}").rowcount == 2


def test_transaction_blocks_nest(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
    with connection.transaction():
        assert value(connection, f"SELECT count(*) FROM {table}") == 0
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(errors.UniqueViolation), connection.transaction():
            connection.execute(f"INSERT INTO {table} VALUES (1)")
        with connection.transaction(force_rollback=True):
            connection.execute(f"INSERT INTO {table} VALUES (2)")
        with connection.transaction("named"):
            connection.execute(f"INSERT INTO {table} VALUES (3)")
        assert value(connection, f"SELECT array_agg(id ORDER BY id) FROM {table}") == [1, 3]
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert value(connection, f"SELECT array_agg(id ORDER BY id) FROM {table}") == [1, 3]


def test_nested_blocks_before_the_first_write(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int)")
    with connection.transaction():
        with connection.transaction():
            assert value(connection, f"SELECT count(*) FROM {table}") == 0
            with connection.transaction():
                connection.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT 1/0")
    assert value(connection, f"SELECT count(*) FROM {table}") == 1


@pytest.mark.parametrize("binary", [False, True])
def test_prepared_statements(connection, table, binary):
    connection.execute(f"CREATE TABLE {table} (id int, name text)")
    for n in range(10):
        connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (n, f"name {n}"), prepare=True)
        cursor = connection.cursor(binary=binary)
        found = cursor.execute(f"SELECT id, name FROM {table} WHERE id = %s", (n,), prepare=True).fetchone()
        assert found == (n, f"name {n}")
    prepared = [row[0] for row in connection.execute("SELECT statement FROM pg_prepared_statements")]
    assert any(f"FROM {table}" in statement for statement in prepared)


def test_prepared_automatically_after_five_executions(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int)")
    for n in range(12):
        connection.execute(f"INSERT INTO {table} VALUES (%s)", (n,))
        assert value(connection, f"SELECT count(*) FROM {table} WHERE id <= %s", (n,)) == n + 1


def test_ddl_under_a_prepared_statement_is_refused_as_by_postgresql(connect, table):
    connection = connect(autocommit=True, options="-c pangea.read_consistency=global")
    connection.execute(f"CREATE TABLE {table} (id int)")
    connection.execute(f"SELECT * FROM {table}", prepare=True)
    connect(autocommit=True).execute(f"ALTER TABLE {table} ADD COLUMN extra int DEFAULT 7")
    try:
        cursor = connection.execute(f"SELECT * FROM {table}", prepare=True)
    except errors.FeatureNotSupported as error:
        assert "cached plan must not change result type" in str(error)
        assert error.diag.source_function == "RevalidateCachedQuery"
    else:
        # It asks what the columns are with each execution, and on another connection they are what they are now.
        assert TRANSACTION_POOLING
        assert [column.name for column in cursor.description] == ["id", "extra"]


def test_deallocate_and_discard(connection):
    connection.prepare_threshold = 0
    assert value(connection, "SELECT %s::int", (1,)) == 1
    connection.execute("DEALLOCATE ALL")
    assert value(connection, "SELECT count(*) FROM pg_prepared_statements", prepare=False) == 0
    assert value(connection, "SELECT %s::int", (2,)) == 2
    connection.execute("SET work_mem = '9MB'", prepare=False)
    connection.execute("DISCARD ALL", prepare=False)
    assert value(connection, "SHOW work_mem") != "9MB"


def test_pipeline(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int, name text)")
    with connection.pipeline() as pipeline:
        inserts = [connection.execute(f"INSERT INTO {table} VALUES (%s, 'x') RETURNING id", (n,)) for n in range(100)]
        count = connection.execute(f"SELECT count(*) FROM {table}")
        pipeline.sync()
        after = connection.execute(f"SELECT max(id) FROM {table}")
    assert [cursor.fetchone()[0] for cursor in inserts] == list(range(100))
    assert count.fetchone() == (100,)
    assert after.fetchone() == (99,)


def test_pipeline_that_reads_first(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int)")
    with connection.pipeline():
        before = connection.execute(f"SELECT count(*) FROM {table}")
        written = connection.execute(f"INSERT INTO {table} VALUES (1) RETURNING id")
        after = connection.execute(f"SELECT count(*) FROM {table}")
    assert [cursor.fetchone()[0] for cursor in (before, written, after)] == [0, 1, 1]


def test_pipeline_with_transactions(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int)")
    with connection.pipeline():
        with connection.transaction():
            connection.execute(f"INSERT INTO {table} VALUES (1)")
        with connection.transaction(force_rollback=True):
            connection.execute(f"INSERT INTO {table} VALUES (2)")
        cursor = connection.execute(f"SELECT array_agg(id) FROM {table}")
        assert cursor.fetchone() == ([1],)


def test_pipeline_error_aborts_up_to_the_sync(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
    with pytest.raises(errors.UniqueViolation), connection.pipeline() as pipeline:
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        pipeline.sync()
        for n in (2, 1, 3):
            connection.execute(f"INSERT INTO {table} VALUES (%s)", (n,))
    assert connection.info.transaction_status == TransactionStatus.IDLE
    connection.execute(f"INSERT INTO {table} VALUES (4)")
    assert value(connection, f"SELECT array_agg(id ORDER BY id) FROM {table}") == [1, 4]


def test_executemany(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int, name text)")
    cursor = connection.cursor()
    cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", [(n, str(n)) for n in range(500)])
    assert cursor.rowcount == 500
    cursor.executemany(f"DELETE FROM {table} WHERE id = %s RETURNING name", [(1,), (2,)], returning=True)
    returned = [cursor.fetchone()]
    while cursor.nextset():
        returned.append(cursor.fetchone())
    assert returned == [("1",), ("2",)]
    with pytest.raises(errors.InvalidTextRepresentation):
        cursor.executemany(f"INSERT INTO {table} VALUES (%s::text::int, %s)", [("7", "x"), ("seven", "x")])
    assert value(connection, f"SELECT count(*) FROM {table}") == 498


def test_server_side_cursor(connect, table):
    connection = connect()
    with connection.cursor("pages") as cursor:
        cursor.execute("SELECT g FROM generate_series(1, %s) AS g", (1000,))
        assert cursor.fetchone() == (1,)
        cursor.scroll(9)
        assert cursor.fetchmany(2) == [(11,), (12,)]
        assert len(cursor.fetchall()) == 988
    connection.commit()
    with connection.cursor("held", scrollable=True, withhold=True, binary=True) as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 10) AS g")
        connection.commit()
        cursor.scroll(10, mode="absolute")
        assert cursor.fetchone() is None
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)
    connection.execute(f"CREATE TABLE {table} AS SELECT 1 AS id")
    with connection.cursor("mine") as cursor:
        cursor.execute(f"SELECT id FROM {table} FOR UPDATE")
        assert cursor.fetchone() == (1,)
        connection.execute(f"UPDATE {table} SET id = 2 WHERE CURRENT OF mine")
    assert value(connection, f"SELECT id FROM {table}") == 2


def test_rows_as_a_stream(connection):
    cursor = connection.cursor()
    total = sum(n for (n,) in cursor.stream("SELECT g FROM generate_series(1, %s) AS g", (20000,)))
    assert total == 20000 * 20001 // 2


@pytest.mark.parametrize("form", ["text", "binary"])
def test_copy(connection, table, form):
    connection.execute(f"CREATE TABLE {table} (id int4, name text, at timestamptz)")
    at = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT {form})") as copy:
            copy.set_types(["int4", "text", "timestamptz"])
            for n in range(3000):
                copy.write_row((n, f"tab\t{n}\n", at))
        assert cursor.rowcount == 3000
        with cursor.copy(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
            copy.set_types(["int4", "text", "timestamptz"])
            rows = list(copy.rows())
    assert rows[2999] == (2999, "tab\t2999\n", at)
    assert len(rows) == 3000


def test_copy_abandoned(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int)")
    with pytest.raises(ZeroDivisionError), connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        copy.write_row((1,))
        copy.write_row((1 // 0,))
    assert value(connection, f"SELECT count(*) FROM {table}") == 0
    # Leaving a COPY TO by an exception makes the driver cancel it.
    endless = "COPY (SELECT g FROM generate_series(1, 1000000) AS g) TO STDOUT"
    with pytest.raises(ZeroDivisionError), connection.cursor().copy(endless) as copy:
        assert bytes(copy.read()) == b"1\n"
        raise ZeroDivisionError
    assert value(connection, "SELECT 1") == 1


def test_copy_inside_a_transaction(connection, table):
    with connection.transaction(force_rollback=True):
        connection.execute(f"CREATE TABLE {table} (id int)")
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            copy.write(b"1\n2\n3\n")
        assert value(connection, f"SELECT count(*) FROM {table}") == 3
    assert value(connection, "SELECT to_regclass(%s)::text", (table,)) is None


def test_listen_and_notify(connect, name):
    listener, notifier = connect(autocommit=True), connect(autocommit=True)
    listener.execute(f"LISTEN {name}")
    with notifier.transaction():
        notifier.execute("SELECT pg_notify(%s, 'one')", (name,))
        notifier.execute(f"NOTIFY {name}, 'two'")
    heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=2)]
    assert heard == ["one", "two"]
    listener.execute(f"UNLISTEN {name}")
    notifier.execute(f"NOTIFY {name}")
    assert list(listener.notifies(timeout=0.3)) == []


@pytest.mark.parametrize("how", ["cancel", "cancel_safe"])
def test_cancel(connection, how):
    timer = threading.Timer(0.3, getattr(connection, how))
    timer.start()
    with pytest.raises(errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(30)")
    timer.join()
    assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("level", ["READ_COMMITTED", "REPEATABLE_READ", "SERIALIZABLE"])
@pytest.mark.parametrize("read_only", [False, True])
def test_transaction_characteristics(connect, level, read_only):
    connection = connect()
    connection.isolation_level = psycopg.IsolationLevel[level]
    connection.read_only = read_only
    connection.deferrable = read_only
    assert value(connection, "SHOW transaction_isolation") == level.lower().replace("_", " ")
    assert value(connection, "SHOW transaction_read_only") == ("on" if read_only else "off")
    assert value(connection, "SHOW transaction_deferrable") == ("on" if read_only else "off")


def test_read_only_transaction_refuses_writes(connect, table):
    connection = connect()
    connection.read_only = True
    with pytest.raises(errors.ReadOnlySqlTransaction):
        connection.execute(f"CREATE TABLE {table} (id int)")


def test_errors_carry_their_sqlstate_and_fields(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
    connection.execute(f"INSERT INTO {table} VALUES (1)")
    for query, expected in (
        (f"INSERT INTO {table} VALUES (%s)", "23505"),
        ("SELEC %s", "42601"),
        ("SELECT %s / 0", "22012"),
        ("SELECT nope + %s", "42703"),
    ):
        with pytest.raises(psycopg.Error) as error:
            connection.execute(query, (1,))
        assert error.value.sqlstate == expected
    with pytest.raises(errors.UniqueViolation) as error:
        connection.execute(f"INSERT INTO {table} VALUES (1)")
    assert error.value.diag.table_name == table
    assert error.value.diag.message_detail == "Key (id)=(1) already exists."


def test_deferred_constraint_fails_at_commit(connect, table):
    connection = connect()
    connection.execute(f"CREATE TABLE {table} (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    connection.commit()
    connection.execute(f"INSERT INTO {table} VALUES (1), (1)")
    with pytest.raises(errors.UniqueViolation):
        connection.commit()
    assert value(connection, f"SELECT count(*) FROM {table}") == 0


def test_notices(connection):
    heard = []
    connection.add_notice_handler(lambda d: heard.append((d.severity, d.sqlstate, d.message_primary, d.message_detail)))
    connection.execute("DO $$ BEGIN RAISE NOTICE 'mind' USING DETAIL = 'the gap', ERRCODE = '01234'; END $$")
    assert heard == [("NOTICE", "01234", "mind", "the gap")]


def test_two_phase_commit(connect, table, name):
    connection = connect()
    connection.execute(f"CREATE TABLE {table} (id int)")
    connection.commit()
    connection.tpc_begin(name)
    connection.execute(f"INSERT INTO {table} VALUES (1)")
    connection.tpc_prepare()
    assert value(connect(autocommit=True), "SELECT count(*) FROM pg_prepared_xacts WHERE gid = %s", (name,)) == 1
    connection.tpc_commit()
    assert value(connection, f"SELECT count(*) FROM {table}") == 1


@pytest.mark.parametrize("binary", [False, True])
def test_types(connection, table, binary):
    connection.execute(
        f"CREATE TABLE {table} (i int8, f float8, n numeric, t text, b bytea, ts timestamptz, iv interval, u uuid,"
        " j jsonb, a int4[], ta text[], r int4range, ip inet)"
    )
    moment = datetime.datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=datetime.timezone.utc)
    row = (
        -(2**63), 1e-300, decimal.Decimal("-0.00001"), "☃", b"\0\1", moment, datetime.timedelta(-1, 5), uuid.uuid4(),
        {"a": [1.5, None]}, [1, None], ["a", None, ""], Range(1, 5), ipaddress.ip_address("::1"),
    )  # fmt: skip
    cursor = connection.cursor(binary=binary)
    placeholders = ", ".join(["%b" if binary else "%s"] * len(row))
    values = [Jsonb(item) if isinstance(item, dict) else item for item in row]
    cursor.execute(f"INSERT INTO {table} VALUES ({placeholders}) RETURNING *", values)
    assert cursor.fetchone() == row
    assert cursor.execute(f"SELECT * FROM {table}").fetchone() == row


def test_composite_and_enum_types(connection, name):
    connection.execute(f"CREATE TYPE {name}_mood AS ENUM ('sad', 'happy')")
    connection.execute(f"CREATE TYPE {name}_pair AS (mood {name}_mood, n int)")
    try:
        found = value(connection, f"SELECT ROW('happy', 3)::{name}_pair::text")
        assert found == "(happy,3)"
        info = psycopg.types.composite.CompositeInfo.fetch(connection, f"{name}_pair")
        psycopg.types.composite.register_composite(info, connection)
        assert value(connection, f"SELECT ROW('happy', 3)::{name}_pair").n == 3
    finally:
        connection.execute(f"DROP TYPE {name}_pair, {name}_mood")


@pytest.mark.parametrize("binary", [False, True])
def test_large_values_both_ways(connection, table, binary):
    connection.execute(f"CREATE TABLE {table} (b bytea)")
    payload = bytes(range(256)) * 40960
    cursor = connection.cursor(binary=binary)
    cursor.execute(f"INSERT INTO {table} VALUES ({'%b' if binary else '%s'})", (payload,))
    assert cursor.execute(f"SELECT b FROM {table}").fetchone() == (payload,)


def test_tls_verified_to_the_name(connect, ca):
    connection = connect(host="localhost", sslmode="verify-full", sslrootcert=ca)
    assert connection.pgconn.ssl_in_use


def test_wrong_password_and_database(connect, name):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(password="wrong")
    with pytest.raises(psycopg.OperationalError, match=f'database "{name}" does not exist'):
        connect(dbname=name)


def test_autocommit_and_not(connect, table):
    with connect() as connection:
        connection.execute(f"CREATE TABLE {table} (id int)")
        assert connection.info.transaction_status == TransactionStatus.INTRANS
    connection = connect()
    connection.execute(f"INSERT INTO {table} VALUES (1)")
    connection.rollback()
    connection.autocommit = True
    connection.execute(f"INSERT INTO {table} VALUES (2)")
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert value(connection, f"SELECT array_agg(id) FROM {table}") == [2]


def test_parameter_status_follows_set(connection):
    connection.execute("SET TimeZone = 'Europe/Rome'")
    assert connection.info.timezone.key == "Europe/Rome"
    connection.execute("SET client_encoding = 'latin1'")
    assert connection.info.encoding == "iso8859-1"
    assert value(connection, "SELECT %s::text", ("é",)) == "é"
    with pytest.raises(UnicodeEncodeError):
        connection.execute("SELECT %s::text", ("☃",))


def test_read_your_own_writes(connection, table):
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text)")
    missed = []
    for n in range(200):
        connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (n, f"v{n}"))
        found = connection.execute(f"SELECT v FROM {table} WHERE id = %s", (n,)).fetchone()
        if found != (f"v{n}",):
            missed.append(n)
    assert missed == []


def test_a_text_sent_again_means_what_it_means_now(connect, table):
    """The text comes with each execution: columns that have changed since the last one are no error."""
    one, other = (connect(autocommit=True, prepare_threshold=None) for _ in range(2))
    third = connect(autocommit=True, prepare_threshold=0)
    one.execute(f"CREATE TABLE {table} (a int)")
    one.execute(f"INSERT INTO {table} VALUES (1)")

    def read(connection):
        return connection.execute(f"SELECT * FROM {table} WHERE a::int > %s", (0,)).fetchall()

    def until(expected):
        while True:
            rows = read(other)
            if rows == expected:
                return
            # In another region it comes later.
            assert rows in changes
            time.sleep(0.01)

    changes = [[(1,)]]
    for change, expected in [
        ("SELECT 1", [(1,)]),
        (f"ALTER TABLE {table} ADD b text DEFAULT 'x'", [(1, "x")]),
        (f"ALTER TABLE {table} ALTER a TYPE text", [("1", "x")]),
        (f"BEGIN; DROP TABLE {table}; CREATE TABLE {table} AS SELECT 5 AS a; COMMIT", [(5,)]),
    ]:
        # Where connections are shared, the change happens on another one than the next reads.
        nap = threading.Thread(target=third.execute, args=("SELECT pg_sleep(%s)", (0.2,)))
        nap.start()
        time.sleep(0.1)
        one.execute(change)
        nap.join()
        until(expected)
        for _ in range(7):
            assert read(one) == expected
        changes = [expected]
    one.execute(f"DROP TABLE {table}")
    with pytest.raises(errors.UndefinedTable):
        read(one)


def test_what_is_prepared_finds_the_names_and_types_of_now(connect, table):
    """Others have prepared the same text before; what that has found does not count."""
    first, second = f"{table}_first", f"{table}_second"
    owner = connect(autocommit=True)
    owner.execute(f"CREATE SCHEMA {first}; CREATE SCHEMA {second}")

    def read(least):
        # Prepared by name, with a parameter whose type the server infers.
        connection = connect(autocommit=True, options=f"-c search_path={first},{second}")
        try:
            return connection.execute("SELECT a FROM t WHERE a > %s", (least,), prepare=True).fetchall()
        except (errors.UndefinedTable, errors.InvalidTextRepresentation):
            # In another region the change comes later.
            return []
        finally:
            connection.close()

    try:
        for change, least, expected in [
            (f"CREATE TABLE {second}.t AS SELECT 1 AS a", "0", 1),
            (f"CREATE TABLE {first}.t AS SELECT 2 AS a", "0", 2),
            (f"ALTER TABLE {first}.t ALTER a TYPE numeric USING 2.5", "2.25", decimal.Decimal("2.5")),
        ]:
            # One of them finds what was before: on each of the servers, where sessions share those.
            for _ in range(8):
                read("0")
            owner.execute(change)
            deadline = time.monotonic() + 10
            while (found := read(least)) != [(expected,)]:
                assert time.monotonic() < deadline, f"{found} after {change}"
                time.sleep(0.02)
            for _ in range(8):
                assert read(least) == [(expected,)]
    finally:
        owner.execute(f"DROP SCHEMA {first}, {second} CASCADE")


def test_a_text_sent_again_is_read_by_the_settings_of_now(connect):
    connection = connect(autocommit=True, prepare_threshold=None)
    moment = "SELECT '2026-03-04 12:00'::timestamptz = %s::timestamptz"
    for zone, same in [("UTC", "12:00+00"), ("Asia/Tokyo", "12:00+09"), ("UTC", "12:00+00")]:
        connection.execute(f"SET timezone TO '{zone}'")
        for _ in range(7):
            assert value(connection, moment, (f"2026-03-04 {same}",))


def test_another_session_sees_writes_at_global(connect, table):
    writer = connect(autocommit=True)
    reader = connect(autocommit=True, options="-c pangea.read_consistency=global")
    writer.execute(f"CREATE TABLE {table} (id int)")
    for n in range(20):
        writer.execute(f"INSERT INTO {table} VALUES (%s)", (n,))
        assert value(reader, f"SELECT max(id) FROM {table}") == n


def test_concurrent_asynchronous_connections(endpoint, table):
    async def deposit(n):
        async with await psycopg.AsyncConnection.connect(endpoint.uri) as connection:
            await connection.execute(f"INSERT INTO {table} VALUES (%s)", (n,))
            cursor = connection.cursor(row_factory=scalar_row)
            await cursor.execute(f"SELECT id FROM {table} WHERE id = %s", (n,))
            return await cursor.fetchone()

    async def all_at_once():
        async with await psycopg.AsyncConnection.connect(endpoint.uri, autocommit=True) as connection:
            await connection.execute(f"CREATE TABLE {table} (id int)")
        return await asyncio.gather(*(deposit(n) for n in range(20)))

    assert asyncio.run(all_at_once()) == list(range(20))
