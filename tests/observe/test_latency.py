from __future__ import annotations

from itertools import pairwise
from math import ceil, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.observe.latency import BOUNDS, BUCKETS, bucket, percentile

seconds = st.floats(0, 100)


def histogram(latencies: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for latency in latencies:
        counts[bucket(latency)] += 1
    return counts


def test_bounds_are_even_steps_from_a_tenth_of_a_millisecond_to_a_hundred_seconds() -> None:
    assert (BOUNDS[0], BOUNDS[-1], BUCKETS) == (0.0001, 100.0, 38)
    steps = [later / earlier for earlier, later in pairwise(BOUNDS)]
    assert min(steps) > 1.33
    assert max(steps) < 1.67


@pytest.mark.parametrize(
    ("latency", "where"),
    [(0.0, 0), (0.0001, 0), (0.000_100_1, 1), (0.001, 6), (99.9, 36), (100.0, 36), (100.1, 37)],
)
def test_a_bound_belongs_to_its_bucket(latency: float, where: int) -> None:
    assert bucket(latency) == where


def test_no_request_has_no_percentile() -> None:
    assert percentile([0] * BUCKETS, 0.5) is None


def test_past_the_last_bound_is_the_last_bound() -> None:
    assert percentile(histogram([500.0]), 0.99) == 100.0


def test_interpolated_by_rank() -> None:
    counts = [0] * BUCKETS
    counts[bucket(0.002)] = 4  # (1.5 ms, 2 ms]
    found = [percentile(counts, fraction) for fraction in (0.25, 0.5, 1.0)]
    assert found == [pytest.approx(value) for value in (0.001625, 0.00175, 0.002)]


@settings(max_examples=200)
@given(st.lists(seconds, min_size=1, max_size=60), st.floats(0.001, 1))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(
    latencies: list[float], fraction: float
) -> None:
    true = sorted(latencies)[max(ceil(fraction * len(latencies)), 1) - 1]
    found = percentile(histogram(latencies), fraction)
    assert found is not None
    at = bucket(true)
    lower = BOUNDS[at - 1] if at else 0.0
    assert lower <= found <= BOUNDS[at]
    assert abs(found - true) <= BOUNDS[at] - lower


@settings(max_examples=100)
@given(st.lists(seconds, min_size=1), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_percentiles_rise(latencies: list[float], fractions: list[float]) -> None:
    counts = histogram(latencies)
    found = [percentile(counts, fraction) or 0.0 for fraction in sorted(fractions)]
    assert found == sorted(found)
    assert max(found) < inf
