from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
)

from p2pstream.manage import websocket
from p2pstream.manage.replies import Unavailable
from p2pstream.manage.server import Exchange
from p2pstream.manage.websocket import Query, Socket, Sockets, Talk, Wire
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, fetch
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream

BEARER = ("authorization", "Bearer right")
COOKIE = ("cookie", "session=right")
HOST = "dashboard.example"
OPENING = (
    ("host", HOST),
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)


ENDED: list[str] = []


def refuse(exchange: Exchange) -> Response | None:
    """In place of `guard`."""
    fields = exchange.request.headers
    if ENDED:
        return Response.text(401, "no longer")
    return None if BEARER in fields or COOKIE in fields else Response.text(401, "unauthorized")


class Echo:
    """A talk that tells what it was asked for, and how it ends."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.big = False
        self.stays = True

    def prepare(self, query: Query) -> Talk:
        if "bad" in query:
            raise ValueError("bad must not be given")
        if "later" in query:
            raise Unavailable("too many already")

        async def talk(socket: Socket) -> None:
            try:
                await socket.send(f"hello {','.join(query.get('name', []))}")
                while self.big:
                    await socket.send("x" * 100_000)
                if self.stays:
                    await trio.sleep_forever()
            finally:
                self.ended.set()

        return talk


@asynccontextmanager
async def serving(open_world: Any, **settings: Any) -> AsyncIterator[tuple[Any, Sockets, Echo]]:
    async with open_world(**{"tls": "off", **settings}) as world:
        sockets, echo = Sockets(refuse), Echo()
        world.management.router.add("GET", "/ws", sockets.handler(echo.prepare))
        yield world, sockets, echo


async def dialled(world: Any) -> Stream:
    stream: Stream = await dial_tcp("127.0.0.1", world.management.port, 5)
    if world.config.tls != "off":
        stream = TlsStream(stream, client_context(verify=False), server_hostname="127.0.0.1")
        await stream.handshake()
    return stream


@asynccontextmanager
async def client(
    world: Any, target: str = "/ws", *fields: tuple[str, str]
) -> AsyncIterator[WebSocketConnection]:
    stream = await dialled(world)
    extra = [(name.encode(), value.encode()) for name, value in fields or (BEARER,)]
    async with trio.open_nursery() as nursery:
        try:
            yield await wrap_client_stream(nursery, Wire(stream), HOST, target, extra_headers=extra)  # type: ignore[arg-type]  # it says SocketStream, and takes any
        finally:
            stream.close()
            nursery.cancel_scope.cancel()


async def ask(world: Any, headers: Any, target: str = "/ws", method: str = "GET") -> Response:
    stream = await dialled(world)
    try:
        return await fetch(stream, Request(method, target, tuple(headers)), max_body_bytes=1_000)
    finally:
        stream.close()


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_a_talk_over_the_management_port(open_world: Any, tls: str) -> None:
    async with serving(open_world, tls=tls) as (world, sockets, echo):
        async with client(world, "/ws?name=you") as ws:
            assert await ws.get_message() == "hello you"
            assert len(sockets) == 1
            await ws.ping()
        with trio.fail_after(5):
            await echo.ended.wait()


async def test_a_talk_that_ends_closes_with_1000(open_world: Any) -> None:
    async with serving(open_world) as (world, sockets, echo):
        echo.stays = False
        async with client(world) as ws:
            await ws.get_message()
            with pytest.raises(ConnectionClosed) as closed:
                await ws.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1000
        await trio.testing.wait_all_tasks_blocked()
        assert len(sockets) == 0


async def test_draining_ends_every_talk_with_1001(open_world: Any) -> None:
    async with serving(open_world) as (world, sockets, _echo):
        async with client(world) as one, client(world) as other:
            await one.get_message()
            await other.get_message()
            await sockets.drain()
            for ws in (one, other):
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.get_message()
                assert closed.value.reason is not None
                assert closed.value.reason.code == 1001
        assert len(sockets) == 0


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_leaves_ends_the_talk(open_world: Any, politely: bool) -> None:
    async with serving(open_world) as (world, sockets, echo):
        before = current_reactor().streams
        async with client(world) as ws:
            await ws.get_message()
            if politely:
                await ws.aclose()
        with trio.fail_after(5):
            await echo.ended.wait()
            while current_reactor().streams > before:  # noqa: ASYNC110 - nothing says so
                await trio.sleep(0.005)
        assert len(sockets) == 0


async def test_a_client_that_takes_nothing_is_let_go(
    open_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "SEND_SECONDS", 0.2)
    async with serving(open_world) as (world, sockets, echo):
        echo.big = True
        stream = await dialled(world)
        try:
            head = (*OPENING, BEARER)
            lines = "".join(f"{name}: {value}\r\n" for name, value in head)
            await stream.send(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
            with trio.fail_after(10):
                await echo.ended.wait()
                while sockets:  # noqa: ASYNC110 - its goodbye takes a second
                    await trio.sleep(0.01)
        finally:
            stream.close()


async def test_a_client_that_answers_no_ping_is_let_go(
    open_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.05)
    monkeypatch.setattr(websocket, "PONG_SECONDS", 0.1)
    async with serving(open_world) as (world, _, echo):
        stream = await dialled(world)
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in (*OPENING, BEARER))
            await stream.send(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
            with trio.fail_after(5):
                await echo.ended.wait()
        finally:
            stream.close()


async def test_pings_keep_a_quiet_talk(open_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.01)
    async with serving(open_world) as (world, sockets, echo), client(world) as ws:
        await ws.get_message()
        for _ in range(5):
            await ws.ping()
            await trio.sleep(0.02)
        assert len(sockets) == 1
        assert not echo.ended.is_set()


async def test_who_is_no_longer_welcome_is_told_1008(
    open_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.01)
    async with serving(open_world) as (world, _, _echo), client(world) as ws:
        await ws.get_message()
        monkeypatch.setattr(f"{__name__}.ENDED", ["the session"])
        with trio.fail_after(5), pytest.raises(ConnectionClosed) as closed:
            await ws.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1008


async def test_small_messages_are_dropped_and_large_ones_refused(open_world: Any) -> None:
    async with serving(open_world) as (world, _, echo), client(world) as ws:
        await ws.get_message()
        for _ in range(10):
            await ws.send_message("whatever")
        await ws.ping()
        assert not echo.ended.is_set()
        await ws.send_message("x" * 5_000)
        with trio.fail_after(5), pytest.raises(ConnectionClosed) as closed:
            await ws.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1009


async def test_garbage_after_the_101_ends_the_talk(open_world: Any) -> None:
    async with serving(open_world) as (world, _, echo):
        stream = await dialled(world)
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in (*OPENING, BEARER))
            await stream.send(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
            assert (await stream.receive(10_000)).startswith(b"HTTP/1.1 101")
            await stream.send(b"\xff" * 100)
            with trio.fail_after(5):
                await echo.ended.wait()
        finally:
            stream.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((BEARER,), 101),
        ((COOKIE, ("origin", f"https://{HOST}")), 101),
        ((), 401),
        ((("authorization", "Bearer wrong"),), 401),
    ],
)
async def test_who_is_let_in(open_world: Any, fields: Any, status: int) -> None:
    async with serving(open_world) as (world, _, _echo):
        if status == 101:
            async with client(world, "/ws", *fields) as ws:
                assert await ws.get_message() == "hello "
            return
        assert (await ask(world, (*OPENING, *fields))).status == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"upgrade": None}, 426),
        ({"connection": None}, 426),
        ({"upgrade": "p2pstream-yamux"}, 426),
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": None}, 400),
        ({"sec-websocket-key": "c2hvcnQ="}, 400),
        ({"sec-websocket-key": "!!!!"}, 400),
    ],
)
async def test_what_is_no_opening_is_refused_in_http(
    open_world: Any, change: dict[str, str | None], status: int
) -> None:
    fields = {**dict(OPENING), BEARER[0]: BEARER[1], **change}
    async with serving(open_world) as (world, _, _echo):
        answer = await ask(world, [(k, v) for k, v in fields.items() if v is not None])
        assert answer.status == status
        if status == 426:
            assert answer.header("upgrade") == "websocket"
            assert answer.header("sec-websocket-version") == "13"


async def test_a_bad_question_is_refused_before_the_101(open_world: Any) -> None:
    async with serving(open_world) as (world, _, _echo):
        answer = await ask(world, (*OPENING, BEARER), "/ws?bad=1")
        assert answer.status == 400
        assert b"bad must not be given" in answer.body
        answer = await ask(world, (*OPENING, BEARER), "/ws?name=%FF")
        assert (answer.status, json.loads(answer.body)["exit_code"]) == (400, 2)
        answer = await ask(world, (*OPENING, BEARER), "/ws?later=1")
        assert answer.status == 503
        assert json.loads(answer.body) == {"faults": ["too many already"], "exit_code": 1}
        assert (await ask(world, (*OPENING, BEARER), "/ws", "HEAD")).status == 405


async def test_frames_ahead_of_the_101_are_refused(open_world: Any) -> None:
    async with serving(open_world) as (world, _, _echo):
        stream = await dialled(world)
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in (*OPENING, BEARER))
            await stream.send(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode() + b"\x81\x80abcd")
            assert (await stream.receive(10_000)).startswith(b"HTTP/1.1 400")
        finally:
            stream.close()
