"""One stream of a tunnel: to the rest of the program a `Stream` like any other.

Rules:

1. Bytes go straight to the connection when nothing waits before them; otherwise they take their
   turn among the streams, and the sender waits until the last of them went out.
2. A cancelled or expired `send` takes back what has not gone out: what did is a prefix, and the
   stream can go on. A cancelled `receive` loses nothing.
3. `close` is TCP's: everything sent still arrives, then the end. What the peer sends afterwards
   resets the stream, as does unread data or a `send` under way. `abort` resets at once. Either
   concerns this stream only.
4. When the tunnel ends, every stream of it fails with `TunnelLost`, waiting or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from p2pstream.errors import StreamBroken, StreamClosed, StreamError
from p2pstream.net.reactor import Waits, current_reactor
from p2pstream.net.stream import Bytes, Stream
from p2pstream.wire.yamux import stream as yamux
from p2pstream.wire.yamux.frame import MAX_PAYLOAD

if TYPE_CHECKING:
    from p2pstream.agents.tunnel import Tunnel

# As in `net.stream`: calls without waiting before other tasks get their turn. Each 32 KiB count as
# one more, so that a turn ends after some 400 KiB: with TLS around them half a millisecond's work,
# which is what a small request waits for on its way in and out; a turn costs a fiftieth of that.
_TURNS: Final = 16
_TURN_SHIFT: Final = 15


class TunnelStream(Stream):
    """Made by `Tunnel` only; `core` is the stream's state in `wire.yamux`."""

    __slots__ = (
        "_closed",
        "_failure",
        "_in_turn",
        "_sender",
        "_tunnel",
        "_turns",
        "_waits",
        "core",
    )

    def __init__(self, tunnel: Tunnel, core: yamux.Stream) -> None:
        self.core = core
        core.owner = self
        self._tunnel = tunnel
        self._sender = tunnel.sender
        self._waits = Waits()
        self._turns = _TURNS
        self._closed = False
        self._in_turn = False  # a `send` waits for the rest of its bytes to go out
        self._failure: StreamError | None = None
        current_reactor().add(self._waits)

    @property
    def waits(self) -> Waits:
        """See `Stream`."""
        return self._waits

    # --- receiving ---------------------------------------------------------------------------

    async def receive(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        core = self.core
        if self._turns <= 0:  # before something is taken: whoever is cancelled here loses nothing
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()
        while not core.inbox:
            if self._closed or not core.receiving:
                return self._received_end()
            self._turns = _TURNS
            await self._waits.wait_read()
        data = core.take(max_bytes)
        window = core.receive_window
        if window.owed >= window.due_at:
            self._tunnel.grant(core)
        self._turns -= 1 + (len(data) >> _TURN_SHIFT)
        return data

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """See `Stream`."""
        core = self.core
        data = core.take(max_bytes)
        if data:
            self._tunnel.grant(core)
            return data
        if self._closed or not core.receiving:
            return self._received_end()
        return None

    def _received_end(self) -> bytes:
        """Nothing more will come: why."""
        if self._closed:
            raise StreamClosed("receive on a closed stream")
        if self._failure is not None:
            raise self._failed()
        return b""

    # --- sending -------------------------------------------------------------------------------

    async def send(self, data: Bytes) -> None:
        """See `Stream`."""
        core = self.core
        if core.outbox is not None:
            await self.flush()
        rest = data
        while True:
            if not core.sending or self._closed:
                raise self._not_sending()
            taken = self._sender.send_now(core, rest)
            if taken == len(rest):
                break
            if not taken:
                await self._send_in_turn(rest)
                return
            rest = memoryview(rest)[taken:]
        self._turns -= 1 + (len(data) >> _TURN_SHIFT)
        if self._turns <= 0:
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()

    async def _send_in_turn(self, data: Bytes) -> None:
        """Wait for turns and for credit until the last of `data` went out."""
        core = self.core
        tunnel = self._tunnel
        self._turns = _TURNS
        if not core.sending:  # what was tried a moment ago told that the tunnel is gone
            raise self._not_sending()
        tunnel.session.send(core, data)
        tunnel.push()
        self._in_turn = True
        try:
            while core.outbox is not None:
                await self._waits.wait_write()
        except BaseException:
            tunnel.session.withdraw(core)
            raise
        finally:
            self._in_turn = False
        if self._failure is not None:
            raise self._failed()

    def try_send(self, data: Bytes) -> int:
        """See `Stream`. One frame's worth is taken even while others wait, and has its turn."""
        core = self.core
        if not core.sending or self._closed:
            raise self._not_sending()
        if core.outbox is not None or not data:
            return 0
        taken = self._sender.send_now(core, data)
        if not taken and core.sending:
            piece = bytes(memoryview(data)[:MAX_PAYLOAD])
            self._tunnel.session.send(core, piece)
            taken = len(piece)
            self._tunnel.push()
        return taken

    async def flush(self) -> None:
        """See `Stream`."""
        core = self.core
        self._turns = _TURNS
        while core.outbox is not None:
            await self._waits.wait_write()
        if not core.sending or self._closed:
            raise self._not_sending()

    async def send_eof(self) -> None:
        """See `Stream`."""
        if not self.core.sending or self._closed:
            raise self._not_sending()
        self._tunnel.session.finish(self.core)
        self._tunnel.push()
        await trio.lowlevel.checkpoint()

    # --- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """See `Stream` and rule 3."""
        if self._in_turn:
            self.abort()
        elif not self._closed:
            self._close()
            self._tunnel.close_stream(self.core)

    def abort(self) -> None:
        """See `Stream`."""
        if not self._closed:
            self._close()
            self._tunnel.reset_stream(self.core)

    def _close(self) -> None:
        self._closed = True
        self.core.owner = None
        current_reactor().remove(self._waits)
        self._waits.fail(StreamClosed("closed while in use"))

    def is_quiet(self) -> bool:
        """See `Stream`."""
        core = self.core
        return core.receiving and core.sending and not core.inbox and not self._closed

    def wake(self, touched: int, failure: StreamError | None) -> None:
        """The tunnel's news for this stream: yamux's bits, and why it broke if it did."""
        waits = self._waits
        if touched & yamux.BROKEN:
            self._failure = failure or StreamBroken("the peer reset the stream")
            waits.was_reset = True
            waits.peer_hung_up()
            waits.fail_write(self._failed())
            if self.core.inbox:
                waits.wake_read()  # what came before the end is told first
            else:
                waits.fail_read(self._failed())
            return
        if touched & yamux.READABLE:
            if not self.core.receiving:
                waits.peer_hung_up()
            waits.wake_read()
        if touched & yamux.WRITABLE:
            waits.wake_write()

    def _not_sending(self) -> StreamError:
        if self._closed:
            return StreamClosed("send on a closed stream")
        if self._failure is not None:
            return self._failed()
        return StreamClosed("send after send_eof")

    def _failed(self) -> StreamError:
        """The failure, new for each who is told: a raised exception carries its own traceback."""
        assert self._failure is not None
        return type(self._failure)(*self._failure.args)

    def __repr__(self) -> str:
        return f"<TunnelStream {self.core!r}{' closed' if self._closed else ''}>"
