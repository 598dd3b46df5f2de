"""Whatever bytes arrive, a session goes on or ends with a ProtocolError, its memory bounded,
and how the bytes were cut into reads makes no difference.

`make fuzz` runs it at length; as a part of the tests it is a smoke test.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pstream.wire.yamux.frame import HEADER_BYTES, MAX_U32, ProtocolError
from p2pstream.wire.yamux.receive import MAX_PONGS
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.stream import OPENED, State, Stream
from p2pstream.wire.yamux.streams import ACCEPT_BACKLOG
from p2pstream.wire.yamux.turns import MAX_CONTROL
from p2pstream.wire.yamux.window import INITIAL_WINDOW

BUDGET = 2**20


@st.composite
def frames(draw: Any) -> bytes:
    """A frame that is right in most of its fields, and any other bytes now and then."""
    kind = draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]) | st.integers(0, 255))
    version = draw(st.sampled_from([0] * 15 + [1]))
    flags = draw(st.sampled_from([0, 0, 0, 1, 1, 2, 4, 8, 3, 5, 9]) | st.integers(0, 0xFFFF))
    session_frame = kind in (2, 3) and draw(st.integers(0, 9)) < 9
    stream_id = 0 if session_frame else draw(st.integers(1, 9) | st.integers(0, MAX_U32))
    payload = b""
    length = draw(st.integers(0, 3) | st.sampled_from([INITIAL_WINDOW, MAX_U32]))
    if kind == 0:
        payload = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 1, 5_000]))
        length = len(payload) + draw(st.sampled_from([0] * 15 + [1, 2**18, MAX_U32 - 2**20]))
    header: bytes = (version << 8 | kind).to_bytes(2, "big") + flags.to_bytes(2, "big")
    header += stream_id.to_bytes(4, "big") + length.to_bytes(4, "big")
    return header + payload


WIRE = st.lists(frames() | st.binary(max_size=30), max_size=30).map(b"".join)
CUTS = st.lists(st.integers(1, 40) | st.integers(1, 100_000), min_size=1, max_size=8)


class Application:
    """What stands behind a session. One that reads also accepts at once; else both come last."""

    def __init__(self, is_client: bool, has_streams: bool, reads: bool) -> None:
        self.session = Session(client=is_client, budget=BUDGET)
        self.reads = reads
        self.opened: list[Stream] = []
        self.fault = ""
        if has_streams:
            self.session.announce(self.session.open())
            self.session.finish(self.session.open())
            self.session.reset(self.session.open())
            self.session.open()

    def receive(self, data: bytes) -> None:
        session = self.session
        try:
            while not session.receive_data(data):
                data = b""
        except ProtocolError as error:
            self.fault = str(error)
        for stream in session.take_touched():
            touched, stream.touched = stream.touched, 0
            if touched & OPENED:
                self.opened.append(stream)
            if self.reads:
                while stream.take(1000):
                    session.update_window(stream, 0.0)
        if self.reads:
            self.accept()
        self.check_bounds()

    def accept(self) -> None:
        for stream in self.opened:
            self.session.accept(stream)
        self.opened.clear()

    def check_bounds(self) -> None:
        session = self.session
        assert session._streams.budget.used <= BUDGET
        assert len(session.pongs) <= MAX_PONGS
        assert len(session._receiver._head) < HEADER_BYTES
        assert len(session._turns.control) <= MAX_CONTROL
        assert len(session._streams.unaccepted) <= ACCEPT_BACKLOG
        for stream in session.streams.values():
            assert stream.state not in (State.CLOSED, State.RESET)
            window = stream.receive_window
            assert sum(map(len, stream.inbox)) == window.unread <= window.size

    def finish(self) -> tuple[str, dict[int, bytes], bytes]:
        """End it all: the fault, what was not read of each stream, what was answered."""
        self.accept()
        session = self.session
        unread = {stream.id: b"".join(stream.inbox) for stream in session.streams.values()}
        answers = b""
        while session.has_output:
            answers += b"".join(session.next_batch())
        session.end(ConnectionError("the end"))
        assert session.streams == {}
        assert session._streams.budget.used == 0
        return self.fault, {} if self.fault else unread, answers


def feed(application: Application, wire: bytes, cuts: list[int]) -> None:
    position = turn = 0
    while position < len(wire) and not application.fault:
        size = cuts[turn % len(cuts)]
        application.receive(wire[position : position + size])
        position += size
        turn += 1


@given(WIRE, CUTS, st.booleans(), st.booleans())
def test_whatever_arrives(wire: bytes, cuts: list[int], is_client: bool, has_streams: bool) -> None:
    application = Application(is_client, has_streams, reads=True)
    feed(application, wire, cuts)
    application.finish()


@given(WIRE, CUTS, st.booleans(), st.booleans())
def test_however_it_is_cut(
    wire: bytes, cuts: list[int], is_client: bool, has_streams: bool
) -> None:
    whole = Application(is_client, has_streams, reads=False)
    whole.receive(wire)
    pieces = Application(is_client, has_streams, reads=False)
    feed(pieces, wire, cuts)
    assert whole.finish() == pieces.finish()
