"""One connection full of streams: bytes in, bytes out, and whose turn it is. No I/O, no clock.

    session.receive_data(data)                 frames are walked in place
    for stream in session.take_touched(): ...  these streams' tasks have something to do
    stream.take(n); session.update_window(stream, now)
    session.send(stream, data)                 takes its turn ...
    session.next_batch()                       ... in these bytes

Rules:

1. Hostile input ends the session (`ProtocolError`) or is dropped; it never costs memory beyond
   the windows granted, `ACCEPT_BACKLOG` streams, and `MAX_CONTROL` queued answers.
2. A frame for a stream that existed is dropped silently: the peer may not know yet that it
   ended. A frame for a stream that nobody ever opened means that the peer is not speaking
   Yamux, and ends the session.
3. Ids may arrive out of order (two openers of the peer may race for the socket), so "existed"
   means: not above the highest seen.
4. After our GoAway a new stream of the peer is refused with RST; streams that are open go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    HEADER_FUSED,
    MAX_PAYLOAD,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAwayCode,
    ProtocolError,
    check_header,
    pack,
)
from p2pstream.wire.yamux.stream import (
    BROKEN,
    OPENED,
    READABLE,
    WRITABLE,
    Action,
    Input,
    State,
    Stream,
)
from p2pstream.wire.yamux.turns import BATCH, Turns
from p2pstream.wire.yamux.window import (
    MAX_WINDOW,
    SESSION_BUDGET,
    Budget,
    ReceiveWindow,
    RoundTrip,
)

if TYPE_CHECKING:
    from collections import deque

# Streams of the peer that wait to be accepted; hashicorp/yamux's default, and its openers count
# on it (spec, "Implementation Details" of AcceptBacklog in its Config).
ACCEPT_BACKLOG: Final = 256

# Streams open at once, both sides' together. The most a tunnel may negotiate is 2048; the rest
# is room for those on their way out.
MAX_STREAMS: Final = 4_096

# Control frames waiting to be sent. An honest peer causes at most three per stream (ACK, credit,
# RST); one that causes more, and does not read, is flooding.
MAX_CONTROL: Final = 3 * MAX_STREAMS

# Answers to pings waiting at once. A peer has one or two pings under way.
MAX_PONGS: Final = 64

# One past the last id that can be opened (31 bits of each parity).
_LAST_ID: Final = 0xFFFF_FFFF

Bytes = bytes | bytearray | memoryview


class Session:
    """Either side of a Yamux connection. The client side opens odd ids, the server side even."""

    def __init__(
        self,
        *,
        client: bool,
        max_streams: int = MAX_STREAMS,
        budget: int = SESSION_BUDGET,
        max_window: int = MAX_WINDOW,
    ) -> None:
        self.streams: dict[int, Stream] = {}
        """Every stream that can still carry something, by id."""
        self.round_trip = RoundTrip()
        self.pongs: list[int] = []
        """Values of our pings that were answered; the shell takes them."""
        self.going_away = False
        """We said GoAway: the peer opens no more."""
        self.peer_going_away = False
        """The peer said GoAway: we open no more."""
        self.ended: Exception | None = None
        """Why the session is over."""
        self._next_id = 1 if client else 2
        self._highest_seen = 0
        self._max_streams = max_streams
        self._budget = Budget(budget)
        self._max_window = max_window
        self._unaccepted: set[int] = set()
        self._touched: list[Stream] = []
        self._head = b""  # a header cut off by the end of a read
        self._left = 0  # payload bytes of the current frame still to come
        self._target: Stream | None = None  # where they go; None: dropped
        self._fin_after = False  # FIN stands on that frame
        self._control: list[Bytes] = []
        self._pongs_queued = 0
        self._turns = Turns()

    # --- streams -----------------------------------------------------------------------------

    def open(self) -> Stream:
        """A new stream; its SYN travels with the first `send`, or alone with `announce`.

        Errors: `StreamClosed` if either side is going away or the ids are used up.
        """
        if self.ended is not None or self.peer_going_away or self.going_away:
            raise StreamClosed("the session takes no new streams")
        if self._next_id > _LAST_ID:
            raise StreamClosed("the session's stream ids are used up")
        if len(self.streams) >= self._max_streams:
            raise StreamClosed("the session has as many streams as it may")
        stream = self._new_stream(self._next_id)
        self._next_id += 2
        return stream

    def announce(self, stream: Stream) -> None:
        """Send the SYN of a stream that `open` made, without data."""
        stream.step(Input.SEND_SYN)
        self._control.append(pack(WINDOW_UPDATE, SYN, stream.id, 0))

    def accept(self, stream: Stream) -> None:
        """Take a stream the peer opened; for each that was touched `OPENED`, this or `reset`.

        Also for one that broke meanwhile: until then it counts for the backlog, or opening and
        resetting in turn would evade it.
        """
        self._unaccepted.discard(stream.id)
        if stream.step(Input.SEND_ACK) is Action.PROCEED:
            self._control.append(pack(WINDOW_UPDATE, ACK, stream.id, 0))

    def send(self, stream: Stream, data: Bytes) -> None:
        """Let `data` take its turns; `WRITABLE` is touched when the last of it went out.

        Until then `data` must not change and nothing more may be sent. Errors: `StreamClosed` if
        the stream does not send (any more).
        """
        if not data:
            return
        self._begin_sending(stream)
        stream.outbox = memoryview(data)
        if stream.send_window.credit:
            self._turns.add(stream)

    def frame(self, stream: Stream, data: Bytes) -> bytes:
        """As much of `data` as one frame may carry now, as bytes to be sent before all others.

        The quick way past `send`, for when `has_output` is false; the length of the result less
        `HEADER_BYTES` is what was taken. `b""`: no credit. Errors: as `send`.
        """
        size = len(data)
        if size and (not stream.sending or stream.outbox is not None):
            self._begin_sending(stream)
        if size > MAX_PAYLOAD:
            size = MAX_PAYLOAD
        size = stream.send_window.take(size)
        if not size:
            return b""
        flags = stream.due
        stream.due = 0
        header = pack(DATA, flags, stream.id, size)
        return b"".join((header, data if size == len(data) else memoryview(data)[:size]))

    def queue(self, frame: bytes) -> None:
        """Let what `frame` made leave with the next batch, together with others like it."""
        self._control.append(frame)

    def withdraw(self, stream: Stream) -> None:
        """Take back what of a `send` has not gone out yet; the stream may send other bytes."""
        stream.outbox = None

    def finish(self, stream: Stream) -> None:
        """End our direction, after what waits to be sent. Errors: as `send`."""
        if stream.fin_queued:
            raise StreamClosed(f"stream {stream.id} is ending already")
        if stream.outbox is not None:
            stream.fin_queued = True
            return
        if stream.state is State.IDLE:
            self._begin_sending(stream)
        stream.step(Input.SEND_FIN)
        flags = FIN | stream.due
        stream.due = 0
        self._control.append(pack(WINDOW_UPDATE, flags, stream.id, 0))
        self._forget_if_over(stream)

    def reset(self, stream: Stream) -> None:
        """Cut the stream in both directions. Idempotent; unread and unsent bytes are dropped."""
        self._unaccepted.discard(stream.id)
        unheard = stream.due & SYN
        if stream.step(Input.SEND_RST) is Action.PROCEED and not unheard:
            self._control.append(pack(WINDOW_UPDATE, RST, stream.id, 0))
        self._let_go(stream)

    def update_window(self, stream: Stream, now: float) -> None:
        """Grant what the reader made room for, when that is due. `now`: seconds, monotonic."""
        window = stream.receive_window
        if window.owed < window.due_at:
            return
        if stream.step(Input.SEND_WINDOW) is Action.IGNORE:
            window.close()
            return
        delta = window.update(now, self.round_trip.seconds)
        self._control.append(pack(WINDOW_UPDATE, 0, stream.id, delta))

    def take_touched(self) -> list[Stream]:
        """The streams with news since the last call, each once; clear their `touched` bits."""
        touched = self._touched
        self._touched = []
        return touched

    # --- the session -------------------------------------------------------------------------

    def ping(self, value: int) -> None:
        """Ask for a sign of life; `value` (32 bits) comes back in `pongs`."""
        self._control.append(pack(PING, SYN, 0, value))

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Ask the peer to open no more streams, and say why."""
        self.going_away = True
        self._control.append(pack(GO_AWAY, 0, 0, code))

    def end(self, reason: Exception) -> None:
        """The connection is gone: cut every stream (`BROKEN`), take nothing more."""
        if self.ended is None:
            self.ended = reason
        for stream in list(self.streams.values()):
            self._broken(stream)
        self._control.clear()

    # --- bytes out ---------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether `next_batch` has anything to give."""
        return bool(self._control or self._turns)

    def next_batch(self) -> list[Bytes]:
        """What goes out next, in order, about `BATCH` bytes (see `turns`); empty: nothing."""
        batch, self._control = self._control, []
        self._pongs_queued = 0
        turns = self._turns
        if turns:
            room = BATCH - HEADER_BYTES * len(batch)
            room = self._serve(turns.small, room, batch)
            self._serve(turns.bulk, max(room, 1), batch)
        return batch

    def _serve(self, line: deque[Stream], room: int, batch: list[Bytes]) -> int:
        """Let the streams of `line` have their turns while there is room; the room left."""
        while line and room > 0:
            stream = line.popleft()
            stream.queued = False
            room -= HEADER_BYTES + self._take_turn(stream, batch)
        return room

    def _take_turn(self, stream: Stream, batch: list[Bytes]) -> int:
        """Put one frame of `stream` into `batch`; its payload's size."""
        rest = stream.outbox
        if rest is None:  # reset while it waited
            return 0
        size = stream.send_window.take(min(len(rest), MAX_PAYLOAD))
        if not size:
            return 0
        flags = stream.due
        stream.due = 0
        if size == len(rest):
            stream.outbox = None
            self._touch(stream, WRITABLE)
            if stream.fin_queued:
                flags |= FIN
                stream.step(Input.SEND_FIN)
                self._forget_if_over(stream)
        else:
            stream.outbox = rest[size:]
            if stream.send_window.credit:
                self._turns.add(stream)
        batch.append(pack(DATA, flags, stream.id, size))
        batch.append(rest[:size])
        return size

    # --- bytes in ----------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in what came from the connection, in pieces of any size.

        Errors: `ProtocolError`; the session is over then, and says so again for whatever follows.
        """
        if self.ended is not None:
            raise self.ended
        try:
            self._walk(data)
        except ProtocolError as error:
            self.ended = error
            raise

    def receive_eof(self) -> None:
        """The connection ended. Errors: `ProtocolError` if it did so inside a frame."""
        if self._head or self._left:
            self.ended = ProtocolError("the connection ended inside a frame", None)
            raise self.ended

    def _walk(self, data: bytes) -> None:
        position = 0
        if self._left:
            position = self._receive_rest(data)
        elif self._head:
            data = self._head + data
            self._head = b""
        end = len(data)
        unpack = HEADER_FUSED.unpack_from
        streams = self.streams
        while end - position >= HEADER_BYTES:
            kind, flags, stream_id, length = unpack(data, position)
            position += HEADER_BYTES
            if kind == DATA:
                stream = streams.get(stream_id)
                if stream is None or flags or not stream.receiving:
                    stream = self._flagged(kind, flags, stream_id, Input.RECV_DATA)
                if length:
                    stop = position + length
                    if stop > end:
                        self._receive_part(stream, data[position:], length, flags)
                        return
                    if stream is None:
                        self._check_dropped(length)
                    else:
                        stream.put(data[position:stop])
                        if not stream.touched:
                            self._touched.append(stream)
                        stream.touched |= READABLE
                    position = stop
                if flags & FIN and stream is not None:
                    self._receive_fin(stream)
            elif kind == WINDOW_UPDATE:
                stream = streams.get(stream_id)
                if stream is None or flags or not stream.sending:
                    stream = self._flagged(kind, flags, stream_id, Input.RECV_WINDOW)
                if stream is not None:
                    stream.send_window.grant(length)
                    if stream.outbox is not None and length:
                        self._turns.add(stream)
                    if flags & FIN:
                        self._receive_fin(stream)
            else:
                self._receive_session_frame(kind, flags, stream_id, length)
        if position < end:
            self._head = data[position:]

    def _receive_part(self, stream: Stream | None, piece: bytes, length: int, flags: int) -> None:
        """The read ends after `piece` of a payload of `length` bytes."""
        self._left = length - len(piece)
        self._target = stream
        self._fin_after = bool(flags & FIN)
        if stream is None:
            self._check_dropped(length)
        else:
            stream.receive_window.check(length)
            if piece:
                stream.put(piece)
                self._touch(stream, READABLE)

    def _receive_rest(self, data: bytes) -> int:
        """More of a payload whose frame began in an earlier read; how far it reaches."""
        used = min(self._left, len(data))
        self._left -= used
        stream = self._target
        if stream is None or not used:
            return used
        stream.put(data[:used])
        self._touch(stream, READABLE)
        if not self._left:
            self._target = None
            if self._fin_after:
                self._receive_fin(stream)
        return used

    def _flagged(self, kind: int, flags: int, stream_id: int, given: Input) -> Stream | None:
        """A stream's frame that is not the plain case: its stream, or None to drop the rest.

        A FIN is left to the caller, because it comes after the payload.
        """
        check_header(kind, flags, stream_id)
        stream = self._receive_syn(stream_id) if flags & SYN else self._lookup(stream_id)
        if stream is None:
            return None
        if flags & ACK:
            stream.step(Input.RECV_ACK)
        if flags & RST:
            self._broken(stream)
            return None
        if stream.step(given) is Action.PROCEED:
            return stream
        if flags & FIN:
            self._receive_fin(stream)
        return None

    def _lookup(self, stream_id: int) -> Stream | None:
        """The stream of this id; None if it is over (rules 2 and 3)."""
        stream = self.streams.get(stream_id)
        if stream is None:
            ours = stream_id % 2 == self._next_id % 2
            known = stream_id < self._next_id if ours else stream_id <= self._highest_seen
            if not known:
                raise ProtocolError(f"frame for stream {stream_id}, which nobody opened")
        return stream

    def _check_dropped(self, length: int) -> None:
        """Nobody could ever have been granted more than one window for one frame."""
        if length > self._max_window:
            raise ProtocolError(f"a frame of {length} bytes, windows end at {self._max_window}")

    def _receive_syn(self, stream_id: int) -> Stream | None:
        """The peer opens a stream; None if it is refused."""
        if stream_id % 2 == self._next_id % 2:
            raise ProtocolError(f"the peer opened stream {stream_id}, an id of ours")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._highest_seen = max(self._highest_seen, stream_id)
            if (
                self.going_away
                or len(self._unaccepted) >= ACCEPT_BACKLOG
                or len(self.streams) >= self._max_streams
            ):
                self._answer(pack(WINDOW_UPDATE, RST, stream_id, 0))
                return None
            stream = self._new_stream(stream_id)
            self._unaccepted.add(stream_id)
            self._touch(stream, OPENED)
        stream.step(Input.RECV_SYN)
        return stream

    def _receive_fin(self, stream: Stream) -> None:
        """The peer ends its direction."""
        action = stream.step(Input.RECV_FIN)
        if action is Action.IGNORE:
            return
        if action is Action.ACKNOWLEDGE:
            self._answer(pack(WINDOW_UPDATE, ACK, stream.id, 0))
        stream.receive_window.close()
        self._touch(stream, READABLE)
        self._forget_if_over(stream)

    def _receive_session_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Ping and GoAway (spec, "Ping" and "Go Away")."""
        check_header(kind, flags, stream_id)
        if kind == PING:
            if flags == SYN:
                if self._pongs_queued < MAX_PONGS:
                    self._pongs_queued += 1
                    self._answer(pack(PING, ACK, 0, value))
            elif flags == ACK:
                if len(self.pongs) < MAX_PONGS:
                    self.pongs.append(value)
            else:
                raise ProtocolError(f"ping with flags {flags:#x}")
            return
        if value != GoAwayCode.NORMAL:
            reasons = {int(code): code.name for code in GoAwayCode}
            raise ProtocolError(f"the peer left: {reasons.get(value, value)}", None)
        self.peer_going_away = True

    def _answer(self, frame: bytes) -> None:
        """Queue what a received frame calls for. Errors: `ProtocolError` past `MAX_CONTROL`."""
        if len(self._control) >= MAX_CONTROL:
            raise ProtocolError("the peer asks and does not read the answers")
        self._control.append(frame)

    # --- life of a stream ----------------------------------------------------------------------

    def _new_stream(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, ReceiveWindow(self._budget, self._max_window))
        self.streams[stream_id] = stream
        return stream

    def _begin_sending(self, stream: Stream) -> None:
        """Hold the stream to the table; the first bytes of one of ours carry its SYN."""
        if stream.outbox is not None:
            raise StreamClosed(f"stream {stream.id} is still sending")
        if stream.state is State.IDLE:
            stream.step(Input.SEND_SYN)
            stream.due |= SYN
        stream.step(Input.SEND_DATA)

    def _broken(self, stream: Stream) -> None:
        """The peer, or the loss of the connection, cut the stream."""
        stream.step(Input.SEND_RST if stream.state is State.IDLE else Input.RECV_RST)
        self._let_go(stream)
        self._touch(stream, BROKEN)

    def _let_go(self, stream: Stream) -> None:
        """Nothing of the stream is of use any more."""
        stream.clear()
        self._forget(stream)

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.state is State.CLOSED:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if self._target is stream:
            self._target = None

    def _touch(self, stream: Stream, bit: int) -> None:
        if not stream.touched:
            self._touched.append(stream)
        stream.touched |= bit
