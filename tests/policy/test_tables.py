from __future__ import annotations

from p2pstream.config.model import Agent, AgentSelector, Config, Listener, Route, Target
from p2pstream.config.scalars import Origin
from p2pstream.policy.tables import Tables


def test_everything_is_found_by_its_id() -> None:
    selector = AgentSelector({"site": "home"})
    target = Target(
        name="t",
        url=Origin.parse("http://127.0.0.1:8080"),
        transport="agent",
        agent_selector=selector,
    )
    config = Config(
        listeners=(Listener(id="web", port=80), Listener(id="api", port=81, enabled=False)),
        agents=(
            Agent(id="b", token_hash=(), labels={"site": "home"}),
            Agent(id="a", token_hash=(), labels={"site": "home"}),
        ),
        routes=(
            Route(id="r", listener_id="web", path_prefix="/r", targets=(target,)),
            Route(id="s", listener_id="api", path_prefix="/s", targets=(target,), enabled=False),
        ),
    )
    tables = Tables.compile(config)
    assert set(tables.listeners) == {"web", "api"}
    assert [route.id for route in tables.listeners["web"].ranked] == ["r"]
    assert tables.listeners["api"].ranked == ()
    assert set(tables.routes) == {"r", "s"}
    assert set(tables.targets) == {("r", "t"), ("s", "t")}
    assert tables.targets["r", "t"].agents == (tables.agents["a"], tables.agents["b"])
    assert tables.routes["r"].targets == (tables.targets["r", "t"],)
