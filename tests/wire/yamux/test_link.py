"""Two sessions over a link that cuts and joins the bytes in flight as it likes.

The model is a dict of byte strings: what was written to each direction of each stream. At any
time what was read is a prefix of it; once the link has come to rest, it is all of it, unless
somebody cut the stream.
"""

from __future__ import annotations

import random
from typing import Final

from attrs import Factory, define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import DATA, pack
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.stream import BROKEN, OPENED, State, Stream
from p2pstream.wire.yamux.window import INITIAL_WINDOW

BLOB: Final = random.Random(1).randbytes(2**20)
BUDGET: Final = 2**20


@define(eq=False)
class Side:
    """One session, what it has put on the wire, and what its streams have read."""

    name: str
    session: Session
    wire: bytearray = Factory(bytearray)
    streams: dict[int, Stream] = Factory(dict)
    read: dict[int, bytes] = Factory(dict)
    finished: set[int] = Factory(set)
    pinged: dict[int, float] = Factory(dict)

    def adopt(self, stream: Stream) -> None:
        self.streams[stream.id] = stream
        self.read[stream.id] = b""

    def pump(self) -> bool:
        batch = b"".join(self.session.next_batch())
        self.wire += batch
        return bool(batch)


class TwoSessions(RuleBasedStateMachine):
    """Opens, sends, reads, half-closes, resets, go-aways, pings, in any order and any pieces."""

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.client = Side("client", Session(client=True, budget=BUDGET))
        self.server = Side("server", Session(client=False, budget=BUDGET))
        self.written: dict[tuple[str, int], bytes] = {}
        self.cut: set[int] = set()
        self.now = 0.0

    def both(self) -> tuple[Side, Side]:
        return self.client, self.server

    def peer(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def side(self, is_client: bool) -> Side:
        return self.client if is_client else self.server

    # --- what the two applications do ---------------------------------------------------------

    @rule(target=streams, is_client=st.booleans(), alone=st.booleans())
    def open(self, is_client: bool, alone: bool) -> object:
        side = self.side(is_client)
        session = side.session
        if session.going_away or session.peer_going_away:
            return multiple()
        stream = session.open()
        if alone:
            session.announce(stream)
        side.adopt(stream)
        for one in self.both():
            self.written[one.name, stream.id] = b""
        return stream.id

    @rule(
        stream_id=streams,
        is_client=st.booleans(),
        start=st.integers(0, 2**19),
        size=st.integers(0, 300) | st.integers(60_000, 2**19),
        quick=st.booleans(),
    )
    def send(self, stream_id: int, is_client: bool, start: int, size: int, quick: bool) -> None:
        side = self.side(is_client)
        stream = side.streams.get(stream_id)
        if stream is None or stream.outbox is not None or stream.fin_queued:
            return
        data = BLOB[start : start + size]
        try:
            if quick and not side.session.has_output:
                frame = side.session.frame(stream, data)
                side.wire += frame
                data = data[: max(0, len(frame) - 12)]
            else:
                side.session.send(stream, data)
        except StreamClosed:
            assert stream_id in side.finished or stream_id in self.cut
            return
        self.written[side.name, stream_id] += data

    @rule(
        stream_id=streams,
        is_client=st.booleans(),
        sizes=st.lists(st.sampled_from([1, 100, 5_000, 65_536, 2**20]), min_size=1, max_size=8),
    )
    def read(self, stream_id: int, is_client: bool, sizes: list[int]) -> None:
        side = self.side(is_client)
        stream = side.streams.get(stream_id)
        if stream is not None:
            for size in sizes:
                self.take(side, stream, size)

    def take(self, side: Side, stream: Stream, size: int) -> bytes:
        data = stream.take(size)
        assert len(data) <= size
        side.read[stream.id] += data
        side.session.update_window(stream, self.now)
        return data

    @rule(stream_id=streams, is_client=st.booleans())
    def finish(self, stream_id: int, is_client: bool) -> None:
        side = self.side(is_client)
        stream = side.streams.get(stream_id)
        if stream is None:
            return
        try:
            side.session.finish(stream)
        except StreamClosed:
            assert stream_id in side.finished or stream_id in self.cut
            return
        side.finished.add(stream_id)

    @rule(stream_id=streams, is_client=st.booleans(), size=st.integers(1, 2**18))
    def write_that_races_with_finish(self, stream_id: int, is_client: bool, size: int) -> None:
        """As hashicorp/yamux may: the data is queued behind the end, and never read."""
        side = self.side(is_client)
        stream = side.streams.get(stream_id)
        if stream is not None and stream_id in side.finished:
            while side.pump():
                pass
            if stream.state in (State.LOCAL_CLOSED, State.CLOSED):  # not without credit, say
                side.wire += pack(DATA, 0, stream_id, size) + bytes(size)

    @rule(stream_id=streams, is_client=st.booleans())
    def reset(self, stream_id: int, is_client: bool) -> None:
        side = self.side(is_client)
        stream = side.streams.get(stream_id)
        if stream is not None:
            self.cut.add(stream_id)
            side.session.reset(stream)

    @rule(is_client=st.booleans(), value=st.integers(0, 2**32 - 1))
    def ping(self, is_client: bool, value: int) -> None:
        side = self.side(is_client)
        side.session.ping(value)
        side.pinged[value] = self.now

    @rule(is_client=st.booleans())
    def go_away(self, is_client: bool) -> None:
        self.side(is_client).session.go_away()

    # --- what the link does -------------------------------------------------------------------

    @rule(is_client=st.booleans(), batches=st.integers(1, 8))
    def write(self, is_client: bool, batches: int) -> None:
        side = self.side(is_client)
        for _ in range(batches):
            side.pump()

    @rule(
        to_client=st.booleans(),
        sizes=st.lists(st.integers(1, 40) | st.sampled_from([1_000, 65_536, 2**18]), max_size=6),
    )
    def deliver(self, to_client: bool, sizes: list[int]) -> None:
        side = self.side(to_client)
        for size in sizes:
            self.carry(side, size)

    def carry(self, side: Side, size: int) -> bool:
        """Bring up to `size` bytes to `side` and do what its shell would."""
        wire = self.peer(side).wire
        piece = bytes(wire[:size])
        del wire[:size]
        session = side.session
        rest = piece
        while not session.receive_data(rest):
            rest = b""
        for stream in session.take_touched():
            touched, stream.touched = stream.touched, 0
            if touched & OPENED:
                session.accept(stream)
                side.adopt(stream)
            if touched & BROKEN:  # by the peer, or refused because we are leaving
                assert stream.id in self.cut or self.peer(side).session.going_away
                self.cut.add(stream.id)
        for value in session.pongs:
            session.round_trip.record(self.now - side.pinged[value])
        session.pongs.clear()
        return bool(piece)

    @rule(seconds=st.floats(0.001, 1))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- what is always true ------------------------------------------------------------------

    @invariant()
    def what_was_read_is_a_prefix_of_what_was_written(self) -> None:
        for side in self.both():
            for stream_id, read in side.read.items():
                assert self.written[self.peer(side).name, stream_id].startswith(read)

    @invariant()
    def memory_is_bounded(self) -> None:
        for side in self.both():
            session = side.session
            assert session._streams.budget.used <= BUDGET
            live = session.streams.values()
            held = sum(stream.receive_window.size - INITIAL_WINDOW for stream in live)
            assert held <= session._streams.budget.used
            for stream in live:
                assert sum(map(len, stream.inbox)) == stream.receive_window.unread
                assert stream.receive_window.unread <= stream.receive_window.size

    def teardown(self) -> None:
        """Let everything arrive and be read; then compare with the model."""
        busy = True
        while busy:
            busy = False
            self.now += 0.01
            for side in self.both():
                while side.pump():
                    busy = True
                while self.carry(self.peer(side), 100_000):
                    busy = True
                for stream in side.streams.values():
                    while self.take(side, stream, 65_536):
                        busy = True
        for side in self.both():
            for stream in side.streams.values():
                if stream.id not in self.cut:
                    self.check_at_rest(side, stream)
            for stream in side.streams.values():
                side.session.reset(stream)
            assert side.session.streams == {}
            assert side.session._streams.budget.used == 0

    def check_at_rest(self, side: Side, stream: Stream) -> None:
        peer = self.peer(side)
        if stream.state is State.IDLE:
            assert stream.id not in peer.streams
            return
        assert side.read[stream.id] == self.written[peer.name, stream.id]
        assert stream.outbox is None
        assert stream.at_eof == (stream.id in peer.finished)
        ended = stream.id in side.finished, stream.id in peer.finished
        assert (
            stream.state
            is {
                (False, False): State.ESTABLISHED,
                (True, False): State.LOCAL_CLOSED,
                (False, True): State.REMOTE_CLOSED,
                (True, True): State.CLOSED,
            }[ended]
        )


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
