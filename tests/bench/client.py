"""A plain HTTP client: moves bodies, and checks every peer's answers before it is timed."""

import hashlib
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.bench.origins import Body, Origins
from tests.bench.peer import Instance
from tests.bench.process import BenchError, settle

# Large enough that system calls do not count beside the bytes they move.
CHUNK = 512 * 1024
# Nothing local takes this long; a peer that does is stuck.
STUCK_SECONDS = 30


@dataclass(frozen=True)
class Head:
    """A response's status and declared length, and the body bytes that came along with it."""

    status: int
    length: int
    rest: bytes


def connect(url: str) -> socket.socket:
    """A connection to the URL's host; TLS without verification for https."""
    parts = urlsplit(url)
    plain = socket.create_connection((parts.hostname, parts.port), timeout=STUCK_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.scheme == "http":
        return plain
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def ask(peer: socket.socket, url: str, path: str, body: Body | None = None) -> Head:
    """Send one request, a POST when it has a body, and read the head of its answer."""
    method = "POST" if body else "GET"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    if body:
        lines.append(f"Content-Length: {body.size}")
    peer.sendall("\r\n".join([*lines, "", ""]).encode())
    if body:
        with body.path.open("rb") as file:
            peer.sendfile(file)
    return _read_head(peer)


def _read_head(peer: socket.socket) -> Head:
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(CHUNK)
        if not more:
            raise BenchError("connection closed before a response")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1])
    if "content-length" not in fields:
        raise BenchError(f"status {status} without Content-Length")
    return Head(status, int(fields["content-length"]), rest)


def read_body(peer: socket.socket, head: Head) -> bytes:
    """The whole body of a response whose head has been read."""
    data = bytearray(head.rest)
    while len(data) < head.length:
        more = peer.recv(min(CHUNK, head.length - len(data)))
        if not more:
            raise BenchError(f"body ended after {len(data)} of {head.length} bytes")
        data += more
    return bytes(data)


def check(instance: Instance, origins: Origins, *, sink: bool) -> None:
    """Wait until the peer answers, then compare what it passes on, byte for byte.

    ``sink`` tells which origin stands behind it. BenchError says what was wrong.
    """
    if sink:
        _wait_until_answers(instance, "/count")
        with connect(instance.url) as peer:
            head = ask(peer, instance.url, "/digest", origins.large)
            told = read_body(peer, head).decode("latin-1")
            if (head.status, told) != (200, origins.large.sha256):
                raise BenchError(f"an uploaded body arrived changed (status {head.status})")
        return
    _wait_until_answers(instance, "/small")
    for path, body in (("/small", origins.small), ("/large", origins.large)):
        with connect(instance.url) as peer:
            head = ask(peer, instance.url, path)
            found = hashlib.sha256(read_body(peer, head)).hexdigest()
            if (head.status, head.length, found) != (200, body.size, body.sha256):
                raise BenchError(f"{path}: status {head.status}, {head.length} bytes, or changed")


def _wait_until_answers(instance: Instance, path: str) -> None:
    """Up to 20 s: a tunnel's agent may still be on its way while its server says 503."""
    last = "no answer"
    for _ in range(200):
        instance.check_alive()
        try:
            with connect(instance.url) as peer:
                head = ask(peer, instance.url, path)
            if head.status == 200:
                return
            last = f"status {head.status}"
        except (OSError, BenchError) as fault:
            last = str(fault)
        settle(0.1)
    raise BenchError(f"not ready after 20 s: {last}")
