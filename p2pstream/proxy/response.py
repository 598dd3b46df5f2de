"""The answer of an origin: its head read, understood and relayed, with the body that follows."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from p2pstream.errors import (
    AgentDisconnected,
    ClientCancelled,
    DeadlineExpired,
    P2PStreamError,
    PeerGone,
    ResponseHeaderTimeout,
    StreamError,
    TunnelLost,
    UpstreamClosed,
    UpstreamInvalidResponse,
)
from p2pstream.policy.forward import response_block, upgrade_lines
from p2pstream.proxy.pump import READ_SIZE, Relay, Splice
from p2pstream.proxy.upstream import Upstream
from p2pstream.wire.http1.body import ChunkedDecoder, Framing, response_framing
from p2pstream.wire.http1.head import (
    Fields,
    HeadError,
    RequestHead,
    ResponseHead,
    find_head_end,
    parse_fields,
    parse_response,
    split_head,
)

if TYPE_CHECKING:
    from p2pstream.proxy.exchange import Exchange

# nginx and Go stop at 32 KiB to 1 MiB; ours is the default that clients' heads have.
_MAX_HEAD: Final = 65_536
# An origin may send interim responses; one that sends nothing else is broken.
_MAX_INTERIM: Final = 100
# Longer heads are understood anew each time: an idle connection should not hold much.
_REMEMBERED_BYTES: Final = 4096
# One call takes any usual head and a small body.
_HEAD_READ_SIZE: Final = 64 * 1024

CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_clock = time.perf_counter


class Stale(P2PStreamError):
    """A kept-alive connection turned out dead before any byte of a response."""

    unsent = False
    """Whether nothing of the request was sent."""


class _Response:
    """A final response's head (or a 101's), and the bytes that came behind it."""

    __slots__ = ("block", "continued", "head", "rest")

    def __init__(
        self, head: ResponseHead, block: bytes, rest: bytes, continued: bool = False
    ) -> None:
        self.head = head
        self.block = block
        """Status line and forwarded fields, ready to send."""
        self.rest = rest
        self.continued = continued
        """Whether a 100 came before it."""


async def respond(x: Exchange, upstream: Upstream, upgrade: bytes) -> bool:
    """Relay the answer of a request that was sent; returns whether `upstream` may be used again.

    `upgrade` is what was asked for. Errors: spec §5's endings; `Stale`.
    """
    response = await _read_response(x, upstream, upgrade)
    head = response.head
    upstream.stream.waits.deadline = inf
    x.first_byte = _clock() - x.started
    x.status = head.status
    if x.trace is not None:
        x.trace.responded(head)
    if head.status == 101:
        await _upgraded(x, upstream, response)
        return False
    framing = response_framing(head, x.head.method)
    upstream.rests = framing is Framing.NONE and (x.head.method == b"HEAD" or head.status == 304)
    if x.body is not None and not x.body.complete:
        x.keep = False  # the answer overtook the body: nobody waits for the rest
    relay = Relay(upstream.stream, x.connection.stream)
    try:
        over = await _relay(x, relay, response, framing)
    finally:
        x.bytes_out += relay.sent
    if x.head.expects_continue and not response.continued:
        # Its client may have sent the body unbidden. Who did not ask for it may think that it
        # never comes, and would read it as the next request.
        return False
    return head.keep_alive and framing is not Framing.UNTIL_CLOSE and not over


def lost(x: Exchange, error: StreamError) -> P2PStreamError:
    """What a failed upstream means before any byte of the response."""
    if isinstance(error, PeerGone):
        return ClientCancelled(str(error))
    if isinstance(error, TunnelLost):
        return AgentDisconnected(str(error))
    if isinstance(error, DeadlineExpired):
        return ResponseHeaderTimeout("no response head in time")
    if x.reused:
        return Stale(str(error))
    return UpstreamClosed(str(error))


# --- the head -------------------------------------------------------------------------------


async def _read_response(x: Exchange, upstream: Upstream, upgrade: bytes) -> _Response:
    """The final response's head, or a 101's; interim ones are passed on."""
    data = await _first_bytes(x, upstream)
    known = upstream.memo_raw
    if known and data.startswith(known) and _is_fresh(x, upstream):
        assert upstream.memo_head is not None
        return _Response(upstream.memo_head, upstream.memo_block, data[len(known) :])
    continued = False
    for _ in range(_MAX_INTERIM):
        raw, data = await _read_head(x, upstream, data)
        head = _understand(raw)
        if head.status == 101 and not _is_asked_for(head.fields, upgrade):
            raise UpstreamInvalidResponse("101 for a protocol that was not asked for")
        if head.status >= 200 or head.status == 101:
            return _Response(head, _block(x, upstream, raw, head), data, continued)
        continued = continued or head.status == 100
        if x.body is not None and not x.body.complete:
            upstream.stream.waits.deadline = inf  # it is there: now the client's body is awaited
        # RFC 9110 §15.2: HTTP/1.0 has no interim responses.
        if x.head.minor_version:
            try:
                await x.send(_interim(head, x.connection.server.date()))
            except BaseException:
                x.responding = True  # half of it may have gone out: no place for another answer
                raise
        await trio.lowlevel.checkpoint()  # a hundred of 64 KiB may be there at once
    raise UpstreamInvalidResponse(f"{_MAX_INTERIM} interim responses and no final one")


async def _first_bytes(x: Exchange, upstream: Upstream) -> bytes:
    """What the answer begins with."""
    try:
        data = await upstream.stream.receive_later(_HEAD_READ_SIZE)
    except StreamError as error:
        raise lost(x, error) from error
    if not data:
        raise Stale("closed") if x.reused else UpstreamClosed("closed without an answer")
    return data


async def _read_head(
    x: Exchange, upstream: Upstream, data: bytes | bytearray
) -> tuple[bytes, bytes]:
    """(one head with its empty line, what came behind it); `data` has come already.

    Something of an answer has been seen by now: whatever fails here, nothing is sent again.
    """
    stream = upstream.stream
    searched = 0
    try:
        if not data:
            data = await stream.receive_later(_HEAD_READ_SIZE)
            if not data:
                raise UpstreamClosed("closed without an answer")
        while True:
            try:
                end = find_head_end(data, searched)
            except HeadError as error:
                raise UpstreamInvalidResponse(str(error)) from error
            if 0 <= end <= _MAX_HEAD:
                return bytes(data[:end]), bytes(data[end:])
            if len(data) > _MAX_HEAD:
                raise UpstreamInvalidResponse("response head too large")
            if not searched:
                data = bytearray(data)
            searched = len(data)
            more = await stream.receive(READ_SIZE)
            if not more:
                raise UpstreamClosed("closed inside the response head")
            data += more
    except StreamError as error:
        ending = lost(x, error)
        raise (UpstreamClosed(str(error)) if isinstance(ending, Stale) else ending) from error


def _understand(raw: bytes) -> ResponseHead:
    try:
        start, lines = split_head(raw)
        return parse_response(start, parse_fields(lines))
    except HeadError as error:
        raise UpstreamInvalidResponse(str(error)) from error


def _is_fresh(x: Exchange, upstream: Upstream) -> bool:
    """Whether the remembered lines have the right `Date`: the origin's, or ours of this second."""
    date = upstream.memo_date
    return date is None or date is x.connection.server.date()


