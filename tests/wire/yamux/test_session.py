"""A session, told as transcripts: `>>` is what arrives, `<<` what leaves.

Every case runs whole, byte by byte, and with a tail (a ping that must still be answered).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import (
    HEADER_BYTES,
    MAX_PAYLOAD,
    MAX_U32,
    Flag,
    Frame,
    FrameType,
    GoAwayCode,
    ProtocolError,
)
from p2pstream.wire.yamux.receive import FRAMES_A_TURN, MAX_PONGS
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.stream import BROKEN, OPENED, READABLE, WRITABLE, State, Stream
from p2pstream.wire.yamux.streams import ACCEPT_BACKLOG
from p2pstream.wire.yamux.turns import MAX_CONTROL
from p2pstream.wire.yamux.window import INITIAL_WINDOW, LUMP, MAX_WINDOW

Feed = Callable[[Session, bytes], None]


def whole(session: Session, wire: bytes) -> None:
    while not session.receive_data(wire):
        wire = b""


def byte_by_byte(session: Session, wire: bytes) -> None:
    for i in range(len(wire)):
        whole(session, wire[i : i + 1])


def with_a_tail(session: Session, wire: bytes) -> None:
    whole(session, wire + frames("PING SYN 0 4711"))
    assert session._turns.control.pop() == frames("PING ACK 0 4711")
    session._turns.pongs -= 1


@pytest.fixture(params=[whole, byte_by_byte, with_a_tail], ids=lambda feed: feed.__name__)
def feed(request: pytest.FixtureRequest) -> Feed:
    return request.param  # type: ignore[no-any-return]  # pytest gives parameters no type


def frames(*lines: str) -> bytes:
    """Frames written as `TYPE [FLAG|FLAG] STREAM LENGTH-OR-PAYLOAD`.

    The payload of DATA stands there as text, or as `*N` for N zero bytes.
    """
    wire = b""
    for line in lines:
        kind, *middle, last = line.split(" ")
        flags = Flag(0)
        for name in middle[0].split("|") if len(middle) == 2 else []:
            flags |= Flag[name]
        payload = b""
        if kind == "DATA":
            payload = bytes(int(last[1:])) if last.startswith("*") else last.encode()
        length = len(payload) if kind == "DATA" else int(last)
        wire += Frame(FrameType[kind], flags, int(middle[-1]), length).encode() + payload
    return wire


def sent(session: Session) -> list[str]:
    """All that leaves, in the form of `frames`."""
    wire = b""
    while session.has_output:
        wire += b"".join(session.next_batch())
    lines = []
    while wire:
        frame = Frame.parse(wire)
        wire = wire[HEADER_BYTES:]
        last = str(frame.length)
        if frame.type is FrameType.DATA:
            payload, wire = wire[: frame.length], wire[frame.length :]
            last = payload.decode() if payload.strip(b"\0") or not payload else f"*{len(payload)}"
        flags = "|".join(flag.name or "" for flag in Flag if flag in frame.flags)
        lines.append(" ".join(filter(None, [frame.type.name, flags, str(frame.stream_id), last])))
    return lines


def touched(session: Session) -> list[tuple[int, int]]:
    """(id, bits) of the touched streams, which are cleared as the shell does."""
    result = []
    for stream in session.take_touched():
        result.append((stream.id, stream.touched))
        stream.touched = 0
    return result


def agent_with_stream(*lines: str, accept: bool = True) -> tuple[Session, Stream]:
    """The agent's side, after the server opened stream 2 with `lines`."""
    session = Session(client=True)
    session.receive_data(frames(*(lines or ("WINDOW_UPDATE SYN 2 0",))))
    stream = session.streams[2]
    if accept:
        session.accept(stream)
        sent(session)
        touched(session)
    return session, stream


# --- opening, data, ends ----------------------------------------------------------------------


def test_open_with_the_first_data(feed: Feed) -> None:
    server = Session(client=False)
    stream = server.open()
    server.send(stream, b"request")
    assert sent(server) == ["DATA SYN 2 request"]
    assert touched(server) == [(2, WRITABLE)]
    feed(server, frames("WINDOW_UPDATE ACK 2 0", "DATA 2 verdict"))
    assert stream.state is State.ESTABLISHED
    assert touched(server) == [(2, READABLE)]
    assert stream.take(100) == b"verdict"
    server.send(stream, b"more")
    assert sent(server) == ["DATA 2 more"]


