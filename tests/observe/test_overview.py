from __future__ import annotations

import pytest

from p2pstream.observe.counters import Count, PathId
from p2pstream.observe.latency import BUCKETS, bucket
from p2pstream.observe.overview import WINDOWS, Summary, hotspots, percent, problems, view
from p2pstream.observe.rollup import Chunk, Slot

NOW = 1_800_000_000.0 + 3 * 3600 + 125  # within an hour, a minute and a step


def count(requests: int, failures: int = 0, seconds: float = 0.0015, **kinds: int) -> Count:
    histogram = [0] * BUCKETS
    histogram[bucket(seconds)] = requests
    return Count(requests, failures, 1, 2, requests * seconds, 0, histogram, kinds)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_covers_its_name_and_begins_with_a_roll_up(name: str) -> None:
    window = WINDOWS[name]
    for now in (NOW, NOW - NOW % 86_400, NOW - NOW % 86_400 - 0.1):
        start = window.start(now)
        assert start % window.level == 0
        assert window.seconds <= now - start < window.seconds + window.level
        assert 60 <= (now - start) / window.step <= 180
        assert window.level % window.step == 0


def test_totals_charts_and_hotspots_are_of_the_same_requests() -> None:
    start = WINDOWS["1h"].start(NOW)
    slots = [Slot(at, count(2, 1), 3) for at in range(start - 600, int(NOW), 60)]
    inside = [slot for slot in slots if slot.at >= start]
    summary = Summary()
    for slot in inside:
        path = PathId("web", "r", "t", "a")
        summary.add(Chunk(slot.at, {path: slot.total}))
    shown = view("1h", 0.0, NOW, slots, summary)
    assert shown["totals"]["requests"] == 2 * 61
    assert shown["totals"]["success_percent"] == 50.0
    assert shown["totals"]["rate"] == pytest.approx(122 / (NOW - start), abs=0.001)
    assert sum(shown["series"]["requests"]) == 2 * 61
    assert shown["series"]["start"] == start
    assert set(map(len, [v for v in shown["series"].values() if isinstance(v, list)])) == {61}
    assert {spots[0]["requests"] for spots in shown["hotspots"].values()} == {2 * 61}
    assert shown["hotspots"]["targets"][0]["id"] == "r/t"


def test_nothing_measured_is_null() -> None:
    shown = view("5m", NOW, NOW, [], Summary())
    assert shown["totals"] == {
        "requests": 0,
        "failures": 0,
        "origin_errors": 0,
        "success_percent": None,
        "bytes_in": 0,
        "bytes_out": 0,
        "rate": None,
        "p50_millis": None,
        "p95_millis": None,
        "p99_millis": None,
    }
    assert set(shown["series"]["p95_millis"]) == {None}
    assert set(shown["series"]["agents_connected"]) == {None}
    assert set(shown["series"]["requests"]) == {0}
    assert shown["problems"] == []
    assert shown["hotspots"] == {"listeners": [], "routes": [], "targets": [], "agents": []}


def test_the_rate_is_of_the_time_since_counting_began() -> None:
    slots = [Slot(int(NOW) - 60, count(600))]
    assert view("30d", NOW - 60, NOW, slots, Summary())["totals"]["rate"] == 10.0


def test_what_is_newer_than_now_is_not_shown() -> None:
    shown = view("5m", 0.0, NOW, [Slot(int(NOW) + 60, count(1))], Summary())
    assert sum(shown["series"]["requests"]) == 0
    assert shown["totals"]["requests"] == 0


def test_charts_add_slots_up_and_keep_the_fewest_agents() -> None:
    start = WINDOWS["24h"].start(NOW)
    slots = [Slot(start + at, count(1), agents) for at, agents in ((0, 4), (60, 2), (600, None))]
    series = view("24h", 0.0, NOW, slots, Summary())["series"]
    assert series["requests"][:3] == [2, 1, 0]
    assert series["agents_connected"][:2] == [2, None]
    assert series["p50_millis"][:3] == [1.25, 1.5, None]  # (1 ms, 1.5 ms]: by rank


def test_hotspots_are_the_top_ten_of_each_measure() -> None:
    paths = {PathId("web", f"busy-{n}", "t", None): count(1000 + n) for n in range(12)}
    paths[PathId("web", "failing", "t", None)] = count(3, 2)
    paths[PathId("web", "slow", "t", None)] = count(1, seconds=30.0)
    paths[PathId("web", "idle", "t", None)] = count(1, seconds=0.0001)
    routes = hotspots(Summary(paths))["routes"]
    ids = [route["id"] for route in routes]
    assert ids[0] == "busy-11"
    assert [route["requests"] for route in routes] == sorted(
        (route["requests"] for route in routes), reverse=True
    )
    assert {"failing", "slow"} <= set(ids)
    assert "idle" not in ids
    assert next(route for route in routes if route["id"] == "failing") == {
        "id": "failing",
        "requests": 3,
        "failures": 2,
        "origin_errors": 0,
        "success_percent": 33.33,
        "bytes_in": 1,
        "bytes_out": 2,
        "p95_millis": 1.5,
    }


def test_what_did_not_get_that_far_is_no_hotspot_there() -> None:
    found = hotspots(Summary({PathId("web", None, None, None): count(5, 5)}))
    assert [spot["id"] for spot in found["listeners"]] == ["web"]
    assert found["routes"] == found["targets"] == found["agents"] == []


def test_problems_name_their_routes() -> None:
    summary = Summary()
    for number, times in enumerate((5, 1, 9, 3)):
        path = PathId("web", f"r{number}", "t", None)
        counted = count(times, times, connect_failed=times)
        seen = {(path, "connect_failed"): float(number)}
        summary.add(Chunk(0, {path: counted}, seen))
    nowhere = PathId("web", None, None, None)
    summary.add(Chunk(0, {nowhere: count(30, no_route=30)}, {(nowhere, "no_route"): 7.0}))
    assert problems(summary) == [
        {"error_kind": "no_route", "count": 30, "last_seen": 7.0, "routes": []},
        {
            "error_kind": "connect_failed",
            "count": 18,
            "last_seen": 3.0,
            "routes": [["r2", 9], ["r0", 5], ["r3", 3]],
        },
    ]


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(1, 1, 100.0), (999_999, 1_000_000, 99.99), (29, 100, 29.0), (0, 5, 0.0), (0, 0, None)],
)
def test_percentages_are_rounded_down(part: int, whole: int, shown: float | None) -> None:
    assert percent(part, whole) == shown
