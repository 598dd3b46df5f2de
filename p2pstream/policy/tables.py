"""Everything compiled from one configuration, by id; a reload swaps it whole.

What a new configuration has in common with the one before is not compiled again: a route is taken
over as the very same object if it is the same in the file and means the same agents and templates.
Whoever holds it, for a request of the configuration before or for one of the new, has the right
one. So a reload that changes one route of ten thousand touches little more than that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from attrs import frozen

from p2pstream.config.model import Agent, Config, Route, Target, Template
from p2pstream.policy.compiled import CompiledAgent, CompiledRoute, CompiledTarget, Selection
from p2pstream.policy.route import RouteTable
from p2pstream.policy.select import LabelIndex, LabelSet


@frozen(eq=False)
class Tables:
    """`listeners` are the route tables by listener id; disabled routes stand only in `routes`."""

    listeners: Mapping[str, RouteTable]
    routes: Mapping[str, CompiledRoute]
    targets: Mapping[tuple[str, str], CompiledTarget]
    agents: Mapping[str, CompiledAgent]
    templates: Mapping[str, Template]
    selections: Mapping[LabelSet, Selection]

    @classmethod
    def compile(cls, config: Config, before: Tables | None = None) -> Tables:
        """Work out what a checked configuration means; nothing here can be at fault.

        `before`: tables to take over from what did not change, by identity in the configurations
        (`config.plan.adopt`). They are not changed by it.
        """
        compiler = _Compiler(config, before or _NOTHING)
        routes: dict[str, CompiledRoute] = {}
        of_listener: dict[str, list[CompiledRoute]] = {
            listener.id: [] for listener in config.listeners
        }
        for route in config.routes:
            compiled = routes[route.id] = compiler.route(route)
            of_listener[route.listener_id].append(compiled)
        targets = {
            (route.id, target.name): target for route in routes.values() for target in route.targets
        }
        return cls(
            listeners={
                listener_id: RouteTable.compile(listener_id, mine)
                for listener_id, mine in of_listener.items()
            },
            routes=routes,
            targets=targets,
            agents=compiler.agents,
            templates=compiler.templates,
            selections=compiler.index.selections,
        )


_NOTHING: Final = Tables({}, {}, {}, {}, {}, {})


class _Compiler:
    """Compiles the routes of one configuration, or takes them over from the tables before."""

    def __init__(self, config: Config, before: Tables) -> None:
        self._before = before
        self.agents = {agent.id: self._agent(agent) for agent in config.agents}
        self.templates = {template.id: template for template in config.templates}
        self.index = LabelIndex(self.agents.values(), before.selections)

    def _agent(self, agent: Agent) -> CompiledAgent:
        known = self._before.agents.get(agent.id)
        return known if known is not None and known.config is agent else CompiledAgent(agent)

    def route(self, route: Route) -> CompiledRoute:
        """One route, new or taken over."""
        selections = [self._selection(target) for target in route.targets]
        known = self._before.routes.get(route.id)
        if (
            known is not None
            and known.config is route
            and all(map(self._is_same, known.targets, selections))
        ):
            return known
        targets = map(partial(CompiledTarget, route), route.targets, selections)
        return CompiledRoute(route, tuple(targets))

    def _selection(self, target: Target) -> Selection | None:
        if target.agent_selector is None or target.transport != "agent":
            return None
        return self.index.select(target.agent_selector.match_labels)

    def _is_same(self, known: CompiledTarget, selection: Selection | None) -> bool:
        """Whether what a target refers to is still what it was compiled with."""
        template_id = known.config.static_response_template_id
        return known.selection is selection and (
            template_id is None
            or self.templates.get(template_id) is self._before.templates.get(template_id)
        )
