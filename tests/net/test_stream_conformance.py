"""What every `Stream` promises, whatever it runs over."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from math import inf

import pytest
import trio
import trio.testing
from attrs import frozen

from p2pstream.errors import DeadlineExpired, PeerGone, StreamBroken, StreamClosed, StreamError
from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls import self_signed_context
from p2pstream.net.tls_stream import TlsStream


@frozen
class Pair:
    near: Stream
    far: Stream


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection with small kernel buffers, so that little fills them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        near = socket.create_connection(listener.getsockname())
        far = listener.accept()[0]
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return near, far


async def tcp_pair() -> Pair:
    near, far = tcp_sockets()
    return Pair(TcpStream(near), TcpStream(far))


@cache
def contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = self_signed_context("peer.test", datetime.now(UTC))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = version
    return server, client


async def over(pair: Pair, version: ssl.TLSVersion) -> Pair:
    server, client = contexts(version)
    near = TlsStream(pair.near, client, server_hostname="peer.test")
    far = TlsStream(pair.far, server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.handshake)
        nursery.start_soon(far.handshake)
    return Pair(near, far)


async def tls13_pair() -> Pair:
    return await over(await tcp_pair(), ssl.TLSVersion.TLSv1_3)


async def tls12_pair() -> Pair:
    return await over(await tcp_pair(), ssl.TLSVersion.TLSv1_2)


async def tls_in_tls_pair() -> Pair:
    return await over(await tls13_pair(), ssl.TLSVersion.TLSv1_3)


MAKERS: dict[str, Callable[[], Awaitable[Pair]]] = {
    "tcp": tcp_pair,
    "tls13": tls13_pair,
    "tls12": tls12_pair,
    "tls-in-tls": tls_in_tls_pair,
}


@pytest.fixture(params=MAKERS)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    made = await MAKERS[request.param]()
    yield made
    made.near.close()
    made.far.close()


@pytest.fixture(params=["near to far", "far to near"])
async def ends(pair: Pair, request: pytest.FixtureRequest) -> tuple[Stream, Stream]:
    return (pair.near, pair.far) if request.param == "near to far" else (pair.far, pair.near)


async def receive_exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive(count - len(data))
        assert piece, f"ended after {len(data)} of {count}"
        data += piece
    return bytes(data)


async def receive_all(stream: Stream, chunk: int = 65_536) -> bytes:
    data = bytearray()
    while piece := await stream.receive(chunk):
        assert len(piece) <= chunk
        data += piece
    return bytes(data)


async def fill(stream: Stream) -> int:
    """Send until nothing more is taken, also once everybody and the kernel have had their turn."""
    total = before = 0
    for _ in range(100):
        while taken := stream.try_send(bytes(50_000)):
            total += taken
            assert total < 64 << 20, "no back-pressure"
        if total == before:
            return total
        before = total
        await trio.testing.wait_all_tasks_blocked(0.02)
    raise AssertionError("it never fills")


@asynccontextmanager
async def expecting(
    error: type[Exception], job: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """While `job` waits, the block runs; then it must fail with `error`."""

    async def run() -> None:
        with pytest.raises(error):
            await job()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield


async def test_bytes_arrive_in_order_both_ways(pair: Pair) -> None:
    await pair.near.send(b"one ")
    await pair.near.send(bytearray(b"two"))
    await pair.far.send(memoryview(b"three"))
    assert await receive_exactly(pair.far, 7) == b"one two"
    assert await receive_exactly(pair.near, 5) == b"three"


async def test_receive_gives_no_more_than_asked(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"abcdef")
    assert await receiver.receive(2) == b"ab"
    assert await receiver.receive_later(3) == b"cde"
    assert await receiver.receive_later(3) == b"f"


async def test_receive_later_waits_and_sees_what_is_there_already(
    ends: tuple[Stream, Stream],
) -> None:
    sender, receiver = ends
    got: list[bytes] = []

    async def later() -> None:
        got.append(await receiver.receive_later(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await sender.send(b"late")
    await sender.send(b"more")
    await trio.testing.wait_all_tasks_blocked(0.01)
    await later()
    assert got == [b"late", b"more"]


async def test_empty_send_is_nothing(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"")
    await sender.send(b"x")
    assert await receiver.receive(10) == b"x"


@pytest.mark.parametrize("chunk", [1_000, 65_536, 300_000])
async def test_big_transfers_both_ways_at_once_arrive_intact(pair: Pair, chunk: int) -> None:
    data = hashlib.shake_128(b"seed").digest(3_000_000)
    received: dict[str, bytes] = {}

    async def send(stream: Stream) -> None:
        for at in range(0, len(data), chunk):
            await stream.send(data[at : at + chunk])
        await stream.send_eof()

    async def receive(name: str, stream: Stream) -> None:
        received[name] = await receive_all(stream, chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, pair.near)
        nursery.start_soon(send, pair.far)
        nursery.start_soon(receive, "near", pair.near)
        nursery.start_soon(receive, "far", pair.far)
    assert received["near"] == data
    assert received["far"] == data


async def test_a_full_stream_takes_nothing_until_the_peer_reads(
    ends: tuple[Stream, Stream],
) -> None:
    sender, receiver = ends
    total = await fill(sender)
    assert total > 0
    with trio.move_on_after(0.02) as scope:
        await sender.flush()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_exactly, receiver, total)
        await sender.flush()
    assert sender.try_send(b"room again") == 10
    assert await receive_exactly(receiver, 10) == b"room again"


async def test_flush_without_a_backlog_returns_after_a_partial_try_send(
    ends: tuple[Stream, Stream],
) -> None:
    """The caller's loop: try_send, and flush for the rest, whatever the first call took."""
    sender, receiver = ends
    data = hashlib.shake_128(b"x").digest(1_000_000)

    async def send() -> None:
        view = memoryview(data)
        while view:
            taken = sender.try_send(view)
            view = view[taken:]
            if not taken:
                await sender.flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await receive_exactly(receiver, len(data)) == data


