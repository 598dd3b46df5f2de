from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config.model import Config, Listener, Route, Target
from p2pstream.config.scalars import HostPattern
from p2pstream.errors import InvalidRequestTarget, NoRoute
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.path import has_encoded_separators, inspect, prefix_matches
from p2pstream.policy.route import RouteTable, matching_order
from p2pstream.policy.tables import Tables

STATIC = (Target(name="target-1", target_type="static"),)


def route(
    id: str,
    host: str | None = None,
    prefix: str | None = None,
    priority: int = 0,
    *,
    enabled: bool = True,
    default: bool = False,
    loose: bool = False,
    listener: str = "web",
) -> Route:
    return Route(
        id=id,
        listener_id=listener,
        enabled=enabled,
        priority=priority,
        host_pattern=None if host is None else HostPattern.parse(host),
        path_prefix=prefix,
        path_security_mode="allow_encoded_separators" if loose else "strict",
        is_default=default,
        targets=STATIC,
    )


def table(*routes: Route) -> RouteTable:
    listeners = (Listener(id="web", port=80), Listener(id="other", port=81))
    return Tables.compile(Config(listeners=listeners, routes=routes)).listeners["web"]


def matched(routes: RouteTable, host: str, path: bytes) -> str | type[Exception]:
    try:
        return routes.match(host, path).id
    except (NoRoute, InvalidRequestTarget) as fault:
        return type(fault)


HOSTS = [
    ("app.example.com", "app.example.com", True),
    ("app.example.com", "example.com", False),
    ("app.example.com", "x.app.example.com", False),
    ("*.example.com", "app.example.com", True),
    ("*.example.com", "a.b.example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com", ".example.com", False),
    ("*.example.com", "badexample.com", False),
    ("*.example.com", "example.com.evil", False),
    ("*.com", "example.com", True),
    ("BÜCHER.example", "xn--bcher-kva.example", True),
    ("127.0.0.1", "127.0.0.1", True),
    ("[::1]", "::1", True),
    ("app.example.com", "", False),
]


@pytest.mark.parametrize(("pattern", "host", "matches"), HOSTS)
def test_host_patterns(pattern: str, host: str, matches: bool) -> None:
    assert matched(table(route("r", pattern)), host, b"/") == ("r" if matches else NoRoute)


def test_priority_goes_before_id_and_both_before_precision() -> None:
    routes = table(
        route("b", "app.example.com", "/api/v1", priority=1),
        route("z", prefix="/", priority=-5),
        route("a", "*.example.com"),
    )
    assert matched(routes, "app.example.com", b"/api/v1/x") == "z"
    routes = table(route("b", "app.example.com", "/api"), route("a", prefix="/"))
    assert matched(routes, "app.example.com", b"/api") == "a"


def test_ids_are_ordered_by_code_point() -> None:
    routes = table(route("a", prefix="/"), route("Z", prefix="/"), route("10", prefix="/"))
    assert [ranked.id for ranked in routes.ranked] == ["10", "Z", "a"]
    assert matched(routes, "h", b"/") == "10"


def test_the_default_route_comes_last_whatever_its_priority() -> None:
    routes = table(route("d", default=True, priority=-100), route("r", "a.example", "/x"))
    assert matched(routes, "a.example", b"/x") == "r"
    assert matched(routes, "a.example", b"/y") == "d"
    assert matched(routes, "", b"*") == "d"


def test_without_a_match_and_a_default_there_is_no_route() -> None:
    assert matched(table(), "a.example", b"/") is NoRoute
    assert matched(table(route("r", "a.example")), "b.example", b"/") is NoRoute
    assert (NoRoute.status, NoRoute.kind) == (404, "no_route")


def test_disabled_routes_and_other_listeners_are_passed_over() -> None:
    routes = table(
        route("a", prefix="/", enabled=False),
        route("b", prefix="/", listener="other"),
        route("c", default=True, enabled=False),
    )
    assert matched(routes, "h", b"/") is NoRoute


def test_a_bad_path_is_refused_before_any_route_is_asked() -> None:
    assert matched(table(), "h", b"/%2e%2e/x") is InvalidRequestTarget
    assert matched(table(route("d", default=True, loose=True)), "h", b"/..") is InvalidRequestTarget


