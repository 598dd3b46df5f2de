"""What the failover scenario plays with: links that fail on demand, a steady load."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections import Counter
from typing import Any, Final

import trio
from attrs import define, field, frozen

from tests.programs import HOST, ours

ADMIN_TOKEN: Final = "only-for-this-run"
# Nothing here takes a second on an idle machine; what has not happened after this will not.
PATIENCE_SECONDS: Final = 20.0
# The load comes in bursts this far apart: one that is as fine as the rate would keep this process,
# and not the server, busy with waking up.
_BURST_SECONDS: Final = 0.01
_CLIENT_PATIENCE_SECONDS: Final = 30.0


class StageError(Exception):
    """The scenario cannot go on, or did not come out as promised."""


def run(*arguments: str) -> str:
    """Run one of our commands; what it printed. Error: `StageError`."""
    done = subprocess.run(
        ours(*arguments), capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    if done.returncode:
        raise StageError(f"p2pstream {' '.join(arguments)}: {done.stderr}{done.stdout}")
    return done.stdout


class Link:
    """A TCP relay in front of a port, which can hold everything back, or be slow."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._open = trio.Event()
        self._open.set()
        self.delay = 0.0
        """Seconds that each piece waits, in each direction."""
        self.port = 0

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Relay until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._relay, [listener])

    def hold(self) -> None:
        """Become a black hole: nothing passes, nothing is refused."""
        self._open = trio.Event()

    def release(self) -> None:
        """Let everything pass that waited."""
        self._open.set()

    async def _relay(self, near: trio.SocketStream) -> None:
        try:
            await self._open.wait()
            far = await trio.open_tcp_stream(HOST, self._to)
        except OSError:
            near.socket.close()
            return
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, near, far, nursery.cancel_scope)
            await self._pump(far, near, nursery.cancel_scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65_536):
                await trio.sleep(self.delay)
                await self._open.wait()
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            both.cancel()


@frozen
class Answer:
    """What became of one request. Times are Trio's."""

    begun: float
    ended: float
    status: int
    """0: none came."""
    body: str

    @property
    def fine(self) -> bool:
        """Whether it is what an origin or the maintenance page says."""
        return self.status == 200


@define(eq=False)
class Load:
    """Clients that ask at a steady rate, whether or not they are answered (an open loop)."""

    port: int
    rate: int
    answers: list[Answer] = field(factory=list)
    _waiting: set[tuple[int, float]] = field(factory=set)  # (number, since)
    _count: int = 0
    _idle: list[trio.SocketStream] = field(factory=list)

    async def run(self) -> None:
        """Ask until cancelled."""
        per_burst = round(self.rate * _BURST_SECONDS)
        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                due += _BURST_SECONDS
                await trio.sleep_until(due)
                for _ in range(per_burst):
                    nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        begun = trio.current_time()
        self._count += 1
        entry = (self._count, begun)
        self._waiting.add(entry)
        status, body, stream = 0, "", None
        try:
            with trio.move_on_after(_CLIENT_PATIENCE_SECONDS):
                stream = self._idle.pop() if self._idle else await self._connect()
                status, body, keep = await _exchange(stream)
                if keep:
                    self._idle.append(stream)
                    stream = None
        except (OSError, trio.BrokenResourceError):
            pass
        finally:
            self._waiting.discard(entry)
            if stream is not None:
                stream.socket.close()
        self.answers.append(Answer(begun, trio.current_time(), status, body))

    def waiting_since(self, before: float) -> int:
        """How many requests that began before then have no answer yet."""
        return sum(begun < before for _, begun in self._waiting)

    async def _connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(HOST, self.port)


async def _exchange(stream: trio.SocketStream) -> tuple[int, str, bool]:
    """One request: status, body, and whether the connection goes on."""
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(65_536)
        if not piece:
            return 0, "", False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    (length,) = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    while len(body) < length:
        body += await stream.receive_some(65_536)
    return int(lines[0].split()[1]), body.decode(), "connection: close" not in lines


def status(management_port: int) -> dict[str, Any]:
    """What the server's API says of itself, as `p2pstream status --json`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the server that we started, on loopback
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        HOST, management_port, context=context, timeout=PATIENCE_SECONDS
    )
    try:
        connection.request(
            "GET", "/api/v1/status", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise StageError(f"the API answers {response.status}")
    view: dict[str, Any] = json.loads(body)
    return view


def served(view: dict[str, Any]) -> Counter[str]:
    """Requests so far: by agent, and by target where there is none."""
    names = {one["id"]: one["name"] for one in view["agents"]}
    counts: Counter[str] = Counter()
    for path in view["paths"]:
        counts[names.get(path["agent"], path["target"])] += path["requests"]
    return counts


def shares(view: dict[str, Any]) -> dict[str, float]:
    """What the server would deal out now: by agent, and by target where there is none."""
    names = {one["id"]: one["name"] for one in view["agents"]}
    return {
        names.get(path["agent"], path["target"]): path["share"]
        for path in view["paths"]
        if path["share"]
    }
