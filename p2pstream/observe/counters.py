"""Counts since the start, per (listener, route, target, agent): pure, added up per flush.

Rules:

1. A record is counted once, here; roll-ups and metrics are differences of these counts.
2. A failure is a request that ended with an `error_kind`, the client's own leaving apart. What an
   origin answers with a 5xx is passed on as it came: it is no failure of ours, and counted beside
   them (`origin_errors`).
3. A request's latency is how long it took; of an upgraded connection, how long its 101 took: how
   long it was used afterwards is the client's affair.
4. A count that moves says so once: `take_moved` costs what moved, not what there is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import add, sub
from typing import Final, NamedTuple

from attrs import define, field

from p2pstream.observe.latency import BOUNDS, BUCKETS
from p2pstream.observe.records import Record

_EMPTY: Final = [0] * BUCKETS

Where = tuple[str, str | None, str | None, str | None]


class PathId(NamedTuple):
    """Where requests went; None where they did not get that far."""

    listener: str
    route: str | None
    target: str | None
    agent: str | None


# A slice of a record equals a `PathId`, and is made in a tenth of the time.
assert Record._fields[2:6] == PathId._fields


@define(slots=True)
class Count:
    """What was counted for one path."""

    requests: int = 0
    failures: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    """Latencies, added up."""
    origin_errors: int = 0
    """5xx answers of origins."""
    histogram: list[int] = field(factory=_EMPTY.copy)
    """Requests by latency, see `latency`."""
    kinds: dict[str, int] = field(factory=dict)
    """Requests by `error_kind`; also those that are no failures."""
    moved: bool = field(default=False, eq=False)
    """It stands in the list of what moved."""

    def copy(self) -> Count:
        """The same numbers, on their own."""
        return Count(
            self.requests,
            self.failures,
            self.bytes_in,
            self.bytes_out,
            self.seconds,
            self.origin_errors,
            self.histogram.copy(),
            self.kinds.copy(),
        )

    def add(self, other: Count) -> None:
        """Count what was counted elsewhere as well."""
        self.requests += other.requests
        self.failures += other.failures
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.seconds += other.seconds
        self.origin_errors += other.origin_errors
        self.histogram = list(map(add, self.histogram, other.histogram))
        for kind, count in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + count

    def since(self, earlier: Count) -> Count:
        """What came after an earlier copy."""
        return Count(
            self.requests - earlier.requests,
            self.failures - earlier.failures,
            self.bytes_in - earlier.bytes_in,
            self.bytes_out - earlier.bytes_out,
            self.seconds - earlier.seconds,
            self.origin_errors - earlier.origin_errors,
            list(map(sub, self.histogram, earlier.histogram)),
            {
                kind: count - earlier.kinds.get(kind, 0)
                for kind, count in self.kinds.items()
                if count > earlier.kinds.get(kind, 0)
            },
        )


Moved = list[tuple[PathId, Count]]


@define(slots=True)
class Counters:
    """Totals since the start."""

    by_path: dict[PathId, Count] = field(factory=dict)
    by_kind: dict[str, int] = field(factory=dict)
    by_status: dict[int, int] = field(factory=dict)
    requests: int = 0
    _moved: Moved = field(factory=list)

    def add(self, records: Iterable[Record]) -> None:
        """Count some more requests."""
        by_path, by_kind, by_status = self.by_path, self.by_kind, self.by_status
        find: Callable[[Where], Count | None] = by_path.get  # type: ignore[assignment]  # a slice
        requests = self.requests
        for record in records:
            where = record[2:6]
            count = find(where)
            if count is None:
                count = by_path[PathId(*where)] = Count()
            if not count.moved:
                count.moved = True
                self._moved.append((PathId(*where), count))
            status, latency = record.status, record.duration
            if status == 101 and record.first_byte is not None:
                latency = record.first_byte
            count.requests += 1
            count.bytes_in += record.bytes_in
            count.bytes_out += record.bytes_out
            count.seconds += latency
            count.histogram[bisect_left(BOUNDS, latency)] += 1
            by_status[status] = by_status.get(status, 0) + 1
            kind = record.error_kind
            if kind is not None:
                by_kind[kind] = by_kind.get(kind, 0) + 1
                count.kinds[kind] = count.kinds.get(kind, 0) + 1
                if kind != "client_cancelled":
                    count.failures += 1
            elif status >= 500 and record.first_byte is not None:
                count.origin_errors += 1
            requests += 1
        self.requests = requests

    def take_moved(self) -> Moved:
        """The counts that moved since the last time; they go on counting.

        Whoever looks at one sets its `moved` back, in the step in which it reads it.
        """
        moved, self._moved = self._moved, []
        return moved
