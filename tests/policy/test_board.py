from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    Config,
    HealthCheck,
    Listener,
    Route,
    Target,
)
from p2pstream.config.plan import adopt
from p2pstream.config.scalars import Origin
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.decide import Choice, choose
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")
OTHER = Origin.parse("http://127.0.0.1:9090")
CHECK = HealthCheck(unhealthy_threshold=1, healthy_threshold=1)


def agent(id: str, site: str = "home", **rest: object) -> Agent:
    return Agent(id=id, token_hash=(), labels={"site": site}, **rest)  # type: ignore[arg-type]


def direct(name: str, **rest: object) -> Target:
    return Target(name=name, url=ORIGIN, health_check=CHECK, **rest)  # type: ignore[arg-type]


def through(name: str, site: str = "home", **rest: object) -> Target:
    selector = AgentSelector({"site": site})
    return direct(name, transport="agent", agent_selector=selector, **rest)


def config(*targets: Target, agents: tuple[Agent, ...] = (), **rest: object) -> Config:
    route = Route(id="r", listener_id="web", is_default=True, targets=targets, **rest)  # type: ignore[arg-type]
    return Config(listeners=(Listener(id="web", port=80),), agents=agents, routes=(route,))


def board_of(one: Config) -> Board:
    return Board(Tables.compile(one))


def pick(board: Board, times: int = 1) -> list[str]:
    """Who serves, as `target` or `target/agent`; each request ends at once."""
    served = []
    for _ in range(times):
        choice = choose(board.tables.routes["r"], board, random.random)
        if choice is None:
            served.append("none")
        else:
            served.append("/".join(part for part in choice.path.key[1:] if part))
            choice.release()
    return served


def key(target: str, agent_id: str = "") -> PathKey:
    return PathKey("r", target, agent_id)


# --- agents -------------------------------------------------------------------------------------


def test_an_agent_is_a_candidate_from_its_connection_to_its_loss() -> None:
    board = board_of(config(through("t"), agents=(agent("a"), agent("b"))))
    assert pick(board) == ["none"]
    board.agent_connected("a")
    assert pick(board, 2) == ["t/a", "t/a"]
    board.agent_connected("b")
    assert set(pick(board, 2)) == {"t/a", "t/b"}
    board.agent_disconnected("a")
    assert pick(board, 2) == ["t/b", "t/b"]
    assert board.path(key("t", "a")).health.status == "disconnected"
    board.agent_connected("a")
    assert board.path(key("t", "a")).health.status == "unknown"
    assert board.connected == {"a", "b"}


def test_an_agent_that_leaves_gets_nothing_new_until_it_connects_again() -> None:
    board = board_of(config(through("t"), agents=(agent("a"),)))
    board.agent_leaving("a")
    assert not board.is_leaving("a")
    board.agent_connected("a")
    board.agent_leaving("a")
    assert board.is_leaving("a")
    assert pick(board) == ["none"]
    assert board.obstacle(board.path(key("t", "a"))) == "draining"
    board.agent_connected("a")
    assert pick(board) == ["t/a"]


@pytest.mark.parametrize(("change", "why"), [("drain", "draining"), ("enabled", "disabled")])
def test_the_file_takes_an_agent_out(change: str, why: str) -> None:
    out = agent("a", drain=change == "drain", enabled=change != "enabled")
    board = board_of(config(through("t"), agents=(out, agent("b"))))
    board.agent_connected("a")
    board.agent_connected("b")
    assert pick(board, 2) == ["t/b", "t/b"]
    assert board.obstacle(board.path(key("t", "a"))) == why


def test_strangers_may_connect() -> None:
    board = board_of(config(direct("t")))
    board.agent_connected("nobody")
    board.agent_disconnected("nobody")
    assert pick(board) == ["t"]


# --- health -------------------------------------------------------------------------------------


def test_an_unhealthy_path_is_not_used() -> None:
    board = board_of(config(through("t"), agents=(agent("a"), agent("b"))))
    board.agent_connected("a")
    board.agent_connected("b")
    path = board.path(key("t", "a"))
    assert board.report(path, "failed", 1.0).status == "unknown"
    assert pick(board, 2) == ["t/b", "t/b"]
    board.report(path, "passed", 2.0)
    assert set(pick(board, 2)) == {"t/a", "t/b"}


