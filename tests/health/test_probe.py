from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from p2pstream import __version__
from p2pstream.config.load import load_text
from p2pstream.errors import (
    AgentDialFailed,
    AgentDisconnected,
    CommandError,
    ConnectFailed,
    P2PStreamError,
    StreamBroken,
    TlsFailed,
)
from p2pstream.health.probe import MAX_BODY_BYTES, Check, Result, probe
from p2pstream.net.stream import Stream
from p2pstream.snapshot import TargetPlan, compile_snapshot

if TYPE_CHECKING:
    from tests.health.conftest import Script

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def check(health: str = "", target: str = "") -> Check:
    text = f"""
[[listeners]]
id = "web"
port = 80
[[routes]]
id = "r"
listener_id = "web"
is_default = true
[[routes.targets]]
name = "t"
url = "http://origin.test:8080"
{target}
[routes.targets.health_check]
{health}
"""
    return Check.of(compile_snapshot(load_text(text)).tables.targets["r", "t"])


class Dialler:
    """Hands out one stream, or one failure, and remembers what it was asked."""

    def __init__(self, outcome: Stream | Exception | None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, str, float]] = []

    async def __call__(self, _: TargetPlan, agent_id: str, name: str, seconds: float) -> Stream:
        self.asked.append((agent_id, name, seconds))
        await trio.lowlevel.checkpoint()
        if self.outcome is None:
            await trio.sleep_forever()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome


async def run(one: Check, outcome: Stream | Exception | None) -> Result:
    return await probe(one, "", "check-1", Dialler(outcome))


# --- what is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health", "target", "expected"),
    [
        ("", "", "GET / HTTP/1.1|host: origin.test:8080|user-agent: {ua}|accept: */*"),
        (
            'method = "HEAD"\npath = "/ready?deep=1"',
            "preserve_host = true",
            "HEAD /ready?deep=1 HTTP/1.1|host: origin.test:8080|user-agent: {ua}|accept: */*",
        ),
        (
            "",
            'upstream_request_headers = { X-Key = "k", User-Agent = "mine" }',
            "GET / HTTP/1.1|host: origin.test:8080|user-agent: mine|accept: */*|x-key: k",
        ),
        (
            "",
            'upstream_basic_auth = { username = "me", password = "pass" }',
            "GET / HTTP/1.1|host: origin.test:8080|user-agent: {ua}|accept: */*"
            "|authorization: Basic " + base64.b64encode(b"me:pass").decode(),
        ),
    ],
)
async def test_the_request(script: type[Script], health: str, target: str, expected: str) -> None:
    stream = script(FINE)
    await run(check(health, target), stream)
    lines = expected.format(ua=f"p2pstream/{__version__}").split("|")
    assert stream.sent.decode() == "\r\n".join([*lines, "connection: close", "", ""])


async def test_it_goes_through_the_agent_within_the_time_of_the_check(
    script: type[Script],
) -> None:
    dialler = Dialler(script(FINE))
    await probe(check("timeout_millis = 700"), "agent-a", "check-9", dialler)
    assert dialler.asked == [("agent-a", "check-9", 0.7)]


# --- what is judged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health", "status", "passed", "reason"),
    [
        ("", "200 OK", True, "status 200"),
        ("", "399 Odd", True, "status 399"),
        ("", "400 Bad", False, "status 400, expected 200 to 399"),
        ("", "503 Busy", False, "status 503, expected 200 to 399"),
        ("expected_status_max = 200", "204 None", False, "status 204, expected 200"),
        ("expected_status_max = 599", "503 Busy", True, "status 503"),
    ],
)
async def test_the_status_decides(
    script: type[Script], health: str, status: str, passed: bool, reason: str
) -> None:
    stream = script(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    result = await run(check(health), stream)
    assert (result.passed, result.reason) == (passed, reason)
    assert stream.ended == "closed"


async def test_a_redirect_is_an_answer_and_not_followed(script: type[Script]) -> None:
    dialler = Dialler(
        script(b"HTTP/1.1 302 Found\r\nLocation: http://other.test/\r\nContent-Length: 0\r\n\r\n")
    )
    result = await probe(check(), "", "check-1", dialler)
    assert result.passed
    assert len(dialler.asked) == 1


async def test_interim_answers_are_passed_over(script: type[Script]) -> None:
    assert (await run(check(), script(b"HTTP/1.1 103 Early Hints\r\n\r\n" + FINE))).passed


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("Content-Length: 1000000000", b"x" * 10_000),
        ("Transfer-Encoding: chunked", b"2000\r\n" + b"x" * 0x2000 + b"\r\n"),
        ("Connection: close", b"x" * 10_000),
    ],
)
async def test_of_an_endless_body_64_kib_are_read(
    script: type[Script], head: str, piece: bytes
) -> None:
    stream = script(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode(), endless=piece)
    assert (await run(check(), stream)).passed
    assert MAX_BODY_BYTES <= stream.read < MAX_BODY_BYTES + 20_000


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed before its response was whole"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "closed before its response was whole"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "without a pending proposal"),
    ],
)
async def test_what_is_no_whole_answer_fails(
    script: type[Script], answer: bytes, reason: str
) -> None:
    stream = script(answer)
    result = await run(check(), stream)
    assert not result.passed
    assert reason in result.reason
    assert stream.ended == "aborted"


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("10.0.0.1:80: Connection refused"),
        TlsFailed("TLS: certificate verify failed"),
        AgentDialFailed("dial_forbidden: no rule"),
        AgentDisconnected("the peer closed the connection"),
        StreamBroken("Connection reset by peer"),
        CommandError("ca.pem: No such file or directory"),
    ],
)
async def test_no_connection_fails_with_its_reason(error: P2PStreamError) -> None:
    result = await run(check(), error)
    assert (result.passed, result.reason) == (False, error.args[0])


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (lambda _: None, "no connection within 0.5 s"),
        (lambda script: script(b"", ends=False), "no answer within 0.5 s"),
        (lambda script: script(FINE[:-1], ends=False), "no answer within 0.5 s"),
    ],
    ids=["connection", "head", "body"],
)
async def test_the_time_covers_all_of_it(
    script: type[Script],
    stream: Callable[[type[Script]], Script | None],
    reason: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    one = stream(script)
    begun = trio.current_time()
    result = await run(check("timeout_millis = 500"), one)
    assert trio.current_time() - begun == pytest.approx(0.5)
    assert (result.passed, result.reason) == (False, reason)
    assert result.seconds == pytest.approx(0.5)
    assert one is None or one.ended == "aborted"


async def test_a_cancelled_check_leaves_no_connection(
    script: type[Script], autojump_clock: trio.testing.MockClock
) -> None:
    stream = script(b"", ends=False)
    with trio.move_on_after(0.1) as scope:
        await run(check(), stream)
    assert scope.cancelled_caught
    assert stream.ended == "aborted"


async def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(check(), ZeroDivisionError("ours"))
