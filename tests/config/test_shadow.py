"""Routes that can never match: held to matching by brute force."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import Route
from p2pstream.config.scalars import HostPattern
from p2pstream.config.shadow import covers, match_order, may_meet, shadowed

LABELS = ("a", "b")
HOSTS = [".".join(labels) for n in (1, 2, 3, 4) for labels in product(LABELS, repeat=n)]
PATHS = [
    "/" + "/".join(segments) for n in (0, 1, 2, 3) for segments in product(("x", "y", ""), repeat=n)
]


def matches(route: Route, host: str, path: str) -> bool:
    """Spec §3, as plainly as it can be said."""
    if route.host_pattern is not None and not route.host_pattern.matches(host):
        return False
    prefix = route.path_prefix
    if prefix is None:
        return True
    if prefix.endswith("/"):
        return path.startswith(prefix)
    return path == prefix or path.startswith(prefix + "/")


patterns = st.none() | st.builds(
    lambda host, wild: HostPattern.parse(f"*.{host}" if wild else host),
    st.sampled_from([host for host in HOSTS if host.count(".") < 2]),
    st.booleans(),
)
prefixes = st.none() | st.sampled_from([path for path in PATHS if "//" not in path])
routes = st.lists(
    st.builds(
        Route,
        id=st.sampled_from("mnopq"),
        listener_id=st.just("web"),
        enabled=st.sampled_from([True, True, True, False]),
        priority=st.integers(0, 1),
        host_pattern=patterns,
        path_prefix=prefixes,
    ),
    max_size=5,
    unique_by=lambda route: route.id,
)


@settings(deadline=None)
@given(routes)
def test_a_warned_route_matches_nothing_and_one_route_alone_takes_it_all(
    routes: list[Route],
) -> None:
    warned = {finding.key[1]: finding.see[1] for finding in shadowed(tuple(routes))}
    for number, route in enumerate(routes):
        earlier = [
            index
            for index, other in enumerate(routes)
            if other.enabled and match_order(other) < match_order(route)
        ]
        mine = [spot for spot in product(HOSTS, PATHS) if matches(route, *spot)]
        takers = [index for index in earlier if all(matches(routes[index], *spot) for spot in mine)]
        if not route.enabled:
            assert number not in warned
        elif number in warned:
            assert warned[number] in takers
        else:
            assert not takers


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        (None, "a", True),
        ("a", "a", True),
        ("a", "b", False),
        ("*.a", "b.a", True),
        ("*.a", "a", False),
        ("*.a", "*.b.a", True),
        ("*.a", "*.a", True),
        ("*.a", "*.b", False),
    ],
)
def test_whether_two_patterns_share_a_host(one: str | None, other: str, yes: bool) -> None:
    first, second = one and HostPattern.parse(one), HostPattern.parse(other)
    assert may_meet(first or None, second) is yes
    assert may_meet(second, first or None) is yes


@pytest.mark.parametrize(
    ("prefix", "path", "yes"),
    [
        (None, "/", True),
        ("/", "/x", True),
        ("/api", "/api", True),
        ("/api", "/api/", True),
        ("/api", "/apix", False),
        ("/api/", "/api", False),
        ("/api/", "/api/x", True),
        ("/%61pi", "/api/x", True),
        ("/a%2Fb", "/a/b", False),
        ("/a%2fb", "/a%2Fb/c", True),
    ],
)
def test_whether_a_prefix_covers_a_path(prefix: str | None, path: str, yes: bool) -> None:
    assert covers(prefix, path) is yes


def found(routes: Iterable[Route]) -> list[int | str]:
    return [finding.key[1] for finding in shadowed(tuple(routes))]


def test_other_listeners_and_defaults_shadow_nothing() -> None:
    everything = Route(id="a", listener_id="web", path_prefix="/")
    narrow = Route(id="b", listener_id="web", path_prefix="/x")
    default = Route(id="c", listener_id="web", is_default=True, priority=-5)
    assert found([everything, narrow]) == [1]
    assert found([everything, evolve(narrow, listener_id="other")]) == []
    assert found([evolve(everything, enabled=False), narrow]) == []
    assert found([default, narrow]) == []
    assert found([default, everything]) == [0]


def test_many_routes_cost_little_each() -> None:
    routes = tuple(
        Route(
            id=f"r{number}",
            listener_id="web",
            host_pattern=HostPattern.parse(f"h{number}.example"),
            path_prefix=f"/p{number}",
        )
        for number in range(5000)
    )
    assert found(routes) == []
