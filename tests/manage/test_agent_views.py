from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from p2pstream.agents.hub import AgentStatus
from p2pstream.config.model import Agent, AgentSelector, Config, Listener, Route, Target
from p2pstream.config.scalars import Origin
from p2pstream.manage.agent_views import (
    PROOF_SECONDS,
    AgentSources,
    active_requests,
    agents,
    carried,
    state,
)
from p2pstream.manage.steps import at_once
from p2pstream.manage.traffic import Traffic
from p2pstream.observe.counters import Count
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.tables import Tables
from p2pstream.wire.report import Report

HERE = AgentStatus("a", "attic", "1.0", "192.0.2.1", 60.0, 5.0, 0.012, 3, 64, 10, 20, False)
REPORT = Report("1.0", 31_000_000, 1.5, 3, 1000, 2000, 60.0)
ONE = Agent("a", (), "attic", labels={"s": "x"}, weight=7)
PAST = {
    "uptime_percent": 99.5,
    "connections": 3,
    "disconnections": 2,
    "connected_since": None,
    "last_seen": 1_700_000_000.5,
}


def board_of(*declared: Agent) -> Board:
    url = Origin.parse("http://origin.test")
    selected = [
        Target(name=name, url=url, transport="agent", agent_selector=AgentSelector(labels))
        for name, labels in (("x", {"s": "x"}), ("y", {"s": "y"}))
    ]
    direct = Target(name="direct", url=url)
    routes = (Route("r", "web", is_default=True, targets=(*selected, direct)),)
    config = Config(listeners=(Listener("web", 80),), agents=declared, routes=routes)
    return Board(Tables.compile(config))


def view(*connected: AgentStatus, history: dict[str, Any] = PAST, **rest: Any) -> Any:
    sources = AgentSources(
        **{
            "board": board_of(ONE),
            "connected": {one.agent_id: one for one in connected},
            "history": lambda _: history,
            "traffic": Traffic(),
            "active": {},
            **rest,
        }
    )
    return at_once(agents(sources))["agents"]["a"]


@pytest.mark.parametrize(
    ("config", "now", "expected"),
    [
        ({}, None, "disconnected"),
        ({"enabled": False}, None, "disabled"),
        ({"drain": True}, None, "disconnected"),
        ({}, {}, "connected"),
        ({}, {"proven_seconds_ago": PROOF_SECONDS + 1}, "unproven"),
        ({}, {"leaving": True}, "draining"),
        ({"drain": True}, {}, "draining"),
        ({"enabled": False}, {}, "disabled"),
    ],
)
def test_states(config: dict[str, Any], now: dict[str, Any] | None, expected: str) -> None:
    status = None if now is None else evolve(HERE, **now)
    assert state(evolve(ONE, **config), status) == expected


def test_one_that_is_connected() -> None:
    seen = view(
        evolve(HERE, report=REPORT),
        history={**PAST, "connected_since": 1_700_000_100.0, "last_seen": None},
        active={"a": 2},
        traffic=Traffic({}, {"a": Count(requests=9, failures=1, origin_errors=4)}, {}),
    )
    assert seen == {
        "id": "a",
        "name": "attic",
        "state": "connected",
        "labels": {"s": "x"},
        "system_labels": {"p2pstream.io/agent-id": "a"},
        "weight": 7,
        "drain": False,
        "version": "1.0",
        "address": "192.0.2.1",
        "connected_since": 1_700_000_100.0,
        "offline_since": None,
        "uptime_percent": 99.5,
        "connections": 3,
        "disconnections": 2,
        "round_trip_millis": 12.0,
        "active_requests": 2,
        "streams": 3,
        "received_bytes": 10,
        "sent_bytes": 20,
        "memory_bytes": 31_000_000,
        "cpu_percent": 1.5,
        "requests": 9,
        "failures": 1,
        "origin_errors": 4,
        "p95_millis": None,
    }


def test_one_that_is_not() -> None:
    seen = view()
    assert (seen["state"], seen["offline_since"]) == ("disconnected", 1_700_000_000.5)
    for key in ("version", "address", "connected_since", "round_trip_millis", "received_bytes"):
        assert seen[key] is None
    assert (seen["memory_bytes"], seen["streams"], seen["active_requests"]) == (None, 0, 0)


def test_one_that_has_not_reported_yet() -> None:
    seen = view(HERE)
    assert (seen["memory_bytes"], seen["cpu_percent"]) == (None, None)


def test_what_it_carries() -> None:
    assert carried(board_of(ONE), "a") == [("r", "x")]
    assert carried(board_of(ONE), "b") == []


def test_active_requests_are_those_under_way_through_it() -> None:
    board = board_of(ONE, Agent("b", (), "b", labels={"s": "y"}))
    board.path(PathKey("r", "x", "a")).acquire()
    board.path(PathKey("r", "direct", "")).acquire()
    assert active_requests(board) == {"a": 1}
