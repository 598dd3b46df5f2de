"""The tunnel's shell over lines in memory: what one stream suffers, no other notices.

Time is Trio's mock clock: a minute of keepalive or a slow line takes no time to test.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

import pytest
import trio
import trio.testing
from attrs import define
from trio.testing import MockClock

from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import Joined, servers_of
from p2pstream.agents.credentials import Token
from p2pstream.agents.keepalive import DOUBT_SECONDS, PING_SECONDS, PONG_SECONDS
from p2pstream.agents.remote import RemoteAgent
from p2pstream.agents.tunnel import READ_BYTES, Tunnel, receive_opening
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.config.scalars import Secret
from p2pstream.errors import (
    AgentDialFailed,
    AgentDialTimeout,
    AgentDisconnected,
    Fault,
    StreamBroken,
    StreamClosed,
    TunnelLost,
)
from p2pstream.net.reactor import Waits, current_reactor
from p2pstream.net.stream import Bytes, Stream, TcpStream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.wire.opening import ErrorKind, OpenRequest, Verdict
from p2pstream.wire.yamux.frame import HEADER_BYTES, Flag, Frame, FrameType
from p2pstream.wire.yamux.receive import FRAMES_A_TURN
from p2pstream.wire.yamux.streams import ACCEPT_BACKLOG
from p2pstream.wire.yamux.turns import MAX_CONTROL
from p2pstream.wire.yamux.window import INITIAL_WINDOW

KERNEL: Final = 128 * 1024  # what a line holds before `try_send` takes no more
PIECE: Final = 16 * 1024


class Line(Stream):
    """One end of a line with a rate (bytes a second) and a delay (seconds) to the other end."""

    def __init__(self, rate: float = inf, delay: float = 0.0) -> None:
        self._waits = Waits()
        self.rate = rate
        self.delay = delay
        self.other: Line
        self.dead = False
        """What is sent from here gets lost."""
        self.sending = bytearray()
        self.arrived = bytearray()
        self.ended = False
        self.closed = False
        self._moved = trio.Event()
        self._send_under_way, self._under_way = trio.open_memory_channel[tuple[float, bytes]](inf)
        current_reactor().add(self._waits)

    @property
    def waits(self) -> Waits:
        return self._waits

    async def receive(self, max_bytes: int) -> bytes:
        while not self.arrived:
            if self.closed:
                raise StreamClosed("closed")
            if self.ended:
                return b""
            await self._waits.wait_read()
        data = bytes(self.arrived[:max_bytes])
        del self.arrived[:max_bytes]
        return data

    def try_send(self, data: Bytes) -> int:
        if self.closed:
            raise StreamClosed("closed")
        if self.other.closed:
            raise StreamBroken("the other end is closed")
        if self.rate == inf and not self.delay and not self.dead:
            self.other.arrive(bytes(data))
            return len(data)
        taken = min(len(data), KERNEL - len(self.sending))
        self.sending += memoryview(data)[:taken]
        self._moved.set()
        return taken

    async def send(self, data: Bytes) -> None:
        raise NotImplementedError("a tunnel tries")

    async def flush(self) -> None:
        await self._waits.wait_write()

    async def send_eof(self) -> None:
        raise NotImplementedError("a tunnel closes")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            current_reactor().remove(self._waits)
            self._waits.fail(StreamClosed("closed"))
            self._send_under_way.close()
            self._under_way.close()
            if not self.dead:
                self.other.arrive(b"")

    abort = close

    def is_quiet(self) -> bool:
        return not self.closed

    def arrive(self, data: bytes) -> None:
        self.arrived += data
        self.ended = self.ended or not data
        self._waits.wake_read()

    async def carry(self) -> None:
        """Move bytes at the line's rate, and let them arrive after its delay."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver)
            while True:
                while not self.sending or self.dead:
                    self._moved = trio.Event()
                    await self._moved.wait()
                piece = bytes(self.sending[:PIECE])
                await trio.sleep(len(piece) / self.rate)
                if self.closed:  # and what it held is lost
                    return
                del self.sending[: len(piece)]
                self._waits.wake_write()
                self._send_under_way.send_nowait((trio.current_time() + self.delay, piece))

    async def _deliver(self) -> None:
        async for at, piece in self._under_way:
            await trio.sleep_until(at)
            if not self.dead:
                self.other.arrive(piece)


@define
class Pair:
    server: Tunnel
    agent: Tunnel
    server_line: Line
    agent_line: Line


Handler = Callable[[TunnelStream, OpenRequest], Awaitable[None]]


