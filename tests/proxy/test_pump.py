"""Bodies stream: nothing is held whole, a slow side slows the other down, both ways."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import trio

from p2pstream.wire.http1.body import ChunkedDecoder

if TYPE_CHECKING:
    from tests.proxy.conftest import InARow, Lab, Wire

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
# What may be between two ends whose reader takes nothing: the kernel's buffers of two connections
# (4 MiB of sending and 6 MiB of receiving each, tcp(7)) and one read of ours.
BETWEEN = 25_000_000


async def fill(wire: Wire, piece: bytes) -> int:
    """Send until the peer has taken nothing for a while; returns how many bytes it took."""
    sent = 0
    while True:
        with trio.move_on_after(0.1) as scope:
            await wire.stream.send_all(piece)
        if scope.cancelled_caught:
            return sent
        sent += len(piece)
        assert sent < 4 * BETWEEN, "it takes everything"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", bytes(100_000)),
        ("HTTP/1.1 200 OK\r\n\r\n", bytes(100_000)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"186a0\r\n" + bytes(100_000) + b"\r\n",
        ),
    ],
    ids=["length", "until close", "chunked"],
)
async def test_a_slow_reader_stops_the_origin(lab: Lab, head: str, piece: bytes) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial(receive_buffer=4096)
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(head)
    assert await fill(upstream, piece) < BETWEEN
    client.reset()
    await upstream.broken()


async def test_a_slow_origin_stops_the_upload(lab: Lab) -> None:
    origin = await lab.origin(receive_buffer=4096)
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
    upstream = await origin.accept()
    await upstream.head()
    assert await fill(client, bytes(100_000)) < BETWEEN
    upstream.reset()
    assert (await client.response()).status == 502


@pytest.mark.parametrize("slow", ["client", "origin"])
async def test_after_an_upgrade_too(lab: Lab, slow: str) -> None:
    origin = await lab.origin(receive_buffer=4096)
    proxy = lab.forward(origin)
    client = await proxy.dial(receive_buffer=4096)
    await client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    await client.head()
    reader, writer = (client, upstream) if slow == "client" else (upstream, client)
    assert await fill(writer, bytes(100_000)) < BETWEEN
    await reader.send("the other way is free")
    await writer.expect("the other way is free")
    client.reset()


@pytest.mark.parametrize("framing", ["Content-Length: 8000000", "Transfer-Encoding: chunked"])
async def test_large_bodies_arrive_as_they_were_both_ways_at_once(lab: Lab, framing: str) -> None:
    """An echo: the answer comes while the request is still being sent."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    pieces = [hashlib.sha256(b"%d" % n).digest() * 3125 for n in range(80)]  # 100,000 bytes each
    chunked = "chunked" in framing
    await client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")

    def framed(piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece

    async def send() -> None:
        for piece in pieces:
            await client.send(framed(piece))
        if chunked:
            await client.send(b"0\r\n\r\n")

    async def echo() -> None:
        upstream = await origin.accept()
        await upstream.head()
        await upstream.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")
        left = 8_000_000
        while left and not chunked:
            await upstream.more()
            left -= len(upstream.buffer)
            await upstream.send(await upstream.exactly(len(upstream.buffer)))
        while chunked and (size := int(await upstream.until(b"\r\n"), 16)):
            data = await upstream.exactly(size + 2)
            await upstream.send(framed(data[:-2]))
        if chunked:
            await upstream.send(b"0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        nursery.start_soon(send)
        answer = await client.response()
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(b"".join(pieces)).digest()
    record = await proxy.record()
    assert record.bytes_in == 8_000_000
    assert record.error_kind is None


async def test_a_client_that_takes_nothing_is_cut(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_listener(idle_timeout=0.1)
    client = await proxy.dial(receive_buffer=4096)
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await fill_forever(upstream)
    record = await proxy.record()
    assert (record.status, record.error_kind) == (200, "client_cancelled")


async def fill_forever(wire: Wire) -> None:
    with trio.fail_after(5):
        while True:
            await wire.stream.send_all(bytes(100_000))


@pytest.mark.parametrize("way", ["up", "down"])
async def test_the_smallest_chunks_let_others_have_their_turn(
    lab: Lab, in_a_row: InARow, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read holds forty thousand of them: a tenth of a second, and sixteen such reads may be
    there at once.
    """
    chunks = b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    decode = ChunkedDecoder.decode

    def counted(self: ChunkedDecoder, data: bytes) -> list[bytes]:
        pieces = decode(self, data)
        in_a_row.add(len(pieces))
        return pieces

    monkeypatch.setattr(ChunkedDecoder, "decode", counted)
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    chunked = "Transfer-Encoding: chunked\r\n\r\n"
    async with trio.open_nursery() as nursery:
        await client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{chunked}" if way == "up" else GET)
        upstream = await origin.accept()
        await upstream.head()
        if way == "up":
            nursery.start_soon(client.send, chunks)
            assert await upstream.chunked() == b"x" * 100_000
            await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await client.response()
        else:
            nursery.start_soon(upstream.send, f"HTTP/1.1 200 OK\r\n{chunked}".encode() + chunks)
            assert (await client.response()).body == b"x" * 100_000
    assert 0 < in_a_row.most <= 2048
