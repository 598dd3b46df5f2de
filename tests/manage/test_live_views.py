from __future__ import annotations

from p2pstream.agents.hub import AgentStatus
from p2pstream.config.load import load_text
from p2pstream.config.plan import plan
from p2pstream.manage import live_views
from p2pstream.manage.live_views import Live
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.explain import explain
from p2pstream.policy.request import Request
from p2pstream.policy.tables import Tables

TEXT = """
[[listeners]]
id = "web"
port = 80
max_connections = {limit}
[[agents]]
id = "one"
token_hash = "sha256:{hash}"
labels = {{ site = "home" }}
weight = {limit}
[[routes]]
id = "main"
listener_id = "web"
path_prefix = "/"
[[routes.targets]]
name = "direct"
url = "http://127.0.0.1:1"
weight = {limit}
[[routes.targets]]
name = "far"
url = "http://127.0.0.1:1"
transport = "agent"
agent_selector.match_labels = {{ site = "home" }}
"""
STATUS = AgentStatus("one", "one", "1", "192.0.2.1", 61.04, 1.0, None, 7, 64, 0, 0, False)


def text(limit: int) -> str:
    return TEXT.format(limit=limit, hash="a" * 64)


def board_of(text: str) -> Board:
    board = Board(Tables.compile(load_text(text)))
    board.agent_connected("one")
    return board


def test_a_plan_tells_what_each_change_touches() -> None:
    old, new = load_text(text(1)), load_text(text(2) + '[[listeners]]\nid = "new"\nport = 81\n')
    board = board_of(text(1))
    for _ in range(3):
        board.path(PathKey("main", "direct", "")).acquire()
    changes = plan(old, new)
    view = live_views.plan(changes, changes.lines(), Live.of(board, {"web": 12}, [STATUS]))
    assert view["lines"] == [
        "+ listener new opens: http://*:81",
        "~ listener web stays open: max_connections: 1 -> 2 [12 connections now]",
        "~ agent one: weight: 1 -> 2 [7 streams now]",
        "~ target main/direct: weight: 1 -> 2 [3 requests now]",
    ]
    assert view["touches"] == [
        {"kind": "listener", "id": "web", "connections": 12},
        {"kind": "agent", "id": "one", "streams": 7},
        {"kind": "target", "id": "main/direct", "requests": 3},
    ]
    assert view["listeners"]["open"] == ["new"]


def test_a_removed_route_touches_the_requests_of_all_its_targets() -> None:
    old = load_text(text(1))
    new = load_text('[[listeners]]\nid = "web"\nport = 80\nmax_connections = 1\n')
    board = board_of(text(1))
    board.path(PathKey("main", "direct", "")).acquire()
    board.path(PathKey("main", "far", "one")).acquire()
    changes = plan(old, new)
    view = live_views.plan(changes, changes.lines(), Live.of(board, {"web": 2}, []))
    assert view["lines"] == [
        "- agent one [0 streams now]",
        "- route main [2 requests now]",
        "- target main/direct [1 request now]",
        "- target main/far [1 request now]",
    ]


def test_lines_about_nothing_alive_are_as_they_were() -> None:
    old = load_text("[server]\nretention_days = 1\n")
    new = load_text("")
    changes = plan(old, new)
    view = live_views.plan(changes, changes.lines(), Live.of(board_of(text(1)), {}, []))
    assert view["lines"] == changes.lines() != []
    assert view["touches"] == []


def test_explain_under_what_goes_on_now() -> None:
    board = board_of(text(1))
    board.path(PathKey("main", "far", "one")).acquire()
    told = explain(board, "web", Request.parse("GET http://a/x"))
    view = live_views.explain(board, told, [STATUS])
    assert view["route"] == "main"
    assert view["now"] == [
        {"target": "direct", "agent": None, "health": "unknown", "unusable": None, "active": 0},
        {
            "target": "far",
            "agent": "one",
            "health": "unknown",
            "unusable": None,
            "active": 1,
            "agent_connected_seconds": 61.0,
            "agent_streams": 7,
        },
    ]
    assert view["lines"][-3:] == [
        "now:",
        "  direct  unknown, 0 active",
        "  far through one  unknown, 1 active; agent connected for 61 s, 7 streams",
    ]
    board.agent_disconnected("one")
    view = live_views.explain(board, explain(board, "web", told.request), [])
    assert view["lines"][-1] == "  far through one  disconnected, 1 active"
    board.agent_connected("one")
    board.agent_leaving("one")
    view = live_views.explain(board, explain(board, "web", told.request), [STATUS])
    assert "far through one  unknown, draining, 1 active" in view["lines"][-1]


def test_explain_without_a_route() -> None:
    board = board_of(text(1).replace('path_prefix = "/"', 'path_prefix = "/api"'))
    view = live_views.explain(board, explain(board, "web", Request.parse("GET http://a/")), [])
    assert (view["status"], view["now"]) == (404, [])
    assert "now:" not in view["lines"]
