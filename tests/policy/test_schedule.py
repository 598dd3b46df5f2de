from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.policy.schedule import (
    MAX_UNROLLED,
    Stride,
    make_schedule,
    members,
    next_after,
    reduced,
    smooth_schedule,
)


@given(st.sets(st.integers(0, 300)))
def test_members_are_the_set_bits_in_order(positions: set[int]) -> None:
    assert members(sum(1 << position for position in positions)) == tuple(sorted(positions))


@given(st.sets(st.integers(0, 100), min_size=1), st.integers(-1, 100))
def test_next_after_goes_round(positions: set[int], last: int) -> None:
    mask = sum(1 << position for position in positions)
    later = [position for position in positions if position > last]
    assert next_after(mask, last) == min(later or positions)


def test_weights_are_divided_by_their_greatest_common_divisor() -> None:
    assert reduced([100, 100]) == [1, 1]
    assert reduced([70, 30, 50]) == [7, 3, 5]
    assert reduced([999_983, 1_000_000]) == [999_983, 1_000_000]


@pytest.mark.parametrize(
    ("weights", "schedule"),
    [
        ([1], "a"),
        ([1, 1, 1], "abc"),
        ([5, 1, 1], "aabacaa"),
        ([2, 1], "aba"),
        ([1, 2], "bab"),
        ([4, 2, 1], "abacaba"),
    ],
)
def test_the_known_smooth_schedules(weights: list[int], schedule: str) -> None:
    assert "".join("abc"[number] for number in smooth_schedule(weights)) == schedule


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_an_unrolled_schedule_is_exact_and_smooth(weights: list[int]) -> None:
    schedule = smooth_schedule(weights)
    total = sum(weights)
    assert Counter(schedule) == dict(enumerate(weights))
    for number, weight in enumerate(weights):
        turns = [turn for turn, picked in enumerate(schedule * 2) if picked == number]
        # Nobody is served later than twice its even distance.
        assert all(b - a < 2 * total / weight for a, b in pairwise(turns))


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(0, 10_000),
)
def test_a_stride_is_exact_over_a_full_schedule_from_any_turn(
    weights: list[int], turn: int
) -> None:
    total = sum(weights)
    stride = Stride(range(len(weights)), weights, turn)
    for _ in range(2):
        assert Counter(stride.next() for _ in range(total)) == dict(enumerate(weights))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=50), st.integers(0, 1 << 40))
def test_a_stride_never_strays_from_its_shares(weights: list[int], turn: int) -> None:
    """Any weights, where a full schedule is too long to walk."""
    total = sum(weights)
    stride = Stride(range(len(weights)), weights, turn)
    counted = Counter(stride.next() for _ in range(300))
    for number, weight in enumerate(weights):
        assert abs(counted[number] - 300 * weight / total) <= 1 + len(weights) * weight / total


def test_a_long_schedule_is_exact_to_the_last_turn() -> None:
    weights = [50_021, 30_011, 7]
    stride = make_schedule((3, 5, 8), weights, turn=12_345)
    assert isinstance(stride, Stride)
    counted = Counter(stride.next() for _ in range(sum(weights)))
    assert counted == {3: 50_021, 5: 30_011, 8: 7}


@pytest.mark.parametrize(
    ("weights", "unrolled"),
    [
        ([7, 7, 7], 3),
        ([100, 200, 100], 4),
        ([999_999, 1], None),
        ([MAX_UNROLLED - 1, 1], MAX_UNROLLED),
        ([MAX_UNROLLED, 1], None),
        # Short, but each step would look at many.
        ([2] * 499 + [1], None),
        ([5] * 1000, 1000),
    ],
)
def test_only_what_is_cheap_to_unroll_is(weights: list[int], unrolled: int | None) -> None:
    schedule = make_schedule(range(len(weights)), weights, 0)
    assert (None if isinstance(schedule, Stride) else len(schedule)) == unrolled
