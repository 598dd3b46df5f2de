"""WebSockets of the management port (RFC 6455): trio-websocket over our `Stream`.

Rules:

1. Who may not is refused in plain HTTP, before the 101 (`guard` says who may, and that no other
   site's page may). It is asked again with every ping: a session that ends, ends its WebSockets.
2. Whoever talks to a client neither sees it leave nor waits for it for long: when it goes, takes
   nothing, or does not answer a ping, the talk is cancelled.
3. A client says what it wants in the query of its URL. Its messages are read, small, and dropped.
4. `Sockets.drain` ends every talk with 1001, "going away" (RFC 6455 §7.4.1).
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from p2pstream.errors import StreamClosed, StreamError
from p2pstream.manage.endpoints import Given, given
from p2pstream.manage.replies import Unavailable, refusal
from p2pstream.manage.server import Exchange, Handler, Takeover
from p2pstream.net.http import Headers, Request, Response, tokens
from p2pstream.net.stream import Stream

log = logging.getLogger(__name__)

# Clients have nothing to say (rule 3); 1009 past this.
_MAX_MESSAGE: Final = 4_096
# As the agents' tunnels: a viewer that vanished is let go within half a minute.
PING_SECONDS: Final = 20.0
PONG_SECONDS: Final = 10.0
# How long one message may wait for a viewer that takes nothing.
SEND_SECONDS: Final = 10.0
# A closing handshake is one round trip; who does not answer is cut.
_CLOSE_SECONDS: Final = 1.0
# As much as trio-websocket is handed at once.
_RECEIVE: Final = 16_384

_USAGE: Final = 2  # the exit code of a question that is not understood

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_NOT_ALLOWED: Final = 1008

_VERSION: Final = "13"
_UPGRADE: Final[Headers] = (
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", _VERSION),
)
# What trio-websocket needs of the head. What a client offers beside, we do not speak.
_REPLAYED: Final = ("host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version")

Query = Given


class Wire(trio.abc.Stream):
    """Our `Stream` as Trio's; `unread` is received before anything else."""

    def __init__(self, stream: Stream, unread: bytes = b"") -> None:
        self._stream = stream
        self._unread = unread
        self._sending = trio.StrictFIFOLock()  # answers to pings come from another task

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        async with self._sending:
            try:
                await self._stream.send(data)
            except StreamError as error:
                raise _as_trio(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`."""
        unread, self._unread = self._unread, b""
        if unread:
            return unread
        try:
            return await self._stream.receive(max_bytes or _RECEIVE)
        except StreamError as error:
            raise _as_trio(error) from error

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._stream.close()
        await trio.lowlevel.checkpoint()


def _as_trio(error: StreamError) -> Exception:
    kind = trio.ClosedResourceError if isinstance(error, StreamClosed) else trio.BrokenResourceError
    return kind(str(error))


class Socket:
    """One client's WebSocket, as the one who talks to it sees it (rule 2)."""

    def __init__(
        self, connection: WebSocketConnection, peer: str, is_welcome: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._peer = peer
        self._is_welcome = is_welcome
        self._scope = trio.CancelScope()
        self._code = _NORMAL

    async def send(self, message: str) -> None:
        """Send a text message. Cancels the talk when the client does not take it (rule 2)."""
        with trio.move_on_after(SEND_SECONDS) as waiting:
            try:
                await self._connection.send_message(message)
            except ConnectionClosed:
                self._scope.cancel()
        if waiting.cancelled_caught:
            log.info("viewer at %s takes nothing and is let go", self._peer)
            self._scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()

    def end(self, code: int) -> None:
        """End the talk, and say why (RFC 6455 §7.4.1)."""
        self._code = code
        self._scope.cancel()

    async def run(self, talk: Talk) -> None:
        """Talk until either side ends it, and say goodbye."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._keep_alive)
                await talk(self)
                nursery.cancel_scope.cancel()
        with trio.move_on_after(_CLOSE_SECONDS):
            await self._connection.aclose(self._code)

    async def _listen(self) -> None:
        """Notice that the client leaves; the messages are let go (rule 3)."""
        try:
            while True:
                await self._connection.get_message()
        except ConnectionClosed:
            self._scope.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            if not self._is_welcome():
                self.end(_NOT_ALLOWED)
            with trio.move_on_after(PONG_SECONDS) as waiting:
                try:
                    await self._connection.ping()
                except ConnectionClosed:
                    self._scope.cancel()
            if waiting.cancelled_caught:
                log.debug("viewer at %s does not answer", self._peer)
                self._scope.cancel()


Talk = Callable[[Socket], Awaitable[None]]
"""Sends what a client asked for; returns when there is no more, or is cancelled (rule 2)."""


class Sockets:
    """The WebSockets of one server. `refuse` answers who is no administrator; None lets in."""

    def __init__(self, refuse: Callable[[Exchange], Response | None]) -> None:
        self._refuse = refuse
        self._open: set[Socket] = set()
        self._ended = trio.Event()  # set, and replaced, whenever one ends

    def __len__(self) -> int:
        return len(self._open)

    def handler(self, prepare: Callable[[Query], Talk]) -> Handler:
        """A handler for `manage.server`; `prepare` may raise `ValueError` or `Unavailable`: 400 or
        503, with its text.
        """

        async def handle(exchange: Exchange) -> Response | Takeover:
            request = exchange.request
            refused = self._refuse(exchange) or _check(request)
            if refused is not None:
                return refused
            try:
                talk = prepare(given(request.query))
            except ValueError as error:
                return refusal((str(error),), _USAGE)
            except Unavailable as error:
                return refusal((str(error),), error.exit_code, status=503)
            if exchange.connection.early_bytes():
                return Response.text(400, "nothing may be sent before the 101")
            return partial(self._serve, exchange, talk)

        return handle

    async def drain(self) -> None:
        """End every talk with 1001, and wait for it."""
        for socket in self._open:
            socket.end(_GOING_AWAY)
        while self._open:
            await self._ended.wait()

    async def _serve(self, exchange: Exchange, talk: Talk) -> None:
        stream = exchange.stream
        stream.waits.deadline = inf
        wire = Wire(stream, _replay(exchange.request))
        async with trio.open_nursery() as nursery:  # for trio-websocket's reader
            connection = None
            try:
                offered = await wrap_server_stream(
                    nursery, wire, max_message_size=_MAX_MESSAGE, receive_buffer_size=_RECEIVE
                )
                connection = await offered.accept()
            except (ConnectionClosed, trio.BrokenResourceError):
                pass  # it left before our 101
            if connection is not None:
                socket = Socket(connection, exchange.peer, lambda: self._refuse(exchange) is None)
                self._open.add(socket)
                try:
                    await socket.run(talk)
                finally:
                    self._open.discard(socket)
                    self._ended.set()
                    self._ended = trio.Event()
            nursery.cancel_scope.cancel()


def _check(request: Request) -> Response | None:
    """The refusal of what is no opening handshake (RFC 6455 §4.2.1)."""
    asked = "websocket" in tokens(request.headers, "upgrade")
    wants = "upgrade" in tokens(request.headers, "connection")
    version = (request.header("sec-websocket-version") or "").strip()
    if not (asked and wants and version == _VERSION) or request.http_version != "1.1":
        return Response.text(426, "this is a WebSocket, version 13", _UPGRADE)
    if request.method != "GET":
        return Response.text(405, "method not allowed", (("allow", "GET"),))
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except binascii.Error:
        key = b""
    if len(key) == 16:
        return None
    return Response.text(400, "Sec-WebSocket-Key must be 16 bytes in base64")


def _replay(request: Request) -> bytes:
    """The head once more, for trio-websocket to read: ours has been read already."""
    lines = [f"{name}: {value}" for name, value in request.headers if name in _REPLAYED]
    return "\r\n".join((f"GET {request.target} HTTP/1.1", *lines, "", "")).encode("latin-1")
