"""Whose frame goes out next.

Rules:

1. Control frames (window updates, acknowledgements, ends, pings) go before data: twelve bytes
   each, and somebody waits for every one of them. Each stream's own order is kept all the same,
   because its end is only queued here once its last data went out.
2. Then streams whose whole rest is small: a request or an answer is not held up by a transfer.
3. Then the others in turn, one frame of at most `MAX_PAYLOAD` bytes each. At least one of them
   goes with every batch, so small ones cannot starve them.
4. A batch ends once it holds `BATCH` bytes. What comes later has to wait for no more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from p2pstream.wire.yamux.frame import DATA, HEADER_BYTES, MAX_PAYLOAD, ProtocolError, pack

if TYPE_CHECKING:
    from p2pstream.wire.yamux.stream import Stream

Bytes = bytes | bytearray | memoryview

# Bytes handed to one system call: one full frame, or all the small ones that wait.
BATCH: Final = MAX_PAYLOAD + HEADER_BYTES

# A head, or the answer of an API: what somebody waits for, as opposed to a piece of a transfer.
SMALL_REST: Final = 8_192

# Control frames waiting to be sent. An honest peer causes at most three per stream (ACK, credit,
# RST) of 4096 streams; one that causes more, and does not read, is flooding. It is held to this
# before each of its turns (`receive`), so that what stands there is less than a turn more.
MAX_CONTROL: Final = 3 * 4_096


class Turns:
    """What waits to be sent: control frames, and the streams that have data and credit for it."""

    __slots__ = ("_all_sent", "bulk", "control", "pongs", "small")

    def __init__(self, all_sent: Callable[[Stream], int]) -> None:
        """`all_sent` is told when a stream's outbox is empty; it returns flags for that frame."""
        self._all_sent = all_sent
        self.control: list[Bytes] = []
        # Lists: a deque is 600 bytes when empty, and a pop at the front of even 4,096 is a move of
        # 32 KiB, a microsecond beside the system call that follows.
        self.small: list[Stream] = []
        self.bulk: list[Stream] = []
        self.pongs = 0
        """How many of the control frames answer pings."""

    def __bool__(self) -> bool:
        return bool(self.control or self.small or self.bulk)

    def answer(self, frame: bytes) -> None:
        """Queue what a received frame calls for. Errors: `ProtocolError` past `MAX_CONTROL`."""
        self.check_control()
        self.control.append(frame)

    def check_control(self) -> None:
        """Hold the peer to `MAX_CONTROL` before it causes more. Errors: `ProtocolError`.

        What the shell queues in its stead (it accepts, resets and grants) cannot fail: whoever
        calls that may be anybody. It is seen when the next bytes of the peer come.
        """
        if len(self.control) >= MAX_CONTROL:
            raise ProtocolError("the peer asks and does not read the answers")

    def add(self, stream: Stream) -> None:
        """Let `stream` wait for its turn; one that waits already keeps its place."""
        if not stream.queued and stream.outbox is not None:
            stream.queued = True
            line = self.small if len(stream.outbox) <= SMALL_REST else self.bulk
            line.append(stream)

    def clear(self) -> None:
        """Nothing goes out any more."""
        self.control.clear()
        self.small.clear()
        self.bulk.clear()

    def next_batch(self) -> list[Bytes]:
        """What goes out next, in order; empty: nothing."""
        batch, self.control = self.control, []
        self.pongs = 0
        room = BATCH - HEADER_BYTES * len(batch)
        room = self._serve(self.small, room, batch)
        self._serve(self.bulk, max(room, 1), batch)
        return batch

    def _serve(self, line: list[Stream], room: int, batch: list[Bytes]) -> int:
        """Let the streams of `line` have their turns while there is room; the room left."""
        while line and room > 0:
            stream = line.pop(0)
            stream.queued = False
            room -= HEADER_BYTES + self._take_turn(stream, batch)
        return room

    def _take_turn(self, stream: Stream, batch: list[Bytes]) -> int:
        """Put one frame of `stream` into `batch`; its payload's size."""
        rest = stream.outbox
        if rest is None:  # reset or withdrawn while it waited
            return 0
        size = stream.send_window.take(min(len(rest), MAX_PAYLOAD))
        if not size:
            return 0
        flags = stream.due
        stream.due = 0
        if size == len(rest):
            stream.outbox = None
            flags |= self._all_sent(stream)
        else:
            stream.outbox = rest[size:]
            if stream.send_window.credit:
                self.add(stream)
        batch.append(pack(DATA, flags, stream.id, size))
        batch.append(rest[:size])
        return size
