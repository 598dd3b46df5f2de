"""Configuration as requests meet it: everything that can be worked out at reload, worked out.

One set of these is made per configuration and never changed, but for the slot `extra`, which
belongs to the layer above (joined header blocks, pools, …) and is filled before the set is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from p2pstream.config.model import Agent, Balancing, HealthCheck, Route, Target
from p2pstream.policy.path import split_prefix
from p2pstream.policy.redirect import Redirect

Kind = Literal["static", "direct", "agent"]


class PathKey(NamedTuple):
    """What names a path (a target, seen from one agent) across reloads; no agent is `""`."""

    route_id: str
    target_name: str
    agent_id: str


# What has a turn of its own: a route's id with a group's number or a target's name.
TurnKey = tuple[str, int | str]


class CompiledAgent:
    """One agent of the file."""

    __slots__ = ("config", "extra", "id")

    def __init__(self, config: Agent) -> None:
        self.config = config
        self.id = config.id
        self.extra: Any = None

    def __repr__(self) -> str:
        return f"<agent {self.id}>"


class Selection:
    """The agents one selector means, in order of id; a path's bit is its agent's position."""

    __slots__ = ("agents", "names", "position", "weights")

    def __init__(self, agents: Iterable[CompiledAgent]) -> None:
        self.agents = tuple(agents)
        self.names = tuple(agent.id for agent in self.agents)
        self.weights = tuple(agent.config.weight for agent in self.agents)
        self.position = {agent_id: position for position, agent_id in enumerate(self.names)}


class CompiledTarget:
    """One target of a route; `agents` are those its selector means, in order of id.

    `position` is its bit in its group's masks. `enabled`: it and its route are. `open`: enabled
    and not draining. `rules` are the
    health rules in force, None without health checks. `identity` is what must stay the same for
    health to survive a reload (spec §7).
    """

    __slots__ = (
        "agents",
        "config",
        "enabled",
        "extra",
        "group",
        "identity",
        "kind",
        "name",
        "open",
        "policy",
        "position",
        "route_id",
        "rules",
        "selection",
    )

    def __init__(self, route: Route, config: Target, selection: Selection | None) -> None:
        self.route_id = route.id
        self.config = config
        self.name = config.name
        self.kind: Kind = (
            "static"
            if config.target_type == "static"
            else "direct"
            if selection is None
            else "agent"
        )
        self.selection = selection
        self.agents = () if selection is None else selection.agents
        self.enabled = route.enabled and config.enabled
        self.open = self.enabled and not config.drain
        check = config.health_check
        self.rules: HealthCheck | None = (
            check if check is not None and check.enabled and self.kind != "static" else None
        )
        self.policy: Balancing = config.agent_load_balancing
        self.group = config.priority_group
        url = config.url
        origin = None if url is None else (url.scheme, url.host, url.port)
        self.identity = (self.kind, origin, check)
        self.position = 0
        self.extra: Any = None

    def __repr__(self) -> str:
        return f"<target {self.route_id}/{self.name}>"


class CompiledGroup:
    """The targets of a route that share a `priority_group`, in the order of the file."""

    __slots__ = ("names", "number", "policy", "targets", "weights")

    def __init__(self, number: int, policy: Balancing, targets: tuple[CompiledTarget, ...]) -> None:
        self.number = number
        self.policy = policy
        self.targets = targets
        self.names = tuple(target.name for target in targets)
        self.weights = tuple(target.config.weight for target in targets)
        for position, target in enumerate(targets):
            target.position = position


class CompiledRoute:
    """One route: its groups, lowest number first, or its redirect.

    `strict`: `%2F` and `%5C` are refused. `targets` are in the order of the file. `prefix` is
    `path_prefix` as `split_prefix` gives it; without one, no segments.
    """

    __slots__ = (
        "config",
        "extra",
        "groups",
        "id",
        "listener_id",
        "prefix",
        "redirect",
        "strict",
        "targets",
    )

    def __init__(self, config: Route, targets: tuple[CompiledTarget, ...]) -> None:
        self.config = config
        self.id = config.id
        self.listener_id = config.listener_id
        prefix = config.path_prefix
        self.prefix: tuple[list[bytes], bool] = (
            ([], False) if prefix is None else split_prefix(prefix)
        )
        self.strict = config.path_security_mode == "strict"
        self.redirect = Redirect(config) if config.action == "redirect" else None
        self.targets = targets
        self.groups = tuple(
            CompiledGroup(
                number,
                config.target_load_balancing,
                tuple(target for target in targets if target.group == number),
            )
            for number in sorted({target.group for target in targets})
        )
        self.extra: Any = None

    def turns(self) -> set[TurnKey]:
        """All that can have a turn of its own here."""
        names = {target.name for target in self.targets}
        return {(self.id, one) for one in names.union(group.number for group in self.groups)}

    def __repr__(self) -> str:
        return f"<route {self.id}>"
