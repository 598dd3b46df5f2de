"""HTTP/1.1 of the control plane: h11 driven over a `Stream`, as server and as client.

Management, the agents' bootstrap and health probes speak through this. It is small and exact, not
fast; the public traffic has its own parser in `wire.http1`.

Rules:

1. Nobody is waited for without end: the caller sets `stream.waits.deadline`, and sizes have limits.
2. Field names are lower-case, values are Latin-1 text (RFC 9110 §5.5: bytes that we do not read).
3. What came after the head of an upgraded connection is handed over, never lost.
4. A request may name its target by a whole URL (RFC 9112 §3.2.2); who answers sees its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeVar

import h11
from attrs import frozen

from p2pstream.errors import (
    BodyTooLarge,
    HeaderTooLarge,
    InvalidRequest,
    UpstreamClosed,
    UpstreamInvalidResponse,
)
from p2pstream.net.stream import Stream

Headers = tuple[tuple[str, str], ...]

# A management request is a browser's with a cookie at most, an agent's far less.
_MAX_REQUEST_HEAD: Final = 32_768
# What origins send to probes; nginx and Go stop near here too.
_MAX_RESPONSE_HEAD: Final = 65_536
_RECEIVE: Final = 65_536
_AUTHORITY: Final = re.compile("https?://[^/?]*", re.IGNORECASE)

_E = TypeVar("_E", bound=h11.Event)


def _origin_form(target: str) -> str:
    """What follows the authority of a target that is a whole URL (rule 4); any other as it is."""
    authority = _AUTHORITY.match(target)
    if authority is None:
        return target
    rest = target[authority.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def header(headers: Headers, name: str) -> str | None:
    """The field's value, repeated ones joined by `, ` (RFC 9110 §5.3); None if it is absent."""
    values = [value for key, value in headers if key == name]
    return ", ".join(values) if values else None


def tokens(headers: Headers, name: str) -> frozenset[str]:
    """A list-valued field as lower-case elements, e.g. `Connection` or `Upgrade`."""
    listed = (header(headers, name) or "").split(",")
    return frozenset(element.strip().lower() for element in listed if element.strip())


@frozen
class Request:
    """A request's head. `target` is as it stands in the request line."""

    method: str
    target: str
    headers: Headers
    http_version: str = "1.1"

    @property
    def path(self) -> str:
        """The target without its query, still percent-encoded."""
        return _origin_form(self.target).partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the `?`, or nothing."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """See `header`; `name` is lower-case."""
        return header(self.headers, name)


@frozen
class Response:
    """A whole response. Framing fields are written by `ServerConnection`, not given here."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    @classmethod
    def text(cls, status: int, text: str, headers: Headers = ()) -> Response:
        """Make a short `text/plain` answer; the line end is added."""
        kind = ("content-type", "text/plain; charset=utf-8")
        return cls(status, f"{text}\n".encode(), (kind, *headers))

    def header(self, name: str) -> str | None:
        """See `header`; `name` is lower-case."""
        return header(self.headers, name)


