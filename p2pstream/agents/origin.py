"""An agent's end of one stream: read the opening, dial the origin, answer, pass bytes on.

Rules:

1. Each direction ends on its own: an end passes through as an end, and the other goes on.
2. A broken direction breaks both, and on both sides as a reset: neither may take a part for the
   whole.
3. Whoever asked and left (reset the stream) is not dialled for any longer.
"""

from __future__ import annotations

import time
from math import inf
from typing import Final

import trio
from attrs import frozen

from p2pstream.agents.allow import Allow
from p2pstream.agents.tunnel import receive_opening
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.errors import (
    ConnectFailed,
    ConnectTimeout,
    DeadlineExpired,
    P2PStreamError,
    PeerGone,
    StreamError,
    bare,
    taken,
)
from p2pstream.net.dial import connect, connect_first, is_literal, resolve
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.wire.opening import (
    ErrorKind,
    OpeningError,
    OpenRequest,
    ReportRequest,
    Verdict,
    parse_request,
)

# The server sends its opening together with the stream; longer means that it never will.
_OPENING_SECONDS: Final = 10.0
# The longest `upstream_connect_timeout_millis`: the server's own, shorter limit resets the stream.
_DIAL_SECONDS: Final = 60.0
# One full frame a read from the origin; to it, what several frames brought.
_FROM_ORIGIN: Final = 65_536
_TO_ORIGIN: Final = 262_144


@frozen
class Dialled:
    """A connection to an origin, and how long it took (nanoseconds)."""

    stream: TcpStream
    dns_nanos: int
    dial_nanos: int


class Refused(P2PStreamError):
    """The stream is answered with this verdict."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.verdict = Verdict(False, kind, message)


async def receive_request(stream: TunnelStream) -> OpenRequest | ReportRequest | None:
    """What the server asks for; None: no request came, and the stream was answered.

    Errors: those of the stream.
    """
    stream.waits.deadline = current_reactor().after(_OPENING_SECONDS)
    try:
        return parse_request(await receive_opening(stream))
    except OpeningError as error:
        verdict = Verdict(False, error.kind, str(error))
    except DeadlineExpired:
        message = f"no opening within {_OPENING_SECONDS:.0f} s"
        verdict = Verdict(False, ErrorKind.OPEN_REQUEST_TIMEOUT, message)
    finally:
        stream.waits.deadline = inf
    await stream.send(verdict.encode())
    return None


async def serve_request(
    stream: TunnelStream, request: OpenRequest, allow: Allow, has_room: bool
) -> None:
    """All of one stream after its opening. Errors: those of the stream; it is reset then."""
    try:
        if not has_room:
            raise Refused(ErrorKind.AGENT_CAPACITY, "as many streams as were agreed are open")
        dialled = await _dial_while_wanted(stream, allow, request)
    except Refused as refused:
        await stream.send(refused.verdict.encode())
        return
    if dialled is None:
        return
    try:
        timings = (dialled.dial_nanos, dialled.dns_nanos) if request.trace_timings else (None, None)
        await stream.send(Verdict(True, None, "", *timings).encode())
        await _relay(stream, dialled.stream)
    except BaseException:
        dialled.stream.abort()
        raise
    dialled.stream.close()


async def _dial_while_wanted(
    stream: TunnelStream, allow: Allow, request: OpenRequest
) -> Dialled | None:
    """Dial, unless the stream is reset meanwhile: None."""
    with trio.CancelScope() as scope:

        def left(_: PeerGone) -> None:
            if stream.waits.was_reset:  # an end alone is a half-close; it passes through later
                scope.cancel()

        stream.waits.watcher = left
        try:
            return await dial_origin(allow, request.host, request.port)
        finally:
            stream.waits.watcher = None
    return None


async def dial_origin(allow: Allow, host: str, port: int) -> Dialled:
    """Connect to what the rules allow of `host`. Errors: `Refused`."""
    start = time.perf_counter_ns()
    resolved = start
    deadline = trio.current_time() + _DIAL_SECONDS
    try:
        if is_literal(host):
            if not allow.allows_address(host, port):
                raise _forbidden(host, port)
            stream = await connect(host, port, deadline)
        else:
            found = await resolve(host, port, deadline)
            resolved = time.perf_counter_ns()
            addresses = allow.allowed(host, found, port)
            if not addresses:
                raise _forbidden(host, port)
            stream = await connect_first(addresses, port, deadline)
    except ConnectTimeout as error:
        raise Refused(ErrorKind.DIAL_TIMEOUT, error.detail) from error
    except ConnectFailed as error:
        raise Refused(ErrorKind.DIAL_FAILED, error.detail) from error
    return Dialled(stream, resolved - start, time.perf_counter_ns() - resolved)


def _forbidden(host: str, port: int) -> Refused:
    return Refused(ErrorKind.DIAL_FORBIDDEN, f"no --allow rule of this agent covers {host}:{port}")


async def _sent(origin: Stream, data: bytes) -> bool:
    """Whether the origin still takes something."""
    try:
        await origin.send(data)
    except StreamError:
        return False
    return True


async def _relay(stream: TunnelStream, origin: Stream) -> None:
    """Pass bytes on in both directions until both have ended. Errors: of the first that broke.

    An origin may answer and close before it has read all that it is sent: what it does not take
    is dropped, and its answer goes back all the same. What came before a reset is passed on.
    """
    failures: list[StreamError] = []
    heard = False  # a reset of the stream is met by who receives from it

    def failed(error: StreamError) -> None:
        failures.append(bare(error))
        nursery.cancel_scope.cancel()

    def left(gone: PeerGone) -> None:
        if stream.waits.was_reset and not heard:  # an end alone is a half-close
            failed(gone)

    async def to_origin() -> None:
        nonlocal heard
        taken = heard = True
        try:
            while data := await stream.receive(_TO_ORIGIN):
                heard = False
                taken = taken and await _sent(origin, data)
                heard = True
            heard = False
        except StreamError as error:
            failed(error)
        else:
            if taken:
                await origin.send_eof()

    async def from_origin() -> None:
        try:
            receive = origin.receive
            send = stream.send
            while data := await receive(_FROM_ORIGIN):
                await send(data)
            await stream.send_eof()
        except StreamError as error:
            failed(error)

    try:
        async with trio.open_nursery() as nursery:
            stream.waits.watcher = left
            nursery.start_soon(to_origin)
            await from_origin()
    finally:
        stream.waits.watcher = None
    if failures:
        raise taken(failures)
