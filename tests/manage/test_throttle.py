from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.manage.throttle import Throttle, is_loopback

BURST = 5
REFILL = 30.0


def use_up(throttle: Throttle, peer: str, now: float = 0.0) -> None:
    for number in range(BURST):
        assert throttle.wait(peer, now) == 0
        assert throttle.wrong(peer, now) is (number == BURST - 1)


def test_an_address_has_a_few_tries_and_gets_them_back_slowly() -> None:
    throttle = Throttle()
    use_up(throttle, "192.0.2.1")
    assert throttle.wait("192.0.2.1", 0.0) == 30
    assert throttle.wait("192.0.2.1", 12.5) == 18
    assert throttle.wait("192.0.2.1", 30.0) == 0
    throttle.wrong("192.0.2.1", 30.0)
    assert throttle.wait("192.0.2.1", 30.0) == 30
    use_up(throttle, "192.0.2.1", 30.0 + BURST * REFILL)
    assert throttle.wait("192.0.2.2", 181.0) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("somebody", "somebody", True),
        ("somebody", "else", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    throttle = Throttle()
    use_up(throttle, one)
    assert (throttle.wait(other, 0.0) > 0) is same


def test_everybody_together_is_bounded_and_one_alone_is_not_stopped_by_others() -> None:
    throttle = Throttle()
    for number in range(100):
        assert throttle.wait(f"192.0.2.{number}", 0.0) == 0
        throttle.wrong(f"192.0.2.{number}", 0.0)
    assert throttle.wait("198.51.100.1", 0.0) == 1
    assert throttle.wait("198.51.100.1", 0.0, alone=True) == 0
    assert throttle.wait("198.51.100.1", 1.0) == 0


def test_what_was_counted_alone_is_nobody_elses_trouble() -> None:
    throttle = Throttle()
    for number in range(1_000):
        throttle.wrong(f"192.0.2.{number % 250}", 0.0, alone=True)
    assert throttle.wait("198.51.100.1", 0.0) == 0


def test_who_was_right_lately_stops_for_nothing() -> None:
    throttle = Throttle()
    throttle.right("192.0.2.1", 0.0)
    for _ in range(200):
        throttle.wrong("192.0.2.1", 10.0)
    assert throttle.wait("192.0.2.1", 10.0) == 0
    assert throttle.wait("192.0.2.2", 10.0) == 1
    assert throttle.wait("192.0.2.1", 86_401.0) == 0  # its tries are back by then
    use_up(throttle, "192.0.2.1", 86_401.0)
    assert throttle.wait("192.0.2.1", 86_401.0) > 0


def test_what_is_kept_is_bounded() -> None:
    throttle = Throttle()
    for number in range(10_000):
        throttle.wrong(f"10.0.{number // 250}.{number % 250}", 0.0, alone=True)
        throttle.right(f"10.1.{number // 250}.{number % 250}", 0.0)
    assert len(throttle._by_address) == 4_096
    assert len(throttle._known) == 256


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("", False),
    ],
)
def test_what_is_on_this_host(peer: str, here: bool) -> None:
    assert is_loopback(peer) is here


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=100))
def test_nobody_is_wrong_more_often_than_the_rate_allows(steps: list[tuple[str, float]]) -> None:
    throttle, now = Throttle(), 0.0
    taken: dict[str, int] = {}
    for peer, later in steps:
        now += later
        if throttle.wait(peer, now) == 0:
            throttle.wrong(peer, now)
            taken[peer] = taken.get(peer, 0) + 1
    for count in taken.values():
        assert count <= BURST + now / REFILL + 1e-6
