"""Which target and which agent serve a request: the one decision that live traffic, `explain`,
`expectations` and traces share (spec §6).

Rule 1  The lowest priority group with a usable target serves; nothing of a higher one does, not
        even as a second attempt. A group that the first attempt's failure left without a usable
        target (its cooldown began) counts as having none.
Rule 2  What was tried in this request is not tried again: a direct target, or one agent of an
        agent target; the target itself once each of its usable agents was tried.
Rule 3  A chosen path counts as active at once, before anything is awaited.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

from p2pstream.policy.balance import Random
from p2pstream.policy.board import Board, Obstacle
from p2pstream.policy.compiled import CompiledAgent, CompiledRoute, CompiledTarget
from p2pstream.policy.state import GroupState, PathState, RouteState, TargetState

Reason = Literal[Obstacle, "no_agent", "no_usable_agent", "other_group", "tried"]

# One that failed before in this request, without any of it having been sent.
Tried = tuple[CompiledTarget, CompiledAgent | None]


class Skipped(NamedTuple):
    """A candidate that was not in the running, and why; `agent` is `""` for the target itself."""

    group: int
    target: str
    agent: str
    reason: Reason


class Choice:
    """What serves a request. It counts as active on its path until `release`."""

    __slots__ = ("_held", "agent", "path", "target")

    def __init__(
        self, target: CompiledTarget, agent: CompiledAgent | None, path: PathState
    ) -> None:
        self.target = target
        self.agent = agent
        self.path = path
        self._held = True

    def release(self) -> None:
        """End the request for the balancers; a second call does nothing."""
        if self._held:
            self._held = False
            self.path.release()

    def __repr__(self) -> str:
        return f"<choice {'/'.join(self.path.key)}>"


def choose(
    route: CompiledRoute,
    board: Board,
    random: Random,
    tried: Collection[Tried] = (),
    trail: list[Skipped] | None = None,
) -> Choice | None:
    """Choose a target, then an agent, and count the request there; None if nothing is usable.

    `random` gives floats in [0, 1). With a `trail`, every candidate that was not in the running is
    appended to it in the order of groups and of the file.
    """
    state = board.state(route)
    for group in state.groups:
        targets = group.usable
        if targets:
            break
    else:
        if trail is not None:
            trail += skipped(board, state, tried)
        return None
    if trail is not None:
        trail += skipped(board, state, tried)
    again = bool(tried)
    if again:
        targets = left_targets(group, tried)
        if not targets:
            return None
    chosen = group.targets[group.balancer.pick(targets, random, again)]
    target, balancer = chosen.target, chosen.balancer
    if balancer is None:
        agent, path = None, chosen.paths[0]
    else:
        agents = left_agents(chosen, tried) if again else chosen.usable
        position = balancer.pick(agents, random, again)
        # Not the path's own: that may belong to a later configuration than the request's.
        agent, path = target.agents[position], chosen.paths[position]
    path.acquire()
    return Choice(target, agent, path)


def serving_group(state: RouteState) -> GroupState | None:
    """Return the group that serves now."""
    return next((group for group in state.groups if group.usable), None)


def left_targets(group: GroupState, tried: Collection[Tried]) -> int:
    """Return the mask of a group's usable targets that have something left to try."""
    mask = group.usable
    for position in {target.position for target, _ in tried}:
        if mask >> position & 1 and not left_agents(group.targets[position], tried):
            mask &= ~(1 << position)
    return mask


def left_agents(state: TargetState, tried: Collection[Tried]) -> int:
    """Return the mask of a target's usable paths that were not tried."""
    mask = state.usable
    for target, agent in tried:
        if target is state.target:
            mask &= ~(1 << (0 if agent is None else target.agents.index(agent)))
    return mask


def skipped(board: Board, state: RouteState, tried: Collection[Tried] = ()) -> list[Skipped]:
    """Return every candidate of a route that is not in the running now, and why."""
    serving = serving_group(state)
    found: list[Skipped] = []
    for group in state.groups:
        for target in group.targets:
            found += _skipped_of(board, group, target, tried, group is serving)
    return found


def _skipped_of(
    board: Board, group: GroupState, state: TargetState, tried: Collection[Tried], serving: bool
) -> list[Skipped]:
    number, name = group.group.number, state.target.name
    left = left_agents(state, tried)
    agents = []
    for position, path in enumerate(state.paths):
        if not left >> position & 1:
            reason: Reason = board.obstacle(path) or "tried"
            agents.append(Skipped(number, name, path.key.agent_id, reason))
    if left:
        return agents if serving else [Skipped(number, name, "", "other_group"), *agents]
    if state.target.selection is None:
        return agents
    if not state.target.open:
        return [Skipped(number, name, "", "draining" if state.target.enabled else "disabled")]
    return [Skipped(number, name, "", "no_usable_agent" if agents else "no_agent"), *agents]
