"""What a region costs while thousands of its sessions wait for a position that does not come.

Two regions of its own, run as in production (`pangea region run`), because `pangea up` has no option for so many
clients. The secondary's replay is paused, every session writes once and then reads: all of them wait. While they
do, the CPU time of the gateway and of what it asks its server is counted; then the replay goes on and every session
must get its own row.
"""

import concurrent.futures
import contextlib
import json
import os
import resource
import select
import statistics
import subprocess
import time

import wire

TABLE = "idle_waits"
REGIONS = ("us-east-1", "eu-west-1")
START_TIMEOUT_S = 120
ANSWER_TIMEOUT_S = 60
# Sessions that connect or write at a time.
AT_A_TIME = 16
# Longer than a wave takes, so that nobody gives up waiting and reads from the primary.
TIMEOUT_OPTION = "-c pangea.consistency_timeout=60s"
# What a wave must fit into for gateways that know no such setting: they give up after 5 s.
SETTLE_S, WINDOW_S = 0.5, 3.0
# Beside the sessions: the gateways' and agents' own connections. Never below what pangea sets by itself, 200: a
# standby does not start with less than its primary last had.
CONNECTIONS_SPARE = 200
# Per session: the client's socket in this process; client, server and link in a gateway.
FILES_PER_SESSION = 4


class Regions:
    """A primary and a secondary region that take many clients."""

    def __init__(self, binary, data, sessions, pg_bin=None):
        self.binary, self.data, self.pg_bin = binary, data, pg_bin
        self.connections = sessions + CONNECTIONS_SPARE
        self.processes = {}
        self.endpoints = {}

    def __enter__(self):
        self.create()
        try:
            for region in REGIONS:
                config, log = self.data / region / "region.toml", open(self.data / f"{region}.log", "wb")
                command = [self.binary, "region", "run", "--config", config]
                self.processes[region] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for region in REGIONS:
                self.wait_for(region)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(START_TIMEOUT_S)

    def create(self):
        """Lets `pangea up` write files and data, then gives every region more room."""
        up = [self.binary, "up", "--detach", "--json", "--data-dir", self.data, "--regions", ",".join(REGIONS)]
        up += ["--port-base", "0", "--wan", "off", "--auth", "trust"]
        up += ["--pg-bin", self.pg_bin] if self.pg_bin else []
        with open(self.data.with_suffix(".up.log"), "wb") as log:
            done = subprocess.run(up, stdout=subprocess.PIPE, stderr=log, timeout=START_TIMEOUT_S, check=True)
        self.endpoints = {region["region"]: region["cluster"] for region in json.loads(done.stdout)["regions"]}
        # The limits of a standby may not be below the primary's: the standby's are raised first of all.
        for region in reversed(REGIONS):
            server = wire.Connection(self.socket_dir(region))
            server.rows(f"ALTER SYSTEM SET max_connections = {self.connections}")
            server.close()
        down = [self.binary, "down", "--data-dir", self.data]
        subprocess.run(down, check=True, timeout=START_TIMEOUT_S, stdout=subprocess.DEVNULL)
        for region in REGIONS:
            config = self.data / region / "region.toml"
            lines = config.read_text().splitlines()
            lines = [line for line in lines if not line.startswith("clients_max")]
            config.write_text("\n".join([f"clients_max = {self.connections}", *lines, ""]))

    def socket_dir(self, region):
        return self.data / region / "run"

    def wait_for(self, region):
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError, wire.ServerError):
                wire.Connection.to_uri(self.endpoints[region]).close()
                return
            if self.processes[region].poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"region {region} did not start: see {self.data}/{region}.log")
            time.sleep(0.1)


