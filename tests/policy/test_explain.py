from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    Config,
    HealthCheck,
    Listener,
    Route,
    Target,
)
from p2pstream.config.scalars import HostPattern, Origin
from p2pstream.errors import Fault
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.decide import Skipped, choose
from p2pstream.policy.explain import Explanation, everyone_up, explain
from p2pstream.policy.request import Request
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")
HOME = AgentSelector({"site": "home"})
WEB = (Listener(id="web", port=80),)
AGENTS = tuple(
    Agent(id=id, token_hash=(), labels={"site": "home"}, weight=weight)
    for id, weight in (("a", 1), ("b", 3))
)


def target(name: str, **fields: Any) -> Target:
    defaults: dict[str, Any] = {"url": ORIGIN, "health_check": HealthCheck(unhealthy_threshold=1)}
    return Target(name=name, **(defaults | fields))


def route(id: str, host: str | None = None, prefix: str | None = None, **fields: Any) -> Route:
    return Route(
        id=id,
        listener_id="web",
        host_pattern=None if host is None else HostPattern.parse(host),
        path_prefix=prefix,
        **{"targets": (target("t"),)} | fields,
    )


def explained(board: Board | Config, text: str) -> Explanation:
    if isinstance(board, Config):
        board = everyone_up(Tables.compile(board))
    return explain(board, "web", Request.parse(text))


ROUTES = (
    route("api", "app.example", "/api"),
    route("b-off", "app.example", "/api", enabled=False),
    route("c-host", "*.example", "/api"),
    route("d-path", "app.example", "/other"),
    route("e-late", prefix="/", priority=4),
    route("z-default", is_default=True, priority=-9),
)


def test_every_route_is_considered_in_matching_order_with_its_reason() -> None:
    views = explained(
        Config(listeners=WEB, routes=ROUTES[::-1]), "GET http://app.example/api/x"
    ).routes
    assert [(view.id, view.verdict) for view in views] == [
        ("api", "matched"),
        ("b-off", "disabled"),
        ("c-host", "later"),
        ("d-path", "path"),
        ("e-late", "later"),
        ("z-default", "later"),
    ]


@pytest.mark.parametrize(
    ("url", "verdicts"),
    [
        ("http://x.example/api", ["host", "disabled", "matched", "host", "later", "later"]),
        ("http://x/y", ["host", "disabled", "host", "host", "matched", "later"]),
        (
            "http://app.example/a%2Fb",
            ["path", "disabled", "path", "path", "path_security", "later"],
        ),
        ("http://app.example/api/..", ["path_refused"] * 6),
    ],
)
def test_verdicts(url: str, verdicts: list[str]) -> None:
    config = Config(listeners=WEB, routes=ROUTES)
    assert [view.verdict for view in explained(config, f"GET {url}").routes] == verdicts


@pytest.mark.parametrize(
    ("request_text", "kind", "route_id"),
    [
        ("GET http://a/x%2Fy", "invalid_request_target", "d"),
        ("GET http://a/x/..", "invalid_request_target", None),
        ("GET http://b/", "no_route", None),
        ("CONNECT http://a/", "method_not_allowed", None),
        ("GET http://a/empty", "no_route_target_available", "c"),
        ("GET http://a/", None, "d"),
    ],
)
def test_the_endings_that_are_decided_here(
    request_text: str, kind: str | None, route_id: str | None
) -> None:
    off = route("c", "a", "/empty", targets=(target("t", enabled=False),))
    got = explained(Config(listeners=WEB, routes=(off, route("d", "a"))), request_text)
    assert (None if got.fault is None else got.fault.kind) == kind
    assert (None if got.route is None else got.route.id) == route_id


def test_a_redirect_shows_its_location_and_no_targets() -> None:
    away = route(
        "r",
        prefix="/old",
        action="redirect",
        redirect_target_mode="same_host_path",
        redirect_target="/new?fixed=1",
        targets=(),
    )
    got = explained(Config(listeners=WEB, routes=(away,)), "GET http://a/old/thing?x=1#f")
    assert (got.location, got.groups, got.fault) == ("/new/thing?fixed=1&x=1", (), None)