def test_a_cooldown_ends_when_the_sweep_sees_it() -> None:
    board = board_of(config(direct("t"), direct("u")))
    assert board.expire(0.0) is None
    board.report(board.path(key("t")), "refused", 100.0)
    board.report(board.path(key("u")), "refused", 110.0)
    assert pick(board) == ["none"]
    assert board.obstacle(board.path(key("t"))) == "cooldown"
    assert board.expire(129.0) == 130.0
    assert pick(board) == ["none"]
    assert board.expire(130.0) == 140.0
    assert pick(board, 2) == ["t", "t"]
    assert board.expire(200.0) is None
    assert set(pick(board, 2)) == {"t", "u"}


def test_a_passed_check_ends_a_cooldown_at_once() -> None:
    board = board_of(config(direct("t")))
    path = board.path(key("t"))
    board.report(path, "refused", 100.0)
    board.report(path, "passed", 101.0)
    assert pick(board) == ["t"]
    board.report(path, "refused", 102.0)
    # The first cooldown's end must not end the second.
    assert board.expire(131.0) == 132.0
    assert pick(board) == ["none"]


def test_a_path_that_does_not_exist_is_a_key_error() -> None:
    board = board_of(config(direct("t"), through("u"), agents=(agent("a"), agent("b", "work"))))
    for wrong in (key("x"), key("t", "a"), key("u"), key("u", "b"), PathKey("x", "t", "")):
        with pytest.raises(KeyError):
            board.path(wrong)


# --- reload -------------------------------------------------------------------------------------


def test_a_reload_that_changes_nothing_keeps_everything() -> None:
    one = config(
        through("t"),
        direct("u"),
        agents=(agent("a"), agent("b")),
        target_load_balancing="round_robin",
    )
    board = board_of(one)
    for id in ("a", "b"):
        board.agent_connected(id)
    board.report(board.path(key("u")), "passed", 1.0)
    before = dict(board.paths)
    assert pick(board) == ["t/a"]
    board.rebind(Tables.compile(one))
    # Nothing that survives holds on to the configuration before.
    assert all(path.owner is None for path in board.paths.values())
    assert pick(board, 3) == ["u", "t/b", "u"]
    assert dict(board.paths) == before
    assert board.path(key("u")).health.status == "healthy"


@pytest.mark.parametrize(
    ("changed", "survives"),
    [
        ({}, True),
        ({"weight": 7}, True),
        ({"priority_group": 3}, True),
        ({"drain": True}, True),
        ({"url": OTHER}, False),
        ({"health_check": evolve(CHECK, path="/up")}, False),
        ({"health_check": None}, False),
        ({"name": "other"}, False),
    ],
)
def test_health_survives_unless_url_or_check_changed(
    changed: dict[str, object], survives: bool
) -> None:
    board = board_of(config(direct("t")))
    board.report(board.path(key("t")), "failed", 1.0)
    target = evolve(direct("t"), **changed)  # type: ignore[arg-type]  # fields of a target
    board.rebind(Tables.compile(config(target)))
    expected = "unhealthy" if survives else "unknown"
    assert board.path(key(target.name)).health.status == expected
    assert set(board.paths) == {key(target.name)}


def test_a_path_goes_with_its_route_and_with_the_labels_of_its_agent() -> None:
    board = board_of(config(through("t"), agents=(agent("a"), agent("b"))))
    for id in ("a", "b"):
        board.agent_connected(id)
        board.report(board.path(key("t", id)), "failed", 1.0)
    board.rebind(Tables.compile(config(through("t"), agents=(agent("a", "work"), agent("b")))))
    assert set(board.paths) == {key("t", "b")}
    board.rebind(Tables.compile(config(through("t"), agents=(agent("a"), agent("b")))))
    # The next request goes to the agent whose label came back, with what is known of it: nothing.
    assert pick(board) == ["t/a"]
    board.rebind(Tables.compile(Config()))
    assert not board.paths


def test_disabling_and_enabling_by_reload() -> None:
    board = board_of(config(direct("t")))
    path = board.path(key("t"))
    board.report(path, "failed", 1.0)
    board.rebind(Tables.compile(config(direct("t", enabled=False))))
    assert (pick(board), path.health.status) == (["none"], "disabled")
    board.rebind(Tables.compile(config(direct("t"))))
    assert (pick(board), path.health.status) == (["t"], "unknown")
    assert board.path(key("t")) is path


def test_active_requests_are_counted_across_a_reload() -> None:
    one = config(direct("t"), direct("u"), target_load_balancing="least_active_requests")
    board = board_of(one)
    choices = [choose(board.tables.routes["r"], board, random.random) for _ in range(3)]
    assert [choice.target.name for choice in choices if choice] == ["t", "u", "t"]
    # In another order: counts go by name.
    two = config(direct("u"), direct("t"), target_load_balancing="least_active_requests")
    board.rebind(Tables.compile(two))
    assert pick(board, 2) == ["u", "u"]
    for choice in choices:
        assert choice
        choice.release()
        choice.release()
    assert [path.active for path in board.paths.values()] == [0, 0]


