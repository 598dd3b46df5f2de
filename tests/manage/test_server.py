from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.agents.tunnel import Tunnel, receive_opening
from p2pstream.config.model import Agent
from p2pstream.manage import identity
from p2pstream.manage.server import Exchange, Router
from p2pstream.net.ca import key_pin, self_signed
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, ServerConnection, Upgraded, fetch, upgrade
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.net.unread import Unread
from p2pstream.wire.opening import OpenRequest, Verdict

HOST = ("host", "127.0.0.1")
TUNNEL_FIELDS = (
    HOST,
    ("authorization", "Bearer secret-1"),
    ("x-p2pstream-agent-id", "one"),
    ("connection", "Upgrade"),
    ("upgrade", "p2pstream-yamux"),
    ("x-p2pstream-tunnel-version", "1"),
)


@asynccontextmanager
async def connection(world: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[Stream]:
    """A connection to the management port, over TLS if it speaks that."""
    stream: Stream = await dial_tcp("127.0.0.1", world.management.port, 5)
    if world.config.tls != "off":
        tls = TlsStream(
            stream, context or client_context(verify=False), server_hostname="127.0.0.1"
        )
        await tls.handshake()
        stream = tls
    try:
        yield stream
    finally:
        stream.close()


async def get(world: Any, path: str, method: str = "GET") -> Response:
    async with connection(world) as stream:
        return await fetch(stream, Request(method, path, (HOST,)), max_body_bytes=10_000)


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_health_and_readiness(open_world: Any, tls: str) -> None:
    async with open_world(tls=tls) as world:
        assert (await get(world, "/healthz")).body == b"ok\n"
        assert (await get(world, "/readyz")).status == 200
        assert (await get(world, "/healthz", "HEAD")).status == 200
        assert (await get(world, "http://127.0.0.1/healthz")).body == b"ok\n"
        world.management.ready = lambda: False
        assert (await get(world, "/readyz")).status == 503
        world.management.ready = lambda: True
        await world.hub.drain()
        assert (await get(world, "/readyz")).body == b"draining\n"
        assert (await get(world, "/healthz")).status == 200


async def test_what_is_not_there_is_404_and_other_methods_405(world: Any) -> None:
    assert (await get(world, "/")).status == 404
    assert (await get(world, "/healthz/")).status == 404
    refused = await get(world, "/healthz", "DELETE")
    assert refused.status == 405
    assert refused.header("allow") == "GET, HEAD"


async def test_a_path_may_have_names_in_it(open_world: Any) -> None:
    async def told(exchange: Exchange) -> Response:
        return Response(200, json.dumps(dict(exchange.values)).encode())

    async with open_world(tls="off", public_url="http://127.0.0.1/b") as world:
        router = world.management.router
        router.add("GET", "/things/{id}", told)
        router.add("POST", "/things/{id}", told)
        router.add("GET", "/things/new", told)
        router.add("GET", "/things/{id}/{part}", told)
        for path, values in [
            ("/b/things/one", {"id": "one"}),
            ("/b/things/a%20%C3%A9%2Fb?x=/y", {"id": "a é/b"}),
            ("/b/things/%FF", {"id": "\ufffd"}),
            ("/b/things/new", {}),
            ("/b/things/{id}", {"id": "{id}"}),
            ("/b/things/", {"id": ""}),
            ("/b/things/one/two", {"id": "one", "part": "two"}),
        ]:
            answer = await get(world, path)
            assert (answer.status, json.loads(answer.body)) == (200, values), path
        for path in ("/b/things", "/things/one", "/b/thing/one", "/b/things/a/b/c"):
            assert (await get(world, path)).status == 404, path
        assert (await get(world, "/b/things/one", "PUT")).header("allow") == "GET, HEAD, POST"


async def test_every_response_keeps_browsers_from_harm(world: Any) -> None:
    async def page(_: Exchange) -> Response:
        return Response(200, b"", (("content-security-policy", "default-src 'self'"),))

    world.management.router.add("GET", "/page", page)
    for path, method, policy in [
        ("/healthz", "GET", "default-src 'none'; frame-ancestors 'none'"),
        ("/healthz", "DELETE", "default-src 'none'; frame-ancestors 'none'"),
        ("/api/v1/none", "GET", "default-src 'none'; frame-ancestors 'none'"),
        ("/agent/tunnel", "GET", "default-src 'none'; frame-ancestors 'none'"),
        ("/page", "GET", "default-src 'self'"),
    ]:
        answer = await get(world, path, method)
        assert answer.header("content-security-policy") == policy
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "no-referrer"
        assert answer.header("x-frame-options") == "DENY"
        names = {name for name, _ in answer.headers}
        assert not [name for name in names if name.startswith("access-control")]
        assert "strict-transport-security" not in names


async def test_refusals_under_the_api_are_json(world: Any) -> None:
    answer = await get(world, "/api/v1/none")
    assert answer.header("content-type") == "application/json"
    assert json.loads(answer.body) == {
        "faults": ["there is nothing at /api/v1/none"],
        "exit_code": 1,
    }


async def test_the_base_path_of_the_public_url_is_respected(open_world: Any) -> None:
    async with open_world(public_url="https://127.0.0.1/p2p/x/") as world:
        for path, status in [
            ("/p2p/x/healthz", 200),
            ("https://127.0.0.1/p2p/x/healthz?x=1", 200),
            ("https://127.0.0.1/p2p/healthz", 404),
            ("/healthz", 200),
            ("/p2p/x/agent/ca.pem", 200),
            ("/agent/ca.pem", 404),
            ("/agent/tunnel", 404),
            ("/p2p/x/agent/tunnel", 401),
        ]:
            assert (await get(world, path)).status == status, path


async def test_a_connection_carries_many_requests_and_added_handlers(world: Any) -> None:
    async def echo(exchange: Exchange) -> Response:
        return Response(201, await exchange.connection.read_body(10))

    world.management.router.add("POST", "/echo", echo)
    async with connection(world) as stream:
        for number in range(3):
            await stream.send(
                b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % number
            )
            answer = b""
            while not answer.endswith(b"\r\n\r\n%d" % number):
                answer += await stream.receive(1000)
            assert answer.startswith(b"HTTP/1.1 201")
        await stream.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n" + b"x" * 99
        )
        answer = await stream.receive(1000)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"body_too_large" in answer
        assert await stream.receive(1000) == b""


