from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    BasicAuth,
    Certificate,
    Config,
    Expectation,
    HealthCheck,
    Listener,
    Management,
    Route,
    Server,
    Target,
    Template,
)
from p2pstream.config.plan import Loops, Sockets, adopt, plan
from p2pstream.config.scalars import HostPattern, Origin, Secret, TokenHash

ONE, TWO = TokenHash.of("hunter2"), TokenHash.of("hunter3")
URL = Origin.parse("http://127.0.0.1:3000")
LISTENER = Listener(id="web", port=80)
AGENT = Agent(id="agent-a", token_hash=(ONE,), name="agent-a", labels={"site": "home"})
CERTIFICATE = Certificate(HostPattern.parse("a.example"), Path("a.pem"), Path("a.key"))
DIRECT = Target(name="direct", url=URL, health_check=HealthCheck())
TUNNEL = Target(
    name="tunnel",
    url=URL,
    transport="agent",
    agent_selector=AgentSelector({"site": "home"}),
    health_check=HealthCheck(),
    upstream_basic_auth=BasicAuth("u", Secret("hunter2")),
    upstream_request_headers={"X-Key": Secret("hunter2")},
)
ROUTE = Route(id="app", listener_id="web", path_prefix="/", targets=(DIRECT, TUNNEL))
CONFIG = Config(listeners=(LISTENER,), agents=(AGENT,), routes=(ROUTE,))


def with_listener(**changes: Any) -> Config:
    return evolve(CONFIG, listeners=(evolve(LISTENER, **changes),))


def with_agent(**changes: Any) -> Config:
    return evolve(CONFIG, agents=(evolve(AGENT, **changes),))


def with_route(**changes: Any) -> Config:
    return evolve(CONFIG, routes=(evolve(ROUTE, **changes),))


def with_tunnel(**changes: Any) -> Config:
    return with_route(targets=(DIRECT, evolve(TUNNEL, **changes)))


CASES: list[tuple[Config, list[str]]] = [
    (CONFIG, []),
    (with_listener(port=81), ["~ listener web closes and opens anew: port: 80 -> 81"]),
    (
        with_listener(protocol="https", certificates=(CERTIFICATE,)),
        [
            '~ listener web closes and opens anew: protocol: "http" -> "https"; '
            "certificates: [] -> [a.example]"
        ],
    ),
    (
        with_listener(max_header_bytes=1024, trusted_proxies=("10.0.0.0/8",)),
        [
            "~ listener web stays open: trusted_proxies: [] -> [10.0.0.0/8]; "
            "max_header_bytes: 65536 -> 1024"
        ],
    ),
    (with_listener(enabled=False), ["- listener web closes: enabled: true -> false"]),
    (
        evolve(CONFIG, listeners=(evolve(LISTENER, id="api", bind_address="::1"),)),
        ["- listener web closes: http://*:80", "+ listener api opens: http://[::1]:80"],
    ),
    (
        evolve(CONFIG, listeners=(LISTENER, evolve(LISTENER, id="off", enabled=False))),
        ["~ listener off is not enabled: http://*:80"],
    ),
    (
        evolve(CONFIG, agents=()),
        ["- agent agent-a", "- health check app/tunnel through agent-a stops"],
    ),
    (
        evolve(CONFIG, agents=(AGENT, evolve(AGENT, id="agent-b", name="b"))),
        ["+ agent agent-b", "+ health check app/tunnel through agent-b starts"],
    ),
    (
        with_agent(token_hash=(ONE, TWO), weight=50, drain=True),
        [
            "~ agent agent-a: token_hash: a hash -> 2 hashes; drain: false -> true; "
            "weight: 100 -> 50"
        ],
    ),
    (with_agent(token_hash=(TWO,)), ["~ agent agent-a: token_hash: changed"]),
    (
        with_agent(labels={"site": "lab", "zone": ""}),
        [
            '~ agent agent-a: labels.site: "home" -> "lab"; labels.zone: not set -> ""',
            "- health check app/tunnel through agent-a stops",
        ],
    ),
    (
        with_route(host_pattern=HostPattern.parse("*.a.example"), priority=-1),
        ['~ route app: priority: 0 -> -1; host_pattern: not set -> "*.a.example"'],
    ),
    (
        with_route(targets=(TUNNEL,)),
        ["- target app/direct", "- health check app/direct stops"],
    ),
    (
        with_tunnel(upstream_basic_auth=BasicAuth("u", Secret("hunter3"))),
        ["~ target app/tunnel: upstream_basic_auth.password: changed"],
    ),
    (
        with_tunnel(upstream_request_headers={"X-Other": Secret("hunter2")}),
        [
            "~ target app/tunnel: upstream_request_headers.X-Key: a secret -> not set; "
            "upstream_request_headers.X-Other: not set -> a secret"
        ],
    ),
    (
        with_tunnel(url=Origin.parse("http://127.0.0.1:3001")),
        [
            '~ target app/tunnel: url: "http://127.0.0.1:3000" -> "http://127.0.0.1:3001"',
            "- health check app/tunnel through agent-a stops",
            "+ health check app/tunnel through agent-a starts",
        ],
    ),
    (
        with_tunnel(health_check=HealthCheck(interval_millis=5000)),
        [
            "~ target app/tunnel: health_check.interval_millis: 10000 -> 5000",
            "- health check app/tunnel through agent-a stops",
            "+ health check app/tunnel through agent-a starts",
        ],
    ),
    (
        with_tunnel(health_check=None),
        [
            "~ target app/tunnel: health_check: set -> not set",
            "- health check app/tunnel through agent-a stops",
        ],
    ),
    (with_tunnel(weight=1), ["~ target app/tunnel: weight: 100 -> 1"]),
    (
        evolve(CONFIG, templates=(Template("page", body="<p>"),)),
        ["+ template page"],
    ),
    (
        evolve(CONFIG, server=Server(log_level="debug"), management=Management(port=9)),
        ['~ server.log_level: "info" -> "debug"', "~ management.port: 8081 -> 9"],
    ),
    (
        evolve(CONFIG, management=Management(admin_token_hash=ONE)),
        ["~ management.admin_token_hash: not set -> a hash"],
    ),
    (
        evolve(CONFIG, expectations=(Expectation("GET http://a/", "web"),)),
        ["~ expectations"],
    ),
]


