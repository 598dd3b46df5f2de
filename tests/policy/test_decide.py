from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    Config,
    HealthCheck,
    Listener,
    Route,
    Target,
)
from p2pstream.config.scalars import AGENT_ID_LABEL, Origin
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.decide import Choice, Skipped, Tried, choose
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")
CHECK = HealthCheck(unhealthy_threshold=1)
POLICIES = st.sampled_from(
    [
        "round_robin",
        "weighted_round_robin",
        "random",
        "weighted_random",
        "least_active_requests",
        "weighted_least_active_requests",
    ]
)


def direct(name: str, group: int = 0, **rest: object) -> Target:
    return Target(name=name, url=ORIGIN, priority_group=group, health_check=CHECK, **rest)  # type: ignore[arg-type]


def static(name: str, group: int = 0) -> Target:
    return Target(name=name, target_type="static", priority_group=group)


def through(
    name: str, group: int = 0, labels: dict[str, str] | None = None, **rest: object
) -> Target:
    selector = AgentSelector({"site": "home"} if labels is None else labels)
    return direct(name, group, transport="agent", agent_selector=selector, **rest)


class World:
    """A board with one route `r`, and requests to it."""

    def __init__(self, *targets: Target, agents: str = "", **route: object) -> None:
        one = Route(id="r", listener_id="web", is_default=True, targets=targets, **route)  # type: ignore[arg-type]
        self.tables = Tables.compile(
            Config(
                listeners=(Listener(id="web", port=80),),
                agents=tuple(
                    Agent(id=id, token_hash=(), labels={"site": "home"}, weight=number + 1)
                    for number, id in enumerate(agents)
                ),
                routes=(one,),
            )
        )
        self.route = self.tables.routes["r"]
        self.board = Board(self.tables)
        for id in agents:
            self.board.agent_connected(id)

    def choose(self, *tried: Tried, trail: list[Skipped] | None = None) -> Choice | None:
        return choose(self.route, self.board, random.Random(3).random, tried, trail)

    def name(self, *tried: Tried) -> str:
        choice = self.choose(*tried)
        if choice is None:
            return "none"
        choice.release()
        return (
            choice.target.name
            if choice.agent is None
            else f"{choice.target.name}/{choice.agent.id}"
        )

    def fail(self, target: str, agent: str = "") -> None:
        self.board.report(self.board.path(PathKey("r", target, agent)), "failed", 1.0)

    def heal(self, target: str, agent: str = "") -> None:
        path = self.board.path(PathKey("r", target, agent))
        for _ in range(CHECK.healthy_threshold):
            self.board.report(path, "passed", 2.0)


# --- groups -------------------------------------------------------------------------------------


def test_the_lowest_group_with_a_usable_target_serves_alone() -> None:
    world = World(direct("a", 0), direct("b", 0), direct("c", 1), static("page", 7))
    assert {world.name() for _ in range(6)} == {"a", "b"}
    world.fail("a")
    assert {world.name() for _ in range(6)} == {"b"}
    world.fail("b")
    assert {world.name() for _ in range(6)} == {"c"}
    world.fail("c")
    assert {world.name() for _ in range(6)} == {"page"}
    world.heal("b")
    assert {world.name() for _ in range(6)} == {"b"}


def test_groups_are_ordered_by_number_not_by_the_file() -> None:
    assert World(direct("a", 9), direct("b", 2)).name() == "b"


def test_nothing_usable_is_none() -> None:
    assert World(direct("a", enabled=False), direct("b", drain=True)).name() == "none"
    assert World(through("a")).name() == "none"


def test_an_agent_target_is_usable_as_long_as_one_path_is() -> None:
    world = World(through("t", 0), static("page", 1), agents="xy")
    world.fail("t", "x")
    assert {world.name() for _ in range(4)} == {"t/y"}
    world.fail("t", "y")
    assert world.name() == "page"
    world.board.agent_connected("x")
    assert world.name() == "t/x"


def test_the_agent_id_label_pins() -> None:
    world = World(through("t", labels={AGENT_ID_LABEL: "y"}), agents="xyz")
    assert {world.name() for _ in range(4)} == {"t/y"}


def test_unhealthy_through_one_target_says_nothing_of_another() -> None:
    world = World(through("t", 0), through("u", 1), agents="x")
    world.fail("t", "x")
    assert world.name() == "u/x"


# --- both levels --------------------------------------------------------------------------------


def test_both_levels_balance_by_their_own_policy() -> None:
    world = World(
        through("t", weight=3, agent_load_balancing="weighted_round_robin"),
        direct("u", weight=1),
        agents="xyz",
        target_load_balancing="weighted_round_robin",
    )
    counted = Counter(world.name() for _ in range(48))
    assert counted == {"t/x": 6, "t/y": 12, "t/z": 18, "u": 12}


@pytest.mark.parametrize("level", ["targets", "agents"])
def test_a_request_is_active_from_its_choice_to_its_release(level: str) -> None:
    if level == "targets":
        world = World(direct("a"), direct("b"), target_load_balancing="least_active_requests")
    else:
        world = World(through("t", agent_load_balancing="least_active_requests"), agents="ab")
    running = [world.choose() for _ in range(2)]
    paths = [choice.path for choice in running if choice]
    assert [path.active for path in paths] == [1, 1]
    assert paths[0] is not paths[1]
    assert running[1] is not None
    running[1].release()
    running[1].release()
    assert [path.active for path in paths] == [1, 0]
    for _ in range(3):
        choice = world.choose()
        assert choice
        assert choice.path is paths[1]
        choice.release()


