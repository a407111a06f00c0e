#!/usr/bin/env python3
"""A database to run client suites against, described by environment variables.

    cluster.py [--reference] COMMAND...

starts one, runs COMMAND with these variables, stops it, and exits as COMMAND did:

    PANGEA_ENDPOINTS  {"us-east-1": "postgresql://user:password@host:port/db", ...}, the primary region first
    PANGEA_CA         file with the certificate that signed the servers' certificates
    PANGEA_DATA_DIR   where the regions' servers are, for who must reach them behind the gateways' backs: their unix
                      sockets are in <data directory>/<region>/run; empty with --reference, which has no regions

The database is a global one of pangea's (`PANGEA_BIN`, by default target/release/pangea; `PANGEA_WAN`, by
default wan.toml beside this file, is handed to `pangea up --wan`, and `PANGEA_UP_OPTIONS` to `pangea up`), or with --reference one plain PostgreSQL
server that plays every region. The suites must pass unchanged against both: a test that fails on the reference
is a bug of the test.
Only the standard library is used, so that it runs before anything is installed.
"""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START_TIMEOUT_S = 120
REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")


class StartFailed(Exception):
    """The database did not come up; the message says where its logs are."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def scratch_directory():
    """A directory that is removed on success and kept, with the logs in it, on failure."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="pangea-clients-"))
    path.chmod(0o755)
    try:
        yield path
    except BaseException:
        print(f"cluster.py: logs are kept in {path}", file=sys.stderr)
        raise
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def pangea():
    """A global database of three regions, as environment variables."""
    binary = os.environ.get("PANGEA_BIN", str(ROOT / "target/release/pangea"))
    if not os.access(binary, os.X_OK):
        raise StartFailed(f"{binary} is missing: run `make build`, or point PANGEA_BIN to the binary")
    with scratch_directory() as scratch:
        data = scratch / "data"
        up = [binary, "up", "--detach", "--json", "--data-dir", data, "--regions", ",".join(REGIONS)]
        # 0: whatever ports are free.
        up += ["--port-base", "0", "--wan", os.environ.get("PANGEA_WAN", str(HERE / "wan.toml"))]
        up += shlex.split(os.environ.get("PANGEA_UP_OPTIONS", ""))
        if "PANGEA_PG_BIN" in os.environ:
            up += ["--pg-bin", os.environ["PANGEA_PG_BIN"]]
        try:
            with open(scratch / "up.log", "wb") as log:
                done = subprocess.run(up, stdout=subprocess.PIPE, stderr=log, timeout=START_TIMEOUT_S)
            if done.returncode != 0:
                raise StartFailed(f"pangea up failed:\n{(scratch / 'up.log').read_text()}")
            yield pangea_environment(json.loads(done.stdout), data)
        finally:
            subprocess.run([binary, "down", "--data-dir", data], timeout=START_TIMEOUT_S, stdout=subprocess.DEVNULL)
        subprocess.run([binary, "down", "--delete", "--data-dir", data], check=False, stdout=subprocess.DEVNULL)


def pangea_environment(described, data):
    regions = sorted(described["regions"], key=lambda region: region["role"] != "primary")
    endpoints = json.dumps({region["region"]: region["cluster"] for region in regions})
    return {"PANGEA_ENDPOINTS": endpoints, "PANGEA_CA": str(data / "ca/ca.pem"), "PANGEA_DATA_DIR": str(data)}


@contextlib.contextmanager
def reference():
    """One PostgreSQL server with TLS and SCRAM that stands for every region."""
    pg_bin = os.environ.get("PANGEA_PG_BIN") or max(
        pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    with scratch_directory() as scratch:
        if as_postgres:
            shutil.chown(scratch, "postgres", "postgres")
        data, log, port = scratch / "data", scratch / "postgres.log", free_port()
        (scratch / "password").write_text("secret")
        make_certificates(scratch)
        for file in scratch.iterdir():
            if as_postgres:
                shutil.chown(file, "postgres", "postgres")
        initdb = [f"{pg_bin}/initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={scratch}/password"]
        subprocess.run(as_postgres + initdb, check=True, stdout=subprocess.DEVNULL, cwd=scratch)
        with open(data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(f"""
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{scratch}'
password_encryption = 'scram-sha-256'
max_prepared_transactions = 10
fsync = off
ssl = on
ssl_cert_file = '{scratch}/server.crt'
ssl_key_file = '{scratch}/server.key'
""")
        with open(log, "wb") as output:
            server = subprocess.Popen(
                as_postgres + [f"{pg_bin}/postgres", "-D", data], stdout=output, stderr=output, cwd=scratch
            )
        try:
            wait_for_port(port, server, log)
            uri = f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
            endpoints = json.dumps({region: uri for region in REGIONS})
            yield {"PANGEA_ENDPOINTS": endpoints, "PANGEA_CA": str(scratch / "ca.crt"), "PANGEA_DATA_DIR": ""}
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(START_TIMEOUT_S)


def make_certificates(scratch):
    """ca.crt, and server.crt with server.key for localhost, in `scratch`."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, cwd=scratch, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=suite CA", "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (scratch / "extensions").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.crt", "-days", "2", "-extfile", "extensions")  # fmt: skip
    (scratch / "server.key").chmod(0o600)


def wait_for_port(port, server, log):
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise StartFailed(f"PostgreSQL did not start:\n{log.read_text()}")


class CommandFailed(Exception):
    """Carries the exit code of the command through the cleanup, which keeps the logs."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def main():
    arguments = sys.argv[1:]
    start = pangea
    if arguments and arguments[0] == "--reference":
        start, arguments = reference, arguments[1:]
    if not arguments:
        sys.exit(__doc__)
    try:
        with start() as environment:
            code = subprocess.run(arguments, env=os.environ | environment).returncode
            if code != 0:
                raise CommandFailed(code)
    except CommandFailed as failed:
        sys.exit(failed.code)
    except StartFailed as failed:
        sys.exit(f"cluster.py: {failed}")


if __name__ == "__main__":
    # SIGTERM unwinds as Ctrl-C does: nothing that was started may outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