def _block(x: Exchange, upstream: Upstream, raw: bytes, head: ResponseHead) -> bytes:
    """Status line and fields as they go to the client; remembered with the connection."""
    date = x.connection.server.date()
    lines = response_block(head.fields, date)
    block = b"HTTP/1.1 %d %b\r\n%b" % (head.status, head.reason, lines)
    if len(raw) <= _REMEMBERED_BYTES and head.status != 101:
        upstream.memo_raw = raw
        upstream.memo_head = head
        upstream.memo_block = block
        upstream.memo_date = date if head.fields.get(b"date") is None else None
    return block


def _interim(head: ResponseHead, date: bytes) -> bytes:
    """A 1xx as it goes on; a plain 100 says nothing but that."""
    if head.status == 100:
        return _CONTINUE
    lines = response_block(head.fields, date)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, lines)


def _is_asked_for(fields: Fields, upgrade: bytes) -> bool:
    """Whether a 101 switches to what the client asked for (RFC 9110 §7.8), and to nothing else."""
    chosen = upgrade_lines(fields)
    return bool(chosen) and _protocols(chosen) <= _protocols(upgrade)


def _protocols(lines: bytes) -> set[bytes]:
    """The names in what `upgrade_lines` made."""
    _, _, value = lines.lower().rpartition(b"upgrade: ")
    return {name.strip() for name in value.split(b",")}


