from __future__ import annotations

from typing import Any

import pytest

from p2pstream.observe import rollup as module
from p2pstream.observe.counters import Count, Counters, PathId
from p2pstream.observe.rollup import Chunk, Rollup, Slot, compacted

START = 1_800_000_000.0  # a minute's begin


class Life:
    """Counters and their roll-up."""

    def __init__(self, record: Any) -> None:
        self.counters = Counters()
        self.rollup = Rollup(START)
        self._record = record

    def pull(self, seconds: float, *requests: dict[str, Any], agents: int | None = 2) -> None:
        """So many seconds after the start, these had ended."""
        self.counters.add([self._record(**values) for values in requests])
        self.rollup.pull(self.counters.take_moved(), START + seconds, agents)

    def compact(self) -> None:
        """As after a write that failed."""
        before = self.rollup.unwritten.copy()
        self.rollup.replace(len(before), *compacted(before, self.rollup.now))


@pytest.fixture
def life(record: Any) -> Life:
    return Life(record)


def requests(slots: Any) -> list[tuple[int, int]]:
    return [(slot.at - int(START), slot.total.requests) for slot in slots]


def test_slots_hold_what_came_in_their_time(life: Life) -> None:
    life.pull(1, {}, {})
    life.pull(4.9, {})
    life.pull(5, {})
    life.pull(61, {}, {"route": "other"})
    life.pull(62)
    assert requests(life.rollup.fine) == [(0, 3), (5, 1), (60, 2)]
    assert requests(life.rollup.minutes) == [(0, 4), (60, 2)]
    assert life.rollup.now == START + 62


def test_slots_are_bounded(life: Life) -> None:
    for minute in range(26 * 60):
        life.pull(minute * 60, {})
        life.rollup.seal()
    assert len(life.rollup.minutes) == 25 * 60 + 1
    assert len(life.rollup.fine) == 73
    assert sum(len(chunk.counts) for chunk in life.rollup.recent(START)) <= 9


def test_agents_are_the_fewest_of_a_slot(life: Life) -> None:
    for seconds, agents in ((1, None), (2, 5), (3, 4), (4, 6), (6, 6)):
        life.pull(seconds, agents=agents)
    assert [slot.agents for slot in life.rollup.fine] == [4, 6]


def test_a_clock_that_goes_back_is_waited_for(life: Life) -> None:
    life.pull(100, {})
    life.pull(10, {})
    assert life.rollup.now == START + 100
    assert requests(life.rollup.fine) == [(100, 2)]


def test_a_clock_that_was_far_ahead_is_set_right(life: Life) -> None:
    life.pull(10 * 86_400, {})
    life.pull(60, {})
    life.rollup.seal()
    assert life.rollup.now == START + 60
    assert requests(life.rollup.minutes)[-1] == (60, 1)
    assert [chunk.at - START for chunk in life.rollup.unwritten] == [10 * 86_400, 60]


def test_what_a_clock_that_was_far_ahead_left_holds_nothing_up(life: Life) -> None:
    life.pull(10 * 86_400, {})
    for minute in range(30):
        life.pull(60 * minute, {})
        life.rollup.seal()
    recent = [chunk.at - START for chunk in life.rollup.recent(START)]
    assert recent == [60 * minute for minute in range(22, 30)] + [29 * 60]  # the running one
    assert len(life.rollup.waiting(START)) == 31


def test_a_jump_of_the_clock(life: Life) -> None:
    life.pull(1, {})
    life.pull(100_000, {})
    life.rollup.seal()
    assert [chunk.at for chunk in life.rollup.unwritten] == [START, START + 99_960]
    assert life.rollup.recent(START)[0].at == START + 99_960


