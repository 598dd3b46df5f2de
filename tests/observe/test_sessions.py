from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.observe.overview import DAY
from p2pstream.observe.sessions import LATEST, Session, Sessions

NOON = 20_000 * DAY + DAY / 2


def test_an_agent_comes_and_goes() -> None:
    sessions = Sessions(30)
    sessions.begin("a", NOON)
    sessions.name("a", "192.0.2.1:5", "1.0")
    assert sessions.history("a", NOON + 100) == {
        "uptime_percent": 100.0,
        "connections": 1,
        "disconnections": 0,
        "connected_since": NOON,
        "last_seen": None,
        "sessions": [
            {
                "start": NOON,
                "end": None,
                "reason": None,
                "address": "192.0.2.1:5",
                "version": "1.0",
            }
        ],
    }
    sessions.end("a", "the line broke", NOON + 100)
    sessions.begin("a", NOON + 300)
    shown = sessions.history("a", NOON + 400)
    assert (shown["uptime_percent"], shown["connections"], shown["disconnections"]) == (50.0, 2, 1)
    assert shown["connected_since"] == NOON + 300
    assert [one["reason"] for one in shown["sessions"]] == [None, "the line broke"]
    sessions.end("a", "gone", NOON + 500)
    assert sessions.summary("a", NOON + 900)["last_seen"] == NOON + 500
    assert sessions.summary("a", NOON + 900)["connected_since"] is None


def test_an_agent_that_was_never_seen() -> None:
    assert Sessions(30).history("a", NOON) == {
        "uptime_percent": None,
        "connections": 0,
        "disconnections": 0,
        "connected_since": None,
        "last_seen": None,
        "sessions": [],
    }


def test_ends_without_a_session_are_nothing() -> None:
    sessions = Sessions(30)
    sessions.end("a", "?", NOON)
    sessions.name("a", "x", "y")
    sessions.begin("a", NOON)
    sessions.end("a", "first", NOON + 1)
    sessions.end("a", "second", NOON + 2)
    assert sessions.history("a", NOON)["sessions"][0]["reason"] == "first"


def test_a_newer_session_ends_the_open_one_and_keys_differ() -> None:
    sessions = Sessions(30)
    sessions.begin("a", NOON)
    sessions.begin("a", NOON)
    newest, older = sessions.history("a", NOON)["sessions"]
    assert older["reason"] == "replaced by a newer connection"
    assert newest["start"] > older["start"]
    assert len(sessions.changed) == 2


def test_the_latest_fifty_are_kept_and_all_are_counted() -> None:
    sessions = Sessions(30)
    for number in range(60):
        sessions.begin("a", NOON + number)
        sessions.end("a", str(number), NOON + number + 0.5)
    shown = sessions.history("a", NOON + 60)
    assert [one["reason"] for one in shown["sessions"]] == [
        str(number) for number in range(59, 59 - LATEST, -1)
    ]
    assert (shown["connections"], shown["disconnections"]) == (60, 60)
    assert shown["uptime_percent"] == 50.0


def test_uptime_is_of_the_retention() -> None:
    sessions = Sessions(2)
    now = NOON + 10 * DAY
    sessions.begin("a", NOON)  # ten days ago
    assert sessions.summary("a", now)["uptime_percent"] == 100.0
    sessions.end("a", "x", now)
    sessions.forget(now)
    # Two whole days before today, and half of today.
    assert sessions.summary("a", now + DAY / 2 - 1)["uptime_percent"] == pytest.approx(
        100 * 2.5 / 3, abs=0.01
    )
    assert sessions.summary("a", now + 5 * DAY)["uptime_percent"] == 0.0


def test_what_changed_is_told_until_it_is_written() -> None:
    sessions = Sessions(30)
    sessions.begin("a", NOON)
    began = list(sessions.changed.values())
    sessions.name("a", "x", "y")
    sessions.written(began)  # it changed meanwhile
    (named,) = sessions.changed.values()
    assert named.address == "x"
    sessions.written([named])
    assert not sessions.changed
    sessions.note_open()
    assert list(sessions.changed.values()) == [named]
    sessions.end_all("server stopped", NOON + 1)
    assert [one.reason for one in sessions.changed.values()] == ["server stopped"]


def test_the_past_is_adopted_before_what_is_there() -> None:
    past = Sessions(30)
    past.remember(Session("a", NOON - 200, NOON - 100, "then", "x", "1"))
    past.remember(Session("b", NOON - 200, NOON - 100, "then", "x", "1"))
    sessions = Sessions(30)
    sessions.begin("a", NOON)
    sessions.adopt(past)
    shown = sessions.history("a", NOON + 100)
    assert [one["start"] for one in shown["sessions"]] == [NOON, NOON - 200]
    assert (shown["connections"], shown["disconnections"]) == (2, 1)
    assert shown["uptime_percent"] == 66.66
    assert sessions.summary("b", NOON)["last_seen"] == NOON - 100
    assert len(sessions.changed) == 1  # the past is written already


def test_agents_are_forgotten_a_year_after_they_left() -> None:
    sessions = Sessions(30)
    sessions.begin("a", NOON)
    sessions.end("a", "x", NOON + 1)
    sessions.forget(NOON + 100 * DAY)
    assert sessions.summary("a", NOON + 100 * DAY)["last_seen"] == NOON + 1
    sessions.forget(NOON + 400 * DAY)
    assert sessions.summary("a", NOON + 400 * DAY)["last_seen"] is None


def test_a_machine_that_starts_without_knowing_the_time() -> None:
    sessions = Sessions(30)
    sessions.begin("a", 0.0)
    sessions.end("a", "x", NOON)  # meanwhile the time was told
    sessions.remember(Session("b", 0.0, NOON))
    for agent in "ab":
        assert len(sessions._agents[agent].days) == 32  # the retention's, and the day it began
        assert sessions.summary(agent, NOON)["uptime_percent"] == 100.0
    sessions.forget(NOON)
    for agent in "ab":
        assert len(sessions._agents[agent].days) == 31


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.floats(-3 * DAY, 3 * DAY)), max_size=20))
def test_whatever_the_clock_does_a_share_is_one(steps: list[tuple[bool, float]]) -> None:
    sessions, now = Sessions(2), NOON
    for begins, jump in steps:
        if begins:
            sessions.begin("a", now)
        else:
            sessions.end("a", "x", now)
        before, now = now, now + jump
        shown = sessions.summary("a", now)["uptime_percent"]
        assert shown is None or 0 <= shown <= 100
        if shown is None:  # no time has passed since it was first seen
            assert not begins or now <= before


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(1, 2 * DAY), st.floats(1, 2 * DAY)), min_size=1, max_size=20),
    st.integers(1, 40),
)
def test_uptime_is_the_share_of_time_connected(
    gaps: list[tuple[float, float]], retention: int
) -> None:
    """Against the same, worked out from all sessions."""
    sessions, now, spans = Sessions(retention), NOON, []
    for held, away in gaps:
        sessions.begin("a", now)
        sessions.end("a", "x", now + held)
        spans.append((now, now + held))
        now += held + away
    begin = max((now // DAY - retention) * DAY, NOON)
    connected = sum(max(end - max(start, begin), 0.0) for start, end in spans)
    shown = sessions.summary("a", now)["uptime_percent"]
    assert shown == pytest.approx(100 * connected / (now - begin), abs=0.02)
