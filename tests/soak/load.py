"""A load generator on Trio: requests at a fixed rate over kept-alive connections, and connections
that are held. What goes wrong is kept, in words.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress

import trio
from attrs import define, field

# What takes longer has failed.
PATIENCE_SECONDS = 10.0

Request = tuple[str, bytes]
"""(host, path)."""


class Client:
    """One connection to a proxy."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    @classmethod
    async def connect(cls, port: int) -> Client:
        """Connect to this host's proxy."""
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def get(self, request: Request) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection goes on."""
        await self.send(request)
        return await self.response()

    async def send(self, request: Request, extra: bytes = b"") -> None:
        """Send a request without a body."""
        host, path = request
        await self.stream.send_all(
            b"GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (path, host.encode(), extra)
        )

    async def head(self) -> bytes:
        """The next response head."""
        while b"\r\n\r\n" not in self.buffer:
            await self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    async def response(self) -> tuple[int, bytes, bool]:
        """See `get`."""
        head = (await self.head()).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self.take(size), b"\nconnection: close" not in head

    async def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.buffer) < size:
            await self._more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def _more(self) -> None:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise EOFError("closed")
        self.buffer += data


@define
class Rate:
    """Requests at a fixed rate, whatever becomes of them: latencies count from the due time."""

    port: int
    requests: Sequence[Request]
    per_second: float
    connections: int
    answered: int = 0
    failures: list[str] = field(factory=list)
    latencies: list[tuple[float, float]] = field(factory=list)
    """(when due, seconds until answered)."""
    _stopped: bool = False

    def stop(self) -> None:
        """Begin no more."""
        self._stopped = True

    async def run(self) -> None:
        """Ask until stopped."""
        start = trio.current_time()
        ticks = itertools.count()
        requests = itertools.cycle(self.requests)
        async with trio.open_nursery() as nursery:
            for _ in range(self.connections):
                nursery.start_soon(self._one, start, ticks, requests)

    async def _one(self, start: float, ticks: Iterator[int], requests: Iterator[Request]) -> None:
        client: Client | None = None
        while not self._stopped:
            due = start + next(ticks) / self.per_second
            await trio.sleep_until(due)
            request = next(requests)
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    if client is None:
                        client = await Client.connect(self.port)
                    status, _, goes_on = await client.get(request)
            except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self.failures.append(f"{request}: {error!r}")
                goes_on = False
            else:
                self.latencies.append((due, trio.current_time() - due))
                self.answered += 1
                if status != 200:
                    self.failures.append(f"{request}: {status}")
            if not goes_on and client is not None:
                await trio.aclose_forcefully(client.stream)
                client = None
        if client is not None:
            await trio.aclose_forcefully(client.stream)


@define
class Held:
    """Connections that stay open: upgraded ones that echo, and long polls."""

    port: int
    failures: list[str] = field(factory=list)
    _echoes: list[Client] = field(factory=list)
    _polls: list[Client] = field(factory=list)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._echoes) + len(self._polls)

    async def open(self, request: Request) -> None:
        """One more of each kind."""
        echo = await Client.connect(self.port)
        await echo.send(request, b"Connection: Upgrade\r\nUpgrade: echo\r\n")
        head = await echo.head()
        if not head.startswith(b"HTTP/1.1 101 "):
            self.failures.append(f"{request}: no upgrade: {head!r}")
        self._echoes.append(echo)
        poll = await Client.connect(self.port)
        await poll.send((request[0], b"/hold"))
        self._polls.append(poll)

    async def prove(self) -> None:
        """Every upgraded connection still gives back what it is sent."""
        for number, client in enumerate(self._echoes):
            text = b"still there %d" % number
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    await client.stream.send_all(text)
                    if await client.take(len(text)) != text:
                        self.failures.append(f"upgraded connection {number} says something else")
            except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self.failures.append(f"upgraded connection {number}: {error!r}")

    async def end(self) -> None:
        """Every long poll is answered, once the origin releases them; all are closed."""
        for number, client in enumerate(self._polls):
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    status, body, _ = await client.response()
                if (status, body) != (200, b"released"):
                    self.failures.append(f"long poll {number}: {status} {body!r}")
            except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
                self.failures.append(f"long poll {number}: {error!r}")
        for client in (*self._echoes, *self._polls):
            with suppress(trio.BrokenResourceError):
                await trio.aclose_forcefully(client.stream)
