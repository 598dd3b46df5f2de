from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import Agent, AgentSelector, Config, Listener, Route, Target, Template
from p2pstream.config.plan import adopt
from p2pstream.config.scalars import Origin
from p2pstream.policy.compiled import CompiledRoute
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


# --- what is taken over --------------------------------------------------------------------------

ORIGIN = Origin.parse("http://127.0.0.1:8080")


def through(site: str) -> Target:
    selector = AgentSelector({"site": site})
    return Target(name="t", url=ORIGIN, transport="agent", agent_selector=selector)


def agent(id: str, site: str, weight: int = 100) -> Agent:
    return Agent(id=id, token_hash=(), labels={"site": site}, weight=weight)


def route(id: str, target: Target) -> Route:
    return Route(id=id, listener_id="web", path_prefix=f"/{id}", targets=(target,))


DIRECT = route("direct", Target(name="t", url=ORIGIN))
HOME = route("home", through("home"))
WORK = route("work", through("work"))
PAGE = route("page", Target(name="t", target_type="static", static_response_template_id="page"))
CONFIG = Config(
    listeners=(Listener(id="web", port=80),),
    agents=(agent("a", "home"), agent("b", "work")),
    routes=(DIRECT, HOME, WORK, PAGE),
    templates=(Template("page", body="hello"), Template("other")),
)


def anew(config: Config) -> set[str]:
    """The routes that are compiled anew after `CONFIG`."""
    before = Tables.compile(CONFIG)
    tables = Tables.compile(config, before)
    return {id for id, one in tables.routes.items() if before.routes.get(id) is not one}


def test_what_did_not_change_is_taken_over() -> None:
    assert anew(CONFIG) == set()
    assert anew(evolve(CONFIG, routes=(PAGE, WORK, HOME))) == set()
    assert anew(evolve(CONFIG, listeners=(Listener(id="web", port=81),))) == set()


def test_a_changed_route_is_compiled_anew() -> None:
    assert anew(evolve(CONFIG, routes=(evolve(DIRECT, priority=1), HOME, WORK, PAGE))) == {"direct"}
    assert anew(evolve(CONFIG, routes=(*CONFIG.routes, route("new", through("home"))))) == {"new"}


def test_so_is_one_whose_agents_changed() -> None:
    for agents in (
        (agent("a", "home", weight=7), CONFIG.agents[1]),
        (agent("a", "away"), CONFIG.agents[1]),
        (*CONFIG.agents, agent("c", "home")),
        CONFIG.agents[1:],
    ):
        assert anew(evolve(CONFIG, agents=agents)) == {"home"}
    assert anew(evolve(CONFIG, agents=CONFIG.agents[::-1])) == set()


def test_so_is_one_whose_template_changed() -> None:
    page, other = CONFIG.templates
    assert anew(evolve(CONFIG, templates=(evolve(page, body="bye"), other))) == {"page"}
    assert anew(evolve(CONFIG, templates=(page, evolve(other, body="bye")))) == set()


def meaning(tables: Tables) -> object:
    """All that tables say, without the objects that say it."""

    def of(one: CompiledRoute) -> object:
        targets = [
            (
                t.config,
                t.kind,
                t.position,
                [a.config for a in t.agents],
                tables.targets[one.id, t.name] is t,
            )
            for t in one.targets
        ]
        return one.config, targets, [(group.number, group.names) for group in one.groups]

    return (
        {id: of(one) for id, one in tables.routes.items()},
        {id: [one.id for one in table.ranked] for id, table in tables.listeners.items()},
        {id: one.config for id, one in tables.agents.items()},
        all(a is tables.agents[a.id] for t in tables.targets.values() for a in t.agents),
    )


ROUTES = (*CONFIG.routes, evolve(HOME, targets=WORK.targets), evolve(WORK, priority=-1))
agents = st.builds(
    agent, st.sampled_from("abc"), st.sampled_from(["home", "work"]), st.integers(1, 2)
)
configs = st.builds(
    Config,
    listeners=st.just(CONFIG.listeners),
    agents=st.lists(agents, unique_by=lambda one: one.id).map(tuple),
    routes=st.lists(st.sampled_from(ROUTES), unique_by=lambda one: one.id).map(tuple),
    templates=st.sampled_from(["hello", "bye"]).map(lambda body: (Template("page", body=body),)),
)


@settings(deadline=None)
@given(st.lists(configs, min_size=2, max_size=4))
def test_tables_mean_the_same_whatever_was_before(history: list[Config]) -> None:
    config, tables = history[0], Tables.compile(history[0])
    for one in history[1:]:
        before = meaning(tables)
        config = adopt(config, one)
        earlier, tables = tables, Tables.compile(config, tables)
        assert meaning(tables) == meaning(Tables.compile(one))
        assert meaning(earlier) == before  # a running request may still need them
