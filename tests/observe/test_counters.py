from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.observe.counters import Count, Counters, PathId
from p2pstream.observe.latency import BUCKETS, bucket

PATH = PathId("web", "r", "t", None)


def test_a_request_is_counted_once_in_each_way(record: Any) -> None:
    counters = Counters()
    counters.add([record(), record(agent="a", duration=0.5), record(duration=0.004)])
    assert counters.requests == 3
    assert counters.by_status == {200: 3}
    assert set(counters.by_path) == {PATH, PathId("web", "r", "t", "a")}
    assert {type(path) for path in counters.by_path} == {PathId}
    count = counters.by_path[PATH]
    assert (count.requests, count.failures, count.bytes_in, count.bytes_out) == (2, 0, 20, 200)
    assert count.seconds == pytest.approx(0.006)
    assert sum(count.histogram) == 2
    assert count.histogram[bucket(0.002)] == count.histogram[bucket(0.004)] == 1


@pytest.mark.parametrize(
    ("values", "failures", "kinds", "origin_errors"),
    [
        ({"status": 502, "error_kind": "connect_failed"}, 1, {"connect_failed": 1}, 0),
        ({"status": 499, "error_kind": "client_cancelled"}, 0, {"client_cancelled": 1}, 0),
        ({"status": 404, "error_kind": "no_route"}, 1, {"no_route": 1}, 0),
        ({"status": 503}, 0, {}, 1),
        ({"status": 503, "first_byte": None}, 0, {}, 0),  # a static answer
        ({"status": 404}, 0, {}, 0),
    ],
)
def test_what_is_a_failure(
    record: Any, values: Any, failures: int, kinds: dict[str, int], origin_errors: int
) -> None:
    counters = Counters()
    counters.add([record(**values)])
    (count,) = counters.by_path.values()
    assert (count.failures, count.kinds, count.origin_errors) == (failures, kinds, origin_errors)
    assert counters.by_kind == kinds


def test_an_upgraded_connection_counts_with_the_time_to_its_101(record: Any) -> None:
    counters = Counters()
    counters.add([record(status=101, duration=3600.0, first_byte=0.01)])
    (count,) = counters.by_path.values()
    assert count.seconds == 0.01
    assert count.histogram[bucket(0.01)] == 1


def test_what_moved_is_told_once(record: Any) -> None:
    counters = Counters()
    counters.add([record(), record(), record(route="other")])
    moved = counters.take_moved()
    assert [(path.route, count.requests) for path, count in moved] == [("r", 2), ("other", 1)]
    for _, count in moved:
        count.moved = False
    assert counters.take_moved() == []
    counters.add([record(route="other")])
    ((path, count),) = counters.take_moved()
    assert (path.route, count.requests) == ("other", 2)


counts = st.builds(
    Count,
    *[st.integers(0, 1000)] * 4,
    st.integers(0, 1000),  # whole seconds: sums are exact
    st.integers(0, 1000),
    st.lists(st.integers(0, 9), min_size=BUCKETS, max_size=BUCKETS),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9)),
)


@settings(max_examples=50)
@given(counts, counts)
def test_what_came_since_a_copy_is_what_was_added(first: Count, second: Count) -> None:
    whole = first.copy()
    whole.add(second)
    assert whole.since(first) == second
    assert first == first.copy()
