from __future__ import annotations

from typing import Any

from p2pstream.manage.steps import at_once
from p2pstream.manage.traffic import Traffic, p95_millis, traffic
from p2pstream.observe.counters import Count, Counters, PathId


def count(requests: int, **rest: Any) -> Count:
    made = Count(requests=requests, **rest)
    made.histogram[10] = requests
    return made


def counted(**paths: Count) -> Traffic:
    """Keys are `listener_route_target_agent`, with nothing for none."""
    counters = Counters()
    for name, one in paths.items():
        listener, *rest = name.split("_")
        counters.by_path[PathId(listener, *(part or None for part in rest))] = one
    return at_once(traffic(counters))


def test_sums_by_route_by_agent_and_by_path() -> None:
    seen = counted(
        web_r_t_a=count(1, failures=1),
        web_r_t_b=count(2),
        web_r_u_=count(4),
        web_s_t_a=count(8),
        web___=count(16),
        other_r_t_a=count(32),
    )
    assert {id: one.requests for id, one in seen.by_route.items()} == {"r": 39, "s": 8}
    assert {id: one.requests for id, one in seen.by_agent.items()} == {"a": 41, "b": 2}
    assert seen.path("r", "t", "a").requests == 33
    assert seen.path("r", "u", None).requests == 4
    assert seen.route("r").failures == 1
    assert seen.route("none").requests == 0
    assert seen.agent("none").requests == 0
    assert seen.path("r", "t", "none").requests == 0


def test_the_counters_stay_as_they_are() -> None:
    one, other = count(1), count(2)
    counted(web_r_t_a=one, web_r_t_b=other, two_r_t_a=count(4))
    assert (one, other) == (count(1), count(2))


def test_the_latency_that_most_stay_below() -> None:
    assert p95_millis(Count()) is None
    fast, slow = Count(requests=95), Count(requests=5)
    fast.histogram[6] = 95  # up to 1.0 ms
    slow.histogram[24] = 5  # up to 1.0 s
    both = counted(web_r_a_=fast, web_r_b_=slow).route("r")
    assert p95_millis(both) == 1.0
    slow.histogram[24] = 50
    assert (p95_millis(counted(web_r_a_=fast, web_r_b_=slow).route("r")) or 0) > 500
