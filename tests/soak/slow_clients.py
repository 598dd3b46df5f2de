"""A thousand clients at a byte a second, beside ordinary ones: who pays for them?

    python -m tests.soak.slow_clients [--slow 1000] [--rate 100] [--seconds 4] [--rounds 5]

The slow ones send a byte a second, of a head, of a body with a length and of a chunked one, or take
a large answer at that pace; half of them through an agent. Ordinary clients ask at a steady rate
all the while. In turn, the slow ones go through the server, and as many go past it, straight to
the origin, so that what they cost the machine is there both times; CPU time of the server and
latencies of the ordinary clients are compared within each round. Then a thousand clients come to a
listener that takes a hundred, all at once.

Prints one JSON object; the exit code says whether a slow client's byte cost the server less than
`BYTE_SHARE` of an ordinary request, ordinary clients waited less than `LATENCY_RATIO` times as long
(99th percentile), a slow client cost less than `MEMORY_BYTES`, and everyone beyond the hundred got
their turn.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

import trio

from tests.ports import free_port
from tests.soak.load import Client, Rate
from tests.soak.site import Site, raise_descriptor_limit

# A byte that comes alone costs a wake-up, whoever forwards it; what must not be is that it costs
# like a request. Go's ReverseProxy took 0.19 of one of its own, nothing but the wake-up.
BYTE_SHARE = 0.2
LATENCY_RATIO = 2.0
# Below this, latencies are those of a scheduler with five processes on a few cores.
LATENCY_FLOOR_SECONDS = 0.020
MEMORY_BYTES = 256 * 1024
KINDS = ("head", "body", "chunks", "reader")
PATIENT = 3_600_000


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--be-slow", type=int, metavar="PORT", help="be the slow clients")
    options = parser.parse_args()
    raise_descriptor_limit()
    if options.be_slow:
        trio.run(be_slow, options.be_slow, options.slow)
        return 0
    with ExitStack() as stack:
        site = Site(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        report = trio.run(run, site, options)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


def config(port: int, few: int, management: int, origin: int) -> str:
    """A patient listener, and one that takes a hundred."""
    text = f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {management}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {port}
header_timeout_millis = {PATIENT}
idle_timeout_millis = {PATIENT}
[[listeners]]
id = "few"
bind_address = "127.0.0.1"
port = {few}
max_connections = 100
"""
    for listener in ("public", "few"):
        text += f"""
[[routes]]
id = "{listener}-direct"
listener_id = "{listener}"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1:{origin}"
[[routes]]
id = "{listener}-agent"
listener_id = "{listener}"
host_pattern = "agent.test"
[[routes.targets]]
url = "http://127.0.0.1:{origin}"
transport = "agent"
agent_selector.match_labels = {{ site = "far" }}
"""
    return text


# --- the slow clients, in a process of their own --------------------------------------------


class Pace:
    """A byte a second while it is on, as at first; SIGUSR1 turns it off and on."""

    def __init__(self) -> None:
        self.on = trio.Event()
        self.on.set()

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Turn it on and off."""
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            task_status.started()
            async for _ in signals:
                if self.on.is_set():
                    self.on = trio.Event()
                else:
                    self.on.set()

    async def step(self, phase: float) -> None:
        """Until the clock's next whole second and `phase`, and as long as it is off.

        By the clock, so that a pause does not leave a thousand clients in step for ever.
        """
        await self.on.wait()
        await trio.sleep(1 - (trio.current_time() - phase) % 1)


async def be_slow(port: int, count: int) -> None:
    """So many clients, at a byte a second each, until the end of the process."""
    async with trio.open_nursery() as nursery:
        pace = Pace()
        await nursery.start(pace.follow)
        for number in range(count):
            host = "agent.test" if number % 2 else "direct.test"
            kind = KINDS[number // 2 % len(KINDS)]
            await nursery.start(slow_client, port, host, kind, pace, number / count)
        print("ready", flush=True)


async def slow_client(
    port: int, host: str, kind: str, pace: Pace, phase: float, *, task_status: trio.TaskStatus[None]
) -> None:
    """One of them; `phase` is where in the second it moves."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    start = "GET /large" if kind == "reader" else "POST /"
    head = f"{start} HTTP/1.1\r\nHost: {host}\r\n"
    if kind == "body":
        head += "Content-Length: 1000000\r\n\r\n"
    elif kind == "chunks":
        head += "Transfer-Encoding: chunked\r\n\r\n"
    elif kind == "reader":
        head += "\r\n"
    await stream.send_all(head.encode())
    if kind == "reader":
        await stream.receive_some(100)
    task_status.started()
    pieces = cycle(
        {"head": b"X: y\r\n", "body": b"x", "chunks": b"1\r\nx\r\n", "reader": b" "}[kind]
    )
    while True:
        await pace.step(phase)
        if kind == "reader":
            await stream.receive_some(1)
        else:
            await stream.send_all(next(pieces))


def cycle(data: bytes) -> Iterator[bytes]:
    """Its bytes, one at a time, for ever."""
    while True:
        for at in range(len(data)):
            yield data[at : at + 1]


# --- the measuring --------------------------------------------------------------------------