async def test_an_end_is_an_empty_receive_and_stays_one(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"last words")
    await sender.send_eof()
    assert await receive_all(receiver) == b"last words"
    assert await receiver.receive(10) == b""
    assert await receiver.receive_later(10) == b""


async def test_half_close_leaves_the_other_direction_open(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"question")
    await sender.send_eof()
    assert await receive_all(receiver) == b"question"
    for piece in (b"long ", b"answer"):
        await receiver.send(piece)
    await receiver.send_eof()
    assert await receive_all(sender) == b"long answer"


async def test_send_eof_loses_nothing_that_arrived_before(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"x" * 40_000)
    await sender.send_eof()
    assert await receiver.receive(1) == b"x"
    await receiver.send_eof()
    assert len(await receive_all(receiver)) == 39_999
    assert await receive_all(sender) == b""


async def test_send_after_send_eof_fails(pair: Pair) -> None:
    await pair.near.send_eof()
    with pytest.raises(StreamError):
        await pair.near.send(b"x")
    with pytest.raises(StreamError):
        pair.near.try_send(b"x")


async def test_closing_ends_the_peers_receiving(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"bye")
    sender.close()
    assert await receive_all(receiver) == b"bye"


async def test_close_wakes_a_reader(pair: Pair) -> None:
    async with expecting(StreamClosed, lambda: pair.near.receive(10)):
        pair.near.close()


async def test_close_wakes_a_writer(pair: Pair) -> None:
    await fill(pair.near)
    # More than the kernel may find room for after all, on a busy machine.
    async with expecting(StreamClosed, lambda: pair.near.send(bytes(16 << 20))):
        pair.near.close()


async def test_a_closed_stream_refuses_everything_but_close(pair: Pair) -> None:
    stream = pair.near
    stream.close()
    stream.close()
    stream.abort()
    assert not stream.is_quiet()
    for job in (
        lambda: stream.receive(1),
        lambda: stream.receive_later(1),
        lambda: stream.send(b"x"),
        stream.send_eof,
    ):
        with pytest.raises(StreamClosed):
            await job()
    with pytest.raises(StreamClosed):
        stream.try_send(b"x")