class ServerConnection:
    """One client's connection: requests one after another, or one that takes it over."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_HEAD)

    async def next_request(self) -> Request | None:
        """The next head, None when the client is done.

        Errors: `InvalidRequest`, `HeaderTooLarge`, those of the stream.
        """
        event = await self._next_event()
        if isinstance(event, h11.ConnectionClosed):
            return None
        assert isinstance(event, h11.Request)
        return Request(
            event.method.decode("ascii"),
            event.target.decode("latin-1"),
            _decoded(event.headers),
            event.http_version.decode("ascii"),
        )

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body of the request. Errors: `BodyTooLarge` and those of `next_request`."""
        body = bytearray()
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise BodyTooLarge(f"more than {max_bytes} bytes")
        return bytes(body)

    async def respond(self, response: Response, *, head: bool = False, close: bool = False) -> None:
        """Send a response; `head` keeps its body back, `close` makes it the connection's last.

        So does a request body that is not all here: nobody is going to read it.
        """
        fields = [*response.headers, ("content-length", str(len(response.body)))]
        if response.status in (204, 304):
            fields.pop()
        if close or not self._request_is_whole():
            fields.append(("connection", "close"))
        await self._send(
            h11.Response(status_code=response.status, headers=_encoded(fields)),
            *([] if head or not response.body else [h11.Data(data=response.body)]),
            h11.EndOfMessage(),
        )

    def _request_is_whole(self) -> bool:
        """Whether all of the request is here, whoever read it."""
        try:
            while self._h11.their_state is h11.SEND_BODY:
                if self._pull() is h11.NEED_DATA:
                    return False
        except InvalidRequest:
            return False
        return self._h11.their_state is not h11.ERROR

    def start_next(self) -> bool:
        """Get ready for another request; False if this connection can carry none."""
        if self._h11.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._h11.start_next_cycle()
        return True

    def early_bytes(self) -> bool:
        """Whether the client sent something beyond the head that it should have waited with, or
        has left. For connections about to switch, or to be closed: what is found is not kept.
        """
        if self._h11.their_state is h11.SEND_BODY:
            event = self._pull()
            if not isinstance(event, h11.EndOfMessage):
                return True
        return bool(self._h11.trailing_data[0]) or self.stream.receive_nowait(1) is not None

    async def switch(self, headers: Headers) -> None:
        """Send the 101; from then on the stream belongs to the caller."""
        await self._send(h11.InformationalResponse(status_code=101, headers=_encoded(headers)))

    def _pull(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            kind = HeaderTooLarge if error.error_status_hint == 431 else InvalidRequest
            raise kind(str(error)) from error

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._pull()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.stream.receive(_RECEIVE))
            elif isinstance(event, h11.Event):
                return event
            else:
                raise InvalidRequest("a request came before the last one was answered")

    async def _send(self, *events: h11.Event) -> None:
        pieces = [self._h11.send(event) or b"" for event in events]
        await self.stream.send(b"".join(pieces))


@frozen
class Upgraded:
    """A 101: the stream now speaks something else, beginning with `leftover`."""

    headers: Headers
    leftover: bytes


class ClientConnection:
    """One request over a stream of its own."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RESPONSE_HEAD)
        self._ended = False

    async def request(self, request: Request, body: bytes = b"") -> None:
        """Send a request; `host` must be among its fields.

        A body is sent with its length.
        """
        fields = list(request.headers)
        if body:
            fields.append(("content-length", str(len(body))))
        pieces = [
            self._h11.send(
                h11.Request(method=request.method, target=request.target, headers=_encoded(fields))
            ),
            self._h11.send(h11.Data(data=body)) if body else b"",
            self._h11.send(h11.EndOfMessage()),
        ]
        await self.stream.send(b"".join(piece or b"" for piece in pieces))

    async def response(self, max_body_bytes: int) -> Response | Upgraded:
        """Receive the response, at most `max_body_bytes` of its body; the rest is not read.

        Other 1xx are passed over. Errors: `UpstreamClosed` (before all of it was here),
        `UpstreamInvalidResponse`, those of the stream.
        """
        head = await self._next_event()
        while isinstance(head, h11.InformationalResponse):
            if head.status_code == 101:
                return Upgraded(_decoded(head.headers), self._h11.trailing_data[0])
            head = await self._next_event()
        assert isinstance(head, h11.Response)
        body = bytearray()
        while len(body) < max_body_bytes:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                break
            body += event.data
        return Response(head.status_code, bytes(body[:max_body_bytes]), _decoded(head.headers))

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                if self._ended:
                    raise UpstreamClosed("closed before its response was whole") from error
                raise UpstreamInvalidResponse(str(error)) from error
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise UpstreamInvalidResponse("it changed the protocol unasked")
            data = await self.stream.receive_later(_RECEIVE)
            self._ended = not data
            self._h11.receive_data(data)


async def fetch(
    stream: Stream, request: Request, *, body: bytes = b"", max_body_bytes: int
) -> Response:
    """Send one request and receive its response; see `ClientConnection` for errors.

    A 101 that was not asked for is `UpstreamInvalidResponse`.
    """
    connection = ClientConnection(stream)
    await connection.request(request, body)
    response = await connection.response(max_body_bytes)
    if isinstance(response, Upgraded):
        raise UpstreamInvalidResponse("it changed the protocol unasked")
    return response


async def upgrade(stream: Stream, request: Request) -> Upgraded | Response:
    """Send a request with `Connection: Upgrade`; a refusal comes with at most 4 KiB of its body."""
    connection = ClientConnection(stream)
    await connection.request(request)
    return await connection.response(4_096)


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in headers)


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
