"""What asking for a position behind a write costs the backend that answers.

Measured at the primary's server itself, over its unix socket: the same backend runs the same writes without and
with the question pipelined behind them, as the gateway sends it, in blocks that alternate. What differs between
two blocks is the question and nothing else. The question comes in three shapes.
"""

import contextlib
import random
import statistics
import time
import typing

import wire

POSITION_SQL = (
    "SELECT CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off' "
    "THEN pg_catalog.pg_current_wal_insert_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END"
)
TABLE = "position_cost"
INSERT = f"INSERT INTO {TABLE} (v) VALUES (random())"
# pgbench's "TPC-B (sort of)", statement by statement, as pgbench sends it.
TPC_B = (
    ("begin", "BEGIN", ()),
    ("accounts", "UPDATE pgbench_accounts SET abalance = abalance + $1::int WHERE aid = $2::int", ("delta", "aid")),
    ("balance", "SELECT abalance FROM pgbench_accounts WHERE aid = $1::int", ("aid",)),
    ("tellers", "UPDATE pgbench_tellers SET tbalance = tbalance + $1::int WHERE tid = $2::int", ("delta", "tid")),
    ("branches", "UPDATE pgbench_branches SET bbalance = bbalance + $1::int WHERE bid = $2::int", ("delta", "bid")),
    ("history", "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
     "VALUES ($1::int, $2::int, $3::int, $4::int, CURRENT_TIMESTAMP)", ("tid", "bid", "aid", "delta")),
    ("end", "END", ()),
)  # fmt: skip
# So few that a block is shorter than the machine's own ups and downs.
BLOCK = 50
# Of pgbench. At 1 the one branch is updated by every transaction, and its dead versions, which a standby's feedback
# keeps for a second, make a transaction dearer than the question could ever be.
SCALE = 10


class Writes:
    """Transactions of one kind: `messages()` is what each sends, one piece per round trip."""

    def __init__(self, name, connection):
        self.name = name
        self.connection = connection

    def prepare(self):
        pass


class SimpleInsert(Writes):
    def messages(self):
        return [wire.query(INSERT)]


class PreparedInsert(Writes):
    def prepare(self):
        self.connection.exchange(wire.parse("insert", INSERT) + wire.sync())

    def messages(self):
        return [wire.bind_execute_sync("insert")]


def tpc_b_values():
    return {
        "delta": random.randint(-5000, 5000),
        "aid": random.randint(1, 100000 * SCALE),
        "tid": random.randint(1, 10 * SCALE),
        "bid": random.randint(1, SCALE),
    }


class SimpleTpcB(Writes):
    def messages(self):
        values, pieces = tpc_b_values(), []
        for _, text, names in TPC_B:
            for position, name in enumerate(names, 1):
                text = text.replace(f"${position}::int", str(values[name]))
            pieces.append(wire.query(text))
        return pieces


class PreparedTpcB(Writes):
    def prepare(self):
        for name, text, _ in TPC_B:
            self.connection.exchange(wire.parse(name, text) + wire.sync())

    def messages(self):
        values = tpc_b_values()
        return [wire.bind_execute_sync(name, *(values[key] for key in names)) for name, _, names in TPC_B]


WRITES = {
    "INSERT, simple": SimpleInsert,
    "INSERT, prepared": PreparedInsert,
    "TPC-B, simple": SimpleTpcB,
    "TPC-B, prepared": PreparedTpcB,
}
# `bare Sync` asks nothing: it is what any second exchange costs, which no shape of the question can undercut.
QUESTIONS = ("none", "simple query", "prepared", "fast path", "bare Sync")


# Which of them the gateway sends (crates/session/src/dispatch.rs).
ASKED_BY_GATEWAY = "fast path"


def questions(connection):
    """The messages of each way to ask, by name; `none` is the baseline."""
    flush = int(connection.value("SELECT 'pg_catalog.pg_current_wal_flush_lsn'::regproc::oid"))
    connection.exchange(wire.parse("position", POSITION_SQL) + wire.sync())
    asked = {
        "none": b"",
        "simple query": wire.query(POSITION_SQL),
        "prepared": wire.bind_execute_sync("position", results=wire.BINARY),
        "fast path": wire.function_call(flush),
        "bare Sync": wire.sync(),
    }
    check(connection, asked)
    return asked


