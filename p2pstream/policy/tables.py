"""Everything compiled from one configuration, by id; a reload swaps it whole."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from p2pstream.config.model import Config
from p2pstream.policy.compiled import CompiledAgent, CompiledRoute, CompiledTarget
from p2pstream.policy.route import RouteTable
from p2pstream.policy.select import LabelIndex

# What has a turn of its own: a route's id with a group's number or a target's name.
TurnKey = tuple[str, int | str]


@frozen(eq=False)
class Tables:
    """`listeners` are the route tables by listener id; disabled routes stand only in `routes`."""

    listeners: Mapping[str, RouteTable]
    routes: Mapping[str, CompiledRoute]
    targets: Mapping[tuple[str, str], CompiledTarget]
    turns: frozenset[TurnKey]
    agents: Mapping[str, CompiledAgent]

    @classmethod
    def compile(cls, config: Config) -> Tables:
        """Work out what a checked configuration means; nothing here can be at fault."""
        agents = {agent.id: CompiledAgent(agent) for agent in config.agents}
        index = LabelIndex(agents.values())
        routes: dict[str, CompiledRoute] = {}
        of_listener: dict[str, list[CompiledRoute]] = {
            listener.id: [] for listener in config.listeners
        }
        for route in config.routes:
            compiled = CompiledRoute(
                route,
                tuple(
                    CompiledTarget(
                        route,
                        target,
                        index.select(target.agent_selector.match_labels)
                        if target.agent_selector is not None and target.transport == "agent"
                        else None,
                    )
                    for target in route.targets
                ),
            )
            routes[route.id] = compiled
            of_listener[route.listener_id].append(compiled)
        targets = {
            (route.id, target.name): target for route in routes.values() for target in route.targets
        }
        groups = ((route.id, group.number) for route in routes.values() for group in route.groups)
        return cls(
            listeners={
                listener_id: RouteTable.compile(listener_id, mine)
                for listener_id, mine in of_listener.items()
            },
            routes=routes,
            targets=targets,
            turns=frozenset([*targets, *groups]),
            agents=agents,
        )
