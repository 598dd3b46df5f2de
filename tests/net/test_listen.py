from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2pstream.errors import CommandError, ConnectFailed, StreamBroken
from p2pstream.net import listen
from p2pstream.net.dial import dial_tcp
from p2pstream.net.listen import Handler, Listening, bind
from p2pstream.net.reactor import Reactor, Waits, current_reactor
from p2pstream.net.stream import TcpStream


async def echo(stream: TcpStream, address: str) -> None:
    while data := await stream.receive(1000):
        await stream.send(data)


@asynccontextmanager
async def serving(
    handler: Handler = echo, *, max_connections: int = 100, address: str = "127.0.0.1"
) -> AsyncIterator[Listening]:
    listening = Listening(bind(address, 0), handler, max_connections=max_connections, name="test")
    async with trio.open_nursery() as connections:
        connections.start_soon(listening.serve, connections)
        try:
            yield listening
        finally:
            listening.close()
            connections.cancel_scope.cancel()


async def call(port: int, host: str = "127.0.0.1") -> bytes:
    stream = await dial_tcp(host, port, 1000)
    try:
        await stream.send(b"hello")
        return await stream.receive(10)
    finally:
        stream.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - there is no event for what only others see
            await trio.sleep(0.001)


async def test_connections_are_served_at_the_same_time_and_counted() -> None:
    async with serving() as listening:
        streams = [await dial_tcp("127.0.0.1", listening.port, 5) for _ in range(90)]
        for stream in streams:
            await stream.send(b"x")
        for stream in streams:
            assert await stream.receive(1) == b"x"
        assert listening.active == 90
        for stream in streams:
            stream.close()
        with trio.fail_after(5):
            await listening.drained()
        assert listening.active == 0
        assert listening.accepted == 90


async def test_the_handler_is_told_who_calls_and_nagle_is_off() -> None:
    told: list[tuple[str, int, int]] = []

    async def handler(stream: TcpStream, address: str) -> None:
        nodelay = stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        told.append((address, nodelay, os.get_blocking(stream.sock.fileno())))
        await echo(stream, address)

    async with serving(handler) as listening:
        assert await call(listening.port) == b"hello"
    assert told == [("127.0.0.1", 1, False)]


def ipv6_works() -> bool:
    try:
        bind("::1", 0)[0].close()
    except CommandError:
        return False
    return True


async def test_an_empty_address_is_every_family() -> None:
    async with serving(address="") as listening:
        assert await call(listening.port) == b"hello"
        if ipv6_works():
            assert {sock.family for sock in listening.sockets} == {
                socket.AF_INET,
                socket.AF_INET6,
            }
            assert len({sock.getsockname()[1] for sock in listening.sockets}) == 1
            assert await call(listening.port, "::1") == b"hello"


def test_without_ipv6_an_empty_address_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_has_ipv6", lambda: False)
    sockets = bind("", 0)
    assert [sock.family for sock in sockets] == [socket.AF_INET]
    sockets[0].close()


def test_a_taken_port_is_said_in_words() -> None:
    (taken,) = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(CommandError) as caught:
        bind("127.0.0.1", port)
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: address already in use"
    taken.close()


async def test_past_the_limit_accepting_waits_until_one_ends() -> None:
    async with serving(max_connections=2) as listening:
        first, second, third = [await dial_tcp("127.0.0.1", listening.port, 5) for _ in range(3)]
        for stream in (first, second, third):
            await stream.send(b"x")
        assert await first.receive(1) == await second.receive(1) == b"x"
        with trio.move_on_after(0.02) as scope:
            await third.receive(1)
        assert scope.cancelled_caught
        assert (listening.active, listening.accepted) == (2, 2)
        first.close()
        with trio.fail_after(5):
            assert await third.receive(1) == b"x"
        assert (listening.active, listening.accepted) == (2, 3)
        second.close()
        third.close()


async def test_a_raised_limit_lets_the_next_one_in() -> None:
    async with serving(max_connections=1) as listening:
        first = await dial_tcp("127.0.0.1", listening.port, 5)
        await wait_until(lambda: listening.active == 1)
        second = await dial_tcp("127.0.0.1", listening.port, 5)
        listening.resize(2)
        await wait_until(lambda: listening.active == 2)
        first.close()
        second.close()


async def test_a_crash_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: TcpStream, address: str) -> None:
        if await stream.receive(10) == b"crash":
            raise ZeroDivisionError("in the handler")
        async with trio.open_nursery():  # also as a group
            raise StreamBroken("expected")

    async with serving(handler) as listening:
        stream = await dial_tcp("127.0.0.1", listening.port, 5)
        other = await dial_tcp("127.0.0.1", listening.port, 5)
        await stream.send(b"crash")
        assert await stream.receive(10) == b""
        await wait_until(lambda: listening.active == 1)
        assert listening.crashed == 1
        assert "connection from 127.0.0.1 crashed" in caplog.text
        other.close()
        stream.close()


