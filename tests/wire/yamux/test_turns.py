"""Whose frame goes out next: control, small, then each bulk sender in its turn."""

from __future__ import annotations

from p2pstream.wire.yamux.frame import HEADER_BYTES, MAX_PAYLOAD, Flag, Frame, FrameType
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.stream import WRITABLE, Stream
from p2pstream.wire.yamux.turns import BATCH, SMALL_REST, Turns
from p2pstream.wire.yamux.window import Budget, ReceiveWindow


def a_session(streams: int) -> tuple[Session, list[Stream]]:
    """A session whose streams are open, with room to send and nothing waiting."""
    session = Session(client=False)
    opened = [session.open() for _ in range(streams)]
    for stream in opened:
        session.announce(stream)
        stream.send_window.grant(2**30)
    session.next_batch()
    return session, opened


def batch(session: Session) -> list[tuple[str, int, int]]:
    """(type, stream, length) of the frames of the next batch."""
    wire = b"".join(session.next_batch())
    frames = []
    while wire:
        frame = Frame.parse(wire)
        frames.append((frame.type.name, frame.stream_id, frame.length))
        payload = frame.length if frame.type is FrameType.DATA else 0
        wire = wire[HEADER_BYTES + payload :]
    return frames


def test_bulk_senders_take_turns_of_one_frame() -> None:
    session, (a, b, c) = a_session(3)
    for stream in (a, b, c):
        session.send(stream, bytes(2 * MAX_PAYLOAD + 9_000))
    order = [frame for _ in range(9) for frame in batch(session)]
    full = MAX_PAYLOAD
    assert order == [
        *(("DATA", stream, full) for stream in (2, 4, 6, 2, 4, 6)),
        *(("DATA", stream, 9_000) for stream in (2, 4, 6)),
    ]
    assert not session.has_output


def test_small_and_control_go_before_bulk_and_bulk_goes_with_them() -> None:
    session, (bulk, small, other) = a_session(3)
    session.send(bulk, bytes(10 * MAX_PAYLOAD))
    session.send(small, b"a request")
    session.finish(other)
    session.ping(7)
    assert batch(session) == [
        ("WINDOW_UPDATE", 6, 0),
        ("PING", 0, 7),
        ("DATA", 4, 9),
        ("DATA", 2, MAX_PAYLOAD),
    ]


def test_small_ones_cannot_starve_bulk() -> None:
    session, (bulk, *small) = a_session(40)
    session.send(bulk, bytes(3 * MAX_PAYLOAD))
    for stream in small:
        session.send(stream, bytes(SMALL_REST))
    sizes = [sum(length for _, stream, length in batch(session) if stream == 2) for _ in range(3)]
    assert sizes == [MAX_PAYLOAD] * 3


def test_a_batch_is_bounded() -> None:
    session, streams = a_session(100)
    for stream in streams:
        session.send(stream, bytes(1000))
    while frames := batch(session):
        assert sum(length + HEADER_BYTES for *_, length in frames) <= BATCH + SMALL_REST


def test_a_stream_without_credit_waits_outside_the_line() -> None:
    session, (poor, rich) = a_session(2)
    poor.send_window.credit = 10
    session.send(poor, bytes(30))
    session.send(rich, bytes(5))
    assert batch(session) == [("DATA", 2, 10), ("DATA", 4, 5)]
    assert not session.has_output
    assert [stream.id for stream in session.take_touched()] == [4]
    session.receive_data(Frame(FrameType.WINDOW_UPDATE, Flag(0), 2, 100).encode())
    assert batch(session) == [("DATA", 2, 20)]
    (touched,) = session.take_touched()
    assert (touched.id, touched.touched) == (2, WRITABLE)


def test_one_that_waits_keeps_its_place() -> None:
    turns = Turns(lambda _: 0)
    stream = Stream(2, ReceiveWindow(Budget()))
    turns.add(stream)
    assert not turns  # nothing to send
    stream.outbox = memoryview(b"x")
    turns.add(stream)
    turns.add(stream)
    assert list(turns.small) == [stream]


def test_a_stream_reset_while_it_waits_sends_nothing() -> None:
    session, (a, b) = a_session(2)
    session.send(a, bytes(100_000))
    session.send(b, bytes(10))
    session.reset(a)
    assert batch(session) == [("WINDOW_UPDATE", 2, 0), ("DATA", 4, 10)]
    assert not session.has_output
