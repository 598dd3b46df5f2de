"""The streams of one session: their ids, how many there may be, which of them have news.

Rules:

1. A frame for a stream that existed finds nothing here and is dropped silently: the peer may not
   know yet that it ended. A frame for a stream that nobody ever opened means that the peer is not
   speaking Yamux, and ends the session.
2. Ids may arrive out of order (two openers of the peer may race for the socket), so "existed"
   means: not above the highest seen.
3. A stream of the peer counts for the backlog until the shell accepted or reset it, even if it
   broke meanwhile; or opening and resetting in turn would evade it.
"""

from __future__ import annotations

from typing import Final

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import MAX_U32, ProtocolError
from p2pstream.wire.yamux.stream import BROKEN, OPENED, Input, State, Stream
from p2pstream.wire.yamux.window import Budget, ReceiveWindow

# Streams of the peer that wait to be accepted: hashicorp/yamux's default, its openers count on it.
ACCEPT_BACKLOG: Final = 256

# Streams open at once, both sides' together. The most a tunnel may negotiate is 2048; the rest
# is room for those on their way out.
MAX_STREAMS: Final = 4_096


class Streams:
    """Every stream that can still carry something, by id."""

    __slots__ = (
        "_highest_seen",
        "_max_streams",
        "_max_window",
        "_next_id",
        "_touched",
        "budget",
        "by_id",
        "unaccepted",
    )

    def __init__(self, *, client: bool, max_streams: int, budget: int, max_window: int) -> None:
        self.by_id: dict[int, Stream] = {}
        self.budget = Budget(budget)
        self.unaccepted: set[int] = set()
        """Ids of the peer's streams that the shell has not accepted yet."""
        self._next_id = 1 if client else 2
        self._highest_seen = 0
        self._max_streams = max_streams
        self._max_window = max_window
        self._touched: list[Stream] = []

    def open(self) -> Stream:
        """A stream of ours. Errors: `StreamClosed` if the ids are used up or too many are open."""
        if self._next_id > MAX_U32:
            raise StreamClosed("the session's stream ids are used up")
        if len(self.by_id) >= self._max_streams:
            raise StreamClosed("the session has as many streams as it may")
        stream = self._add(self._next_id)
        self._next_id += 2
        return stream

    def opened(self, stream_id: int, refuse: bool) -> Stream | None:
        """The peer opens a stream; None if it is to be refused. Errors: `ProtocolError`."""
        if self._is_ours(stream_id):
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of ours")
        stream = self.by_id.get(stream_id)
        if stream is None:
            self._highest_seen = max(self._highest_seen, stream_id)
            full = len(self.by_id) >= self._max_streams or len(self.unaccepted) >= ACCEPT_BACKLOG
            if refuse or full:
                return None
            stream = self._add(stream_id)
            self.unaccepted.add(stream_id)
            self.touch(stream, OPENED)
        stream.step(Input.RECV_SYN)
        return stream

    def lookup(self, stream_id: int) -> Stream | None:
        """The stream of this id; None if it is over. Errors: `ProtocolError` if it never was."""
        stream = self.by_id.get(stream_id)
        if stream is None:
            last = self._next_id - 1 if self._is_ours(stream_id) else self._highest_seen
            if stream_id > last:
                raise ProtocolError(f"frame for stream {stream_id}, which nobody opened")
        return stream

    def check_dropped(self, length: int) -> None:
        """A payload for a stream that is over: no frame was ever granted more than one window."""
        if length > self._max_window:
            raise ProtocolError(f"a frame of {length} bytes, windows end at {self._max_window}")

    def touch(self, stream: Stream, bit: int) -> None:
        """The shell has something to do for `stream`."""
        if not stream.touched:
            self._touched.append(stream)
        stream.touched |= bit

    def take_touched(self) -> list[Stream]:
        """The streams with news since the last call, each once."""
        touched = self._touched
        self._touched = []
        return touched

    def cut(self, stream: Stream) -> None:
        """The peer cut the stream. What it sent before can still be taken, as TCP has it: an origin
        that answers and resets, because it does not want the rest of a request, is heard.
        """
        stream.step(Input.RECV_RST)
        stream.cut()
        self.by_id.pop(stream.id, None)
        self.touch(stream, BROKEN)

    def broken(self, stream: Stream) -> None:
        """The loss of the connection cut the stream."""
        stream.step(Input.SEND_RST if stream.state is State.IDLE else Input.RECV_RST)
        self.let_go(stream)
        self.touch(stream, BROKEN)

    def let_go(self, stream: Stream) -> None:
        """Nothing of the stream is of use any more."""
        stream.clear()
        self.by_id.pop(stream.id, None)

    def forget_if_over(self, stream: Stream) -> None:
        """Both directions may have ended in order; what was received can still be taken."""
        if stream.state is State.CLOSED:
            self.by_id.pop(stream.id, None)

    def _add(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, ReceiveWindow(self.budget, self._max_window))
        self.by_id[stream_id] = stream
        return stream

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id % 2 == self._next_id % 2
