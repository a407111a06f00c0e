"""SQLAlchemy 2: Core and the ORM over each of its three PostgreSQL drivers."""

import asyncio
import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, func, orm
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    version: orm.Mapped[int] = orm.mapped_column(default=1)
    books: orm.Mapped[list["Book"]] = orm.relationship(
        back_populates="author", cascade="all, delete-orphan", order_by="Book.id"
    )
    __mapper_args__ = {"version_id_col": version}


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[uuid.UUID] = orm.mapped_column(UUID, primary_key=True, default=uuid.uuid4)
    title: orm.Mapped[str]
    tags: orm.Mapped[list[str]] = orm.mapped_column(ARRAY(sa.Text), default=list)
    facts: orm.Mapped[dict] = orm.mapped_column(JSONB, default=dict)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


@pytest.fixture
def schema(endpoint, name):
    """A schema of this test's own."""
    engine = sa.create_engine(endpoint.uri.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    yield name
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(sa.schema.DropSchema(name, cascade=True))


@pytest.fixture(params=["psycopg2", "psycopg"])
def engine(request, endpoint, schema):
    """An engine whose pool hands out several connections: they see each other's writes at `global`."""
    engine = sa.create_engine(
        endpoint.uri.replace("postgresql:", f"postgresql+{request.param}:"),
        connect_args={"options": f"-c search_path={schema} -c pangea.read_consistency=global"},
        pool_size=3,
        max_overflow=0,
        pool_pre_ping=True,
    )
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_orm_round_trip(engine):
    with orm.Session(engine) as session:
        ada = Author(name="Ada", books=[Book(title="Notes", tags=["a", "b"], facts={"year": 1843}), Book(title="Letters")])
        session.add(ada)
        session.flush()
        assert ada.id == 1
        session.commit()
    with orm.Session(engine) as session:
        ada = session.scalars(sa.select(Author).options(orm.selectinload(Author.books))).one()
        assert {book.title for book in ada.books} == {"Notes", "Letters"}
        notes = session.scalars(sa.select(Book).where(Book.facts["year"].as_integer() == 1843)).one()
        assert notes.author is ada and notes.tags == ["a", "b"]
        notes.title = "Notes on the Engine"
        ada.books.append(Book(title="Poems"))
        session.commit()
        titles = session.scalars(sa.select(Book.title).join(Author).where(Author.name == "Ada").order_by(Book.title))
        assert titles.all() == ["Letters", "Notes on the Engine", "Poems"]
        session.delete(ada)
        session.commit()
        assert session.scalar(sa.select(func.count()).select_from(Book)) == 0


def test_read_then_write_then_refresh_in_one_session(engine):
    with orm.Session(engine) as session:
        for n in range(20):
            assert session.scalar(sa.select(func.count()).select_from(Author)) == n
            author = Author(name=f"author {n}")
            session.add(author)
            session.commit()
            session.refresh(author)
            assert author.version == 1


def test_nested_transactions(engine):
    with orm.Session(engine) as session, session.begin():
        session.add(Author(name="Ada"))
        session.flush()
        with pytest.raises(exc.IntegrityError) as error, session.begin_nested():
            session.add(Author(name="Ada"))
            session.flush()
        assert getattr(error.value.orig, "sqlstate", None) or error.value.orig.pgcode == "23505"
        with session.begin_nested():
            session.add(Author(name="Grace"))
    with orm.Session(engine) as session:
        assert session.scalars(sa.select(Author.name).order_by(Author.name)).all() == ["Ada", "Grace"]


def test_optimistic_locking(engine):
    with orm.Session(engine) as session:
        session.add(Author(name="Ada"))
        session.commit()
    with orm.Session(engine) as one, orm.Session(engine) as two:
        mine, theirs = one.scalars(sa.select(Author)).one(), two.scalars(sa.select(Author)).one()
        theirs.name = "Grace"
        two.commit()
        mine.name = "Joan"
        with pytest.raises(orm.exc.StaleDataError):
            one.commit()


def test_core_bulk_insert_upsert_and_returning(engine):
    books, authors = Book.__table__, Author.__table__
    with engine.begin() as connection:
        connection.execute(sa.insert(authors), [{"name": f"author {n}"} for n in range(1500)])
        ids = connection.scalars(
            sa.insert(authors).returning(authors.c.id, sort_by_parameter_order=True),
            [{"name": f"more {n}"} for n in range(1500)],
        ).all()
        assert ids == sorted(ids) and len(ids) == 1500
        upsert = insert(authors).values(name="author 0", version=1)
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"version": authors.c.version + 1})
        assert connection.scalar(upsert.returning(authors.c.version)) == 2
        connection.execute(sa.insert(books), [{"title": str(n), "author_id": ids[0]} for n in range(100)])
    with engine.connect() as connection:
        assert connection.scalar(sa.select(func.count()).select_from(authors)) == 3000
        assert connection.scalar(sa.select(func.count()).select_from(books)) == 100


