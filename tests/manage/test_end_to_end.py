"""The real way of a connection: management over TLS, the agent program, an origin, and back."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve

from p2pstream import __version__
from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import servers_of
from p2pstream.agents.remote import RemoteAgent
from p2pstream.errors import AgentDialFailed, AgentDialTimeout, StreamBroken, TunnelLost
from p2pstream.net.listen import Handler, Listening, bind
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.wire.report import Report


async def echo(stream: TcpStream, _: str) -> None:
    while data := await stream.receive(65_536):
        await stream.send(data)
    await stream.send_eof()


@asynccontextmanager
async def origin(handler: Handler = echo) -> AsyncIterator[Listening]:
    listening = Listening(bind("127.0.0.1", 0), handler, max_connections=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.serve, nursery)
        yield listening
        listening.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def agent_of(
    *worlds: Any, token: Any = None, allow: tuple[str, ...] = ()
) -> AsyncIterator[RemoteAgent]:
    tokens = [token] if token is not None else [world.token() for world in worlds]
    agent = RemoteAgent(servers_of(tokens), allow=Allow.parse(allow), name="host")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run)
        yield agent
        nursery.cancel_scope.cancel()


async def open_to(world: Any, listening: Listening, host: str = "127.0.0.1") -> Stream:
    stream: Stream = await world.hub.open("one", host, listening.port, "request-1", 5)
    return stream


async def reported(world: Any) -> Report:
    """What the one agent said of itself; then its report stream is there, too."""
    with trio.fail_after(5):
        while (report := world.hub.status()[0].report) is None:  # noqa: ASYNC110 - it is polled
            await trio.sleep(0.005)
    assert isinstance(report, Report)
    return report


async def receive_all(stream: Stream) -> bytes:
    data = bytearray()
    while piece := await stream.receive(65_536):
        data += piece
    return bytes(data)


@pytest.mark.parametrize(
    "settings", [{"tls": "auto"}, {"tls": "off"}, {"public_url": "https://127.0.0.1/p2p"}]
)
async def test_bytes_go_to_the_origin_and_back(open_world: Any, settings: dict[str, str]) -> None:
    async with open_world(**settings) as world, origin() as there, agent_of(world):
        await world.heard("connected", "one")
        (status,) = world.hub.status()
        assert (status.name, status.max_streams) == ("host", 2048)
        for host in ("127.0.0.1", "localhost"):
            stream = await open_to(world, there, host)
            await stream.send(b"hello")
            assert await stream.receive(100) == b"hello"
            await stream.send_eof()
            assert await stream.receive(100) == b""
            stream.close()


async def test_an_agent_tells_how_its_program_is_doing(world: Any) -> None:
    async with agent_of(world) as agent:
        await world.heard("connected", "one")
        report = await reported(world)
        (status,) = world.hub.status()
        assert (report.version, report.active_streams, status.streams) == (__version__, 0, 0)
        assert report.memory_bytes > 1_000_000
        assert 0 < report.sent_bytes <= status.received_bytes
        assert 0 < report.received_bytes <= status.sent_bytes
        agent.drain()  # which the report stream does not hold up
        with trio.fail_after(5):
            while world.hub.status():  # noqa: ASYNC110 - callbacks, not events
                await trio.sleep(0.005)


async def test_megabytes_arrive_intact_both_ways_on_many_streams(world: Any) -> None:
    data = hashlib.shake_128(b"bulk").digest(2_000_000)

    async def exchange() -> None:
        stream = await open_to(world, there)

        async def send() -> None:
            await stream.send(data)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await receive_all(stream) == data
        stream.close()

    async with origin() as there, agent_of(world):
        await world.heard("connected", "one")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(exchange)


async def test_a_half_closed_direction_leaves_the_other_open(world: Any) -> None:
    async def answer_at_the_end(stream: TcpStream, _: str) -> None:
        asked = await receive_all(stream)
        for _turn in range(3):
            await stream.send(b"answer to " + asked)
        await stream.send_eof()

    async with origin(answer_at_the_end) as there, agent_of(world):
        await world.heard("connected", "one")
        stream = await open_to(world, there)
        await stream.send(b"this")
        await stream.send_eof()
        assert await receive_all(stream) == b"answer to this" * 3
        stream.close()


async def test_an_origin_that_resets_breaks_its_stream_only(world: Any) -> None:
    async def reset(stream: TcpStream, _: str) -> None:
        if await stream.receive(100) == b"reset":
            stream.abort()
        else:
            await stream.send(b"fine")

    async with origin(reset) as there, agent_of(world):
        await world.heard("connected", "one")
        bad, good = await open_to(world, there), await open_to(world, there)
        await bad.send(b"reset")
        with pytest.raises(StreamBroken):
            await receive_all(bad)
        await good.send(b"x")
        assert await good.receive(100) == b"fine"
        bad.close()
        good.close()


async def test_a_request_that_leaves_takes_its_origin_connection_along(world: Any) -> None:
    async with origin() as there, agent_of(world):
        await world.heard("connected", "one")
        stream = await open_to(world, there)
        await stream.send(b"x")
        await stream.receive(1)
        assert there.active == 1
        stream.abort()
        with trio.fail_after(5):
            await there.drained()
        assert world.hub.is_connected("one")


async def test_what_cannot_be_dialled_says_why(world: Any) -> None:
    (closed,) = bind("127.0.0.1", 0)
    port = closed.getsockname()[1]
    closed.close()
    async with agent_of(world):
        await world.heard("connected", "one")
        with pytest.raises(AgentDialFailed, match=r"dial_failed: 127\.0\.0\.1:.*refused"):
            await world.hub.open("one", "127.0.0.1", port, "r", 5)
        with pytest.raises(AgentDialFailed, match=r"dial_failed: nowhere\.invalid: "):
            await world.hub.open("one", "nowhere.invalid", port, "r", 10)
        assert world.hub.is_connected("one")


async def test_a_silent_origin_is_the_servers_timeout_and_stops_the_dial(world: Any) -> None:
    (full,) = bind("127.0.0.1", 0)
    full.listen(0)
    async with agent_of(world) as agent:
        await world.heard("connected", "one")
        await reported(world)
        open_before = current_reactor().streams
        fillers = []
        with trio.move_on_after(0.3):  # the queue holds one; who comes after it hangs
            while True:
                fillers.append(await world.hub.open("one", *full.getsockname(), "r", 60))
        with pytest.raises(AgentDialTimeout):
            await world.hub.open("one", *full.getsockname(), "r", 0.1)
        for stream in fillers:
            stream.abort()
        with trio.fail_after(5):
            while current_reactor().streams > open_before:  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.005)
        (tunnel,) = agent.tunnels.values()
        assert tunnel.streams == 0
    full.close()


async def test_allow_rules_limit_what_is_dialled(world: Any) -> None:
    async with origin() as there, agent_of(world, allow=(f"127.0.0.0/8:{there.port}",)):
        await world.heard("connected", "one")
        for host in ("127.0.0.1", "localhost", "::ffff:127.0.0.1"):
            (await open_to(world, there, host)).close()
        refused = [("127.0.0.1", there.port + 1), ("10.0.0.1", there.port), ("::1", 80)]
        for address, port in refused:
            with pytest.raises(AgentDialFailed, match="dial_forbidden: no --allow rule"):
                await world.hub.open("one", address, port, "r", 5)


async def test_a_wrong_pin_is_refused_before_the_secret_is_sent(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    token = evolve(world.token(), ca_pin=bytes(32))
    async with agent_of(world, token=token):
        with trio.fail_after(5):
            while "the server's CA is not the one" not in caplog.text:  # noqa: ASYNC110 - a log line
                await trio.sleep(0.005)
    assert not world.events
    assert "refused" not in caplog.text


async def test_a_pinned_ca_does_not_make_up_for_a_wrong_host(
    open_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(bind_address="") as world:
        url = world.url.replace("127.0.0.1", "127.0.0.9")  # answers, and is not in the leaf
        async with agent_of(world, token=evolve(world.token(), server_urls=(url,))):
            with trio.fail_after(5):
                while "next attempt" not in caplog.text:  # noqa: ASYNC110 - a log line
                    await trio.sleep(0.005)
        assert "certificate not acceptable: IP address mismatch" in caplog.text
        assert not world.events


async def test_a_wrong_secret_is_told_with_what_to_do(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_of(world, token=world.token(secret="other")):
        with trio.fail_after(5):
            while "(401)" not in caplog.text:  # noqa: ASYNC110 - a log line
                await trio.sleep(0.005)
    assert "is this the newest token?" in caplog.text
    assert "next attempt in" in caplog.text
    assert "agent one: wrong secret" in caplog.text
    assert not world.events


async def test_a_lost_tunnel_comes_back_by_itself(
    world: Any, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001  # the kernel gets a moment to deliver
    async with origin() as there, agent_of(world) as agent:
        await world.heard("connected", "one")
        (tunnel,) = agent.tunnels.values()
        tunnel.end(TunnelLost("the network is gone"))
        with trio.fail_after(30):
            while world.events.count(("connected", "one")) < 2:  # noqa: ASYNC110 - a callback
                await trio.sleep(0.1)
        stream = await open_to(world, there)
        stream.close()


async def test_one_agent_serves_two_servers_at_once(open_world: Any) -> None:
    async with open_world() as one, open_world() as two, origin() as there, agent_of(one, two):
        await one.heard("connected", "one")
        await two.heard("connected", "one")
        first, second = await open_to(one, there), await open_to(two, there)
        first.abort()
        one.hub.apply([])  # one server throws the agent out
        await second.send(b"still there")
        assert await second.receive(100) == b"still there"
        second.close()


async def test_draining_lets_streams_end_and_leaves(world: Any) -> None:
    async with origin() as there:
        agent = RemoteAgent(servers_of([world.token()]), allow=Allow())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            await world.heard("connected", "one")
            stream = await open_to(world, there)
            agent.drain()
            await world.heard("leaving", "one")
            await stream.send(b"still")
            assert await stream.receive(100) == b"still"
            await stream.send_eof()
            assert await stream.receive(100) == b""
            stream.close()
        # run has returned: the nursery is empty
        with trio.fail_after(5):
            while world.hub.is_connected("one"):  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.005)


async def test_an_agent_that_cannot_reach_its_server_leaves_at_once(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    token = evolve(world.token(), server_urls=("https://127.0.0.1:1",))
    agent = RemoteAgent(servers_of([token]), allow=Allow())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            while "next attempt" not in caplog.text:  # noqa: ASYNC110 - a log line
                await trio.sleep(0.005)
            agent.drain()


async def test_connecting_and_leaving_forty_times_leaves_nothing_behind(world: Any) -> None:
    async with origin() as there:
        for number in range(40):
            async with agent_of(world):
                with trio.fail_after(5):
                    while not world.hub.is_connected("one"):  # noqa: ASYNC110 - no event for it
                        await trio.sleep(0.001)
                stream = await open_to(world, there)
                stream.close()
            with trio.fail_after(5):
                while current_reactor().streams:  # noqa: ASYNC110 - no event for it
                    await trio.sleep(0.001)
            if number == 10:
                tasks = living()
        with trio.fail_after(5):
            while living() > tasks:  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.001)


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living
