"""Fixtures shared by the suites: which endpoint a test talks to, and names nobody else uses.

Every test runs twice, from the primary region's endpoint and from a secondary's. Nothing in a test may know
which of the two it is, except through `endpoint.role`, and then only to say what is the same.
"""

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


# Reads on one connection see what another connection wrote only if asked to. PostgreSQL takes any
# `prefix.name` as a setting of its own, so this does not disturb the reference.
GLOBAL_READS = "-c pangea.read_consistency=global"


@pytest.fixture(scope="session")
def endpoints():
    if "PANGEA_ENDPOINTS" in os.environ:
        yield read_endpoints(os.environ)
        return
    with databases.pangea() as environment:
        yield read_endpoints(environment)


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
