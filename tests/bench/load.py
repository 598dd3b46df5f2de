"""The loads. Each gives one Sample or raises BenchError: a load that saw a wrong status, a short
body or a broken connection has no figure.
"""

import json
import resource
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.client import CHUNK, STUCK_SECONDS, ask, connect, read_body
from tests.bench.origins import Body, Origins
from tests.bench.peer import Instance, Place
from tests.bench.process import (
    BenchError,
    CoreTimes,
    cpu_seconds,
    output_of,
    pinned,
    proportional_memory,
    settle,
)

# A few readers fill a core; more would only add to the noise.
BODY_CONNECTIONS = 4
# Warms what all connections share (code paths, pools) without growing what each has of its own.
WARMING_REQUESTS = 50


@dataclass(frozen=True)
class Effort:
    """What a measurement cost.

    ``busy``: share of time in which the proxy's and the load's core worked, whoever made them.
    ``cpu``: seconds of CPU for each request or body, by the peer's processes, the proxy first.
    Unlike the rate, this hardly changes when something else wants the core.
    """

    busy: tuple[float, float]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """One measured value in its row's unit, or the fault for which there is none.

    ``p99``: 99th percentile of latency, seconds, for rows of requests.
    """

    value: float = 0.0
    fault: str = ""
    p99: float | None = None
    effort: Effort | None = None


@dataclass(frozen=True)
class Bench:
    """Where the run stands and how much each load asks."""

    place: Place
    origins: Origins
    seconds: int  # of each wrk run
    bodies: int  # large bodies that each measurement moves
    idle: int  # idle connections opened for the memory row


class Meter:
    """Reads the clocks of cores and processes when made, and again for ``effort``."""

    def __init__(self, bench: Bench, instance: Instance) -> None:
        self._cores = (bench.place.cores.proxy, bench.place.cores.load)
        self._pids = [child.pid for child in instance.processes]
        self._before = [CoreTimes.read(core) for core in self._cores]
        self._cpu = list(map(cpu_seconds, self._pids))

    def effort(self, operations: int) -> Effort:
        """Effort since the meter was made, per one of ``operations``."""
        proxy, load = (
            CoreTimes.read(core).busy_since(then)
            for core, then in zip(self._cores, self._before, strict=True)
        )
        used = (cpu_seconds(pid) - then for pid, then in zip(self._pids, self._cpu, strict=True))
        return Effort((proxy, load), tuple(seconds / max(1, operations) for seconds in used))


def requests(bench: Bench, instance: Instance, connections: int, script: str) -> Sample:
    """Requests/s for the small body over kept-alive connections, by wrk."""
    argv: list[str | Path] = ["wrk", "--threads", "1", "--connections", str(connections)]
    argv += ["--duration", f"{bench.seconds}s", "--timeout", "5s"]
    argv += ["--script", Path(__file__).with_name("wrk") / script, f"{instance.url}/small"]
    meter = Meter(bench, instance)
    text = output_of(pinned(bench.place.cores.load, argv), bench.seconds + STUCK_SECONDS)
    told = json.loads(text.splitlines()[-1])
    effort = meter.effort(told["requests"])
    for kind in ("connect", "read", "write", "timeout", "status"):
        if told[kind]:
            what = "answers not 2xx or 3xx" if kind == "status" else f"{kind} errors"
            raise BenchError(f"{told[kind]} {what} beside {told['requests']} answers")
    if told["requests"] == 0 or told["bytes"] < told["requests"] * bench.origins.small.size:
        raise BenchError(f"{told['bytes']} bytes in {told['requests']} answers: too short")
    return Sample(told["requests"] / told["seconds"], p99=told["p99_ms"] / 1e3, effort=effort)


def bodies(bench: Bench, instance: Instance, move: Callable[[str, Body, int], None]) -> Sample:
    """GB/s of large bodies, moved whole over a few connections at once."""
    each = max(1, bench.bodies // BODY_CONNECTIONS)
    count, body = each * BODY_CONNECTIONS, bench.origins.large
    with ThreadPoolExecutor(BODY_CONNECTIONS) as pool:
        meter, began = Meter(bench, instance), time.monotonic()
        moves = [pool.submit(move, instance.url, body, each) for _ in range(BODY_CONNECTIONS)]
        for done in moves:
            done.result()
        seconds, effort = time.monotonic() - began, meter.effort(count)
    return Sample(body.size * count / seconds / 1e9, effort=effort)


def download(url: str, body: Body, count: int) -> None:
    """GET the large body ``count`` times over one connection, dropping the bytes."""
    buffer = memoryview(bytearray(CHUNK))
    with connect(url) as peer:
        # The kernel drops the bytes of a plain socket itself (tcp(7)): the load stays cheap.
        flags = 0 if isinstance(peer, ssl.SSLSocket) else socket.MSG_TRUNC
        for _ in range(count):
            head = ask(peer, url, "/large")
            if (head.status, head.length) != (200, body.size):
                raise BenchError(f"status {head.status}, Content-Length {head.length}")
            left = body.size - len(head.rest)
            while left:
                got = peer.recv_into(buffer, min(CHUNK, left), flags)
                if not got:
                    raise BenchError(f"body ended {left} bytes early")
                left -= got


def upload(url: str, body: Body, count: int) -> None:
    """POST the large body ``count`` times over one connection; the sink counts it."""
    with connect(url) as peer:
        for _ in range(count):
            head = ask(peer, url, "/count", body)
            if (head.status, read_body(peer, head)) != (200, str(body.size).encode()):
                raise BenchError(f"status {head.status}, or not all bytes arrived")


def idle_memory(bench: Bench, instance: Instance) -> Sample:
    """KiB of the proxy's own memory (PSS) that each idle kept-alive connection holds.

    The kernel's socket buffers are not in it; they are the same for all.
    """
    need, (soft, hard) = bench.idle + 256, resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, hard), hard))
    server = instance.processes[0]
    with ExitStack() as held:
        for _ in range(WARMING_REQUESTS):
            ask_small(instance.url).close()
        settle(0.5)
        before = proportional_memory(server.pid)
        for _ in range(bench.idle):
            held.enter_context(ask_small(instance.url))
        settle(1)
        instance.check_alive()
        grown = proportional_memory(server.pid) - before
    return Sample(max(0, grown) / bench.idle / 1024)


def ask_small(url: str) -> socket.socket:
    """One small request over a connection of its own, which stays open."""
    peer = connect(url)
    try:
        head = ask(peer, url, "/small")
        read_body(peer, head)
        if head.status != 200:
            raise BenchError(f"status {head.status}")
    except BaseException:
        peer.close()
        raise
    return peer
