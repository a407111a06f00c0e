"""A client that finds the primary by DNS follows it from region to region.

It reads the TXT record as the Django router in Ookla's public article does: parts split by `;`, each by `=`.
"""

import http.client
import json
import pathlib
import socket
import time
import tomllib

import dns.resolver
import psycopg
import pytest

TIMEOUT_S = 30


class Region(http.client.HTTPConnection):
    """What a region tells on its unix socket."""

    def __init__(self, data, name):
        super().__init__("region")
        self.path = pathlib.Path(data) / name / "run/status.sock"

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self.path))


def ask(data, region, path, body=None):
    connection = Region(data, region)
    text = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, text, {"content-type": "application/json"})
    return json.loads(connection.getresponse().read())


def resolver_of(data, region):
    """A resolver that asks this region's listener and keeps nothing; and the zone."""
    config = tomllib.loads((pathlib.Path(data) / region / "region.toml").read_text())["dns"]
    host, port = config["listen"].rsplit(":", 1)
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.cache = [host], int(port), None
    return resolver, config["zone"]


def primary_by_txt(resolver, zone):
    (answer,) = resolver.resolve(zone, "TXT")
    (text,) = answer.strings
    return dict(part.split("=") for part in text.decode().split(";"))


def wait_for(what, description):
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := what()):
        assert time.monotonic() < deadline, f"{description}: not within {TIMEOUT_S} s"
        time.sleep(0.05)
    return found


def test_the_txt_record_follows_three_moves_of_the_primary(environment):
    data = environment["PANGEA_DATA_DIR"]
    if not data:
        pytest.skip("the reference has no regions")
    uris = json.loads(environment["PANGEA_ENDPOINTS"])
    regions = list(uris)
    resolver, zone = resolver_of(data, regions[1])
    record = primary_by_txt(resolver, zone)
    assert record["region"] == regions[0] and int(record["max-age"]) > 0
    epoch = int(record["epoch"])
    for to in [*regions[1:], regions[0]]:
        primary = primary_by_txt(resolver, zone)["region"]
        request = {"to": to, "timeout_ms": 5000}
        wait_for(lambda: ask(data, primary, "/v1/switchover", request)["transition"], "a switchover begins")
        record = wait_for(
            lambda: (found := primary_by_txt(resolver, zone))["region"] == to and found, f"{to} in the record"
        )
        assert int(record["epoch"]) > epoch, "answers never go backwards"
        epoch = int(record["epoch"])
        writer = resolver.resolve(f"writer.{zone}", "A")
        assert [address.to_text() for address in writer] == ["127.0.0.1"]
        with psycopg.connect(uris[to]) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    # What comes next in this run is to find the regions as they were.
    wait_for(
        lambda: all(ask(data, region, "/v1/status")["health"] == "healthy" for region in regions), "all are healthy"
    )