def test_open_by_the_quick_way() -> None:
    server = Session(client=False)
    stream = server.open()
    assert not server.has_output
    assert server.frame(stream, b"request") == frames("DATA SYN 2 request")
    assert server.frame(stream, b"more") == frames("DATA 2 more")
    big = bytes(MAX_PAYLOAD + 1)
    assert len(server.frame(stream, big)) == HEADER_BYTES + MAX_PAYLOAD
    assert server.frame(stream, memoryview(big)[-1:]) == frames("DATA 2 *1")
    stream.send_window.credit = 3
    assert server.frame(stream, b"12345") == frames("DATA 2 123")
    assert server.frame(stream, b"45") == b""


def test_accept(feed: Feed) -> None:
    agent = Session(client=True)
    feed(agent, frames("DATA SYN 2 request"))
    assert touched(agent) == [(2, OPENED | READABLE)]
    stream = agent.streams[2]
    assert stream.state is State.SYN_RECEIVED
    with pytest.raises(StreamClosed):
        agent.send(stream, b"too early")
    agent.accept(stream)
    agent.send(stream, b"verdict")
    assert sent(agent) == ["WINDOW_UPDATE ACK 2 0", "DATA 2 verdict"]
    assert stream.take(100) == b"request"


def test_ids_are_odd_for_the_client_even_for_the_server() -> None:
    assert [Session(client=True).open().id, Session(client=False).open().id] == [1, 2]
    session = Session(client=True)
    assert [session.open().id for _ in range(3)] == [1, 3, 5]


def test_ids_run_out() -> None:
    session = Session(client=True)
    session._streams._next_id = MAX_U32
    assert session.open().id == MAX_U32
    with pytest.raises(StreamClosed, match="used up"):
        session.open()


def test_streams_have_a_limit() -> None:
    session = Session(client=True, max_streams=2)
    session.open()
    session.open()
    with pytest.raises(StreamClosed, match="as many"):
        session.open()


