"""A data plane in this process, real sockets on both of its sides.

`lab.proxy(…)` serves a configuration on a port of the system's choice, `lab.origin()` listens for
it, `proxy.dial()` is a client. Ends are `Wire`s: they send and expect bytes, and give up after
`PATIENCE` seconds. `play` runs a transcript:

    C> GET / HTTP/1.1       the client sends this line; a final backslash: without CRLF behind it
    O< GET / HTTP/1.1       the origin receives exactly this
    O> HTTP/1.1 200 OK      the origin answers
    C< HTTP/1.1 200 OK      the client receives exactly this
    C< [end]                ... and then the end; `>` ends a sending direction; `[reset]`, `[close]`

Every proxy is checked at the end of its test: nothing may be left over.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from typing import Any, cast

import attrs
import h11
import pytest
import trio

from p2pstream.config.load import load_text
from p2pstream.errors import Fault, TunnelLost
from p2pstream.net.dial import dial_tcp
from p2pstream.net.listen import Listening, bind
from p2pstream.net.origins import Origins
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.observe.records import Record, Records
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import CompiledTarget
from p2pstream.policy.decide import Choice
from p2pstream.proxy.server import ProxyServer
from p2pstream.proxy.upstream import Upstreams
from p2pstream.snapshot import TargetPlan, compile_snapshot
from p2pstream.wire.http1.head import Fields, parse_fields

PATIENCE = 5.0
DATE = "Thu, 01 Jan 1970 00:00:00 GMT"


@contextmanager
def patience(what: str) -> Iterator[None]:
    with trio.move_on_after(PATIENCE) as scope:
        yield
    if scope.cancelled_caught:
        pytest.fail(f"waited in vain for {what}")


async def until(condition: Callable[[], bool], what: str) -> None:
    with patience(what):
        while not condition():  # noqa: ASYNC110 -- nothing tells when it comes true
            await trio.sleep(0.001)


@attrs.frozen
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes
    informational: tuple[int, ...] = ()


class Wire:
    """One end of a connection, in a test's hands."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()
        self.ended = False

    @property
    def port(self) -> int:
        port: int = self.stream.socket.getsockname()[1]
        return port

    async def send(self, data: bytes | str, *, bytewise: bool = False) -> None:
        raw = data.encode("latin-1") if isinstance(data, str) else data
        with patience("the peer to take what is sent"):
            if bytewise:
                for at in range(len(raw)):
                    await self.stream.send_all(raw[at : at + 1])
                    await trio.lowlevel.checkpoint()
            else:
                await self.stream.send_all(raw)

    async def more(self) -> bool:
        """Receive something; False at the end."""
        if not self.ended:
            data = await self.stream.receive_some(262_144)
            self.buffer += data
            self.ended = not data
        return not self.ended

    async def exactly(self, size: int) -> bytes:
        with patience(f"{size} bytes after {bytes(self.buffer[:2000])!r}"):
            while len(self.buffer) < size and await self.more():
                pass
        assert len(self.buffer) >= size, f"ended after {bytes(self.buffer)!r}"
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def until(self, mark: bytes) -> bytes:
        with patience(f"{mark!r}, got {bytes(self.buffer[:2000])!r}"):
            while mark not in self.buffer:
                assert await self.more(), f"ended after {bytes(self.buffer)!r}"
        return await self.exactly(self.buffer.index(mark) + len(mark))

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def expect(self, expected: bytes | str) -> None:
        raw = expected.encode("latin-1") if isinstance(expected, str) else expected
        with trio.move_on_after(PATIENCE):
            while len(self.buffer) < len(raw) and raw.startswith(bytes(self.buffer)):
                if not await self.more():
                    break
        got = bytes(self.buffer[: len(raw)])
        if got != raw:
            pytest.fail("\n" + "\n".join(difference(raw, bytes(self.buffer))))
        del self.buffer[: len(raw)]

    async def rest(self) -> bytes:
        """All up to the end."""
        with patience(f"the end after {bytes(self.buffer[-200:])!r}"):
            while await self.more():
                pass
        return await self.exactly(len(self.buffer))

    async def end(self) -> None:
        assert await self.rest() == b""

    async def broken(self) -> None:
        """The peer resets the connection, maybe after some bytes."""
        with pytest.raises(trio.BrokenResourceError), patience("a reset"):
            while await self.more():
                pass
            pytest.fail(f"ended cleanly after {bytes(self.buffer)!r}")

    async def silent(self) -> None:
        """Nothing has come and nothing is on its way: the proxy has had several turns."""
        for _ in range(20):
            await trio.sleep(0.001)
        with trio.move_on_after(0.001):
            await self.more()
        assert not self.buffer and not self.ended, bytes(self.buffer)

    async def request(self) -> tuple[bytes, bytes]:
        """(start line, body) of a request that has a length or is chunked."""
        head = await self.head()
        if match := re.search(rb"(?mi)^content-length: (\d+)", head):
            return head.split(b"\r\n")[0], await self.exactly(int(match[1]))
        if re.search(rb"(?mi)^transfer-encoding: chunked", head):
            return head.split(b"\r\n")[0], await self.chunked()
        return head.split(b"\r\n")[0], b""

    async def chunked(self) -> bytes:
        body = b""
        while size := int(await self.until(b"\r\n"), 16):
            body += (await self.exactly(size + 2))[:-2]
        await self.until(b"\r\n")
        return body

    async def response(self, method: str = "GET") -> Answer:
        """The next response, as h11 reads it."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        interim: list[int] = []
        head: h11.Response | None = None
        body = b""
        with patience(f"a response after {bytes(self.buffer[:2000])!r}"):
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    if not self.buffer:
                        await self.more()
                    parser.receive_data(bytes(self.buffer))
                    self.buffer.clear()
                elif isinstance(event, h11.InformationalResponse):
                    interim.append(event.status_code)
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    pytest.fail(f"no response but {event!r}")
        self.buffer[:0] = parser.trailing_data[0]
        assert head is not None
        fields = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Answer(head.status_code, fields, body, tuple(interim))

    async def half_close(self) -> None:
        await self.stream.send_eof()

    def close(self) -> None:
        self.stream.socket.close()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


def difference(expected: bytes, got: bytes) -> list[str]:
    def shown(data: bytes) -> list[str]:
        return [repr(line)[2:-1] for line in data.splitlines(keepends=True)]

    return list(difflib.unified_diff(shown(expected), shown(got), "expected", "got", lineterm=""))


class Origin:
    """A listening socket. A test takes connections one by one, or has them served."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.accepted = 0
        self.wires: list[Wire] = []

    async def accept(self) -> Wire:
        with patience("a connection to the origin"):
            sock, _ = await self.sock.accept()
        self.accepted += 1
        wire = Wire(trio.SocketStream(sock))
        self.wires.append(wire)
        return wire

    async def serve(self, handler: Callable[[Wire], Awaitable[None]]) -> None:
        """Handle every connection, until cancelled."""

        async def one(sock: trio.socket.SocketType) -> None:
            wire = Wire(trio.SocketStream(sock))
            self.wires.append(wire)
            try:
                await handler(wire)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                wire.close()
                self.wires.remove(wire)

        async with trio.open_nursery() as nursery:
            with suppress(trio.ClosedResourceError):  # the end of the test
                while True:
                    sock, _ = await self.sock.accept()
                    self.accepted += 1
                    nursery.start_soon(one, sock)

    def close(self) -> None:
        self.sock.close()
        for wire in self.wires:
            wire.close()