# --- the body -------------------------------------------------------------------------------


async def _relay(x: Exchange, relay: Relay, response: _Response, framing: Framing) -> bytes:
    """Send head and body; returns what the origin sent past the body's end."""
    rest = response.rest
    rechunk = x.head.minor_version == 1
    length = 0
    if framing is Framing.LENGTH:
        length = response.head.fields.content_length or 0
        framed = b"Content-Length: %d\r\n" % length
    elif framing is Framing.NONE:
        framed = _bodiless_length(x.head, response.head)
    elif rechunk:
        framed = CHUNKED
    else:
        framed = b""
        x.keep = False  # HTTP/1.0: the body ends with the connection
    if response.head.status == 426 and rechunk:  # it must say to what (RFC 9110 §15.5.22)
        framed += upgrade_lines(response.head.fields)
    out = b"".join((response.block, framed, x.connection_line(), b"\r\n"))
    x.responding = True
    if framing is Framing.LENGTH:
        if not rest:  # origins often write the head and the body apart: send them together
            rest = _already_there(relay, length)
        body, rest = rest[:length], rest[length:]
        await relay.send(out + body)
        await relay.length(length - len(body))
        return rest
    await relay.send(out)
    if framing is Framing.CHUNKED:
        named = response.head.fields.connection
        return await relay.chunked(ChunkedDecoder(), rest, rechunk, named)
    if framing is Framing.UNTIL_CLOSE:
        await relay.until_close(rest, rechunk)
        return b""
    return rest


def _already_there(relay: Relay, length: int) -> bytes:
    """The beginning of the body if it can be had without waiting."""
    try:
        return relay.origin.receive_nowait(min(length, READ_SIZE)) or b""
    except StreamError:
        return b""  # told again, and in its place, by the next receive


def _bodiless_length(request: RequestHead, head: ResponseHead) -> bytes:
    """The `Content-Length` line of a response without a body (RFC 9110 §8.6)."""
    if head.status == 204:
        return b""
    if request.method == b"HEAD" or head.status == 304:
        length = head.fields.content_length
        return b"" if length is None else b"Content-Length: %d\r\n" % length
    return b"Content-Length: 0\r\n"


async def _upgraded(x: Exchange, upstream: Upstream, response: _Response) -> None:
    """Join both ends until both directions have ended."""
    x.keep = False
    connection = x.connection
    client = connection.stream
    client.waits.watcher = None  # from here on a half-close is a half-close
    x.responding = True
    await x.send(b"%b%b\r\n" % (response.block, upgrade_lines(response.head.fields)))
    early = connection.buffer
    connection.buffer = b""
    upstream.stream.waits.stall_seconds = x.plan.idle_timeout
    splice = Splice(upstream.stream, client)
    try:
        await splice.run(early, response.rest)
    finally:
        x.bytes_in = splice.received
        x.bytes_out += splice.sent
