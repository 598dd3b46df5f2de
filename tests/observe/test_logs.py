from __future__ import annotations

import io
import json
import logging
import ssl
from contextlib import suppress

import pytest

from p2pstream.observe import logs

log = logging.getLogger("p2pstream.proxy.test")


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


def test_what_cannot_be_raised_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __del__(self) -> None:
            raise ValueError("odd")

    stream = written("text")
    logs.catch_unraisable()
    Odd()
    assert "ValueError('odd')" in stream.getvalue()
    assert capsys.readouterr().err == ""


def test_a_host_beyond_ascii_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    stream = written("text", "debug")
    logs.catch_unraisable()
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.sni_callback = lambda *_: None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client.wrap_bio(back, there, server_hostname="aaaa.example.com")
    with suppress(ssl.SSLWantReadError):
        side.do_handshake()
    changed = there.read().replace(b"aaaa.example.com", b"\xff\xfeaa.example.com")
    hello = ssl.MemoryBIO()
    hello.write(changed)
    with pytest.raises(ssl.SSLError):
        server.wrap_bio(hello, ssl.MemoryBIO(), server_side=True).do_handshake()
    assert "a TLS client asked for b'\\xff\\xfeaa.example.com'" in stream.getvalue()
    assert capsys.readouterr().err == ""
