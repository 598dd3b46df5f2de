from __future__ import annotations

from typing import Any

import pytest

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    Config,
    Expectation,
    Listener,
    Route,
    Target,
)
from p2pstream.config.scalars import HostPattern, Origin
from p2pstream.policy.expect import Failure, check_expectations

ORIGIN = Origin.parse("http://127.0.0.1:8080")
HOME = AgentSelector({"site": "home"})


def far(name: str, **fields: Any) -> Target:
    return Target(name=name, url=ORIGIN, transport="agent", agent_selector=HOME, **fields)


def route(id: str, prefix: str, *targets: Target, **fields: Any) -> Route:
    return Route(
        id=id,
        listener_id="web",
        host_pattern=HostPattern.parse("app.example"),
        path_prefix=prefix,
        targets=targets,
        **fields,
    )


CONFIG = Config(
    listeners=(Listener(id="web", port=80),),
    agents=(
        Agent(id="a", token_hash=(), labels={"site": "home"}),
        Agent(id="b", token_hash=(), labels={"site": "home"}),
        Agent(id="c", token_hash=(), labels={"site": "home"}, drain=True),
        Agent(id="d", token_hash=(), labels={"site": "home"}, enabled=False),
    ),
    routes=(
        route("media", "/media", far("one"), far("two"), far("backup", priority_group=1)),
        route("mixed", "/mixed", far("one"), Target(name="near", url=ORIGIN)),
        route(
            "page",
            "/page",
            Target(name="gone", target_type="static", static_status_code=410),
            Target(name="off", target_type="static", enabled=False),
        ),
        route(
            "old",
            "/old",
            action="redirect",
            redirect_target_mode="same_host_path",
            redirect_target="/new",
            redirect_status_code=308,
        ),
        route("down", "/down", Target(name="t", url=ORIGIN, drain=True)),
    ),
)

APP = "http://app.example"
HOLDS: list[tuple[str, dict[str, Any]]] = [
    ("/media/x", {"expect_route": "media", "expect_target": "two", "expect_agent_in": ("a", "b")}),
    ("/media/x", {"expect_agent_in": ("a", "b", "z")}),
    ("/mixed", {"expect_target": "one", "expect_agent_in": ("b", "a")}),
    ("/mixed", {"expect_target": "near"}),
    ("/page", {"expect_status": 410, "expect_target": "gone"}),
    ("/old/x?y", {"expect_route": "old", "expect_status": 308, "expect_location": "/new/x?y"}),
    ("/nothing", {"expect_status": 404}),
    ("/media/%2e%2e/x", {"expect_status": 400}),
    ("/media/a%2Fb", {"expect_route": "media", "expect_status": 400}),
    ("/down", {"expect_route": "down", "expect_status": 503}),
    ("/media", {}),
]
FAILS: list[tuple[str, str, Any, str]] = [
    ("/media", "expect_route", "page", "expected page, got media"),
    ("/x", "expect_route", "page", "expected page, got no route"),
    ("/media", "expect_target", "backup", "expected backup, candidates are one, two"),
    ("/x", "expect_target", "one", "expected one, candidates are none"),
    ("/media/a%2fb", "expect_target", "one", "expected one, candidates are none"),
    ("/media", "expect_agent_in", ("a",), "b could get it too"),
    ("/media", "expect_agent_in", ("c",), "a, b could get it too"),
    ("/mixed", "expect_agent_in", ("a", "b"), "target near works without an agent"),
    ("/down", "expect_agent_in", ("a",), "no agent could get this request"),
    ("/page", "expect_status", 200, "expected 200, target gone gives 410"),
    ("/mixed", "expect_status", 200, "the origin of target one decides the status"),
    ("/x", "expect_status", 200, "expected 200, got 404 no_route"),
    ("/old", "expect_status", 302, "expected 302, got 308"),
    ("/old", "expect_location", "/", "expected /, got /new"),
    ("/media", "expect_location", "/", "expected /, got no redirect"),
]


def run(*expectations: Expectation) -> list[Failure]:
    return check_expectations(
        Config(
            listeners=CONFIG.listeners,
            agents=CONFIG.agents,
            routes=CONFIG.routes,
            expectations=expectations,
        )
    )


@pytest.mark.parametrize(("path", "fields"), HOLDS)
def test_what_holds(path: str, fields: dict[str, Any]) -> None:
    assert run(Expectation(request=f"GET {APP}{path}", listener_id="web", **fields)) == []


@pytest.mark.parametrize(("path", "field", "wanted", "message"), FAILS)
def test_what_does_not(path: str, field: str, wanted: Any, message: str) -> None:
    fields: dict[str, Any] = {field: wanted}
    failures = run(Expectation(request=f"GET {APP}{path}", listener_id="web", **fields))
    assert failures[0] == Failure(0, field, message)
    assert str(failures[0]) == f"expectations[0].{field}: {message}"


def test_every_failure_is_reported_with_its_place() -> None:
    fine = Expectation(request=f"GET {APP}/page", listener_id="web", expect_route="page")
    wrong = Expectation(
        request=f"GET {APP}/old", listener_id="web", expect_route="x", expect_location="/y"
    )
    assert [(one.position, one.field) for one in run(fine, wrong, fine, wrong)] == [
        (1, "expect_route"),
        (1, "expect_location"),
        (3, "expect_route"),
        (3, "expect_location"),
    ]


def test_an_expectation_that_is_none_is_a_failure_itself() -> None:
    no_request = Expectation(request="GET /media", listener_id="web")
    no_listener = Expectation(request=f"GET {APP}/", listener_id="tls")
    assert [(one.field, one.position) for one in run(no_request, no_listener)] == [
        ("request", 0),
        ("listener_id", 1),
    ]


def test_a_connect_is_refused() -> None:
    assert run(Expectation(request=f"CONNECT {APP}/", listener_id="web", expect_status=405)) == []
