"""asyncpg: binary extended protocol without libpq, its own SCRAM, type introspection and pool resets."""

import asyncio
import datetime
import decimal
import io
import json
import ssl
import uuid

import asyncpg
import pytest

TEST_TIMEOUT_S = 50


@pytest.fixture
def run(endpoint, table):
    """Runs `scenario(connect)`, where `connect(**settings)` opens connections that are closed at the end."""

    def run_scenario(scenario):
        async def whole():
            opened = []

            async def connect(**settings):
                connection = await asyncpg.connect(endpoint.uri, **settings)
                opened.append(connection)
                return connection

            try:
                return await scenario(connect)
            finally:
                for connection in opened:
                    connection.terminate()

        return asyncio.run(asyncio.wait_for(whole(), TEST_TIMEOUT_S))

    return run_scenario


def test_connects_with_scram(run):
    async def scenario(connect):
        connection = await connect()
        assert connection.get_server_version() >= (14,)
        assert connection.get_settings().server_encoding == "UTF8"
        assert await connection.fetchval("SELECT current_user") == "postgres"

    run(scenario)


def test_ddl_insert_select_returning(run, table):
    async def scenario(connect):
        connection = await connect()
        assert await connection.execute(f"CREATE TABLE {table} (id serial PRIMARY KEY, name text)") == "CREATE TABLE"
        row = await connection.fetchrow(f"INSERT INTO {table} (name) VALUES ($1) RETURNING *", "a")
        assert dict(row) == {"id": 1, "name": "a"}
        assert await connection.execute(f"UPDATE {table} SET name = $1", "b") == "UPDATE 1"
        assert await connection.fetchval(f"SELECT name FROM {table} WHERE id = $1", 1) == "b"
        assert await connection.fetch(f"SELECT * FROM {table} WHERE false") == []

    run(scenario)


