"""Read consistency in a region far from the primary, while its server replays commits late.

At `session`, which is the default, a session sees what it has written, always; at `eventual` it does not wait, and
then these very tests must see it miss: without that, they would prove nothing. The reference has one server and
nothing to miss.
"""

import contextlib
import time

import django_databases  # Before anything else of Django's: it configures it.
import psycopg
import pytest
import sqlalchemy as sa
from django.db import connections, transaction
from psycopg import errors
from shop.models import Customer, Product
from sqlalchemy import orm

ROUNDS = 150
DELAY_MS = 30
# A session hands in its statistics with the first statement after so long.
HANDED_IN_S = 1.1
ARRIVAL_TIMEOUT_S = 20
EVENTUAL = "-c pangea.read_consistency=eventual"

# Set to True, one by one, as the product learns them.


@pytest.fixture
def far(endpoints):
    return endpoints["secondary"]


@pytest.fixture
def pangea(standby):
    """The far region's own server, for what plain PostgreSQL cannot do."""
    if standby is None:
        pytest.skip("the reference is not pangea (or PANGEA_DATA_DIR does not say where its servers are)")
    return standby


@pytest.fixture
def late(standby, written):
    """From here on commits arrive late in the far region."""
    with standby.replay_delayed(DELAY_MS) if standby else contextlib.nullcontext():
        yield


@pytest.fixture
def written(endpoints, name):
    """A table that has arrived in the far region. Made by another session: one that made it reads on the primary."""
    with psycopg.connect(endpoints["primary"].uri, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, value int)")
        connection.execute(f"INSERT INTO {name} VALUES (-1, -1)")
    wait_until_it_is_here(endpoints["secondary"], name)
    yield name
    with psycopg.connect(endpoints["primary"].uri, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '10s'")
        connection.execute(f"DROP TABLE {name}")


def wait_until_it_is_here(far, table):
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    with psycopg.connect(far.uri, autocommit=True, options=EVENTUAL) as connection:
        while True:
            with contextlib.suppress(errors.UndefinedTable):
                if value(connection, f"SELECT count(*) FROM {table}") == 1:
                    return
            assert time.monotonic() < deadline, f"{table} has not arrived in {far.region}"
            time.sleep(0.02)


@pytest.fixture
def connect(late):
    """Opens connections, closed before the table is dropped."""
    del late
    with contextlib.ExitStack() as opened:
        yield lambda endpoint, **settings: opened.enter_context(psycopg.connect(endpoint.uri, **settings))


def value(connection, query, parameters=None, **how):
    return connection.execute(query, parameters, **how).fetchone()[0]


@contextlib.contextmanager
def runs_here(standby, dbname, table, again):
    """Most reads of the table in this block run on the far region's own server: else nothing was tested."""
    if standby is None:
        yield
        return
    before = standby.scans(table, dbname)
    yield
    time.sleep(HANDED_IN_S)
    again()
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    while standby.scans(table, dbname) - before < ROUNDS / 2:
        assert time.monotonic() < deadline, f"reads of {table} did not run in the far region"
        time.sleep(0.05)


# psycopg 3


@pytest.fixture(params=["simple", "extended", "prepared"])
def protocol(request):
    """What psycopg is told so that it speaks one of the protocols."""
    connection_settings = {"cursor_factory": psycopg.ClientCursor} if request.param == "simple" else {}
    statement_settings = {} if request.param == "simple" else {"prepare": request.param == "prepared"}
    return {"autocommit": True} | connection_settings, statement_settings


def insert_and_read(connection, table, in_transactions, how):
    """The rounds in which a session did not see the row that it had just written."""
    missed = []
    block = connection.transaction if in_transactions else contextlib.nullcontext
    for n in range(ROUNDS):
        with block():
            connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (n, 2 * n), **how)
        with block():
            found = connection.execute(f"SELECT value FROM {table} WHERE id = %s", (n,), **how).fetchone()
        if found != (2 * n,):
            missed.append((n, found))
    return missed