async def test_malformed_requests_are_answered_and_cut(open_world: Any) -> None:
    async with open_world(tls="off") as world:
        for sent, status in [
            (b"nonsense\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000, b"431"),
        ]:
            async with connection(world) as stream:
                await stream.send(sent)
                answer = b""
                while piece := await stream.receive(1000):
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nX: "])
@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_whoever_is_slow_is_cut(
    open_world: Any, tls: str, sent: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001  # the kernel gets a moment to deliver
    async with open_world(tls=tls) as world, connection(world) as stream:
        await stream.send(sent)
        start = trio.current_time()
        assert await stream.receive(100) == b""
        assert 9 < trio.current_time() - start < 11


async def test_a_handshake_that_never_comes_is_cut(
    world: Any, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001
    stream = await dial_tcp("127.0.0.1", world.management.port, 5)
    await stream.send(b"\x16\x03")
    assert await stream.receive(100) == b""
    assert trio.current_time() < 12
    stream.close()


async def test_plain_http_on_the_tls_port_is_told_so(world: Any) -> None:
    stream = await dial_tcp("127.0.0.1", world.management.port, 5)
    response = await fetch(stream, Request("GET", "/healthz", (HOST,)), max_body_bytes=1000)
    assert (response.status, response.body) == (400, b"this port speaks HTTPS\n")
    stream.close()


async def test_the_ca_is_public_and_verifies_the_server(world: Any) -> None:
    response = await get(world, "/agent/ca.pem")
    pin = identity.ca_pin(world.config, world.state_dir, datetime.now(UTC))
    assert pin == key_pin(response.body)
    async with connection(world, client_context(ca_pem=response.body.decode())) as stream:
        answer = await fetch(stream, Request("GET", "/healthz", (HOST,)), max_body_bytes=10)
    assert answer.status == 200


async def test_without_a_ca_there_is_none_to_fetch(open_world: Any) -> None:
    async with open_world(tls="off") as world:
        assert (await get(world, "/agent/ca.pem")).status == 404
        assert identity.ca_pin(world.config, world.state_dir, datetime.now(UTC)) is None


async def test_the_operators_own_certificate_is_shown(open_world: Any, tmp_path: Path) -> None:
    issued = self_signed("127.0.0.1", datetime.now(UTC))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(issued.chain_pem)
    key.write_bytes(issued.key_pem)
    async with open_world(tls="files", certificate_file=certificate, key_file=key) as world:
        pem = (await get(world, "/agent/ca.pem")).body
        assert pem == issued.chain_pem
        async with connection(world, client_context(ca_pem=pem.decode())):
            pass
        assert world.token().ca_pin == key_pin(pem)


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_a_good_bootstrap_gets_a_tunnel(open_world: Any, tls: str) -> None:
    async with open_world(tls=tls) as world, connection(world) as stream:
        fields = (*TUNNEL_FIELDS, ("x-p2pstream-tunnel-max-concurrent-streams", "100"))
        answer = await upgrade(stream, Request("GET", "/agent/tunnel", fields))
        assert isinstance(answer, Upgraded)
        assert dict(answer.headers) == {
            "connection": "Upgrade",
            "upgrade": "p2pstream-yamux",
            "x-p2pstream-tunnel-version": "1",
            "x-p2pstream-tunnel-max-concurrent-streams": "100",
            "x-p2pstream-tunnel-capacity-mode": "fixed",
        }
        await world.heard("connected", "one")
        assert world.hub.is_connected("one")
        (status,) = world.hub.status()
        assert (status.agent_id, status.max_streams, status.peer) == ("one", 100, "127.0.0.1")
        stream.close()
        with trio.fail_after(5):
            while world.hub.is_connected("one"):  # noqa: ASYNC110 - its end has no event
                await trio.sleep(0.005)
        assert world.events[-1][:2] == ("gone", "one")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"authorization": "Bearer nope"}, 401),
        ({"upgrade": "websocket"}, 426),
        ({"x-p2pstream-tunnel-version": "7"}, 426),
        ({"connection": "close"}, 400),
    ],
)
async def test_refusals_close_the_connection(
    world: Any, changes: dict[str, str], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection(world) as stream:
        fields = tuple((dict(TUNNEL_FIELDS) | changes).items())
        answer = await upgrade(stream, Request("GET", "/agent/tunnel", fields))
        assert isinstance(answer, Response)
        assert answer.status == status
        assert await stream.receive(10) == b""
    assert "agent from 127.0.0.1 refused" in caplog.text
    assert "secret-1" not in caplog.text
    assert not world.events


async def test_bytes_ahead_of_the_101_are_refused(world: Any) -> None:
    async with connection(world) as stream:
        head = "".join(f"{name}: {value}\r\n" for name, value in TUNNEL_FIELDS)
        await stream.send(f"GET /agent/tunnel HTTP/1.1\r\n{head}\r\n\0\0\0\0".encode())
        answer = b""
        while piece := await stream.receive(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400")
    assert not world.events


async def test_bytes_that_come_while_a_twin_is_asked_are_refused_too(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admit(_: Agent) -> None:
        await stream.send(b"\0\0\0\0")
        await trio.sleep(0.05)

    monkeypatch.setattr(world.hub, "admit", admit)
    async with connection(world) as stream:
        answer = await upgrade(stream, Request("GET", "/agent/tunnel", TUNNEL_FIELDS))
    assert isinstance(answer, Response)
    assert (answer.status, world.events) == (400, [])


async def test_a_server_that_is_leaving_takes_no_agents(world: Any) -> None:
    await world.hub.drain()
    async with connection(world) as stream:
        answer = await upgrade(stream, Request("GET", "/agent/tunnel", TUNNEL_FIELDS))
    assert isinstance(answer, Response)
    assert answer.status == 503
    assert int(answer.header("retry-after") or 0) >= 1


async def test_a_bootstrap_through_the_whole_way_and_back(world: Any) -> None:
    """The hub opens a stream, the far end of the tunnel gets the address and answers."""

    async def serve(stream: Any) -> None:
        asked = OpenRequest.parse(await receive_opening(stream))
        assert asked.address == "[::1]:80"
        await stream.send(Verdict(True).encode())
        while data := await stream.receive(100):
            await stream.send(data.upper())

    async with connection(world) as stream, trio.open_nursery() as nursery:
        answer = await upgrade(stream, Request("GET", "/agent/tunnel", TUNNEL_FIELDS))
        assert isinstance(answer, Upgraded)
        tunnel = Tunnel(Unread(stream, answer.leftover), client=True, serve=serve)
        nursery.start_soon(tunnel.run)
        await world.heard("connected", "one")
        through = await world.hub.open("one", "::1", 80, "req-1", 5)
        await through.send(b"hello")
        assert await through.receive(100) == b"HELLO"
        through.close()
        tunnel.close()


async def test_the_router_prefers_the_method_to_any() -> None:
    async def one(_: Exchange) -> Response:
        return Response(201)

    async def other(_: Exchange) -> Response:
        return Response(202)

    router = Router("/base")
    router.add("PUT", "/x", one)
    router.add("*", "/x", other)
    for method, status in [("PUT", 201), ("GET", 202), ("BREW", 202)]:
        unused: Any = ServerConnection.__new__(ServerConnection)
        exchange = Exchange(Request(method, "/base/x?q=1", ()), unused, "peer")
        response = await router.respond(exchange)
        assert isinstance(response, Response)
        assert response.status == status
