"""Tracing: single requests, stage by stage, for whoever watches (spec §10).

Rules:

1. Off, it costs one test per stage: `Tracer.watches` is empty, and a request's `trace` is None.
2. A request only takes notes: what each stage had in hand. What is shown of them (`stages`) is
   worked out by the viewer's task.
3. A filter that cannot be decided yet (route, agent, status) holds the notes back until it can.
   They hold little that the request would not hold anyway, and end with it.
4. A viewer never makes anybody wait. Its queue is bounded; a request that finds too little room is
   not traced for it but counted in `dropped`, and costs next to nothing.
5. What is shown of a request is whole, but where the room runs out on its way: that counts, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pstream.errors import Fault
from p2pstream.observe.watch import DETAILED, HEADERS, Event, Filter, Stage, Watch

if TYPE_CHECKING:
    from p2pstream.policy.chain import Hop
    from p2pstream.policy.compiled import CompiledRoute
    from p2pstream.policy.decide import Choice, Skipped
    from p2pstream.snapshot import ListenerPlan, TargetPlan
    from p2pstream.wire.http1.head import RequestHead, ResponseHead

_clock = time.perf_counter  # the one that an exchange takes its `started` from


class Tracer:
    """Who watches, and the traces that are made for them."""

    __slots__ = ("name", "watches")

    def __init__(self, name: Callable[[int], str]) -> None:
        """`name` makes a request's public id."""
        self.name = name
        self.watches: tuple[Watch, ...] = ()

    @contextmanager
    def watch(self, wanted: Filter, level: int) -> Iterator[Watch]:
        """Watch for as long as this lasts."""
        watch = Watch(wanted, level)
        self.watches = (*self.watches, watch)
        try:
            yield watch
        finally:
            self.watches = tuple(one for one in self.watches if one is not watch)

    def begin(
        self, request_id: int, started: float, plan: ListenerPlan, head: RequestHead, hop: Hop
    ) -> Trace | None:
        """Take notes of a request that began at `started`, if anybody wants them."""
        trace = None
        for watch in self.watches:
            wanted = watch.wanted
            if wanted.is_early and not wanted.begins(plan.id, head.authority, head.path):
                continue
            if not watch.has_room:
                watch.dropped += 1
                continue
            if trace is None:
                trace = Trace(self.name, request_id, started, plan, head, hop)
            trace.add(watch)
        if trace is not None:
            trace.note("received", started, None)
        return trace

    def refuse(self, request_id: int, plan: ListenerPlan, hop: Hop, fault: Fault) -> None:
        """Tell of a head that could not be understood."""
        now = _clock()
        trace = Trace(self.name, request_id, now, plan, None, hop)
        for watch in self.watches:
            if watch.wanted.begins(plan.id, b"", b""):
                if watch.has_room:
                    trace.add(watch)
                else:
                    watch.dropped += 1
        trace.note("received", now, None)
        trace.end(fault.status, fault, 0, 0, 0)


class Trace:
    """The notes of one request. Each stage is told once it is reached, in its order."""

    __slots__ = (
        "_following",
        "_held",
        "_name",
        "_reused",
        "_undecided",
        "agents",
        "head",
        "hop",
        "level",
        "plan",
        "request_id",
        "route_id",
        "started",
        "status",
        "target",
        "trail",
    )

    def __init__(
        self,
        name: Callable[[int], str],
        request_id: int,
        started: float,
        plan: ListenerPlan,
        head: RequestHead | None,
        hop: Hop,
    ) -> None:
        self._name = name
        self._following: list[Watch] = []
        self._undecided: list[Watch] = []
        self._held: list[Event] = []
        self._reused = False
        self.level = 0
        """The most that anybody wants to see."""
        self.request_id = request_id
        self.started = started
        self.plan = plan
        self.head = head
        self.hop = hop
        self.route_id: str | None = None
        self.target: TargetPlan | None = None
        self.agents: tuple[str, ...] = ()
        self.status = 0
        self.trail: list[Skipped] | None = None

    @property
    def name(self) -> str:
        """The request's public id."""
        return self._name(self.request_id)

    def add(self, watch: Watch) -> None:
        """Somebody watches, before the first note."""
        (self._undecided if watch.wanted.is_late else self._following).append(watch)
        if watch.level > self.level:
            self.level = watch.level

    # --- stages ---------------------------------------------------------------------------------

    def route(self, route: CompiledRoute) -> None:
        """`route_resolved`."""
        self.route_id = route.id
        self.note("route_resolved", _clock(), route)
        if self._undecided:
            self._decide()

    def new_trail(self) -> list[Skipped] | None:
        """What `choose` is to write down for us."""
        self.trail = [] if self.level >= DETAILED else None
        return self.trail

    def chosen(self, choice: Choice, attempt: int, before: Fault | None) -> None:
        """`target_selected`, `agent_selected`; `before` is why the last attempt failed."""
        now = _clock()
        self._reused = False
        self.note("target_selected", now, (choice.target, attempt, before, self.trail))
        if choice.agent is not None:
            self.agents = (*self.agents, choice.agent.id)
            self.note("agent_selected", now, choice.agent)
            if self._undecided:
                self._decide()

    def upstream(
        self, target: TargetPlan, reused: bool, connect: float | None, request: bytes
    ) -> None:
        """`upstream_started`: `request` is about to be sent, `connect` took so many seconds."""
        again = self._reused and not reused
        self._reused = reused
        self.target = target
        head = b""
        if self.level >= HEADERS:  # the body is nobody's business
            head = request[: request.find(b"\r\n\r\n") + 2]
        self.note("upstream_started", _clock(), (target, reused, connect, again, head))

    def responded(self, head: ResponseHead) -> None:
        """`upstream_responded`."""
        self.note("upstream_responded", _clock(), head)

    def end(
        self, status: int, fault: Fault | None, bytes_in: int, bytes_out: int, attempts: int
    ) -> None:
        """`response_sent`, or `failed`; nothing follows."""
        self.status = status
        stage: Stage = "response_sent" if fault is None else "failed"
        self.note(stage, _clock(), (status, fault, bytes_in, bytes_out, attempts, self.trail))
        if self._undecided:
            self._decide(ended=True)

    # --- to whom --------------------------------------------------------------------------------

    def note(self, stage: Stage, at: float, more: object) -> None:
        """Tell who follows, and keep it for who may."""
        event: Event = (self, stage, at, more)
        if self._undecided:
            self._held.append(event)
        for watch in self._following:
            if not watch.put(event):
                watch.dropped += 1
                self._following = [one for one in self._following if one is not watch]

    def _decide(self, *, ended: bool = False) -> None:
        """Tell all so far to those whose filter says yes by now; forget those where it is no."""
        undecided = []
        for watch in self._undecided:
            verdict = watch.wanted.verdict(self, ended=ended)
            if verdict is None:
                undecided.append(watch)
            elif verdict:
                self._follow(watch)
        self._undecided = undecided
        if not undecided:
            self._held = []

    def _follow(self, watch: Watch) -> None:
        if watch.has_room and all(map(watch.put, self._held)):
            self._following = [*self._following, watch]
        else:
            watch.dropped += 1