def test_a_request_of_the_old_configuration_ends_on_it() -> None:
    old = config(direct("t"), through("u", "home"), agents=(agent("a"), agent("b")))
    board = board_of(old)
    for id in ("a", "b"):
        board.agent_connected(id)
    route = board.tables.routes["r"]
    first = choose(route, board, random.random)
    assert first
    new = config(through("u", "home", weight=3), agents=(agent("b", name="renamed"),))
    board.rebind(Tables.compile(new))
    current = board.state(board.tables.routes["r"])
    second = choose(route, board, random.random, [(first.target, first.agent)])
    assert second
    assert second.target is route.targets[1]
    assert second.agent in route.targets[1].agents
    # What it does is seen by the new configuration where the path survived, and leaves no trace
    # where it did not.
    board.agent_disconnected("a")
    third = choose(route, board, random.random, [(first.target, None)])
    assert third
    assert third.path is board.paths[key("u", "b")]
    assert third.agent is route.targets[1].agents[1]
    assert set(board.paths) == {key("u", "b")}
    assert board.state(board.tables.routes["r"]) is current
    board.agent_disconnected("b")
    assert current.groups[0].usable == 0
    for choice in (first, second, third):
        choice.release()
    assert board.paths[key("u", "b")].active == 0


def test_a_route_that_did_not_change_keeps_all_it_has() -> None:
    old = config(direct("t"), through("u"), agents=(agent("a"),))
    other = evolve(old.routes[0], id="s", is_default=False, path_prefix="/s")
    old = evolve(old, routes=(*old.routes, other))
    board = board_of(old)
    states = [board.state(route) for route in board.tables.routes.values()]
    new = evolve(old, routes=(old.routes[0], evolve(other, targets=other.targets[:1])))
    replaced = board.rebind(Tables.compile(new, board.tables))
    assert replaced == states[1].groups[0].targets
    assert board.state(board.tables.routes["r"]) is states[0]
    assert {(path.key.route_id, path.key.target_name) for path in board.paths.values()} == {
        ("r", "t"),
        ("r", "u"),
        ("s", "t"),
    }
    board.agent_connected("a")
    assert pick(board, 2) == ["t", "u/a"]
    # Another weight of the agent makes another selection of it: what refers to it is bound anew.
    heavier = evolve(new, agents=(agent("a", weight=7),))
    replaced = board.rebind(Tables.compile(heavier, board.tables))
    assert replaced == states[0].groups[0].targets
    assert pick(board, 2) == ["t", "u/a"]


# --- the masks against the truth ----------------------------------------------------------------

AGENT_IDS = ("a", "b", "c")
TARGETS = st.lists(
    st.builds(
        lambda name, group, weight, kind, site, enabled, drain, policy: evolve(
            through(name, site) if kind else direct(name),
            priority_group=group,
            weight=weight,
            enabled=enabled,
            drain=drain,
            agent_load_balancing=policy,
        ),
        st.sampled_from("tuvw"),
        st.integers(0, 1),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from(["home", "work"]),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from(["round_robin", "least_active_requests", "weighted_round_robin"]),
    ),
    max_size=4,
    unique_by=lambda target: target.name,
)
CONFIGS = st.builds(
    lambda targets, agents, policy: config(
        *targets, agents=tuple(agents), target_load_balancing=policy
    ),
    TARGETS,
    st.lists(
        st.builds(
            lambda id, site, enabled, drain: agent(id, site, enabled=enabled, drain=drain),
            st.sampled_from(AGENT_IDS),
            st.sampled_from(["home", "work"]),
            st.sampled_from([True, True, False]),
            st.sampled_from([False, False, True]),
        ),
        max_size=3,
        unique_by=lambda one: one.id,
    ),
    st.sampled_from(["round_robin", "weighted_least_active_requests", "weighted_random"]),
)