def test_server_side_results(engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(Author.__table__), [{"name": f"author {n}"} for n in range(1000)])
    with engine.connect().execution_options(yield_per=100) as connection:
        names = connection.scalars(sa.select(Author.name).order_by(Author.id))
        assert sum(len(part) for part in names.partitions()) == 1000


def test_isolation_levels(engine):
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
            assert connection.scalar(sa.text("SHOW transaction_isolation")) == expected
            connection.execute(sa.insert(Author.__table__).values(name=level))
            connection.rollback()
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Author.name)).all() == ["AUTOCOMMIT"]
    read_only = {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True}
    with engine.connect().execution_options(**read_only) as connection:
        with pytest.raises(exc.DBAPIError, match="read-only transaction"):
            connection.execute(sa.insert(Author.__table__).values(name="refused"))


def test_pool_of_connections_under_threads(engine):
    failures = []

    def work(worker):
        try:
            for n in range(10):
                with orm.Session(engine) as session:
                    session.add(Author(name=f"{worker}-{n}"))
                    session.commit()
                    found = session.scalar(sa.select(Author.name).where(Author.name == f"{worker}-{n}"))
                    assert found == f"{worker}-{n}"
        except Exception as failure:  # noqa: BLE001 - reported by the main thread
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        assert connection.scalar(sa.select(func.count()).select_from(Author)) == 60


def test_reflection(engine, schema):
    inspector = sa.inspect(engine)
    assert inspector.get_table_names(schema=schema) == ["author", "book"]
    assert [key["referred_table"] for key in inspector.get_foreign_keys("book", schema=schema)] == ["author"]
    assert [key["column_names"] for key in inspector.get_unique_constraints("author", schema=schema)] == [["name"]]
    reflected = sa.Table("book", sa.MetaData(), autoload_with=engine, schema=schema)
    assert isinstance(reflected.c.facts.type, JSONB)


def test_two_phase_sessions(engine):
    with orm.Session(engine, twophase=True) as session:
        session.add(Author(name="Ada"))
        session.commit()
    with orm.Session(engine) as session:
        assert session.scalar(sa.select(Author.name)) == "Ada"


def test_asyncpg_dialect(endpoint, schema):
    async def scenario():
        engine = create_async_engine(
            endpoint.uri.replace("postgresql:", "postgresql+asyncpg:"),
            connect_args={"server_settings": {"search_path": schema, "pangea.read_consistency": "global"}},
        )
        try:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            async with AsyncSession(engine) as session:
                session.add(Author(name="Ada", books=[Book(title="Notes", facts={"k": None})]))
                await session.commit()
            async with AsyncSession(engine) as session:
                ada = (await session.scalars(sa.select(Author).options(orm.joinedload(Author.books)))).unique().one()
                assert [(book.title, book.facts) for book in ada.books] == [("Notes", {"k": None})]
                with pytest.raises(exc.IntegrityError):
                    session.add(Author(name="Ada"))
                    await session.commit()
                await session.rollback()
                stream = await session.stream_scalars(sa.select(Author.name))
                assert [name async for name in stream] == ["Ada"]
        finally:
            await engine.dispose()

    asyncio.run(scenario())