class Cost:
    """CPU time of a region, as shares of one core."""

    def __init__(self, regions, region):
        self.gateway = regions.processes[region].pid
        self.server = wire.Connection(regions.socket_dir(region))

    def backends(self):
        """Backends that the gateway and its agent talk to for themselves: all but the sessions'."""
        rows = self.server.rows(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND application_name <> 'pangea bench'"
        )
        return {int(pid): wire.cpu_ns(int(pid)) for (pid,) in rows}

    def over(self, seconds):
        """(gateway's share, backends' share) over the next seconds."""
        backends, gateway, began = self.backends(), wire.cpu_ns(self.gateway), time.monotonic_ns()
        time.sleep(seconds)
        gateway = wire.cpu_ns(self.gateway) - gateway
        # A backend that came meanwhile counts from its birth; one that went counts no more.
        asked = sum(now - backends.get(pid, 0) for pid, now in self.backends().items())
        passed = time.monotonic_ns() - began
        return gateway / passed, asked / passed


def measure(binary, scratch, sessions, waves, pg_bin=None):
    """Per wave: (gateway, backends) while idle, and while all sessions wait."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < sessions * FILES_PER_SESSION:
        raise OSError(f"{hard} open files are too few for {sessions} sessions: raise `ulimit -Hn`")
    with Regions(binary, scratch / "waits", sessions, pg_bin) as regions:
        primary, secondary = REGIONS
        create_table(regions.endpoints[primary])
        standby = wire.Connection(regions.socket_dir(secondary))
        clients = connect(regions.endpoints[secondary], sessions)
        cost, idle, waiting = Cost(regions, secondary), [], []
        for wave in range(1, waves + 1):
            time.sleep(SETTLE_S)
            idle.append(cost.over(WINDOW_S))
            waiting.append(one_wave(clients, standby, cost, wave))
        for client in clients:
            client.close()
    return idle, waiting


def create_table(uri):
    connection = wire.Connection.to_uri(uri)
    connection.rows(f"CREATE TABLE {TABLE} (session int, wave int)")
    connection.close()


def for_all(clients, action):
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(action, range(len(clients)), clients))


def connect(uri, sessions):
    """Sessions that have written and read before: each has its connections, here and at the primary."""

    def one(session, _):
        client = wire.Connection.to_uri(uri, TIMEOUT_OPTION)
        client.rows(insert(session, 0))
        assert client.rows(look(session, 0)) == [["1"]]
        return client

    return for_all([None] * sessions, one)


def insert(session, wave):
    return f"INSERT INTO {TABLE} VALUES ({session}, {wave})"


def look(session, wave):
    return f"SELECT count(*) FROM {TABLE} WHERE session = {session} AND wave = {wave}"


def one_wave(clients, standby, cost, wave):
    standby.rows("SELECT pg_wal_replay_pause()")
    while standby.value("SELECT pg_get_wal_replay_pause_state()") != "paused":
        time.sleep(0.01)
    try:
        for_all(clients, lambda session, client: client.rows(insert(session, wave)))
        for session, client in enumerate(clients):
            client.socket.sendall(wire.query(look(session, wave)))
        time.sleep(SETTLE_S)
        share = cost.over(WINDOW_S)
        answered = readable(clients)
    finally:
        standby.rows("SELECT pg_wal_replay_resume()")
    if answered:
        raise AssertionError(f"{answered} of {len(clients)} sessions did not wait until the end of the window")
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    for client in clients:
        client.socket.settimeout(max(0.1, deadline - time.monotonic()))
        rows = [wire.columns(body) for kind, body in client.until_ready() if kind == b"D"]
        client.socket.settimeout(None)
        assert rows == [["1"]], f"a session did not see its own write: {rows}"
    return share


def readable(clients):
    poll = select.poll()
    for client in clients:
        poll.register(client.socket, select.POLLIN)
    return len(poll.poll(0))


def summary(shares):
    """Medians over the waves, in percent of a core: gateway, backends, both."""
    gateway, backends = (100 * statistics.median(values) for values in zip(*shares, strict=True))
    return gateway, backends, 100 * statistics.median(sum(share) for share in shares)


def binary_path(root):
    return os.environ.get("PANGEA_BIN", str(root / "target/release/pangea"))
