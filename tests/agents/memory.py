"""A link in memory for tunnels, so that a mock clock never races the kernel."""

from __future__ import annotations

import trio

from p2pstream.errors import StreamBroken, StreamClosed
from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Bytes, Stream


class MemoryStream(Stream):
    """One end of the link."""

    def __init__(self) -> None:
        self.peer: MemoryStream
        self._arrived = bytearray()
        self._closed = False
        self._waits = Waits()

    @property
    def waits(self) -> Waits:
        return self._waits

    async def receive(self, max_bytes: int) -> bytes:
        while not self._arrived and not self.peer._closed and not self._closed:
            await self._waits.wait_read()
        if self._closed:
            raise StreamClosed("closed")
        data = bytes(self._arrived[:max_bytes])
        del self._arrived[:max_bytes]
        return data

    def try_send(self, data: Bytes) -> int:
        if self._closed or self.peer._closed:
            raise StreamBroken("gone")
        self.peer._arrived += data
        self.peer._waits.wake_read()
        return len(data)

    async def send(self, data: Bytes) -> None:
        self.try_send(data)

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._closed = True
        self._waits.fail(StreamClosed("closed"))
        self.peer._waits.wake_read()

    abort = close

    def is_quiet(self) -> bool:
        return not self._arrived


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    near, far = MemoryStream(), MemoryStream()
    near.peer, far.peer = far, near
    return near, far
