"""The other poolers: where they are found and how they are configured; and who takes part."""

import contextlib
import json
import os
import re
import shutil
import subprocess

from peers import DATABASE, ROLE, SERVER_PORT, Pangea, Peer, Proxy, Target, free_loopback_address, free_port

# Client connections, or processes for them, beyond those of pgbench: its own first one, and looks whether all is well.
CLIENTS_SPARE = 8


class PgBouncer(Proxy):
    name, variable = "pgbouncer", "PGBOUNCER_BIN"
    SESSION_DATABASE = "session_pool"

    @classmethod
    def find(cls):
        return super().find() or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

    def prepares(self):
        """Whether it knows prepared statements in a transaction pool."""
        found = re.search(r"(\d+)\.(\d+)", self.version())
        return found is not None and (int(found[1]), int(found[2])) >= (1, 21)

    def pooled_by_session(self, mode):
        return mode == "prepared" and not self.prepares()

    def pool_mode(self, mode):
        return "SESSION (!)" if self.pooled_by_session(mode) else super().pool_mode(mode)

    def target(self, mode):
        return Target("127.0.0.1", self.port, self.SESSION_DATABASE if self.pooled_by_session(mode) else DATABASE)

    def files(self):
        prepared = "max_prepared_statements = 200" if self.prepares() else ""
        line = f"host={self.server.socket_dir} port={SERVER_PORT} dbname={DATABASE}"
        return {
            "users.txt": f'"{ROLE}" ""\n',
            "pgbouncer.ini": f"""[databases]
{DATABASE} = {line} pool_mode=transaction pool_size={self.sizes.pool}
{self.SESSION_DATABASE} = {line} pool_mode=session pool_size={self.sizes.clients}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = users.txt
max_client_conn = {2 * self.sizes.clients + CLIENTS_SPARE}
log_connections = 0
log_disconnections = 0
{prepared}
""",
        }

    def command(self):
        return [self.binary, "pgbouncer.ini"]


class PgPool(Proxy):
    name = "pgpool"

    @classmethod
    def find(cls):
        return shutil.which("pgpool", path=f"{os.environ['PATH']}:/usr/sbin")

    def version(self):
        done = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def pool_mode(self, _mode):
        # It has no other: a process for each client.
        return "session"

    def files(self):
        found = re.search(r"(\d+)\.(\d+)", self.version())
        renamed = found is not None and (int(found[1]), int(found[2])) >= (4, 4)
        sockets = "unix_socket_directories" if renamed else "socket_dir"
        return {
            "pcp.conf": "",
            "pool_hba.conf": "",
            "pgpool.conf": f"""listen_addresses = '127.0.0.1'
port = {self.port}
{sockets} = '{self.directory}'
pcp_listen_addresses = '127.0.0.1'
pcp_port = {free_port()}
pcp_socket_dir = '{self.directory}'
backend_clustering_mode = 'streaming_replication'
backend_hostname0 = '{self.server.socket_dir}'
backend_port0 = {SERVER_PORT}
backend_weight0 = 1
backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
num_init_children = {self.sizes.clients + CLIENTS_SPARE}
max_pool = 1
child_life_time = 0
load_balance_mode = off
sr_check_period = 0
health_check_period = 0
enable_pool_hba = off
pid_file_name = '{self.directory}/pid'
logdir = '{self.directory}'
""",
        }

    def command(self):
        return [self.binary, "-n", "-D", "-f", "pgpool.conf", "-F", "pcp.conf", "-a", "pool_hba.conf"]


class PgCat(Proxy):
    name, variable, server_over = "pgcat", "PGCAT_BIN", "TCP"
    # Whether it looks at what a statement does, to send reads elsewhere: here to the same server.
    splits = False

    def files(self):
        split = str(self.splits).lower()
        servers = [(self.server.tcp_host, SERVER_PORT, role) for role in roles(self.splits)]
        return {
            "pgcat.toml": f"""[general]
host = "127.0.0.1"
port = {self.port}
admin_username = "bench"
admin_password = "bench"
enable_prometheus_exporter = false
worker_threads = {os.cpu_count()}
shutdown_timeout = 1000
[pools.{DATABASE}]
pool_mode = "transaction"
query_parser_enabled = {split}
query_parser_read_write_splitting = {split}
primary_reads_enabled = false
prepared_statements_cache_size = 500
[pools.{DATABASE}.users.0]
username = "{ROLE}"
password = "unused"
auth_type = "trust"
pool_size = {self.sizes.pool}
[pools.{DATABASE}.shards.0]
database = "{DATABASE}"
servers = {json.dumps(servers)}
"""
        }

    def command(self):
        return [self.binary, "pgcat.toml"]


class PgDog(Proxy):
    name, variable, server_over = "pgdog", "PGDOG_BIN", "TCP"
    splits = False

    def files(self):
        databases = "".join(
            f"""[[databases]]
name = "{DATABASE}"
host = "{self.server.tcp_host}"
port = {SERVER_PORT}
role = "{role}"
"""
            for role in roles(self.splits)
        )
        return {
            "users.toml": f'[[users]]\nname = "{ROLE}"\ndatabase = "{DATABASE}"\npassword = "unused"\n',
            "pgdog.toml": f"""[general]
host = "127.0.0.1"
port = {self.port}
workers = {os.cpu_count()}
default_pool_size = {self.sizes.pool}
pooler_mode = "transaction"
prepared_statements = "extended"
auth_type = "trust"
tls_verify = "disabled"
checkout_timeout = 30000
shutdown_timeout = 1000
{databases}""",
        }

    def command(self):
        return [self.binary, "--config", "pgdog.toml", "--users", "users.toml"]


class PgCatSplit(PgCat):
    name, splits = "pgcat-split", True


class PgDogSplit(PgDog):
    name, splits = "pgdog-split", True


def roles(splits):
    """Whose part the one server plays."""
    return ["primary", "replica"] if splits else ["primary"]


PROXIES = {kind.name: kind for kind in (PgBouncer, PgPool, PgCat, PgDog, PgCatSplit, PgDogSplit)}
NAMES = ("direct", "pangea", *PROXIES)


def available():
    """Names of the peers whose binaries are here, in the order of the table."""
    return [name for name in NAMES if name not in PROXIES or PROXIES[name].find()]


@contextlib.contextmanager
def running(names, scratch, sizes):
    """The peers, started in order and stopped in the opposite one, however the block ends; with pangea, whose server
    all of them use."""
    over_tcp = any(name in PROXIES and PROXIES[name].server_over == "TCP" for name in names)
    with contextlib.ExitStack() as stack:
        pangea = Pangea(scratch, sizes, free_loopback_address() if over_tcp else None)
        stack.callback(pangea.stop)
        pangea.start()
        peers = []
        for name in names:
            if name == "pangea":
                peers.append(pangea)
                continue
            peer = PROXIES.get(name, Peer)(pangea, scratch, sizes)
            stack.callback(peer.stop)
            peer.start()
            peers.append(peer)
        yield pangea, peers
