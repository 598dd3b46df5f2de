from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from p2pstream.config.model import Agent, AgentSelector, Config, Listener, Route, Target
from p2pstream.config.scalars import HostPattern, Origin
from p2pstream.policy.board import Obstacle
from p2pstream.policy.decide import Reason
from p2pstream.policy.explain import Explanation, everyone_up, explain
from p2pstream.policy.render import REASONS, as_json, as_lines
from p2pstream.policy.request import Request
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")


def route(id: str, prefix: str | None, *targets: Target, **fields: Any) -> Route:
    return Route(id=id, listener_id="web", path_prefix=prefix, targets=targets, **fields)


CONFIG = Config(
    listeners=(Listener(id="web", port=80),),
    agents=(
        Agent(id="attic", token_hash=(), labels={"site": "home"}),
        Agent(id="cellar", token_hash=(), labels={"site": "home"}, drain=True),
    ),
    routes=(
        route(
            "app",
            None,
            Target(
                name="home-lab",
                url=ORIGIN,
                transport="agent",
                agent_selector=AgentSelector({"site": "home"}),
            ),
            Target(name="near", url=ORIGIN),
            Target(name="page", target_type="static", static_status_code=503, priority_group=1),
            host_pattern=HostPattern.parse("app.example"),
        ),
        route("lost", "/lost", Target(name="t", url=ORIGIN, drain=True)),
        route(
            "old",
            "/old",
            action="redirect",
            redirect_target_mode="same_host_path",
            redirect_target="/new",
        ),
    ),
)


def explained(text: str) -> Explanation:
    return explain(everyone_up(Tables.compile(CONFIG)), "web", Request.parse(text))


def test_the_text() -> None:
    assert as_lines(explained("GET http://app.example/x?y=1")) == [
        "GET http://app.example/x?y=1",
        "listener web",
        "routes, in matching order:",
        "  -> app  matched",
        "     lost  path: the path is not under /lost",
        "     old  path: the path is not under /old",
        "group 0, round_robin, serves:",
        "  -> home-lab  http://127.0.0.1:8080 through agents with site=home (round_robin)  50.0%",
        "       attic  100.0%",
        "       cellar  draining: gets no new requests",
        "  -> near  direct http://127.0.0.1:8080  50.0%",
        "group 1, round_robin:",
        "     page  static 503  another group serves",
    ]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("GET http://b/old/x", "answer: 302, Location: /new/x"),
        ("GET http://b/x", "answer: 404 no_route: no route for b/x"),
        (
            "GET http://b/lost",
            "answer: 503 no_route_target_available: route lost has no usable target",
        ),
        ("GET http://b/..", "answer: 400 invalid_request_target: the path has a . or .. segment"),
    ],
)
def test_the_answer_stands_last(text: str, last: str) -> None:
    assert as_lines(explained(text))[-1] == last


def test_without_routes_there_is_text_too() -> None:
    board = everyone_up(Tables.compile(Config(listeners=CONFIG.listeners)))
    assert "     (none)" in as_lines(explain(board, "web", Request.parse("GET http://a/")))


def test_the_json_says_the_same() -> None:
    got = json.loads(json.dumps(as_json(explained("GET http://app.example/x?y=1"))))
    assert (got["route"], got["status"], got["error_kind"]) == ("app", None, None)
    assert [view["verdict"] for view in got["routes"]] == ["matched", "path", "path"]
    first = got["groups"][0]
    assert first["serves"]
    assert [(view["name"], view["share"]) for view in first["targets"]] == [
        ("home-lab", 0.5),
        ("near", 0.5),
    ]
    assert first["targets"][0]["agents"][1] == {"id": "cellar", "share": 0.0, "reason": "draining"}
    moved = as_json(explained("GET http://b/old/x"))
    assert (moved["status"], moved["location"]) == (302, "/new/x")
    lost = as_json(explained("GET http://b/x"))
    assert (lost["status"], lost["error_kind"], lost["route"]) == (404, "no_route", None)


def test_every_reason_has_words() -> None:
    reasons = {name for part in get_args(Reason) for name in (get_args(part) or (part,))}
    assert reasons >= set(get_args(Obstacle))
    assert set(REASONS) == reasons
