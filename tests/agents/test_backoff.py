from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.agents.backoff import Backoff


def middle() -> float:
    return 0.5


def test_delays_double_to_the_longest() -> None:
    backoff = Backoff(middle)
    delays = [backoff.after_session(0) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("held", "delay"), [(19.9, 8), (20, 1), (3600, 1)])
def test_a_good_session_starts_over(held: float, delay: float) -> None:
    backoff = Backoff(middle)
    for _ in range(3):
        backoff.after_session(0)
    assert backoff.after_session(held) == delay


def test_a_refusal_waits_the_longest_and_so_does_what_follows() -> None:
    backoff = Backoff(middle)
    assert backoff.after_refusal() == 30
    assert backoff.after_session(5) == 30
    assert backoff.after_refusal(120) == 120
    assert backoff.after_refusal(3) == 30
    assert backoff.after_refusal(1e9) == backoff.after_refusal(float("inf")) == 300
    assert backoff.after_session(25) == 1


@given(numbers=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_jitter_is_a_fifth_either_way(numbers: list[float]) -> None:
    plain, jittered = Backoff(middle), Backoff(iter(numbers).__next__)
    for number in numbers:
        expected = plain.after_session(0)
        delay = jittered.after_session(0)
        assert delay == pytest.approx(expected * (0.8 + 0.4 * number))
        assert 0.8 * expected <= delay <= 1.2 * expected + 1e-9
