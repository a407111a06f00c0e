"""Django, configured once for all suites that use it, and databases in which the `shop` application is migrated."""

import contextlib
import time

import django
import psycopg
from django.conf import settings

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "unused"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402

CREATION_TIMEOUT_S = 20


@contextlib.contextmanager
def migrated(endpoint, alias, options):
    """Makes `alias` the name of a migrated database, created through the very endpoint that the tests then use."""
    database = f"django_{alias}"
    with psycopg.connect(endpoint.uri, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {database}")
    wait_until_it_is_here(endpoint, database)
    add_alias(endpoint, alias, database, options)
    call_command("migrate", database=alias, verbosity=0)
    yield alias
    connections[alias].close()
    with psycopg.connect(endpoint.uri, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


def add_alias(endpoint, alias, database, options):
    """Lets Django connect to a database with start-up options of its own."""
    keywords = endpoint.keywords
    connections.settings[alias] = connections.configure_settings(
        {
            "default": connections.settings["default"],
            alias: {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": database,
                "HOST": keywords["host"],
                "PORT": keywords["port"],
                "USER": keywords["user"],
                "PASSWORD": keywords["password"],
                "CONN_MAX_AGE": None,
                "OPTIONS": {"options": options},
            },
        }
    )[alias]


def wait_until_it_is_here(endpoint, database):
    """A new database reaches a secondary region with the replication stream, like any other write."""
    deadline = time.monotonic() + CREATION_TIMEOUT_S
    while True:
        try:
            psycopg.connect(endpoint.uri, dbname=database).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
