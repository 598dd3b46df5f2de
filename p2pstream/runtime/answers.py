"""What the API answers about the running server: by the names of `manage.endpoints`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from p2pstream.config.load import Loaded
from p2pstream.config.show import show
from p2pstream.config.wording import quote
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage import (
    agent_views,
    api,
    live_views,
    request_views,
    route_views,
    shapes,
    steps,
)
from p2pstream.manage.clock import Clock
from p2pstream.manage.question import parse_question
from p2pstream.manage.replies import Json, Unavailable
from p2pstream.manage.traffic import traffic
from p2pstream.policy.explain import explain
from p2pstream.runtime.reload import STOPPING, told

if TYPE_CHECKING:
    from p2pstream.runtime.process import Runtime


class Answers:
    """The views of one server process, see `manage.api`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._offset: float | None = None  # from Trio time to epoch seconds
        self._shown_of: Loaded | None = None
        self._shown: dict[tuple[str, str], tuple[str, str | None]] = {}

    def views(self) -> Mapping[str, api.View]:
        """By the endpoint's name."""
        return {
            "overview": lambda question: self.overview(question["window"]),
            "agents": lambda _: self.agents(),
            "agent": lambda question: self.agent(question["id"]),
            "routes": lambda _: self.routes(),
            "route": lambda question: self.route(question["id"]),
            "listeners": lambda _: self.listeners(),
            "requests": self.requests,
            "reloads": self.reloads,
            "status": lambda _: self.status(),
            "plan": lambda _: self.plan(),
            "explain": self.explain,
            "reload": lambda _: self.reload(),
        }

    # --- what the dashboard shows -----------------------------------------------------------------

    async def overview(self, window: str) -> Json:
        """The server at a glance."""
        return await self._runtime.observing.overview(window)

    async def reloads(self, question: api.Question) -> Json:
        """The latest reloads."""
        return {"reloads": self._runtime.observing.reloads(question["limit"])}

    async def agents(self) -> shapes.Agents:
        """Every agent of the file."""
        return await steps.run(agent_views.agents(await self._agent_sources()))

    async def agent(self, agent_id: str) -> shapes.AgentDetails:
        """One agent. Error: `NotThere`."""
        sources = await self._agent_sources()
        compiled = sources.board.tables.agents.get(agent_id)
        if compiled is None:
            raise api.NotThere(f"there is no agent {quote(agent_id)}")
        toml, where = self._declared("agents", agent_id)
        return {
            **agent_views.agent(sources, compiled.config),
            "sessions": self._runtime.observing.agent_history(agent_id)["sessions"],
            "targets": agent_views.carried(sources.board, agent_id),
            "toml": toml,
            "where": where,
            "setup": agent_views.SETUP,
        }

    async def routes(self) -> shapes.Routes:
        """Every route of the file, and the listeners."""
        sources = await self._route_sources()
        listeners = await self.listeners()
        return {
            "listeners": listeners["listeners"],
            "order": route_views.order(sources.board),
            "routes": await steps.run(route_views.routes(sources)),
        }

    async def route(self, route_id: str) -> shapes.RouteDetails:
        """One route. Error: `NotThere`."""
        sources = await self._route_sources()
        compiled = sources.board.tables.routes.get(route_id)
        if compiled is None:
            raise api.NotThere(f"there is no route {quote(route_id)}")
        toml, where = self._declared("routes", route_id)
        return {**route_views.route(sources, compiled), "toml": toml, "where": where}

    async def listeners(self) -> shapes.Listeners:
        """Every listener of the file."""
        connections = self._runtime.client_counts()
        view: dict[str, shapes.Listener] = {}
        for one, pause in steps.sliced(self._runtime.config.listeners):
            declared = self._declared("listeners", one.id)
            view[one.id] = route_views.listener(one, connections, *declared)
            if pause:
                await trio.lowlevel.checkpoint()
        return {"listeners": view}

    async def requests(self, question: api.Question) -> shapes.Requests:
        """The latest requests that match."""
        records = self._runtime.proxy.records
        return await steps.run(request_views.requests(records.latest(), records.name, **question))

    # --- what commands ask ------------------------------------------------------------------------

    async def status(self) -> Json:
        """What runs."""
        return await steps.run(self._runtime.status())

    async def plan(self) -> Json:
        """What a reload would change. Errors: `ConfigError`, `CommandError` (`Unavailable`)."""
        changes = await self._runtime.reloading.plan()
        agents = self._runtime.hub.status()
        await trio.lowlevel.checkpoint()
        live = live_views.Live.of(self._runtime.board, self._runtime.client_counts(), agents)
        await trio.lowlevel.checkpoint()
        return {**self._file(), **live_views.plan(changes, told(changes), live)}

    async def explain(self, question: api.Question) -> Json:
        """Where a request would go now. Error: `ValueError`."""
        board = self._runtime.board
        listener_id, request = parse_question(
            self._runtime.config,
            question["method"],
            question["url"],
            question["listener"],
            question["header"],
        )
        explanation = explain(board, listener_id, request)
        agents = self._runtime.hub.status()
        return {**self._file(), **live_views.explain(board, explanation, agents)}

    async def reload(self) -> Json:
        """Take over the file. Errors: `ConfigError`, `CommandError` (`Unavailable`)."""
        outcome = await self._runtime.reloading.reload()
        if outcome is STOPPING:
            raise Unavailable(*STOPPING.faults)
        if outcome.exit_code == ConfigError.exit_code:
            raise ConfigError(outcome.faults)
        if outcome.exit_code:
            raise CommandError("\n".join(outcome.faults))
        return {
            **self._file(),
            "changed": bool(outcome.lines),
            "lines": list(outcome.lines),
            "warnings": list(outcome.warnings),
        }

    # --- what they are made from ------------------------------------------------------------------

    async def _agent_sources(self) -> agent_views.AgentSources:
        runtime = self._runtime
        sums = await steps.run(traffic(runtime.counters))
        connected = {one.agent_id: one for one in runtime.hub.status()}
        await trio.lowlevel.checkpoint()
        return agent_views.AgentSources(
            board=runtime.board,
            connected=connected,
            history=runtime.observing.agent_summary,
            traffic=sums,
            active=agent_views.active_requests(runtime.board),
        )

    async def _route_sources(self) -> route_views.RouteSources:
        sums = await steps.run(traffic(self._runtime.counters))
        return route_views.RouteSources(self._runtime.board, sums, self._clock())

    def _clock(self) -> Clock:
        now = trio.current_time()
        if self._offset is None:
            self._offset = self._runtime.proxy.wall_clock() - now
        return Clock(now, self._offset)

    def _declared(self, table: str, id: str) -> tuple[str, str | None]:
        """An object's TOML, and where it stands; kept until the next reload."""
        loaded = self._runtime.reloading.loaded
        if loaded is not self._shown_of:
            self._shown_of, self._shown = loaded, {}
        shown = self._shown.get((table, id))
        if shown is None:
            shown = self._shown[table, id] = _shown(loaded, table, id)
        return shown

    def _file(self) -> Json:
        return {"config_file": str(self._runtime.reloading.config_file.absolute())}


def _shown(loaded: Loaded, table: str, id: str) -> tuple[str, str | None]:
    """What `_declared` tells; nothing for an id that a reload is taking away or bringing."""
    ids = [one.id for one in getattr(loaded.config, table)]
    if id not in ids:
        return "", None
    position = ids.index(id)
    toml = show(loaded.config, loaded.declared, table, position)
    return toml, loaded.declared.where(table, position)
