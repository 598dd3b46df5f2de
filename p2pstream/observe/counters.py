"""Counts since the start, per (listener, route, target, agent): pure, added up per flush."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from attrs import define, field

from p2pstream.observe.records import Record


class PathId(NamedTuple):
    """Where requests went; None where they did not get that far."""

    listener: str
    route: str | None
    target: str | None
    agent: str | None


@define(slots=True)
class Count:
    """What was counted for one path."""

    requests: int = 0
    failures: int = 0
    """Requests that ended with an `error_kind` that is not the client's own leaving."""
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    """Durations, added up."""


@define(slots=True)
class Counters:
    """Totals since the start."""

    by_path: dict[PathId, Count] = field(factory=dict)
    by_kind: dict[str, int] = field(factory=dict)
    by_status: dict[int, int] = field(factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Count some more requests."""
        by_path, by_kind, by_status = self.by_path, self.by_kind, self.by_status
        for record in records:
            path = PathId(record.listener, record.route, record.target, record.agent)
            count = by_path.get(path)
            if count is None:
                count = by_path[path] = Count()
            count.requests += 1
            count.bytes_in += record.bytes_in
            count.bytes_out += record.bytes_out
            count.seconds += record.duration
            by_status[record.status] = by_status.get(record.status, 0) + 1
            kind = record.error_kind
            if kind is not None:
                by_kind[kind] = by_kind.get(kind, 0) + 1
                if kind != "client_cancelled":
                    count.failures += 1
