"""A request's body: framing, limits and what is left over, however the bytes come."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.errors import (
    BodyTooLarge,
    ClientCancelled,
    Fault,
    InvalidRequest,
    RequestTimeout,
)
from p2pstream.net.stream import TcpStream
from p2pstream.proxy.body import RequestBody
from p2pstream.wire.http1.head import RequestHead, parse_fields, parse_request

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def head(field: bytes) -> RequestHead:
    return parse_request(b"POST / HTTP/1.1", parse_fields(b"Host: a\r\n" + field))


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


class Ends:
    """A body's connection, and the client at the other end of it."""

    def __init__(self) -> None:
        near, self.client = socket.socketpair()
        near.setblocking(False)
        self.connection: Any = SimpleNamespace(stream=TcpStream(near), buffer=b"")

    def body(self, field: bytes, *, limit: int = 0, stall: float = 5) -> RequestBody:
        plan: Any = SimpleNamespace(idle_timeout=stall, max_body_bytes=limit)
        return RequestBody(self.connection, head(field), plan)

    def close(self) -> None:
        self.connection.stream.close()
        self.client.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.close()


async def read_all(body: RequestBody) -> bytes:
    data = b""
    while pieces := await body.read():
        data += b"".join(pieces)
    assert body.complete
    assert body.received == len(data)
    return data


@pytest.mark.parametrize(
    ("field", "sent", "payload"),
    [
        (length(5), b"hello", b"hello"),
        (length(1), b"h", b"h"),
        (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (CHUNKED, b"1;a=b\r\nh\r\n4\r\nello\r\n0\r\nX-T: 1\r\n\r\n", b"hello"),
        (CHUNKED, b"0\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 3, 100])
@pytest.mark.parametrize("tail", [b"", b"GET / HTTP/1.1\r\n"])
async def test_a_body_ends_where_it_ends(
    ends: Ends, field: bytes, sent: bytes, payload: bytes, at: int, tail: bytes
) -> None:
    """Part of it came with the head; the next request may stand behind it."""
    whole = sent + tail
    ends.connection.buffer, rest = whole[:at], whole[at:]
    ends.client.sendall(rest)
    body = ends.body(field)
    assert await read_all(body) == payload
    left: bytes = ends.connection.buffer
    left += ends.connection.stream.receive_nowait(1000) or b""
    assert left == tail


async def test_byte_by_byte(ends: Ends) -> None:
    sent = b"2\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n"
    body = ends.body(CHUNKED)

    async def send() -> None:
        for at in range(len(sent)):
            ends.client.send(sent[at : at + 1])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await read_all(body) == b"abc"
    assert [(name, value) for name, _, value in body.trailers] == [(b"x-t", b"1")]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=5),
    st.integers(0, 60),
    st.binary(max_size=10),
)
def test_any_split(pieces: list[bytes], at: int, tail: bytes) -> None:
    async def check() -> None:
        ends = Ends()
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        whole = sent + b"0\r\n\r\n" + tail
        ends.connection.buffer = whole[:at]
        ends.client.sendall(whole[at:])
        try:
            assert await read_all(ends.body(CHUNKED)) == b"".join(pieces)
            left: bytes = ends.connection.buffer
            assert left + (ends.connection.stream.receive_nowait(100) or b"") == tail
        finally:
            ends.close()

    trio.run(check)


@pytest.mark.parametrize(
    ("field", "sent", "fault"),
    [
        (length(5), b"hel", ClientCancelled),
        (CHUNKED, b"5\r\nhel", ClientCancelled),
        (CHUNKED, b"5\r\nhello", ClientCancelled),
        (CHUNKED, b"5\r\nhello\r\n0\r\n", ClientCancelled),
        (CHUNKED, b"x\r\n", InvalidRequest),
        (CHUNKED, b"5\r\nhelloX\r\n", InvalidRequest),
        (CHUNKED, b"5\nhello\n", InvalidRequest),
        (CHUNKED, b"0\r\nbad trailer\r\n\r\n", InvalidRequest),
        (CHUNKED, b"b\r\nhello world\r\n", BodyTooLarge),
    ],
)
async def test_a_body_that_is_not_whole(
    ends: Ends, field: bytes, sent: bytes, fault: type[Fault]
) -> None:
    ends.client.sendall(sent)
    ends.client.shutdown(socket.SHUT_WR)
    body = ends.body(field, limit=10)
    with pytest.raises(fault):
        await read_all(body)
    assert ends.connection.stream.waits.deadline == float("inf")


async def test_a_body_that_stops_coming(ends: Ends) -> None:
    ends.client.sendall(b"hel")
    body = ends.body(length(5), stall=0.01)
    with pytest.raises(RequestTimeout):
        await read_all(body)
    assert ends.connection.stream.waits.deadline == float("inf")


@pytest.mark.parametrize(("limit", "fits"), [(0, True), (5, True), (4, False)])
async def test_the_length_is_checked_before_anything_is_read(
    ends: Ends, limit: int, fits: bool
) -> None:
    body = ends.body(length(5), limit=limit)
    check: Callable[[], None] = body.check_length
    if fits:
        check()
    else:
        with pytest.raises(BodyTooLarge):
            check()
    ends.body(CHUNKED, limit=limit).check_length()  # counted instead


@pytest.mark.parametrize(
    ("field", "sent", "whole"),
    [
        (length(5), b"hello", True),
        (length(300_000), b"x", False),
        (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", True),
        (CHUNKED, b"5\r\nhello\r\n", False),
        (CHUNKED, b"nonsense\r\n", False),
        (CHUNKED, b"493e0\r\n" + bytes(300_000), False),
    ],
)
async def test_drain(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, field: bytes, sent: bytes, whole: bool
) -> None:
    monkeypatch.setattr("p2pstream.proxy.body._DRAIN_SECONDS", 0.05)
    body = ends.body(field)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(ends.client))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, sent)
        assert await body.drain() == whole
        nursery.cancel_scope.cancel()
