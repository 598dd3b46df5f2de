"""The objects behind the board: paths, and the masks that requests read.

A `PathState` lives as long as its ids; the others belong to one compiled route and are made anew
with each configuration. Only `Board` changes them, but for the count of active requests.
"""

from __future__ import annotations

from typing import Any

from p2pstream.policy.balance import Balancer
from p2pstream.policy.compiled import (
    CompiledAgent,
    CompiledGroup,
    CompiledRoute,
    CompiledTarget,
    PathKey,
)
from p2pstream.policy.health import UNKNOWN, Health


class PathState:
    """One path: its health, and how many requests are active on it.

    `extra` belongs to the layers above (the last check's result and time, …) and survives with it.
    """

    __slots__ = (
        "active",
        "agent",
        "extra",
        "fit",
        "health",
        "key",
        "owner",
        "position",
        "target",
    )

    def __init__(self, key: PathKey, target: CompiledTarget, agent: CompiledAgent | None) -> None:
        self.key = key
        self.target = target
        self.agent = agent
        self.health: Health = UNKNOWN
        self.active = 0
        self.extra: Any = None
        self.fit = True  # `health.usable` at the last look
        self.owner: TargetState | None = None
        self.position = 0

    def acquire(self) -> None:
        """Count a request that was chosen for this path."""
        self.active += 1
        owner = self.owner
        if owner is not None and owner.counts:
            owner.moved(self.position, self.active, 1)

    def release(self) -> None:
        """Count its end."""
        self.active -= 1
        owner = self.owner
        if owner is not None and owner.counts:
            owner.moved(self.position, self.active, -1)

    def __repr__(self) -> str:
        return f"<path {'/'.join(self.key)} {self.health.status} active={self.active}>"


class TargetState:
    """A target's paths and the mask of those usable; a direct or static target has one path."""

    __slots__ = ("active", "balancer", "counts", "group", "paths", "target", "usable")

    def __init__(
        self, target: CompiledTarget, paths: list[PathState], balancer: Balancer | None
    ) -> None:
        self.target = target
        self.paths = paths
        self.balancer = balancer  # None where there is one path
        self.active = sum(path.active for path in paths)
        self.usable = 0
        self.group: GroupState  # set by the group
        self.counts = False

    def moved(self, position: int, active: int, by: int) -> None:
        """Tell the balancers that keep loads in order."""
        if self.balancer is not None:
            self.balancer.moved(position, active)
        self.active += by
        self.group.balancer.moved(self.target.position, self.active)

    def set(self, position: int, ok: bool) -> None:
        """Set or clear one path's bit, and the target's in its group."""
        bit = 1 << position
        self.usable = self.usable | bit if ok else self.usable & ~bit
        bit = 1 << self.target.position
        self.group.usable = self.group.usable | bit if self.usable else self.group.usable & ~bit


class GroupState:
    """A priority group's targets and the mask of those usable."""

    __slots__ = ("balancer", "group", "targets", "usable")

    def __init__(
        self, group: CompiledGroup, targets: list[TargetState], balancer: Balancer
    ) -> None:
        self.group = group
        self.targets = targets
        self.balancer = balancer
        self.usable = 0
        for state in targets:
            state.group = self
            inner = state.balancer
            state.counts = balancer.tracks_load or (inner is not None and inner.tracks_load)
            if state.usable:
                self.usable |= 1 << state.target.position


class RouteState:
    """A route's groups, lowest number first."""

    __slots__ = ("groups", "route")

    def __init__(self, route: CompiledRoute, groups: list[GroupState]) -> None:
        self.route = route
        self.groups = groups
