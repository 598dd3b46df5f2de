"""Bytes in: frames are walked where they stand in the read, payload goes straight to its stream.

Rules:

1. Hostile input ends the session (`ProtocolError`) or is dropped; it never costs memory beyond
   the windows granted, the backlog of streams, and the queued answers.
2. A payload is held against its window before the first byte of it is kept, and counts as its
   bytes arrive.
3. In one frame, SYN and ACK come first, RST drops the payload, FIN comes after it.
4. After `FRAMES_A_TURN` frames it is somebody else's turn: what is left of the read waits. A read
   of 256 KiB may hold 20,000 frames that say nothing, ten milliseconds of everybody's time.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final

from p2pstream.wire.yamux.frame import (
    ACK,
    DATA,
    FIN,
    HEADER_BYTES,
    HEADER_FUSED,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    GoAwayCode,
    ProtocolError,
    check_header,
    pack,
)
from p2pstream.wire.yamux.stream import READABLE, Action, Input, Stream
from p2pstream.wire.yamux.streams import Streams
from p2pstream.wire.yamux.turns import Turns

# Frames taken in without a pause, in as many reads as that takes: half a millisecond's work, as a
# turn of `tunnel_stream` is. Bulk comes to four frames a read.
FRAMES_A_TURN: Final = 1_024

# Pings of the peer whose answers wait, and answers to ours that nobody took. A peer has one or two
# under way.
MAX_PONGS: Final = 64


class Receiver:
    """The receiving half of a session."""

    __slots__ = (
        "_fin_after",
        "_head",
        "_left",
        "_streams",
        "_target",
        "_turn",
        "_turns",
        "peer_going_away",
        "pongs",
        "refusing",
    )

    def __init__(self, streams: Streams, turns: Turns) -> None:
        self._streams = streams
        self._turns = turns
        self._head = b""  # a header cut off by the end of a read, or by that of a turn and the rest
        self._turn = repeat(None, FRAMES_A_TURN)  # counts in C, which costs a frame nothing
        self._left = 0  # payload bytes of the current frame still to come
        self._target: Stream | None = None  # where they go; None: dropped
        self._fin_after = False  # FIN stands on that frame
        self.pongs: list[int] = []
        self.peer_going_away = False
        self.refusing = False
        """We said GoAway: new streams of the peer are refused."""

    @property
    def inside_frame(self) -> bool:
        """Whether more must come to make a whole frame of what came."""
        return bool(self._head or self._left)

    def walk(self, data: bytes) -> bool:
        """Take in one read; False: the turn is over, and frames wait. Errors: `ProtocolError`."""
        self._turns.check_control()
        position = 0
        if self._left:
            position = self._receive_rest(data)
        elif self._head:
            data = self._head + data
            self._head = b""
        end = len(data)
        unpack = HEADER_FUSED.unpack_from
        by_id = self._streams.by_id
        touch = self._streams.touch
        for _ in self._turn:
            if end - position < HEADER_BYTES:
                break
            kind, flags, stream_id, length = unpack(data, position)
            position += HEADER_BYTES
            if kind == DATA:
                stream = by_id.get(stream_id)
                if stream is None or flags or not stream.receiving:
                    stream = self._receive_flagged(kind, flags, stream_id, Input.RECV_DATA)
                if length:
                    stop = position + length
                    if stop > end:
                        self._receive_part(stream, data[position:], length, flags)
                        return True
                    if stream is None:
                        self._streams.check_dropped(length)
                    else:
                        stream.put(data[position:stop])
                        touch(stream, READABLE)
                    position = stop
                if flags & FIN and stream is not None:
                    self._receive_fin(stream)
            elif kind == WINDOW_UPDATE:
                stream = by_id.get(stream_id)
                if stream is None or flags or not stream.sending:
                    stream = self._receive_flagged(kind, flags, stream_id, Input.RECV_WINDOW)
                if stream is not None:
                    stream.send_window.grant(length)
                    if stream.outbox is not None and length:
                        self._turns.add(stream)
                    if flags & FIN:
                        self._receive_fin(stream)
            else:
                self._receive_session_frame(kind, flags, stream_id, length)
        else:
            self._turn = repeat(None, FRAMES_A_TURN)
            self._head = data[position:]
            return False
        if position < end:
            self._head = data[position:]
        return True

    def _receive_part(self, stream: Stream | None, piece: bytes, length: int, flags: int) -> None:
        """The read ends after `piece` of a payload of `length` bytes."""
        self._left = length - len(piece)
        self._target = stream
        self._fin_after = bool(flags & FIN)
        if stream is None:
            self._streams.check_dropped(length)
        else:
            stream.receive_window.check(length)
            if piece:
                stream.put(piece)
                self._streams.touch(stream, READABLE)

    def _receive_rest(self, data: bytes) -> int:
        """More of a payload whose frame began in an earlier read; how far it reaches."""
        used = min(self._left, len(data))
        self._left -= used
        stream = self._target
        if stream is None or not used:
            return used
        if not stream.receiving:  # cut by us in the middle of it
            self._target = None
            return used
        stream.put(data[:used])
        self._streams.touch(stream, READABLE)
        if not self._left:
            self._target = None
            if self._fin_after:
                self._receive_fin(stream)
        return used

    def _receive_flagged(
        self, kind: int, flags: int, stream_id: int, given: Input
    ) -> Stream | None:
        """A stream's frame that is not the plain case: its stream, or None to drop the rest.

        A FIN is left to the caller, because it comes after the payload.
        """
        check_header(kind, stream_id)
        if flags & SYN:
            stream = self._streams.opened(stream_id, self.refusing)
            if stream is None:
                self._turns.answer(pack(WINDOW_UPDATE, RST, stream_id, 0))
        else:
            stream = self._streams.lookup(stream_id)
        if stream is None:
            return None
        if flags & ACK:
            stream.step(Input.RECV_ACK)
        if flags & RST:
            self._streams.cut(stream)
            return None
        if stream.step(given) is Action.PROCEED:
            return stream
        if flags & FIN:
            self._receive_fin(stream)
        return None

    def _receive_fin(self, stream: Stream) -> None:
        """The peer ends its direction."""
        action = stream.step(Input.RECV_FIN)
        if action is Action.IGNORE:
            return
        if action is Action.ACKNOWLEDGE:
            self._turns.answer(pack(WINDOW_UPDATE, ACK, stream.id, 0))
        stream.receive_window.close()
        self._streams.touch(stream, READABLE)
        self._streams.forget_if_over(stream)

    def _receive_session_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Ping and GoAway (spec, "Ping" and "Go Away")."""
        check_header(kind, stream_id)
        if kind == PING:
            self._receive_ping(flags, value)
        elif value == GoAwayCode.NORMAL:
            self.peer_going_away = True
        else:
            reasons = {int(code): code.name for code in GoAwayCode}
            raise ProtocolError(f"the peer left: {reasons.get(value, value)}", None)

    def _receive_ping(self, flags: int, value: int) -> None:
        """A question is answered, an answer kept; a flood of either within `MAX_PONGS`."""
        if flags & SYN:
            if self._turns.pongs < MAX_PONGS:
                self._turns.pongs += 1
                self._turns.answer(pack(PING, ACK, 0, value))
        elif flags & ACK:
            if len(self.pongs) < MAX_PONGS:
                self.pongs.append(value)
        else:
            raise ProtocolError(f"ping with flags {flags:#x}")