async def test_a_socket_that_cannot_be_watched_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel limits how many sockets a user watches (epoll(7), `max_user_watches`)."""

    class Full(Reactor):
        def add_socket(self, fd: int, waits: Waits) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving() as listening:
        reactor = current_reactor()
        streams = reactor.streams
        with socket.create_connection(("127.0.0.1", listening.port)) as client:
            client.setblocking(False)
            monkeypatch.setattr(reactor, "__class__", Full)
            with pytest.raises(ConnectFailed, match="No space left on device"):
                await dial_tcp("127.0.0.1", listening.port, 5)
            await wait_until(lambda: listening.crashed == 2)
            monkeypatch.undo()
            assert client.recv(1) == b""
        assert (listening.active, reactor.streams) == (0, streams)
        assert await call(listening.port) == b"hello"


async def test_a_broken_stream_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as listening:
        stream = await dial_tcp("127.0.0.1", listening.port, 5)
        await wait_until(lambda: listening.active == 1)
        stream.abort()
        with trio.fail_after(5):
            await listening.drained()
        assert listening.crashed == 0
        assert not caplog.records


async def test_close_stops_accepting_and_leaves_connections_alone() -> None:
    async with trio.open_nursery() as connections:
        listening = Listening(bind("127.0.0.1", 0), echo, max_connections=10)
        port = listening.port
        async with trio.open_nursery() as accepting:
            accepting.start_soon(listening.serve, connections)
            stream = await dial_tcp("127.0.0.1", port, 5)
            await wait_until(lambda: listening.active == 1)
            listening.close()
            listening.close()
        await stream.send(b"still")  # serve has returned, the connection goes on
        assert await stream.receive(10) == b"still"
        bind("127.0.0.1", port)[0].close()
        stream.close()
        await listening.drained()


class Exhausted(socket.socket):
    """A listening socket whose `accept` fails as long as it is told to."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures[0], os.strerror(self.failures.pop(0)))
        return super().accept()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_exhaustion_pauses_accepting_with_one_line_and_recovers(
    code: int, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.WARNING)
    (plain,) = bind("127.0.0.1", 0)
    sock = Exhausted(fileno=plain.detach())
    sock.setblocking(False)
    sock.failures = [code] * 7
    listening = Listening([sock], echo, max_connections=10, name="public")
    async with trio.open_nursery() as connections:
        connections.start_soon(listening.serve, connections)
        assert await call(listening.port) == b"hello"
        sock.failures = [code] * 3  # soon after: still the same trouble
        assert await call(listening.port) == b"hello"
        assert len(caplog.records) == 1
        await trio.sleep(listen._CALM_SECONDS + 1)
        assert await call(listening.port) == b"hello"
        listening.close()
        connections.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        f"public: accepting rests: {os.strerror(code)}",
        "public: accepting again",
    ]


async def test_clients_never_get_the_last_descriptors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real descriptors: past the share the rest wait, until some of those before them leave."""
    used = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * used + 160, 4 * used + 160))
    monkeypatch.setattr(listen, "_REST_SECONDS", 0.001)
    (sock,) = bind("127.0.0.1", 0)
    listening = Listening([sock], echo, max_connections=1000, name="public", share=0.5)
    ceiling = 2 * used + 80
    async with trio.open_nursery() as connections:
        connections.start_soon(listening.serve, connections)
        clients = [await dial_tcp("127.0.0.1", listening.port, 5) for _ in range(ceiling)]
        await wait_until(lambda: listening._exhausted)
        accepted = listening.accepted
        assert accepted < ceiling
        await trio.sleep(0.02)
        assert listening.accepted == accepted
        for number in range(0, ceiling, 2):  # the two ends of each are descriptors of ours
            clients[number].close()
        await wait_until(lambda: listening.accepted > accepted)
        await clients[1].send(b"x")
        assert await clients[1].receive(1) == b"x"
        for client in clients:
            client.close()
        listening.close()
        connections.cancel_scope.cancel()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"public: accepting rests: {os.strerror(errno.EMFILE)}"]


async def test_a_connection_that_died_in_the_queue_is_passed_over(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    (plain,) = bind("127.0.0.1", 0)
    sock = Exhausted(fileno=plain.detach())
    sock.setblocking(False)
    sock.failures = [errno.ECONNABORTED, errno.EPROTO]
    listening = Listening([sock], echo, max_connections=10, name="public")
    async with trio.open_nursery() as connections:
        connections.start_soon(listening.serve, connections)
        assert await call(listening.port) == b"hello"
        listening.close()
        connections.cancel_scope.cancel()
    assert len(caplog.records) == 1
