"""Whose frame goes out next.

Rules:

1. Control frames (window updates, acknowledgements, ends, pings) go before data: twelve bytes
   each, and somebody waits for every one of them.
2. Then streams whose whole rest is small: a request or an answer is not held up by a transfer.
3. Then the others in turn, one frame of at most `MAX_PAYLOAD` bytes each. At least one of them
   goes with every batch, so small ones cannot starve them.
4. A batch ends once it holds `BATCH` bytes. What comes later has to wait for no more than that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from p2pstream.wire.yamux.frame import MAX_PAYLOAD

if TYPE_CHECKING:
    from p2pstream.wire.yamux.stream import Stream

# Bytes handed to one system call: one full frame, or all the small ones that wait.
BATCH: Final = MAX_PAYLOAD

# A head, or the answer of an API: what somebody waits for, as opposed to a piece of a transfer.
SMALL_REST: Final = 8_192


class Turns:
    """The streams that have something to send and credit for it, in two lines."""

    __slots__ = ("bulk", "small")

    def __init__(self) -> None:
        self.small: deque[Stream] = deque()
        self.bulk: deque[Stream] = deque()

    def __bool__(self) -> bool:
        return bool(self.small or self.bulk)

    def add(self, stream: Stream) -> None:
        """Let `stream` wait for its turn; one that waits already keeps its place."""
        if not stream.queued and stream.outbox is not None:
            stream.queued = True
            line = self.small if len(stream.outbox) <= SMALL_REST else self.bulk
            line.append(stream)