def test_half_close_ours_first(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    agent.finish(stream)
    assert sent(agent) == ["WINDOW_UPDATE FIN 2 0"]
    with pytest.raises(StreamClosed):
        agent.send(stream, b"x")
    with pytest.raises(StreamClosed):
        agent.finish(stream)
    feed(agent, frames("DATA 2 still", "WINDOW_UPDATE FIN 2 0"))
    assert stream.state is State.CLOSED
    assert agent.streams == {}
    assert not stream.at_eof
    assert stream.take(100) == b"still"
    assert stream.at_eof


def test_half_close_theirs_first(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames("DATA FIN 2 last"))
    assert stream.state is State.REMOTE_CLOSED
    assert touched(agent) == [(2, READABLE)]
    assert stream.take(100) == b"last"
    assert stream.at_eof
    agent.send(stream, b"answer")
    agent.finish(stream)
    assert sent(agent) == ["DATA FIN 2 answer"]
    assert agent.streams == {}


def test_an_empty_stream_may_end_at_once(feed: Feed) -> None:
    agent = Session(client=True)
    feed(agent, frames("DATA SYN|FIN 2 *0"))
    stream = agent.streams[2]
    assert (stream.state, stream.at_eof) == (State.REMOTE_CLOSED, True)
    # The state no longer says that it was not acknowledged, so it was, at once.
    assert sent(agent) == ["WINDOW_UPDATE ACK 2 0"]
    agent.accept(stream)
    assert sent(agent) == []
    server = Session(client=False)
    server.finish(server.open())
    assert sent(server) == ["WINDOW_UPDATE SYN|FIN 2 0"]


def test_fin_waits_for_the_outbox_and_rides_on_its_last_frame() -> None:
    agent, stream = agent_with_stream()
    agent.send(stream, bytes(MAX_PAYLOAD + 5))
    agent.finish(stream)
    with pytest.raises(StreamClosed):
        agent.finish(stream)
    assert sent(agent) == [f"DATA 2 *{MAX_PAYLOAD}", "DATA FIN 2 *5"]
    assert stream.state is State.LOCAL_CLOSED


def test_one_send_at_a_time() -> None:
    agent, stream = agent_with_stream()
    agent.send(stream, b"first")
    with pytest.raises(StreamClosed):
        agent.send(stream, b"second")
    with pytest.raises(StreamClosed):
        agent.frame(stream, b"second")
    assert sent(agent) == ["DATA 2 first"]
    agent.send(stream, b"")
    assert sent(agent) == []


def test_interleaved_frames_reach_their_streams(feed: Feed) -> None:
    agent = Session(client=True)
    feed(
        agent,
        frames("DATA SYN 2 a", "DATA SYN 4 1", "DATA 2 b", "DATA 4 2", "DATA FIN 2 c", "DATA 4 3"),
    )
    assert touched(agent) == [(2, OPENED | READABLE), (4, OPENED | READABLE)]
    assert (agent.streams[2].take(9), agent.streams[4].take(9)) == (b"abc", b"123")


def test_opens_of_the_peer_may_overtake_each_other(feed: Feed) -> None:
    agent = Session(client=True)
    feed(agent, frames("WINDOW_UPDATE SYN 4 0", "WINDOW_UPDATE SYN 2 0"))
    assert sorted(agent.streams) == [2, 4]
    agent.reset(agent.streams[4])
    feed(agent, frames("DATA 4 late"))


# --- reset ------------------------------------------------------------------------------------


def test_our_reset_and_what_was_on_its_way(feed: Feed) -> None:
    agent, stream = agent_with_stream("DATA SYN 2 unread")
    agent.send(stream, b"unsent")
    agent.reset(stream)
    agent.reset(stream)
    assert sent(agent) == ["WINDOW_UPDATE RST 2 0"]
    feed(
        agent, frames("DATA 2 late", "WINDOW_UPDATE 2 9", "DATA FIN 2 end", "WINDOW_UPDATE RST 2 0")
    )
    assert (touched(agent), agent.streams, stream.take(9)) == ([], {}, b"")


def test_their_reset(feed: Feed) -> None:
    agent, stream = agent_with_stream("DATA SYN 2 unread")
    agent.send(stream, b"unsent")
    feed(agent, frames("WINDOW_UPDATE RST 2 0"))
    assert touched(agent) == [(2, BROKEN)]
    assert (sent(agent), agent.streams) == ([], {})
    with pytest.raises(StreamClosed):
        agent.send(stream, b"x")
    # What came before can still be taken, until we let go of the stream too.
    assert (stream.take(2), stream.at_eof) == (b"un", False)
    agent.reset(stream)
    assert (sent(agent), stream.take(9), stream.at_eof) == ([], b"", True)
    assert agent._streams.budget.used == 0


def test_their_reset_on_a_data_frame_drops_the_data(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames("DATA RST 2 gone"))
    assert (touched(agent), stream.take(9)) == ([(2, BROKEN)], b"")


def test_reset_before_the_peer_heard_of_it_says_nothing() -> None:
    server = Session(client=False)
    stream = server.open()
    server.reset(stream)
    other = server.open()
    server.send(other, b"queued")
    server.reset(other)
    assert sent(server) == []
    assert server.streams == {}


def test_reset_inside_a_payload_drops_the_rest_of_it() -> None:
    agent, stream = agent_with_stream()
    wire = frames("DATA 2 0123456789", "PING SYN 0 1")
    agent.receive_data(wire[:15])
    agent.reset(stream)
    agent.receive_data(wire[15:])
    assert sent(agent) == ["WINDOW_UPDATE RST 2 0", "PING ACK 0 1"]


def test_a_refused_stream(feed: Feed) -> None:
    server = Session(client=False)
    stream = server.open()
    server.send(stream, b"request")
    sent(server)
    touched(server)
    feed(server, frames("WINDOW_UPDATE RST 2 0"))
    assert touched(server) == [(2, BROKEN)]


def test_opened_and_reset_in_one_read(feed: Feed) -> None:
    agent = Session(client=True)
    feed(agent, frames("DATA SYN 2 x", "WINDOW_UPDATE RST 2 0"))
    (stream,) = agent.take_touched()
    assert stream.touched & OPENED
    assert stream.touched & BROKEN
    agent.accept(stream)
    assert sent(agent) == []


# --- windows ----------------------------------------------------------------------------------


def test_credit_goes_back_when_the_reader_took_half() -> None:
    agent, stream = agent_with_stream()
    half = INITIAL_WINDOW // 2
    agent.receive_data(frames(f"DATA 2 *{INITIAL_WINDOW}"))
    while stream.receive_window.unread > half:
        assert sent(agent) == []
        stream.take(1024)
        agent.update_window(stream, 0.0)
    assert sent(agent) == [f"WINDOW_UPDATE 2 {half}"]
    assert stream.receive_window.credit == half


def test_no_credit_for_a_peer_that_ended(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames(f"DATA FIN 2 *{INITIAL_WINDOW}"))
    while stream.take(65_536):
        agent.update_window(stream, 0.0)
    assert sent(agent) == []


def test_a_window_grows_with_the_round_trip() -> None:
    agent, stream = agent_with_stream()
    agent.round_trip.record(0.1)
    now = 0.0
    while stream.receive_window.size < MAX_WINDOW and now < 100:
        agent.receive_data(frames(f"DATA 2 *{min(stream.receive_window.credit, LUMP)}"))
        while stream.take(65_536):
            agent.update_window(stream, now)
        now += 0.01
    assert stream.receive_window.size == MAX_WINDOW
    agent.reset(stream)
    assert agent._streams.budget.used == 0


def test_growth_goes_back_when_the_peer_ends() -> None:
    agent, stream = agent_with_stream()
    window = stream.receive_window
    agent._streams.budget.borrow(1_000_000)
    window.size += 1_000_000
    window.credit += 1_000_000
    agent.receive_data(frames("DATA 2 *300000", "WINDOW_UPDATE FIN 2 0"))
    assert agent._streams.budget.used == 300_000 - INITIAL_WINDOW  # where unread bytes stand
    while stream.take(65_536):
        agent.update_window(stream, 0.0)
    assert agent._streams.budget.used == 0


@pytest.mark.parametrize("limit", [INITIAL_WINDOW, 2 * INITIAL_WINDOW])
def test_growth_has_its_limit(limit: int) -> None:
    session = Session(client=True, max_window=limit)
    session.receive_data(frames("WINDOW_UPDATE SYN 2 0"))
    stream = session.streams[2]
    session.accept(stream)
    session.round_trip.record(0.1)
    for step in range(100):
        session.receive_data(frames(f"DATA 2 *{stream.receive_window.credit}"))
        while stream.take(65_536):
            session.update_window(stream, step * 0.01)
    assert stream.receive_window.size == limit


def test_a_sender_stops_at_its_credit(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    agent.send(stream, bytes(INITIAL_WINDOW + 10))
    rest = INITIAL_WINDOW - 4 * MAX_PAYLOAD
    assert sent(agent) == [*[f"DATA 2 *{MAX_PAYLOAD}"] * 4, f"DATA 2 *{rest}"]
    assert touched(agent) == []
    feed(agent, frames("WINDOW_UPDATE 2 4"))
    assert sent(agent) == ["DATA 2 *4"]
    feed(agent, frames("WINDOW_UPDATE 2 0", "WINDOW_UPDATE 2 100"))
    assert sent(agent) == ["DATA 2 *6"]
    assert touched(agent) == [(2, WRITABLE)]


# --- the session --------------------------------------------------------------------------------


def test_pings_both_ways(feed: Feed) -> None:
    session = Session(client=True)
    session.ping(5)
    assert sent(session) == ["PING SYN 0 5"]
    feed(session, frames("PING ACK 0 5", "PING SYN 0 77"))
    assert session.pongs == [5]
    assert sent(session) == ["PING ACK 0 77"]


def test_their_go_away_forbids_us_to_open_not_to_go_on(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames("GO_AWAY 0 0"))
    assert agent.peer_going_away
    with pytest.raises(StreamClosed):
        agent.open()
    feed(agent, frames("DATA 2 on", "DATA SYN 4 new"))
    assert stream.take(9) == b"on"
    agent.accept(agent.streams[4])
    agent.send(stream, b"and on")
    assert sent(agent) == ["WINDOW_UPDATE ACK 4 0", "DATA 2 and on"]


def test_our_go_away_refuses_new_streams_and_lets_the_others_go_on(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    agent.go_away()
    with pytest.raises(StreamClosed):
        agent.open()
    feed(agent, frames("DATA SYN 4 refused", "DATA 4 more", "DATA 2 on"))
    assert sent(agent) == ["GO_AWAY 0 0", "WINDOW_UPDATE RST 4 0"]
    assert stream.take(9) == b"on"
    assert touched(agent) == [(2, READABLE)]


def test_end_breaks_every_stream() -> None:
    server = Session(client=False)
    idle, opened = server.open(), server.open()
    server.announce(opened)
    reason = ConnectionError("the line is dead")
    server.end(reason)
    server.end(ConnectionError("later"))
    assert touched(server) == [(2, BROKEN), (4, BROKEN)]
    assert (server.streams, sent(server), idle.state) == ({}, [], State.RESET)
    with pytest.raises(ConnectionError, match="dead"):
        server.receive_data(b"")
    with pytest.raises(StreamClosed):
        server.open()


def test_eof_between_frames_is_an_end_and_inside_one_a_fault() -> None:
    session = Session(client=True)
    session.receive_eof()
    assert session.ended is None
    session.receive_data(frames("PING SYN 0 1")[:5])
    with pytest.raises(ProtocolError, match="inside a frame"):
        session.receive_eof()
    agent, _ = agent_with_stream()
    agent.receive_data(frames("DATA 2 abc")[:-1])
    with pytest.raises(ProtocolError, match="inside a frame"):
        agent.receive_eof()


# --- hostile peers --------------------------------------------------------------------------------

HOSTILE = {
    "window overflow": [f"DATA 2 *{INITIAL_WINDOW + 1}"],
    "window overflow in two": [f"DATA 2 *{INITIAL_WINDOW}", "DATA 2 *1"],
    "window overflow with the SYN": [f"DATA SYN 4 *{INITIAL_WINDOW + 1}"],
    "credit past 32 bits": [f"WINDOW_UPDATE 2 {MAX_U32}"],
    "data for a stream nobody opened": ["DATA 4 x"],
    "credit for a stream nobody opened": ["WINDOW_UPDATE 4 1"],
    "reset of a stream nobody opened": ["WINDOW_UPDATE RST 4 0"],
    "data for a stream we never opened": ["DATA 1 x"],
    "SYN for an id of ours": ["WINDOW_UPDATE SYN 1 0"],
    "SYN for an open stream": ["WINDOW_UPDATE SYN 2 0"],
    "too much data after FIN": ["DATA FIN 2 *0", f"DATA 2 *{MAX_WINDOW + 1}"],
    "a second FIN": ["DATA FIN 2 *0", "WINDOW_UPDATE FIN 2 0"],
    "a ping without a flag": ["PING 0 1"],
    "a ping for a stream": ["PING SYN 2 1"],
    "a go-away for a stream": ["GO_AWAY 2 0"],
    "they say protocol error": ["GO_AWAY 0 1"],
    "they say internal error": ["GO_AWAY 0 2"],
    "an unknown go-away": ["GO_AWAY 0 3"],
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_hostile_frames_end_the_session(feed: Feed, lines: list[str]) -> None:
    agent, _ = agent_with_stream()
    with pytest.raises(ProtocolError) as caught:
        feed(agent, frames(*lines))
    ours = lines[-1].startswith("GO_AWAY 0")
    assert caught.value.answer == (None if ours else GoAwayCode.PROTOCOL_ERROR)
    with pytest.raises(ProtocolError):
        agent.receive_data(frames("PING SYN 0 1"))
    agent.end(caught.value)
    assert agent.streams == {}


@pytest.mark.parametrize(
    "octets",
    [
        "01 00 0000 00000002 00000001",
        "00 04 0000 00000002 00000001",
        "00 00 0000 00000000 00000001",
        "00 02 8000 00000000 00000001",
    ],
)
@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_hostile_headers_end_the_session(feed: Feed, octets: str) -> None:
    agent, _ = agent_with_stream()
    with pytest.raises(ProtocolError):
        feed(agent, bytes.fromhex(octets))


def test_a_payload_past_the_window_is_refused_before_any_of_it_is_kept() -> None:
    agent, stream = agent_with_stream()
    with pytest.raises(ProtocolError):
        agent.receive_data(Frame(FrameType.DATA, Flag(0), 2, MAX_U32).encode())
    assert stream.receive_window.unread == 0


def test_a_dropped_payload_has_a_limit_too() -> None:
    agent, stream = agent_with_stream()
    agent.reset(stream)
    agent.receive_data(Frame(FrameType.DATA, Flag(0), 2, MAX_WINDOW).encode())
    agent.receive_data(bytes(MAX_WINDOW))
    with pytest.raises(ProtocolError):
        agent.receive_data(Frame(FrameType.DATA, Flag(0), 2, MAX_WINDOW + 1).encode())


def test_a_backlog_of_streams_is_refused_past_its_length() -> None:
    agent = Session(client=True)
    ids = range(2, 2 * ACCEPT_BACKLOG + 6, 2)
    agent.receive_data(frames(*(f"DATA SYN {i} x" for i in ids)))
    assert sent(agent) == [f"WINDOW_UPDATE RST {i} 0" for i in ids[ACCEPT_BACKLOG:]]
    assert len(agent.streams) == ACCEPT_BACKLOG
    agent.accept(agent.streams[2])
    agent.reset(agent.streams[4])
    agent.receive_data(frames("DATA SYN 2000 x", "DATA SYN 2002 x", "DATA SYN 2004 x"))
    assert sent(agent)[-1:] == ["WINDOW_UPDATE RST 2004 0"]


def test_opening_and_resetting_in_turn_does_not_evade_the_backlog() -> None:
    agent = Session(client=True)
    for i in range(2, 20_002, 2):
        agent.receive_data(frames(f"WINDOW_UPDATE SYN {i} 0", f"WINDOW_UPDATE RST {i} 0"))
    assert len(agent.streams) == 0
    assert len(touched(agent)) == ACCEPT_BACKLOG


def test_open_streams_are_limited() -> None:
    agent = Session(client=True, max_streams=3)
    for i in (2, 4, 6, 8):
        agent.receive_data(frames(f"WINDOW_UPDATE SYN {i} 0"))
        if i in agent.streams:
            agent.accept(agent.streams[i])
    assert sent(agent)[-1] == "WINDOW_UPDATE RST 8 0"


def test_a_ping_flood_is_answered_within_bounds() -> None:
    session = Session(client=True)
    whole(session, frames(*(f"PING SYN 0 {i}" for i in range(1000))))
    assert len(sent(session)) == MAX_PONGS
    whole(session, frames(*(f"PING ACK 0 {i}" for i in range(1000))))
    assert len(session.pongs) == MAX_PONGS
    session.receive_data(frames("PING SYN 0 5"))
    assert sent(session) == ["PING ACK 0 5"]


def test_a_peer_that_provokes_answers_and_does_not_read_them_is_cut() -> None:
    agent = Session(client=True)
    agent.go_away()
    flood = frames(*(f"WINDOW_UPDATE SYN {i} 0" for i in range(2, 2002, 2)))
    with pytest.raises(ProtocolError, match="does not read"):
        for _ in range(MAX_CONTROL):
            agent.receive_data(flood)
    assert len(agent._turns.control) == MAX_CONTROL


@pytest.mark.parametrize("reads", [1, 2, 500])
def test_many_frames_are_taken_in_turns(reads: int) -> None:
    agent, stream = agent_with_stream()
    credit = stream.send_window.credit
    count = 5 * FRAMES_A_TURN // 2
    wire = frames(*["WINDOW_UPDATE 2 1"] * count, "DATA 2 after")
    size = -(-len(wire) // reads)
    turns, seen = 0, credit
    for at in range(0, len(wire), size):
        data = wire[at : at + size]
        while not agent.receive_data(data):
            assert stream.send_window.credit - seen <= FRAMES_A_TURN
            turns, seen, data = turns + 1, stream.send_window.credit, b""
    assert turns == 2  # a read counts as a frame, besides
    assert (stream.send_window.credit, stream.take(100)) == (credit + count, b"after")


def test_the_rest_of_a_turn_comes_before_what_arrives_later() -> None:
    agent, stream = agent_with_stream()
    letters = [chr(ord("a") + i % 26) for i in range(2 * FRAMES_A_TURN)]
    assert not agent.receive_data(frames(*(f"DATA 2 {letter}" for letter in letters)))
    assert not agent.receive_data(frames("DATA FIN 2 !"))
    assert agent.receive_data(b"")
    assert stream.take(65_536).decode() == "".join(letters) + "!"


def test_bulk_is_one_turn() -> None:
    agent, stream = agent_with_stream()
    for _ in range(200):
        assert agent.receive_data(frames(*["DATA 2 *65536"] * 4))
        while stream.take(65_536):
            agent.update_window(stream, 0.0)
        sent(agent)


@pytest.mark.parametrize("what", ["resets", "accepts", "grants"])
def test_what_the_shell_answers_is_held_to_the_same_bound(what: str) -> None:
    """In each turn the peer causes frames that the shell queues, and reads none of them."""
    agent, stream = agent_with_stream()

    def one_turn(number: int) -> None:
        if what == "grants":
            whole(agent, frames(f"DATA 2 *{stream.receive_window.credit}"))
            while stream.take(65_536):
                agent.update_window(stream, 0.0)
            return
        first = 4 + 2 * 255 * number
        ids = range(first, first + 2 * 255, 2)
        whole(agent, frames(*(f"WINDOW_UPDATE SYN {i} 0" for i in ids)))
        for opened in agent.take_touched():
            opened.touched = 0
            if what == "accepts":
                agent.accept(opened)
                whole(agent, frames(f"WINDOW_UPDATE RST {opened.id} 0"))
            else:
                agent.reset(opened)

    with pytest.raises(ProtocolError, match="does not read"):
        for number in range(MAX_CONTROL):
            one_turn(number)
    assert MAX_CONTROL <= len(agent._turns.control) < MAX_CONTROL + ACCEPT_BACKLOG


def test_empty_data_frames_leave_nothing_behind(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames(*["DATA 2 *0"] * 100))
    assert (len(stream.inbox), touched(agent)) == (0, [])


# --- harmless oddities ----------------------------------------------------------------------------


def test_data_that_raced_with_the_end_is_dropped_and_concerns_its_stream_only(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    feed(agent, frames("DATA FIN 2 last", f"DATA 2 *{INITIAL_WINDOW}", "DATA ACK 2 late"))
    assert touched(agent) == [(2, READABLE)]
    assert (stream.state, stream.take(100), stream.at_eof) == (State.REMOTE_CLOSED, b"last", True)
    agent.send(stream, b"answer")
    agent.finish(stream)
    assert sent(agent) == ["DATA FIN 2 answer"]
    feed(agent, frames("DATA 2 later", "DATA SYN 4 new"))
    assert agent.streams[4].take(100) == b"new"


def test_data_that_raced_with_the_end_of_a_stream_in_the_backlog(feed: Feed) -> None:
    agent, stream = agent_with_stream("DATA SYN|FIN 2 all", "DATA 2 late", accept=False)
    agent.accept(stream)
    assert (sent(agent), stream.take(100)) == (["WINDOW_UPDATE ACK 2 0"], b"all")


def test_flags_nobody_knows_say_nothing(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    data = "00 00 0010 00000002 00000002 6869"
    feed(agent, bytes.fromhex(f"{data} 00 01 8004 00000002 00000001 00 02 f001 00000000 00000007"))
    assert (stream.take(100), stream.at_eof) == (b"hi", True)
    assert sent(agent) == ["PING ACK 0 7"]


def test_an_opener_may_acknowledge_itself(feed: Feed) -> None:
    agent, stream = agent_with_stream("DATA SYN|ACK 2 a", "DATA ACK 2 b", accept=False)
    assert (stream.state, stream.take(100)) == (State.SYN_RECEIVED, b"ab")
    agent.accept(stream)
    assert sent(agent) == ["WINDOW_UPDATE ACK 2 0"]


@pytest.mark.parametrize(
    "lines",
    [
        ["WINDOW_UPDATE ACK 2 0"],  # nobody asked
        ["DATA ACK 2 *0"],
        ["WINDOW_UPDATE 2 0"],
        ["WINDOW_UPDATE FIN 2 0", "WINDOW_UPDATE 2 10"],
        ["PING ACK 0 99"],  # an answer to nothing
        ["GO_AWAY 0 0", "GO_AWAY 0 0"],
    ],
    ids=" ".join,
)
def test_harmless(feed: Feed, lines: list[str]) -> None:
    agent, _ = agent_with_stream()
    feed(agent, frames(*lines))
    assert sent(agent) == []


def test_credit_after_our_end_is_ignored(feed: Feed) -> None:
    agent, stream = agent_with_stream()
    agent.finish(stream)
    credit = stream.send_window.credit
    feed(agent, frames("WINDOW_UPDATE 2 10", f"WINDOW_UPDATE 2 {MAX_U32}"))
    assert stream.send_window.credit == credit


def test_a_stream_touched_and_opened_twice_is_listed_once(feed: Feed) -> None:
    agent, _ = agent_with_stream()
    feed(agent, frames("DATA 2 a", "DATA 2 b", "DATA FIN 2 c"))
    assert touched(agent) == [(2, READABLE)]
