"""The management server: health for machines, the agents' way in; API and dashboard join by `add`.

Rules:

1. Everything is served under the base path of `public_url`; `/healthz` and `/readyz` also without
   it, for probes on the host itself.
2. Nobody may be slow: handshake and head share one deadline, and so does every later head.
3. A handler returns its response, or, after it switched protocols, what goes on with the
   connection from there: that runs when all that HTTP needed has been let go, because a tunnel
   idles for months.
4. Every response carries what keeps browsers from harm, see `replies`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

import trio
from attrs import evolve, frozen

from p2pstream.agents.hub import Hub
from p2pstream.config import model
from p2pstream.errors import CommandError, DeadlineExpired, Fault, StreamBroken, StreamError
from p2pstream.manage import identity
from p2pstream.manage.attach import Attach
from p2pstream.manage.replies import not_found, secured, wrong_method
from p2pstream.net.http import Request, Response, ServerConnection
from p2pstream.net.listen import Listening, bind
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls_stream import TlsStream

log = logging.getLogger(__name__)

# A handshake and a head take two round trips; ten seconds is a bad mobile line with losses.
_HEAD_SECONDS: Final = 10.0
# A dashboard left open keeps its connection this long; agents' tunnels have their keepalive.
_IDLE_SECONDS: Final = 60.0
# From first byte to last of a response to a slow reader.
_RESPONSE_SECONDS: Final = 30.0
# How long, and over how many reads, a client may still be sending what nobody wants.
_LINGER_SECONDS: Final = 2.0
_LINGER_READS: Final = 16
# A thousand agents, as many coming back at once, and people.
_MAX_CONNECTIONS: Final = 4_096
# Certificates are looked after twice a day: a leaf is due 30 days ahead, and an operator's new
# file is shown on the day it was put there.
_REFRESH_SECONDS: Final = 43_200.0

_SPEAKS_TLS: Final = Response.text(400, "this port speaks HTTPS")


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@frozen
class Exchange:
    """One request to answer: `connection` gives its body, or switches protocols.

    `values` are the pieces of its path that the handler's path has names for, decoded.
    """

    request: Request
    connection: ServerConnection
    peer: str
    values: Mapping[str, str] = _NONE

    @property
    def stream(self) -> Stream:
        """The connection underneath."""
        return self.connection.stream


Takeover = Callable[[], Awaitable[None]]
"""Runs for as long as the connection lasts; it is closed afterwards."""

Answer = Response | Takeover | None
"""None: the handler itself was all there was, and the connection is done with."""

Handler = Callable[[Exchange], Awaitable[Answer]]


class Router:
    """Paths to handlers, below a base path.

    A segment `{name}` of a path stands for any one segment, and its value is handed on; a path
    without such names wins. Paths are compared as they came, values are percent-decoded.
    """

    def __init__(self, base: str = "") -> None:
        self.base = base
        self._routes: dict[str, dict[str, Handler]] = {}
        self._named: dict[int, list[tuple[list[str], dict[str, Handler]]]] = {}  # by segments

    def add(self, method: str, path: str, handler: Handler, *, also_at_root: bool = False) -> None:
        """Serve `path` (begins with `/`) below the base; `*` is every method, GET also HEAD."""
        for where in {self.base + path, path} if also_at_root else {self.base + path}:
            if where not in self._routes:
                self._routes[where] = {}
                segments = where.split("/")
                if any(map(_named, segments)):
                    known = self._named.setdefault(len(segments), [])
                    known.append((segments, self._routes[where]))
            self._routes[where][method] = handler

    async def respond(self, exchange: Exchange) -> Answer:
        """Answer a request: 404 and 405 too."""
        path = exchange.request.path
        methods, values = self._find(path)
        if methods is None:
            return not_found(path.removeprefix(self.base))
        method = exchange.request.method
        handler = methods.get("GET" if method == "HEAD" else method) or methods.get("*")
        if handler is None:
            allowed = {*methods, *(["HEAD"] if "GET" in methods else [])}
            return wrong_method(path.removeprefix(self.base), allowed)
        return await handler(evolve(exchange, values=values) if values else exchange)

    def _find(self, path: str) -> tuple[Mapping[str, Handler] | None, Mapping[str, str]]:
        methods = self._routes.get(path)
        if methods is not None and "{" not in path:
            return methods, _NONE
        given = path.split("/")
        for segments, methods in self._named.get(len(given), ()):
            if all(_named(own) or own == one for own, one in zip(segments, given, strict=True)):
                pairs = zip(segments, given, strict=True)
                return methods, {own[1:-1]: unquote(one) for own, one in pairs if _named(own)}
        return None, _NONE


def _named(segment: str) -> bool:
    return segment.startswith("{")


class Management:
    """The management port. `add` handlers before `serve`."""

    def __init__(self, config: model.Management, state_dir: Path, hub: Hub) -> None:
        self._config = config
        self._state_dir = state_dir
        self._hub = hub
        self._context: ssl.SSLContext | None = None
        self._ca_pem: bytes | None = None
        self.ready: Callable[[], bool] = lambda: True
        """What `/readyz` asks, beside whether we are draining."""
        self.port = config.port
        """Where it listens, once it does."""
        self.router = Router(identity.base_path(config))
        self.router.add("GET", "/healthz", self._health, also_at_root=True)
        self.router.add("GET", "/readyz", self._readiness, also_at_root=True)
        self.router.add("GET", "/agent/ca.pem", self._ca_certificate)
        self.router.add("*", "/agent/tunnel", Attach(hub))

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once it listens. Errors: `CommandError`."""
        now = datetime.now(UTC)
        self._context = identity.make_context(self._config, self._state_dir, now)
        self._ca_pem = identity.ca_pem(self._config, self._state_dir, now)
        sockets = bind(self._config.bind_address, self._config.port)
        listening = Listening(
            sockets, self._serve_one, max_connections=_MAX_CONNECTIONS, name="management"
        )
        self.port = listening.port
        scheme = "http" if self._context is None else "https"
        where = self._config.bind_address or "*"
        log.info("management on %s://%s:%d", scheme, where, self.port)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listening.serve, nursery)
                nursery.start_soon(self._refresh_forever)
                task_status.started()
        finally:
            listening.close()

    async def _refresh_forever(self) -> None:
        while self._context is not None:
            await trio.sleep(_REFRESH_SECONDS)
            try:
                identity.refresh(self._context, self._config, self._state_dir, datetime.now(UTC))
            except CommandError as error:
                log.error("management: the certificate stays as it was: %s", error)

    async def _serve_one(self, tcp: TcpStream, peer: str) -> None:
        tcp.waits.deadline = current_reactor().after(_HEAD_SECONDS)
        stream = tcp if self._context is None else await self._secured(tcp, self._context)
        try:
            takeover = await self._serve_requests(stream, peer)
            if takeover is not None:
                await takeover()
        finally:
            stream.close()

    async def _secured(self, tcp: TcpStream, context: ssl.SSLContext) -> Stream:
        tls = TlsStream(tcp, context, server_side=True)
        try:
            await tls.handshake()
        except StreamBroken:
            if tls.plain_http:
                await ServerConnection(tcp).respond(_SPEAKS_TLS, close=True)
                await _linger(tcp)
            raise
        return tls

    async def _serve_requests(self, stream: Stream, peer: str) -> Takeover | None:
        connection = ServerConnection(stream)
        try:
            while (request := await connection.next_request()) is not None:
                stream.waits.deadline = current_reactor().after(_RESPONSE_SECONDS)
                answer = await self.router.respond(Exchange(request, connection, peer))
                if not isinstance(answer, Response):
                    return answer
                await connection.respond(secured(answer), head=request.method == "HEAD")
                if not connection.start_next():
                    await _linger(stream)
                    break
                stream.waits.deadline = current_reactor().after(_IDLE_SECONDS)
        except Fault as fault:
            refused = Response.text(fault.status, fault.kind)
            await connection.respond(secured(refused), close=True)
            await _linger(stream)
        except DeadlineExpired:
            pass  # nothing is owed to who asked nothing, or asks too slowly
        return None

    async def _health(self, _: Exchange) -> Response:
        return Response.text(200, "ok")

    async def _readiness(self, _: Exchange) -> Response:
        if self._hub.draining:
            return Response.text(503, "draining")
        return Response.text(200, "ready") if self.ready() else Response.text(503, "not ready")

    async def _ca_certificate(self, _: Exchange) -> Response:
        if self._ca_pem is None:
            return Response.text(404, "this server's certificate needs no CA of its own")
        return Response(200, self._ca_pem, (("content-type", "application/x-pem-file"),))


async def _linger(stream: Stream) -> None:
    """Take in what the client still sends, for a while: closing with bytes unread would make the
    kernel reset the connection, and the client may lose our answer (RFC 9112 §9.6).
    """
    stream.waits.deadline = current_reactor().after(_LINGER_SECONDS)
    try:
        await stream.send_eof()
        for _ in range(_LINGER_READS):
            if not await stream.receive(65_536):
                break
    except StreamError:
        pass  # it left, or would go on for ever
