"""How much of a long line one transfer through the tunnel fills.

    python -m tests.network.throughput [--delay 0.05] [--rate 20e6] [--seconds 6] [--go]

Real programs: server, agent and origin, and between agent and server a relay that delays each
direction by `delay` seconds and carries `rate` bytes a second. A window of 256 KiB, where every
peer without growing windows stands, allows 256 KiB a round trip. Promised: 20 times that, or 80 %
of the line. Runs download and upload on that line, a download where nothing but the delay limits
it, and with `--go` a download from an agent on hashicorp/yamux (built by `make interop`).
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Final

from attrs import frozen

from p2pstream.agents.credentials import Token
from p2pstream.net.ca import Authority
from tests.network.site import Site
from tests.programs import HOST

WINDOW: Final = 256 * 1024
ROOT: Final = Path(__file__).parents[2]
GOPEER: Final = ROOT / ".cache" / "interop" / "gopeer-module"


@frozen
class Row:
    """One transfer. `line` in bytes a second."""

    name: str
    size: int
    seconds: float
    line: float
    round_trip: float
    server_cpu: float

    @property
    def speed(self) -> float:
        """Bytes a second, from the request to the last byte."""
        return self.size / self.seconds

    @property
    def fixed(self) -> float:
        """What a window that stays as it is allows."""
        return WINDOW / self.round_trip

    @property
    def held(self) -> bool:
        """Whether it is as promised."""
        return self.speed >= 20 * self.fixed or self.speed >= 0.8 * self.line

    def __str__(self) -> str:
        share = "      " if self.line == inf else f"{100 * self.speed / self.line:4.0f} %"
        return (
            f"{self.name:24} {self.size / 1e6:6.0f} MB {self.seconds:6.2f} s "
            f"{self.speed / 1e6:7.2f} MB/s  {share} of the line, "
            f"{self.speed / self.fixed:5.1f} x a fixed window, server CPU {self.server_cpu:.2f} s"
            f"{'' if self.held else '   NOT AS PROMISED'}"
        )


def download(port: int, host: str, size: int) -> float:
    """GET `size` bytes; the seconds from the request to the last of them."""
    with socket.create_connection((HOST, port)) as sock:
        start = time.monotonic()
        sock.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += _receive(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode())
        left = size - len(body)
        while left:
            left -= len(_receive(sock))
        return time.monotonic() - start


def upload(port: int, host: str, size: int) -> float:
    """POST `size` bytes; the seconds from the request to its answer."""
    block = bytes(range(256)) * 1024
    with socket.create_connection((HOST, port)) as sock:
        start = time.monotonic()
        head = f"POST /sha256 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n"
        sock.sendall(head.encode())
        for at in range(0, size, len(block)):
            sock.sendall(block[: size - at])
        answer = _receive(sock)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer.decode())
        return time.monotonic() - start


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(262_144)
    if not data:
        raise SystemExit("the connection ended early")
    return data


def measure(site: Site, delay: float, rate: float, seconds: float, go: bool) -> list[Row]:
    """All rows."""
    long, wide = site.relay(site.management_port, delay=delay, rate=rate), 0
    wide = site.relay(site.management_port, delay=delay)
    lines = {"long": (long, rate), "wide": (wide, inf)}
    tokens = {name: site.enrol(name).token for name in (*lines, *(["golang"] if go else []))}
    site.serve()
    for name, (port, _) in lines.items():
        site.agent(name, tokens[name], "--server", f"https://{HOST}:{port}")
    if go:
        _go_agent(site, tokens["golang"], long)
        lines["golang"] = (long, rate)
    rows = []
    for name, how in (
        ("long", download),
        ("long", upload),
        ("wide", download),
        ("wide", upload),
        *([("golang", download)] if go else []),
    ):
        line = lines[name][1]
        size = int(seconds * min(line, 60e6))
        before = site.server.cpu_seconds
        took = how(site.port, f"{name}.test", size)
        used = site.server.cpu_seconds - before
        rows.append(Row(f"{name} {how.__name__}", size, took, line, 2 * delay, used))
        print(rows[-1], flush=True)
    return rows


def _go_agent(site: Site, token: str, port: int) -> None:
    parsed = Token.parse(token)
    pin = Authority.open(site.folder / "state" / "ca", datetime.now(UTC)).pin
    who = ("-id", parsed.agent_id, "-secret", parsed.secret.reveal())
    where = ("-server", f"https://{HOST}:{port}", "-pin", pin.hex())
    site.program("golang", str(GOPEER), "agent", *where, *who)
    site.server.says(f"{parsed.agent_id} connected")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, one way")
    parser.add_argument("--rate", type=float, default=20e6, help="bytes a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the line's full rate")
    parser.add_argument("--go", action="store_true", help="an agent on hashicorp/yamux as well")
    parser.add_argument("--folder", type=Path, help="keep the logs here")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.rmtree(folder / "agents.d", ignore_errors=True)
        (folder / "agents.d").mkdir(parents=True)
        site = Site(stack, folder)
        site.start_origin()
        names = ("long", "wide", *(["golang"] if options.go else []))
        site.write("".join(site.route(name) for name in names))
        rows = measure(site, options.delay, options.rate, options.seconds, options.go)
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
