"""Counts by time: what each pull of the counters found, in slots and in chunks: pure.

Rules:

1. Requests belong to the moment in which they were pulled, a second or a few after their end. A
   wall clock that goes back by less than an hour is waited for, and followed otherwise.
2. Slots hold totals: of 5 seconds for six minutes, of a minute for 25 hours. Chunks hold what each
   path moved within one minute at most; sealed ones never change, so that threads may read them.
3. Only what moved costs: a path without requests stands in no chunk.
4. Chunks wait in `unwritten` until the history has them. If that takes long, those older than an
   hour are merged by the hour, and the oldest are let go beyond `MAX_WAITING` entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from attrs import define, field

from p2pstream.observe.counters import Count, Moved, PathId

FINE: Final = 5
MINUTE: Final = 60
HOUR: Final = 3_600
# What the windows of 5 minutes and of 24 hours reach back at most, see `overview.WINDOWS`.
_FINE_SLOTS: Final = 6 * MINUTE // FINE + 1
_MINUTE_SLOTS: Final = 25 * 60 + 1
_RECENT_SECONDS: Final = 6 * MINUTE
# Entries that are copied in about two milliseconds.
_COPIED: Final = 1_000
# 80 MB at 0.8 KB each, measured. A thousand paths that move all the time fill it in the last
# hour's minutes and 40 hours: a longer outage costs the history before that, not the memory.
MAX_WAITING: Final = 100_000


def fewest(one: int | None, other: int | None) -> int | None:
    """The smaller of two numbers of agents, as far as they are known."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


@define(slots=True)
class Slot:
    """Totals of the time that begins at `at` (epoch seconds)."""

    at: int
    total: Count = field(factory=Count)
    agents: int | None = None
    """The fewest agents that were connected."""

    def add(self, other: Slot) -> None:
        """Take in another slot of the same time."""
        self.total.add(other.total)
        self.agents = fewest(self.agents, other.agents)


@define(slots=True)
class Chunk:
    """What moved within one minute, or a part of it; merged ones: within one hour."""

    at: int
    counts: dict[PathId, Count] = field(factory=dict)
    last_seen: dict[tuple[PathId, str], float] = field(factory=dict)
    """When an `error_kind` was last seen, by path and kind."""
    slots: dict[int, Slot] = field(factory=dict)
    """Totals by minute."""

    def add(self, other: Chunk) -> None:
        """Take in another chunk, whose values are copied."""
        for path, count in other.counts.items():
            mine = self.counts.get(path)
            if mine is None:
                self.counts[path] = count.copy()
            else:
                mine.add(count)
        for key, seen in other.last_seen.items():
            self.last_seen[key] = max(seen, self.last_seen.get(key, seen))
        for at, slot in other.slots.items():
            self.slots.setdefault(at, Slot(at)).add(slot)

    def copy(self) -> Chunk:
        """The same numbers, on their own."""
        copy = Chunk(self.at)
        copy.add(self)
        return copy


