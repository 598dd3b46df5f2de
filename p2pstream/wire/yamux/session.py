"""One connection full of streams: bytes in, bytes out, and whose turn it is. No I/O, no clock.

    session.receive_data(data)                 frames are walked in place (`receive`), in turns
    for stream in session.take_touched(): ...  these streams' tasks have something to do
    stream.take(n); session.update_window(stream, now)
    session.send(stream, data)                 takes its turn (`turns`) ...
    session.next_batch()                       ... in these bytes

After our GoAway a new stream of the peer is refused with RST; streams that are open go on.
"""

from __future__ import annotations

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    MAX_PAYLOAD,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAwayCode,
    ProtocolError,
    pack,
)
from p2pstream.wire.yamux.receive import Receiver
from p2pstream.wire.yamux.stream import WRITABLE, Action, Input, State, Stream
from p2pstream.wire.yamux.streams import MAX_STREAMS, Streams
from p2pstream.wire.yamux.turns import Bytes, Turns
from p2pstream.wire.yamux.window import MAX_WINDOW, SESSION_BUDGET, RoundTrip


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
        self.round_trip = RoundTrip()
        self.going_away = False
        """We said GoAway: the peer opens no more."""
        self.ended: Exception | None = None
        """Why the session is over."""
        self._streams = Streams(
            client=client, max_streams=max_streams, budget=budget, max_window=max_window
        )
        self._turns = Turns(self._all_sent)
        self._receiver = Receiver(self._streams, self._turns)
        self.streams = self._streams.by_id
        """Every stream that can still carry something, by id."""
        self.pongs = self._receiver.pongs
        """Values of our pings that were answered; the shell clears it."""

    @property
    def peer_going_away(self) -> bool:
        """The peer said GoAway: we open no more."""
        return self._receiver.peer_going_away

    # --- streams -----------------------------------------------------------------------------

    def open(self) -> Stream:
        """A new stream; its SYN travels with the first `send`, or alone with `announce`.

        Errors: `StreamClosed` if either side is going away, the ids are used up or too many open.
        """
        if self.ended is not None or self.peer_going_away or self.going_away:
            raise StreamClosed("the session takes no new streams")
        return self._streams.open()

    def announce(self, stream: Stream) -> None:
        """Send the SYN of a stream that `open` made, without data."""
        stream.step(Input.SEND_SYN)
        self._turns.control.append(pack(WINDOW_UPDATE, SYN, stream.id, 0))

    def accept(self, stream: Stream) -> None:
        """Take a stream the peer opened; for each that was touched `OPENED`, this or `reset`.

        Also for one that broke meanwhile: until then it counts for the backlog.
        """
        self._streams.unaccepted.discard(stream.id)
        if stream.step(Input.SEND_ACK) is Action.PROCEED:
            self._turns.control.append(pack(WINDOW_UPDATE, ACK, stream.id, 0))

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
        self._turns.control.append(frame)

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
        self._turns.control.append(pack(WINDOW_UPDATE, flags, stream.id, 0))
        self._streams.forget_if_over(stream)

    def reset(self, stream: Stream) -> None:
        """Cut the stream in both directions. Idempotent; unread and unsent bytes are dropped."""
        self._streams.unaccepted.discard(stream.id)
        unheard = stream.due & SYN
        if stream.step(Input.SEND_RST) is Action.PROCEED and not unheard:
            self._turns.control.append(pack(WINDOW_UPDATE, RST, stream.id, 0))
        self._streams.let_go(stream)

    def update_window(self, stream: Stream, now: float) -> None:
        """Grant what the reader made room for, when that is due. `now`: seconds, monotonic."""
        window = stream.receive_window
        if window.owed < window.due_at:
            return
        if stream.step(Input.SEND_WINDOW) is Action.IGNORE:
            window.close()
            return
        delta = window.update(now, self.round_trip.seconds)
        self._turns.control.append(pack(WINDOW_UPDATE, 0, stream.id, delta))

    def take_touched(self) -> list[Stream]:
        """The streams with news since the last call, each once; clear their `touched` bits."""
        return self._streams.take_touched()

    # --- the session -------------------------------------------------------------------------

    def ping(self, value: int) -> None:
        """Ask for a sign of life; `value` (32 bits) comes back in `pongs`."""
        self._turns.control.append(pack(PING, SYN, 0, value))

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Ask the peer to open no more streams, and say why."""
        self.going_away = self._receiver.refusing = True
        self._turns.control.append(pack(GO_AWAY, 0, 0, code))

    def end(self, reason: Exception) -> None:
        """The connection is gone: cut every stream (`BROKEN`), take nothing more."""
        if self.ended is None:
            self.ended = reason
        for stream in list(self.streams.values()):
            self._streams.broken(stream)
        self._turns.clear()

    # --- bytes ---------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether `next_batch` has anything to give."""
        return bool(self._turns)

    def next_batch(self) -> list[Bytes]:
        """What goes out next, in order, about `turns.BATCH` bytes; empty: nothing."""
        return self._turns.next_batch()

    def receive_data(self, data: bytes) -> bool:
        """Take in what came from the connection, in pieces of any size.

        False: frames of it wait for the next call, which may bring `b""`, so that others have
        their turn first. Errors: `ProtocolError`; the session is over then, and says so again for
        whatever follows.
        """
        if self.ended is not None:
            raise self.ended
        try:
            return self._receiver.walk(data)
        except ProtocolError as error:
            self.ended = error
            raise

    def receive_eof(self) -> None:
        """The connection ended. Errors: `ProtocolError` if it did so inside a frame."""
        if self._receiver.inside_frame:
            self.ended = ProtocolError("the connection ended inside a frame", None)
            raise self.ended

    # --- details -------------------------------------------------------------------------------

    def _begin_sending(self, stream: Stream) -> None:
        """Hold the stream to the table; the first bytes of one of ours carry its SYN."""
        if stream.outbox is not None:
            raise StreamClosed(f"stream {stream.id} is still sending")
        if stream.state is State.IDLE:
            stream.step(Input.SEND_SYN)
            stream.due |= SYN
        stream.step(Input.SEND_DATA)

    def _all_sent(self, stream: Stream) -> int:
        """The outbox of `stream` has gone out: its sender may go on, or ends with this frame."""
        self._streams.touch(stream, WRITABLE)
        if not stream.fin_queued:
            return 0
        stream.step(Input.SEND_FIN)
        self._streams.forget_if_over(stream)
        return FIN