async def origin(stream: trio.SocketStream) -> None:
    """Answers `ok`; /large is ten megabytes; a body is read and dropped."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some(65_536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            if head.startswith(b"POST"):
                while await stream.receive_some(65_536):
                    pass
                return
            size = 10_000_000 if head.startswith(b"GET /large") else 2
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await stream.send_all(b"ok" * (size // 2))


@contextmanager
def slow_process(port: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """The slow clients, connected and at rest."""
    command = (sys.executable, "-m", "tests.soak.slow_clients", "--slow", str(count))
    process = subprocess.Popen(
        (*command, "--be-slow", str(port)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the slow clients could not connect")
        yield process
    finally:
        process.kill()
        process.wait()


async def run(site: Site, options: argparse.Namespace) -> dict[str, object]:
    """Measure with and without, in turn."""
    port, few = free_port(), free_port()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, origin, 0)
        at = listeners[0].socket.getsockname()[1]
        site.config.write_text(config(port, few, free_port(), at))

        def start() -> None:
            made = site.run("agents", "create", "far", "--label", "site=far")
            site.serve()
            site.agent(made["token"])

        await trio.to_thread.run_sync(start)
        await measure(site, port, options)  # warm
        memory = site.server.memory_bytes
        slow = [slow_process(where, options.slow) for where in (at, port)]
        past, through = [await trio.to_thread.run_sync(one.__enter__) for one in slow]
        try:
            await trio.sleep(2)
            each = (site.server.memory_bytes - memory) / options.slow
            past.send_signal(signal.SIGUSR1)  # from here on one of the two rests
            rounds = [
                await one_round(site, (past, through), port, options) for _ in range(options.rounds)
            ]
        finally:
            for one in slow:
                await trio.to_thread.run_sync(one.__exit__, None, None, None)
        waited = await crowd(few, options.slow)
        nursery.cancel_scope.cancel()
    return report(options, rounds, each, waited)


async def one_round(
    site: Site, slow: tuple[subprocess.Popen[str], ...], port: int, options: argparse.Namespace
) -> dict[str, float]:
    """CPU and latency while they go past, and while they go through."""
    seen: dict[str, float] = {}
    for how in ("past", "through"):
        for process in slow:
            process.send_signal(signal.SIGUSR1)
        await trio.sleep(1.5)
        for name, value in (await measure(site, port, options)).items():
            seen[f"{name}_{how}"] = value
    return seen


async def measure(site: Site, port: int, options: argparse.Namespace) -> dict[str, float]:
    """What ordinary clients wait, and the share of a core that the server takes meanwhile."""
    rate = Rate(port, [("direct.test", b"/"), ("agent.test", b"/")], options.rate, 8)
    begun, cpu = trio.current_time(), site.server.cpu_seconds
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rate.run)
        await trio.sleep(options.seconds)
        rate.stop()
    if rate.failures:
        raise SystemExit(f"ordinary clients failed: {rate.failures[:5]}")
    taken = trio.current_time() - begun
    waits = sorted(wait for _, wait in rate.latencies)
    return {
        "cpu": (site.server.cpu_seconds - cpu) / taken,
        "p50": waits[len(waits) // 2],
        "p99": waits[len(waits) * 99 // 100],
        "requests": len(waits),
    }


async def crowd(port: int, count: int) -> dict[str, int]:
    """All come at once where a hundred may; each leaves after its answer."""
    answered = at_most = now = 0

    async def one() -> None:
        nonlocal answered, at_most, now
        client = await Client.connect(port)
        status, _, _ = await client.get(("direct.test", b"/"))
        now += 1
        at_most = max(at_most, now)
        await trio.sleep(0.05)
        now -= 1
        answered += status == 200
        await trio.aclose_forcefully(client.stream)

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
    return {"came": count, "answered": answered, "at_once": at_most}


def report(
    options: argparse.Namespace,
    rounds: list[dict[str, float]],
    each: float,
    waited: dict[str, int],
) -> dict[str, object]:
    """What was seen, and whether it is what was promised."""
    latency = median(
        max(one["p99_through"], LATENCY_FLOOR_SECONDS) / max(one["p99_past"], LATENCY_FLOOR_SECONDS)
        for one in rounds
    )
    per_byte = median(one["cpu_through"] - one["cpu_past"] for one in rounds) / options.slow
    per_request = median(one["cpu_past"] for one in rounds) / options.rate
    return {
        "held": per_byte < BYTE_SHARE * per_request
        and latency < LATENCY_RATIO
        and each < MEMORY_BYTES
        and waited["answered"] == waited["came"]
        and waited["at_once"] <= 100,
        "slow_clients": options.slow,
        "byte_share": round(per_byte / per_request, 2),
        "cores_for_all_of_them": round(per_byte * options.slow, 3),
        "p99_ratio": round(latency, 2),
        "cpu_micros": {
            "of_a_slow_byte": round(per_byte * 1e6, 1),
            "of_an_ordinary_request": round(per_request * 1e6, 1),
        },
        "bytes_per_slow_client": round(each),
        "past_max_connections": waited,
        "rounds": [{name: round(value, 5) for name, value in one.items()} for one in rounds],
    }


if __name__ == "__main__":
    sys.exit(main())
