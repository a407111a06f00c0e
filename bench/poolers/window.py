"""One run of pgbench through one peer, and what is counted in its middle.

Connecting and the first seconds, in which pools fill, are left out, and so is the end: the window opens when pgbench,
with all clients connected, reports its second second of load, and throughput, latencies, CPU time and memory are all of
the window. Its transactions are those that pgbench's log says ended in it. The log costs pgbench CPU time, the same for
every peer.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import select
import signal
import statistics
import subprocess
import tempfile
import time

import peers

CONNECT_TIMEOUT_S = 60
END_TIMEOUT_S = 60
# Seconds of load before the window, which pgbench reports one by one.
BEFORE_S = 2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# /proc/PID/stat, counted behind the command's name: parent, own CPU time, that of children it has waited for.
PARENT, USER, SYSTEM, CHILDREN_USER, CHILDREN_SYSTEM = 1, 11, 12, 13, 14
RESET_PEAK = "5"


class RunFailed(Exception):
    """pgbench did not do what it should; the message says what it said."""


@dataclasses.dataclass
class Window:
    tps: float
    mean_ms: float
    p99_ms: float
    # CPU seconds per 100,000 transactions; None without a process in between.
    cpu_s: float | None
    server_cpu_s: float
    # Peak of the peer's processes, shared pages counted once for each, and once in all (at the window's end).
    peak_mb: float | None
    pss_mb: float | None
    # CPU time of everything but peer, server and pgbench, as a share of the machine.
    others_percent: float


def measure(peer, postmaster, mode, clients, seconds):
    reset_peak(peer)
    with tempfile.TemporaryDirectory(prefix="pangea-poolers-log-") as logs:
        # pgbench's time begins before it has connected, so it is told when to end, and given time enough until then.
        pgbench = start_pgbench(peer, mode, clients, math.ceil(seconds) + 2 * CONNECT_TIMEOUT_S, f"{logs}/log")
        try:
            said = wait_for_load(pgbench)
            before, began = Snapshot(), time.time()
            time.sleep(seconds)
            after, ended = Snapshot(), time.time()
            memory = memory_mb(peer, after)
            finish(pgbench, said)
        finally:
            pgbench.kill()
            pgbench.wait()
        latencies = latencies_ms(logs, began, ended)
    if not latencies:
        raise RunFailed("no transaction ended in the window")
    per_100k = 100_000 / len(latencies)
    between = 0.0 if peer.process is None else after.cpu_s(peer.process.pid, peer.counts_children)
    between -= 0.0 if peer.process is None else before.cpu_s(peer.process.pid, peer.counts_children)
    server = after.cpu_s(postmaster) - before.cpu_s(postmaster)
    bench = after.cpu_s(pgbench.pid) - before.cpu_s(pgbench.pid)
    others = after.machine_s - before.machine_s - between - server - bench
    return Window(
        tps=len(latencies) / (ended - began),
        mean_ms=statistics.fmean(latencies),
        p99_ms=latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
        cpu_s=None if peer.process is None else between * per_100k,
        server_cpu_s=server * per_100k,
        peak_mb=memory and memory[0],
        pss_mb=memory and memory[1],
        others_percent=max(0.0, 100 * others / (os.cpu_count() * (ended - began))),
    )


def warm_up(peer, mode, clients):
    """A second of the load, which must work."""
    command = pgbench_command(peer, mode, clients, 1)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=peers.CLIENT_ENVIRONMENT, timeout=CONNECT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"no end of one second of pgbench after {CONNECT_TIMEOUT_S} s") from error
    check(done.returncode, done.stderr)


def pgbench_command(peer, mode, clients, seconds):
    # A thread for each client: one that has to wait for a server connection keeps no other from giving its own back.
    return [peers.pg_program("pgbench"), "-n", "-S", "-M", mode, "-c", str(clients), "-j", str(clients),
            "-T", str(seconds), *peer.target(mode).options()]  # fmt: skip


def start_pgbench(peer, mode, clients, seconds, log_prefix):
    command = pgbench_command(peer, mode, clients, seconds) + ["-P", "1", "-l", f"--log-prefix={log_prefix}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
        env=peers.CLIENT_ENVIRONMENT,
    )  # fmt: skip


def wait_for_load(pgbench):
    """Returns when all clients have connected and worked for a moment, with what pgbench has said until then."""
    said, deadline = b"", time.monotonic() + CONNECT_TIMEOUT_S
    while said.count(b"progress:") < BEFORE_S:
        ready, _, _ = select.select([pgbench.stderr], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise RunFailed(f"clients were not all at work after {CONNECT_TIMEOUT_S} s: {said.decode().strip()}")
        piece = os.read(pgbench.stderr.fileno(), 65536)
        if not piece:
            raise RunFailed(f"pgbench ended early: {complaint(said.decode())}")
        said += piece
    return said


def finish(pgbench, said):
    """Ends it as its own clock does: the transactions under way end, and the log is written out."""
    pgbench.send_signal(signal.SIGALRM)
    try:
        _, rest = pgbench.communicate(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"pgbench did not end within {END_TIMEOUT_S} s of being told to") from error
    check(pgbench.returncode, (said + rest).decode(errors="replace"))


def check(returncode, said):
    if returncode != 0 or "aborted" in said:
        raise RunFailed(f"pgbench failed ({returncode}): {complaint(said)}")


def complaint(said):
    """The first error in what pgbench said, else the end of it."""
    lines = [line for line in said.splitlines() if not line.startswith("progress:")]
    return next((line for line in lines if "error" in line or "aborted" in line), lines[-1] if lines else "no word of why")


def latencies_ms(directory, began, ended):
    """Of the transactions that ended in the window, in order of size."""
    micros = []
    for log in pathlib.Path(directory).iterdir():
        for line in log.read_bytes().splitlines():
            # client, transaction, microseconds, script, then the end of it: seconds, microseconds
            words = line.split(b" ", 6)
            if began <= int(words[4]) + int(words[5]) / 1e6 < ended:
                micros.append(int(words[2]))
    micros.sort()
    return [value / 1000 for value in micros]


class Snapshot:
    """CPU times of all processes."""

    def __init__(self):
        self.processes = {}
        for entry in os.scandir("/proc"):
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    text = pathlib.Path(entry.path, "stat").read_text()
                    self.processes[int(entry.name)] = text.rpartition(")")[2].split()
        with open("/proc/stat", encoding="ascii") as stat:
            user, nice, system = (int(word) for word in stat.readline().split()[1:4])
        # Without interrupts: they are work of those who are measured, and charged to none of them.
        self.machine_s = (user + nice + system) / TICKS_PER_S

    def tree(self, root):
        """The process and its descendants."""
        children = {}
        for pid, fields in self.processes.items():
            children.setdefault(int(fields[PARENT]), []).append(pid)
        found = [root]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self, root, children=True):
        """CPU time so far of the process, and of its children, the dead ones included."""
        fields = (USER, SYSTEM, CHILDREN_USER, CHILDREN_SYSTEM) if children else (USER, SYSTEM)
        pids = self.tree(root) if children else [root]
        if root not in self.processes:
            raise RunFailed(f"process {root} is gone")
        return sum(int(self.processes[pid][field]) for pid in pids for field in fields) / TICKS_PER_S


def reset_peak(peer):
    """Peaks are of the run to come. Where that may not be done they are of all runs so far."""
    if peer.process is not None:
        for pid in peer_pids(peer, Snapshot()):
            with contextlib.suppress(OSError):
                pathlib.Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)


def peer_pids(peer, snapshot):
    return snapshot.tree(peer.process.pid) if peer.counts_children else [peer.process.pid]


def memory_mb(peer, snapshot):
    if peer.process is None:
        return None
    peak_kb = pss_kb = 0
    for pid in peer_pids(peer, snapshot):
        with contextlib.suppress(OSError):
            peak_kb += field_kb(f"/proc/{pid}/status", "VmHWM:")
            pss_kb += field_kb(f"/proc/{pid}/smaps_rollup", "Pss:")
    return peak_kb / 1024, pss_kb / 1024


def field_kb(path, name):
    with open(path, encoding="utf-8", errors="replace") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
