"""One stream's trouble while a hundred others of the session are busy, with the real agent program,
real sockets and real origins: what the trouble is concerns its own stream only.
"""

from __future__ import annotations

import gc
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import pytest
import trio
import trio.testing
from attrs import define, field

from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import servers_of
from p2pstream.agents.credentials import Token
from p2pstream.agents.remote import RemoteAgent
from p2pstream.agents.tunnel import Tunnel
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.config.scalars import Secret
from p2pstream.errors import AgentDialFailed, AgentDialTimeout, StreamBroken, TunnelLost
from p2pstream.net.http import ServerConnection
from p2pstream.net.listen import Listening, bind
from p2pstream.net.stream import Stream, TcpStream

HOST: Final = "127.0.0.1"
BUSY: Final = 100
MESSAGE: Final = 3_000
ANSWER: Final = 1_000
# What has not happened after this long will not.
PATIENCE_SECONDS: Final = 30.0


async def all_of(stream: Stream) -> bytes:
    data = bytearray()
    while piece := await stream.receive(65_536):
        data += piece
    return bytes(data)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it is the doing of others, in many places
            await trio.sleep(0.001)


async def exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive(count - len(data))
        assert piece
        data += piece
    return data


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port that takes no more connections and refuses none: the kernel drops their SYN."""
    sockets = [socket.socket() for _ in range(4)]
    try:
        sockets[0].bind((HOST, 0))
        sockets[0].listen(0)
        port: int = sockets[0].getsockname()[1]
        for sock in sockets[1:]:
            sock.setblocking(False)
            sock.connect_ex((HOST, port))
        yield port
    finally:
        for sock in sockets:
            sock.close()


@define
class Origin:
    """The byte that a client sends first names what the connection does."""

    port: int = 0
    open: int = 0
    heard: list[bytes] = field(factory=list)

    async def serve(self, stream: TcpStream, _peer: str) -> None:
        self.open += 1
        try:
            await getattr(self, (await stream.receive(1)).decode() or "nothing")(stream)
        finally:
            self.open -= 1

    async def e(self, stream: TcpStream) -> None:
        """Send back what comes."""
        while data := await stream.receive(65_536):
            await stream.send(data)

    async def h(self, stream: TcpStream) -> None:
        """Wait for the end, then tell the hash of what came."""
        await stream.send(hashlib.sha256(await all_of(stream)).digest())

    async def f(self, stream: TcpStream) -> None:
        """End first, then listen."""
        await stream.send(b"that is all")
        await stream.send_eof()
        self.heard.append(await all_of(stream))

    async def r(self, stream: TcpStream) -> None:
        """Say a word, and reset."""
        await stream.send(b"word")
        await stream.receive(1)
        stream.abort()

    async def a(self, stream: TcpStream) -> None:
        """Answer at length before all of the question has been read, and reset."""
        await stream.send(bytes(ANSWER))
        stream.abort()

    async def s(self, stream: TcpStream) -> None:
        """Stay silent until the client has left."""
        await all_of(stream)

    async def w(self, stream: TcpStream) -> None:
        """Hear the client out until it resets."""
        said = b""
        with suppress(StreamBroken):
            while data := await stream.receive(65_536):
                said += data
        self.heard.append(said)

    async def g(self, stream: TcpStream) -> None:
        """Go on and on."""
        while True:
            await stream.send(bytes(100_000))

    async def nothing(self, stream: TcpStream) -> None:
        """The client left without a word."""


@define
class Busy:
    """A tunnel with a hundred busy streams on it."""

    tunnel: Tunnel
    agent: RemoteAgent
    origin: Origin
    rounds: int = 0

    async def open(self, what: bytes) -> Stream:
        stream = await self.dial(self.origin.port, PATIENCE_SECONDS)
        await stream.send(what)
        return stream

    async def dial(self, port: int, seconds: float) -> Stream:
        return await self.tunnel.open(HOST, port, request_id="r", timeout_seconds=seconds)

    async def keep_busy(self, number: int, stop: trio.Event) -> None:
        """Ask and be answered until told to stop; then everything must have come back."""
        stream = await self.open(b"e")
        turn = 0
        while not stop.is_set() or turn < 3:
            message = hashlib.sha256(b"%d %d" % (number, turn)).digest() * (MESSAGE // 32)
            await stream.send(message)
            assert await exactly(stream, len(message)) == message
            turn += 1
            self.rounds += 1
        stream.close()

    async def go_on(self) -> None:
        """Wait until all of the hundred must have had a turn."""
        before = self.rounds
        await until(lambda: self.rounds >= before + 2 * BUSY)


@asynccontextmanager
async def a_tunnel() -> AsyncIterator[tuple[Tunnel, RemoteAgent]]:
    tunnels: list[Tunnel] = []
    up = trio.Event()

    async def serve(stream: TcpStream, _: str) -> None:
        connection = ServerConnection(stream)
        assert await connection.next_request() is not None
        await connection.switch((("connection", "Upgrade"), ("upgrade", "p2pstream-yamux")))
        tunnels.append(Tunnel(stream, client=False))
        up.set()
        await tunnels[0].run()

    listening = Listening(bind(HOST, 0), serve, max_connections=10)
    token = Token((f"http://{HOST}:{listening.port}",), "agent-1", Secret("s3cret"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        agent = RemoteAgent(servers_of([token]), allow=Allow())
        nursery.start_soon(agent.run)
        await up.wait()
        yield tunnels[0], agent
        listening.close()
        nursery.cancel_scope.cancel()
    assert listening.crashed == 0


@pytest.fixture
async def busy() -> AsyncIterator[Busy]:
    origin = Origin()
    listening = Listening(bind(HOST, 0), origin.serve, max_connections=1_000)
    origin.port = listening.port
    async with a_tunnel() as (tunnel, agent), trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        one = Busy(tunnel, agent, origin)
        stop = trio.Event()
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as workers:
                for number in range(BUSY):
                    workers.start_soon(one.keep_busy, number, stop)
                await one.go_on()
                yield one
                stop.set()
            # Nothing is left of anything, and it is still the tunnel that it was.
            (far,) = agent.tunnels.values()
            await until(lambda: not (tunnel.streams or far.streams or origin.open))
        assert tunnel.reason is None
        listening.close()
        nursery.cancel_scope.cancel()
    assert listening.crashed == 0


async def test_a_cancelled_request_resets_its_stream_only(busy: Busy) -> None:
    for _ in range(8):
        stream = await busy.open(b"s")
        with trio.move_on_after(0.005) as scope:
            try:
                await stream.receive(1)
            finally:
                stream.abort()
        assert scope.cancelled_caught
        await busy.go_on()
    await until(lambda: busy.origin.open <= BUSY)  # each origin heard of it
    assert busy.tunnel.streams == BUSY


async def test_a_cancelled_upload_resets_its_stream_only(busy: Busy) -> None:
    for _ in range(3):
        stream = await busy.open(b"s")
        with trio.move_on_after(0.01):
            await stream.send(bytes(50_000_000))
        stream.abort()
        await busy.go_on()
    assert busy.tunnel.streams == BUSY


async def test_a_dial_that_nobody_answers_ends_by_its_deadline_alone(busy: Busy) -> None:
    """The agent stops dialling as well: nothing is left on either side."""
    with full_backlog() as port:
        for _ in range(3):
            start = trio.current_time()
            with pytest.raises(AgentDialTimeout):
                await busy.dial(port, 0.15)
            assert 0.1 < trio.current_time() - start < 5
        await busy.go_on()
        (far,) = busy.agent.tunnels.values()
        await until(lambda: far.streams <= BUSY)
    assert busy.tunnel.streams == BUSY


async def test_a_half_close_passes_through_to_the_origin(busy: Busy) -> None:
    body = bytes(range(256)) * 4_000
    for _ in range(3):
        stream = await busy.open(b"h")
        await stream.send(body)
        await stream.send_eof()
        assert await all_of(stream) == hashlib.sha256(body).digest()
        stream.close()
        await busy.go_on()


async def test_a_half_close_passes_through_from_the_origin(busy: Busy) -> None:
    for _ in range(3):
        stream = await busy.open(b"f")
        assert await all_of(stream) == b"that is all"
        await busy.go_on()
        await stream.send(b"and yet ")
        await stream.send(b"it goes on")
        await stream.send_eof()
        await until(lambda: busy.origin.heard)
        assert busy.origin.heard.pop() == b"and yet it goes on"
        stream.close()


async def test_an_origin_that_answers_before_it_has_read_all_is_heard(busy: Busy) -> None:
    """What it does not read makes its kernel reset the connection: the answer was before that."""
    for _ in range(10):
        stream = await busy.open(b"a")
        with suppress(StreamBroken):
            for _ in range(20):
                await stream.send(bytes(50_000))
        assert await exactly(stream, ANSWER) == bytes(ANSWER)
        stream.close()
    await busy.go_on()


async def test_the_last_words_before_a_reset_reach_the_origin(busy: Busy) -> None:
    for _ in range(10):
        stream = await busy.open(b"w")
        await stream.send(b"goodbye")
        stream.abort()
        await until(lambda: busy.origin.heard)
        assert busy.origin.heard.pop() == b"goodbye"
    await busy.go_on()


async def test_an_origin_that_resets_breaks_its_stream_only(busy: Busy) -> None:
    for _ in range(3):
        stream = await busy.open(b"r")
        assert await exactly(stream, 4) == b"word"
        await stream.send(b"?")
        with pytest.raises(StreamBroken):
            await stream.receive(1)
        stream.close()
        await busy.go_on()


# --- what is left -----------------------------------------------------------------------------


async def left_in_the_answer(busy: Busy) -> None:
    stream = await busy.open(b"g")
    await stream.receive(1)
    stream.abort()


async def left_in_the_question(busy: Busy) -> None:
    stream = await busy.open(b"w")
    await stream.send(bytes(100_000))
    stream.abort()


async def reset_by_the_origin(busy: Busy) -> None:
    stream = await busy.open(b"r")
    await exactly(stream, 4)
    await stream.send(b"?")
    with pytest.raises(StreamBroken):
        await stream.receive(1)
    stream.close()


async def refused(busy: Busy) -> None:
    with socket.socket() as bound, pytest.raises(AgentDialFailed):
        bound.bind((HOST, 0))
        await busy.dial(bound.getsockname()[1], PATIENCE_SECONDS)


async def cut_with_the_tunnel(busy: Busy) -> None:
    stream = await busy.open(b"g")
    await stream.receive(1)
    busy.tunnel.end(TunnelLost("the network went"))
    stream.close()


@pytest.mark.parametrize(
    "end",
    [left_in_the_answer, left_in_the_question, reset_by_the_origin, refused, cut_with_the_tunnel],
)
async def test_nothing_of_a_stream_is_left_to_the_collector(
    end: Callable[[Busy], Awaitable[None]],
) -> None:
    """It comes late: until then a stream that broke held both connections and the bytes between.

    Exceptions do it, whose frames hold what holds the exception.
    """
    origin = Origin()
    listening = Listening(bind(HOST, 0), origin.serve, max_connections=10)
    origin.port = listening.port
    async with a_tunnel() as (tunnel, agent), trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        await until(lambda: agent.tunnels)
        (far,) = agent.tunnels.values()
        gc.collect()
        gc.disable()
        try:
            before = at_work()
            await end(Busy(tunnel, agent, origin))
            await until(lambda: not (tunnel.streams or far.streams or origin.open))
            await trio.testing.wait_all_tasks_blocked(0.01)
            left = [one for one in at_work() if one not in before]
        finally:
            gc.enable()
        listening.close()
        nursery.cancel_scope.cancel()
    assert left == []


def at_work() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, TunnelStream)]
