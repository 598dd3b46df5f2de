"""Byte streams as the rest of the program sees them: TCP here, TLS in `tls`, agents' in `agents`.

Rules:

1. Try first, wait second: `recv` and `send` are called straight away and a task waits only on
   `BlockingIOError`. Where nothing can be there yet, `receive_later` waits first and saves a
   failed call.
2. Be fair all the same: after `_TURNS` calls that did not wait, one checkpoint.
3. `close` is synchronous, never fails, and ends every wait on the stream; what has been handed
   to `send` and returned is with the kernel by then.
4. Errors are `StreamError`s only: `StreamBroken` theirs, `StreamClosed` ours, `DeadlineExpired`.
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Final

import trio

from p2pstream.errors import StreamBroken, StreamClosed
from p2pstream.net.reactor import Waits, broken, current_reactor

# Calls without waiting before other tasks get their turn. At 64 KiB a call this is a megabyte,
# about a millisecond.
_TURNS: Final = 16
# After a read of less than this that left nothing, more is not likely to be there at once: waiting
# first saves a call that fails. Of a body that streams, the next piece often is.
_TRICKLE: Final = 4096

Bytes = bytes | bytearray | memoryview


class Stream(ABC):
    """An ordered byte stream, both ways, each direction ending on its own.

    At most one task receives and one sends at a time.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def waits(self) -> Waits:
        """Where tasks wait for this stream: its `deadline`, and whether the peer hung up."""

    @abstractmethod
    async def receive(self, max_bytes: int) -> bytes:
        """Up to `max_bytes` bytes as soon as there are any; `b""` once the peer has ended."""

    async def receive_later(self, max_bytes: int) -> bytes:
        """As `receive`, for when nothing can have arrived yet: waits first."""
        return await self.receive(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """What is there now, `b""` at the end; None when one would have to wait."""
        return None

    @abstractmethod
    async def send(self, data: Bytes) -> None:
        """Hand all of `data` on, waiting while the peer does not take it."""

    @abstractmethod
    def try_send(self, data: Bytes) -> int:
        """Take as many bytes of `data` as is possible without waiting; 0 means wait (`flush`)."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until `try_send` may take something again."""

    @abstractmethod
    async def send_eof(self) -> None:
        """End our sending direction; receiving goes on."""

    @abstractmethod
    def close(self) -> None:
        """End both directions now. Idempotent; tasks that wait here get `StreamClosed`."""

    @abstractmethod
    def abort(self) -> None:
        """As `close`, and tell the peer that what it has is not whole (TCP: reset)."""

    @abstractmethod
    def is_quiet(self) -> bool:
        """Whether an idle connection looks usable: open, and nothing has arrived on it."""


def prepare_socket(sock: socket.socket) -> None:
    """Set what every TCP socket of ours has; on a listening one, for all it accepts (Linux).

    No delay: what we send is whole. Keepalive: a peer that vanished without a word is noticed
    after two minutes, also where nothing else has a deadline (upgraded connections).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


class TcpStream(Stream):
    """A connected TCP socket. Owns the socket, which must be non-blocking."""

    __slots__ = ("_closed", "_cut", "_fd", "_reactor", "_recv", "_send", "_turns", "_waits", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._send = sock.send
        self._turns = _TURNS
        self._closed = False
        self._cut: str | None = None  # why it broke, once some call was told
        self._waits = Waits()
        self._reactor = current_reactor()
        self._reactor.add_socket(self._fd, self._waits)

    @property
    def waits(self) -> Waits:
        """See `Stream`."""
        return self._waits

    async def receive(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        if self._closed:
            raise StreamClosed("receive on a closed stream")
        self._turns -= 1
        if self._turns <= 0:  # before something is taken: whoever is cancelled here loses nothing
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()
        waits = self._waits
        if waits.emptied:
            self._turns = _TURNS
            await waits.wait_read()
        try:
            while True:
                try:
                    data = self._recv(max_bytes)
                    break
                except BlockingIOError:
                    pass  # and wait outside, so that a wait of hours keeps no exception alive
                self._turns = _TURNS
                await waits.wait_read()
        except OSError as error:
            raise self.broke(error) from error
        if not data:
            self.check_end()
        waits.ready = len(data) == max_bytes
        waits.emptied = len(data) < _TRICKLE and not (waits.ready or waits.hung_up)
        return data

    async def receive_later(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        waits = self._waits
        if not (waits.ready or waits.hung_up or self._closed):
            self._turns = _TURNS
            await waits.wait_read()
        return await self.receive(max_bytes)

    async def peek(self, max_bytes: int, beyond: int = 0) -> bytes:
        """What has arrived, left in its place: more than `beyond` bytes, unless the peer ended.

        Errors: as `receive`.
        """
        waits = self._waits
        while not self._closed:
            waits.ready = False
            try:
                data = self.sock.recv(max_bytes, socket.MSG_PEEK)
            except BlockingIOError:
                data = b""
            except OSError as error:
                raise self.broke(error) from error
            if len(data) > beyond or waits.hung_up:
                waits.ready = True  # the edge is past, and everything is still to be read
                return data
            if not waits.ready:
                await waits.wait_read()
        raise StreamClosed("receive on a closed stream")

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """See `Stream`."""
        if self._closed:
            raise StreamClosed("receive on a closed stream")
        try:
            data = self._recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self.broke(error) from error
        if not data:
            self.check_end()
        if len(data) == max_bytes:  # there may be more, and its edge may be past (reactor, rule 1)
            self._waits.ready = True
        return data

    def check_end(self) -> None:
        """Nothing more will come. Errors: `StreamBroken` if that is no end but a break.

        The kernel tells of a reset once: to who receives after that, or after a call that sends
        was told, it looks like an end, and a body that lasts until the end would pass for whole.
        """
        if self._cut is not None:
            raise StreamBroken(self._cut)

    def broke(self, error: OSError) -> StreamBroken:
        """What a failed call raises; remembered for `check_end`.

        EPIPE is not: it is told after an end, of either side's, that came in order.
        """
        failure = broken(error)
        if error.errno != errno.EPIPE:
            self._cut = str(failure)
        return failure

    def try_send(self, data: Bytes) -> int:
        """See `Stream`."""
        if self._closed:
            raise StreamClosed("send on a closed stream")
        try:
            return self._send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self.broke(error) from error

    async def flush(self) -> None:
        """See `Stream`."""
        self._turns = _TURNS
        await self._waits.wait_write()

    async def send(self, data: Bytes) -> None:
        """See `Stream`."""
        if self._closed:
            raise StreamClosed("send on a closed stream")
        try:
            sent = self._send(data)
            if sent == len(data):
                self._turns -= 1
                if self._turns <= 0:
                    self._turns = _TURNS
                    await trio.lowlevel.checkpoint()
                return
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self.broke(error) from error
        with memoryview(data) as view:
            while sent < len(view):
                await self.flush()
                sent += self.try_send(view[sent:])

    async def send_eof(self) -> None:
        """See `Stream`."""
        if self._closed:
            raise StreamClosed("send_eof on a closed stream")
        await trio.lowlevel.checkpoint()
        with suppress(OSError):  # the peer may be gone already: then there is nobody to tell
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Stream`."""
        if not self._closed:
            self._closed = True
            self._reactor.remove_socket(self._fd, self._waits)
            self.sock.close()

    def abort(self) -> None:
        """See `Stream`."""
        if not self._closed:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def is_quiet(self) -> bool:
        """See `Stream`."""
        waits = self._waits
        if self._closed or waits.hung_up:
            return False
        if not waits.ready:
            return True
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            waits.ready = False  # the flag was left by bytes that have been read since
            return True
        except OSError:
            return False
        return False  # the peer ended, or spoke out of turn: neither can carry a request

    def __repr__(self) -> str:
        return f"<TcpStream fd={self._fd}{' closed' if self._closed else ''}>"


# struct linger {on, 0 seconds}: close() then sends RST instead of FIN (socket(7)).
_RESET_ON_CLOSE: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"