def test_transactions(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        async with connection.transaction():
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
            await connection.execute(f"INSERT INTO {table} VALUES (1)")
            with pytest.raises(asyncpg.UniqueViolationError) as error:
                async with connection.transaction():
                    await connection.execute(f"INSERT INTO {table} VALUES ($1)", 1)
            assert error.value.sqlstate == "23505"
            assert error.value.table_name == table
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {table} VALUES (2)")
                raise ZeroDivisionError
        assert await connection.fetchval(f"SELECT array_agg(id) FROM {table}") == [1]

    run(scenario)


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
@pytest.mark.parametrize("readonly", [False, True])
def test_transaction_characteristics(run, table, isolation, readonly):
    async def scenario(connect):
        connection = await connect()
        async with connection.transaction(isolation=isolation, readonly=readonly):
            assert await connection.fetchval("SHOW transaction_isolation") == isolation.replace("_", " ")
            if readonly:
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    async with connection.transaction():
                        await connection.execute(f"CREATE TABLE {table} (id int)")
            else:
                await connection.execute(f"CREATE TABLE {table} (id int)")

    run(scenario)


def test_prepared_statements(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int, name text)")
        put = await connection.prepare(f"INSERT INTO {table} VALUES ($1, $2)")
        get = await connection.prepare(f"SELECT name FROM {table} WHERE id = $1")
        assert [(p.name) for p in get.get_parameters()] == ["int4"]
        assert [a.name for a in get.get_attributes()] == ["name"]
        for n in range(20):
            await put.fetch(n, f"name {n}")
            assert await get.fetchval(n) == f"name {n}"
        plan = await get.explain(1, analyze=True)
        assert plan[0]["Plan"]["Actual Rows"] == 1

    run(scenario)


def test_statement_cache_survives_ddl(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int)")
        assert await connection.fetch(f"SELECT * FROM {table}") == []
        await connection.execute(f"ALTER TABLE {table} ADD COLUMN extra text DEFAULT 'x'")
        await connection.execute(f"INSERT INTO {table} VALUES (1)")
        assert [tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")] == [(1, "x")]

    run(scenario)


def test_what_is_prepared_has_the_types_that_were_told(run, table):
    """It sends and reads binary by the types that it was told once, whichever connection of a pool has the statement."""

    async def scenario(connect):
        reader, holder, owner = await connect(), await connect(), await connect()
        await owner.execute(f"CREATE TABLE {table} (v int); INSERT INTO {table} VALUES (1)")
        query, count = f"SELECT v FROM {table}", f"SELECT count(*) FROM {table} WHERE v = $1"
        add = f"INSERT INTO {table} VALUES ($1)"
        assert await reader.fetchval(query) == 1
        assert await reader.fetchval(count, 1) == 1
        assert await reader.execute(add, 1) == "INSERT 0 1"
        # While the holder has a transaction the reader gets another connection than the one on which it has prepared.
        await owner.execute(f"ALTER TABLE {table} ALTER v TYPE bigint")
        async with holder.transaction():
            assert await holder.fetchval("SELECT 1") == 1
            assert await reader.fetchval(query) == 1
            assert await reader.execute(add, 1) == "INSERT 0 1"
            assert await reader.fetchval(count, 1) == 3
        await owner.execute(f"ALTER TABLE {table} ALTER v TYPE text")
        async with holder.transaction():
            assert await holder.fetchval("SELECT 1") == 1
            assert [row["v"] for row in await reader.fetch(query)] == ["1", "1", "1"]

    run(scenario)


def test_what_is_asked_of_the_connection_itself(run, table):
    """asyncpg flushes a Parse and goes on in the same unit: nothing may come between."""

    async def scenario(connect):
        connection = await connect()
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await connection.fetchval("SELECT lastval()")
        await connection.execute(f"CREATE TABLE {table} (id serial)")
        await connection.execute(f"INSERT INTO {table} VALUES (DEFAULT)")
        assert await connection.fetchval("SELECT lastval()") == 1
        assert await connection.fetchval("SELECT lastval() + $1::int", 1) == 2
        # Each is flushed, and neither is executed before both are.
        plain, private = await connection.prepare("SELECT 7"), await connection.prepare("SELECT lastval() + 7")
        assert (await plain.fetchval(), await private.fetchval()) == (7, 8)
        names = await connection.fetch("SELECT name FROM pg_prepared_statements WHERE NOT from_sql")
        assert not [name for (name,) in names if not name.startswith(("__asyncpg", "pangea"))]
        assert await connection.fetchval("SELECT $1::int", 3) == 3

    run(scenario)


def test_cursors(run):
    async def scenario(connect):
        connection = await connect()
        async with connection.transaction():
            seen = [row[0] async for row in connection.cursor("SELECT g FROM generate_series(1, $1::int) g", 175)]
            assert seen == list(range(1, 176))
            cursor = await connection.cursor("SELECT g FROM generate_series(1, 10) g")
            assert await cursor.forward(3) == 3
            assert [row[0] for row in await cursor.fetch(2)] == [4, 5]
            assert (await cursor.fetchrow())[0] == 6

    run(scenario)


def test_cursor_that_goes_on_after_a_write(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} AS SELECT g AS id FROM generate_series(1, 10) g")
        async with connection.transaction():
            cursor = await connection.cursor(f"SELECT id FROM {table} ORDER BY id")
            assert [row[0] for row in await cursor.fetch(2)] == [1, 2]
            await connection.execute(f"DELETE FROM {table}")
            assert [row[0] for row in await cursor.fetch(2)] == [3, 4]

    run(scenario)


def test_copy(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int, name text)")
        rows = [(n, f"name {n}") for n in range(5000)]
        assert await connection.copy_records_to_table(table, records=rows) == "COPY 5000"
        out = io.BytesIO()
        await connection.copy_from_query(f"SELECT * FROM {table} WHERE id < $1 ORDER BY id", 3, output=out, format="csv")
        assert out.getvalue() == b"0,name 0\n1,name 1\n2,name 2\n"
        source = io.BytesIO(b"7\tseven\n")
        assert await connection.copy_to_table(table, source=source) == "COPY 1"
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.copy_to_table(table, source=io.BytesIO(b"x\ty\n"))
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 5001

    run(scenario)


def test_executemany_is_atomic(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        await connection.executemany(f"INSERT INTO {table} VALUES ($1)", [(n,) for n in range(1000)])
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.executemany(f"INSERT INTO {table} VALUES ($1)", [(1000,), (1001,), (5,)])
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1000

    run(scenario)


def test_listen_and_notify(run, name):
    async def scenario(connect):
        listener, notifier = await connect(), await connect()
        heard = asyncio.Queue()
        await listener.add_listener(name, lambda _, pid, channel, payload: heard.put_nowait((pid, channel, payload)))
        await notifier.execute(f"NOTIFY {name}, 'hello'")
        got = await asyncio.wait_for(heard.get(), 10)
        assert got[1:] == (name, "hello")

    run(scenario)


def test_timeout_cancels_the_query(run):
    async def scenario(connect):
        connection, observer = await connect(), await connect()
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch("SELECT pg_sleep(30), 'asyncpg timeout'", timeout=0.3)
        assert await connection.fetchval("SELECT 1") == 1
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()"
        assert await observer.fetchval(running, "%'asyncpg timeout'%") == 0

    run(scenario)


@pytest.mark.parametrize(
    ("statement", "sqlstate"), [("SELEC 1", "42601"), ("SELECT 1/0", "22012"), ("SELECT * FROM nowhere", "42P01")]
)
def test_errors_carry_their_sqlstate(run, statement, sqlstate):
    async def scenario(connect):
        connection = await connect()
        for send in (connection.execute, connection.fetch):
            with pytest.raises(asyncpg.PostgresError) as error:
                await send(statement)
            assert error.value.sqlstate == sqlstate

    run(scenario)


def test_refused_connections_carry_their_sqlstate(run, name):
    async def scenario(connect):
        with pytest.raises(asyncpg.InvalidPasswordError) as error:
            await connect(password="wrong")
        assert error.value.sqlstate == "28P01"
        with pytest.raises(asyncpg.InvalidPasswordError) as error:
            await connect(user=name)
        assert error.value.sqlstate == "28P01"
        with pytest.raises(asyncpg.InvalidCatalogNameError) as error:
            await connect(database=name)
        assert error.value.sqlstate == "3D000"
        with pytest.raises(asyncpg.PostgresError) as error:
            await connect(server_settings={"no_such_setting": "1"})
        assert error.value.sqlstate == "42704"

    run(scenario)


def test_notices(run):
    async def scenario(connect):
        connection = await connect()
        heard = []
        connection.add_log_listener(lambda _, message: heard.append((message.severity, message.message)))
        await connection.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
        await asyncio.sleep(0)
        assert heard == [("NOTICE", "one"), ("WARNING", "two")]

    run(scenario)


def test_types(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        await connection.execute(
            f"CREATE TABLE {table} (i int8, n numeric, b bytea, ts timestamptz, iv interval, u uuid, j jsonb, a int4[][])"
        )
        moment = datetime.datetime(2024, 2, 29, 12, 0, 0, 7, tzinfo=datetime.timezone.utc)
        row = (
            2**63 - 1, decimal.Decimal("1.10"), b"\0", moment, datetime.timedelta(days=1, seconds=2), uuid.uuid4(),
            {"a": [None]}, [[1, 2], [3, None]],
        )  # fmt: skip
        await connection.execute(f"INSERT INTO {table} VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", *row)
        assert tuple(await connection.fetchrow(f"SELECT * FROM {table}")) == row

    run(scenario)


def test_user_defined_types_are_introspected(run, name):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TYPE {name}_mood AS ENUM ('sad', 'happy')")
        await connection.execute(f"CREATE TYPE {name}_pair AS (mood {name}_mood, n int)")
        await connection.execute(f"CREATE DOMAIN {name}_even AS int CHECK (VALUE % 2 = 0)")
        try:
            row = await connection.fetchrow(
                f"SELECT $1::{name}_mood, ROW('sad', 1)::{name}_pair, ARRAY[2]::{name}_even[]", "happy"
            )
            assert row[0] == "happy" and tuple(row[1]) == ("sad", 1) and row[2] == [2]
        finally:
            await connection.execute(f"DROP TYPE {name}_pair, {name}_mood, {name}_even")

    run(scenario)


def test_large_values_both_ways(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (b bytea)")
        payload = bytes(range(256)) * 40960
        assert await connection.fetchval(f"INSERT INTO {table} VALUES ($1) RETURNING b", payload) == payload
        assert await connection.fetchval(f"SELECT b FROM {table}") == payload

    run(scenario)


def test_tls(run, endpoint, ca):
    async def scenario(connect):
        localhost = {"host": "localhost", "port": endpoint.parts.port}
        connection = await connect(**localhost, ssl=ssl.create_default_context(cafile=ca))
        assert await connection.fetchval("SELECT 1") == 1
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(ssl=ssl.create_default_context())
        connection = await connect(ssl="require")
        assert await connection.fetchval("SELECT 2") == 2

    run(scenario)


def test_settings_at_start_up_and_after(run):
    async def scenario(connect):
        connection = await connect(server_settings={"application_name": "suite", "search_path": "pg_catalog"})
        assert await connection.fetchval("SHOW application_name") == "suite"
        assert await connection.fetchval("SHOW search_path") == "pg_catalog"
        await connection.execute("SET TIME ZONE 'Asia/Tokyo'")
        assert connection.get_settings().TimeZone == "Asia/Tokyo"
        await connection.reset()
        assert await connection.fetchval("SHOW application_name") == "suite"
        assert await connection.fetchval("SHOW TimeZone") != "Asia/Tokyo"

    run(scenario)


def test_pool(run, endpoint, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int)")

        async def deposit(pool, n):
            async with pool.acquire() as leased:
                await leased.execute("SET work_mem = '9MB'")
                await leased.execute(f"INSERT INTO {table} VALUES ($1)", n)
                return await leased.fetchval(f"SELECT id FROM {table} WHERE id = $1", n)

        settings = {"pangea.read_consistency": "global"}
        async with asyncpg.create_pool(endpoint.uri, min_size=2, max_size=4, server_settings=settings) as pool:
            assert await asyncio.gather(*(deposit(pool, n) for n in range(40))) == list(range(40))
            assert await pool.fetchval("SHOW work_mem") != "9MB", "a released connection is reset"
            assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 40

    run(scenario)


def test_read_your_own_writes(run, table):
    async def scenario(connect):
        connection = await connect()
        await connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text)")
        missed = []
        for n in range(200):
            await connection.execute(f"INSERT INTO {table} VALUES ($1, $2)", n, f"v{n}")
            if await connection.fetchval(f"SELECT v FROM {table} WHERE id = $1", n) != f"v{n}":
                missed.append(n)
        assert missed == []

    run(scenario)
