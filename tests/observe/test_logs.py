from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from p2pstream.observe import logs

log = logging.getLogger("p2pstream.proxy.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger("p2pstream")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], level, root.propagate = before
    root.setLevel(level)


def written(log_format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, log_format, stream)
    return stream


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        ({"agent": "media", "active": 3}, " agent=media active=3"),
        ({"why": "it is gone"}, ' why="it is gone"'),
        ({"why": ""}, ' why=""'),
        ({"host": "a\nb"}, ' host="a\\nb"'),
        ({"host": 'a" agent=x'}, ' host="a\\" agent=x"'),
        ({"host": "a=b"}, ' host="a=b"'),
        ({"host": "ä"}, " host=ä"),
    ],
)
def test_text(fields: dict[str, object], text: str) -> None:
    stream = written("text")
    log.info("agent %s", "connected", extra={"fields": fields})
    when, _, rest = stream.getvalue().partition(" ")
    assert rest == f"info    proxy.test: agent connected{text}\n"
    assert when.endswith("+00:00")
    assert len(when) == len("2026-01-02T03:04:05.678+00:00")


def test_json() -> None:
    stream = written("json")
    log.warning("agent %s", "gone", extra={"fields": {"agent": "media", "why": {1: object}}})
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told.pop("why")
    assert told == {
        "level": "warning",
        "logger": "proxy.test",
        "message": "agent gone",
        "agent": "media",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exceptions_come_with_their_traceback(log_format: str) -> None:
    stream = written(log_format)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        log.exception("crashed")
    text = stream.getvalue()
    assert "ZeroDivisionError: by zero" in text
    if log_format == "json":
        assert "Traceback" in json.loads(text)["exception"]


def test_levels_and_reconfiguration() -> None:
    first = written("text", "warning")
    log.info("not told")
    log.warning("told once")
    second = written("json", "debug")
    log.debug("told in another form")
    assert first.getvalue().count("\n") == second.getvalue().count("\n") == 1


def test_a_message_cannot_look_like_another_line() -> None:
    stream = written("text")
    log.warning("it said %s", "\x1b]0;x\x07 and\n2026-01-02 info: forged \ud800")
    (first, second) = stream.getvalue().splitlines()
    assert first.endswith("it said \\x1b]0;x\\x07 and")
    assert second == "    2026-01-02 info: forged \\ud800"
