"""What a server process knows of its past: counts, roll-ups, agents' sessions, reloads.

    records -> Counters     ten times a second                     _count_forever
    Counters -> Rollup      every 5 s, and when somebody looks     _pull_forever, overview
    Rollup -> the file      every 10 s, and when something happens _keep_forever

All tasks live in `run`, which the runtime cancels. What came after the last write is written as
the `async with` around it ends: by then no connection and no agent is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

import p2pstream
from p2pstream.agents.hub import AgentStatus
from p2pstream.observe import history
from p2pstream.observe.counters import Counters
from p2pstream.observe.history import Batch, Reload
from p2pstream.observe.overview import Json
from p2pstream.observe.records import Record, Records
from p2pstream.observe.rollup import FINE, HOUR, MINUTE, Rollup, compacted
from p2pstream.observe.sessions import Sessions
from p2pstream.runtime.keeping import SHARE, Keeping
from p2pstream.runtime.reload import Outcome
from p2pstream.runtime.windows import Windows

# Counting takes about a microsecond a record, all at once: ten times a second it is never long.
_COUNT_SECONDS: Final = 0.1
# A pull just before a slot ends, so that what it finds belongs there.
_BEFORE_THE_END: Final = 0.05
# Paths pulled in one go: one or two milliseconds.
_SLICE: Final = 250
# What a `kill -9` may cost.
FLUSH_SECONDS: Final = 10.0
# After a session or a reload: others may follow.
_EVENT_SECONDS: Final = 1.0
# Reloads that the overview tells of.
_RELOADS: Final = 5
_MAX_UNWRITTEN_RELOADS: Final = 1_000
_STOPPED: Final = "server stopped"


@frozen
class Present:
    """What is so now."""

    connections: int
    """Of clients."""
    agents_connected: int
    agents_declared: int
    """Those that may connect."""


class Observing:
    """The past of one server process."""

    def __init__(
        self,
        state_dir: Path,
        retention_days: int,
        records: Records,
        *,
        recorded: Callable[[list[Record]], object],
        present: Callable[[], Present],
        agents: Callable[[], Iterable[AgentStatus]],
        wall_clock: Callable[[], float],
    ) -> None:
        """`recorded` gets every record once, right after it was counted."""
        self.counters = Counters()
        self._records = records
        self._recorded = recorded
        self._present = present
        self._agents = agents
        self._clock = wall_clock
        self.started = started = wall_clock()
        """Wall clock."""
        self.reloaded_at = started
        """When the configuration that runs was taken over (wall clock)."""
        self.reload_ok = True
        """Whether the last reload was done rather than refused."""
        self._rollup = Rollup(started)
        self._sessions = Sessions(retention_days)
        self._unnamed: set[str] = set()
        self._reloads: deque[Reload] = deque(maxlen=history.LATEST_RELOADS)
        self._unwritten_reloads: list[Reload] = []
        self._keeping = Keeping(state_dir, started)
        self._pulling = trio.Lock()
        self._happened = trio.Event()
        self._written_at = started
        self._pruned: tuple[int, int] | None = None  # in which hour, for which retention
        self._windows = Windows(self._rollup, self._keeping, self._pull)
        self._ran = False

    # --- the tree -------------------------------------------------------------------------------

    async def __aenter__(self) -> Observing:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is left, if anything ever ran."""
        with trio.CancelScope(shield=True):
            if self._ran:
                self._sessions.end_all(_STOPPED, self._clock())
                await self._flush(last=True)
            await self._keeping.close()

    async def run(self) -> None:
        """Count, pull and write until cancelled."""
        self._ran = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._count_forever)
            nursery.start_soon(self._pull_forever)
            nursery.start_soon(self._keep_forever)

    async def _count_forever(self) -> None:
        while True:
            await trio.sleep(_COUNT_SECONDS)
            self.count()

    async def _pull_forever(self) -> None:
        while True:
            left = FINE - _BEFORE_THE_END - self._clock() % FINE
            await trio.sleep(left if left > 0 else left + FINE)
            await self._pull()

    async def _keep_forever(self) -> None:
        while True:
            used = self._keeping.used_seconds
            self._happened = trio.Event()
            await self._flush()
            rest = (self._keeping.used_seconds - used) * SHARE
            retry = self._keeping.retry_seconds()
            if retry is not None:
                await trio.sleep(retry)
                continue
            with trio.move_on_after(max(FLUSH_SECONDS, rest)):
                await self._happened.wait()
                await trio.sleep(max(_EVENT_SECONDS, rest))

    # --- counting -------------------------------------------------------------------------------

    def count(self) -> None:
        """Add up what was recorded since the last time."""
        records = self._records.flush()
        self.counters.add(records)
        self._recorded(records)

    async def _pull(self) -> None:
        """Bring the roll-ups up to now. Whole, even if cancelled: what moved is told only once."""
        with trio.CancelScope(shield=True):
            async with self._pulling:
                self._name_agents()
                self.count()
                moved = self.counters.take_moved()
                agents = self._present().agents_connected
                for at in range(0, max(len(moved), 1), _SLICE):
                    self._rollup.pull(moved[at : at + _SLICE], self._clock(), agents)
                    await trio.lowlevel.checkpoint()

    # --- what happens ---------------------------------------------------------------------------

    def agent_here(self, agent_id: str) -> None:
        """An agent connected."""
        self._sessions.begin(agent_id, self._clock())
        self._unnamed.add(agent_id)
        self._happened.set()

    def agent_gone(self, agent_id: str, reason: str) -> None:
        """Its tunnel ended."""
        self._sessions.end(agent_id, reason, self._clock())
        self._unnamed.discard(agent_id)
        self._happened.set()

    def _name_agents(self) -> None:
        """Say where newly connected agents come from: asked once for all of them."""
        if self._unnamed:
            for agent in self._agents():
                if agent.agent_id in self._unnamed:
                    self._sessions.name(agent.agent_id, agent.peer, agent.version)
            self._unnamed.clear()

    def reloaded(self, by: str, outcome: Outcome) -> None:
        """A reload was asked for, by `SIGHUP`, `api` or both, and done or refused."""
        lines, faults = map(history.shortened, (outcome.lines, outcome.faults))
        reload = Reload(self._clock(), by, lines, faults)
        self.reload_ok = not faults
        if self.reload_ok:
            self.reloaded_at = reload.at
        self._reloads.append(reload)
        self._unwritten_reloads.append(reload)
        del self._unwritten_reloads[:-_MAX_UNWRITTEN_RELOADS]
        self._happened.set()

    def retain(self, days: int) -> None:
        """Go by another `retention_days`."""
        self._sessions.retention_days = days
        self._happened.set()

    # --- the file -------------------------------------------------------------------------------

    async def _flush(self, *, last: bool = False) -> None:
        """Write what happened since the last time."""
        await self._pull()
        async with self._keeping.turn:
            await self._open(again=last)
            self._rollup.seal()
            batch = self._batch()
            if not last and self._is_idle(batch):
                return
            if await self._keeping.use(partial(_write, batch)) is None:
                await self._compact(batch)
                return
            self._keeping.worked()
            self._rollup.written(len(batch.chunks))
            self._sessions.written(batch.sessions)
            del self._unwritten_reloads[: len(batch.reloads)]
            self._written_at = batch.at
            await self._prune(batch.at)

    async def _compact(self, batch: Batch) -> None:
        """Keep what waits within bounds."""
        chunks, lost = await trio.to_thread.run_sync(compacted, batch.chunks, batch.at)
        self._rollup.replace(len(batch.chunks), chunks, lost)

    async def _open(self, *, again: bool) -> None:
        keeping, days = self._keeping, self._sessions.retention_days
        if await keeping.open(self._clock(), days, again=again):
            self._sessions.note_open()  # it may be a new file
            past, keeping.past = keeping.past, None
            if past is not None:
                self._rollup.remember(past.minutes, past.began)
                self._sessions.adopt(past.sessions)
                reloads = [*past.reloads, *self._reloads]
                self._reloads = deque(reloads, maxlen=history.LATEST_RELOADS)

    def _batch(self) -> Batch:
        return Batch(
            self._rollup.now,
            tuple(self._rollup.unwritten),
            tuple(self._sessions.changed.values()),
            tuple(self._unwritten_reloads),
        )

    def _is_idle(self, batch: Batch) -> bool:
        """Nothing happened: then it is enough to say once a minute that we are there."""
        return (
            self._keeping.is_open
            and self._pruned == self._due(batch.at)
            and not (batch.sessions or batch.reloads)
            and not any(chunk.counts for chunk in batch.chunks)
            and 0 <= batch.at - self._written_at < MINUTE
        )

    def _due(self, now: float) -> tuple[int, int]:
        """What was pruned for this needs no pruning again: the hour and the retention."""
        return int(now // HOUR), self._sessions.retention_days

    async def _prune(self, now: float) -> None:
        """Forget what is too old, if that is due."""
        due = self._due(now)
        if due != self._pruned:
            self._pruned = due
            self._sessions.forget(now)
            await self._keeping.use(lambda it: it.prune(now, due[1]))

    # --- reading --------------------------------------------------------------------------------

    @property
    def history_problem(self) -> str | None:
        """Why the history cannot be written now, if it cannot, and if that has cost any of it."""
        problem, lost = self._keeping.problem, self._rollup.lost
        if problem is not None and lost:
            problem += f"; too much waits for it: {lost} of the oldest counts were let go"
        return problem

    async def overview(self, window: str) -> Json:
        """What the Overview page shows. Error: `ValueError` for a window that there is not.

        `now` is the moment of which the figures are; those under it that are of the present
        (`active_requests`, `connections`, agents) are newer by some seconds at most.
        """
        view = await self._windows.view(window)
        present = self._present()
        self.count()
        problem = self.history_problem
        return {
            **view,
            "started": self.started,
            "version": p2pstream.__version__,
            "active_requests": self._records.count - self.counters.requests,
            "connections": present.connections,
            "agents_connected": present.agents_connected,
            "agents_declared": present.agents_declared,
            "reloads": self.reloads(_RELOADS),
            "history": {"ok": True} if problem is None else {"ok": False, "problem": problem},
        }

    def agent_summary(self, agent_id: str) -> Json:
        """What is known of an agent within the retention, see `Sessions.summary`."""
        return self._sessions.summary(agent_id, self._clock())

    def agent_history(self, agent_id: str) -> Json:
        """The same, and its latest sessions, newest first."""
        self._name_agents()
        return self._sessions.history(agent_id, self._clock())

    def reloads(self, limit: int) -> list[Json]:
        """The latest reloads, newest first; of those that were kept, 200 at most."""
        latest = list(self._reloads)[-limit:] if limit > 0 else []
        return [reload.as_json() for reload in reversed(latest)]


def _write(batch: Batch, file: history.History) -> bool:
    file.write(batch)
    return True
