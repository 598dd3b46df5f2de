"""Origins in memory, so that a mock clock never races the kernel."""

from __future__ import annotations

import pytest
import trio

from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Bytes, Stream


class Script(Stream):
    """A connection to an origin that says `answer`, and then ends it, or is silent for ever."""

    def __init__(self, answer: bytes, *, ends: bool = True, endless: bytes = b"") -> None:
        self.answer = bytearray(answer)
        self.ends = ends
        self.endless = endless  # repeated after `answer`
        self.sent = b""
        self.read = 0
        self.ended = ""  # `closed`, or `aborted`
        self._waits = Waits()

    @property
    def waits(self) -> Waits:
        return self._waits

    async def receive(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.answer:
            if self.endless:
                self.answer += self.endless
            elif self.ends:
                return b""
            else:
                await trio.sleep_forever()
        data = bytes(self.answer[:max_bytes])
        del self.answer[:max_bytes]
        self.read += len(data)
        return data

    def try_send(self, data: Bytes) -> int:
        self.sent += data
        return len(data)

    async def send(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.try_send(data)

    async def flush(self) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def is_quiet(self) -> bool:
        raise NotImplementedError


@pytest.fixture
def script() -> type[Script]:
    return Script
