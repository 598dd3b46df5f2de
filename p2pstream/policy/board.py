"""Who can be used right now: the runtime state of paths, agents and turns, keyed by ids.

Rule 1  The truth is: which agents are connected and leaving, one `PathState` per path, whose turn
        it is. It is keyed by ids and survives a reload for every id that survives (spec §7).
Rule 2  What a request reads, masks of usable agents per target and usable targets per group, is a
        cache of that truth for one compiled route, made at its first use and kept current by
        every mutation. `obstacle` alone says what usable means.
Rule 3  A request that still runs on the configuration before a reload gets masks of its own, made
        from the truth of the moment, and counts on the surviving `PathState`s.
Rule 4  Nothing here waits, and time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Literal

from p2pstream.config.model import Balancing
from p2pstream.policy.balance import Balancer, make_balancer
from p2pstream.policy.compiled import (
    CompiledAgent,
    CompiledGroup,
    CompiledRoute,
    CompiledTarget,
    PathKey,
    Selection,
    TurnKey,
)
from p2pstream.policy.health import Health, Verdict, change, step, usable
from p2pstream.policy.state import GroupState, PathState, RouteState, TargetState
from p2pstream.policy.tables import Tables

# Why a path is not used. The first that applies, in this order.
Obstacle = Literal["disabled", "draining", "disconnected", "unhealthy", "cooldown"]


class Board:
    """The runtime state under one process's tables; see the module's rules."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._connected: set[str] = set()
        self._leaving: set[str] = set()
        self._paths: dict[tuple[str, str], dict[str, PathState]] = {}  # by target, then agent id
        self._paths_of: dict[str, dict[PathKey, PathState]] = {}  # by agent id
        self._turns: dict[TurnKey, tuple[tuple[str, ...], Balancer]] = {}
        self._states: dict[str, RouteState] = {}  # by route id
        self._cooling: list[tuple[float, PathKey]] = []  # a heap

    # --- reading ------------------------------------------------------------------------------

    @property
    def paths(self) -> Mapping[PathKey, PathState]:
        """Every path that was used or asked for, and survived; put together at each call."""
        return {path.key: path for paths in self._paths.values() for path in paths.values()}

    @property
    def connected(self) -> frozenset[str]:
        """Ids of the agents that have a tunnel."""
        return frozenset(self._connected)

    def is_leaving(self, agent_id: str) -> bool:
        """Whether a connected agent said that it takes no new streams."""
        return agent_id in self._leaving

    def state(self, route: CompiledRoute) -> RouteState:
        """Return the masks and turns of a route, of this configuration or an earlier one."""
        state = self._states.get(route.id)
        if state is None or state.route is not route:
            state = self._bind(route)
        return state

    def path(self, key: PathKey) -> PathState:
        """Return one path; `KeyError` if the configuration has no such target or agent."""
        target = self.tables.targets[key.route_id, key.target_name]
        if (target.selection is None) != (key.agent_id == "") or (
            target.selection is not None and key.agent_id not in target.selection.position
        ):
            raise KeyError(key)
        self.state(self.tables.routes[key.route_id])
        return self._paths[key.route_id, key.target_name][key.agent_id]

    def obstacle(self, path: PathState) -> Obstacle | None:
        """Why a path cannot be used; None if it can. The masks hold exactly this."""
        target, agent = path.target, path.agent
        if not target.enabled or (agent is not None and not agent.config.enabled):
            return "disabled"
        if not target.open:
            return "draining"
        if agent is not None:
            if agent.id not in self._connected:
                return "disconnected"
            if agent.config.drain or agent.id in self._leaving:
                return "draining"
        if path.fit:
            return None
        return "unhealthy" if path.health.status == "unhealthy" else "cooldown"

    # --- mutations ----------------------------------------------------------------------------

    def agent_connected(self, agent_id: str) -> None:
        """Let an agent's paths be used: a tunnel was attached, or replaced the one before."""
        self._connected.add(agent_id)
        self._leaving.discard(agent_id)
        for path in self._paths_of.get(agent_id, {}).values():
            self._set_health(path, change(path.health, "connected"), fit=True)

    def agent_disconnected(self, agent_id: str) -> None:
        """Stop using an agent's paths from this moment: its last tunnel is gone."""
        self._connected.discard(agent_id)
        self._leaving.discard(agent_id)
        for path in self._paths_of.get(agent_id, {}).values():
            self._set_health(path, change(path.health, "disconnected"), fit=False)

    def agent_leaving(self, agent_id: str) -> None:
        """Choose a connected agent no more: it goes on with what it has (GoAway)."""
        if agent_id in self._connected:
            self._leaving.add(agent_id)
            for path in self._paths_of.get(agent_id, {}).values():
                self._show(path)

    def report(self, path: PathState, verdict: Verdict, now: float) -> Health:
        """Apply what came of a check or a real request; return the health it had before."""
        before = path.health
        after = step(before, verdict, now, path.target.rules)
        if after is not before:
            self._set_health(path, after, fit=usable(after, now))
            if after.cooldown_until > now and after.cooldown_until != before.cooldown_until:
                heappush(self._cooling, (after.cooldown_until, path.key))
        return before

    def expire(self, now: float) -> float | None:
        """End the cooldowns that ran out; return when the next one will, None if there is none."""
        while self._cooling:
            until, key = self._cooling[0]
            if until > now:
                return until
            heappop(self._cooling)
            path = self._paths.get((key.route_id, key.target_name), {}).get(key.agent_id)
            if path is not None:
                path.fit = usable(path.health, now)
                self._show(path)
        return None

    def rebind(self, tables: Tables) -> list[TargetState]:
        """Take over a new configuration, keeping the state of every id that survives.

        A path survives with its route id, target name and agent id if the target's `url`, kind
        and `health_check` stayed the same and its selector still means the agent; a turn with its
        route id and group or target. All that belongs to a route that is the very same object in
        both stays as it is. Returns the states that belonged to the other routes.
        """
        before, self.tables = self.tables, tables
        replaced: list[TargetState] = []
        for route in before.routes.values():
            if tables.routes.get(route.id) is not route:
                replaced += self._replace(route)
        return replaced

    def _replace(self, route: CompiledRoute) -> Iterator[TargetState]:
        """Bring what is known of a route that changed, or is gone, to its new self."""
        for target in route.targets:
            key = route.id, target.name
            new = self.tables.targets.get(key)
            for path in [*self._paths.get(key, {}).values()]:
                if new is None or not self._move(path, new):
                    self._forget(path)
        heir = self.tables.routes.get(route.id)
        for turn in route.turns() - (set() if heir is None else heir.turns()):
            self._turns.pop(turn, None)
        state = self._states.pop(route.id, None)
        for group in () if state is None else state.groups:
            yield from group.targets

    def _move(self, path: PathState, target: CompiledTarget) -> bool:
        """Take a path over to its target's new self; whether it survives that."""
        if target.identity != path.target.identity:
            return False
        agent = None
        enabled = target.enabled
        if target.selection is not None:
            position = target.selection.position.get(path.key.agent_id)
            if position is None:
                return False
            agent = target.agents[position]
            enabled = enabled and agent.config.enabled
        path.target, path.agent, path.owner = target, agent, None
        if enabled == (path.health.status == "disabled"):
            self._settle(path)
        return True

    def _forget(self, path: PathState) -> None:
        path.owner = None
        siblings = self._paths[path.key[:2]]
        del siblings[path.key.agent_id]
        if not siblings:
            del self._paths[path.key[:2]]
        if path.agent is not None:
            del self._paths_of[path.agent.id][path.key]

    # --- from truth to masks ------------------------------------------------------------------

    def _set_health(self, path: PathState, health: Health, *, fit: bool) -> None:
        path.health = health
        path.fit = fit
        self._show(path)

    def _show(self, path: PathState) -> None:
        if path.owner is not None:
            path.owner.set(path.position, self.obstacle(path) is None)

    def _keep(self, path: PathState) -> None:
        self._paths.setdefault(path.key[:2], {})[path.key.agent_id] = path
        if path.agent is not None:
            self._paths_of.setdefault(path.agent.id, {})[path.key] = path

    def _settle(self, path: PathState) -> None:
        """Bring a path's status to what the file and the tunnels say now."""
        target, agent = path.target, path.agent
        health = path.health
        if not target.enabled or (agent is not None and not agent.config.enabled):
            health = change(health, "disabled")
        else:
            health = change(health, "enabled")
            if agent is not None and agent.id not in self._connected:
                health = change(health, "disconnected")
        if health is not path.health:
            self._set_health(path, health, fit=health.status == "unknown")

    def _bind(self, route: CompiledRoute) -> RouteState:
        current = self.tables.routes.get(route.id) is route
        groups = []
        for group in route.groups:
            targets = [self._bind_target(target, current) for target in group.targets]
            balancer = self._balancer(
                (route.id, group.number),
                group.policy,
                group,
                [target.active for target in targets],
                current,
            )
            groups.append(GroupState(group, targets, balancer))
        state = RouteState(route, groups)
        if current:
            self._states[route.id] = state
        return state

    def _bind_target(self, target: CompiledTarget, current: bool) -> TargetState:
        agents = (None,) if target.selection is None else target.agents
        paths = [self._path(target, agent, current) for agent in agents]
        balancer = None
        if target.selection is not None:
            balancer = self._balancer(
                (target.route_id, target.name),
                target.policy,
                target.selection,
                [path.active for path in paths],
                current,
            )
        state = TargetState(target, paths, balancer)
        for position, path in enumerate(paths):
            if self.obstacle(path) is None:
                state.usable |= 1 << position
            if current:
                path.owner, path.position = state, position
        return state

    def _path(
        self, target: CompiledTarget, agent: CompiledAgent | None, current: bool
    ) -> PathState:
        agent_id = "" if agent is None else agent.id
        path = self._paths.get((target.route_id, target.name), {}).get(agent_id)
        if path is None:
            path = PathState(PathKey(target.route_id, target.name, agent_id), target, agent)
            self._settle(path)
            if current:
                self._keep(path)
        return path

    def _balancer(
        self,
        key: TurnKey,
        policy: Balancing,
        candidates: CompiledGroup | Selection,
        active: list[int],
        current: bool,
    ) -> Balancer:
        balancer = make_balancer(policy, candidates.weights, active)
        known = self._turns.get(key)
        if known is not None:
            names, old = known
            numbers = {name: number for number, name in enumerate(names)}
            balancer.resume(old, [numbers.get(name, -1) for name in candidates.names])
        if current:
            self._turns[key] = candidates.names, balancer
        return balancer
