"""A loop of checks per path: per direct target, and per agent target and connected agent (spec §7).

Rules:

1. One path's check never delays, ends or crashes another's: each has a task, a time limit and a
   bulkhead of its own. A check that crashes is a failed check.
2. A loop belongs to its `PathState`: it goes on through a reload exactly if that survives
   (`Board.rebind`), and reads its target anew for each check.
3. An agent that has no room for a stream says nothing of its paths: neither a check nor a real
   request that found none counts.
4. No tunnel, no loop: it is stopped when its agent leaves, and the next one checks at once.
5. Loops that start together are spread a little, so that 2,000 of them are no burst, at their
   start or ever after; intervals are jittered by ±10 %. But checks wake in common ticks: ten that
   run side by side cost a third of ten that each wake an idle process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio
from attrs import define, field

from p2pstream.errors import AgentFull, Fault
from p2pstream.health.probe import Check, Connect, Result, probe
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import CompiledTarget, PathKey
from p2pstream.policy.health import JITTER, Health
from p2pstream.policy.state import PathState

log = logging.getLogger(__name__)

# Between the first checks of loops that start together: 200 a second cost less than a tenth of a
# core, and the few targets of one agent are still checked "at once" when it connects.
_SPACING_SECONDS: Final = 0.005
# Ten checks a tick at 200 a second, about 3 ms of work; a twentieth of the shortest interval.
_TICK_SECONDS: Final = 0.05


@define(slots=True)
class Sightings:
    """What was seen of a path last, for people: its `PathState.extra`. Gone with its tunnel."""

    check: Result | None = None
    refusal: str = ""
    """Why the real request failed that began the last cooldown."""


@define(eq=False, slots=True)
class _Loop:
    path: PathState
    check: Check
    target: CompiledTarget
    """What `check` was made from."""
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    checks: int = 0


class Monitor:
    """All loops of one server process. `random` gives floats in [0, 1)."""

    def __init__(self, board: Board, connect: Connect, random: Callable[[], float]) -> None:
        self._board = board
        self._connect = connect
        self._random = random
        self._loops: dict[PathKey, _Loop] = {}
        self._through: dict[str, list[CompiledTarget]] = {}  # checked targets, by agent id
        self._leaving: set[str] = set()
        self._nursery: trio.Nursery | None = None  # while it runs

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self.follow()
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._loops.clear()

    @property
    def watched(self) -> frozenset[PathKey]:
        """The paths that have a loop."""
        return frozenset(self._loops)

    # --- what it is told ----------------------------------------------------------------------

    def follow(self) -> None:
        """Take over the board's configuration: start, keep and stop loops (rule 2)."""
        self._through = {}
        wanted: dict[PathKey, PathState] = {}
        for target in self._board.tables.targets.values():
            if target.rules is not None and target.enabled:
                for agent in target.agents:
                    self._through.setdefault(agent.id, []).append(target)
                for path in self._paths(target):
                    wanted[path.key] = path
        for key, loop in list(self._loops.items()):
            if wanted.get(key) is not loop.path:
                self._stop(key)
        self._start(path for key, path in wanted.items() if key not in self._loops)

    def stop(self) -> None:
        """Check nothing any more: the server is leaving, and says so to its agents."""
        for key in list(self._loops):
            self._stop(key)
        self._nursery = None

    def agent_connected(self, agent_id: str) -> None:
        """Check an agent's paths, at once. The board has been told before."""
        self._leaving.discard(agent_id)
        self._stop_all(agent_id)
        self._start(
            path
            for target in self._through.get(agent_id, ())
            for path in self._paths(target, agent_id)
        )

    def agent_leaving(self, agent_id: str) -> None:
        """Stop checking through an agent that takes no new streams."""
        self._leaving.add(agent_id)
        self._stop_all(agent_id)

    def agent_disconnected(self, agent_id: str) -> None:
        """Stop checking through an agent whose tunnel ended."""
        self._leaving.discard(agent_id)
        self._stop_all(agent_id)

    def refused(self, path: PathState, fault: Fault) -> None:
        """Count a real request that got no connection (spec §7, passive)."""
        if isinstance(fault, AgentFull):  # rule 3
            return
        now = trio.current_time()
        before = self._board.report(path, "refused", now)
        after = path.health
        if after.cooldown_until != before.cooldown_until:
            _sightings(path).refusal = fault.detail
            seconds = after.cooldown_until - now
            log.warning("path %s: not used for %.0f s: %s", _named(path), seconds, fault.detail)

    def answered(
        self, used: Iterable[tuple[str | None, str | None, str | None]], at: float
    ) -> None:
        """Count real answers as proof: (route id, target name, agent id) that gave some after `at`.

        For the flush of records, once a second or so: the requests themselves have nothing to do.
        """
        for route_id, target_name, agent_id in used:
            loop = self._loops.get(PathKey(route_id or "", target_name or "", agent_id or ""))
            if loop is not None and at > (loop.path.health.proved_at or 0.0):
                self._board.report(loop.path, "answered", at)

    # --- loops --------------------------------------------------------------------------------

    def _paths(self, target: CompiledTarget, only: str | None = None) -> Iterator[PathState]:
        """The paths of a checked target that can be checked now."""
        board, route_id, name = self._board, target.route_id, target.name
        if target.selection is None:
            yield board.path(PathKey(route_id, name, ""))
            return
        connected = board.connected - self._leaving
        for agent in target.agents if only is None else [board.tables.agents[only]]:
            if agent.id in connected and agent.config.enabled:
                yield board.path(PathKey(route_id, name, agent.id))

    def _start(self, paths: Iterable[PathState]) -> None:
        if self._nursery is None:
            return
        new = list(paths)
        for path in new:
            loop = self._loops[path.key] = _Loop(path, Check.of(path.target), path.target)
            interval = loop.check.rules.interval_millis / 1000
            delay = self._random() * min(len(new) * _SPACING_SECONDS, interval)
            first = _tick_near(trio.current_time() + delay)
            self._nursery.start_soon(self._watch, loop, first, name=f"check {_named(path)}")

    def _stop(self, key: PathKey) -> None:
        loop = self._loops.pop(key)
        loop.path.extra = None
        loop.scope.cancel()

    def _stop_all(self, agent_id: str) -> None:
        for target in self._through.get(agent_id, ()):
            key = PathKey(target.route_id, target.name, agent_id)
            if key in self._loops:
                self._stop(key)

    async def _watch(self, loop: _Loop, due: float) -> None:
        """Check one path until its loop is stopped; first when it is `due` (Trio time)."""
        with loop.scope:
            while True:
                await trio.sleep_until(due)
                begun = trio.current_time()
                await self._once(loop)
                interval = loop.check.rules.interval_millis / 1000
                most = JITTER * interval - _TICK_SECONDS / 2
                due = _tick_near(begun + interval + most * (2 * self._random() - 1))

    async def _once(self, loop: _Loop) -> None:
        """One check, inside its bulkhead."""
        path = loop.path
        begun = trio.current_time()
        loop.checks += 1
        name = f"check-{loop.checks}"
        try:
            if path.target is not loop.target:
                loop.target = path.target
                loop.check = Check.of(path.target)
            result = await probe(loop.check, path.key.agent_id, name, self._connect)
        except AgentFull:  # rule 3
            return
        except Exception as error:  # the bulkhead around a probe
            log.exception("path %s: the check crashed", _named(path))
            now = trio.current_time()
            result = Result(False, f"the check crashed: {error!r}", now, now - begun)
        if loop.scope.cancel_called:  # it ended in the very step in which its tunnel did
            return
        _sightings(path).check = result
        before = self._board.report(path, "passed" if result.passed else "failed", result.at)
        _tell(path, before, result)


def _tick_near(at: float) -> float:
    """The tick nearest to a Trio time (rule 5)."""
    return round(at / _TICK_SECONDS) * _TICK_SECONDS


def _tell(path: PathState, before: Health, result: Result) -> None:
    """Log a change of state, and the end of a cooldown by a passed check."""
    after = path.health
    named = _named(path)
    if after.status != before.status:
        level = logging.INFO if after.status == "healthy" else logging.WARNING
        log.log(level, "path %s: %s -> %s: %s", named, before.status, after.status, result.reason)
    elif result.passed and before.cooldown_until > result.at:
        log.info("path %s: used again: %s", named, result.reason)


def _sightings(path: PathState) -> Sightings:
    if path.extra is None:
        path.extra = Sightings()
    seen: Sightings = path.extra
    return seen


def _named(path: PathState) -> str:
    """As it stands in logs: `route/target`, or `route/target via agent-id`."""
    route_id, target, agent_id = path.key
    return f"{route_id}/{target} via {agent_id}" if agent_id else f"{route_id}/{target}"
