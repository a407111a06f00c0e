"""A local cluster, by the sockets on which its regions tell about themselves."""

import http.client
import json
import os
import pathlib
import signal
import socket
import time

ANSWER_TIMEOUT_S = 10


class RegionConnection(http.client.HTTPConnection):
    """HTTP over a region's unix socket."""

    def __init__(self, path):
        super().__init__("region")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_TIMEOUT_S)
        self.sock.connect(str(self.path))


class Cluster:
    def __init__(self, data_dir, regions):
        self.data = pathlib.Path(data_dir)
        self.regions = regions

    def ask(self, region, path, body=None):
        connection = RegionConnection(self.data / region / "run/status.sock")
        method = "GET" if body is None else "POST"
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        answer = connection.getresponse().read()
        return json.loads(answer) if answer else None

    def topology(self):
        """The newest that any region knows."""
        found = []
        for region in self.regions:
            try:
                found.append(self.ask(region, "/v1/control")["topology"])
            except OSError:
                pass
        return max(found, key=lambda topology: topology["epoch"])

    def primary(self):
        return self.topology()["primary"]

    def steps(self):
        """What happened lately in all regions, in order; times in seconds of one clock."""
        steps = []
        for region in self.regions:
            try:
                answer = self.ask(region, "/v1/control")
            except OSError:
                continue
            steps += [step | {"region": region, "at": step["at_us"] / 1e6} for step in answer["steps"]]
        return sorted(steps, key=lambda step: step["at"])

    def let_fail_over_at_once(self):
        """However often: a round is not to wait because there were others before it."""
        policy = self.topology()["policy"] | {"flap_limit": 1_000_000}
        self.ask(self.primary(), "/v1/change", {"policy": policy})

    def wait_healthy(self, timeout_s=90):
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if all(self.ask(region, "/v1/status")["health"] == "healthy" for region in self.regions):
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"the regions are not healthy again within {timeout_s} s")
            time.sleep(0.1)

    def switch_over(self, to, timeout_ms=5000):
        """Begins a switchover and returns when it has ended: what became of it, and its steps."""
        while True:
            request = {"to": to, "timeout_ms": timeout_ms}
            answer = self.ask(self.primary(), "/v1/switchover", request)
            if answer["transition"] is not None:
                break
            # The target is on its way back from the switchover before.
            time.sleep(0.05)
        while True:
            last = self.topology()["last_transition"]
            if last and last[0]["id"] == answer["transition"]:
                break
            # Seldom: asking takes CPU time from what is measured.
            time.sleep(0.2)
        time.sleep(0.3)
        return last[1], [step for step in self.steps() if step["transition"] == answer["transition"]]

    def servers(self, region):
        """Processes of a region's PostgreSQL."""
        pgdata = str(self.data / region / "pgdata")
        return [pid for pid, cwd in processes() if cwd == pgdata]

    def supervisor(self):
        for pid, _ in processes():
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"up" in words[1:2] and str(self.data).encode() in words:
                return pid
        raise LookupError("the supervisor of the cluster is not found")

    def kill_region(self, region):
        """As a power cut would: gateway, agent and PostgreSQL. It stays down until `revive`."""
        os.kill(self.supervisor(), signal.SIGSTOP)
        kill([self.ask(region, "/v1/status")["pid"], *self.servers(region)])

    def revive(self):
        os.kill(self.supervisor(), signal.SIGCONT)

    def kill_server(self, region):
        kill(self.servers(region))


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def processes():
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), os.readlink(entry / "cwd")
            except OSError:
                continue