class Boards(RuleBasedStateMachine):
    """Any sequence of what can happen, against a model made of plain sets and counts."""

    @initialize(one=CONFIGS)
    def start(self, one: Config) -> None:
        self.config = one
        self.board = board_of(one)
        self.connected: set[str] = set()
        self.leaving: set[str] = set()
        self.running: list[Choice] = []
        self.now = 0.0

    @rule(id=st.sampled_from(AGENT_IDS))
    def connect(self, id: str) -> None:
        self.board.agent_connected(id)
        self.connected.add(id)
        self.leaving.discard(id)

    @rule(id=st.sampled_from(AGENT_IDS))
    def disconnect(self, id: str) -> None:
        self.board.agent_disconnected(id)
        self.connected.discard(id)
        self.leaving.discard(id)

    @rule(id=st.sampled_from(AGENT_IDS))
    def leave(self, id: str) -> None:
        self.board.agent_leaving(id)
        self.leaving |= {id} & self.connected

    @rule(data=st.data(), verdict=st.sampled_from(["passed", "failed", "refused", "answered"]))
    def report(self, data: st.DataObject, verdict: str) -> None:
        if self.board.paths:
            path = data.draw(st.sampled_from(sorted(self.board.paths)))
            self.board.report(self.board.paths[path], verdict, self.now)  # type: ignore[arg-type]

    @rule(seconds=st.sampled_from([1.0, 29.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def request(self) -> None:
        choice = choose(self.board.tables.routes["r"], self.board, random.Random(1).random)
        if choice is not None:
            self.running.append(choice)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            position = data.draw(st.integers(0, len(self.running) - 1))
            self.running.pop(position).release()

    @rule(one=CONFIGS, anew=st.booleans(), same_routes=st.booleans())
    def reload(self, one: Config, anew: bool, same_routes: bool) -> None:
        if same_routes:
            one = evolve(one, routes=self.config.routes)
        self.config = one = adopt(self.config, one)
        kept = {
            k: (path, path.health) for k, path in self.board.paths.items() if self._survives(one, k)
        }
        self.board.rebind(Tables.compile(one, None if anew else self.board.tables))
        assert set(self.board.paths) == set(kept)
        for k, (path, health) in kept.items():
            assert self.board.paths[k] is path
            if path.health is not health:
                assert "disabled" in (health.status, path.health.status)

    def _survives(self, one: Config, k: PathKey) -> bool:
        old = self.board.paths[k].target.config
        for target in one.routes[0].targets:
            if target.name == k.target_name and target.transport == old.transport:
                site = target.agent_selector.match_labels["site"] if target.agent_selector else None
                return site is None or any(
                    a.id == k.agent_id and a.labels["site"] == site for a in one.agents
                )
        return False

    def _usable(self, target: Target, k: PathKey) -> bool:
        if not target.enabled or target.drain:
            return False
        if k.agent_id:
            one = self.board.tables.agents[k.agent_id].config
            if not one.enabled or one.drain or one.id in self.leaving:
                return False
            if one.id not in self.connected:
                return False
        health = self.board.paths[k].health
        return health.status in ("unknown", "healthy") and self.now >= health.cooldown_until

    @invariant()
    def masks_are_the_truth(self) -> None:
        next_end = self.board.expire(self.now)
        assert next_end is None or next_end > self.now
        state = self.board.state(self.board.tables.routes["r"])
        for group in state.groups:
            usable_targets = 0
            for number, target in enumerate(group.targets):
                keys = [path.key for path in target.paths]
                bits = [self._usable(target.target.config, k) for k in keys]
                assert target.usable == sum(bit << position for position, bit in enumerate(bits))
                usable_targets |= any(bits) << number
            assert group.usable == usable_targets

    @invariant()
    def active_is_what_runs(self) -> None:
        running = {id(path): 0 for path in self.board.paths.values()}
        for choice in self.running:
            running[id(choice.path)] = running.get(id(choice.path), 0) + 1
        for path in self.board.paths.values():
            assert path.active == running[id(path)]

    @invariant()
    def health_says_disconnected_and_disabled_as_it_is(self) -> None:
        for path in self.board.paths.values():
            agent_config = None if path.agent is None else path.agent.config
            disabled = not path.target.enabled or (agent_config and not agent_config.enabled)
            assert (path.health.status == "disabled") == bool(disabled)
            if not disabled and agent_config:
                gone = agent_config.id not in self.connected
                assert (path.health.status == "disconnected") == gone


TestBoards = Boards.TestCase
TestBoards.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def every_route_state(board: Board) -> Iterator[int]:
    for route in board.tables.routes.values():
        yield from (group.usable for group in board.state(route).groups)


def test_one_agent_serves_many_routes() -> None:
    routes = tuple(
        Route(id=f"r{number}", listener_id="web", path_prefix=f"/{number}", targets=(through("t"),))
        for number in range(5)
    )
    one = Config(listeners=(Listener(id="web", port=80),), agents=(agent("a"),), routes=routes)
    board = board_of(one)
    assert list(every_route_state(board)) == [0] * 5
    board.agent_connected("a")
    assert list(every_route_state(board)) == [1] * 5
    board.agent_disconnected("a")
    assert list(every_route_state(board)) == [0] * 5