@pytest.mark.parametrize("path", [b"/a%2Fb", b"/a%2fb", b"/a%5Cb", b"/a%5cb"])
def test_encoded_separators_pass_only_where_the_matched_route_allows_them(path: bytes) -> None:
    strict, loose = route("d", default=True), route("d", default=True, loose=True)
    assert matched(table(strict), "h", path) is InvalidRequestTarget
    assert matched(table(loose), "h", path) == "d"
    # No route at all is told before a route's own path security.
    assert matched(table(route("r", "a.example")), "b.example", path) is NoRoute
    # The route that matches decides: there is no second one that would have allowed it.
    both = table(route("a", prefix="/"), loose)
    assert matched(both, "h", path) is InvalidRequestTarget


def test_a_star_target_has_no_path_to_match() -> None:
    routes = table(route("r", prefix="/"), route("h", "a.example", priority=9))
    assert matched(routes, "a.example", b"*") == "h"
    assert matched(routes, "b.example", b"*") is NoRoute


# --- the index against a walk over the list -----------------------------------------------------


def naive(routes: list[CompiledRoute], host: str, path: bytes) -> str | type[Exception]:
    try:
        seen = inspect(path)
    except InvalidRequestTarget as fault:
        return type(fault)
    for candidate in sorted(routes, key=matching_order):
        config = candidate.config
        if not config.enabled:
            continue
        if config.host_pattern is not None and not config.host_pattern.matches(host):
            continue
        if config.path_prefix is not None and not prefix_matches(config.path_prefix, seen):
            continue
        if config.path_security_mode == "strict" and has_encoded_separators(seen):
            return InvalidRequestTarget
        return config.id
    return NoRoute


labels = st.sampled_from(["a", "b", "com"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.none() | hosts | hosts.map("*.".__add__)
segments = st.sampled_from(["", "a", "b", "api", "%2F", "a%2Fb", "%61"])
prefixes = st.none() | st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts))
paths = st.lists(segments, max_size=6).map(lambda parts: ("/" + "/".join(parts)).encode())


@given(
    st.lists(st.tuples(patterns, prefixes, st.integers(-2, 2), st.booleans()), max_size=12),
    st.lists(st.tuples(hosts, paths), min_size=1, max_size=8),
    st.booleans(),
)
def test_the_index_finds_what_a_walk_over_all_routes_finds(
    specs: list[tuple[str | None, str | None, int, bool]],
    requests: list[tuple[str, bytes]],
    with_default: bool,
) -> None:
    routes = [
        route(f"r{number}", host, prefix, priority, loose=loose, enabled=number % 5 != 4)
        for number, (host, prefix, priority, loose) in enumerate(specs)
    ]
    if with_default:
        routes.append(route("default", default=True))
    compiled = [CompiledRoute(config, ()) for config in routes]
    index = RouteTable.compile("web", compiled)
    for host, path in requests:
        assert matched(index, host, path) == naive(compiled, host, path)


def test_the_work_of_a_match_does_not_grow_with_the_routes() -> None:
    """Counts dictionary look-ups in the tries instead of measuring time."""
    looked_up = 0

    class Counting(dict):  # type: ignore[type-arg]  # children of any trie node
        def get(self, key: object, default: object = None) -> object:
            nonlocal looked_up
            looked_up += 1
            return super().get(key, default)

    def count(size: int) -> int:
        nonlocal looked_up
        index = table(
            *(route(f"r{n}", f"h{n}.example.com", f"/a/b{n}/c") for n in range(size)),
            *(route(f"p{n}", prefix=f"/a/p{n}") for n in range(size)),
            route("w", "*.example.com", "/w", priority=5),
        )
        index._exact = Counting(index._exact)
        index._wildcard = Counting(index._wildcard)
        nodes = [index._any_host, *index._exact.values(), *index._wildcard.values()]
        while nodes:
            node = nodes.pop()
            nodes += node.children.values()
            node.children = Counting(node.children)
        looked_up = 0
        assert index.match("h1.example.com", b"/a/b1/c/d/e/f/g").id == "r1"
        assert matched(index, "x.y.example.com", b"/a/b/c/d/e") is NoRoute
        return looked_up

    assert count(2000) == count(4)


def test_a_path_of_many_slashes_is_not_cut_into_all_its_pieces() -> None:
    index = table(route("r", prefix="/a/b"))
    assert matched(index, "h", b"/a/b" + b"/" * 60_000) == "r"
    assert index._depth == 3
