"""Every row of the table of endings (spec §5), and what is left after all of them."""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from p2pstream.errors import (
    AgentDialFailed,
    AgentDialTimeout,
    AgentDisconnected,
    ConnectTimeout,
    Fault,
    TlsFailed,
)
from p2pstream.net.origins import Origins
from p2pstream.proxy.connection import Connection
from p2pstream.proxy.exchange import Exchange

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Origin, Proxy, Wire

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nok"

AGENTS = """
[[agents]]
id = "a1"
token_hash = "sha256:%s"
labels = { site = "home" }
[[agents]]
id = "a2"
token_hash = "sha256:%s"
labels = { site = "home" }
""".replace("%s", "0" * 64)
THROUGH = 'transport = "agent"\nagent_selector.match_labels = { site = "home" }'


def check(answer: Any, status: int, phrase: str) -> None:
    assert answer.status == status
    assert answer.body == f"{status} {phrase}\nrequest id: req-1\n".encode()
    assert answer.fields["content-type"] == "text/plain; charset=utf-8"
    assert answer.fields["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


async def recorded(proxy: Proxy, status: int, kind: str | None) -> Any:
    record = await proxy.record()
    assert (record.status, record.error_kind) == (status, kind)
    return record


# --- before any origin ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "phrase", "kind"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400, "Bad Request", "invalid_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "Bad Request", "invalid_request"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "Bad Request", "invalid_request"),
        ("\x16\x03\x01\x02\x00\x01", 400, "Bad Request", "invalid_request"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "Bad Request",
            "invalid_request",
        ),
        ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request", "invalid_request_target"),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request", "invalid_request_target"),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request", "invalid_request_target"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "Method Not Allowed", "method_not_allowed"),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "Method Not Allowed",
            "method_not_allowed",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: " + "x" * 70_000 + "\r\n\r\n",
            431,
            "Request Header Fields Too Large",
            "header_too_large",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
            413,
            "",
            "body_too_large",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
            417,
            "Expectation Failed",
            "invalid_request",
        ),
    ],
)
async def test_refused_before_any_origin(
    lab: Lab, request_: str, status: int, phrase: str, kind: str
) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, listener="max_body_bytes = 10")
    answer = await proxy.ask(request_)
    check(answer, status, phrase or answer.body.decode().split("\n")[0][4:])
    record = await recorded(proxy, status, kind)
    assert (record.target, record.attempts, record.listener) == (None, 0, "main")
    assert origin.accepted == 0
    goes_on = request_.startswith(("TRACE", "GET /a")) or "Expect" in request_
    assert answer.fields.get("connection") == (None if goes_on else "close")


