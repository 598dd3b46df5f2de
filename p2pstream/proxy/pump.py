"""The only loops that touch the bytes of responses and upgraded connections.

They know of no log, no configuration and no policy.

A failure says whose it is: reading from the origin ends as `UpstreamAborted` (the head has gone
out, so the connection is cut), sending to the client as `ClientCancelled`.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final

import trio

from p2pstream.errors import (
    ClientCancelled,
    Fault,
    PeerGone,
    StreamBroken,
    StreamError,
    UpstreamAborted,
)
from p2pstream.net.pipe import WORTHWHILE, Pipe
from p2pstream.net.stream import Stream
from p2pstream.policy.forward import forwarded_trailers
from p2pstream.wire.http1.body import ChunkedDecoder
from p2pstream.wire.http1.head import HeadError
from p2pstream.wire.http1.serialize import LAST_CHUNK, chunk, last_chunk

# Fewer calls a megabyte than with 64 KiB, and still within a core's second-level cache.
READ_SIZE: Final = 256 * 1024


class Relay:
    """Moves one response body from an origin to a client, and counts it."""

    __slots__ = ("client", "origin", "sent")

    def __init__(self, origin: Stream, client: Stream) -> None:
        self.origin = origin
        self.client = client
        self.sent = 0

    async def send(self, data: bytes) -> None:
        """Send to the client."""
        try:
            await self.client.send(data)
        except StreamError as error:
            raise ClientCancelled(f"while sending: {error}") from error
        self.sent += len(data)

    async def receive(self, max_bytes: int = READ_SIZE) -> bytes:
        """Receive from the origin; `b""` at its end."""
        try:
            return await self.origin.receive(max_bytes)
        except StreamError as error:
            raise _origin_failed(error) from error

    async def length(self, remaining: int) -> None:
        """Move exactly `remaining` bytes."""
        if remaining >= WORTHWHILE:
            pipe = Pipe.between(self.origin, self.client)
            if pipe is not None:
                with pipe:
                    await self._spliced(pipe, remaining)
                return
        while remaining > 0:
            data = await self.receive(READ_SIZE if remaining > READ_SIZE else remaining)
            if not data:
                raise UpstreamAborted(f"the origin closed with {remaining} bytes still to come")
            remaining -= len(data)
            await self.send(data)

    async def _spliced(self, pipe: Pipe, remaining: int) -> None:
        """As `length`, without seeing the bytes."""
        while remaining > 0:
            try:
                count = await pipe.fill(remaining)
            except StreamError as error:
                raise _origin_failed(error) from error
            if not count:
                raise UpstreamAborted(f"the origin closed with {remaining} bytes still to come")
            remaining -= count
            try:
                await pipe.drain()
            except StreamError as error:
                raise ClientCancelled(f"while sending: {error}") from error
            self.sent += count

    async def chunked(
        self, decoder: ChunkedDecoder, data: bytes, rechunk: bool, named: frozenset[bytes]
    ) -> bytes:
        """Move a chunked body that begins with `data`; chunked again, or bare when not `rechunk`.

        `named`: what the head's `Connection` names.

        Returns what the origin sent past its end.
        """
        while True:
            try:
                pieces = decoder.decode(data)
            except HeadError as error:
                raise UpstreamAborted(f"bad chunked coding: {error}") from error
            if rechunk:
                out = chunk(pieces)
                if decoder.done:
                    out += last_chunk(forwarded_trailers(decoder.trailers, named))
            else:
                out = b"".join(pieces)
            if out:
                await self.send(out)
            if decoder.done:
                return decoder.rest
            data = decoder.rest
            if data:  # very small chunks: let others have their turn
                await trio.lowlevel.checkpoint()
                continue
            data = await self.receive()
            if not data:
                raise UpstreamAborted("the origin closed inside a chunked body")

    async def until_close(self, data: bytes, rechunk: bool) -> None:
        """Move all until the origin closes, beginning with `data`."""
        while True:
            if data:
                await self.send(chunk([data]) if rechunk else data)
            data = await self.receive()
            if not data:
                break
        if rechunk:
            await self.send(LAST_CHUNK)


def _origin_failed(error: StreamError) -> Fault:
    """Whose failure it is when receiving from the origin failed."""
    if isinstance(error, PeerGone):
        return ClientCancelled(str(error))
    return UpstreamAborted(f"while receiving the body: {error}")


class Splice:
    """Two streams joined until both directions have ended, each in its own time (half-close).

    What a side said before it was reset still reaches the other, as without us: a WebSocket server
    that wants no more says why, and closes with something unread.
    """

    __slots__ = ("_both", "_failure", "_heard", "client", "origin", "received", "sent")

    def __init__(self, origin: Stream, client: Stream) -> None:
        self.origin = origin
        self.client = client
        self.received = 0
        """Bytes from the client."""
        self.sent = 0
        """Bytes to the client."""
        self._failure: ClientCancelled | UpstreamAborted | None = None
        self._heard: set[Stream] = set()  # from whom some task receives: it meets the reset there
        self._both = trio.CancelScope()

    async def run(self, from_client: bytes, from_origin: bytes) -> None:
        """Move all, beginning with what is there. A failure of either stream ends both.

        Closes neither stream. Errors: `ClientCancelled`, `UpstreamAborted`.
        """
        self.client.waits.deadline = self.origin.waits.deadline = inf
        async with trio.open_nursery() as nursery:
            self._both = nursery.cancel_scope
            # While one side takes nothing, nobody reads from the other: a reset is told like this.
            self.client.waits.watcher = partial(self._hung_up, self.client)
            self.origin.waits.watcher = partial(self._hung_up, self.origin)
            nursery.start_soon(self._move, self.client, self.origin, from_client)
            nursery.start_soon(self._move, self.origin, self.client, from_origin)
        self.client.waits.watcher = self.origin.waits.watcher = None
        if self._failure is not None:
            raise self._failure

    def _hung_up(self, who: Stream, error: StreamError) -> None:
        if who.waits.was_reset and who not in self._heard:
            self._failed(who, error)
            self._both.cancel()

    def _failed(self, who: Stream, error: StreamError) -> None:
        whose = ClientCancelled if who is self.client else UpstreamAborted
        self._failure = self._failure or whose(f"after the upgrade: {error}")

    async def _move(self, source: Stream, sink: Stream, data: bytes) -> None:
        try:
            while True:
                if data:
                    await sink.send(data)
                    if sink is self.client:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                self._heard.add(source)
                try:
                    data = await source.receive(READ_SIZE)
                except StreamError as error:
                    self._failed(source, error)
                    self._both.cancel()
                    return
                self._heard.discard(source)
                if not data:
                    await sink.send_eof()
                    return
        except StreamError as error:
            self._failed(sink, error)
            if not isinstance(error, StreamBroken):  # or else the other task gets there
                self._both.cancel()
