"""Who watches requests: what they want to see, and the queue of what they have not seen yet.

The rules are those of `trace`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import trio
from attrs import field, frozen

from p2pstream.config.hosts import normalize_host
from p2pstream.config.scalars import HostPattern
from p2pstream.errors import InvalidRequestTarget
from p2pstream.policy.path import inspect, prefix_matches

if TYPE_CHECKING:
    from p2pstream.observe.trace import Trace
    from p2pstream.wire.http1.head import Fields

Stage = Literal[
    "received",
    "route_resolved",
    "target_selected",
    "agent_selected",
    "upstream_started",
    "upstream_responded",
    "response_sent",
    "failed",
]

LEVELS: Final = ("basic", "detailed", "headers", "debug")
"""What is told, each with all of those before it; a level is its position here."""
BASIC, DETAILED, HEADERS, DEBUG = range(4)

# A viewer's queue, in events and in bytes; new requests get in up to three quarters of it, so that
# those under way find room for their later stages.
MAX_EVENTS: Final = 1_000
MAX_BYTES: Final = 1 << 20
_OPEN: Final = 0.75
# What an event weighs beside the heads that it holds: two tuples, and its share of the trace.
_EVENT_BYTES: Final = 300

Event = tuple["Trace", Stage, float, Any]
"""(trace, stage, when by the trace's clock, what the stage had in hand)"""


@frozen
class Filter:
    """Which requests; None is any. `status` is a range, both ends in it."""

    listener: str | None = None
    route: str | None = None
    host: HostPattern | None = None
    path_prefix: str | None = None
    agent: str | None = None
    status: tuple[int, int] | None = None
    is_early: bool = field(init=False)
    """Whether a request's beginning can say no."""
    is_late: bool = field(init=False)
    """Whether a request's beginning does not say enough."""

    @is_early.default
    def _early(self) -> bool:
        return any((self.listener is not None, self.host is not None, self.path_prefix is not None))

    @is_late.default
    def _late(self) -> bool:
        return any((self.route is not None, self.agent is not None, self.status is not None))

    def begins(self, listener: str, authority: bytes, path: bytes) -> bool:
        """Whether a request that begins so may be one of those."""
        if self.listener is not None and listener != self.listener:
            return False
        if self.host is not None:
            try:
                host = normalize_host(authority.decode("ascii"))
            except ValueError:
                return False
            if not self.host.matches(host):
                return False
        if self.path_prefix is None:
            return True
        try:
            seen = inspect(path)
        except InvalidRequestTarget:
            seen = path
        return prefix_matches(self.path_prefix, seen)

    def verdict(self, trace: Trace, *, ended: bool) -> bool | None:
        """Whether this is one of those; None as long as that is open."""
        if self.route is not None and trace.route_id != self.route:
            return None if trace.route_id is None and not ended else False
        if self.agent is not None and self.agent not in trace.agents:
            return False if ended else None
        if self.status is None:
            return True
        return self.status[0] <= trace.status <= self.status[1] if ended else None


class Watch:
    """One viewer: what it wants, and what waits for it."""

    __slots__ = ("_arrived", "_bytes", "_queue", "dropped", "has_room", "level", "wanted")

    def __init__(self, wanted: Filter, level: int) -> None:
        self.wanted = wanted
        self.level = level
        self.dropped = 0
        """Requests that it does not see, or not all of, since the last `take`."""
        self.has_room = True
        """Whether another request may be traced."""
        self._queue: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._arrived = trio.Event()

    def put(self, event: Event) -> bool:
        """Queue an event; False if there is no room."""
        size = _weight(event)
        events = len(self._queue) + 1
        held = self._bytes + size
        if events > MAX_EVENTS or held > MAX_BYTES:
            self.has_room = False
            return False
        self._queue.append((event, size))
        self._bytes = held
        self.has_room = events < MAX_EVENTS * _OPEN and held < MAX_BYTES * _OPEN
        if events == 1:
            self._arrived.set()
        return True

    async def wait(self) -> None:
        """Wait until an event is there."""
        await self._arrived.wait()

    def take(self, most: int) -> tuple[list[Event], int]:
        """At most so many events, oldest first, and how many requests were dropped."""
        taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        self._bytes -= sum(size for _, size in taken)
        self.has_room = len(self._queue) < MAX_EVENTS * _OPEN and self._bytes < MAX_BYTES * _OPEN
        if not self._queue:
            self._arrived = trio.Event()
        dropped, self.dropped = self.dropped, 0
        return [event for event, _ in taken], dropped


def _weight(event: Event) -> int:
    """Bytes that an event keeps, about."""
    trace, stage, _, more = event
    if stage == "upstream_started":
        return _EVENT_BYTES + len(more[-1])
    if stage == "received" and trace.head is not None:
        return _EVENT_BYTES + len(trace.head.path) + _weight_of(trace.head.fields)
    if stage == "upstream_responded":
        return _EVENT_BYTES + _weight_of(more.fields)
    return _EVENT_BYTES


def _weight_of(fields: Fields) -> int:
    return sum(len(name) + len(value) for _, name, value in fields.lines)