async def echo(stream: TunnelStream, _request: OpenRequest) -> None:
    """Send back what comes, until it ends."""
    while data := await stream.receive(65_536):
        await stream.send(data)
    await stream.send_eof()


def agreeing(handler: Handler = echo) -> Callable[[TunnelStream], Awaitable[None]]:
    """What an agent does with a stream: read the opening, say yes, go on with `handler`."""

    async def serve(stream: TunnelStream) -> None:
        request = OpenRequest.parse(await receive_opening(stream))
        await stream.send(Verdict(True).encode())
        await handler(stream, request)

    return serve


@asynccontextmanager
async def tunnels(
    serve: Callable[[TunnelStream], Awaitable[None]] | None = None,
    rate: float = inf,
    delay: float = 0.0,
) -> AsyncIterator[Pair]:
    """Both ends of a tunnel at work; everything of it is gone at the end."""
    lines = Line(rate, delay), Line(rate, delay)
    lines[0].other, lines[1].other = lines[1], lines[0]
    server = Tunnel(lines[0], client=False)
    agent = Tunnel(lines[1], client=True, serve=serve or agreeing())
    before = current_reactor().streams
    async with trio.open_nursery() as nursery:
        for task in (server.run, agent.run):
            nursery.start_soon(task)
        if rate != inf or delay:
            for line in lines:
                nursery.start_soon(line.carry)
        yield Pair(server, agent, *lines)
        server.close()
        agent.close()
        nursery.cancel_scope.cancel()
    assert current_reactor().streams == before - 2
    assert (server.streams, agent.streams) == (0, 0)


async def open_to(tunnel: Tunnel, host: str = "origin", seconds: float = 5.0) -> TunnelStream:
    return await tunnel.open(host, 80, request_id="r-1", timeout_seconds=seconds)


async def receive_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive(count - len(data))
        assert piece
        data += piece
    return data


async def receive_all(stream: Stream) -> bytes:
    data = bytearray()
    while piece := await stream.receive(65_536):
        data += piece
    return bytes(data)


async def forever() -> None:
    await trio.sleep(inf)


# --- opening ----------------------------------------------------------------------------------


async def test_an_opened_stream_carries_bytes_and_ends_both_ways(autojump_clock: MockClock) -> None:
    seen: list[OpenRequest] = []

    async def handler(stream: TunnelStream, request: OpenRequest) -> None:
        seen.append(request)
        await echo(stream, request)

    async with tunnels(agreeing(handler)) as pair:
        stream = await pair.server.open("::1", 8080, request_id="r-7", timeout_seconds=5)
        assert seen == [OpenRequest("r-7", "::1", 8080)]
        assert stream.waits.deadline == inf
        await stream.send(b"there ")
        await stream.send(b"and back")
        await stream.send_eof()
        assert await receive_all(stream) == b"there and back"
        assert (pair.server.streams, pair.agent.streams) == (0, 0)
        stream.close()


