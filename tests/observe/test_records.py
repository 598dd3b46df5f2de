from __future__ import annotations

from p2pstream.observe.records import RING_SIZE, Record, Records


def record(request_id: int) -> Record:
    return Record(
        0.0, request_id, "l", "r", "t", None, b"GET", b"a", b"/", 200, None,
        0, 0, 0.1, None, None, False, 0, "192.0.2.1",
    )  # fmt: skip


def test_ids_are_counted_and_named_uniquely_across_restarts() -> None:
    records = Records("3fa9c1")
    assert [records.next_id() for _ in range(3)] == [1, 2, 3]
    assert records.count == 3
    assert records.name(255) == "3fa9c1-ff"
    assert Records("other").name(255) != records.name(255)


def test_each_record_is_flushed_once_and_in_order() -> None:
    records = Records("x")
    for request_id in (1, 2):
        records.append(record(request_id))
    assert [one.request_id for one in records.flush()] == [1, 2]
    records.append(record(3))
    assert [one.request_id for one in records.flush()] == [3]
    assert records.flush() == []


def test_the_latest_are_kept_flushed_or_not() -> None:
    records = Records("x")
    for request_id in range(RING_SIZE):
        records.append(record(request_id))
    records.flush()
    for request_id in range(RING_SIZE, RING_SIZE + 5):
        records.append(record(request_id))
    latest = [one.request_id for one in records.latest()]
    assert latest == list(range(5, RING_SIZE + 5))
    records.flush()
    assert [one.request_id for one in records.latest()] == latest


def test_append_stays_the_same_across_flushes() -> None:
    """It is looked up once and called for every request."""
    records = Records("x")
    append = records.append
    records.flush()
    append(record(1))
    assert len(records.flush()) == 1