def test_shares_of_targets_and_agents() -> None:
    main = route(
        "r",
        is_default=True,
        target_load_balancing="weighted_round_robin",
        targets=(
            target("near", weight=100),
            target(
                "far",
                weight=300,
                transport="agent",
                agent_selector=HOME,
                agent_load_balancing="weighted_random",
            ),
            target("off", enabled=False),
            target("backup", priority_group=1),
        ),
    )
    got = explained(Config(listeners=WEB, routes=(main,), agents=AGENTS), "GET http://a/")
    first, second = got.groups
    assert [(view.number, view.serves) for view in got.groups] == [(0, True), (1, False)]
    assert [(view.name, view.share, view.reason) for view in first.targets] == [
        ("near", 0.25, None),
        ("far", 0.75, None),
        ("off", 0.0, "disabled"),
    ]
    assert [(view.name, view.share, view.reason) for view in second.targets] == [
        ("backup", 0.0, "other_group")
    ]
    assert first.targets[1].labels == {"site": "home"}
    agents = first.targets[1].agents
    assert [(view.id, view.share, view.reason) for view in agents] == [
        ("a", 0.25, None),
        ("b", 0.75, None),
    ]
    assert [view.name for view in got.candidates] == ["near", "far"]


def test_everyone_up_means_declared_and_enabled() -> None:
    agents = (AGENTS[0], evolve(AGENTS[1], enabled=False))
    far = target("far", transport="agent", agent_selector=HOME)
    board = everyone_up(
        Tables.compile(Config(listeners=WEB, routes=(route("r", targets=(far,)),), agents=agents))
    )
    assert board.connected == {"a"}


def test_a_live_board_is_told_as_it_is_and_nothing_is_moved() -> None:
    far = target("far", transport="agent", agent_selector=HOME)
    config = Config(
        listeners=WEB, routes=(route("r", is_default=True, targets=(far,)),), agents=AGENTS
    )
    board = Board(Tables.compile(config))
    board.agent_connected("a")
    for _ in range(3):
        got = explained(board, "GET http://a/")
    assert [(view.id, view.reason) for view in got.groups[0].targets[0].agents] == [
        ("a", None),
        ("b", "disconnected"),
    ]
    board.agent_connected("b")
    choice = choose(board.tables.routes["r"], board, random.random)
    assert choice
    assert choice.path.key.agent_id == "a"
    assert sum(path.active for path in board.paths.values()) == 1


# --- what is explained is what happens ----------------------------------------------------------

POLICIES = st.sampled_from(
    [
        "round_robin",
        "weighted_round_robin",
        "random",
        "weighted_random",
        "least_active_requests",
        "weighted_least_active_requests",
    ]
)
targets = st.builds(
    lambda kind, group, weight, enabled, policy: {
        "target_type": "static" if kind == "static" else "proxy",
        "url": None if kind == "static" else ORIGIN,
        "transport": "agent" if kind == "agent" else "direct",
        "agent_selector": HOME if kind == "agent" else None,
        "priority_group": group,
        "weight": weight,
        "enabled": enabled,
        "agent_load_balancing": policy,
    },
    st.sampled_from(["static", "direct", "agent"]),
    st.integers(0, 1),
    st.integers(1, 3),
    st.sampled_from([True, True, False]),
    POLICIES,
)
hosts = st.sampled_from([None, "a.example", "*.example", "*.a.example"])
prefixes = st.sampled_from([None, "/", "/api", "/api/", "/a%2Fb"])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    count = draw(st.integers(1, 5))
    routes = [
        route(
            f"r{number}",
            draw(hosts),
            draw(prefixes),
            priority=draw(st.integers(-1, 1)),
            enabled=draw(st.sampled_from([True, True, False])),
            path_security_mode=draw(st.sampled_from(["strict", "allow_encoded_separators"])),
            target_load_balancing=draw(POLICIES),
            targets=tuple(
                target(f"t{n}", **fields)
                for n, fields in enumerate(draw(st.lists(targets, min_size=1, max_size=4)))
            ),
        )
        for number in range(count)
    ]
    if draw(st.booleans()):
        routes.append(route("d", is_default=True))
    return Config(listeners=WEB, routes=tuple(routes), agents=AGENTS)


