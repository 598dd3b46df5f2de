from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from p2pstream.agents.hub import AgentStatus
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
from p2pstream.manage.agent_views import PROOF_SECONDS
from p2pstream.manage.steps import at_once
from p2pstream.manage.views import Json, status
from p2pstream.observe.counters import Count, Counters, PathId
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.health import Verdict
from p2pstream.policy.state import PathState
from p2pstream.policy.tables import Tables

NOW = 1000.0
RULES = HealthCheck()  # thresholds 2 and 2, every 10 s, 2 s at most, cooldown 30 s
HERE = AgentStatus("a", "attic", "1.0", "192.0.2.1", 60.0, 5.0, 0.012, 3, 64, 10, 20, False)


def target(name: str, **rest: Any) -> Target:
    origin = Origin.parse("http://origin.test")
    return Target(**{"name": name, "url": origin, "health_check": RULES, **rest})


def through(name: str, **rest: Any) -> Target:
    return target(name, transport="agent", agent_selector=AgentSelector({"s": "x"}), **rest)


def agent(id: str, **rest: Any) -> Agent:
    return Agent(id=id, token_hash=(), name=f"{id}-name", labels={"s": "x"}, **rest)


def board_of(*targets: Target, agents: tuple[Agent, ...] = (), **rest: Any) -> Board:
    route = Route(**{"id": "r", "listener_id": "web", "is_default": True, **rest}, targets=targets)
    listeners = (Listener(id="web", port=80),)
    return Board(Tables.compile(Config(listeners=listeners, agents=agents, routes=(route,))))


def seen(path: PathState, board: Board, *verdicts: Verdict, at: float = NOW) -> None:
    """What the monitor does with its results."""
    for verdict in verdicts:
        path.extra = path.extra or Sightings()
        if verdict in ("passed", "failed"):
            path.extra.check = Result(verdict == "passed", f"it {verdict}", at, 0.0042)
        else:
            path.extra.refusal = "no connection"
        board.report(path, verdict, at)


def view(board: Board, *agents: AgentStatus, counters: Counters | None = None) -> Json:
    shown = status(board, agents, counters or Counters(), {"web": "http://*:80"}, NOW)
    return at_once(shown)


def path_of(board: Board, name: str = "t", agent_id: str = "") -> Json:
    (found,) = [
        one
        for one in view(board)["paths"]
        if (one["target"], one["agent"] or "") == (name, agent_id)
    ]
    path: Json = found
    return path


# --- state and reason ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "seconds_ago", "state", "unusable", "reason"),
    [
        ([], 0, "unknown", None, "not checked yet"),
        (["passed"], 1, "unknown", None, "it passed"),
        (["passed", "passed"], 1, "healthy", None, "it passed"),
        (["passed", "passed", "failed"], 1, "healthy", None, "it failed"),
        (["failed", "failed"], 1, "unhealthy", "unhealthy", "it failed"),
        (["passed", "passed"], 24, "healthy", None, "it passed"),
        (["passed", "passed"], 25, "unknown", None, "not proven for 25 s"),
        (["refused"], 10, "unknown", "cooldown", "no connection; used again in 20 s"),
        (
            ["passed", "passed", "refused"],
            10,
            "healthy",
            "cooldown",
            "no connection; used again in 20 s",
        ),
    ],
)
def test_state_and_reason(
    verdicts: list[Verdict], seconds_ago: float, state: str, unusable: str | None, reason: str
) -> None:
    board = board_of(target("t"))
    seen(board.path(PathKey("r", "t", "")), board, *verdicts, at=NOW - seconds_ago)
    path = path_of(board)
    assert (path["state"], path["unusable"], path["reason"]) == (state, unusable, reason)


@pytest.mark.parametrize(
    ("change", "unusable", "reason"),
    [
        ({"health_check": None}, None, "no health check"),
        ({"enabled": False}, "disabled", "disabled in the file"),
        ({"drain": True}, "draining", "drained in the file"),
        ({"target_type": "static", "url": None, "health_check": None}, None, "static"),
    ],
)
def test_what_the_file_says_is_a_reason(
    change: dict[str, Any], unusable: str | None, reason: str
) -> None:
    path = path_of(board_of(target("t", **change)))
    assert (path["unusable"], path["reason"]) == (unusable, reason)