@pytest.mark.parametrize("in_transactions", [False, True], ids=["autocommit", "transactions"])
def test_psycopg_sees_its_inserts(connect, far, standby, written, protocol, in_transactions):
    settings, how = protocol
    connection = connect(far, **settings)
    with runs_here(standby, far.dbname, written, lambda: connection.execute("SELECT 1")):
        assert insert_and_read(connection, written, in_transactions, how) == []


@pytest.mark.parametrize("in_transactions", [False, True], ids=["autocommit", "transactions"])
def test_psycopg_misses_inserts_at_eventual(connect, far, pangea, written, protocol, in_transactions):
    settings, how = protocol
    connection = connect(far, options=EVENTUAL, **settings)
    assert insert_and_read(connection, written, in_transactions, how) != []


def test_psycopg_sees_its_updates_and_deletes(connect, far, written, protocol):
    settings, how = protocol
    connection = connect(far, **settings)
    connection.execute(f"INSERT INTO {written} VALUES (0, 0)")
    for n in range(1, ROUNDS):
        connection.execute(f"UPDATE {written} SET value = %s WHERE id = 0", (n,), **how)
        assert value(connection, f"SELECT value FROM {written} WHERE id = 0", **how) == n
    for n in range(ROUNDS // 3):
        connection.execute(f"INSERT INTO {written} VALUES (%s, 1)", (n + 1,), **how)
        connection.execute(f"DELETE FROM {written} WHERE id = %s", (n + 1,), **how)
        assert value(connection, f"SELECT count(*) FROM {written} WHERE value = 1", **how) == 0


def test_psycopg_sees_what_a_transaction_wrote_in_parts(connect, far, written):
    """A transaction that reads here first and moves to the primary with its first write."""
    connection = connect(far)
    for n in range(ROUNDS):
        before = value(connection, f"SELECT count(*) FROM {written}")
        connection.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
        assert value(connection, f"SELECT count(*) FROM {written}") == before + 1
        connection.commit()
        assert value(connection, f"SELECT count(*) FROM {written}") == before + 1 == n + 2
        connection.rollback()


def test_psycopg_sees_its_writes_in_a_pipeline(connect, far, written):
    connection = connect(far, autocommit=True)
    for n in range(ROUNDS):
        with connection.pipeline() as pipeline:
            connection.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
            pipeline.sync()
            found = connection.execute(f"SELECT count(*) FROM {written} WHERE id = %s", (n,))
        assert found.fetchone() == (1,)


def test_psycopg_never_reads_backwards(connect, far, written):
    """A read that ran on the primary is followed by reads that see no less (MONOTONIC-READS)."""
    writer, reader = connect(far, autocommit=True), connect(far, autocommit=True)
    writer.execute(f"INSERT INTO {written} VALUES (0, 0)")
    for n in range(1, ROUNDS):
        writer.execute(f"UPDATE {written} SET value = {n} WHERE id = 0")
        # A locked row is read on the primary.
        seen = value(reader, f"SELECT value FROM {written} WHERE id = 0 FOR SHARE")
        assert seen == n
        assert value(reader, f"SELECT value FROM {written} WHERE id = 0") == n


# SQLAlchemy 2


@pytest.fixture
def mapped(written):
    """A class mapped to the table of this test."""
    registry = orm.registry()

    class Written:
        pass

    columns = [sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("value", sa.Integer)]
    registry.map_imperatively(Written, sa.Table(written, registry.metadata, *columns))
    yield Written
    registry.dispose()


@pytest.fixture(params=["psycopg2", "psycopg"])
def make_engine(request, far, late):
    """Engines with one connection each: what it is about is one session."""
    del late
    engines = []

    def make(**connect_args):
        uri = far.uri.replace("postgresql:", f"postgresql+{request.param}:")
        engines.append(sa.create_engine(uri, connect_args=connect_args, pool_size=1, max_overflow=0))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def core_insert_and_read(engine, table):
    missed = []
    for n in range(ROUNDS):
        with engine.begin() as connection:
            connection.execute(sa.insert(table).values(id=n, value=2 * n))
        with engine.connect() as connection:
            found = connection.execute(sa.select(table.c.value).where(table.c.id == n)).scalar_one_or_none()
        if found != 2 * n:
            missed.append((n, found))
    return missed


def orm_insert_and_read(engine, mapped):
    missed = []
    for n in range(ROUNDS):
        with orm.Session(engine) as session:
            written = mapped()
            written.id, written.value = n, 2 * n
            session.add(written)
            session.commit()
            found = session.scalars(sa.select(mapped).where(mapped.id == n)).one_or_none()
            if found is None or found.value != 2 * n:
                missed.append(n)
    return missed


def select_one(engine):
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))


