"""Bytes that pass from socket to socket inside the kernel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio

from p2pstream.errors import DeadlineExpired, StreamBroken
from p2pstream.net import pipe as pipe_module
from p2pstream.net.pipe import Pipe
from p2pstream.net.stream import TcpStream

SIZE = 3_000_000


def connected() -> tuple[TcpStream, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    near.setblocking(False)
    return TcpStream(near), client


class Ends:
    def __init__(self) -> None:
        self.source, self.writer = connected()
        self.sink, self.reader = connected()

    def close(self) -> None:
        for end in (self.source, self.writer, self.sink, self.reader):
            end.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.close()


def made(source: TcpStream, sink: TcpStream) -> Pipe:
    pipe = Pipe.between(source, sink)
    assert pipe is not None
    return pipe


async def test_a_long_body_passes_intact_and_no_byte_more(ends: Ends) -> None:
    body = os.urandom(SIZE)
    received = bytearray()

    def write() -> None:
        ends.writer.sendall(body + b"next")

    def read() -> None:
        while len(received) < SIZE:
            received.extend(ends.reader.recv(65_536))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        nursery.start_soon(trio.to_thread.run_sync, read)
        with made(ends.source, ends.sink) as pipe:
            left = SIZE
            while left:
                left -= await pipe.fill(left)
                await pipe.drain()
    assert bytes(received) == body
    assert await ends.source.receive_later(100) == b"next"


async def test_the_end_of_the_source_is_nothing(ends: Ends) -> None:
    ends.writer.shutdown(socket.SHUT_WR)
    with made(ends.source, ends.sink) as pipe:
        assert await pipe.fill(10) == 0


async def test_a_reset_of_the_source_is_no_end_when_another_call_heard_of_it_first(
    ends: Ends,
) -> None:
    ends.writer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.writer.close()
    with pytest.raises(StreamBroken):
        await ends.source.send(b"more")
    with made(ends.source, ends.sink) as pipe, pytest.raises(StreamBroken):
        await pipe.fill(10)


async def test_a_reset_of_the_sink_is_told_to_who_receives_from_it(ends: Ends) -> None:
    ends.writer.sendall(b"hello")
    ends.reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.reader.close()
    with made(ends.source, ends.sink) as pipe:
        await pipe.fill(10)
        with pytest.raises(StreamBroken):
            await pipe.drain()
    with pytest.raises(StreamBroken):
        await ends.sink.receive(10)


async def test_each_side_has_its_own_failures(ends: Ends) -> None:
    with made(ends.source, ends.sink) as pipe:
        ends.source.waits.deadline = trio.current_time()
        with pytest.raises(DeadlineExpired):
            await pipe.fill(10)
        ends.source.waits.deadline = float("inf")
        ends.writer.sendall(b"hello")
        assert await pipe.fill(10) == 5
        ends.sink.close()
        with pytest.raises(StreamBroken):
            await pipe.drain()


async def test_a_sink_that_takes_nothing_is_waited_for(ends: Ends) -> None:
    """Back-pressure: what neither buffer nor pipe can hold stays with the sender."""
    with made(ends.source, ends.sink) as pipe:
        ends.writer.setblocking(False)
        stuck = False
        for _ in range(1000):
            try:
                ends.writer.send(bytes(1 << 20))
            except BlockingIOError:
                pass
            await pipe.fill(1 << 20)
            with trio.move_on_after(0.2) as scope:
                await pipe.drain()
            if scope.cancelled_caught:
                stuck = True
                break
        assert stuck


async def test_descriptors_are_given_back_and_limited(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(pipe_module, "_MOST", 2)
    with made(ends.source, ends.sink), made(ends.source, ends.sink):
        assert Pipe.between(ends.source, ends.sink) is None
    assert len(os.listdir("/proc/self/fd")) == before
    made(ends.source, ends.sink).close()


async def test_without_a_pipe_bytes_are_copied(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    assert Pipe.between(ends.source, ends.sink) is None
