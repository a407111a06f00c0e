"""What a read that must see the session's own write waits for, against the replication itself (the floor).

Rounds of two kinds alternate. In a floor round the client, once its write is acknowledged, asks the secondary's
server itself again and again until the row is there: nothing of pangea's is in that path, so no read that sees the
row could have come sooner. In a read round the client reads the row through the region's endpoint at some level.
"""

import random
import statistics
import time

import wire

TABLE = "replay_wait"
LEVELS = ("eventual", "session", "global", "primary")
# The first rounds of a connection open the way to the primary.
WARM_UP = 3
REPLICATION_TIMEOUT_S = 30
# Between rounds, so that they do not fall into step with anything that runs at an interval.
PAUSE_S_MAX = 0.02


class Region:
    """A secondary region: its endpoint, and its server behind the gateway's back."""

    def __init__(self, uri, socket_dir):
        self.uri = uri
        self.server = wire.Connection(socket_dir)

    def look_up(self, table=TABLE):
        """The server reads the rows of `table` with a statement that it has parsed once."""
        self.server.exchange(wire.parse("", f"SELECT 1 FROM {table} WHERE id = $1::int") + wire.sync())

    def wait_for(self, key):
        """Seconds until the row is there, and between two looks."""
        question = wire.bind_execute_sync("", key)
        began = asked = time.perf_counter()
        looks = 1
        while not any(kind == b"D" for kind, _ in self.server.exchange(question)):
            asked = time.perf_counter()
            looks += 1
            if asked - began > REPLICATION_TIMEOUT_S:
                raise TimeoutError(f"row {key} has not reached the secondary region")
        answered = time.perf_counter()
        # It came somewhere between the question and the answer; at the first look it may have been there before.
        seconds = (asked + answered) / 2 - began if looks > 1 else 0.0
        return seconds, (answered - began) / looks


class Client:
    """A session of an application in the secondary region."""

    def __init__(self, uri, level):
        self.connection = wire.Connection.to_uri(uri, f"-c pangea.read_consistency={level}")

    def write(self, key):
        self.connection.exchange(wire.query(f"INSERT INTO {TABLE} VALUES ({key})"))

    def read(self, key):
        """Seconds that a read of the row took, and whether it saw it."""
        began = time.perf_counter()
        frames = self.connection.exchange(wire.query(f"SELECT id FROM {TABLE} WHERE id = {key}"))
        return time.perf_counter() - began, any(kind == b"D" for kind, _ in frames)


def create_table(primary_uri, region):
    connection = wire.Connection.to_uri(primary_uri)
    connection.rows(f"DROP TABLE IF EXISTS {TABLE}")
    connection.rows(f"CREATE TABLE {TABLE} (id int PRIMARY KEY)")
    connection.close()
    deadline = time.monotonic() + REPLICATION_TIMEOUT_S
    while region.server.value(f"SELECT to_regclass('{TABLE}') IS NOT NULL") != "t":
        if time.monotonic() > deadline:
            raise TimeoutError("the secondary region has not received the table: is replication running?")
        time.sleep(0.05)
    region.look_up()


class Samples:
    """Seconds, by kind of round."""

    def __init__(self):
        self.floor, self.between_looks, self.plain = [], [], []
        self.read = {level: [] for level in LEVELS}
        self.stale = dict.fromkeys(LEVELS, 0)

    def extra(self, level):
        """What the reads after a write took beyond a local read that has nothing to wait for."""
        plain = statistics.median(self.plain)
        return [seconds - plain for seconds in self.read[level]]


def measure(primary_uri, secondary_uri, socket_dir, rounds):
    region = Region(secondary_uri, socket_dir)
    create_table(primary_uri, region)
    clients = {level: Client(secondary_uri, level) for level in LEVELS}
    writer = Client(secondary_uri, "session")
    samples = Samples()
    keys = iter(range(1, 1 << 31))
    for client in [*clients.values(), writer]:
        for _ in range(WARM_UP):
            key = next(keys)
            client.write(key)
            client.read(key)
            region.wait_for(key)
    for _ in range(rounds):
        for kind in random.sample(["floor", *LEVELS], len(LEVELS) + 1):
            one_round(kind, next(keys), region, clients.get(kind, writer), samples)
    return samples


def one_round(kind, key, region, client, samples):
    time.sleep(random.uniform(0, PAUSE_S_MAX))
    client.write(key)
    if kind == "floor":
        seconds, between_looks = region.wait_for(key)
        samples.floor.append(seconds)
        samples.between_looks.append(between_looks)
        # The row is here and the session has seen to it: from now on its reads have nothing to wait for.
        client.read(key)
        samples.plain.append(client.read(key)[0])
        return
    seconds, seen = client.read(key)
    samples.read[kind].append(seconds)
    samples.stale[kind] += not seen
    region.wait_for(key)