@pytest.mark.parametrize(("new", "lines"), CASES)
def test_lines(new: Config, lines: list[str]) -> None:
    assert plan(CONFIG, new).lines() == lines
    assert plan(CONFIG, new).is_empty is (lines == [])


def test_sizes_and_no_texts_are_shown() -> None:
    old = evolve(CONFIG, templates=(Template("page", body="hunter2"),))
    new = evolve(CONFIG, templates=(Template("page", body="hunter2!"),))
    assert plan(old, new).lines() == ["~ template page: body: 7 bytes -> 8 bytes"]


def test_what_a_renewed_file_changes() -> None:
    listener = evolve(LISTENER, protocol="https", certificates=(CERTIFICATE,))
    config = evolve(CONFIG, listeners=(listener,))
    assert plan(config, config).listeners == Sockets(keep=("web",))
    renewed = plan(config, config, {Path("a.pem")})
    assert renewed.listeners == Sockets(change=("web",))
    assert renewed.lines() == ["~ listener web stays open: certificates: a.pem was renewed"]
    assert plan(config, config, {Path("other.pem")}).is_empty
    both = evolve(CERTIFICATE, key_file=CERTIFICATE.certificate_file)
    config = evolve(CONFIG, listeners=(evolve(listener, certificates=(both,)),))
    assert plan(config, config, {Path("a.pem")}).lines() == renewed.lines()


TABLES = ("listeners", "agents", "routes", "templates")


def test_adopting_keeps_the_very_objects_that_did_not_change() -> None:
    old = evolve(CONFIG, templates=(Template("page", body="hello"),))
    again = deepcopy(old)
    found = adopt(old, again)
    assert found == old
    for name in TABLES:
        for before, after in zip(getattr(old, name), getattr(found, name), strict=True):
            assert after is before
    changed = evolve(again.routes[0], priority=9)
    found = adopt(old, evolve(again, routes=(changed,), agents=()))
    assert found.routes == (changed,)
    assert found.routes[0] is changed
    assert found.agents == ()


pool = st.sampled_from([new for new, _ in CASES])
mixed = st.builds(
    lambda a, b, c, d: evolve(
        a, listeners=b.listeners, agents=c.agents, routes=(*d.routes,), templates=d.templates
    ),
    pool, pool, pool, pool,
)  # fmt: skip


def loops(config: Config) -> set[tuple[str, str, str]]:
    """Spec §7: one per direct target, one per (agent target, matching agent)."""
    return {
        (route.id, target.name, agent)
        for route in config.routes
        for target in route.targets
        if target.health_check is not None
        for agent in (
            [""]
            if target.agent_selector is None
            else [
                agent.id
                for agent in config.agents
                if target.agent_selector.match_labels.items() <= agent.labels.items()
            ]
        )
    }


@settings(deadline=None)
@given(mixed, mixed)
def test_every_object_has_its_place_in_the_plan(old: Config, new: Config) -> None:
    found = plan(old, new)
    assert found == plan(old, adopt(old, deepcopy(new)))
    sockets, health = found.listeners, found.health
    stays = {*sockets.keep, *sockets.change}
    assert {*sockets.open} | stays == {one.id for one in new.listeners if one.enabled}
    assert {*sockets.close} | stays == {one.id for one in old.listeners if one.enabled}
    assert not stays & {*sockets.open, *sockets.close}
    assert {*health.start, *health.keep} == loops(new)
    assert {*health.stop, *health.keep} == loops(old)
    assert {*found.agents.added} == {a.id for a in new.agents} - {a.id for a in old.agents}
    assert found.is_empty is (old == new)
    back = plan(new, old)
    assert (back.health.start, back.health.stop) == (health.stop, health.start)
    assert (back.agents.added, back.agents.removed) == (found.agents.removed, found.agents.added)


@settings(deadline=None)
@given(mixed, mixed)
def test_nothing_that_is_shown_holds_a_secret(old: Config, new: Config) -> None:
    found = plan(old, new)
    shown = json.dumps(found.as_json()) + "\n".join(found.lines()) + repr(found)
    assert "hunter" not in shown
    assert ONE.text not in shown
    assert found.as_json()["lines"] == found.lines()


def test_positions_mean_nothing() -> None:
    other = evolve(ROUTE, id="b", targets=(TUNNEL, DIRECT))
    old = evolve(CONFIG, routes=(ROUTE, other))
    new = evolve(CONFIG, routes=(evolve(other, targets=(DIRECT, TUNNEL)), ROUTE))
    assert plan(old, new).is_empty
    assert plan(old, new).health == Loops(
        keep=(
            ("b", "direct", ""),
            ("b", "tunnel", "agent-a"),
            ("app", "direct", ""),
            ("app", "tunnel", "agent-a"),
        )
    )
