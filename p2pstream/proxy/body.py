"""A request's body as it comes from the client: framing, limits and deadlines in one place."""

from __future__ import annotations

from collections.abc import Awaitable
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from p2pstream.errors import (
    BodyTooLarge,
    ClientCancelled,
    DeadlineExpired,
    Fault,
    InvalidRequest,
    RequestTimeout,
    StreamError,
)
from p2pstream.net.pipe import WORTHWHILE, Pipe
from p2pstream.net.stream import Stream
from p2pstream.proxy.pump import READ_SIZE
from p2pstream.snapshot import ListenerPlan
from p2pstream.wire.http1.body import ChunkedDecoder
from p2pstream.wire.http1.head import Field, HeadError, RequestHead

if TYPE_CHECKING:
    from p2pstream.proxy.connection import Connection

# What is read of a body nobody wants, to keep the connection: reading 256 KiB costs less than a
# new connection (with TLS); beyond, closing is cheaper. Go's net/http has the same number.
_DRAIN_BYTES: Final = 256 * 1024
_DRAIN_SECONDS: Final = 2.0

_T = TypeVar("_T", bytes, int)


class RequestBody:
    """The body of one request. `read` until `b""`; what comes after it goes back to the buffer."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_limit",
        "_remaining",
        "_stall_seconds",
        "complete",
        "length",
        "received",
    )

    def __init__(self, connection: Connection, head: RequestHead, plan: ListenerPlan) -> None:
        self._connection = connection
        self._stall_seconds = plan.idle_timeout
        self._limit = plan.max_body_bytes
        self.length = head.fields.content_length
        """Bytes in all; None for a chunked body."""
        self._remaining = self.length or 0
        self._decoder = ChunkedDecoder() if head.fields.chunked else None
        self.complete = False
        self.received = 0

    @property
    def trailers(self) -> list[Field]:
        """The trailer fields, once complete."""
        return self._decoder.trailers if self._decoder else []

    @property
    def is_drainable(self) -> bool:
        """Whether the rest, as far as one can tell, is short enough to be read and dropped."""
        return self._remaining <= _DRAIN_BYTES

    def check_length(self) -> None:
        """Refuse a body that says it is too long before any of it is read."""
        if self._limit and self.length is not None and self.length > self._limit:
            raise BodyTooLarge(f"Content-Length {self.length} is past {self._limit}")

    def take_buffered(self) -> list[bytes]:
        """The payload that came together with the head."""
        data = self._connection.buffer
        if not data or self.complete:
            return []
        self._connection.buffer = b""
        return self._take(data)

    async def read(self) -> list[bytes]:
        """The next payload pieces, never empty; `[]` once complete. Errors: the client's faults."""
        if self._decoder is not None and self._connection.buffer:
            await trio.lowlevel.checkpoint()  # very small chunks: let others have their turn
        pieces = self.take_buffered()
        while not pieces and not self.complete:
            pieces = self._take(await self._receive())
        return pieces

    async def _receive(self) -> bytes:
        # Of a body with a length no more is read than that: what follows waits in the kernel.
        size = READ_SIZE if self._decoder else min(READ_SIZE, self._remaining)
        return await self._in_time(self._connection.stream.receive(size))

    def pipe_to(self, sink: Stream) -> Pipe | None:
        """A pipe for the rest of a long body with a length; None if it has to be read."""
        if self._decoder is not None or self._remaining < WORTHWHILE:
            return None
        return Pipe.between(self._connection.stream, sink)

    async def fill(self, pipe: Pipe) -> None:
        """Let the next bytes go into the pipe. Errors: the client's faults."""
        count = await self._in_time(pipe.fill(self._remaining))
        self._remaining -= count
        self.complete = self._remaining == 0
        self.received += count

    async def _in_time(self, receiving: Awaitable[_T]) -> _T:
        """What a way of receiving brings, which must not be nothing."""
        waits = self._connection.stream.waits
        waits.read_deadline = trio.current_time() + self._stall_seconds
        try:
            received = await receiving
        except DeadlineExpired as error:
            raise RequestTimeout("the body stopped coming") from error
        except StreamError as error:
            raise ClientCancelled(f"inside the body: {error}") from error
        finally:
            waits.read_deadline = inf
        if not received:
            raise ClientCancelled("the client closed inside the body")
        return received

    def _take(self, data: bytes) -> list[bytes]:
        if self._decoder is None:
            if len(data) > self._remaining:
                self._connection.buffer = data[self._remaining :]
                data = data[: self._remaining]
            self._remaining -= len(data)
            self.complete = self._remaining == 0
            self.received += len(data)
            return [data] if data else []
        try:
            pieces = self._decoder.decode(data)
        except HeadError as error:
            raise InvalidRequest(f"chunked body: {error}") from error
        self.received = self._decoder.payload
        if self._limit and self.received > self._limit:
            raise BodyTooLarge(f"the body is past {self._limit} bytes")
        self.complete = self._decoder.done
        self._connection.buffer = self._decoder.rest
        return pieces

    async def drain(self) -> bool:
        """Read and drop the rest, within limits; returns whether the end was reached."""
        if not self.is_drainable:
            return False
        start = self.received
        with trio.move_on_after(_DRAIN_SECONDS):
            try:
                while not self.complete and self.received - start <= _DRAIN_BYTES:
                    await self.read()
            except Fault:
                return False
        return self.complete
