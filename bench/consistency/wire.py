"""PostgreSQL's protocol as bytes: what a driver would hide is what is measured here. Standard library only."""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
import time
import urllib.parse

RECEIVE_BYTES = 65536
TEXT, BINARY = 0, 1
PROTOCOL_3 = 196608
AUTHENTICATION_OK, SASL_CONTINUE, SASL_FINAL = 0, 11, 12


class ServerError(Exception):
    """An ErrorResponse, or an answer that makes no sense."""


def frame(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def string(text):
    return text.encode() + b"\0"


def query(text):
    return frame(b"Q", string(text))


def parse(name, text):
    return frame(b"P", string(name) + string(text) + struct.pack("!H", 0))


def bind_execute_sync(name, *parameters, results=TEXT):
    """Runs a prepared statement with parameters in text format; one Sync."""
    values = b"".join(struct.pack("!I", len(value)) + value for value in (str(p).encode() for p in parameters))
    bind = b"\0" + string(name) + struct.pack("!HH", 0, len(parameters)) + values + struct.pack("!HH", 1, results)
    return frame(b"B", bind) + frame(b"E", b"\0" + struct.pack("!I", 0)) + sync()


def function_call(oid, results=BINARY):
    """A call without arguments on the fast path, which plans nothing."""
    return frame(b"F", struct.pack("!IHHH", oid, 0, 0, results))


def sync():
    return frame(b"S")


class Connection:
    """One session: with a server that trusts its socket, or with an endpoint that wants SCRAM."""

    def __init__(self, address, database="postgres", user="postgres", password=None, options=""):
        """`address` is the directory of a unix socket, or (host, port)."""
        if isinstance(address, tuple):
            self.socket = socket.create_connection(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(f"{address}/.s.PGSQL.5432")
        self.received = bytearray()
        self.parsed = 0
        self.password = password
        self.backend_pid = None
        settings = {"user": user, "database": database, "application_name": "pangea bench", "options": options}
        body = struct.pack("!I", PROTOCOL_3)
        body += b"".join(string(key) + string(value) for key, value in settings.items() if value) + b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.authenticate()
        for kind, body in self.until_ready():
            if kind == b"K":
                (self.backend_pid,) = struct.unpack_from("!I", body)

    @classmethod
    def to_uri(cls, uri, options=""):
        parts = urllib.parse.urlsplit(uri)
        database = parts.path.lstrip("/")
        return cls((parts.hostname, parts.port), database, parts.username, parts.password, options)

    def authenticate(self):
        kind, body = self.next_frame()
        if kind != b"R":
            raise ServerError(f"cannot log in: {body!r}")
        if struct.unpack_from("!I", body) == (AUTHENTICATION_OK,):
            return
        if self.password is None:
            raise ServerError("the server wants a password")
        self.scram()

    def scram(self):
        """SCRAM-SHA-256 (RFC 5802) without channel binding. The server's proof is not checked: it is our own."""
        nonce = base64.b64encode(secrets.token_bytes(18))
        first = b"n=,r=" + nonce
        initial = b"n,," + first
        self.socket.sendall(frame(b"p", string("SCRAM-SHA-256") + struct.pack("!I", len(initial)) + initial))
        server_first = self.authentication(SASL_CONTINUE)
        given = dict(part.split(b"=", 1) for part in server_first.split(b","))
        salt, iterations = base64.b64decode(given[b"s"]), int(given[b"i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = b"c=biws,r=" + given[b"r"]
        signed = b",".join((first, server_first, without_proof))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        self.socket.sendall(frame(b"p", without_proof + b",p=" + base64.b64encode(proof)))
        self.authentication(SASL_FINAL)
        self.authentication(AUTHENTICATION_OK)

    def authentication(self, step):
        kind, body = self.next_frame()
        if kind != b"R" or struct.unpack_from("!I", body) != (step,):
            raise ServerError(f"cannot log in: {body!r}")
        return body[4:]

    def until_ready(self):
        """The frames up to the next ReadyForQuery."""
        frames, failure = [], None
        while True:
            kind, body = self.next_frame()
            if kind == b"Z":
                break
            if kind == b"E":
                failure = error(body)
                # A session that was refused is closed without a ReadyForQuery.
                if self.backend_pid is None:
                    raise failure
            frames.append((kind, body))
        if failure:
            raise failure
        return frames

    def next_frame(self):
        while True:
            there = len(self.received) - self.parsed
            if there >= 5:
                (length,) = struct.unpack_from("!I", self.received, self.parsed + 1)
                if there > length:
                    start = self.parsed
                    self.parsed += length + 1
                    return bytes(self.received[start : start + 1]), bytes(self.received[start + 5 : self.parsed])
            del self.received[: self.parsed]
            self.parsed = 0
            piece = self.socket.recv(RECEIVE_BYTES)
            if not piece:
                raise ServerError("the server closed the connection")
            self.received += piece

    def exchange(self, messages, readies=1):
        """Sends messages in one piece and takes the answers up to as many ReadyForQuery."""
        self.socket.sendall(messages)
        frames = []
        for _ in range(readies):
            frames += self.until_ready()
        return frames

    def rows(self, text):
        """Runs a simple query; rows of text columns."""
        return [columns(body) for kind, body in self.exchange(query(text)) if kind == b"D"]

    def value(self, text):
        return self.rows(text)[0][0]

    def close(self):
        self.socket.close()


def error(body):
    fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
    return ServerError(f"{fields[b'C']}: {fields[b'M']}")


def columns(data_row):
    found, offset = [], 2
    for _ in range(struct.unpack_from("!H", data_row)[0]):
        (length,) = struct.unpack_from("!i", data_row, offset)
        offset += 4
        if length < 0:
            found.append(None)
            continue
        found.append(data_row[offset : offset + length].decode())
        offset += length
    return found


def lsn(text):
    """A position as a number: `1/2A` is 0x10000002A."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def cpu_ns(pid):
    """CPU time, user and system, of a process with all its threads, to the nanosecond, running ones included.

    This is clock_getcpuclockid(3), which Python does not have: the clock's number is made of the process's id.
    """
    return time.clock_gettime_ns(~pid << 3 | 2)


def settled_cpu_ns(pid):
    """As `cpu_ns` of a process that is about to sleep: it still has to get there."""
    time.sleep(0.001)
    return cpu_ns(pid)
