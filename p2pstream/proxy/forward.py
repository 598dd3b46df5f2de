"""Forward one request on one upstream connection, its answer back with `respond` (spec §5).

Whose failure it is depends on where it happens, so every await that can fail is translated next
to itself: before the response head to the endings of spec §5, after it to a cut connection.

While the request lasts, a client that hangs up dooms the upstream connection: whatever waits for
the origin ends at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Final

import attrs
import trio

from p2pstream.errors import (
    AgentDisconnected,
    ClientCancelled,
    DeadlineExpired,
    Fault,
    P2PStreamError,
    RequestTimeout,
    ResponseHeaderTimeout,
    StreamError,
    TunnelLost,
    UpstreamClosed,
    taken,
)
from p2pstream.policy.forward import (
    forwarded_trailers,
    max_forwards_line,
    request_block,
    upgrade_lines,
)
from p2pstream.policy.retry import may_retry_pooled
from p2pstream.proxy.body import RequestBody
from p2pstream.proxy.response import CHUNKED, Stale, lost, respond
from p2pstream.proxy.upstream import Upstream
from p2pstream.snapshot import TargetPlan
from p2pstream.wire.http1.head import Fields
from p2pstream.wire.http1.serialize import chunk, last_chunk

if TYPE_CHECKING:
    from p2pstream.proxy.exchange import Exchange

# A kept-alive connection has room for this much whatever the kernel's settings (tcp(7), tcp_wmem:
# 16 KiB are the least it starts with): the kernel takes all of it or nothing.
_ALL_OR_NOTHING: Final = 16 * 1024


async def forward(
    x: Exchange, plan: TargetPlan, upstream: Upstream, reconnect: Callable[[], Awaitable[Upstream]]
) -> None:
    """Send the request on `upstream` and relay the answer; gives the connection back or closes it.

    When a kept-alive connection is found dead before any answer, the request goes once more, on
    what `reconnect` makes, if that is safe.
    """
    client = x.connection.stream.waits
    try:
        upgrade, request = _request(x, plan)
        whole = x.body is None or x.body.complete  # all there is of it is in `request`
        try:
            reusable = await _attempt(x, plan, upstream, request, upgrade)
        except Stale as stale:
            upstream.stream.abort()
            if not may_retry_pooled(x.head.method, whole, not stale.unsent):
                raise UpstreamClosed(f"kept-alive connection: {stale}") from stale
            upstream = await reconnect()
            reusable = await _attempt(x, plan, upstream, request, upgrade)
    except BaseException:
        upstream.stream.abort()
        raise
    finally:
        client.watcher = None
    if reusable and not client.hung_up:  # or else it may be doomed
        upstream.pool.give(upstream, x.connection.server.reactor.now)
    else:
        upstream.stream.close()


async def _attempt(
    x: Exchange, plan: TargetPlan, upstream: Upstream, request: bytes, upgrade: bytes
) -> bool:
    """Send and relay; returns whether the connection may be used again."""
    stream = upstream.stream
    waits = stream.waits
    client = x.connection.stream.waits
    if client.hung_up:
        raise ClientCancelled("the client hung up")
    client.watcher = waits.doom
    waits.stall_seconds = plan.response_timeout
    waits.deadline = x.connection.server.reactor.after(plan.response_timeout)
    if x.trace is not None:
        x.trace.upstream(plan, x.reused, x.connect, request)
    sent = True
    try:
        await stream.send(request)
    except StreamError as error:
        _not_sent(x, request, error)
        sent = False
    if x.body is not None and not x.body.complete:
        return await _with_upload(x, plan, upstream, x.body)
    return await respond(x, upstream, upgrade) and sent


def _not_sent(x: Exchange, request: bytes, error: StreamError) -> None:
    """Sending failed. An origin may answer and close before it has read all: that is for `respond`.

    But of a short request on a kept-alive connection nothing was sent then.
    """
    ending = lost(x, error)
    if not isinstance(ending, (Stale, UpstreamClosed)):
        raise ending from error
    if isinstance(ending, Stale) and len(request) <= _ALL_OR_NOTHING:
        ending.unsent = True
        raise ending from error


# --- the request ----------------------------------------------------------------------------


def _request(x: Exchange, plan: TargetPlan) -> tuple[bytes, bytes]:
    """(the upgrade asked for, the head for the origin with what has come of the body).

    The field lines of a connection's last request are kept.
    """
    head = x.head
    fields = head.fields
    connection = x.connection
    if fields.expect is not None and not head.expects_continue:
        fields = _unexpecting(fields)
    # The block depends on the authority, which is in the fields, but for an absolute-form target.
    known = not head.absolute
    if known and connection.memo_plan is plan and connection.memo_for is fields:
        block = connection.memo_block
    else:
        block = request_block(fields, connection.hop, head.authority, plan.headers)
        if known:
            connection.memo_plan = plan
            connection.memo_for = fields
            connection.memo_block = block
    if fields.max_forwards is not None and b"max-forwards" not in plan.headers.kept_out:
        block += max_forwards_line(head.method, fields)
    first = upgrade = b""
    if x.body is not None:
        framing = CHUNKED if fields.chunked else b"Content-Length: %d\r\n" % (x.body.length or 0)
        first = _framed(x, x.body, x.body.take_buffered(), plan)
    else:
        framing = b"" if fields.content_length is None else b"Content-Length: 0\r\n"
        if fields.upgrade is not None and head.minor_version:  # RFC 9110 §7.8: not in HTTP/1.0
            upgrade = upgrade_lines(fields)
    request = (
        head.method, b" ", head.target, b" HTTP/1.1\r\n", block, framing, upgrade, b"\r\n", first
    )  # fmt: skip
    return upgrade, b"".join(request)


def _unexpecting(fields: Fields) -> Fields:
    """Without `Expect`, which means nothing in HTTP/1.0 or without a body (RFC 9110 §10.1.1)."""
    return attrs.evolve(fields, lines=[line for line in fields.lines if line[0] != b"expect"])


def _framed(x: Exchange, body: RequestBody, pieces: list[bytes], plan: TargetPlan) -> bytes:
    """Payload pieces as they go to the origin: as they are, or in the chunked coding.

    Trailers may not say what the target's own fields say, which nobody but the operator may set.
    """
    if body.length is not None:
        return b"".join(pieces)
    framed = chunk(pieces)
    if body.complete:
        named = x.head.fields.connection
        framed += last_chunk(forwarded_trailers(body.trailers, named, plan.headers.kept_out))
    return framed


async def _with_upload(
    x: Exchange, plan: TargetPlan, upstream: Upstream, body: RequestBody
) -> bool:
    """Send the rest of the body while the answer may already come.

    The connection may be used again only where the origin got the whole body: it would take the
    next request for the rest of this one.
    """
    waits = upstream.stream.waits
    faults: list[P2PStreamError] = []
    reusable = sent = False

    async def upload() -> None:
        nonlocal sent
        ended = await _upload(x, plan, upstream, body)
        if isinstance(ended, Fault):
            faults.append(ended)
            nursery.cancel_scope.cancel()
            return
        sent = ended
        if x.first_byte is None:
            waits.deadline = x.connection.server.reactor.after(plan.response_timeout)

    # The response may be late while the request still comes; but a client that waits to be told
    # to go on sends nothing until then.
    if not x.head.expects_continue or body.received:
        waits.deadline = inf
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        try:
            reusable = await respond(x, upstream, b"")
        except P2PStreamError as fault:
            faults.append(fault)
        nursery.cancel_scope.cancel()
    if faults:
        raise taken(faults)
    return reusable and sent


async def _upload(
    x: Exchange, plan: TargetPlan, upstream: Upstream, body: RequestBody
) -> Fault | bool:
    """Move the rest of the body; returns whether all of it went out, or what ends the exchange.

    An origin that has begun to answer need not take the rest, and its client need not send it.
    """
    stream = upstream.stream
    try:
        pipe = body.pipe_to(stream)
        if pipe is not None:
            with pipe:
                while not body.complete:
                    await body.fill(pipe)
                    stream.waits.deadline = inf
                    await pipe.drain()
        while not body.complete:
            pieces = await body.read()
            stream.waits.deadline = inf
            await stream.send(_framed(x, body, pieces, plan))
    except RequestTimeout as fault:
        return False if x.responding else fault
    except Fault as fault:  # the client's
        return fault
    except DeadlineExpired:
        return False if x.responding else ResponseHeaderTimeout("the origin takes no more")
    except TunnelLost as error:
        return False if x.responding else AgentDisconnected(str(error))
    except StreamError:
        return False  # the origin stopped listening: its answer, or its end, says why
    return True
