"""Our tunnel against the real hashicorp/yamux, both ways: TCP and TLS, two releases of it.

The bootstrap is written out here as the specification has it; `test_go_programs` uses ours.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.agents.tunnel import Tunnel, receive_opening
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.errors import AgentDialFailed, StreamBroken, TunnelLost
from p2pstream.net.ca import self_signed
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls import client_context, server_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.wire.opening import ErrorKind, OpenRequest, Verdict
from p2pstream.wire.yamux.window import INITIAL_WINDOW

Start = Callable[..., Awaitable[trio.Process]]
READ = 256 * 1024
SECRET = "s3cret"


@pytest.fixture(params=["tcp", "tls"])
def certificate(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A PEM file with key and certificate; None: no TLS."""
    if request.param == "tcp":
        return None
    path = tmp_path / "pair.pem"
    path.write_bytes(self_signed("localhost", datetime.now(UTC)).pem)
    return path


def pin_of(certificate: Path) -> str:
    """SHA-256 of the public key, as an independent tool computes it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


async def read_head(stream: Stream) -> str:
    """An HTTP head, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = await stream.receive(1)
        assert byte, head
        head += byte
    return head.decode()


def over_tcp(sock: socket.socket) -> TcpStream:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TcpStream(sock)


@asynccontextmanager
async def go_agent(
    gopeer: Path, certificate: Path | None, start: Start, *words: str
) -> AsyncIterator[Tunnel]:
    """A tunnel to an agent in Go, after the bootstrap of spec §8."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme, trust = ("https", ["-pin", pin_of(certificate)]) if certificate else ("http", [])
        url = f"{scheme}://localhost:{listener.getsockname()[1]}/base/"
        words = (*words, "-server", url, "-id", "go-1", "-secret", SECRET, *trust)
        await start(gopeer, "agent", *words)
        listener.setblocking(False)
        await trio.lowlevel.wait_readable(listener)
        stream: Stream = over_tcp(listener.accept()[0])
    if certificate:
        stream = secured = TlsStream(stream, server_context(certificate), server_side=True)
        await secured.handshake()
    head = (await read_head(stream)).lower().split("\r\n")
    assert head[0] == "get /base/agent/tunnel http/1.1"
    assert {f"authorization: bearer {SECRET}", "x-p2pstream-agent-id: go-1"} <= set(head)
    assert {"upgrade: p2pstream-yamux", "x-p2pstream-tunnel-version: 1"} <= set(head)
    await stream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: p2pstream-yamux\r\n"
        b"X-P2PStream-Tunnel-Version: 1\r\nX-P2PStream-Tunnel-Max-Concurrent-Streams: 128\r\n"
        b"X-P2PStream-Tunnel-Capacity-Mode: fixed\r\n\r\n"
    )
    tunnel = Tunnel(stream, client=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tunnel.run)
        yield tunnel
        tunnel.close()


async def open_to(tunnel: Tunnel, port: int) -> TunnelStream:
    return await tunnel.open("127.0.0.1", port, request_id="r", timeout_seconds=10)


async def receive_all(stream: Stream) -> bytes:
    data = bytearray()
    while piece := await stream.receive(READ):
        data += piece
    return bytes(data)


async def test_a_go_agent_serves_our_tunnel(
    gopeer: Path,
    certificate: Path | None,
    start: Start,
    origin: int,
    size: int,
    noise: Callable[[int], Any],
) -> None:
    async def upload() -> None:
        stream = await open_to(tunnel, origin)
        await stream.send(b"HASH\n")
        bytes_up = noise(size)
        while piece := bytes_up.next():
            await stream.send(piece)
        await stream.send_eof()
        assert (await receive_all(stream)).decode() == bytes_up.sum.hexdigest()
        stream.close()

    async def download() -> None:
        stream = await open_to(tunnel, origin)
        await stream.send(b"DOWN %d\n" % size)
        total, tail, seen = hashlib.sha256(), b"", 0
        while piece := await stream.receive(READ):
            seen += len(piece)
            data = tail + piece
            total.update(data[:-64])
            tail = data[-64:]
        assert seen == size + 64
        assert total.hexdigest() == tail.decode()
        stream.close()

    async def echo() -> None:
        stream = await open_to(tunnel, origin)
        await stream.send(b"ECHO\n")
        for number in range(100):
            message = hashlib.sha256(b"%d" % number).digest() * 30
            await stream.send(message)
            answer = b""
            while len(answer) < len(message):
                answer += await stream.receive(READ)
            assert answer == message
        await stream.send_eof()
        assert await receive_all(stream) == b""
        stream.close()

    async with go_agent(gopeer, certificate, start) as tunnel:
        async with trio.open_nursery() as nursery:
            for job in (upload, download, echo):
                nursery.start_soon(job)
        assert tunnel.round_trip is not None
        with pytest.raises(AgentDialFailed, match="dial_failed"):
            await open_to(tunnel, 1)
        await trio.sleep(0.05)
        assert (tunnel.reason, tunnel.streams) == (None, 0)


async def test_a_go_agent_beside_resets_and_a_reader_that_does_not_read(
    gopeer: Path, start: Start, origin: int
) -> None:
    """What is cut concerns one stream; what is not read stays within its window."""
    async with go_agent(gopeer, None, start) as tunnel:
        stuck = await open_to(tunnel, origin)
        await stuck.send(b"DOWN 5000000\n")
        for number in range(20):
            cut = await open_to(tunnel, origin)
            await cut.send(b"DOWN 5000000\n")
            await cut.receive(1)
            (cut.abort if number % 2 else cut.close)()
            echo = await open_to(tunnel, origin)
            await echo.send(b"ECHO\nhello")
            await echo.send_eof()
            assert await receive_all(echo) == b"hello"
            echo.close()
        window = stuck.core.receive_window
        assert window.unread <= window.size == INITIAL_WINDOW
        assert len(await receive_all(stuck)) == 5_000_064
        stuck.close()
        await trio.sleep(0.1)
        assert (tunnel.reason, tunnel.streams) == (None, 0)


async def test_a_go_agent_may_close_a_stream_while_it_writes(gopeer: Path, start: Start) -> None:
    """Data that comes behind its FIN concerns nobody, least of all the other streams."""

    async def open_one_after_another() -> None:
        for _ in range(100):
            stream = await open_to(tunnel, 1)
            await receive_all(stream)
            stream.close()

    async with go_agent(gopeer, None, start, "-race") as tunnel:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(open_one_after_another)
        assert tunnel.reason is None


async def test_a_go_agent_that_dies_is_noticed_at_once(
    gopeer: Path, start: Start, origin: int
) -> None:
    processes: list[trio.Process] = []

    async def remember(*command: object) -> trio.Process:
        processes.append(await start(*command))
        return processes[-1]

    async with go_agent(gopeer, None, remember) as tunnel:
        stream = await open_to(tunnel, origin)
        await stream.send(b"ECHO\n")
        processes[0].kill()
        with trio.fail_after(5), pytest.raises(TunnelLost):
            await stream.receive(1)
        stream.close()


async def serve_stream(stream: TunnelStream) -> None:
    """What an agent does, at its shortest: dial, agree, relay with half-close."""
    request = OpenRequest.parse(await receive_opening(stream))
    try:
        socket_stream = await trio.open_tcp_stream(request.host, request.port)
    except OSError as error:
        await stream.send(Verdict(False, ErrorKind.DIAL_FAILED, str(error)).encode())
        return
    await stream.send(Verdict(True).encode())

    async def there() -> None:
        try:
            while data := await stream.receive(READ):
                await socket_stream.send_all(data)
            await socket_stream.send_eof()
        except (StreamBroken, trio.BrokenResourceError):
            nursery.cancel_scope.cancel()

    async with socket_stream, trio.open_nursery() as nursery:
        nursery.start_soon(there)
        while data := await socket_stream.receive_some(READ):
            await stream.send(data)
        await stream.send_eof()


async def test_our_agent_serves_a_go_server(
    gopeer: Path,
    certificate: Path | None,
    start: Start,
    origin: int,
    size: int,
) -> None:
    files = ["-cert", certificate, "-key", certificate] if certificate else []
    words = ["-id", "us", "-secret", SECRET, "-origin", f"127.0.0.1:{origin}", "-bytes", size]
    process = await start(gopeer, "server", *words, *files)
    assert process.stdout is not None
    out = b""
    while b"\n" not in out:
        out += await process.stdout.receive_some()
    port = int(out.decode().strip().rpartition(":")[2])
    stream: Stream = over_tcp(socket.create_connection(("127.0.0.1", port)))
    if certificate:
        context: ssl.SSLContext = client_context(verify=False)
        stream = secured = TlsStream(stream, context, server_hostname="localhost")
        await secured.handshake()
    await stream.send(
        b"GET /agent/tunnel HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n"
        b"Connection: Upgrade\r\nUpgrade: p2pstream-yamux\r\nX-P2PStream-Agent-ID: us\r\n"
        b"X-P2PStream-Tunnel-Version: 1\r\n\r\n"
    )
    assert (await read_head(stream)).startswith("HTTP/1.1 101 ")
    tunnel = Tunnel(stream, client=True, serve=serve_stream)
    await tunnel.run()  # the Go server ends it when it has seen enough
    out = b""
    while piece := await process.stdout.receive_some():
        out += piece
    assert out, "see the Go server's log"
    report = json.loads(out)
    assert (report["Uploaded"], report["Downloaded"], report["Echoed"]) == (size, size, 100_000)
    assert (report["EchoedAfterGoAway"], report["Refused"]) == (100_000, "dial_failed")
    # Releases before 0.1.1, Debian's among them, stop to read once they end their own direction.
    assert report["HalfClose"] or gopeer.name.endswith("debian")
    assert tunnel.session.peer_going_away
    assert tunnel.streams == 0