def check(connection, asked):
    """Every shape must give a position at or past the write before it, or its cost means nothing."""
    for name, question in asked.items():
        if name in ("none", "bare Sync"):
            continue
        before = wire.lsn(connection.value("SELECT pg_current_wal_insert_lsn()"))
        frames = connection.exchange(wire.query(INSERT) + question, readies=2)
        kind, body = next((kind, body) for kind, body in reversed(frames) if kind in b"DV")
        if kind == b"V":
            answer = int.from_bytes(body[4:12], "big")
        elif name == "prepared":
            answer = int.from_bytes(body[6:14], "big")
        else:
            answer = wire.lsn(wire.columns(body)[0])
        now = wire.lsn(connection.value("SELECT pg_current_wal_flush_lsn()"))
        assert before < answer <= now, f"{name}: {before:X} {answer:X} {now:X}"


def block_ns(connection, writes, question):
    """CPU nanoseconds of the backend per transaction, over one block."""
    # Built before the clock runs and sent without a pause: a backend that sleeps longer wakes up colder.
    transactions = [writes.messages() for _ in range(BLOCK)]
    readies = 2 if question else 1
    began = wire.settled_cpu_ns(connection.backend_pid)
    for *first, last in transactions:
        for piece in first:
            connection.exchange(piece)
        connection.exchange(last + question, readies)
    return (wire.settled_cpu_ns(connection.backend_pid) - began) / BLOCK


def measure(socket_dir, write, transactions):
    """Per question: the nanoseconds per transaction of each block."""
    connection = wire.Connection(socket_dir)
    writes = WRITES[write](write, connection)
    writes.prepare()
    asked = questions(connection)
    blocks = {name: [] for name in QUESTIONS}
    for name in QUESTIONS:
        block_ns(connection, writes, asked[name])
    for _ in range(max(1, transactions // BLOCK)):
        # In another order each time: no question always follows the same one.
        for name in random.sample(QUESTIONS, len(QUESTIONS)):
            blocks[name].append(block_ns(connection, writes, asked[name]))
    connection.close()
    return blocks


def create_tables(connection):
    """All but pgbench's own."""
    connection.rows(f"DROP TABLE IF EXISTS {TABLE}")
    connection.rows(f"CREATE TABLE {TABLE} (v float8)")


@contextlib.contextmanager
def fsync(connection, value):
    """The server with or without waiting for its disk, which costs CPU time too."""
    connection.rows(f"ALTER SYSTEM SET fsync = {value}")
    reload(connection)
    try:
        yield
    finally:
        connection.rows("ALTER SYSTEM RESET fsync")
        reload(connection)


def reload(connection):
    connection.rows("SELECT pg_reload_conf()")
    # Backends take it up with their next statement, once the postmaster has told them.
    time.sleep(0.5)


class Cost(typing.NamedTuple):
    """Of one question behind one kind of write; per transaction."""

    question: str
    cpu_us: float
    extra_us: float
    extra_percent: float
    # Standard error of `extra_percent`.
    error_percent: float


def summary(blocks):
    base = statistics.median(blocks["none"])
    rows = []
    for name in QUESTIONS:
        # Pairs of neighbours in time: what the machine did to one block it did to the other.
        extra = [mine - without for mine, without in zip(blocks[name], blocks["none"], strict=True)]
        # Of a median of many: 1.25 times that of a mean, from quartiles, which single hiccups do not move.
        low, _, high = statistics.quantiles(extra, n=4)
        error = 1.253 * (high - low) / 1.349 / len(extra) ** 0.5
        middle = statistics.median(extra)
        cpu_us = statistics.median(blocks[name]) / 1000
        rows.append(Cost(name, cpu_us, middle / 1000, 100 * middle / base, 100 * error / base))
    return rows