async def test_a_deadline_ends_a_wait_and_the_stream_goes_on(
    ends: tuple[Stream, Stream], autojump_clock: trio.testing.MockClock
) -> None:
    sender, receiver = ends
    start = trio.current_time()
    receiver.waits.deadline = start + 5
    with pytest.raises(DeadlineExpired):
        await receiver.receive(10)
    assert 5 <= trio.current_time() - start <= 5.3
    receiver.waits.deadline = inf
    total = await fill(sender)
    sender.waits.deadline = trio.current_time() + 5
    with pytest.raises(DeadlineExpired):
        await sender.send(b"tail")
    sender.waits.deadline = inf
    await receive_exactly(receiver, total)
    await sender.send(b"")
    await receiver.send(b"still here")
    assert await receive_exactly(sender, 10) == b"still here"


async def test_a_cancelled_receive_loses_nothing(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    for number in range(20):
        with trio.move_on_after(0.001):
            await receiver.receive(10)
            pytest.fail("there was nothing to receive")
        await sender.send(b"%02d" % number)
        assert await receive_exactly(receiver, 2) == b"%02d" % number


async def test_a_receive_that_was_cancelled_before_it_began_loses_nothing(
    ends: tuple[Stream, Stream],
) -> None:
    """However many receives went before it: every so often one gives others their turn."""
    sender, receiver = ends
    await sender.send(bytes(range(200)))
    received = b""
    while len(received) < 200:
        with trio.CancelScope() as scope:
            if len(received) % 2:
                scope.cancel()
            received += await receiver.receive(1)
        if scope.cancelled_caught:
            received += await receiver.receive(1)
    assert received == bytes(range(200))


async def test_a_cancelled_send_leaves_whole_bytes_and_a_usable_stream(
    ends: tuple[Stream, Stream],
) -> None:
    """What arrives is a prefix of what was to be sent, and what is sent later follows it."""
    sender, receiver = ends
    data = hashlib.shake_128(b"prefix").digest(8_000_000)
    with trio.move_on_after(0.02) as scope:
        await sender.send(data)
    assert scope.cancelled_caught
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_all(receiver)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await sender.send(b"afterwards")
        await sender.send_eof()
    assert received.endswith(b"afterwards")
    assert data.startswith(received[:-10])


async def test_two_readers_are_a_bug_and_refused(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.near.receive, 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BusyResourceError):
            await pair.near.receive(1)
        nursery.cancel_scope.cancel()


async def test_an_abort_breaks_the_peer(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    await sender.send(b"half a sen")
    async with expecting(StreamBroken, lambda: receive_all(receiver)):
        sender.abort()
    with pytest.raises(StreamBroken):
        for _ in range(3):  # the first may still be taken by the kernel
            await receiver.send(b"anyone?")


async def test_a_hang_up_is_noticed_without_reading(ends: tuple[Stream, Stream]) -> None:
    leaver, other = ends
    upstream = Waits()
    other.waits.watcher = upstream.fail_read
    async with expecting(PeerGone, upstream.wait_read):
        leaver.close()
    assert other.waits.hung_up


async def test_receive_nowait_never_waits(ends: tuple[Stream, Stream]) -> None:
    sender, receiver = ends
    assert receiver.receive_nowait(10) is None
    await sender.send(b"abc")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert receiver.receive_nowait(2) == b"ab"
    assert receiver.receive_nowait(2) == b"c"
    assert receiver.receive_nowait(2) is None
    await sender.send_eof()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert receiver.receive_nowait(2) == b""
    assert await receiver.receive(2) == b""


async def test_quiet_means_open_and_silent(pair: Pair) -> None:
    near, far = pair.near, pair.far
    await far.send(b"x")  # takes what a TLS server says after its handshake along
    assert await near.receive(10) == b"x"
    assert near.is_quiet()
    await far.send(b"out of turn")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not near.is_quiet()
    await receive_exactly(near, 11)
    assert near.is_quiet()
    far.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not near.is_quiet()


async def test_quick_loops_let_other_tasks_run(ends: tuple[Stream, Stream]) -> None:
    """Sixteen calls that need not wait, and another task has had its turn."""
    sender, receiver = ends
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(100):
            await sender.send(b"tick")
        assert turns - before >= 5
        await receive_exactly(receiver, 400)
        nursery.cancel_scope.cancel()