def test_chunks_are_differences_and_sealed_by_the_minute(life: Life) -> None:
    life.pull(1, {}, {"error_kind": "no_route"})
    life.rollup.seal()
    life.pull(30, {})
    life.pull(70, {}, {}, {})
    first, second = life.rollup.unwritten
    path = PathId("web", "r", "t", None)
    assert (first.at, second.at) == (START, START)
    assert first.counts[path].kinds == {"no_route": 1}
    assert first.last_seen == {(path, "no_route"): START + 1}
    assert second.counts[path].requests == 1
    assert second.counts[path].kinds == {}
    assert second.last_seen == {}
    running = life.rollup.waiting(START)[-1]
    assert running.at == START + 60
    assert running.counts[path].requests == 3
    life.pull(71, {})
    assert running.counts[path].requests == 3  # a copy


def test_what_is_written_waits_no_longer_and_is_still_recent(life: Life) -> None:
    life.pull(1, {})
    life.rollup.seal()
    life.rollup.seal()  # nothing came since
    assert len(life.rollup.unwritten) == 1
    life.rollup.written(1)
    assert life.rollup.unwritten == []
    recent = life.rollup.recent(START)
    assert sum(count.requests for chunk in recent for count in chunk.counts.values()) == 1
    assert life.rollup.recent(START + 60)[0].counts == {}


def test_many_running_counts_are_sealed_rather_than_copied(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COPIED", 2)
    life.pull(1, {}, {"route": "b"}, {"route": "c"})
    (chunk,) = life.rollup.waiting(START)
    assert len(chunk.counts) == 3
    assert life.rollup.unwritten == [chunk]
    assert life.rollup.recent(START)[0] is chunk
    life.pull(2, {}, {"route": "b"}, {"route": "c"})
    assert len(life.rollup.recent(START)) == 2
    assert len(life.rollup.unwritten) == 2


def test_a_long_outage_is_merged_by_the_hour_and_loses_nothing(life: Life) -> None:
    for minute in range(180):
        life.pull(minute * 60 + 1, {})
        life.rollup.seal()
        life.pull(minute * 60 + 30, {"error_kind": "no_route"})
        life.rollup.seal()
        life.compact()
    chunks = life.rollup.unwritten
    # It began with an hour; the last 61 minutes end within the one that is kept by the minute.
    assert [chunk.at - START for chunk in chunks[:2]] == [0, 3600]
    assert len(chunks) == 2 + 61
    counts = [count for chunk in chunks for count in chunk.counts.values()]
    assert sum(count.requests for count in counts) == 360
    assert sum(count.kinds["no_route"] for count in counts) == 180
    slots = {at: slot for chunk in chunks for at, slot in chunk.slots.items()}
    assert sorted(slots) == [START + minute * 60 for minute in range(180)]
    assert {slot.total.requests for slot in slots.values()} == {2}


def test_what_waits_is_bounded(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    for minute in range(30):
        life.pull(minute * 60 + 1, {}, {"route": "other"})
        life.rollup.seal()
    life.compact()
    assert sum(len(chunk.counts) for chunk in life.rollup.unwritten) == 10
    assert life.rollup.lost == 50
    assert life.rollup.unwritten[-1].at == START + 29 * 60


def test_the_past_goes_before_and_into_what_is_there(life: Life) -> None:
    life.pull(1, {})
    older = [Slot(int(START) - 60, Count(5)), Slot(int(START), Count(7))]
    life.rollup.remember(older, START - 60)
    life.pull(2, {})
    assert requests(life.rollup.minutes) == [(-60, 5), (0, 9)]
    assert life.rollup.began == START - 60


def test_a_chunk_takes_in_another(record: Any) -> None:
    path = PathId("web", None, None, None)
    one = Chunk(0, {path: Count(1, kinds={"a": 1})}, {(path, "a"): 5.0}, {0: Slot(0, Count(1), 3)})
    other = Chunk(
        0, {path: Count(2, kinds={"a": 2})}, {(path, "a"): 4.0}, {0: Slot(0, Count(2), 2)}
    )
    one.add(other)
    assert one.counts[path].kinds == {"a": 3}
    assert one.last_seen == {(path, "a"): 5.0}
    assert one.slots == {0: Slot(0, Count(3), 2)}
    assert other.counts[path].requests == 2