def test_sqlalchemy_core_sees_its_writes(make_engine, far, standby, written, mapped):
    engine = make_engine()
    with runs_here(standby, far.dbname, written, lambda: select_one(engine)):
        assert core_insert_and_read(engine, mapped.__table__) == []


def test_sqlalchemy_core_misses_writes_at_eventual(make_engine, pangea, mapped):
    assert core_insert_and_read(make_engine(options=EVENTUAL), mapped.__table__) != []


def test_sqlalchemy_orm_sees_its_writes(make_engine, far, standby, written, mapped):
    engine = make_engine()
    with runs_here(standby, far.dbname, written, lambda: select_one(engine)):
        assert orm_insert_and_read(engine, mapped) == []


def test_sqlalchemy_orm_misses_writes_at_eventual(make_engine, pangea, mapped):
    assert orm_insert_and_read(make_engine(options=EVENTUAL), mapped) != []


def test_sqlalchemy_autocommit_sees_its_writes(make_engine, mapped):
    with make_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for n in range(ROUNDS):
            connection.execute(sa.insert(mapped.__table__).values(id=n, value=n))
            query = sa.select(sa.func.count()).where(mapped.__table__.c.id == n)
            assert connection.execute(query).scalar_one() == 1


# Django


@pytest.fixture(scope="module")
def shops(endpoints):
    """Two names of one migrated database in the far region: at `session`, and at `eventual`."""
    far = endpoints["secondary"]
    with django_databases.migrated(far, "far_session", "") as session:
        django_databases.add_alias(far, "far_eventual", connections[session].settings_dict["NAME"], EVENTUAL)
        yield session, "far_eventual"
        connections["far_eventual"].close()


@pytest.fixture
def late_shops(shops, standby):
    with standby.replay_delayed(DELAY_MS) if standby else contextlib.nullcontext():
        yield shops
    # Not by the ORM: it would delete what it finds here, and what the other name wrote last is not here yet.
    with connections[shops[0]].cursor() as cursor:
        cursor.execute("DELETE FROM shop_customer; DELETE FROM shop_product")


def create_and_look(alias, block):
    missed = []
    for n in range(ROUNDS):
        with block():
            customer = Customer.objects.using(alias).create(email=f"{n}@example.com")
        with block():
            if not Customer.objects.using(alias).filter(pk=customer.pk).exists():
                missed.append(n)
    return missed


def blocks(alias):
    return {"autocommit": contextlib.nullcontext, "atomic": lambda: transaction.atomic(using=alias)}


@pytest.mark.parametrize("block", ["autocommit", "atomic"])
def test_django_sees_its_writes(late_shops, standby, block):
    alias, _ = late_shops
    database = connections[alias].settings_dict["NAME"]
    with runs_here(standby, database, "shop_customer", lambda: Product.objects.using(alias).count()):
        assert create_and_look(alias, blocks(alias)[block]) == []


@pytest.mark.parametrize("block", ["autocommit", "atomic"])
def test_django_misses_writes_at_eventual(late_shops, pangea, block):
    _, alias = late_shops
    assert create_and_look(alias, blocks(alias)[block]) != []


def test_django_sees_what_an_atomic_block_changed(late_shops):
    alias, _ = late_shops
    item = Product.objects.using(alias).create(name="lamp", price=5, stock=0)
    for n in range(1, ROUNDS):
        with transaction.atomic(using=alias):
            locked = Product.objects.using(alias).select_for_update().get(pk=item.pk)
            locked.stock += 1
            locked.save()
        item.refresh_from_db(using=alias)
        assert item.stock == n


