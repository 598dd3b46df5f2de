"""What went through each route, agent and path since the start: sums of the counters, pure."""

from __future__ import annotations

from typing import Final, TypeVar

from attrs import field, frozen

from p2pstream.manage.steps import Steps, sliced
from p2pstream.observe.counters import Count, Counters
from p2pstream.observe.latency import percentile

K = TypeVar("K")
PathName = tuple[str | None, str | None, str | None]
"""Route, target and agent, as records name them."""

_NOTHING: Final = Count()
# Counts added up between two turns of others: about a millisecond.
_SLICE: Final = 200


@frozen
class Traffic:
    """Counts by route, by agent and by path, over all listeners; not to be changed."""

    by_route: dict[str, Count] = field(factory=dict)
    by_agent: dict[str, Count] = field(factory=dict)
    by_path: dict[PathName, Count] = field(factory=dict)

    def route(self, route_id: str) -> Count:
        """A route's."""
        return self.by_route.get(route_id, _NOTHING)

    def agent(self, agent_id: str) -> Count:
        """An agent's."""
        return self.by_agent.get(agent_id, _NOTHING)

    def path(self, route_id: str, target: str, agent_id: str | None) -> Count:
        """A path's."""
        return self.by_path.get((route_id, target, agent_id), _NOTHING)


def traffic(counters: Counters) -> Steps[Traffic]:
    """Add up what was counted."""
    sums = Traffic()
    own: set[int] = set()  # of the counts that are sums of ours
    for (path, count), pause in sliced(counters.by_path.items(), _SLICE):
        _add(sums.by_path, path[1:], count, own)
        if path.route is not None:
            _add(sums.by_route, path.route, count, own)
        if path.agent is not None:
            _add(sums.by_agent, path.agent, count, own)
        if pause:
            yield
    return sums


def _add(sums: dict[K, Count], key: K, count: Count, own: set[int]) -> None:
    """Most have one count alone, which then need not be copied."""
    known = sums.setdefault(key, count)
    if known is count:
        return
    if id(known) not in own:
        known = sums[key] = known.copy()
        own.add(id(known))
    known.add(count)


def p95_millis(count: Count) -> float | None:
    """The latency that 95 of 100 requests did not exceed; None without any."""
    seconds = percentile(count.histogram, 0.95)
    return None if seconds is None else round(seconds * 1000, 2)