def test_least_active_targets_count_all_agents_of_a_target() -> None:
    world = World(
        through("t"), direct("u"), agents="xy", target_load_balancing="least_active_requests"
    )
    names = [choice.target.name for choice in (world.choose() for _ in range(6)) if choice]
    assert Counter(names) == {"t": 3, "u": 3}


# --- second attempts ----------------------------------------------------------------------------


def test_what_was_tried_is_not_tried_again() -> None:
    world = World(direct("a"), direct("b"), direct("c"))
    tried: list[Tried] = []
    names = []
    for _ in range(3):
        choice = world.choose(*tried)
        assert choice
        names.append(choice.target.name)
        tried.append((choice.target, choice.agent))
        choice.release()
    assert sorted(names) == ["a", "b", "c"]
    assert world.choose(*tried) is None


def test_a_tried_agent_leaves_the_targets_other_agents() -> None:
    world = World(through("t"), agents="xyz")
    tried: list[Tried] = []
    names = []
    for _ in range(3):
        choice = world.choose(*tried)
        assert choice
        names.append(choice.path.key.agent_id)
        tried.append((choice.target, choice.agent))
        choice.release()
    assert sorted(names) == ["x", "y", "z"]
    assert world.choose(*tried) is None


def test_a_second_attempt_stays_in_the_group_that_serves() -> None:
    """Group 1 serves only while nothing in group 0 is usable."""
    world = World(direct("a", 0), direct("b", 1))
    first = world.choose()
    assert first
    assert world.choose((first.target, None)) is None
    # With health checks on, the refused connect has made the group empty: the next one serves.
    world.board.report(first.path, "refused", 5.0)
    assert world.name((first.target, None)) == "b"


def test_a_target_that_always_refuses_spreads_over_the_others() -> None:
    world = World(direct("a"), direct("b"), direct("c"))
    served = Counter[str]()
    for _ in range(60):
        choice = world.choose()
        assert choice
        choice.release()
        if choice.target.name == "b":
            choice = world.choose((choice.target, None))
            assert choice
            choice.release()
        served[choice.target.name] += 1
    assert served == {"a": 30, "c": 30}


# --- the trail ----------------------------------------------------------------------------------


def test_the_trail_names_every_candidate_that_was_not_in_the_running() -> None:
    world = World(
        direct("off", enabled=False),
        direct("draining", drain=True),
        direct("bad"),
        direct("tired"),
        through("t"),
        through("nobody", labels={"site": "moon"}),
        through("gone", labels={AGENT_ID_LABEL: "z"}),
        direct("fine"),
        direct("backup", 1),
        direct("ill-backup", 1),
        agents="wxyz",
    )
    world.fail("bad")
    world.fail("t", "w")
    world.fail("ill-backup")
    world.board.report(world.board.path(PathKey("r", "tired", "")), "refused", 1.0)
    world.board.agent_leaving("x")
    world.board.agent_disconnected("z")
    trail: list[Skipped] = []
    tried = (world.tables.targets["r", "fine"], None)
    choice = world.choose(tried, trail=trail)
    assert choice
    assert choice.path.key == ("r", "t", "y")
    assert trail == [
        (0, "off", "", "disabled"),
        (0, "draining", "", "draining"),
        (0, "bad", "", "unhealthy"),
        (0, "tired", "", "cooldown"),
        (0, "t", "w", "unhealthy"),
        (0, "t", "x", "draining"),
        (0, "t", "z", "disconnected"),
        (0, "nobody", "", "no_agent"),
        (0, "gone", "", "no_usable_agent"),
        (0, "gone", "z", "disconnected"),
        (0, "fine", "", "tried"),
        (1, "backup", "", "other_group"),
        (1, "ill-backup", "", "unhealthy"),
    ]


def test_the_trail_tells_why_nothing_was_chosen() -> None:
    world = World(through("t"), direct("u", 1, enabled=False), agents="x")
    world.board.agent_disconnected("x")
    trail: list[Skipped] = []
    assert world.choose(trail=trail) is None
    assert trail == [
        (0, "t", "", "no_usable_agent"),
        (0, "t", "x", "disconnected"),
        (1, "u", "", "disabled"),
    ]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 2), st.booleans(), POLICIES), min_size=1, max_size=5
    ),
    POLICIES,
    st.sets(st.sampled_from("xyz")),
    st.data(),
)
def test_whatever_was_skipped_is_not_chosen_and_whatever_was_not_can_be(
    specs: list[tuple[bool, int, bool, str]], policy: str, up: set[str], data: st.DataObject
) -> None:
    targets = [
        (through if agents else direct)(f"t{n}", group, enabled=on, agent_load_balancing=inner)
        for n, (agents, group, on, inner) in enumerate(specs)
    ]
    world = World(*targets, agents="xyz", target_load_balancing=policy)
    for id in sorted(set("xyz") - up):
        world.board.agent_disconnected(id)
    for path in list(world.board.paths.values()):
        if data.draw(st.integers(0, 3)) == 0:
            world.board.report(path, "failed", 1.0)
    every = {
        (target.name, agent.id if agent else "")
        for target in world.route.targets
        for agent in (target.agents or (None,))
    }
    tried: list[Tried] = []
    for _ in range(len(every) + 1):
        trail: list[Skipped] = []
        choice = world.choose(*tried, trail=trail)
        out = {(one.target, one.agent) for one in trail}
        whole = {one.target for one in trail if not one.agent}
        left = {path for path in every if path not in out and path[0] not in whole}
        assert (choice is None) == (not left)
        if choice is None:
            break
        assert choice.path.key[1:] in left
        choice.release()
        tried.append((choice.target, choice.agent))
    else:
        pytest.fail("something was tried twice")
    assert all(path.active == 0 for path in world.board.paths.values())
