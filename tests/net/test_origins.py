from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from p2pstream.config.load import load_text
from p2pstream.errors import (
    AgentDialFailed,
    AgentDisconnected,
    ConnectFailed,
    ConnectTimeout,
    Fault,
    TlsFailed,
    TunnelLost,
)
from p2pstream.net.ca import self_signed
from p2pstream.net.dial import dial_tcp
from p2pstream.net.listen import Handler, Listening, bind
from p2pstream.net.origins import Origins
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls import issued_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.snapshot import TargetPlan, compile_snapshot


def plan(port: int, rest: str = "", scheme: str = "http", host: str = "127.0.0.1") -> TargetPlan:
    text = f"""
[[listeners]]
id = "web"
port = 80
[[routes]]
id = "r"
listener_id = "web"
is_default = true
[[routes.targets]]
name = "t"
url = "{scheme}://{host}:{port}"
{rest}
"""
    found = compile_snapshot(load_text(text)).tables.targets["r", "t"].extra
    assert isinstance(found, TargetPlan)
    return found


@asynccontextmanager
async def origin(handler: Handler) -> AsyncIterator[int]:
    listening = Listening(bind("127.0.0.1", 0), handler, max_connections=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        try:
            yield listening.port
        finally:
            listening.close()
        nursery.cancel_scope.cancel()


async def echo(stream: Stream, _: str = "") -> None:
    while data := await stream.receive(1_000):
        await stream.send(data)


async def silent(stream: Stream, _: str = "") -> None:
    await trio.sleep_forever()


async def nobody(*_: object) -> Stream:
    raise AssertionError("not through an agent")


def secure(context: ssl.SSLContext) -> Handler:
    async def handle(stream: TcpStream, _: str) -> None:
        wrapped = TlsStream(stream, context, server_side=True)
        await wrapped.handshake()
        await echo(wrapped)

    return handle


async def answers(stream: Stream) -> bool:
    await stream.send(b"hello")
    return await stream.receive(100) == b"hello"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """An origin's context, and the file to trust it by."""
    issued = self_signed("127.0.0.1", datetime.now(UTC))
    file = tmp_path / "ca.pem"
    file.write_bytes(issued.pem)
    return issued_context(issued), file


async def test_direct() -> None:
    async with origin(echo) as port:
        stream = await Origins(nobody).connect(plan(port), "", "request-1", 5)
        assert await answers(stream)
        stream.close()


async def test_through_an_agent() -> None:
    asked = []

    async def open_(agent_id: str, host: str, port: int, seconds: float, name: str) -> Stream:
        asked.append((agent_id, host, seconds, name))
        return await dial_tcp(host, port, seconds)

    async with origin(echo) as port:
        stream = await Origins(open_).connect(plan(port), "a", "request-1", 5)
        assert await answers(stream)
        stream.close()
    assert asked == [("a", "127.0.0.1", 5, "request-1")]


async def test_tls_is_verified_also_behind_an_agent(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    context, file = certificate

    async def open_(_: str, host: str, port: int, seconds: float, __: str) -> Stream:
        return await dial_tcp(host, port, seconds)

    async with origin(secure(context)) as port:
        origins = Origins(open_)
        for agent_id in ("", "a"):
            trusting = plan(port, f'tls_ca_file = "{file}"', "https")
            stream = await origins.connect(trusting, agent_id, "x", 5)
            assert await answers(stream)
            stream.close()
            with pytest.raises(TlsFailed, match="not acceptable"):
                await origins.connect(plan(port, scheme="https"), agent_id, "x", 5)
        stream = await origins.connect(plan(port, "tls_skip_verify = true", "https"), "", "x", 5)
        assert await answers(stream)
        stream.close()


async def test_the_certificate_must_name_the_server(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    context, file = certificate
    async with origin(secure(context)) as port:
        rest = f'tls_ca_file = "{file}"\ntls_server_name = "other.test"'
        with pytest.raises(TlsFailed, match="mismatch"):
            await Origins(nobody).connect(plan(port, rest, "https"), "", "x", 5)


async def test_a_ca_file_is_read_anew_when_told(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    context, file = certificate
    async with origin(secure(context)) as port:
        origins, trusting = Origins(nobody), plan(port, f'tls_ca_file = "{file}"', "https")
        (await origins.connect(trusting, "", "x", 5)).close()
        file.write_bytes(self_signed("127.0.0.1", datetime.now(UTC)).pem)
        (await origins.connect(trusting, "", "x", 5)).close()
        origins.read_ca_files_anew()
        with pytest.raises(TlsFailed):
            await origins.connect(trusting, "", "x", 5)
        file.unlink()
        origins.read_ca_files_anew()
        with pytest.raises(TlsFailed, match="No such file"):
            await origins.connect(trusting, "", "x", 5)


async def test_a_handshake_has_what_is_left_of_the_time() -> None:
    async with origin(silent) as port:
        begun = trio.current_time()
        with pytest.raises(ConnectTimeout, match="handshake not done"):
            await Origins(nobody).connect(plan(port, scheme="https"), "", "x", 0.2)
        assert trio.current_time() - begun < 5


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: AgentDialFailed("dial_forbidden"), AgentDialFailed),
        (lambda: AgentDisconnected("gone"), AgentDisconnected),
    ],
)
async def test_faults_of_the_agent_pass_through(
    make: Callable[[], Fault], fault: type[Fault]
) -> None:
    async def open_(*_: object) -> Stream:
        raise make()

    with pytest.raises(fault):
        await Origins(open_).connect(plan(80), "a", "x", 5)


async def test_a_tunnel_that_ends_within_the_handshake() -> None:
    async with origin(silent) as port:

        async def open_(_: str, host: str, to: int, seconds: float, __: str) -> Stream:
            stream = await dial_tcp(host, to, seconds)
            stream.waits.doom(TunnelLost("the peer closed the connection"))
            return stream

        with pytest.raises(AgentDisconnected, match="the peer closed"):
            await Origins(open_).connect(plan(port, scheme="https"), "a", "x", 5)


async def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectFailed):
        await Origins(nobody).connect(plan(port), "", "x", 5)
