"""The agent program against servers of few words; the real server is in manage/test_end_to_end."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import (
    MAX_STREAMS,
    Joined,
    RefusedByServer,
    Server,
    Unreachable,
    join,
    servers_of,
)
from p2pstream.agents.credentials import Token
from p2pstream.agents.remote import RemoteAgent, run_agent
from p2pstream.agents.tunnel import Tunnel, receive_opening
from p2pstream.config.scalars import Secret
from p2pstream.errors import AgentDialFailed, CommandError, ConnectFailed
from p2pstream.net.ca import Authority
from p2pstream.net.http import Headers, Request, Response, ServerConnection
from p2pstream.net.listen import Listening, bind
from p2pstream.net.stream import TcpStream
from p2pstream.net.tls import server_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.wire.opening import OpenRequest, ReportRequest

UPGRADED: Headers = (("connection", "Upgrade"), ("upgrade", "p2pstream-yamux"))
Script = Callable[[ServerConnection, Request], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[Server]:
    """A management server that does what `script` says with each request."""

    async def handler(stream: TcpStream, _: str) -> None:
        connection = ServerConnection(stream)
        request = await connection.next_request()
        assert request is not None
        await script(connection, request)

    listening = Listening(bind("127.0.0.1", 0), handler, max_connections=10)
    token = Token((f"http://127.0.0.1:{listening.port}/base",), "agent-1", Secret("s3cret"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        yield servers_of([token])[0]
        listening.close()
        nursery.cancel_scope.cancel()
    assert listening.crashed == 0


def answering(response: Response) -> Script:
    async def script(connection: ServerConnection, _: Request) -> None:
        await connection.respond(response, close=True)

    return script


async def test_the_request_is_exactly_what_the_spec_says() -> None:
    asked: list[Request] = []

    async def script(connection: ServerConnection, request: Request) -> None:
        asked.append(request)
        await connection.switch(UPGRADED)

    async with server(script) as place:
        joined = await join(place, "Küche")
        joined.stream.close()
    (request,) = asked
    assert (request.method, request.target) == ("GET", "/base/agent/tunnel")
    fields = dict(request.headers)
    assert fields.pop("host") == place.authority
    assert fields.pop("x-p2pstream-agent-version")
    assert fields.pop("x-p2pstream-agent-name").encode("latin-1").decode() == "Küche"
    assert fields == {
        "connection": "Upgrade",
        "upgrade": "p2pstream-yamux",
        "authorization": "Bearer s3cret",
        "x-p2pstream-agent-id": "agent-1",
        "x-p2pstream-agent-reports": "1",
        "x-p2pstream-tunnel-version": "1",
        "x-p2pstream-tunnel-max-concurrent-streams": str(MAX_STREAMS),
        "x-p2pstream-tunnel-capacity-mode": "fixed",
    }


@pytest.mark.parametrize(
    ("name", "sent"),
    [(" media box ", "media box"), ("a\r\nb\x1b\udc80", "ab"), ("n" * 200, "n" * 128)],
)
async def test_a_name_is_made_fit_for_a_field(name: str, sent: str) -> None:
    async def script(connection: ServerConnection, request: Request) -> None:
        assert request.header("x-p2pstream-agent-name") == sent
        await connection.switch(UPGRADED)

    async with server(script) as place:
        (await join(place, name)).stream.close()


VERSION = ("x-p2pstream-tunnel-version", "1")
STREAMS = "x-p2pstream-tunnel-max-concurrent-streams"


@pytest.mark.parametrize(
    ("headers", "streams"),
    [
        ((*UPGRADED, VERSION, (STREAMS, "7"), ("x-p2pstream-tunnel-capacity-mode", "fixed")), 7),
        ((*UPGRADED, VERSION), MAX_STREAMS),
        (UPGRADED, MAX_STREAMS),
        ((*UPGRADED, (STREAMS, "many")), MAX_STREAMS),
        ((*UPGRADED, (STREAMS, "0")), MAX_STREAMS),
        ((*UPGRADED, (STREAMS, "1" * 5_000)), MAX_STREAMS),
    ],
)
async def test_a_101_is_accepted_with_and_without_its_optional_fields(
    headers: Headers, streams: int
) -> None:
    async def script(connection: ServerConnection, _: Request) -> None:
        await connection.switch(headers)
        await connection.stream.receive(1)

    async with server(script) as place:
        joined = await join(place, "n")
        assert joined.max_streams == streams
        joined.stream.close()


@pytest.mark.parametrize(
    ("response", "error", "words"),
    [
        (Response.text(401, "unauthorized"), RefusedByServer, "is the agent declared and enabled"),
        (Response.text(426, "upgrade the agent"), RefusedByServer, "upgrade the agent"),
        (Response.text(409, "twin"), RefusedByServer, "another like this one .409.: twin"),
        (Response.text(503, "leaving"), Unreachable, "the server answered 503: leaving"),
        (Response.text(404, "x" * 5_000), Unreachable, "the server answered 404: x{200}$"),
        (Response(200), Unreachable, "answered 200"),
        (Response(500, body=b"\x1b[2Jx\r\ny\x9b\xc2\x9bz\0"), Unreachable, "500: .2Jxy\ufffdz$"),
    ],
)
async def test_other_answers_are_told_apart(
    response: Response, error: type[Exception], words: str
) -> None:
    async with server(answering(response)) as place:
        with pytest.raises(error, match=words):
            await join(place, "n")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ((("connection", "Upgrade"), ("upgrade", "websocket")), Unreachable),
        ((*UPGRADED, ("x-p2pstream-tunnel-version", "2")), RefusedByServer),
    ],
)
async def test_a_101_to_something_else_is_none(headers: Headers, error: type[Exception]) -> None:
    async def script(connection: ServerConnection, _: Request) -> None:
        await connection.switch(headers)

    async with server(script) as place:
        with pytest.raises(error):
            await join(place, "n")


async def test_what_comes_with_the_101_is_not_lost() -> None:
    async def script(connection: ServerConnection, _: Request) -> None:
        head = b"HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: p2pstream-yamux\r\n\r\n"
        await connection.stream.send(head + b"first")
        await connection.stream.send(b" second")

    async with server(script) as place:
        joined = await join(place, "n")
        data = await joined.stream.receive(3)
        while piece := await joined.stream.receive_later(100):
            data += piece
        assert data == b"first second"
        joined.stream.close()


async def test_nobody_in_between_gets_the_secret_by_adding_a_ca_to_the_pinned_one(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    real = Authority.open(tmp_path / "real", now)
    own = Authority.open(tmp_path / "own", now)
    context = server_context(own.leaf_file(["127.0.0.1"], now))
    asked: list[Request] = []

    async def impostor(tcp: TcpStream, _: str) -> None:
        tls = TlsStream(tcp, context, server_side=True)
        await tls.handshake()
        connection = ServerConnection(tls)
        request = await connection.next_request()
        if request is not None:
            asked.append(request)
            await connection.respond(Response(200, body=real.pem + own.pem), close=True)
        tls.close()

    listening = Listening(bind("127.0.0.1", 0), impostor, max_connections=10)
    url = f"https://127.0.0.1:{listening.port}"
    (place,) = servers_of([Token((url,), "agent-1", Secret("s3cret"), real.pin)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        with pytest.raises(Unreachable, match="certificate not acceptable"):
            await join(place, "n")
        listening.close()
        nursery.cancel_scope.cancel()
    assert [request.target for request in asked] == ["/agent/ca.pem"]


async def test_a_server_that_is_not_there_is_a_failed_dial() -> None:
    async with server(answering(Response(200))) as place:
        pass
    with pytest.raises(ConnectFailed):
        await join(place, "n")


def token(*urls: str) -> Token:
    return Token(urls, "agent-1", Secret("s"))


def test_servers_are_those_of_the_tokens_or_of_the_command_line() -> None:
    both = servers_of([token("https://a.test", "https://b.test:8443/x")])
    assert [str(place) for place in both] == ["https://a.test", "https://b.test:8443/x"]
    given = servers_of([token("https://a.test")], ["https://c.test", "https://c.test"])
    assert [str(place) for place in given] == ["https://c.test"]
    twice = servers_of([token("https://a.test")], ["https://c.test/", "https://C.test:443"])
    assert [str(place) for place in twice] == ["https://c.test"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80", "http://127.9.9.9", "http://localhost:1", "http://[::1]:80"]
)
def test_plain_http_is_fine_on_loopback(url: str) -> None:
    assert len(servers_of([token(url)])) == 1


def test_plain_http_elsewhere_needs_to_be_allowed() -> None:
    with pytest.raises(CommandError, match="--allow-insecure"):
        servers_of([token("http://p2p.example")])
    assert len(servers_of([token("http://p2p.example")], allow_insecure=True)) == 1


def test_what_is_no_server_is_said() -> None:
    with pytest.raises(CommandError, match="--server ftp://x: must begin with http"):
        servers_of([token("https://a.test")], ["ftp://x"])
    with pytest.raises(CommandError, match="must not have a query or a fragment"):
        servers_of([token("https://a.test")], ["https://a.test/?x"])
    with pytest.raises(CommandError, match="no server"):
        servers_of([])
    with pytest.raises(CommandError, match="--server goes with one token"):
        servers_of([token("https://a.test"), token("https://b.test")], ["https://a.test"])


class Tunnels:
    """A script that upgrades, runs the server's side, and notes when."""

    def __init__(self, hold_seconds: float = 1e9) -> None:
        self.hold_seconds = hold_seconds
        self.times: list[float] = []
        self.tunnel: Tunnel | None = None
        self.up = trio.Event()

    async def __call__(self, connection: ServerConnection, _: Request) -> None:
        self.times.append(trio.current_time())
        await connection.switch(UPGRADED)
        self.tunnel = Tunnel(connection.stream, client=False)
        self.up.set()
        with trio.move_on_after(self.hold_seconds):
            await self.tunnel.run()


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize(
    ("held", "expected"),
    [(0.5, [1, 2, 4, 8]), (25, [1, 1, 1, 1])],
)
async def test_reconnects_follow_the_policy(
    held: float, expected: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001  # the kernel gets a moment to deliver
    tunnels = Tunnels(held)
    async with server(tunnels) as place:
        agent = RemoteAgent([place], allow=Allow())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            while len(tunnels.times) < 5:  # noqa: ASYNC110 - the script only notes
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    for gap, delay in zip(gaps(tunnels.times), expected, strict=True):
        assert held + 0.8 * delay <= gap <= held + 1.2 * delay + 0.5


async def test_a_permanent_refusal_waits_the_longest_and_says_what_to_do(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    autojump_clock.autojump_threshold = 0.001
    times: list[float] = []

    async def script(connection: ServerConnection, _: Request) -> None:
        times.append(trio.current_time())
        await connection.respond(Response.text(401, "unauthorized"), close=True)

    async with server(script) as place:
        agent = RemoteAgent([place], allow=Allow())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            while len(times) < 3:  # noqa: ASYNC110 - the script only notes
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    assert all(24 <= gap <= 37 for gap in gaps(times))
    assert "is the agent declared and enabled" in caplog.text
    assert "s3cret" not in caplog.text


async def test_what_nobody_foresaw_ends_one_servers_session_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(place: Server, name: str, max_streams: int) -> Joined:
        if place.agent_id == "agent-2":
            raise ZeroDivisionError
        return await join(place, name, max_streams)

    monkeypatch.setattr("p2pstream.agents.remote.join", stumble)
    tunnels = Tunnels()
    async with server(tunnels) as place, trio.open_nursery() as nursery:
        other = servers_of([Token((str(place),), "agent-2", Secret("s"))])
        nursery.start_soon(RemoteAgent([*other, place], allow=Allow()).run)
        with trio.fail_after(5):
            await tunnels.up.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert tunnels.tunnel is not None
        assert tunnels.tunnel.reason is None
        nursery.cancel_scope.cancel()
    assert "the session failed; next attempt in" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@asynccontextmanager
async def connected(**options: Allow) -> AsyncIterator[Tunnel]:
    """The server's end of a tunnel to a running agent."""
    tunnels = Tunnels()
    async with server(tunnels) as place, trio.open_nursery() as nursery:
        agent = RemoteAgent([place], allow=options.get("allow", Allow()))
        nursery.start_soon(agent.run)
        await tunnels.up.wait()
        assert tunnels.tunnel is not None
        yield tunnels.tunnel
        nursery.cancel_scope.cancel()


async def refusal(tunnel: Tunnel, opening: bytes) -> bytes:
    """What an agent answers to a raw opening."""
    stream = tunnel._open_stream()
    tunnel.session.send(stream.core, opening)  # as `Tunnel.open` does: the SYN goes along
    tunnel.push()
    answer = await receive_opening(stream)
    stream.close()
    return answer


def framed(json: bytes) -> bytes:
    return len(json).to_bytes(4, "big") + json


@pytest.mark.parametrize(
    ("opening", "kind"),
    [
        (framed(b'{"version":2}'), b"unsupported_version"),
        (framed(b"nonsense"), b"invalid_open_request"),
        (b"\xff\xff\xff\xff", b"invalid_open_request"),
        (
            framed(b'{"version":1,"request_id":"r","network":"udp","address":"x:1"}'),
            b"invalid_open_request",
        ),
    ],
)
async def test_bad_openings_are_answered_and_end_their_stream_only(
    opening: bytes, kind: bytes
) -> None:
    async with connected() as tunnel:
        assert kind in await refusal(tunnel, opening)
        assert tunnel.reason is None


async def test_one_report_stream_is_enough() -> None:
    async with connected() as tunnel:
        session = tunnel.session
        first = tunnel._open_stream()
        session.send(first.core, ReportRequest().encode())
        tunnel.push()
        assert b'"ok":true' in await receive_opening(first)
        assert b"invalid_open_request" in await refusal(tunnel, ReportRequest().encode())
        first.abort()  # then another may come
        assert b'"ok":true' in await refusal(tunnel, ReportRequest().encode())


async def test_an_opening_that_never_comes_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.001
    async with connected() as tunnel:
        start = trio.current_time()
        assert b"open_request_timeout" in await refusal(tunnel, b"\0")
        assert 9 < trio.current_time() - start < 12


async def test_timings_are_told_when_asked_for() -> None:
    (listener,) = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with connected() as tunnel:
        answer = await refusal(tunnel, OpenRequest("r", "127.0.0.1", port, True).encode())
        assert b'"ok":true' in answer
        assert b"dial_duration_nanos" in answer
        assert b"dns_duration_nanos" in answer
    listener.close()


async def test_more_streams_than_agreed_are_refused() -> None:
    tunnels: list[Tunnel] = []
    up = trio.Event()

    async def script(connection: ServerConnection, _: Request) -> None:
        await connection.switch((*UPGRADED, (STREAMS, "2")))
        tunnels.append(Tunnel(connection.stream, client=False))
        up.set()
        await tunnels[0].run()

    (listener,) = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with server(script) as place, trio.open_nursery() as nursery:
        nursery.start_soon(RemoteAgent([place], allow=Allow()).run)
        await up.wait()
        (tunnel,) = tunnels
        streams = [
            await tunnel.open("127.0.0.1", port, request_id="r", timeout_seconds=5) for _ in "12"
        ]
        with pytest.raises(AgentDialFailed, match="agent_capacity"):
            await tunnel.open("127.0.0.1", port, request_id="r", timeout_seconds=5)
        streams.pop().abort()  # heard of together with what takes its place
        again = await tunnel.open("127.0.0.1", port, request_id="r", timeout_seconds=5)
        for stream in (*streams, again):
            stream.close()
        nursery.cancel_scope.cancel()
    listener.close()


async def test_several_tokens_for_one_server_are_tunnels_of_their_own() -> None:
    ends: list[Tunnel] = []

    async def script(connection: ServerConnection, _: Request) -> None:
        await connection.switch(UPGRADED)
        ends.append(Tunnel(connection.stream, client=False))
        await ends[-1].run()

    async with server(script) as place, trio.open_nursery() as nursery:
        url = f"{place.url.origin}/base"
        both = servers_of([token(url), Token((url,), "agent-2", Secret("s"))])
        agent = RemoteAgent(both, allow=Allow())
        nursery.start_soon(agent.run)
        with trio.fail_after(5):
            while len(agent.tunnels) < 2 or len(ends) < 2:  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.005)
            agent.cut()
            while agent.tunnels or not all(end.reason for end in ends):  # noqa: ASYNC110 - as above
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_sigterm_drains_and_a_second_one_leaves_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    tunnels = Tunnels()
    (listener,) = bind("127.0.0.1", 0)
    async with server(tunnels) as place, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def run() -> None:
            await run_agent([place])
            ended.set()

        nursery.start_soon(run)
        await tunnels.up.wait()
        assert tunnels.tunnel is not None
        host, port = listener.getsockname()
        stream = await tunnels.tunnel.open(host, port, request_id="r", timeout_seconds=5)
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(5):
            await tunnels.tunnel.leaving.wait()
        assert not ended.is_set()
        assert stream.is_quiet()
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(5):
            await ended.wait()
        stream.close()
    listener.close()
    assert "draining: streams have 30 s to end" in caplog.text
    assert "left" in caplog.text
