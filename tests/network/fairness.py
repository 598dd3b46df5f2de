"""What requests notice of a bulk transfer, and of a client that does not read, in the same tunnel.

    python -m tests.network.fairness [--rate 20e6] [--seconds 3] [--rounds 3]

Real programs; between agent and server once nothing, so that bulk moves as fast as the processor
can, and once a line of `rate` bytes a second with a round trip of 20 ms. Promised:

* While one stream moves bulk at full speed, requests for 1 KiB have a p99 under three times the
  unloaded one + 5 ms.
* While one client reads nothing, the others keep 90 % of their speed, and the memory that the
  server needs for it stays within the stream's window and what the client's socket takes.

Other work on the machine meets everything here. So unloaded and loaded take turns, `rounds` times,
and the median of the rounds counts. Where the processor is the limit, speed is bytes per second of
the server's CPU time, and the bytes per second of the clock are only shown; what a stalled tunnel
would hide there shows on the line, where the clock counts.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from p2pstream.wire.yamux.window import MAX_WINDOW
from tests.network.site import Site
from tests.programs import HOST

# Requests for 1 KiB come one after another, this far apart: three hundred a second at most.
_PAUSE_SECONDS: Final = 0.003
_DELAY_SECONDS: Final = 0.01
# A flood settles: windows grow, the line's queue fills.
_SETTLE_SECONDS: Final = 1.0
# What the kernel takes of a client that does not read: its receive buffer and our send buffer.
_ASIDE: Final = 8 * 1024 * 1024

# Reads a flood and says fifty times a second how many bytes there were so far.
_READER: Final = """
import socket, sys, time
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(b"GET /flood HTTP/1.1\\r\\nHost: " + sys.argv[2].encode() + b"\\r\\n\\r\\n")
buffer, total, due = bytearray(1 << 20), 0, 0.0
while count := sock.recv_into(buffer):
    total += count
    if time.monotonic() > due:
        due = time.monotonic() + 0.02
        print(total, flush=True)
"""


class Flood:
    """A client, in a process of its own, that reads as fast as it can."""

    def __init__(self, port: int, host: str) -> None:
        command = (sys.executable, "-c", _READER, str(port), host)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.total = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.total = int(line)

    def speed(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> float:
        """Bytes a second of `clock`, over so long."""
        before, start = self.total, clock()
        threading.Event().wait(seconds)
        return (self.total - before) / (clock() - start)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def flood(port: int, host: str) -> Iterator[Flood]:
    """A flood that has settled."""
    one = Flood(port, host)
    try:
        one.speed(_SETTLE_SECONDS)
        yield one
    finally:
        one.end()


def p99(port: int, host: str, seconds: float) -> float:
    """The 99th percentile of 1 KiB requests over one kept-alive connection, in seconds."""
    took = []
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    pause = threading.Event()
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            sock.sendall(request)
            answer = sock.recv(65_536)
            while len(answer.partition(b"\r\n\r\n")[2]) < 1024:
                answer += sock.recv(65_536)
            took.append(time.perf_counter() - start)
            pause.wait(_PAUSE_SECONDS)
    return statistics.quantiles(took[1:], n=100)[98]  # the first one's stream had to be opened


@frozen
class Finding:
    """One promise, and what came of it."""

    what: str
    figures: str
    held: bool

    def __str__(self) -> str:
        return f"{self.what:34} {self.figures}{'' if self.held else '   NOT AS PROMISED'}"


def small_beside_bulk(site: Site, line: str, seconds: float, rounds: int) -> Finding:
    """A 1 KiB request beside one stream of bulk."""
    alone, beside, speeds = [], [], []
    for _ in range(rounds):
        alone.append(p99(site.port, f"small.{line}.test", seconds))
        with flood(site.port, f"bulk.{line}.test") as bulk:
            before = bulk.total
            beside.append(p99(site.port, f"small.{line}.test", seconds))
            speeds.append((bulk.total - before) / seconds)
    limits = [3 * one + 0.005 for one in alone]
    used = statistics.median(b / limit for b, limit in zip(beside, limits, strict=True))
    shown = ", ".join(f"{1e3 * a:.1f} -> {1e3 * b:.1f}" for a, b in zip(alone, beside, strict=True))
    figures = f"p99 {shown} ms; {100 * used:.0f} % of the limit; bulk {_mb(speeds)} MB/s"
    return Finding(f"{line}: 1 KiB beside bulk", figures, used < 1)


def one_that_does_not_read(site: Site, line: str, seconds: float, rounds: int) -> Finding:
    """Another bulk transfer, while one client does not read."""
    kept, memory, speeds = [], [], []
    clock = time.monotonic if line == "line" else lambda: site.server.cpu_seconds
    asked = f"GET /flood HTTP/1.1\r\nHost: bulk.{line}.test\r\n\r\n".encode()
    with flood(site.port, f"bulk.{line}.test") as bulk:
        for _ in range(rounds):
            start, begun = bulk.total, time.monotonic()
            without = bulk.speed(seconds, clock)
            speeds.append((bulk.total - start) / (time.monotonic() - begun))
            before = site.server.memory_bytes
            with socket.create_connection((HOST, site.port)) as stuck:
                stuck.sendall(asked)
                bulk.speed(_SETTLE_SECONDS)
                kept.append(bulk.speed(seconds, clock) / without)
                memory.append(site.server.memory_bytes - before)
            bulk.speed(_SETTLE_SECONDS)
    share, most = statistics.median(kept), max(memory)
    figures = (
        f"others keep {', '.join(f'{100 * one:.0f}' for one in kept)} % of {_mb(speeds)} MB/s; "
        f"server memory +{most / 1e6:.1f} MB"
    )
    held = share >= 0.9 and most < MAX_WINDOW + _ASIDE
    return Finding(f"{line}: one client does not read", figures, held)


def _mb(speeds: list[float]) -> str:
    return ", ".join(f"{speed / 1e6:.0f}" for speed in speeds)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20e6, help="bytes a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the logs here")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.rmtree(folder / "agents.d", ignore_errors=True)
        (folder / "agents.d").mkdir(parents=True)
        site = Site(stack, folder)
        script = Path(__file__).with_name("origin.py")
        origins = {kind: site.script(script) for kind in ("bulk", "small")}
        lines = {
            "loopback": site.management_port,
            "line": site.relay(site.management_port, delay=_DELAY_SECONDS, rate=options.rate),
        }
        site.write(
            "".join(
                site.route(f"{kind}.{line}", f"http://{HOST}:{port}", label=line)
                for line in lines
                for kind, port in origins.items()
            )
        )
        tokens = {line: site.enrol(line).token for line in lines}
        site.serve()
        held = True
        for line, port in lines.items():
            site.agent(line, tokens[line], "--server", f"https://{HOST}:{port}")
            for measure in (small_beside_bulk, one_that_does_not_read):
                finding = measure(site, line, options.seconds, options.rounds)
                print(finding, flush=True)
                held = held and finding.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