def test_django_on_commit_sees_the_commit(late_shops):
    alias, _ = late_shops
    seen = []
    for n in range(ROUNDS):
        with transaction.atomic(using=alias):
            Customer.objects.using(alias).create(email=f"{n}@example.com")
            transaction.on_commit(lambda: seen.append(Customer.objects.using(alias).count()), using=alias)
    assert seen == list(range(1, ROUNDS + 1))


# The settings


@pytest.fixture
def plain(endpoint, pangea):
    """A connection in each of the regions in turn, for what does not need late commits."""
    with psycopg.connect(endpoint.uri, autocommit=True) as connection:
        yield connection


def level(connection):
    return value(connection, "SHOW pangea.read_consistency")


@pytest.mark.parametrize("name", ["eventual", "session", "global", "bounded", "primary"])
def test_a_level_can_be_set_and_shown(plain, name):
    assert level(plain) == "session"
    plain.execute(f"SET pangea.read_consistency = '{name}'")
    assert level(plain) == name
    assert value(plain, "SELECT current_setting('pangea.read_consistency')") == name
    plain.execute("RESET pangea.read_consistency")
    assert level(plain) == "session"
    assert value(plain, "SELECT set_config('pangea.read_consistency', %s, false)", (name,)) == name
    assert level(plain) == name
    plain.execute("DISCARD ALL")
    assert level(plain) == "session"


def test_a_level_that_does_not_exist_is_refused(plain):
    with pytest.raises(errors.InvalidParameterValue):
        plain.execute("SET pangea.read_consistency = 'sometimes'")
    assert level(plain) == "session"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(plain.info.dsn, password=plain.info.password, options="-c pangea.read_consistency=sometimes")


def test_a_level_of_a_start_up_option_is_what_reset_returns_to(endpoint, pangea):
    with psycopg.connect(endpoint.uri, autocommit=True, options=EVENTUAL) as connection:
        assert level(connection) == "eventual"
        connection.execute("SET pangea.read_consistency = global")
        connection.execute("RESET pangea.read_consistency")
        assert level(connection) == "eventual"


def test_set_local_ends_with_the_transaction(plain):
    with plain.transaction():
        plain.execute("SET LOCAL pangea.read_consistency = eventual")
        assert level(plain) == "eventual"
    assert level(plain) == "session"


def test_set_is_undone_with_the_transaction(plain):
    with plain.transaction(force_rollback=True):
        plain.execute("SET pangea.read_consistency = eventual")
        with pytest.raises(errors.DivisionByZero), plain.transaction():
            plain.execute("SET pangea.read_consistency = 'primary'")
            plain.execute("SELECT 1/0")
        assert level(plain) == "eventual"
    assert level(plain) == "session"


def test_set_takes_effect_at_once(connect, far, pangea, written):
    connection = connect(far, autocommit=True)
    connection.execute("SET pangea.read_consistency = eventual")
    assert insert_and_read(connection, written, False, {}) != []
    connection.execute(f"DELETE FROM {written}")
    connection.execute("SET pangea.read_consistency = session")
    assert insert_and_read(connection, written, False, {}) == []


def test_set_local_takes_effect_in_its_transaction_only(connect, far, pangea, written):
    connection = connect(far, autocommit=True)
    missed = 0
    for n in range(ROUNDS):
        connection.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
        with connection.transaction():
            connection.execute("SET LOCAL pangea.read_consistency = eventual")
            missed += value(connection, f"SELECT count(*) FROM {written} WHERE id = %s", (n,)) == 0
        assert value(connection, f"SELECT count(*) FROM {written} WHERE id = %s", (n,)) == 1
    assert missed > 0


