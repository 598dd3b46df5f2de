from __future__ import annotations

from typing import Any

import pytest

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
from p2pstream.health.monitor import Sightings
from p2pstream.health.probe import Result
from p2pstream.manage.clock import Clock
from p2pstream.manage.route_views import RouteSources, address, order, route, routes
from p2pstream.manage.steps import at_once
from p2pstream.manage.traffic import Traffic
from p2pstream.observe.counters import Count
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.tables import Tables

NOW = 1_000.0
OFFSET = 1_700_000_000.0
RULES = HealthCheck()  # thresholds 2 and 2, every 10 s, 2 s at most, cooldown 30 s
SELECTOR = AgentSelector({"s": "x"})


def target(name: str, **rest: Any) -> Target:
    url = Origin.parse("http://origin.test")
    return Target(**{"name": name, "url": url, "health_check": RULES, **rest})


def board_of(*targets: Target, agents: tuple[Agent, ...] = (), **rest: Any) -> Board:
    one = Route(**{"id": "r", "listener_id": "web", "is_default": True, **rest}, targets=targets)
    listeners = (Listener(id="web", port=80),)
    return Board(Tables.compile(Config(listeners=listeners, agents=agents, routes=(one,))))


def view(board: Board, now: float = NOW, traffic: Traffic | None = None) -> Any:
    sources = RouteSources(board, traffic or Traffic(), Clock(now, OFFSET))
    return route(sources, board.tables.routes["r"])


def path_of(board: Board, now: float = NOW) -> Any:
    return view(board, now)["targets"][0]["paths"][0]


def test_targets_stand_in_the_order_of_the_file_with_their_shares() -> None:
    board = board_of(
        target("c", weight=3, priority_group=1),
        target("b", weight=3, health_check=None),
        target("a", weight=1),
        target("off", enabled=False),
        Target(name="page", target_type="static", priority_group=2, static_status_code=503),
        target_load_balancing="weighted_round_robin",
        host_pattern=HostPattern.parse("*.example.com"),
        path_prefix="/x",
        is_default=False,
        priority=-7,
    )
    seen = view(board)
    assert [(one["name"], one["share"], one["unusable"]) for one in seen["targets"]] == [
        ("c", 0.0, "other_group"),
        ("b", 0.75, None),
        ("a", 0.25, None),
        ("off", 0.0, "disabled"),
        ("page", 0.0, "other_group"),
    ]
    assert (seen["host_pattern"], seen["path_prefix"], seen["priority"]) == (
        "*.example.com",
        "/x",
        -7,
    )
    assert (seen["serving_group"], seen["redirect"]) == (0, None)
    assert [one["static_status"] for one in seen["targets"]] == [None, None, None, None, 503]
    assert [one["paths"][0]["reason"] for one in seen["targets"]] == [
        "not checked yet",
        "no health check",
        "not checked yet",
        "disabled in the file",
        "static",
    ]


def test_paths_through_agents() -> None:
    agents = (
        Agent("one", (), "one", labels={"s": "x"}, weight=3),
        Agent("two", (), "two", labels={"s": "x"}),
        Agent("drained", (), "drained", labels={"s": "x"}, drain=True),
        Agent("gone", (), "gone", labels={"s": "x"}),
    )
    selected = target(
        "t",
        transport="agent",
        agent_selector=SELECTOR,
        agent_load_balancing="weighted_random",
    )
    board = board_of(selected, agents=agents)
    for id in ("one", "two", "drained"):
        board.agent_connected(id)
    board.agent_leaving("two")
    (seen,) = view(board)["targets"]
    assert seen["balancing"] == "weighted_random"
    assert {
        path["agent"]: (path["share"], path["unusable"], path["reason"]) for path in seen["paths"]
    } == {
        "one": (1.0, None, "not checked yet"),
        "two": (0.0, "draining", "its agent is leaving"),
        "drained": (0.0, "draining", "drained in the file"),
        "gone": (0.0, "disconnected", "its agent is not connected"),
    }


def test_times_are_points_in_time_and_words_do_not_change_with_them() -> None:
    board = board_of(target("t"))
    path = board.path(PathKey("r", "t", ""))
    path.extra = Sightings(check=Result(True, "status 200", NOW - 4, 0.0042))
    for _ in range(2):
        board.report(path, "passed", NOW - 4)
    assert path_of(board) == path_of(board, NOW + 5)
    seen = path_of(board)
    assert (seen["state"], seen["reason"], seen["proved_at"]) == (
        "healthy",
        "status 200",
        OFFSET + NOW - 4,
    )
    assert seen["last_check"] == {
        "passed": True,
        "reason": "status 200",
        "at": OFFSET + NOW - 4,
        "millis": 4.2,
    }
    old = path_of(board, NOW + 1_000)
    assert (old["state"], old["reason"]) == ("unknown", "not proven lately")
    assert old == path_of(board, NOW + 2_000)


def test_a_cooldown_says_until_when() -> None:
    board = board_of(target("t"))
    path = board.path(PathKey("r", "t", ""))
    path.extra = Sightings(refusal="connection refused")
    board.report(path, "refused", NOW)
    seen = path_of(board, NOW + 1)
    assert (seen["unusable"], seen["reason"]) == ("cooldown", "connection refused")
    assert seen["cooldown_until"] == OFFSET + NOW + 30
    assert path_of(board, NOW + 31)["cooldown_until"] is None


def test_counts_stand_with_the_route_and_with_each_path() -> None:
    board = board_of(target("t"), target("u"))
    count = Count(requests=10, failures=2, origin_errors=1)
    count.histogram[5] = 10
    traffic = Traffic({"r": count}, {}, {("r", "u", None): count})
    seen = view(board, traffic=traffic)
    assert (seen["requests"], seen["failures"], seen["origin_errors"]) == (10, 2, 1)
    assert seen["p95_millis"] > 0
    assert [one["paths"][0]["requests"] for one in seen["targets"]] == [0, 10]
    assert view(board)["p95_millis"] is None


def test_active_requests() -> None:
    board = board_of(target("t"))
    board.path(PathKey("r", "t", "")).acquire()
    (seen,) = view(board)["targets"]
    assert (seen["active"], seen["paths"][0]["active"]) == (1, 1)


def test_a_redirect() -> None:
    board = board_of(
        action="redirect",
        redirect_target_mode="absolute_url",
        redirect_target="https://x.test/",
        redirect_status_code=308,
    )
    seen = view(board)
    assert seen["redirect"] == {"mode": "absolute_url", "target": "https://x.test/", "status": 308}
    assert (seen["targets"], seen["serving_group"]) == ([], None)


def test_routes_are_ordered_as_they_are_tried() -> None:
    page = (Target(name="t", target_type="static"),)

    def one(id: str, **rest: Any) -> Route:
        return Route(id=id, listener_id="web", path_prefix="/", targets=page, **rest)

    config = Config(
        listeners=(Listener(id="web", port=80), Listener(id="none", port=81)),
        routes=(
            Route("last", "web", is_default=True, targets=page),
            one("b"),
            one("a"),
            one("first", priority=-1),
            one("off", enabled=False),
        ),
    )
    board = Board(Tables.compile(config))
    assert order(board) == {"web": ["first", "a", "b", "last"], "none": []}
    seen = at_once(routes(RouteSources(board, Traffic(), Clock(NOW, OFFSET))))
    assert list(seen) == ["last", "b", "a", "first", "off"]


@pytest.mark.parametrize(
    ("bind", "shown"),
    [("", "http://*:80"), ("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")],
)
def test_addresses(bind: str, shown: str) -> None:
    assert address(Listener(id="web", port=80, bind_address=bind)) == shown
