"""What happened within a window of time, as the Overview page shows it: pure.

Rules:

1. A window begins where the history's roll-ups do, and covers at least what its name says: `24h`
   is 24 whole hours and the running one. So totals, charts and hotspots are of the same requests.
2. Percentages are rounded down: 100 means that nothing failed.
3. Where nothing was measured stands null: a percentile of no requests, agents that nobody counted.
4. What a clock that was ahead has left in the future is not shown until its time comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from math import floor
from typing import Any, Final

from attrs import define, field, frozen

from p2pstream.observe.counters import Count, PathId
from p2pstream.observe.latency import percentile
from p2pstream.observe.rollup import FINE, HOUR, MINUTE, Chunk, Slot

Json = dict[str, Any]

DAY: Final = 24 * HOUR
# Of each kind of hotspot, by each measure.
_TOP: Final = 10
_TOP_ROUTES: Final = 3
_PERCENTILES: Final = {"p50_millis": 0.5, "p95_millis": 0.95, "p99_millis": 0.99}


@frozen
class Window:
    """How far back a view looks, in seconds, and in which steps its charts go."""

    seconds: int
    step: int
    level: int
    """The step of the roll-ups that it is made of."""

    def start(self, now: float) -> int:
        """Where it begins (rule 1)."""
        return int(now // self.level) * self.level - self.seconds


WINDOWS: Final[Mapping[str, Window]] = {
    "5m": Window(5 * MINUTE, FINE, MINUTE),
    "1h": Window(HOUR, MINUTE, MINUTE),
    "24h": Window(DAY, 10 * MINUTE, HOUR),
    "30d": Window(30 * DAY, 6 * HOUR, DAY),
}


@define(slots=True)
class Summary:
    """What each path did within a window."""

    paths: dict[PathId, Count] = field(factory=dict)
    last_seen: dict[str, float] = field(factory=dict)
    """By `error_kind`: epoch seconds."""

    def add(self, chunk: Chunk) -> None:
        """Take in what moved."""
        for path, count in chunk.counts.items():
            mine = self.paths.get(path)
            if mine is None:
                self.paths[path] = count.copy()
            else:
                mine.add(count)
        for (_, kind), seen in chunk.last_seen.items():
            self.last_seen[kind] = max(seen, self.last_seen.get(kind, seen))


def view(name: str, began: float, now: float, slots: Iterable[Slot], summary: Summary) -> Json:
    """The totals, series, hotspots and problems of a window, see `series` and the others.

    `began` is when counting began: times are epoch seconds.
    """
    window = WINDOWS[name]
    start = window.start(now)
    inside = [slot for slot in slots if start <= slot.at <= now]
    return {
        "window": name,
        "now": now,
        "totals": totals(inside, max(start, began), now),
        "series": series(inside, start, window.step, now),
        "hotspots": hotspots(summary),
        "problems": problems(summary),
    }


def totals(slots: Iterable[Slot], start: float, now: float) -> Json:
    """One count of all, and the mean rate in requests a second; null for less than a second."""
    total, covered = Count(), now - start
    for slot in slots:
        total.add(slot.total)
    return {
        **_counted(total),
        "rate": round(total.requests / covered, 3) if covered >= 1 else None,
        **_percentiles(total),
    }


def series(slots: Iterable[Slot], start: int, step: int, now: float) -> Json:
    """One point a step, from `start` (epoch seconds) to the one that `now` lies in."""
    points = [Slot(at) for at in range(start, int(now) + 1, step)]
    for slot in slots:
        index = (slot.at - start) // step
        if index < len(points):
            points[index].add(slot)
    names = ("requests", "failures", "origin_errors", "bytes_in", "bytes_out")
    lines: Json = {name: [getattr(point.total, name) for point in points] for name in names}
    for name, fraction in _PERCENTILES.items():
        lines[name] = [_millis(point.total, fraction) for point in points]
    lines["agents_connected"] = [point.agents for point in points]
    return {"start": start, "step_seconds": step, **lines}


def hotspots(summary: Summary) -> Json:
    """Listeners, routes, targets and agents: the top ten of each measure, most requests first."""
    kinds: dict[str, dict[str, Count]] = {
        kind: {} for kind in ("listeners", "routes", "targets", "agents")
    }
    for path, count in summary.paths.items():
        target = None if path.target is None else f"{path.route}/{path.target}"
        ids = (path.listener, path.route, target, path.agent)
        for found, id in zip(kinds.values(), ids, strict=True):
            if id is not None:
                mine = found.get(id)
                if mine is None:
                    found[id] = count.copy()
                else:
                    mine.add(count)
    return {kind: _hottest(found) for kind, found in kinds.items()}


def _hottest(found: Mapping[str, Count]) -> list[Json]:
    latest = {id: _millis(count, 0.95) or 0.0 for id, count in found.items()}
    measures: tuple[Callable[[str], float], ...] = (
        lambda id: found[id].requests,
        lambda id: found[id].failures,
        lambda id: latest[id],
    )
    chosen: set[str] = set()
    for measure in measures:
        ranked = sorted(found, key=lambda id: (-measure(id), id))
        chosen.update(islice((id for id in ranked if measure(id) > 0), _TOP))
    ranked = sorted(chosen, key=lambda id: (-found[id].requests, id))
    return [{"id": id, **_counted(found[id]), "p95_millis": latest[id]} for id in ranked]


def problems(summary: Summary) -> list[Json]:
    """How requests ended, by `error_kind`, the most frequent first; the clients' leaving too."""
    count: Counter[str] = Counter()
    routes: dict[str, Counter[str]] = {}
    for path, counted in summary.paths.items():
        for kind, times in counted.kinds.items():
            count[kind] += times
            where = routes.setdefault(kind, Counter())
            if path.route is not None:
                where[path.route] += times
    return [
        {
            "error_kind": kind,
            "count": times,
            "last_seen": summary.last_seen.get(kind),
            "routes": [list(one) for one in _most(routes[kind], _TOP_ROUTES)],
        }
        for kind, times in _most(count, len(count))
    ]


def _most(counter: Counter[str], limit: int) -> list[tuple[str, int]]:
    """Most common first; those as common by name, so that a view does not change by itself."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:limit]


def percent(part: float, whole: float) -> float | None:
    """A share in percent, two digits after the point, rounded down; None of nothing."""
    return floor(part * 10_000 / whole) / 100 if whole else None


def _counted(count: Count) -> Json:
    return {
        "requests": count.requests,
        "failures": count.failures,
        "origin_errors": count.origin_errors,
        "success_percent": percent(count.requests - count.failures, count.requests),
        "bytes_in": count.bytes_in,
        "bytes_out": count.bytes_out,
    }


def _percentiles(count: Count) -> Json:
    return {name: _millis(count, fraction) for name, fraction in _PERCENTILES.items()}


def _millis(count: Count, fraction: float) -> float | None:
    seconds = percentile(count.histogram, fraction)
    return None if seconds is None else round(seconds * 1000, 2)
