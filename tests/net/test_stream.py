"""What only `TcpStream` promises: how often it asks the kernel, and when it waits.

What every stream promises is in `test_stream_conformance`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.errors import DeadlineExpired, StreamBroken, StreamClosed
from p2pstream.net.stream import TcpStream


class Counting:
    """A socket's methods, counted; the last one's failure is kept."""

    def __init__(self, stream: TcpStream) -> None:
        self.calls: list[str] = []
        sock = stream.sock
        self._wrap(stream, "_recv", sock.recv)
        self._wrap(stream, "_send", sock.send)

    def _wrap(self, stream: TcpStream, name: str, method: Any) -> None:
        def call(*args: Any) -> Any:
            self.calls.append(name[1:])
            try:
                return method(*args)
            except BlockingIOError:
                self.calls[-1] += " in vain"
                raise

        setattr(stream, name, call)

    def take(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
async def pair() -> AsyncIterator[tuple[TcpStream, socket.socket, Counting]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.setblocking(False)
    far.setblocking(False)
    stream = TcpStream(near)
    yield stream, far, Counting(stream)
    stream.close()
    far.close()


Pair = tuple[TcpStream, socket.socket, Counting]


async def test_waiting_first_saves_the_call_that_would_find_nothing(pair: Pair) -> None:
    stream, far, counting = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_later, 10)
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"x")
    assert counting.take() == ["recv"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive, 10)
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"x")
    assert counting.take() == ["recv"]  # a peer that trickles


async def test_a_large_piece_is_often_followed_by_another_at_once(pair: Pair) -> None:
    stream, far, counting = pair
    far.send(bytes(5000))
    assert len(await stream.receive(65_536)) == 5000
    counting.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive, 65_536)
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"x")
    assert counting.take() == ["recv in vain", "recv"]


async def test_the_end_that_came_with_the_last_bytes_is_not_waited_for(pair: Pair) -> None:
    """Both made one event, and none follows."""
    stream, far, _ = pair

    async def read() -> None:
        while data := await stream.receive(100):
            received.append(data)

    received: list[bytes] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            far.send(b"x")
            far.close()
    assert received == [b"x"]


@pytest.mark.parametrize("receive", ["receive", "receive_later"])
async def test_urgent_data_breaks_a_stream_rather_than_stall_it(pair: Pair, receive: str) -> None:
    """A read stops at its mark and looks as if it had taken all."""
    stream, far, _ = pair
    far.send(b"before")
    far.send(b"!", socket.MSG_OOB)
    far.send(b"behind")
    await trio.testing.wait_all_tasks_blocked()
    assert await stream.receive(1000) == b"before"
    with trio.fail_after(5), pytest.raises(StreamBroken, match="urgent"):
        await getattr(stream, receive)(1000)
    await stream.send(b"what needs no wait")
    assert far.recv(100) == b"what needs no wait"


async def test_what_fits_leaves_in_one_call(pair: Pair) -> None:
    stream, _, counting = pair
    await stream.send(b"x" * 1000)
    assert counting.take() == ["send"]


async def test_a_send_that_blocks_goes_on_when_there_is_room(pair: Pair) -> None:
    stream, far, counting = pair
    data = bytes(range(256)) * 4000
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, data)
        await trio.testing.wait_all_tasks_blocked()
        while len(received) < len(data):
            try:
                received += far.recv(100_000)
            except BlockingIOError:
                await trio.sleep(0.001)
    assert received == data
    assert "send in vain" not in counting.take()[1:]  # each was told that there is room


async def test_stalling_is_about_progress(pair: Pair) -> None:
    """A send may take many times as long as one may take nothing of it."""
    stream, far, _ = pair
    stream.waits.stall_seconds = 0.2
    data = bytes(300_000)
    left = len(data)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, data)
        while left:
            await trio.sleep(0.01)
            try:
                left -= len(far.recv(4_000))
            except BlockingIOError:
                continue
    assert trio.current_time() - begun > 0.5
    with pytest.raises(DeadlineExpired):
        await stream.send(bytes(10_000_000))


async def test_a_stalled_send_and_a_late_read_have_limits_of_their_own(
    pair: Pair,
) -> None:
    stream, _, _ = pair
    stream.waits.stall_seconds = 0.05
    with pytest.raises(DeadlineExpired):
        await stream.send(bytes(10_000_000))
    stream.waits.deadline = trio.current_time() + 0.05
    with pytest.raises(DeadlineExpired):
        await stream.receive(10)


async def test_an_exact_read_without_waiting_remembers_that_there_may_be_more(pair: Pair) -> None:
    stream, far, counting = pair
    far.send(b"bodypoison")
    await trio.sleep(0.01)
    stream.waits.ready = False  # as if its edge had been consumed with the head
    assert stream.receive_nowait(4) == b"body"
    assert not stream.is_quiet()
    assert stream.receive_nowait(10) == b"poison"
    counting.take()


async def test_quiet_costs_no_call_when_nothing_came(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, far, counting = pair
    far.send(b"x")
    assert await stream.receive_later(10) == b"x"
    counting.take()
    stream.sock.detach()  # any call would fail from here on
    assert stream.is_quiet()
    assert counting.take() == []
    stream.close()


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_a_closed_stream_is_closed(pair: Pair, method: str) -> None:
    stream, far, _ = pair
    far.send(b"x")
    getattr(stream, method)()
    getattr(stream, method)()
    for use in (stream.receive, stream.receive_later):
        with pytest.raises(StreamClosed):
            await use(1)
    for call in (stream.receive_nowait, lambda _: stream.try_send(b"x")):
        with pytest.raises(StreamClosed):
            call(1)
    with pytest.raises(StreamClosed):
        await stream.send(b"x")
    with pytest.raises(StreamClosed):
        await stream.send_eof()
    assert not stream.is_quiet()
    assert "closed" in repr(stream)


async def test_abort_resets(pair: Pair) -> None:
    stream, far, _ = pair
    stream.abort()
    with pytest.raises(ConnectionResetError):
        far.recv(1)


async def test_close_while_sending(pair: Pair) -> None:
    stream, _, _ = pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(StreamClosed):
                await stream.send(bytes(10_000_000))

        await trio.testing.wait_all_tasks_blocked()
        stream.close()


async def test_the_peer_leaves_while_we_send(pair: Pair) -> None:
    stream, far, _ = pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(StreamBroken):
                await stream.send(bytes(10_000_000))

        await trio.testing.wait_all_tasks_blocked()
        far.close()


def reset(far: socket.socket) -> None:
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()


@pytest.mark.parametrize("receive", ["receive", "receive_later", "receive_nowait"])
async def test_a_reset_is_no_end_even_when_the_sender_heard_of_it_first(
    pair: Pair, receive: str
) -> None:
    """The kernel tells it once; what lasts until the end would pass for whole."""
    stream, far, _ = pair

    async def received() -> bytes | None:
        taken: bytes | None
        if receive == "receive_nowait":
            taken = stream.receive_nowait(100)
        else:
            taken = await getattr(stream, receive)(100)
        return taken

    far.send(b"a part")
    reset(far)
    with pytest.raises(StreamBroken):
        await stream.send(b"more")
    assert await received() == b"a part"
    for _ in range(2):
        with pytest.raises(StreamBroken):
            await received()


async def test_a_reset_stays_one_for_who_receives_again(pair: Pair) -> None:
    stream, far, _ = pair
    reset(far)
    for _ in range(2):
        with pytest.raises(StreamBroken):
            await stream.receive(100)


async def test_an_end_stays_one_when_what_we_send_behind_it_is_refused(pair: Pair) -> None:
    stream, far, _ = pair
    far.send(b"all of it")
    far.close()
    with pytest.raises(StreamBroken):
        for _ in range(3):  # the first is still taken by the kernel
            await stream.send(b"more")
    assert await stream.receive(100) == b"all of it"
    assert await stream.receive(100) == b""
