from __future__ import annotations

import pytest

from p2pstream.config.scalars import TokenHash
from p2pstream.manage.session import (
    IDLE_SECONDS,
    LIFETIME_SECONDS,
    MAX_SESSIONS,
    Sessions,
)

ADMIN = TokenHash.of("mine")


def test_a_session_goes_on_while_it_is_used() -> None:
    sessions = Sessions()
    value = sessions.begin(ADMIN, 0.0)
    now = 0.0
    while now + IDLE_SECONDS / 2 <= LIFETIME_SECONDS:
        now += IDLE_SECONDS / 2
        assert sessions.use(value, ADMIN, now)
    assert not sessions.use(value, ADMIN, LIFETIME_SECONDS + 1)
    assert len(sessions) == 0


def test_it_ends_when_it_was_not_used_for_long() -> None:
    sessions = Sessions()
    value = sessions.begin(ADMIN, 0.0)
    assert not sessions.use(value, ADMIN, IDLE_SECONDS + 1)
    assert not sessions.use(value, ADMIN, IDLE_SECONDS + 1)


def test_it_belongs_to_its_token() -> None:
    sessions = Sessions()
    value = sessions.begin(ADMIN, 0.0)
    assert not sessions.use(value, TokenHash.of("another"), 1.0)
    assert not sessions.use(value, ADMIN, 1.0)


def test_logging_out_ends_one_alone() -> None:
    sessions = Sessions()
    one, other = sessions.begin(ADMIN, 0.0), sessions.begin(ADMIN, 0.0)
    sessions.end(one)
    sessions.end("nonsense")
    assert not sessions.use(one, ADMIN, 0.0)
    assert sessions.use(other, ADMIN, 0.0)


def test_there_are_so_many_and_the_one_unused_for_longest_ends() -> None:
    sessions = Sessions()
    first, *_ = values = [sessions.begin(ADMIN, 0.0) for _ in range(MAX_SESSIONS)]
    assert sessions.use(first, ADMIN, 1.0)
    sessions.begin(ADMIN, 2.0)
    assert len(sessions) == MAX_SESSIONS
    assert sessions.use(first, ADMIN, 3.0)
    assert not sessions.use(values[1], ADMIN, 3.0)


@pytest.mark.parametrize("value", ["", "x", "\xff", "\u20ac", "a" * 10_000])
def test_a_value_of_somebodys_own_is_nothing(value: str) -> None:
    sessions = Sessions()
    sessions.begin(ADMIN, 0.0)
    assert not sessions.use(value, ADMIN, 0.0)


def test_values_are_32_random_bytes_and_are_not_kept() -> None:
    asked: list[int] = []

    def random(size: int) -> str:
        asked.append(size)
        return "value"

    sessions = Sessions(random)
    assert sessions.begin(ADMIN, 0.0) == "value"
    assert asked == [32]
    assert "value" not in repr(sessions._sessions)
    real = Sessions()
    assert len({real.begin(ADMIN, 0.0) for _ in range(10)}) == 10
