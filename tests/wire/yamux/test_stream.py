"""One stream: every (state, input) pair, and the inbox."""

from __future__ import annotations

import itertools
import sys
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import ProtocolError
from p2pstream.wire.yamux.stream import TABLE, Action, Input, State, Stream
from p2pstream.wire.yamux.window import INITIAL_WINDOW, MAX_WINDOW, Budget, ReceiveWindow

# The table as one picture. A cell names the next state; in lower case: the input is ignored;
# with an exclamation mark: and acknowledged at once; a dot: a fault.
GRID = """
                 SYN     ACK     DATA    WINDOW  FIN     RST
                 SND RCV SND RCV SND RCV SND RCV SND RCV SND RCV
IDLE             S   R   .   .   .   .   .   .   .   .   x   .
SYN_SENT         .   .   .   E   S   S   S   S   L   M   X   X
SYN_RECEIVED     .   .   E   r   .   R   .   R   .   M!  X   X
ESTABLISHED      .   .   .   e   E   E   E   E   L   M   X   X
LOCAL_CLOSED     .   .   .   l   .   L   L   l   .   C   X   X
REMOTE_CLOSED    .   .   m   m   M   m   m   M   C   .   X   X
CLOSED           .   .   .   c   .   c   c   c   .   c   c   c
RESET            .   .   x   x   .   x   x   x   .   x   x   x
"""
LETTERS = {
    "S": State.SYN_SENT,
    "R": State.SYN_RECEIVED,
    "E": State.ESTABLISHED,
    "L": State.LOCAL_CLOSED,
    "M": State.REMOTE_CLOSED,
    "C": State.CLOSED,
    "X": State.RESET,
}
ROWS = {line.split()[0]: line.split()[1:] for line in GRID.strip().splitlines()[2:]}
PAIRS = list(product(State, Input))


def a_stream(state: State = State.ESTABLISHED) -> Stream:
    stream = Stream(1, ReceiveWindow(Budget(), MAX_WINDOW))
    stream.state = state
    return stream


@pytest.mark.parametrize(("state", "given"), PAIRS, ids=lambda value: value.name)
def test_every_pair(state: State, given: Input) -> None:
    cell = ROWS[state.name][list(Input).index(given)]
    stream = a_stream(state)
    if cell == ".":
        fault = ProtocolError if given.name.startswith("RECV_") else StreamClosed
        with pytest.raises(fault, match=f"{given.name} on stream 1 in state {state.name}"):
            stream.step(given)
        assert stream.state is state
        return
    action = stream.step(given)
    assert stream.state is LETTERS[cell[0].upper()]
    if cell.endswith("!"):
        assert action is Action.ACKNOWLEDGE
    else:
        assert action is (Action.IGNORE if cell.islower() else Action.PROCEED)
    assert stream.receiving is (ROWS[stream.state.name][5].isupper())
    assert stream.sending is (ROWS[stream.state.name][4].isupper())


def test_the_grid_is_the_whole_table() -> None:
    assert len(PAIRS) == 96
    assert len(TABLE) == sum(cell != "." for row in ROWS.values() for cell in row)


@given(st.lists(st.sampled_from(Input)))
def test_a_direction_that_ended_never_opens_again(inputs: list[Input]) -> None:
    stream = a_stream(State.IDLE)
    begun = ended_here = ended_there = False
    for given_input in inputs:
        try:
            stream.step(given_input)
        except (ProtocolError, StreamClosed):
            continue
        begun = begun or stream.state is not State.IDLE
        ended_here = ended_here or given_input in (Input.SEND_FIN, Input.SEND_RST, Input.RECV_RST)
        ended_there = ended_there or given_input in (Input.RECV_FIN, Input.SEND_RST, Input.RECV_RST)
        assert not (stream.sending and ended_here)
        assert not (stream.receiving and ended_there)
        assert not (begun and stream.state is State.IDLE)


def fill(stream: Stream, pieces: list[bytes]) -> None:
    for piece in pieces:
        stream.put(piece)


@given(
    # Lengths rather than bytes: Hypothesis warns of arguments that are long to print.
    st.lists(st.integers(1, 40) | st.sampled_from([4096, 9000])),
    st.lists(st.integers(1, 70) | st.sampled_from([4096, 65_536]), min_size=1),
)
def test_what_was_put_is_taken_whatever_the_sizes(lengths: list[int], sizes: list[int]) -> None:
    numbers = itertools.cycle(range(256))
    pieces = [bytes(itertools.islice(numbers, length)) for length in lengths]
    stream = a_stream()
    stream.step(Input.RECV_WINDOW)
    fill(stream, pieces)
    expected = b"".join(pieces)
    got = b""
    while stream.inbox:
        size = sizes[len(got) % len(sizes)]
        piece = stream.take(size)
        assert type(piece) is bytes
        assert 0 < len(piece) <= size
        got += piece
    assert got == expected
    assert stream.take(1) == b""
    at_eof_before = stream.at_eof
    stream.step(Input.RECV_FIN)
    assert (at_eof_before, stream.at_eof) == (False, True)
    assert stream.receive_window.unread == 0


def test_many_tiny_frames_hold_little_more_than_their_bytes() -> None:
    stream = a_stream()
    fill(stream, [b"ab"] * (INITIAL_WINDOW // 2))
    held = sum(sys.getsizeof(piece) for piece in stream.inbox) + sys.getsizeof(stream.inbox)
    assert held < 1.5 * INITIAL_WINDOW


def test_small_pieces_come_together_and_large_ones_are_not_copied() -> None:
    stream = a_stream()
    large = b"z" * 10_000
    fill(stream, [b"a", b"b", b"c", large])
    assert stream.take(65_536) == b"abc" + large
    fill(stream, [large])
    assert stream.take(65_536) is large
    fill(stream, [b"a", large])
    assert stream.take(100) == b"a"


def test_clear_drops_everything_and_gives_the_window_back() -> None:
    stream = a_stream()
    stream.step(Input.RECV_WINDOW)
    fill(stream, [b"a" * 100])
    stream.outbox = memoryview(b"out")
    stream.fin_queued = True
    stream.step(Input.RECV_RST)
    stream.clear()
    assert not any((stream.outbox, stream.fin_queued, stream.due))
    assert stream.at_eof
    assert stream.receive_window.unread == 0


def test_repr() -> None:
    assert repr(a_stream()) == "<yamux Stream 1 ESTABLISHED>"
