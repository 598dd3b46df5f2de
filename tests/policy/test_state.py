from __future__ import annotations

from p2pstream.config.model import Agent, AgentSelector, Config, Listener, Route, Target
from p2pstream.config.scalars import Origin
from p2pstream.policy.board import Board
from p2pstream.policy.state import GroupState, PathState
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")


def group(policy: str = "round_robin", inner: str = "round_robin") -> GroupState:
    """Two targets: `t` through agents a and b, `u` directly."""
    far = Target(
        name="t",
        url=ORIGIN,
        transport="agent",
        agent_selector=AgentSelector({"site": "home"}),
        agent_load_balancing=inner,  # type: ignore[arg-type]  # a plain str here
    )
    route = Route(
        id="r",
        listener_id="web",
        is_default=True,
        target_load_balancing=policy,  # type: ignore[arg-type]  # a plain str here
        targets=(far, Target(name="u", url=ORIGIN)),
    )
    agents = tuple(Agent(id=id, token_hash=(), labels={"site": "home"}) for id in "ab")
    tables = Tables.compile(
        Config(listeners=(Listener(id="web", port=80),), agents=agents, routes=(route,))
    )
    board = Board(tables)
    for id in "ab":
        board.agent_connected(id)
    [state] = board.state(tables.routes["r"]).groups
    return state


def test_a_target_leaves_its_group_with_its_last_path() -> None:
    state = group()
    target = state.targets[0]
    assert (target.usable, state.usable) == (0b11, 0b11)
    target.set(0, False)
    assert (target.usable, state.usable) == (0b10, 0b11)
    target.set(1, False)
    assert (target.usable, state.usable) == (0, 0b10)
    target.set(1, False)
    assert (target.usable, state.usable) == (0, 0b10)
    target.set(1, True)
    assert (target.usable, state.usable) == (0b10, 0b11)


def test_only_least_active_balancers_are_told_of_every_request() -> None:
    for policy, inner, told in [
        ("round_robin", "round_robin", [False, False]),
        ("round_robin", "least_active_requests", [True, False]),
        ("weighted_least_active_requests", "random", [True, True]),
    ]:
        assert [target.counts for target in group(policy, inner).targets] == told


def test_a_target_is_as_active_as_its_paths() -> None:
    target = group("least_active_requests").targets[0]
    first, second = target.paths
    first.acquire()
    first.acquire()
    second.acquire()
    first.release()
    assert (first.active, second.active, target.active) == (1, 1, 2)


def test_a_path_that_nobody_owns_counts_for_itself() -> None:
    owned = group().targets[1].paths[0]
    path = PathState(owned.key, owned.target, None)
    path.acquire()
    assert (path.active, owned.active) == (1, 0)
    path.release()
    assert path.active == 0
    assert repr(path) == "<path r/u/ unknown active=0>"
