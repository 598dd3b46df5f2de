from __future__ import annotations

from typing import Any

import pytest

from p2pstream.manage.request_views import requests
from p2pstream.manage.steps import at_once
from p2pstream.observe.records import Record


def record(number: int, **rest: Any) -> Record:
    given = {
        "ended": 1_700_000_000.12345 + number,
        "request_id": number,
        "listener": "web",
        "route": "r",
        "target": "t",
        "agent": None,
        "method": b"GET",
        "host": b"a.test",
        "path": b"/\xff\xc3\xa9",
        "status": 200,
        "error_kind": None,
        "bytes_in": 1,
        "bytes_out": 2,
        "duration": 0.0123456,
        "first_byte": 0.01,
        "connect": None,
        "reused": True,
        "attempts": 1,
        "client": "192.0.2.1",
    }
    return Record(**{**given, **rest})


def shown(*records: Record, **question: Any) -> list[Any]:
    return at_once(requests(records, lambda id: f"x-{id:x}", **{"limit": 100, **question}))[
        "requests"
    ]


def test_one_request() -> None:
    assert shown(record(26)) == [
        {
            "id": "x-1a",
            "at": 1_700_000_026.123,
            "listener": "web",
            "route": "r",
            "target": "t",
            "agent": None,
            "method": "GET",
            "host": "a.test",
            "path": "/\ufffdé",
            "status": 200,
            "error_kind": None,
            "bytes_in": 1,
            "bytes_out": 2,
            "millis": 12.35,
            "first_byte_millis": 10.0,
            "connect_millis": None,
            "reused": True,
            "attempts": 1,
        }
    ]


ALL = (
    record(1),
    record(2, status=404, route=None, target=None, error_kind="no_route"),
    record(3, status=502, agent="a"),
    record(4, status=503, route="other"),
    record(5, status=99),
)


@pytest.mark.parametrize(
    ("question", "ids"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"status": "502"}, [3]),
        ({"status": "5xx"}, [4, 3]),
        ({"status": "5xx", "limit": 1}, [4]),
        ({"status": "4xx"}, [2]),
        ({"route": "r"}, [5, 3, 1]),
        ({"route": "r", "agent": "a"}, [3]),
        ({"route": "none"}, []),
    ],
)
def test_which_are_shown(question: dict[str, Any], ids: list[int]) -> None:
    assert [one["id"] for one in shown(*ALL, **question)] == [f"x-{id:x}" for id in ids]


def test_a_full_ring_is_looked_through_in_steps() -> None:
    steps = requests([record(1)] * 10_000, str, limit=5, route="none")
    assert sum(1 for _ in steps) == 5
