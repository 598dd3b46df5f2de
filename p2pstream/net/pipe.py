"""Long bodies between two TCP sockets stay in the kernel: splice(2), through a pipe.

The bytes are moved by reference from one socket's queue to the other's, so that we pay neither of
the two copies that `recv` and `send` make. That needs two plain sockets (TLS and tunnels must see
the bytes) and a length that is known before.

Linux alone; where a pipe cannot be had the caller copies, which is always right.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

import trio

from p2pstream.net.stream import Stream, TcpStream

# What a pipe holds, if the system grants it. Measured: 64 KiB save nothing over copying, 256 KiB a
# seventh of the CPU time, 1 MiB a third.
_CAPACITY: Final = 1024 * 1024
# Below this much to move, making a pipe costs what it saves.
WORTHWHILE: Final = 1024 * 1024
# Without privileges a user's pipes may hold 64 MiB in all (pipe(7), pipe-user-pages-soft); past
# half of that, bodies are copied.
_MOST: Final = 32

_in_use = 0


class Pipe:
    """A pipe from `source` to `sink`, neither of which it owns: `fill`, `drain`, and again."""

    __slots__ = ("_held", "_moved", "_read", "_sink", "_source", "_write")

    def __init__(self, source: TcpStream, sink: TcpStream) -> None:
        """Errors: `OSError` when the system has none to give."""
        global _in_use
        self._source = source
        self._sink = sink
        self._held = 0
        self._moved = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _in_use += 1
        try:
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, _CAPACITY)
        except OSError:
            self.close()
            raise

    @classmethod
    def between(cls, source: Stream, sink: Stream) -> Pipe | None:
        """A pipe, or None where bytes have to be copied."""
        if not (isinstance(source, TcpStream) and isinstance(sink, TcpStream)) or _in_use >= _MOST:
            return None
        try:
            return cls(source, sink)
        except OSError:
            return None

    async def fill(self, max_bytes: int) -> int:
        """Take what the source has, at most `max_bytes`; 0 at its end. Errors: the source's.

        The pipe must be empty.
        """
        waits = self._source.waits
        size = min(max_bytes, _CAPACITY)
        try:
            while True:
                try:
                    count = os.splice(self._source.sock.fileno(), self._write, size)
                    break
                except BlockingIOError:
                    pass
                await waits.wait_read()
        except OSError as error:
            raise self._source.broke(error) from error
        if not count:
            self._source.check_end()
        waits.ready = True  # there may be more: a short splice does not say
        self._held = count
        return count

    async def drain(self) -> None:
        """Pass on all that the pipe holds. Errors: the sink's; the rest is lost then."""
        self._moved += self._held
        if self._moved >= _CAPACITY:  # be fair: about a third of a millisecond since others' turn
            self._moved = 0
            await trio.lowlevel.checkpoint()
        waits = self._sink.waits
        try:
            while self._held:
                try:
                    self._held -= os.splice(self._read, self._sink.sock.fileno(), self._held)
                except BlockingIOError:
                    await waits.wait_write()
        except OSError as error:
            raise self._sink.broke(error) from error

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptors back."""
        global _in_use
        _in_use -= 1
        os.close(self._read)
        os.close(self._write)
