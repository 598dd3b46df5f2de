"""Credit: nothing is granted twice or buffered past the window; windows grow and shrink."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pstream.wire.yamux.frame import MAX_U32, ProtocolError
from p2pstream.wire.yamux.window import (
    INITIAL_WINDOW,
    LUMP,
    MAX_WINDOW,
    SESSION_BUDGET,
    Budget,
    ReceiveWindow,
    RoundTrip,
    SendWindow,
)


@st.composite
def receive_windows(draw: Any, budget_total: int = SESSION_BUDGET) -> ReceiveWindow:
    """Any valid state: a size, cut in three at any two points, and a round under way or not."""
    budget = Budget(budget_total)
    window = ReceiveWindow(budget)
    size = draw(st.integers(INITIAL_WINDOW, min(MAX_WINDOW, INITIAL_WINDOW + budget_total)))
    budget.borrow(size - INITIAL_WINDOW)
    budget.borrow(draw(st.integers(0, budget.total - budget.used)))  # by other streams
    first, second = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    window.size = size
    window.due_at = min(size // 2, LUMP)
    window.credit, window.unread, window.owed = first, second - first, size - second
    if draw(st.booleans()):
        window._round_start = draw(st.floats(0, 100))
        window._round_bytes = draw(st.integers(0, 2 * size))
    window._check_invariants()
    return window


@given(receive_windows(), st.integers(0, MAX_U32))
def test_receive_takes_what_fits_and_nothing_of_what_does_not(
    window: ReceiveWindow, amount: int
) -> None:
    credit, unread = window.credit, window.unread
    if amount > credit:
        with pytest.raises(ProtocolError):
            window.check(amount)
        with pytest.raises(ProtocolError):
            window.receive(amount)
        assert (window.credit, window.unread) == (credit, unread)
    else:
        window.check(amount)
        window.receive(amount)
        assert (window.credit, window.unread) == (credit - amount, unread + amount)


@given(receive_windows(), st.data())
def test_consume_says_when_a_lump_is_owed(window: ReceiveWindow, data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, window.unread))
    due = window.consume(amount)
    assert due == (window.owed >= min(window.size // 2, LUMP))


@given(receive_windows(), st.floats(100, 200), st.none() | st.floats(0, 2))
def test_update_grants_what_was_read_and_growth_within_the_budget(
    window: ReceiveWindow, now: float, rtt: float | None
) -> None:
    credit, owed, size, used = window.credit, window.owed, window.size, window._budget.used
    delta = window.update(now, rtt)
    if owed < min(size // 2, LUMP):
        assert delta == 0
        assert window.owed == owed
        return
    growth = window.size - size
    assert delta == owed + growth
    assert delta >= 0
    assert window.credit == credit + delta
    assert window._budget.used == used + growth
    assert window.size <= MAX_WINDOW
    assert window.update(now, rtt) == 0


@given(receive_windows())
def test_closing_gives_back_what_no_unread_byte_stands_in(window: ReceiveWindow) -> None:
    others = window._budget.used - (window.size - INITIAL_WINDOW)
    window.close()
    assert window.credit == 0
    assert window._budget.used == others + max(0, window.unread - INITIAL_WINDOW)
    window.close()
    window.discard()
    assert window._budget.used == others
    with pytest.raises(ProtocolError):
        window.receive(1)


@given(st.integers(0, MAX_U32), st.integers(0, MAX_U32))
def test_send_window_ends_at_32_bits(credit: int, delta: int) -> None:
    window = SendWindow(credit)
    if credit + delta > MAX_U32:
        with pytest.raises(ProtocolError):
            window.grant(delta)
        assert window.credit == credit
    else:
        window.grant(delta)
        assert window.credit == credit + delta


@given(st.integers(0, MAX_U32), st.integers(0, MAX_U32))
def test_send_window_gives_no_more_than_there_is(credit: int, wanted: int) -> None:
    window = SendWindow(credit)
    assert window.take(wanted) == min(credit, wanted)
    assert window.credit == credit - min(credit, wanted)


@pytest.mark.parametrize(
    ("window", "field", "value"),
    [
        (SendWindow(), "credit", -1),
        (SendWindow(), "credit", MAX_U32 + 1),
        (ReceiveWindow(Budget()), "unread", -1),
        (ReceiveWindow(Budget()), "owed", 1),
        (ReceiveWindow(Budget()), "credit", INITIAL_WINDOW + 1),
        (ReceiveWindow(Budget()), "size", INITIAL_WINDOW - 1),
        (Budget(10), "used", 11),
        (Budget(10), "used", -1),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else type(value).__name__,
)
def test_a_broken_invariant_is_noticed(
    window: SendWindow | ReceiveWindow | Budget, field: str, value: int
) -> None:
    setattr(window, field, value)
    with pytest.raises(AssertionError):
        window._check_invariants()


def test_round_trip_is_the_least_of_the_last_eight() -> None:
    trip = RoundTrip()
    trip.record(0.010)
    trip.record(0.300)
    assert trip.seconds == 0.010
    for _ in range(8):
        trip.record(0.200)
    assert trip.seconds == 0.200


def transfer(
    window: ReceiveWindow, *, rtt: float, line: float, seconds: float, start: float = 0.0
) -> float:
    """A sender with all the data in the world over a path of `rtt` and `line` bytes a second.

    The reader takes at once what arrives. Simulated event by event; bytes a second in the end.
    """
    events: list[tuple[float, int, str, int]] = [(start, 0, "send", 0)]
    count = itertools.count(1)
    credit, got, stalled, now = window.credit, 0, False, start

    def later(at: float, what: str, amount: int) -> None:
        heapq.heappush(events, (at, next(count), what, amount))

    while events and now < start + seconds:
        now, _, what, amount = heapq.heappop(events)
        if what == "grant":
            credit += amount
        elif what == "arrive":
            got += amount
            window.receive(amount)
            window.consume(amount)
            delta = window.update(now, rtt)
            if delta:
                later(now + rtt / 2, "grant", delta)
        if what == "send" or (what == "grant" and stalled):
            piece = min(credit, 65_536)
            stalled = piece == 0
            if piece:
                credit -= piece
                later(now + piece / line, "send", 0)
                later(now + piece / line + rtt / 2, "arrive", piece)
    return got / seconds


def test_a_window_fills_a_long_path() -> None:
    window = ReceiveWindow(Budget())
    transfer(window, rtt=0.1, line=1e9, seconds=1)
    assert window.size == MAX_WINDOW  # from 256 KiB in a second: six doublings
    assert transfer(ReceiveWindow(Budget()), rtt=0.1, line=50e6, seconds=10) > 0.9 * 50e6


def test_a_window_stops_at_what_the_line_carries() -> None:
    window = ReceiveWindow(Budget())
    line = 12.5e6  # 100 Mbit/s: 1.25 MB are under way at 100 ms
    transfer(window, rtt=0.1, line=line, seconds=20)
    assert 1.25e6 < window.size <= 4.2 * 1.25e6


def test_a_window_does_not_grow_for_a_slow_line_or_a_short_path() -> None:
    slow = ReceiveWindow(Budget())
    transfer(slow, rtt=0.1, line=0.5e6, seconds=20)
    assert slow.size == INITIAL_WINDOW
    near = ReceiveWindow(Budget())
    transfer(near, rtt=0.0001, line=0.6e9, seconds=1)
    assert near.size == INITIAL_WINDOW


def a_turn(window: ReceiveWindow, amount: int, now: float, rtt: float) -> int:
    window.receive(amount)
    window.consume(amount)
    return window.update(now, rtt)


def test_less_than_a_round_trip_measures_nothing() -> None:
    window = ReceiveWindow(Budget())
    half = INITIAL_WINDOW // 2
    for now in (0.0, 0.01, 0.02, 0.09):
        assert a_turn(window, half, now, 0.1) == half
    assert a_turn(window, half, 0.11, 0.1) == half + INITIAL_WINDOW


def test_a_window_that_is_not_needed_is_kept_while_there_is_budget() -> None:
    window = ReceiveWindow(Budget())
    transfer(window, rtt=0.1, line=1e9, seconds=1)
    window.receive(window.credit)
    for step in range(100):
        window.consume(min(65_536, window.unread))
        window.update(20 + step * 0.1, 0.1)
    assert window.size == MAX_WINDOW


def test_without_a_round_trip_nothing_grows() -> None:
    window = ReceiveWindow(Budget())
    for step in range(100):
        window.receive(window.credit)
        window.consume(window.unread)
        window.update(step * 0.1, None)
    assert window.size == INITIAL_WINDOW


def test_a_round_trip_of_nothing_and_a_clock_that_stands_still() -> None:
    window = ReceiveWindow(Budget())
    for _ in range(5):
        window.receive(window.credit)
        window.consume(window.unread)
        window.update(1.0, 0.0)
    assert INITIAL_WINDOW <= window.size <= MAX_WINDOW


def test_the_budget_is_shared_and_who_needs_less_gives_back() -> None:
    budget = Budget(20 * 1024 * 1024)
    first, second = ReceiveWindow(budget), ReceiveWindow(budget)
    transfer(first, rtt=0.1, line=1e9, seconds=1)
    assert first.size == MAX_WINDOW
    transfer(second, rtt=0.1, line=1e9, seconds=1, start=10)
    assert second.size == INITIAL_WINDOW + budget.total - (MAX_WINDOW - INITIAL_WINDOW)
    short_before = budget.is_short
    first.receive(first.credit)  # what the sender had been granted, now read slowly
    for step in range(400):
        first.consume(min(65_536, first.unread))
        first.update(20 + step * 0.1, 0.1)
    assert first.size < MAX_WINDOW
    assert (short_before, budget.is_short) == (True, False)
    assert budget.used == first.size + second.size - 2 * INITIAL_WINDOW


class OneWindow(RuleBasedStateMachine):
    """A sender that knows only what it was granted, against the window: they never disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(1024 * 1024)
        self.window = ReceiveWindow(self.budget, 512 * 1024)
        self.sender = SendWindow()
        self.now = 0.0

    @rule(wanted=st.integers(1, 2**20))
    def send(self, wanted: int) -> None:
        self.window.receive(self.sender.take(wanted))

    @precondition(lambda self: self.window.unread)
    @rule(share=st.floats(0.01, 1), rtt=st.sampled_from([None, 0.0, 0.05]))
    def read(self, share: float, rtt: float | None) -> None:
        amount = max(1, int(self.window.unread * share))
        if self.window.consume(amount):
            self.sender.grant(self.window.update(self.now, rtt))

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_sender_may_send_what_the_window_takes(self) -> None:
        assert self.sender.credit == self.window.credit

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.window.size - INITIAL_WINDOW == self.budget.used
        assert self.window.owed < max(self.window.due_at, 1)


TestOneWindow = OneWindow.TestCase


def test_strategy_reaches_every_part() -> None:
    seen: set[str] = set()

    @given(receive_windows())
    def look(window: ReceiveWindow) -> None:
        seen.update(name for name in ("credit", "unread", "owed") if getattr(window, name))

    look()
    assert seen == {"credit", "unread", "owed"}
