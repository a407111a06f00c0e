"""What peers have in common: how they are started, reached and stopped; and pangea, which brings the server.

All stand before one PostgreSQL, that of a pangea cluster of one region, which listens on a unix socket only. Peers that
reach servers over TCP alone get a door of their own into the same server (`tcp_door`).
"""

import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

# How pangea pools: the key `pool_mode` of its region's configuration. Binaries that pool sessions only do not know the
# key, so it is written for other modes alone.
PANGEA_POOL_MODE = os.environ.get("PANGEA_POOL_MODE", "session")

ROOT = pathlib.Path(__file__).resolve().parents[2]
OS_USER, ROLE, DATABASE, REGION = "postgres", "postgres", "postgres", "bench"
SERVER_PORT = 5432
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
# Beside the peers' pools: what pangea and PostgreSQL keep for themselves.
CONNECTIONS_SPARE = 200
LOG_LINES_SHOWN = 15
# Nothing of a client's connection but the protocol itself is measured.
CLIENT_ENVIRONMENT = os.environ | {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable", "PGCONNECT_TIMEOUT": "20"}


class PeerFailed(Exception):
    """A peer did not start or did not serve; the message says why."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where pgbench connects to."""

    host: str
    port: int
    database: str = DATABASE

    def options(self):
        return ["-h", self.host, "-p", str(self.port), "-U", ROLE, self.database]


@dataclasses.dataclass(frozen=True)
class Sizes:
    clients: int  # the most that come at a time
    pool: int  # server connections of a transaction pool


def pg_bin():
    directory = os.environ.get("PANGEA_PG_BIN")
    if directory:
        return pathlib.Path(directory)
    installed = glob.glob("/usr/lib/postgresql/*/bin")
    if installed:
        return pathlib.Path(max(installed, key=lambda path: int(path.split("/")[4])))
    return pathlib.Path(shutil.which("postgres") or "/usr/bin/postgres").resolve().parent


def pg_program(name):
    """A program of PostgreSQL's, as an argument."""
    beside = pg_bin() / name
    return str(beside) if beside.exists() else name


def said(*command, **options):
    """What a command that must succeed prints."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    if done.returncode != 0:
        raise PeerFailed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def query(target, sql):
    psql = [pg_program("psql"), "-XAtq", *target.options(), "-c", sql]
    return said(*psql, env=CLIENT_ENVIRONMENT, timeout=START_TIMEOUT_S)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def own(path):
    """Hands a file or directory over to the user that servers and poolers run as."""
    if os.getuid() == 0:
        shutil.chown(path, OS_USER, OS_USER)


class Peer:
    """A process that stands between pgbench and the server. The direct line is one without a process."""

    name = "direct"
    # Whether the CPU time of children is the peer's. Pangea's child is PostgreSQL.
    counts_children = True
    server_over = "unix"
    process = None
    # pgpool's and pangea's fast way to stop is another signal's slow one.
    stop_signal = signal.SIGINT

    def __init__(self, server, scratch, sizes):
        self.server, self.sizes = server, sizes
        self.directory = scratch / self.name
        self.port = None

    def version(self):
        return ""

    def pool_mode(self, _mode):
        return "-"

    def target(self, _mode):
        return Target(str(self.server.socket_dir), SERVER_PORT)

    def start(self):
        pass

    def stop(self):
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not stop within {STOP_TIMEOUT_S} s: it is killed", flush=True)
        finally:
            # The group: pgpool's children outlive a parent that was killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def launch(self, command):
        """Starts the process as the servers' user, in a session of its own: Ctrl-C is this program's to handle."""
        as_user = ["setpriv", f"--reuid={OS_USER}", f"--regid={OS_USER}", "--clear-groups"] if os.getuid() == 0 else []
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                as_user + [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True,
            )  # fmt: skip
        self.wait_ready()

    def wait_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                query(self.target("simple"), "SELECT 1")
                return
            except (PeerFailed, subprocess.TimeoutExpired) as error:
                ended = self.process.poll()
                if ended is None and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                what = f"does not serve after {START_TIMEOUT_S} s: {error}" if ended is None else f"has ended ({ended})"
                lines = (self.directory / "log").read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
                raise PeerFailed("\n".join([f"{self.name} {what}; its log ends with", *lines])) from error


class Proxy(Peer):
    """A peer that is a binary with configuration files."""

    variable = None

    def __init__(self, server, scratch, sizes):
        super().__init__(server, scratch, sizes)
        self.port = free_port()
        self.binary = self.find()

    @classmethod
    def find(cls):
        """Its binary, or None."""
        return os.environ.get(cls.variable or "") or None

    def version(self):
        return said(self.binary, "--version").splitlines()[0]

    def pool_mode(self, _mode):
        return f"transaction, {self.sizes.pool}"

    def target(self, _mode):
        return Target("127.0.0.1", self.port)

    def files(self):
        """Names and texts of its configuration files."""
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def start(self):
        self.directory.mkdir()
        own(self.directory)
        for name, text in self.files().items():
            (self.directory / name).write_text(text)
            own(self.directory / name)
        self.launch(self.command())


class Pangea(Peer):
    """A region of its own, run as in production, and the PostgreSQL that it brings for everybody."""

    name, counts_children, stop_signal = "pangea", False, signal.SIGTERM

    def __init__(self, scratch, sizes, tcp_host):
        super().__init__(self, scratch, sizes)
        self.tcp_host = tcp_host
        self.binary = os.environ.get("PANGEA_BIN", str(ROOT / "target/release/pangea"))
        self.data = self.directory / "data"
        self.socket_dir = self.data / REGION / "run"

    def version(self):
        return said(self.binary, "--version")

    def pool_mode(self, _mode):
        return PANGEA_POOL_MODE

    def target(self, _mode):
        return Target("127.0.0.1", self.port)

    def start(self):
        """Lets `pangea up` write files and data, gives the region room for everybody's pools, and runs it."""
        if not os.access(self.binary, os.X_OK):
            raise PeerFailed(f"{self.binary} is missing: run `make build`, or point PANGEA_BIN to the binary")
        self.directory.mkdir()
        own(self.directory)
        programs = pg_bin() if self.tcp_host is None else tcp_door(self.directory / "bin", self.tcp_host)
        up = [self.binary, "up", "--detach", "--json", "--data-dir", self.data, "--regions", REGION, "--port-base", "0",
              "--wan", "off", "--auth", "trust", "--pg-bin", programs]  # fmt: skip
        if PANGEA_POOL_MODE != "session":
            up += ["--pool-mode", PANGEA_POOL_MODE]
        down = [self.binary, "down", "--data-dir", self.data]
        try:
            endpoint = json.loads(said(*up, timeout=START_TIMEOUT_S))["regions"][0]["cluster"]
        finally:
            subprocess.run(down, timeout=START_TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
        self.port = int(re.search(r":(\d+)/", endpoint)[1])
        config = self.data / REGION / "region.toml"
        connections = CONNECTIONS_SPARE + 6 * self.sizes.clients
        added = [f'postgres_settings = ["max_connections = {connections}"]']
        text = config.read_text()
        if PANGEA_POOL_MODE != "session":
            text = re.sub(r"(?m)^default_pool_size = \d+$", f"default_pool_size = {self.sizes.pool}", text)
        config.write_text("\n".join([*added, text]))
        self.launch([self.binary, "region", "run", "--config", config])

    def stop(self):
        try:
            postmaster = self.postmaster()
        except OSError:
            postmaster = None
        super().stop()
        # It has stopped its server, unless it had to be killed or died.
        with contextlib.suppress(OSError):
            if postmaster and os.readlink(f"/proc/{postmaster}/cwd") == str(self.data / REGION / "pgdata"):
                os.kill(postmaster, signal.SIGQUIT)

    def postmaster(self):
        return int((self.data / REGION / "pgdata/postmaster.pid").read_text().split()[0])


def tcp_door(directory, host):
    """PostgreSQL's programs, with a `postgres` that listens on a loopback address as well."""
    directory.mkdir()
    for program in pg_bin().iterdir():
        if program.name != "postgres":
            (directory / program.name).symlink_to(program)
    hba = directory / "pg_hba.conf"
    hba.write_text(f"local all all trust\nlocal replication all trust\nhost all all {host}/8 trust\n")
    # The last setting of a name counts. All processes of PostgreSQL are this one's, so it must not stay in between.
    door = directory / "postgres"
    door.write_text(
        f"#!/bin/sh\nexec '{pg_bin()}/postgres' \"$@\" -c listen_addresses={host} -c hba_file='{hba}'\n"
    )
    door.chmod(0o755)
    return directory


def free_loopback_address():
    """A loopback address on which nobody has the server's port, which pangea fixes."""
    for last in range(2, 255):
        host = f"127.0.0.{last}"
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind((host, SERVER_PORT))
            return host
    raise PeerFailed(f"port {SERVER_PORT} is taken on all loopback addresses: stop what listens there")
