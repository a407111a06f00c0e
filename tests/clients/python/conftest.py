"""Fixtures shared by the suites: which endpoint a test talks to, and names nobody else uses.

Every test runs twice, from the primary region's endpoint and from a secondary's. Nothing in a test may know
which of the two it is, except through `endpoint.role`, and then only to say what is the same.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import urllib.parse
import uuid

import psycopg2
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster as databases  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One region's cluster endpoint."""

    role: str
    region: str
    uri: str
    ca: str | None

    @property
    def parts(self):
        return urllib.parse.urlsplit(self.uri)

    @property
    def keywords(self):
        """Connection settings by the names that every Python driver shares (but `dbname`)."""
        parts = self.parts
        return {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}

    @property
    def dbname(self):
        return self.parts.path.lstrip("/")


@pytest.fixture(scope="session")
def environment():
    """What describes the database: see cluster.py."""
    if "PANGEA_ENDPOINTS" in os.environ:
        yield os.environ
        return
    with databases.pangea() as environment:
        yield environment


@pytest.fixture(scope="session")
def endpoints(environment):
    return read_endpoints(environment)


class Standby:
    """A secondary region's own server, behind the gateway's back."""

    def __init__(self, socket_dir):
        self.uri = f"postgresql:///postgres?host={urllib.parse.quote(str(socket_dir), safe='')}&user=postgres"

    def run(self, query, **settings):
        connection = psycopg2.connect(self.uri, **settings)
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0] if cursor.description else None

    @contextlib.contextmanager
    def replay_delayed(self, delay_ms):
        """Commits arrive here only so much later, however near the primary is."""
        self.run(f"ALTER SYSTEM SET recovery_min_apply_delay = {delay_ms}")
        self.run("SELECT pg_reload_conf()")
        try:
            yield self
        finally:
            self.run("ALTER SYSTEM RESET recovery_min_apply_delay")
            self.run("SELECT pg_reload_conf()")

    def scans(self, table, dbname):
        """How often a table has been read on this server. A session hands in its counts once a second at most."""
        query = f"SELECT coalesce(sum(seq_scan + idx_scan), 0)::int FROM pg_stat_user_tables WHERE relname = '{table}'"
        return self.run(query, dbname=dbname)


@pytest.fixture(scope="session")
def standby(environment, endpoints):
    """The server of the `secondary` endpoint's region; None where there is none, as with the reference."""
    data_dir = environment.get("PANGEA_DATA_DIR")
    return Standby(pathlib.Path(data_dir, endpoints["secondary"].region, "run")) if data_dir else None


def read_endpoints(environment):
    regions = list(json.loads(environment["PANGEA_ENDPOINTS"]).items())
    ca = environment.get("PANGEA_CA")
    chosen = {"primary": regions[0], "secondary": regions[-1]}
    return {role: Endpoint(role, region, uri, ca) for role, (region, uri) in chosen.items()}


@pytest.fixture(params=["primary", "secondary"])
def endpoint(request, endpoints):
    return endpoints[request.param]


@pytest.fixture
def name():
    """An identifier that no other test uses."""
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def table(endpoint, name):
    """The name of a table to create; whatever the test left under it is dropped, on the primary."""
    yield name
    connection = psycopg2.connect(endpoint.uri)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # A statement that the test left behind in another session must not hang the rest of the run.
        cursor.execute("SET lock_timeout = '10s'")
        cursor.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
    connection.close()


@pytest.fixture
def ca(endpoint):
    if endpoint.ca is None:
        pytest.skip("PANGEA_CA is not set: no certificate to verify the server with")
    return endpoint.ca