async def test_405_says_what_is_allowed(lab: Lab) -> None:
    proxy = lab.forward(await lab.origin())
    answer = await proxy.ask("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert "GET" in answer.fields["allow"]
    assert "TRACE" not in answer.fields["allow"]


async def test_no_route(lab: Lab) -> None:
    proxy = lab.serve(
        """
        [[listeners]]
        id = "main"
        port = 1
        [[routes]]
        id = "r"
        listener_id = "main"
        host_pattern = "other.example"
        [[routes.targets]]
        target_type = "static"
        """
    )
    check(await proxy.ask(GET), 404, "Not Found")
    record = await recorded(proxy, 404, "no_route")
    assert (record.route, record.host, record.path) == (None, b"app.example", b"/")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("text/plain, text/html;q=0.5", False),
        ("text/html;q=0.9\r\nAccept: text/plain", False),
    ],
)
async def test_no_usable_target(lab: Lab, accept: str, html: bool) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target=THROUGH, more=AGENTS)
    proxy.board.agent_disconnected("a1")
    proxy.board.agent_disconnected("a2")
    fields = f"Accept: {accept}\r\n" if accept else ""
    answer = await proxy.ask(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    assert answer.fields["retry-after"].isdigit()
    if html:
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        assert answer.body.startswith(b"<!doctype html>")
        assert b"req-1" in answer.body
    else:
        check(answer, 503, "Service Unavailable")
    await recorded(proxy, 503, "no_route_target_available")


@pytest.mark.parametrize("what", ["method", "host", "path"])
async def test_a_record_keeps_a_part_of_what_is_very_long(lab: Lab, what: str) -> None:
    """Ten thousand of them are held, and a head may be 64 KiB."""
    proxy = lab.forward(await lab.origin())
    sent = {"method": "GET", "path": "/", "host": "a"}
    kept = dict(sent)
    sent[what] += "x" * 9000
    kept[what] = sent[what][:2048] + "..."
    client = await proxy.dial()
    await client.send("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".format_map(sent))
    client.close()
    record = await proxy.record()
    assert record.method.decode() == kept["method"]
    assert record.path.decode() == kept["path"]
    assert record.host.decode() == kept["host"]


# --- connecting -----------------------------------------------------------------------------


async def test_connect_refused(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    origin.close()
    check(await proxy.ask(GET), 502, "Bad Gateway")
    record = await recorded(proxy, 502, "connect_failed")
    assert record.target == "target-1"
    assert record.connect is not None
    assert [fault.kind for fault in proxy.dial_faults] == ["connect_failed"]


async def test_connect_timeout(lab: Lab) -> None:
    # A backlog of one that is full: the kernel drops the SYNs of whoever comes next.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        text = f"http://127.0.0.1:{full.getsockname()[1]}"
        origin = await lab.origin()
        proxy = lab.forward(origin, target="upstream_connect_timeout_millis = 100")
        plan = proxy.target().extra
        proxy.tune_target(origin=type(plan.origin).parse(text), pool_key=("direct", text, None))
        check(await proxy.ask(GET), 504, "Gateway Timeout")
        await recorded(proxy, 504, "connect_timeout")
        for sock in waiting:
            sock.close()


async def test_tls_handshake_with_a_plain_origin(lab: Lab) -> None:
    async def plain(wire: Wire) -> None:
        await wire.more()
        await wire.send("HTTP/1.1 400 Bad Request\r\n\r\n")

    origin = await lab.origin(plain)
    proxy = lab.forward(origin)
    plan = proxy.target().extra
    secure = type(plan.origin).parse(f"https://127.0.0.1:{origin.port}")
    proxy.tune_target(origin=secure, tls=(True, None, "127.0.0.1"), pool_key=("x", secure, None))
    check(await proxy.ask(GET), 502, "Bad Gateway")
    await recorded(proxy, 502, "tls_failed")


async def test_tls_handshake_that_never_ends(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(tls=(True, None, "x"), connect_timeout=0.1)
    check(await proxy.ask(GET), 504, "Gateway Timeout")
    await recorded(proxy, 504, "connect_timeout")


@pytest.mark.parametrize(
    ("fault", "status", "phrase", "kind"),
    [
        (AgentDialFailed("refused"), 502, "Bad Gateway", "agent_dial_failed"),
        (AgentDialTimeout("slow"), 504, "Gateway Timeout", "agent_dial_timeout"),
        (AgentDisconnected("gone"), 502, "Bad Gateway", "agent_disconnected"),
        (ConnectTimeout("slow"), 504, "Gateway Timeout", "connect_timeout"),
        (TlsFailed("who?"), 502, "Bad Gateway", "tls_failed"),
    ],
)
async def test_dial_faults_of_all_agents(
    lab: Lab, fault: Fault, status: int, phrase: str, kind: str
) -> None:
    proxy = lab.forward(await lab.origin(), target=THROUGH, more=AGENTS)
    proxy.agents.failing = {"a1": fault, "a2": fault}
    check(await proxy.ask(GET), status, phrase)
    record = await recorded(proxy, status, kind)
    assert record.attempts == 2
    assert sorted(agent for agent, *_ in proxy.agents.opened) == ["a1", "a2"]
    assert {request_id for *_, request_id in proxy.agents.opened} == {"req-1"}


async def test_a_failed_connect_moves_on_to_the_next_candidate(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target=THROUGH, more=AGENTS)
    proxy.agents.failing = {"a1": AgentDialFailed("refused")}
    for count in (1, 2, 3, 4):
        client = await proxy.dial()
        await client.send(GET)
        upstream = await origin.accept()
        await upstream.head()
        await upstream.send(OK.replace("Date", "Connection: close\r\nDate"))
        assert (await client.response()).status == 200
        record = await proxy.record(count)
        assert (record.agent, record.error_kind) == ("a2", None)
    assert {record.attempts for record in proxy.records} == {1, 2}


async def test_at_most_three_candidates_are_tried(lab: Lab) -> None:
    ports = [lab.free_port() for _ in range(5)]
    targets = "".join(
        f'[[routes.targets]]\nname = "t{port}"\nurl = "http://127.0.0.1:{port}"\n' for port in ports
    )
    proxy = lab.forward(await lab.origin(), target="enabled = false", more=targets)
    check(await proxy.ask(GET), 502, "Bad Gateway")
    record = await recorded(proxy, 502, "connect_failed")
    assert record.attempts == len(proxy.dial_faults) == 3


async def test_a_static_target_can_be_the_fallback(lab: Lab) -> None:
    more = '[[routes.targets]]\nname = "sorry"\ntarget_type = "static"\nstatic_status_code = 503\n'
    origin = await lab.origin()
    proxy = lab.forward(origin, more=more)
    origin.close()
    for count in (1, 2, 3):
        assert (await proxy.ask(GET)).status == 503
        record = await proxy.record(count)
        assert (record.target, record.error_kind) == ("sorry", None)
    assert proxy.dial_faults


# --- the response head ----------------------------------------------------------------------


async def test_no_response_head_in_time(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.05)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 O")  # that is no answer
    answer = await client.response()
    check(answer, 504, "Gateway Timeout")
    await upstream.broken()
    await recorded(proxy, 504, "upstream_response_header_timeout")
    proxy.tune_target(response_timeout=5)
    await client.send(GET)  # the client's connection goes on
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(OK)
    assert (await client.response()).status == 200


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ("", "upstream_closed"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "upstream_closed"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", "upstream_closed"),
        ("HTTP/1.1 200 OK\r\n Content-Length: 0\r\n\r\n", "upstream_invalid_response"),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", "upstream_invalid_response"),
        ("HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "upstream_invalid_response"),
        ("HTTP/2 200\r\n\r\n", "upstream_invalid_response"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "upstream_invalid_response"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "upstream_invalid_response",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
            "upstream_invalid_response",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "upstream_invalid_response"),
        (
            "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            "upstream_invalid_response",
        ),
        ("HTTP/1.1 200 OK\r\nX: " + "x" * 70_000 + "\r\n\r\n", "upstream_invalid_response"),
        ("HTTP/1.1 200 OK\r\nX: " + "x" * 700_000, "upstream_invalid_response"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n" * 101, "upstream_invalid_response"),
    ],
)
async def test_no_acceptable_response(lab: Lab, sent: str, kind: str) -> None:
    async def broken(wire: Wire) -> None:
        await wire.head()
        await wire.send(sent)
        await wire.half_close()
        await wire.more()

    origin = await lab.origin(broken)
    proxy = lab.forward(origin)
    check(await proxy.ask(GET), 502, "Bad Gateway")
    await recorded(proxy, 502, kind)
    assert origin.accepted == 1


async def test_origin_resets_before_its_answer(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    upstream.reset()
    check(await client.response(), 502, "Bad Gateway")
    await recorded(proxy, 502, "upstream_closed")


async def test_agent_leaves_before_the_answer(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target=THROUGH, more=AGENTS)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    proxy.agents.lose("a1")
    proxy.agents.lose("a2")
    check(await client.response(), 502, "Bad Gateway")
    record = await recorded(proxy, 502, "agent_disconnected")
    assert record.attempts == 1  # its bytes had been sent: no other candidate sees them
    await upstream.broken()


# --- after the response head ----------------------------------------------------------------


@pytest.mark.parametrize(
    "framing", ["Content-Length: 100", "Transfer-Encoding: chunked", "X-Until: close"]
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_failure_after_the_response_head_cuts(lab: Lab, framing: str, version: str) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET.replace("1.1", version))
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n")
    await client.until(b"hello")
    if framing == "X-Until: close":
        upstream.reset()  # an end would be a proper one
    else:
        upstream.close()
    await client.broken()
    await recorded(proxy, 200, "upstream_aborted")


async def test_a_bad_chunk_cuts(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await client.until(b"hello")
    await upstream.send("+5\r\nhello\r\n0\r\n\r\n")
    await client.broken()
    await recorded(proxy, 200, "upstream_aborted")
    await upstream.broken()


async def test_agent_leaves_within_the_body(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target=THROUGH, more=AGENTS)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
    await client.until(b"hello")
    proxy.agents.lose("a1")
    proxy.agents.lose("a2")
    await client.broken()
    await recorded(proxy, 200, "upstream_aborted")


# --- the client -----------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
async def test_client_leaves_before_the_answer(lab: Lab, leave: str) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    stays = await proxy.dial()
    await stays.send(GET)
    kept = await origin.accept()
    leaves = await proxy.dial()
    await leaves.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    if leave == "half_close":
        await leaves.half_close()
    else:
        getattr(leaves, leave)()
    await upstream.broken()
    await recorded(proxy, 499, "client_cancelled")
    await kept.head()
    await kept.send(OK)
    assert (await stays.response()).body == b"ok"


async def test_client_leaves_while_we_connect(lab: Lab) -> None:
    proxy = lab.forward(await lab.origin(), target=THROUGH, more=AGENTS)
    dialling = trio.Event()

    async def forever(*_: object) -> Any:
        try:
            dialling.set()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    cancelled = trio.Event()
    proxy.upstreams._origins = Origins(forever)
    client = await proxy.dial()
    await client.send(GET)
    await dialling.wait()
    client.close()
    with trio.fail_after(5):
        await cancelled.wait()
    await recorded(proxy, 499, "client_cancelled")
    assert proxy.dial_faults == []  # the target is not to blame


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_client_leaves_within_the_answer(lab: Lab, leave: str) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
    await client.until(b"hello")
    getattr(client, leave)()
    await upstream.broken()
    await recorded(proxy, 200, "client_cancelled")


async def test_client_leaves_within_its_body(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
    upstream = await origin.accept()
    await upstream.until(b"hello")
    client.close()
    await upstream.broken()
    record = await recorded(proxy, 499, "client_cancelled")
    assert record.bytes_in == 5


async def test_client_leaves_while_the_origin_takes_nothing(lab: Lab) -> None:
    origin = await lab.origin(receive_buffer=4096)
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    upstream = await origin.accept()
    with trio.move_on_after(0.1):
        await client.stream.send_all(bytes(50_000_000))
    client.reset()
    await upstream.broken()
    await recorded(proxy, 499, "client_cancelled")


async def test_body_that_stops_coming(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_listener(idle_timeout=0.05)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
    upstream = await origin.accept()
    await upstream.until(b"hello")
    answer = await client.response()
    check(answer, 408, "Request Timeout")
    assert answer.fields["connection"] == "close"
    await upstream.broken()
    await recorded(proxy, 408, "request_timeout")


async def test_body_past_the_limit_by_count(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, listener="max_body_bytes = 10")
    client = await proxy.dial()
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    upstream = await origin.accept()
    await upstream.until(b"5\r\nhello\r\n")
    await client.send("6\r\nworlds\r\n")
    answer = await client.response()
    assert (answer.status, answer.fields["connection"]) == (413, "close")
    await upstream.broken()
    await recorded(proxy, 413, "body_too_large")


async def test_bad_chunk_of_a_client(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    upstream = await origin.accept()
    await upstream.until(b"5\r\nhello\r\n")
    await client.send("0x5\r\nhello\r\n")
    answer = await client.response()
    check(answer, 400, "Bad Request")
    await upstream.broken()
    await recorded(proxy, 400, "invalid_request")


async def test_shutdown_cuts(lab: Lab) -> None:
    """What is still running at the end of the grace period: recorded, and visibly not whole."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    streaming = await proxy.dial()
    await streaming.send(GET.replace("1.1", "1.0"))
    one = await origin.accept()
    await one.head()
    await one.send("HTTP/1.1 200 OK\r\n\r\nhello")
    await streaming.until(b"hello")
    uploading = await proxy.dial()
    await uploading.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
    two = await origin.accept()
    await two.until(b"hello")
    proxy.scope.cancel()
    await streaming.broken()
    await one.broken()
    await uploading.broken()
    await two.broken()
    assert sorted(record.status for record in proxy.records) == [200, 503]
    assert {record.error_kind for record in proxy.records} == {"server_left"}


async def test_a_bug_is_answered_and_recorded_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("p2pstream.proxy.exchange.choose", bug)
    proxy = lab.forward(await lab.origin())
    proxy.crashes = 1
    check(await proxy.ask(GET), 500, "Internal Server Error")
    await recorded(proxy, 500, "internal")
    await proxy.quiet()
    assert "ZeroDivisionError" in caplog.text


# --- all of them ----------------------------------------------------------------------------

Step = Callable[["Proxy", "Wire"], Awaitable[None]]


async def behave(wire: Wire) -> None:
    """An origin that does what the path says."""
    while await wire.more():
        line, _ = await wire.request()
        path = line.split(b" ")[1]
        if path == b"/ok":
            await wire.send(OK)
        elif path == b"/silence":
            await wire.more()
        elif path == b"/close":
            return
        elif path == b"/reset":
            wire.reset()
            return
        elif path == b"/nonsense":
            await wire.send("nonsense\r\n\r\n")
        elif path == b"/cut":
            await wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            return
        elif path == b"/stream":
            await wire.send("HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await wire.send(bytes(100_000))
        elif path == b"/upgrade":
            await wire.send("HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            await wire.rest()
            return


async def ending(proxy: Proxy, kind: str) -> None:
    client = await proxy.dial()
    try:
        if kind == "post":
            await client.send("POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
            await client.response()
        elif kind == "half a head":
            await client.send("GET / HTTP/1.1\r\nHo")
        elif kind == "half a body":
            await client.send("POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
        elif kind == "bad":
            await client.send("GET / HTTP/1.1\r\nHo st: a\r\n\r\n")
            await client.response()
        elif kind == "upgrade":
            await client.send(
                "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
            )
            await client.head()
        else:
            await client.send(f"GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n")
            if kind in ("silence", "stream"):
                await trio.sleep(0.002)
                client.reset()
                return
            await client.more()
    except trio.BrokenResourceError:
        pass
    client.close()


async def test_nothing_leaks(lab: Lab) -> None:
    """400 mixed endings: the lab's own end checks streams, descriptors, tasks, counts, records."""
    origin = await lab.origin(behave)
    proxy = lab.forward(origin)
    await ending(proxy, "ok")
    await proxy.quiet()
    proxy.close_idle()
    await trio.testing.wait_all_tasks_blocked()
    tasks = trio.lowlevel.current_statistics().tasks_living
    kinds = [
        "ok", "post", "silence", "close", "reset", "nonsense", "cut", "stream", "upgrade",
        "half a head", "half a body", "bad",
    ]  # fmt: skip
    order = kinds * 33
    random.Random(4).shuffle(order)
    limit = trio.CapacityLimiter(16)

    async def one(kind: str) -> None:
        async with limit:
            await ending(proxy, kind)

    async with trio.open_nursery() as nursery:
        for kind in order:
            nursery.start_soon(one, kind)
    await proxy.quiet()
    proxy.close_idle()
    with trio.fail_after(5):
        while trio.lowlevel.current_statistics().tasks_living > tasks:  # noqa: ASYNC110 -- nothing tells when they are gone
            await trio.sleep(0.001)
    assert len(proxy.records) == len(order) + 1
    seen = {record.error_kind for record in proxy.records}
    assert seen >= {None, "upstream_closed", "upstream_invalid_response", "upstream_aborted"}


REQUESTS = [
    b"GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n"
    b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: d\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nlate",
    b"HTTP/1.1 304 No\r\nETag: x\r\nContent-Length: 7\r\n\r\n",
]
ALPHABET = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b",", b";", b"0", b"1", b"f", b"\xff", b"*",
            b"/", b"%", b"..", b"HTTP/1.1", b"Content-Length: 1\r\n", b"Connection: close\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"\r\n\r\n"]  # fmt: skip


def mutated(data: bytes, source: random.Random) -> bytes:
    for _ in range(source.choice((0, 0, 1, 1, 2, 5))):
        at = source.randrange(len(data) + 1)
        cut = source.choice((0, 0, 1, 1, 10))
        data = data[:at] + source.choice(ALPHABET) + data[at + cut :]
    return data[: source.randrange(len(data))] if source.random() < 0.1 else data


@pytest.mark.parametrize("seed", range(4))
async def test_no_bytes_of_either_side_crash_it(lab: Lab, seed: int) -> None:
    """Mutated requests against mutated answers, cut at will: the lab's end checks the rest."""
    source = random.Random(seed)

    async def answer(wire: Wire) -> None:
        while await wire.more():
            wire.buffer.clear()
            for part in split(mutated(source.choice(RESPONSES), source)):
                await wire.stream.send_all(part)
            if source.random() < 0.3:
                return

    def split(data: bytes) -> list[bytes]:
        at = source.randrange(len(data) + 1)
        return [data] if source.random() < 0.7 else [data[:at], data[at:]]

    async def ask() -> None:
        client = await proxy.dial()
        try:
            for _ in range(source.choice((1, 1, 2, 5))):
                requests = [mutated(source.choice(REQUESTS), source) for _ in range(2)]
                for part in split(b"".join(requests)):
                    await client.stream.send_all(part)
                with trio.move_on_after(0.01):
                    await client.more()
            if source.random() < 0.3:
                await client.half_close()
        except trio.BrokenResourceError:
            pass
        client.close() if source.random() < 0.7 else client.reset()

    origin = await lab.origin(answer)
    proxy = lab.forward(origin)
    proxy.tune_listener(idle_timeout=0.3, header_timeout=0.3)
    proxy.tune_target(response_timeout=0.3)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(ask)
    for wire in origin.wires:
        wire.close()
    await proxy.quiet()
    assert not {record.error_kind for record in proxy.records} & {"internal"}
    assert all(record.status for record in proxy.records)


# --- what endings leave to the collector ----------------------------------------------------

UPGRADE = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
UPLOAD = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"


async def left_in_the_answer(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    lab.nursery.start_soon(flood, upstream, b"10000\r\n%b\r\n" % bytes(0x10000))
    await client.exactly(1000)
    client.reset()


async def flood(wire: Wire, data: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await wire.stream.send_all(data)


async def left_in_the_body(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    await client.send(UPLOAD)
    await client.send(bytes(500_000))
    await (await origin.accept()).head()
    client.reset()


async def origin_resets_both_ways(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    await client.send(UPLOAD)
    upstream = await origin.accept()
    await upstream.head()
    upstream.reset()
    lab.nursery.start_soon(flood, client, bytes(65_536))
    assert (await client.response()).status == 502
    client.reset()


async def origin_cuts_its_answer(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
    upstream.close()
    await client.broken()


async def refused(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    origin.sock.close()
    await client.send(GET)
    assert (await client.response()).status == 502
    client.close()


async def reset_after_an_upgrade(lab: Lab, proxy: Proxy, origin: Origin, client: Wire) -> None:
    await client.send(UPGRADE)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(
        "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello"
    )
    await client.until(b"hello")
    client.reset()


@pytest.mark.parametrize(
    "end",
    [
        left_in_the_answer,
        left_in_the_body,
        origin_resets_both_ways,
        origin_cuts_its_answer,
        refused,
        reset_after_an_upgrade,
    ],
)
async def test_nothing_of_a_request_is_left_to_the_collector(
    lab: Lab, end: Callable[[Lab, Proxy, Origin, Wire], Awaitable[None]]
) -> None:
    """It comes late: a hundred requests that ended like these held a hundred megabytes until then.

    Exceptions do it, whose frames hold what holds the exception.
    """
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    gc.collect()
    gc.disable()
    try:
        before = at_work()
        await end(lab, proxy, origin, client)
        await proxy.record()
        await proxy.quiet()
        left = [one for one in at_work() if one not in before]
    finally:
        gc.enable()
    assert left == []


def at_work() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, (Exchange, Connection))]
