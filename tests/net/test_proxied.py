"""Taking a PROXY header off a real socket, however it arrives, and nothing beyond it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from p2pstream.errors import DeadlineExpired, StreamBroken
from p2pstream.net.proxied import receive_source
from p2pstream.net.stream import TcpStream
from p2pstream.wire.proxy_protocol import BadProxyHeader

V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n"
ADDRESSES = socket.inet_aton("203.0.113.9") + socket.inet_aton("10.0.0.1") + b"\xdc\x04\x01\xbb"
# 60,000 bytes of fields that nobody reads follow the addresses.
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + (60_012).to_bytes(2, "big") + ADDRESSES + bytes(60_000)
AFTER = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
async def pair() -> AsyncIterator[tuple[TcpStream, trio.SocketStream]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = await trio.open_tcp_stream(*listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    stream = TcpStream(near)
    yield stream, far
    stream.close()
    await far.aclose()


Pair = tuple[TcpStream, trio.SocketStream]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_exactly_the_header_is_taken(pair: Pair, header: bytes) -> None:
    stream, far = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, header + AFTER)
        with trio.fail_after(5):
            assert await receive_source(stream, "10.0.0.7") == "203.0.113.9"
            received = b""
            while len(received) < len(AFTER):
                received += await stream.receive_later(100)
    assert received == AFTER


async def test_a_header_may_come_byte_by_byte(pair: Pair) -> None:
    stream, far = pair

    async def trickle() -> None:
        for number in range(len(V1)):
            await far.send_all(V1[number : number + 1])
            await trio.testing.wait_all_tasks_blocked(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with trio.fail_after(5):
            assert await receive_source(stream, "10.0.0.7") == "203.0.113.9"


async def test_without_an_address_it_is_the_peers_own(pair: Pair) -> None:
    stream, far = pair
    await far.send_all(b"PROXY UNKNOWN\r\n")
    with trio.fail_after(5):
        assert await receive_source(stream, "10.0.0.7") == "10.0.0.7"


@pytest.mark.parametrize("sent", [b"", V1[:20], V2[:14], V2[:5_000]])
async def test_an_end_within_the_header_is_an_end(pair: Pair, sent: bytes) -> None:
    stream, far = pair
    await far.send_all(sent)
    await far.send_eof()
    with trio.fail_after(5), pytest.raises(StreamBroken, match="within a PROXY header"):
        await receive_source(stream, "10.0.0.7")


async def test_something_else_is_refused_as_soon_as_it_shows(pair: Pair) -> None:
    stream, far = pair
    await far.send_all(b"PRI ")
    with trio.fail_after(5), pytest.raises(BadProxyHeader):
        await receive_source(stream, "10.0.0.7")


async def test_silence_ends_at_the_deadline(pair: Pair) -> None:
    stream, far = pair
    await far.send_all(V1[:10])
    stream.waits.deadline = trio.current_time() + 0.2
    with trio.fail_after(5), pytest.raises(DeadlineExpired):
        await receive_source(stream, "10.0.0.7")
