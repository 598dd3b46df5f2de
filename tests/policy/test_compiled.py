from __future__ import annotations

from p2pstream.config.model import Agent, AgentSelector, HealthCheck, Route, Target
from p2pstream.config.scalars import Origin
from p2pstream.policy.compiled import CompiledAgent, CompiledRoute, CompiledTarget, Selection

ORIGIN = Origin.parse("http://127.0.0.1:8080")
ROUTE = Route(id="r", listener_id="web", is_default=True)


def compiled(target: Target, selection: Selection | None = None) -> CompiledTarget:
    return CompiledTarget(ROUTE, target, selection)


def test_the_kind_of_a_target() -> None:
    agents = Selection([CompiledAgent(Agent(id="a", token_hash=()))])
    selector = AgentSelector({"x": "1"})
    far = Target(name="t", url=ORIGIN, transport="agent", agent_selector=selector)
    assert compiled(Target(name="t", url=ORIGIN)).kind == "direct"
    assert compiled(Target(name="t", target_type="static")).kind == "static"
    assert compiled(far, agents).kind == "agent"
    assert compiled(far, agents).agents == agents.agents


def test_rules_hold_only_where_health_is_checked() -> None:
    on, off = HealthCheck(), HealthCheck(enabled=False)
    assert compiled(Target(name="t", url=ORIGIN, health_check=on)).rules is on
    assert compiled(Target(name="t", url=ORIGIN, health_check=off)).rules is None
    assert compiled(Target(name="t", url=ORIGIN)).rules is None


def test_a_target_is_open_while_it_and_its_route_are_enabled_and_it_does_not_drain() -> None:
    assert compiled(Target(name="t")).open
    assert not compiled(Target(name="t", enabled=False)).open
    draining = compiled(Target(name="t", drain=True))
    assert draining.enabled
    assert not draining.open
    off = Route(id="r", listener_id="web", enabled=False)
    assert not CompiledTarget(off, Target(name="t"), None).enabled


def test_groups_are_numbered_ascending_and_keep_the_order_of_the_file() -> None:
    targets = [Target(name=name, priority_group=group) for name, group in zip("abcd", (1, 0, 1, 0))]  # noqa: B905 - equally long
    route = CompiledRoute(ROUTE, tuple(compiled(target) for target in targets))
    assert [(group.number, group.names) for group in route.groups] == [
        (0, ("b", "d")),
        (1, ("a", "c")),
    ]
    assert [target.position for target in route.targets] == [0, 0, 1, 1]


def test_only_redirect_routes_have_a_redirect() -> None:
    assert CompiledRoute(ROUTE, ()).redirect is None
    away = Route(
        id="r",
        listener_id="web",
        action="redirect",
        redirect_target_mode="same_host_path",
        redirect_target="/new",
    )
    redirect = CompiledRoute(away, ()).redirect
    assert redirect is not None
    assert redirect.location(b"/", None) == b"/new"