def test_reasons_of_an_agents_path() -> None:
    board = board_of(through("t"), agents=(agent("a"), agent("b", drain=True)))
    assert path_of(board, agent_id="a")["reason"] == "its agent is not connected"
    assert path_of(board, agent_id="a")["state"] == "disconnected"
    for one in "ab":
        board.agent_connected(one)
    assert path_of(board, agent_id="a")["reason"] == "not checked yet"
    assert path_of(board, agent_id="b")["reason"] == "drained in the file"
    board.agent_leaving("a")
    assert path_of(board, agent_id="a")["reason"] == "its agent is leaving"


def test_the_last_check() -> None:
    board = board_of(target("t"))
    assert path_of(board)["last_check"] is None
    seen(board.path(PathKey("r", "t", "")), board, "failed", at=NOW - 3.25)
    assert path_of(board)["last_check"] == {
        "passed": False,
        "reason": "it failed",
        "seconds_ago": 3.2,
        "millis": 4.2,
    }


# --- shares and counts --------------------------------------------------------------------------


def test_shares_are_those_of_the_route() -> None:
    board = board_of(
        through("t", weight=3, agent_load_balancing="weighted_round_robin"),
        target("d", weight=1),
        target("backup", priority_group=1),
        agents=(agent("a", weight=2), agent("b", weight=1), agent("c")),
        target_load_balancing="weighted_round_robin",
    )
    for one in "ab":
        board.agent_connected(one)
    whole = view(board)
    assert {(one["target"], one["agent"]): one["share"] for one in whole["paths"]} == {
        ("t", "a"): 0.5,
        ("t", "b"): 0.25,
        ("t", "c"): 0.0,
        ("d", None): 0.25,
        ("backup", None): 0.0,
    }
    assert [(one["name"], one["share"], one["unusable"]) for one in whole["targets"]] == [
        ("t", 0.75, None),
        ("d", 0.25, None),
        ("backup", 0.0, "other_group"),
    ]
    assert whole["routes"][0]["serving_group"] == 0


def test_shares_when_the_first_group_is_gone_and_when_all_is() -> None:
    board = board_of(target("t"), target("backup", priority_group=1))
    seen(board.path(PathKey("r", "t", "")), board, "failed", "failed")
    assert [one["share"] for one in view(board)["paths"]] == [0.0, 1.0]
    assert view(board)["routes"][0]["serving_group"] == 1
    seen(board.path(PathKey("r", "backup", "")), board, "failed", "failed")
    assert [one["share"] for one in view(board)["paths"]] == [0.0, 0.0]
    assert view(board)["routes"][0]["serving_group"] is None


def test_active_requests_and_counts() -> None:
    board = board_of(through("t"), agents=(agent("a"),))
    board.agent_connected("a")
    board.path(PathKey("r", "t", "a")).acquire()
    counters = Counters({PathId("web", "r", "t", "a"): Count(7, 2)}, {"connect_failed": 2})
    whole = view(board, counters=counters)
    (path,) = whole["paths"]
    assert (path["active"], path["requests"], path["failures"]) == (1, 7, 2)
    assert whole["targets"][0]["active"] == 1
    assert (whole["requests"], whole["failures"]) == (7, {"connect_failed": 2})


# --- the rest -----------------------------------------------------------------------------------


def test_routes_are_told_as_the_file_has_them() -> None:
    board = board_of(
        target("t"),
        is_default=False,
        enabled=False,
        host_pattern=HostPattern.parse("*.example.com"),
        path_prefix="/api",
    )
    assert view(board)["routes"] == [
        {
            "id": "r",
            "listener": "web",
            "enabled": False,
            "action": "forward",
            "host_pattern": "*.example.com",
            "path_prefix": "/api",
            "balancing": "round_robin",
            "serving_group": None,
        }
    ]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "connected"),
        ({"proven_seconds_ago": PROOF_SECONDS + 1}, "unproven"),
        ({"leaving": True}, "draining"),
    ],
)
def test_an_agent_is_connected_while_that_is_proven(change: dict[str, Any], state: str) -> None:
    board = board_of(through("t"), agents=(agent("a"), agent("b"), agent("c", enabled=False)))
    first, second, third = view(board, evolve(HERE, **change))["agents"]
    assert (first["name"], first["state"], first["round_trip_millis"]) == ("a-name", state, 12.0)
    assert (second["state"], third["state"]) == ("disconnected", "disabled")