class Rollup:
    """What was pulled since the start, and what a history had of the time before it."""

    def __init__(self, started: float) -> None:
        """`started`: wall clock, epoch seconds."""
        self.started = self.began = started
        """When counting began: of this process, and of the history it goes on with."""
        self.now = started
        """The last pull: what is shown is of this moment."""
        self.fine: deque[Slot] = deque(maxlen=_FINE_SLOTS)
        self.minutes: deque[Slot] = deque(maxlen=_MINUTE_SLOTS)
        self.unwritten: list[Chunk] = []
        """Sealed, oldest first."""
        self.lost = 0
        """Entries let go by rule 4."""
        self._recent: deque[Chunk] = deque()  # sealed, written or not
        self._seen: dict[PathId, Count] = {}
        self._chunk = Chunk(_floor(started, MINUTE))

    # --- pulling --------------------------------------------------------------------------------

    def pull(self, moved: Moved, now: float, agents: int | None) -> None:
        """Take in what moved since the last time; `agents` are connected now."""
        self.now = now = max(now, self.now) if now > self.now - HOUR else now
        minute = _floor(now, MINUTE)
        if minute != self._chunk.at:
            self.seal()
            self._chunk = Chunk(minute)
        slot = Slot(minute, agents=agents)
        for path, count in moved:
            count.moved = False
            seen = self._seen.get(path)
            delta = count.copy() if seen is None else count.since(seen)
            self._seen[path] = count.copy()
            slot.total.add(delta)
            for kind in delta.kinds:
                self._chunk.last_seen[path, kind] = now
            mine = self._chunk.counts.get(path)
            if mine is None:
                self._chunk.counts[path] = delta
            else:
                mine.add(delta)
        self._chunk.slots.setdefault(minute, Slot(minute)).add(slot)
        _last(self.minutes, minute).add(slot)
        _last(self.fine, _floor(now, FINE)).add(slot)

    def seal(self) -> None:
        """End the chunk that is growing: it can be written."""
        chunk = self._chunk
        self._chunk = Chunk(chunk.at)
        if not chunk.slots:
            return
        self.unwritten.append(chunk)
        self._recent.append(chunk)
        oldest = self.now - _RECENT_SECONDS - MINUTE
        while self._recent and not oldest <= self._recent[0].at <= self.now:
            self._recent.popleft()  # too old, or of a clock that was far ahead

    # --- the way to the history -----------------------------------------------------------------

    def written(self, count: int) -> None:
        """So many of the oldest unwritten chunks are in the history."""
        del self.unwritten[:count]

    def replace(self, count: int, chunks: list[Chunk], lost: int) -> None:
        """So many of the oldest unwritten chunks are these now, see `compacted`."""
        self.unwritten[:count] = chunks
        self.lost += lost

    def remember(self, minutes: Iterable[Slot], began: float) -> None:
        """Take in the totals that a history had by minute, and when it began."""
        self.began = min(began, self.began)
        known = {slot.at: slot for slot in self.minutes}
        for slot in minutes:
            if slot.at in known:
                known[slot.at].add(slot)
            else:
                known[slot.at] = slot
        ordered = sorted(known.values(), key=lambda slot: slot.at)
        self.minutes = deque(ordered, maxlen=_MINUTE_SLOTS)

    # --- reading --------------------------------------------------------------------------------

    def recent(self, start: float) -> list[Chunk]:
        """What moved since `start`, a minute's begin at most six minutes ago; may be kept."""
        running = self._running()
        return [*(chunk for chunk in self._recent if start <= chunk.at <= self.now), *running]

    def waiting(self, start: float) -> list[Chunk]:
        """What moved since `start` and is not in the history yet; may be kept."""
        running = self._running()
        return [*(chunk for chunk in self.unwritten if start <= chunk.at <= self.now), *running]

    def _running(self) -> list[Chunk]:
        """What is not sealed: a copy; or nothing, sealed now, if a copy would take long."""
        if len(self._chunk.counts) > _COPIED:
            self.seal()
            return []
        return [self._chunk.copy()]


def compacted(chunks: Iterable[Chunk], now: float) -> tuple[list[Chunk], int]:
    """The same chunks within the bounds of rule 4, and how many entries that cost."""
    groups: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        is_old = chunk.at + MINUTE <= now - HOUR
        groups.setdefault(_floor(chunk.at, HOUR) if is_old else chunk.at, []).append(chunk)
    kept = [_merged(at, groups[at]) for at in sorted(groups)]
    waiting = sum(len(chunk.counts) for chunk in kept)
    lost = 0
    while waiting - lost > MAX_WAITING and len(kept) > 1:
        lost += len(kept.pop(0).counts)
    return kept, lost


def _floor(seconds: float, step: int) -> int:
    return int(seconds // step) * step


def _last(slots: deque[Slot], at: int) -> Slot:
    """The slot of this time, a new one if need be."""
    if not slots or slots[-1].at != at:
        slots.append(Slot(at))
    return slots[-1]


def _merged(at: int, chunks: list[Chunk]) -> Chunk:
    """One chunk of several; a sealed one stays as it is."""
    if len(chunks) == 1 and chunks[0].at == at:
        return chunks[0]
    merged = Chunk(at)
    for chunk in chunks:
        merged.add(chunk)
    return merged