urls = st.builds(
    lambda host, path: f"GET http://{host}{path}",
    st.sampled_from(["a.example", "b.a.example", "other"]),
    st.sampled_from(["/", "/api", "/api/x", "/apix", "/a%2Fb/c", "/..", "/%5c"]),
)


@settings(max_examples=120, deadline=None)
@given(configs(), urls, st.data())
def test_what_is_explained_is_what_happens(config: Config, text: str, data: st.DataObject) -> None:
    board = Board(Tables.compile(config))
    for id in ("a", "b"):
        if data.draw(st.booleans()):
            board.agent_connected(id)
    for known in config.routes:
        board.state(board.tables.routes[known.id])
    for path in sorted(board.paths):
        if data.draw(st.integers(0, 4)) == 0:
            board.report(board.paths[path], "failed", 1.0)
    request = Request.parse(text)
    got = explain(board, "web", request)
    named = [view.id for view in got.routes if view.verdict in ("matched", "path_security")]
    assert named == ([] if got.route is None else [got.route.id])
    try:
        matched = board.tables.listeners["web"].match(request.host, request.path)
    except Fault as fault:
        assert got.fault is not None
        assert (got.fault.kind, got.candidates) == (fault.kind, ())
        return
    assert got.route is matched
    for _ in range(3):
        trail: list[Skipped] = []
        choice = choose(matched, board, random.Random(1).random, (), trail)
        out = [
            Skipped(group.number, view.name, id, reason)
            for group in got.groups
            for view in group.targets
            for id, reason in [("", view.reason), *((one.id, one.reason) for one in view.agents)]
            if reason is not None
        ]
        assert Counter(out) == Counter(trail)
        if choice is None:
            assert got.fault is not None
            assert got.fault.kind == "no_route_target_available"
            assert got.candidates == ()
        else:
            assert got.fault is None
            shares = {view.name: view for view in got.candidates}
            assert choice.target.name in shares
            assert sum(view.share for view in got.candidates) == pytest.approx(1)
            if choice.agent is not None:
                agents = {one.id: one.share for one in shares[choice.target.name].agents}
                assert agents[choice.agent.id] > 0
                assert sum(agents.values()) == pytest.approx(1)
            choice.release()


def test_the_shares_that_are_explained_are_those_that_are_served() -> None:
    main = route(
        "r",
        is_default=True,
        target_load_balancing="weighted_round_robin",
        targets=(
            target("near", weight=2),
            target("ill", weight=5),
            target(
                "far",
                weight=4,
                transport="agent",
                agent_selector=HOME,
                agent_load_balancing="weighted_round_robin",
            ),
        ),
    )
    board = everyone_up(Tables.compile(Config(listeners=WEB, routes=(main,), agents=AGENTS)))
    board.report(board.path(PathKey("r", "ill", "")), "failed", 1.0)
    expected: dict[tuple[str, str], float] = {}
    for view in explained(board, "GET http://a/").candidates:
        for id, share in [(one.id, one.share) for one in view.agents] or [("", 1.0)]:
            expected[view.name, id] = view.share * share
    counted: Counter[tuple[str, str]] = Counter()
    for _ in range(1200):
        choice = choose(board.tables.routes["r"], board, random.random)
        assert choice
        counted[choice.target.name, choice.path.key.agent_id] += 1
        choice.release()
    assert {key: count / 1200 for key, count in counted.items()} == pytest.approx(expected)