class Agents:
    """Stands for the hub: dials for the proxy, and fails as told."""

    def __init__(self) -> None:
        self.failing: dict[str, Fault] = {}
        self.streams: dict[str, list[TcpStream]] = {}
        self.opened: list[tuple[str, str, int, str]] = []

    async def open(
        self, agent_id: str, host: str, port: int, seconds: float, request_id: str
    ) -> Stream:
        self.opened.append((agent_id, host, port, request_id))
        if agent_id in self.failing:
            raise self.failing[agent_id]
        stream = await dial_tcp(host, port, seconds)
        self.streams.setdefault(agent_id, []).append(stream)
        return stream

    def lose(self, agent_id: str) -> None:
        """The agent's tunnel ends, and everything on it."""
        for stream in self.streams.pop(agent_id, []):
            stream.waits.hung_up = True
            stream.waits.doom(TunnelLost("the tunnel ended"))


class Proxy:
    """A `ProxyServer` that listens."""

    def __init__(self, text: str) -> None:
        snapshot = compile_snapshot(load_text(text))
        self.board = Board(snapshot.tables)
        self.agents = Agents()
        self.upstreams = Upstreams(Origins(self.agents.open))
        self._records = Records("req")
        self.dial_faults: list[Fault] = []
        self.server = ProxyServer(
            snapshot, self.board, self.upstreams, self._records, self._dial_failed
        )
        self.server.wall_clock = lambda: 0.0
        for agent in snapshot.config.agents:
            self.board.agent_connected(agent.id)
        self.clients: list[Wire] = []
        self.scope = trio.CancelScope()
        self.crashes = 0
        self.listening = {
            listener_id: Listening(
                bind("127.0.0.1", 0),
                partial(self.server.serve, listener_id),
                max_connections=10_000,
            )
            for listener_id in snapshot.listeners
        }

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for listening in self.listening.values():
                    nursery.start_soon(listening.serve, nursery)

    def _dial_failed(self, _choice: Choice, fault: Fault, _request_id: str) -> None:
        self.dial_faults.append(fault)

    def reload(self, text: str) -> None:
        snapshot = compile_snapshot(load_text(text))
        self.board.rebind(snapshot.tables)
        self.server.snapshot = snapshot
        self.upstreams.retain(
            target.extra
            for target in snapshot.tables.targets.values()
            if isinstance(target.extra, TargetPlan)
        )

    def target(self, name: str = "target-1", route: str = "r") -> CompiledTarget:
        return self.server.snapshot.tables.targets[route, name]

    def tune_target(self, name: str = "target-1", route: str = "r", **changes: Any) -> None:
        """Change what was compiled, so that a test's seconds can be shorter than an operator's."""
        target = self.target(name, route)
        target.extra = attrs.evolve(target.extra, **changes)

    def tune_listener(self, listener_id: str = "main", **changes: Any) -> None:
        listeners = cast("dict[str, Any]", self.server.snapshot.listeners)
        listeners[listener_id] = attrs.evolve(listeners[listener_id], **changes)

    async def dial(self, listener_id: str = "main", *, receive_buffer: int = 0) -> Wire:
        sock = trio.socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.listening[listener_id].port))
        wire = Wire(trio.SocketStream(sock))
        self.clients.append(wire)
        return wire

    async def ask(self, request: str | bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        wire = await self.dial()
        await wire.send(request)
        answer = await wire.response(method)
        wire.close()
        return answer

    @property
    def records(self) -> list[Record]:
        return self._records.latest()

    async def record(self, count: int = 1) -> Record:
        """The latest record, once there are `count`."""
        await until(lambda: len(self.records) >= count, f"{count} records")
        assert len(self.records) == count
        return self.records[-1]

    @property
    def idle(self) -> int:
        """Kept-alive connections to origins."""
        return sum(len(pool.idle) for pool in self.upstreams._pools.values())

    def close_idle(self) -> None:
        for pool in self.upstreams._pools.values():
            pool.close_idle(inf)

    async def quiet(self) -> None:
        """Wait until no client and no request is left; nothing else may be either."""
        await until(
            lambda: (
                not self.server.connections
                and not any(one.active for one in self.listening.values())
            ),
            "all connections to end",
        )
        assert {path.active for path in self.board.paths.values()} <= {0}
        assert len({record.request_id for record in self.records}) == len(self.records)
        assert self._records.count == len(self.records) or len(self.records) == 10_000
        assert sum(one.crashed for one in self.listening.values()) == self.crashes


FORWARD = """
[[listeners]]
id = "main"
port = 1
%(listener)s

[[routes]]
id = "r"
listener_id = "main"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1:%(port)d"
%(target)s
%(more)s
"""


class Lab:
    """Makes the parts of a test, and ends them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.origins: list[Origin] = []
        self.proxies: list[Proxy] = []

    async def origin(
        self, handler: Callable[[Wire], Awaitable[None]] | None = None, *, receive_buffer: int = 0
    ) -> Origin:
        sock = trio.socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        origin = Origin(sock)
        self.origins.append(origin)
        if handler is not None:
            self.nursery.start_soon(origin.serve, handler)
        return origin

    def serve(self, text: str) -> Proxy:
        """A proxy with this configuration; ports of listeners do not matter."""
        proxy = Proxy(text)
        self.proxies.append(proxy)
        self.nursery.start_soon(proxy.run)
        return proxy

    def forward(
        self, origin: Origin, *, listener: str = "", target: str = "", more: str = ""
    ) -> Proxy:
        """A proxy that forwards everything to one origin."""
        values = {"listener": listener, "port": origin.port, "target": target, "more": more}
        return self.serve(FORWARD % values)

    def free_port(self) -> int:
        """A port on which nobody listens."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
            return port

    async def play(self, proxy: Proxy, origin: Origin | None, script: str) -> None:
        """Run a transcript, see the module's text; `{port}` is the origin's."""
        client = await proxy.dial()
        upstream: Wire | None = None
        port = str(origin.port) if origin else ""
        for side, data in blocks(script.replace("{port}", port).replace("{date}", DATE)):
            if side[0] == "O" and upstream is None:
                assert origin is not None
                upstream = await origin.accept()
            wire = client if side[0] == "C" else cast("Wire", upstream)
            if data == "[end]":
                await (wire.half_close() if side[1] == ">" else wire.end())
            elif data == "[close]":
                wire.close()
            elif data == "[reset]":
                if side[1] == ">":
                    wire.reset()
                else:
                    await wire.broken()
            elif side[1] == ">":
                await wire.send(data)
            else:
                await wire.expect(data)

    async def close(self) -> None:
        for proxy in self.proxies:
            for client in proxy.clients:
                client.close()
            await proxy.quiet()
            proxy.upstreams.close()
        assert current_reactor().streams == 0

    def abandon(self) -> None:
        """Close whatever is open, also after a failure."""
        for proxy in self.proxies:
            for client in proxy.clients:
                client.close()
            for listening in proxy.listening.values():
                listening.close()
        for origin in self.origins:
            origin.close()


class InARow:
    """Counts what one task does while nobody else has a turn; `most` is the longest such run."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    def add(self, count: int = 1) -> None:
        self._now += count
        self.most = max(self.most, self._now)

    def heads(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        """Count the heads that a module of ours understands."""

        def counted(block: bytes) -> Fields:
            self.add()
            return parse_fields(block)

        monkeypatch.setattr(f"p2pstream.{module}.parse_fields", counted)

    async def others(self) -> None:
        while True:
            self._now = 0
            await trio.lowlevel.checkpoint()


def blocks(script: str) -> Iterator[tuple[str, str]]:
    """(`C>` and the like, bytes as text): neighbouring lines of one side are sent together."""
    side, data = "", ""
    for line in script.strip().splitlines():
        mark, _, text = line.strip().partition(" ")
        assert mark in ("C>", "C<", "O>", "O<"), line
        command = text in ("[end]", "[close]", "[reset]")
        if data and (mark != side or command):
            yield side, data
            data = ""
        side = mark
        if command:
            yield side, text
        elif text.endswith("\\"):
            data += text[:-1]
        else:
            data += text + "\r\n"
    if data:
        yield side, data


@pytest.fixture
async def in_a_row() -> AsyncIterator[InARow]:
    made = InARow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.others)
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with _lab() as made:
        yield made


@asynccontextmanager
async def _lab() -> AsyncIterator[Lab]:
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        made = Lab(nursery)
        try:
            yield made
            await made.close()
        finally:
            made.abandon()
            nursery.cancel_scope.cancel()
    reactor_and_own = 1  # the run's epoll is made with the first stream
    assert len(os.listdir("/proc/self/fd")) <= before + reactor_and_own