async def test_syn_and_opening_request_leave_in_one_write(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnels() as pair:
        await trio.testing.wait_all_tasks_blocked()
        writes: list[bytes] = []
        send = pair.server_line.try_send

        def spy(data: Bytes) -> int:
            writes.append(bytes(data))
            return send(data)

        monkeypatch.setattr(pair.server_line, "try_send", spy)
        stream = await open_to(pair.server)
        stream.close()
        request = OpenRequest("r-1", "origin", 80).encode()
        assert writes[:1] == [Frame(FrameType.DATA, Flag.SYN, 2, len(request)).encode() + request]


async def refuse(stream: TunnelStream) -> None:
    await receive_opening(stream)
    await stream.send(Verdict(False, ErrorKind.DIAL_TIMEOUT, "no answer").encode())


async def forbid(stream: TunnelStream) -> None:
    await receive_opening(stream)
    await stream.send(Verdict(False, ErrorKind.DIAL_FORBIDDEN, "not allowed").encode())


async def end_at_once(stream: TunnelStream) -> None:
    await receive_opening(stream)
    await stream.send_eof()


async def break_it(stream: TunnelStream) -> None:
    raise StreamBroken("the origin is gone")


async def talk_nonsense(stream: TunnelStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n")
    await forever()


async def say_nothing(_stream: TunnelStream) -> None:
    await forever()


@pytest.mark.parametrize(
    ("serve", "fault", "says"),
    [
        (refuse, AgentDialTimeout, "dial_timeout: no answer"),
        (forbid, AgentDialFailed, "dial_forbidden: not allowed"),
        (end_at_once, AgentDialFailed, "the agent's answer: the stream ended after 0 bytes"),
        (break_it, AgentDialFailed, "the agent reset the stream"),
        (talk_nonsense, AgentDialFailed, "the agent's answer: an opening of 1213486160 bytes"),
        (say_nothing, AgentDialTimeout, "no answer from the agent within 5.0 s"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_failed_opening_fails_its_request_only(
    autojump_clock: MockClock,
    serve: Callable[[TunnelStream], Awaitable[None]],
    fault: type[Fault],
    says: str,
) -> None:
    calls = 0

    async def serve_first(stream: TunnelStream) -> None:
        nonlocal calls
        calls += 1
        await (serve(stream) if calls == 2 else agreeing()(stream))

    async with tunnels(serve_first) as pair:
        other = await open_to(pair.server)
        with pytest.raises(fault) as caught:
            await open_to(pair.server)
        assert caught.value.detail.startswith(says)
        await trio.testing.wait_all_tasks_blocked()
        assert (pair.server.streams, pair.agent.streams) == (1, 1)
        await other.send(b"still here")
        assert await receive_exactly(other, 10) == b"still here"
        other.close()


async def test_an_opening_when_the_agent_is_lost(autojump_clock: MockClock) -> None:
    async with tunnels(say_nothing) as pair, trio.open_nursery() as nursery:

        async def opening() -> None:
            with pytest.raises(AgentDisconnected):
                await open_to(pair.server)

        nursery.start_soon(opening)
        await trio.testing.wait_all_tasks_blocked()
        pair.agent_line.close()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AgentDisconnected):
            await open_to(pair.server)


async def test_a_cancelled_opening_resets_its_stream_only(autojump_clock: MockClock) -> None:
    async with tunnels(say_nothing) as pair:
        with trio.move_on_after(1):
            await open_to(pair.server)
        assert pair.server.streams == 0
        await trio.testing.wait_all_tasks_blocked()
        assert pair.agent.streams == 0
        assert pair.server.reason is None


async def test_openings_past_the_backlog_wait_in_line(autojump_clock: MockClock) -> None:
    """A peer refuses more unanswered streams than its backlog: the rest wait, with their limit."""
    async with tunnels(say_nothing) as pair, trio.open_nursery() as nursery:

        async def opening() -> None:
            with pytest.raises(AgentDialTimeout):
                await open_to(pair.server)

        for _ in range(ACCEPT_BACKLOG):
            nursery.start_soon(opening)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.server.streams == ACCEPT_BACKLOG
        with pytest.raises(AgentDialTimeout, match="256 streams unanswered"):
            await pair.server.open("127.0.0.1", 1, request_id="r", timeout_seconds=0.5)
        assert pair.server.streams == ACCEPT_BACKLOG


async def test_five_hundred_openings_at_once_all_succeed(autojump_clock: MockClock) -> None:
    opened: list[TunnelStream] = []

    async def opening(tunnel: Tunnel) -> None:
        opened.append(await open_to(tunnel))

    async with tunnels(agreeing()) as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(2 * ACCEPT_BACKLOG):
                nursery.start_soon(opening, pair.server)
        assert len(opened) == 2 * ACCEPT_BACKLOG
        for stream in opened:
            stream.close()


async def test_only_the_server_opens(autojump_clock: MockClock) -> None:
    async with tunnels() as pair:
        core = pair.agent.session.open()
        stream = TunnelStream(pair.agent, core)
        pair.agent.session.announce(core)
        pair.agent.push()
        with pytest.raises(StreamBroken):
            await stream.receive(1)
        stream.close()


# --- one stream's trouble is its own --------------------------------------------------------------


async def test_a_hundred_busy_streams_do_not_notice_the_trouble_of_one(
    autojump_clock: MockClock,
) -> None:
    """Cancelled requests, cut streams and unanswered openings."""

    async def serve(stream: TunnelStream) -> None:
        request = OpenRequest.parse(await receive_opening(stream))
        if request.host == "silent":
            await forever()
        await stream.send(Verdict(True).encode())
        await echo(stream, request)

    async with tunnels(serve, rate=50e6, delay=0.005) as pair, trio.open_nursery() as nursery:
        finished, all_finished = 0, trio.Event()

        async def busy(number: int) -> None:
            nonlocal finished
            stream = await open_to(pair.server, seconds=60)
            for turn in range(20):
                message = hashlib.sha256(b"%d %d" % (number, turn)).digest() * 100
                await stream.send(message)
                assert await receive_exactly(stream, len(message)) == message
            stream.close()
            finished += 1
            if finished == 100:
                all_finished.set()

        for number in range(100):
            nursery.start_soon(busy, number)
        for _ in range(10):
            with trio.move_on_after(0.02):
                await open_to(pair.server, "silent")
            with pytest.raises(AgentDialTimeout):
                await open_to(pair.server, "silent", seconds=0.1)
            stream = await open_to(pair.server)
            with trio.move_on_after(0.001):
                await stream.send(bytes(1_000_000))
            stream.abort()
            stream = await open_to(pair.server)
            with trio.move_on_after(0.001):
                await stream.receive(1)
            stream.close()
        await all_finished.wait()


async def test_a_handler_that_fails_resets_its_stream_only(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: TunnelStream, request: OpenRequest) -> None:
        if request.host == "bug":
            await stream.receive(1)
            raise RuntimeError("a bug")
        await echo(stream, request)

    logger = logging.getLogger("p2pstream.agents.tunnel")
    logger.addHandler(caplog.handler)
    try:
        async with tunnels(agreeing(handler)) as pair:
            good, bad = await open_to(pair.server), await open_to(pair.server, "bug")
            await bad.send(b"x")
            with pytest.raises(StreamBroken):
                await bad.receive(1)
            await good.send(b"x")
            assert await receive_exactly(good, 1) == b"x"
            good.close()
            bad.close()
    finally:
        logger.removeHandler(caplog.handler)
    assert "a stream of the tunnel failed" in caplog.text


async def test_a_reader_that_does_not_read_stalls_nobody_and_holds_one_window(
    autojump_clock: MockClock,
) -> None:
    async def flood(stream: TunnelStream, request: OpenRequest) -> None:
        if request.host == "flood":
            while True:
                await stream.send(bytes(65_536))
        await echo(stream, request)

    async with tunnels(agreeing(flood), rate=20e6, delay=0.001) as pair:
        stuck = await open_to(pair.server, "flood")
        other = await open_to(pair.server)
        await trio.sleep(5)
        start = trio.current_time()
        for _ in range(20):
            await other.send(b"ping")
            assert await receive_exactly(other, 4) == b"ping"
        assert trio.current_time() - start < 0.5
        window = stuck.core.receive_window
        assert window.unread + window.owed == window.size == INITIAL_WINDOW
        assert sum(map(len, stuck.core.inbox)) == window.unread
        stuck.abort()
        other.close()


async def test_small_and_large_sends_of_one_stream_stay_in_order(autojump_clock: MockClock) -> None:
    """Small frames that wait for company are not overtaken by a large one behind them."""
    pieces = [bytes([turn]) * size for turn in range(20) for size in (10, 20_000, 3, 9_000, 70_000)]

    async with tunnels() as pair, trio.open_nursery() as nursery:
        stream = await open_to(pair.server)

        async def send() -> None:
            for piece in pieces:
                pair.server.sender.corked = True
                await stream.send(piece)
            await stream.send_eof()

        nursery.start_soon(send)
        assert await receive_all(stream) == b"".join(pieces)
        stream.close()


async def test_what_a_cancelled_send_had_not_sent_is_taken_back(
    autojump_clock: MockClock,
) -> None:
    async def read_later(stream: TunnelStream, request: OpenRequest) -> None:
        await trio.sleep(10)
        received.append(await receive_all(stream))

    received: list[bytes] = []
    async with tunnels(agreeing(read_later)) as pair:
        stream = await open_to(pair.server)
        with trio.move_on_after(1):
            await stream.send(b"a" * (INITIAL_WINDOW + 1_000_000))
        assert stream.core.outbox is None
        await stream.send(b"b")
        await stream.send_eof()
        assert await stream.receive(1) == b""
        assert set(received[0]) == {ord("a"), ord("b")}
        # The opening took some of the window as well.
        assert INITIAL_WINDOW - 100 < len(received[0]) <= INITIAL_WINDOW + 1
        stream.close()


# --- fairness, long lines ----------------------------------------------------------------------


async def test_a_small_answer_does_not_wait_behind_a_bulk_transfer(
    autojump_clock: MockClock,
) -> None:
    """On a line of 10 MB/s: no more than the kernel's queue and one batch stand in front."""
    rate = 10e6

    async def serve(stream: TunnelStream, request: OpenRequest) -> None:
        if request.host == "bulk":
            while True:
                await stream.send(bytes(1_000_000))
        await echo(stream, request)

    async with tunnels(agreeing(serve), rate=rate, delay=0.001) as pair:
        async with trio.open_nursery() as nursery:
            bulk = [await open_to(pair.server, "bulk") for _ in range(8)]
            moved = 0

            async def drain(stream: TunnelStream) -> None:
                nonlocal moved
                while data := await stream.receive(READ_BYTES):
                    moved += len(data)

            for stream in bulk:
                nursery.start_soon(drain, stream)
            small = await open_to(pair.server)
            await trio.sleep(2)
            moved, start, waits = 0, trio.current_time(), []
            for _ in range(50):
                asked = trio.current_time()
                await small.send(b"q" * 1000)
                await receive_exactly(small, 1000)
                waits.append(trio.current_time() - asked)
            assert max(waits) < (KERNEL + 2 * 65_536 + PIECE) / rate + 0.01
            assert moved > 0.9 * rate * (trio.current_time() - start)
            nursery.cancel_scope.cancel()
        for stream in (*bulk, small):
            stream.abort()


async def test_bulk_streams_share_the_line_alike(autojump_clock: MockClock) -> None:
    async def serve(stream: TunnelStream, request: OpenRequest) -> None:
        while True:
            await stream.send(bytes(300_000))

    async with tunnels(agreeing(serve), rate=20e6, delay=0.001) as pair:
        streams = [await open_to(pair.server) for _ in range(4)]
        moved = [0] * 4
        async with trio.open_nursery() as nursery:

            async def drain(index: int) -> None:
                while data := await streams[index].receive(READ_BYTES):
                    moved[index] += len(data)

            for index in range(4):
                nursery.start_soon(drain, index)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert min(moved) > 0.8 * max(moved)
        assert sum(moved) > 0.9 * 20e6 * 5
        for stream in streams:
            stream.abort()


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_a_long_line_is_filled(autojump_clock: MockClock, direction: str) -> None:
    """100 ms round trip, 100 MB/s: 2.5 MB/s with a fixed window; the window grows past that."""
    size = 200_000_000
    rate = 100e6
    times: list[float] = []

    async def serve(stream: TunnelStream, request: OpenRequest) -> None:
        if direction == "download":
            for _ in range(size // 1_000_000):
                await stream.send(bytes(1_000_000))
            await stream.send_eof()
        while await stream.receive(READ_BYTES):
            pass
        times.append(trio.current_time())

    async with tunnels(agreeing(serve), rate=rate, delay=0.05) as pair:
        await trio.sleep(1)
        stream = await open_to(pair.server)
        start = trio.current_time()
        if direction == "download":
            while await stream.receive(READ_BYTES):
                pass
            end = trio.current_time()
            await stream.send_eof()
        else:
            for _ in range(size // 1_000_000):
                await stream.send(bytes(1_000_000))
            await stream.send_eof()
            assert await stream.receive(1) == b""
            end = times[0]
        stream.close()
        speed = size / (end - start)
        assert speed > 20 * INITIAL_WINDOW / 0.1 or speed > 0.8 * rate


# --- liveness ---------------------------------------------------------------------------------


async def test_keepalive_measures_and_proves(autojump_clock: MockClock) -> None:
    async with tunnels(rate=1e6, delay=0.03) as pair:
        await trio.sleep(3 * PING_SECONDS + 1)
        for tunnel in (pair.server, pair.agent):
            assert tunnel.reason is None
            assert tunnel.round_trip is not None
            assert 0.06 <= tunnel.round_trip < 0.08
            assert trio.current_time() - tunnel.proven_at < PING_SECONDS + PONG_SECONDS


async def test_a_silent_peer_is_noticed_and_every_stream_told_at_once(
    autojump_clock: MockClock,
) -> None:
    async with tunnels(rate=1e6, delay=0.01) as pair:
        streams = [await open_to(pair.server) for _ in range(5)]
        await trio.sleep(1)
        pair.agent_line.dead = True
        start = trio.current_time()
        told: list[float] = []

        async def user(stream: TunnelStream) -> None:
            with pytest.raises(TunnelLost, match="no answer to a keepalive ping within 10 s"):
                await stream.receive(1)
            told.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(user, stream)
        assert max(told) - start <= PING_SECONDS + PONG_SECONDS
        assert max(told) == min(told)
        assert pair.server.leaving.is_set()
        with pytest.raises(TunnelLost):
            await streams[0].send(b"x")
        with pytest.raises(TunnelLost):
            streams[0].try_send(b"x")
        with pytest.raises(TunnelLost):
            await streams[0].send_eof()
        with pytest.raises(TunnelLost):
            await streams[0].flush()
        assert not streams[0].is_quiet()
        for stream in streams:
            stream.close()


async def test_a_ghost_is_found_by_its_first_request(autojump_clock: MockClock) -> None:
    """Not only by the ping in turn, which is 19 s away from here."""
    async with tunnels(rate=1e6, delay=0.01) as pair:
        await trio.sleep(2)
        pair.agent_line.dead = True
        await trio.sleep(DOUBT_SECONDS + 0.5)
        start = trio.current_time()
        with pytest.raises(AgentDialTimeout):
            await open_to(pair.server)
        await pair.server.leaving.wait()
        assert trio.current_time() - start <= PONG_SECONDS + 0.1
        assert "keepalive" in str(pair.server.reason)


@pytest.mark.parametrize("how", ["send", "try_send"])
async def test_a_ghost_is_found_by_a_request_on_a_stream_kept_alive(
    autojump_clock: MockClock, how: str
) -> None:
    async with tunnels(rate=1e6, delay=0.01) as pair:
        stream = await open_to(pair.server)
        await trio.sleep(2)
        pair.agent_line.dead = True
        await trio.sleep(DOUBT_SECONDS + 0.5)
        start = trio.current_time()
        if how == "send":
            await stream.send(b"a request")
        else:
            stream.try_send(b"a request")
        with pytest.raises(TunnelLost, match="keepalive"):
            await stream.receive(1)
        assert trio.current_time() - start <= PONG_SECONDS + 0.1
        stream.close()


@pytest.mark.parametrize("wrapped", [False, True], ids=["tcp", "tls"])
async def test_the_kernel_keeps_little_and_tells_of_what_nobody_takes(wrapped: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
    near.setblocking(False)
    stream: Stream = TcpStream(near)
    Tunnel(TlsStream(stream, client_context(verify=False)) if wrapped else stream, client=True)
    unsent = near.getsockopt(socket.IPPROTO_TCP, 25)  # TCP_NOTSENT_LOWAT
    untaken = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert (unsent, untaken) == (128 * 1024, 1_000 * PONG_SECONDS)
    stream.close()


async def test_a_peer_that_takes_nothing_is_noticed_although_we_cannot_even_ask(
    autojump_clock: MockClock,
) -> None:
    async with tunnels(rate=1e6, delay=0.01) as pair:
        stream = await open_to(pair.server)
        pair.server_line.dead = True  # nothing of ours goes out any more
        pair.agent_line.dead = True
        start = trio.current_time()
        with pytest.raises(TunnelLost):
            await stream.send(bytes(10_000_000))
        assert trio.current_time() - start <= PING_SECONDS + PONG_SECONDS
        stream.close()


async def test_a_busy_peer_gets_longer_to_answer_but_not_for_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flood(stream: TunnelStream, request: OpenRequest) -> None:
        while True:
            await stream.send(bytes(1_000))
            await trio.sleep(1)

    def deaf(data: bytes) -> None:
        if not data.startswith(ping):
            hear(data)

    ping = Frame(FrameType.PING, Flag.SYN, 0, 0).encode()[:8]
    async with tunnels(agreeing(flood)) as pair:
        await trio.sleep(1)
        stream = await open_to(pair.server)
        start = trio.current_time()
        hear = pair.agent_line.arrive
        monkeypatch.setattr(pair.agent_line, "arrive", deaf)
        with pytest.raises(TunnelLost, match="within 30 s"):
            await receive_all(stream)
        assert trio.current_time() - start <= PING_SECONDS + 3 * PONG_SECONDS
        stream.close()


# --- the end ----------------------------------------------------------------------------------


async def test_a_lost_connection_ends_everything_at_once(autojump_clock: MockClock) -> None:
    async with tunnels() as pair:
        stream = await open_to(pair.server)
        pair.agent_line.close()
        # Whoever notices first, the reader or a ping that cannot be sent any more.
        with pytest.raises(TunnelLost, match="closed"):
            await stream.receive(1)
        assert "closed" in str(pair.server.reason)
        stream.close()
        assert pair.server_line.closed


async def test_cancelling_run_ends_everything(autojump_clock: MockClock) -> None:
    async with tunnels() as pair:
        stream = await open_to(pair.server)
        pair.server._nursery.cancel_scope.cancel()  # type: ignore[union-attr]  # it runs
        with pytest.raises(TunnelLost, match="shut down"):
            await stream.receive(1)
        stream.close()


async def test_closing_says_go_away_and_a_closed_tunnel_stays_closed(
    autojump_clock: MockClock,
) -> None:
    async with tunnels() as pair:
        stream = await open_to(pair.server)
        pair.agent.close()
        pair.agent.close()
        await pair.server.leaving.wait()
        assert pair.server.session.peer_going_away
        with pytest.raises(TunnelLost):
            await stream.receive(1)
        stream.close()
        await pair.agent.run()  # one that ended before it ran returns at once


async def test_a_peer_that_breaks_the_protocol_is_told(autojump_clock: MockClock) -> None:
    line, other = Line(), Line()
    line.other, other.other = other, line
    tunnel = Tunnel(line, client=False)
    other.try_send(b"HTTP/1.1 400 Bad Request\r\n")
    await tunnel.run()
    assert str(tunnel.reason) == "version 72, this is version 0"
    goodbye = Frame.parse(bytes(other.arrived[-12:]))
    assert (goodbye.type, goodbye.length) == (FrameType.GO_AWAY, 1)
    other.close()


def _pings(count: int) -> bytes:
    return b"".join(Frame(FrameType.PING, Flag.SYN, 0, i).encode() for i in range(count))


def _opens(count: int) -> bytes:
    ids = range(1, 2 * count, 2)
    return b"".join(Frame(FrameType.WINDOW_UPDATE, Flag.SYN, i, 0).encode() for i in ids)


def _opens_and_resets(count: int) -> bytes:
    flags = (Flag.SYN, Flag.RST)
    ids = range(1, 2 * count, 2)
    return b"".join(Frame(FrameType.DATA, flag, i, 0).encode() for i in ids for flag in flags)


@pytest.mark.parametrize(
    ("flood", "ends"),
    [
        (_pings(100_000), None),
        (_opens(100_000), "the peer asks and does not read the answers"),
        (_opens_and_resets(20_000), None),
        (_pings(5) + Frame(FrameType.GO_AWAY, Flag(0), 0, 0).encode() * 20_000, None),
        (Frame(FrameType.DATA, Flag.SYN, 1, 0).encode() + b"\0\0\0\0\0\0\0\1" * 1_000, "stream"),
    ],
    ids=["pings", "opens", "opens and resets", "go-aways", "data on a refused stream"],
)
async def test_a_flood_from_who_does_not_read_costs_no_more_than_a_bound(
    autojump_clock: MockClock, flood: bytes, ends: str | None
) -> None:
    line, other = Line(rate=1e6), Line()  # nothing carries what is sent: it stays where it is
    line.other, other.other = other, line
    tunnel = Tunnel(line, client=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tunnel.run)
        for at in range(0, len(flood), READ_BYTES):
            line.arrive(flood[at : at + READ_BYTES])
            await trio.testing.wait_all_tasks_blocked()
            assert len(tunnel.session._turns.control) <= MAX_CONTROL
            assert len(tunnel.sender._unsent or b"") <= HEADER_BYTES * (MAX_CONTROL + 1)
            assert tunnel.streams == 0
        assert ends is None or ends in str(tunnel.reason)
        assert (tunnel.reason is None) == (ends is None)
        tunnel.close()
        nursery.cancel_scope.cancel()
    other.close()


async def test_a_flood_that_says_nothing_leaves_others_their_turns(
    autojump_clock: MockClock,
) -> None:
    line, other = Line(), Line()
    line.other, other.other = other, line
    tunnel = Tunnel(line, client=True, serve=agreeing())
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    nothing = Frame(FrameType.WINDOW_UPDATE, Flag(0), 2, 0).encode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tunnel.run)
        line.arrive(Frame(FrameType.WINDOW_UPDATE, Flag.SYN, 2, 0).encode())
        await trio.testing.wait_all_tasks_blocked()
        line.arrive(nothing * 20_000 + Frame(FrameType.PING, Flag.SYN, 0, 7).encode())
        nursery.start_soon(somebody_else)
        with trio.fail_after(5):
            while not other.arrived.endswith(Frame(FrameType.PING, Flag.ACK, 0, 7).encode()):
                await trio.lowlevel.checkpoint()
        assert turns >= 20_000 // FRAMES_A_TURN - 2  # at either end Trio may begin with either
        tunnel.close()
        nursery.cancel_scope.cancel()
    other.close()


@pytest.mark.parametrize("who", ["agent", "server"])
async def test_draining(autojump_clock: MockClock, who: str) -> None:
    async with tunnels() as pair:
        leaving, staying = (
            (pair.agent, pair.server) if who == "agent" else (pair.server, pair.agent)
        )
        streams = [await open_to(pair.server) for _ in range(2)]
        drained = trio.Event()

        async def drain() -> None:
            await leaving.drain()
            drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await staying.leaving.wait()
            with pytest.raises(AgentDisconnected):
                await open_to(pair.server)
            for stream in streams:
                assert not drained.is_set()
                await stream.send(b"go on")
                assert await receive_exactly(stream, 5) == b"go on"
                await stream.send_eof()
                assert await receive_all(stream) == b""
                await trio.testing.wait_all_tasks_blocked()
            assert drained.is_set()
        await leaving.drain()  # again: nothing is left to wait for
        for stream in streams:
            stream.close()


async def test_draining_ends_with_the_tunnel(autojump_clock: MockClock) -> None:
    async with tunnels() as pair, trio.open_nursery() as nursery:
        stream = await open_to(pair.server)
        nursery.start_soon(pair.agent.drain)
        await trio.testing.wait_all_tasks_blocked()
        pair.server.close()
        stream.close()


async def test_an_agent_leaves_when_the_server_has_all_of_it_and_not_before(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last stream's end is queued long before a slow line has carried its bytes."""

    async def serve(stream: TunnelStream, *_: object) -> None:
        await stream.send(Verdict(True).encode())
        assert await stream.receive(1) == b""
        await stream.send(bytes(200_000))

    monkeypatch.setattr("p2pstream.agents.remote.serve_request", serve)
    line, other = Line(rate=50e3, delay=0.02), Line(rate=50e3, delay=0.02)
    line.other, other.other = other, line
    server = Tunnel(line, client=False)
    agent = RemoteAgent([], allow=Allow())
    place = servers_of([Token(("http://127.0.0.1",), "agent-1", Secret("s3cret"))])[0]
    async with trio.open_nursery() as nursery:
        for task in (server.run, line.carry, other.carry):
            nursery.start_soon(task)
        nursery.start_soon(agent._serve, place, Joined(other, 64))
        stream = await open_to(server)
        await stream.send_eof()
        await trio.sleep(0.5)
        agent.drain()
        start = trio.current_time()
        assert await receive_all(stream) == bytes(200_000)
        stream.close()
        await server.leaving.wait()
        while server.reason is None:  # noqa: ASYNC110 - it has no event for this
            await trio.sleep(0.1)
        assert 2 < trio.current_time() - start < 5
        nursery.cancel_scope.cancel()


async def test_delivery_is_waited_for_no_longer_than_the_tunnel_lives(
    autojump_clock: MockClock,
) -> None:
    async with tunnels() as pair:
        await pair.agent.delivered()
        pair.server_line.dead = True
        start = trio.current_time()
        await pair.agent.delivered()  # the keepalive misses an answer too
        assert pair.agent.reason is not None
        assert trio.current_time() - start <= PING_SECONDS + PONG_SECONDS
        await pair.agent.delivered()


async def test_a_stream_we_closed_and_the_peer_did_not_is_cut_in_the_end(
    autojump_clock: MockClock,
) -> None:
    ends: list[float] = []

    async def serve(stream: TunnelStream, request: OpenRequest) -> None:
        assert await stream.receive(1) == b""
        stream.core.send_window.credit = 0
        try:
            await stream.send(b"for which there is no credit")
        except StreamBroken:
            ends.append(trio.current_time())
            raise

    async with tunnels(agreeing(serve)) as pair:
        stream = await open_to(pair.server)
        start = trio.current_time()
        stream.close()
        assert pair.server.streams == 1
        await trio.sleep(2 * PING_SECONDS + 1)
        assert (pair.server.streams, pair.agent.streams) == (0, 0)
        assert PING_SECONDS <= ends[0] - start <= 2 * PING_SECONDS + 1


async def test_a_peer_that_goes_on_after_our_close_is_cut(autojump_clock: MockClock) -> None:
    async def chatter(stream: TunnelStream, request: OpenRequest) -> None:
        while True:
            await stream.send(b"blah")
            await trio.sleep(0.1)

    async with tunnels(agreeing(chatter)) as pair:
        stream = await open_to(pair.server)
        await receive_exactly(stream, 4)
        stream.close()
        await trio.sleep(1)
        assert (pair.server.streams, pair.agent.streams) == (0, 0)


async def test_a_thousand_streams_leave_nothing_behind(autojump_clock: MockClock) -> None:
    async with tunnels() as pair:
        await trio.sleep(0.5)
        tasks = trio.lowlevel.current_statistics().tasks_living
        streams = current_reactor().streams
        for _ in range(250):
            opened = [await open_to(pair.server) for _ in range(4)]
            for stream in opened:
                await stream.send(b"hello")
                await receive_exactly(stream, 5)
            await opened[0].send_eof()
            await receive_all(opened[0])
            opened[1].abort()
            for stream in opened:
                stream.close()
        await trio.testing.wait_all_tasks_blocked()
        assert (pair.server.streams, pair.agent.streams) == (0, 0)
        writers = sum(one.sender._started for one in (pair.server, pair.agent))  # from first need
        assert trio.lowlevel.current_statistics().tasks_living == tasks + writers
        assert current_reactor().streams == streams