def test_off_refuses_writes_in_a_secondary_region(connect, far, pangea, written):
    connection = connect(far, autocommit=True)
    connection.execute("SET pangea.read_consistency = off")
    with pytest.raises(errors.ReadOnlySqlTransaction):
        connection.execute(f"INSERT INTO {written} VALUES (0, 0)")
    assert value(connection, f"SELECT count(*) FROM {written}") == 1
    connection.execute("RESET pangea.read_consistency")
    connection.execute(f"INSERT INTO {written} VALUES (0, 0)")
    assert value(connection, f"SELECT count(*) FROM {written}") == 2


# Tokens


def token(connection):
    return connection.info.parameter_status("pangea.token")


def test_a_commit_reports_its_token(endpoint, pangea, written):
    with psycopg.connect(endpoint.uri, autocommit=True) as connection:
        tokens = []
        for n in range(5):
            connection.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
            tokens.append(token(connection))
            assert value(connection, "SHOW pangea.token") == tokens[-1]
        with connection.transaction():
            connection.execute(f"INSERT INTO {written} VALUES (5, 0)")
        tokens.append(token(connection))
    assert all(tokens) and len(set(tokens)) == len(tokens), tokens


@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_a_token_carries_a_view_to_another_session(connect, endpoints, far, pangea, written, role):
    """From either region to the far one."""
    writer, reader = connect(endpoints[role], autocommit=True), connect(far, autocommit=True)
    look = f"SELECT count(*) FROM {written} WHERE id = %s"
    for n in range(ROUNDS):
        writer.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
        reader.execute(f"SET pangea.token = '{token(writer)}'")
        assert value(reader, look, (n,)) == 1
    # Without the token nobody tells the other session.
    missed = 0
    for n in range(ROUNDS, 2 * ROUNDS):
        writer.execute(f"INSERT INTO {written} VALUES (%s, 0)", (n,))
        missed += value(reader, look, (n,)) == 0
    assert missed > 0


def test_a_token_that_is_none_is_refused(plain):
    with pytest.raises(errors.InvalidParameterValue):
        plain.execute("SET pangea.token = 'yesterday'")
    assert value(plain, "SELECT 1") == 1


# Names of Aurora's


@pytest.mark.parametrize("name", ["apg_write_forward.consistency_mode", "aurora_replica_read_consistency"])
@pytest.mark.parametrize("mode", ["EVENTUAL", "session", "Global"])
def test_auroras_settings_are_other_names(plain, name, mode):
    plain.execute(f"SET {name} = '{mode}'")
    assert level(plain) == mode.lower()
    assert value(plain, f"SHOW {name}").lower() == mode.lower()
    plain.execute(f"RESET {name}")
    assert level(plain) == "session"


def test_auroras_eventual_takes_effect(connect, far, pangea, written):
    connection = connect(far, autocommit=True)
    connection.execute("SET apg_write_forward.consistency_mode = 'EVENTUAL'")
    assert insert_and_read(connection, written, False, {}) != []


def test_auroras_off_refuses_writes_in_a_secondary_region(connect, far, pangea, written):
    connection = connect(far, autocommit=True)
    connection.execute("SET apg_write_forward.consistency_mode = 'OFF'")
    with pytest.raises(errors.ReadOnlySqlTransaction) as refused:
        connection.execute(f"INSERT INTO {written} VALUES (0, 0)")
    assert refused.value.sqlstate == "25006"
    assert value(connection, f"SELECT count(*) FROM {written}") == 1


@pytest.mark.parametrize("query", ["SELECT * FROM pangea.status()", "SELECT * FROM aurora_global_db_status()"])
def test_the_regions_can_be_queried(plain, endpoints, query):
    rows = plain.execute(query).fetchall()
    for endpoint in endpoints.values():
        assert sum(endpoint.region in row for row in rows) == 1, rows
    # As any table: with a filter, in a subquery.
    assert value(plain, f"SELECT count(*) FROM ({query}) regions") == len(rows)


def test_auroras_status_has_auroras_columns(plain):
    described = plain.execute("SELECT * FROM aurora_global_db_status()").description
    expected = ["aws_region", "highest_lsn_written", "durability_lag_in_msec", "rpo_lag_in_msec"]
    expected += ["last_lag_calculation_time", "feedback_epoch", "feedback_xmin"]
    assert [column.name for column in described] == expected
