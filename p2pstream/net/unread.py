"""A stream some of whose bytes were read too early, and are to be read again."""

from __future__ import annotations

from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Bytes, Stream


class Unread(Stream):
    """`inner`, whose next bytes are `data`. It owns the stream."""

    __slots__ = ("_data", "inner")

    def __init__(self, inner: Stream, data: bytes) -> None:
        self.inner = inner
        self._data = data

    @property
    def waits(self) -> Waits:
        """See `Stream`."""
        return self.inner.waits

    async def receive(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        return self._take(max_bytes) or await self.inner.receive(max_bytes)

    async def receive_later(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        return self._take(max_bytes) or await self.inner.receive_later(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """See `Stream`."""
        return self._take(max_bytes) or self.inner.receive_nowait(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        data = self._data
        if data:
            self._data = data[max_bytes:]
        return data[:max_bytes]

    async def send(self, data: Bytes) -> None:
        """See `Stream`."""
        await self.inner.send(data)

    def try_send(self, data: Bytes) -> int:
        """See `Stream`."""
        return self.inner.try_send(data)

    async def flush(self) -> None:
        """See `Stream`."""
        await self.inner.flush()

    async def send_eof(self) -> None:
        """See `Stream`."""
        await self.inner.send_eof()

    def close(self) -> None:
        """See `Stream`."""
        self._data = b""
        self.inner.close()

    def abort(self) -> None:
        """See `Stream`."""
        self._data = b""
        self.inner.abort()

    def is_quiet(self) -> bool:
        """See `Stream`."""
        return not self._data and self.inner.is_quiet()

    def __repr__(self) -> str:
        return f"<Unread {len(self._data)} bytes of {self.inner!r}>"
