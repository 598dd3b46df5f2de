"""The request's side: what an origin receives, uploads, interim responses, one safe retry."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Origin, Proxy, Wire

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nok"
CLAIMS = (
    "X-Forwarded-For: 127.0.0.1|X-Real-IP: 127.0.0.1|X-Forwarded-Host: {host}|"
    "X-Forwarded-Proto: http|X-Forwarded-Port: {port}|Via: 1.1 p2pstream|"
)

# (what the client sends, what the origin receives); `~` stands for what we say of the client.
REQUESTS = {
    "query": ("GET /?a=b&c HTTP/1.1|Host: a||", "GET /?a=b&c HTTP/1.1|Host: {origin}|~|"),
    "odd path": (
        "GET //a//b;c/%7e%C3%A4?%zz HTTP/1.1|Host: a||",
        "GET //a//b;c/%7e%C3%A4?%zz HTTP/1.1|Host: {origin}|~|",
    ),
    "unknown method": ("BREW /pot HTTP/1.1|Host: a||", "BREW /pot HTTP/1.1|Host: {origin}|~|"),
    "empty lines before": ("|||GET / HTTP/1.1|Host: a||", "GET / HTTP/1.1|Host: {origin}|~|"),
    "absolute form": (
        "GET http://a:81/b?c HTTP/1.1|Host: other||",
        "GET /b?c HTTP/1.1|Host: {origin}|~|",
    ),
    "HTTP/1.0": ("GET / HTTP/1.0||", "GET / HTTP/1.1|Host: {origin}|~|"),
    "hop-by-hop": (
        "GET / HTTP/1.1|Host: a|Connection: close, X-Hop|X-Hop: 1|Keep-Alive: 5|TE: gzip|"
        "Proxy-Authorization: x|X-Kept: 1||",
        "GET / HTTP/1.1|Host: {origin}|X-Kept: 1|~|",
    ),
    "length": (
        "POST / HTTP/1.1|Host: a|Content-Length: 5||hello",
        "POST / HTTP/1.1|Host: {origin}|~Content-Length: 5||hello",
    ),
    "no body that has a length": (
        "POST / HTTP/1.1|Host: a|Content-Length: 0||",
        "POST / HTTP/1.1|Host: {origin}|~Content-Length: 0||",
    ),
    "chunked": (
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||2;x=y|he|003|llo|0||",
        "POST / HTTP/1.1|Host: {origin}|~Transfer-Encoding: chunked||5|hello|0||",
    ),
    "chunked and empty": (
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||0||",
        "POST / HTTP/1.1|Host: {origin}|~Transfer-Encoding: chunked||0||",
    ),
    "trailers": (
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||5|hello|0|X-Sum: 7|Host: evil||",
        "POST / HTTP/1.1|Host: {origin}|~Transfer-Encoding: chunked||5|hello|0|X-Sum: 7||",
    ),
    "GET with a body": (
        "GET / HTTP/1.1|Host: a|Content-Length: 1||x",
        "GET / HTTP/1.1|Host: {origin}|~Content-Length: 1||x",
    ),
    "Max-Forwards": (
        "OPTIONS /x HTTP/1.1|Host: a|Max-Forwards: 10||",
        "OPTIONS /x HTTP/1.1|Host: {origin}|~Max-Forwards: 9||",
    ),
    "Max-Forwards of another method": (
        "GET /x HTTP/1.1|Host: a|Max-Forwards: 10||",
        "GET /x HTTP/1.1|Host: {origin}|~Max-Forwards: 10||",
    ),
    "Expect without a body": (
        "GET / HTTP/1.1|Host: a|Expect: 100-continue||",
        "GET / HTTP/1.1|Host: {origin}|~|",
    ),
    "Expect in HTTP/1.0": (
        "POST / HTTP/1.0|Expect: 100-continue|Content-Length: 1||x",
        "POST / HTTP/1.1|Host: {origin}|~Content-Length: 1||x",
    ),
}


def said(text: str, request: str, origin: Origin) -> str:
    host, port = "", "80"
    if "Host: a|" in request:
        host = "a"
    if "//a:81" in request:
        host, port = "a:81", "81"
    claims = CLAIMS.format(host=host, port=port)
    if not host:
        claims = claims.replace("X-Forwarded-Host: |", "")
    text = text.replace("~", claims).replace("{origin}", f"127.0.0.1:{origin.port}")
    return text.replace("|", "\r\n")


async def test_a_trailer_cannot_say_what_the_configuration_says(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target='upstream_request_headers = { X-User = "ours" }')
    client = await proxy.dial()
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\nX-User: admin\r\nx_user: admin\r\nX-Sum: 7\r\n\r\n"
    )
    upstream = await origin.accept()
    assert b"X-User: ours\r\n" in await upstream.head()
    await upstream.expect("0\r\nX-Sum: 7\r\n\r\n")
    await upstream.send(OK)
    assert (await client.response()).status == 200


async def test_a_configured_max_forwards_replaces_the_clients(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target='upstream_request_headers = { Max-Forwards = "5" }')
    client = await proxy.dial()
    await client.send("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n")
    upstream = await origin.accept()
    assert (await upstream.head()).count(b"Max-Forwards: ") == 1
    await upstream.send(OK)
    assert (await client.response()).status == 200


@pytest.mark.parametrize("how", ["whole", "bytewise"])
@pytest.mark.parametrize("case", REQUESTS)
async def test_what_an_origin_receives(lab: Lab, case: str, how: str) -> None:
    request, expected = REQUESTS[case]
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(request.replace("|", "\r\n"), bytewise=how == "bytewise")
    upstream = await origin.accept()
    if how == "bytewise" and "|5|hello" in expected:
        start, _, trailers = expected.partition("5|hello|0|")
        await upstream.expect(said(start, request, origin))
        body = b""
        while size := int(await upstream.until(b"\r\n"), 16):
            body += (await upstream.exactly(size + 2))[:-2]
        assert body == b"hello"
        await upstream.expect(said(trailers, request, origin))
    else:
        await upstream.expect(said(expected, request, origin))
    await upstream.send(OK)
    assert (await client.response()).body == b"ok"
    await proxy.record()
    await upstream.silent()


async def test_several_requests_in_one_packet(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    post = "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    chunked = "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    await client.send(GET + post + chunked + GET)
    upstream = await origin.accept()
    for body in (b"", b"hello", b"x", b""):
        assert (await upstream.request())[1] == body
        await upstream.silent()  # the next one waits for its turn
        await upstream.send(OK)
    for _ in range(4):
        assert (await client.response()).body == b"ok"
    await proxy.record(4)
    assert [record.path for record in proxy.records] == [b"/", b"/2", b"/3", b"/"]


# --- uploads --------------------------------------------------------------------------------


async def test_expect_100_continue(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    await lab.play(
        proxy,
        origin,
        """
        C> PUT / HTTP/1.1
        C> Host: a
        C> Content-Length: 5
        C> Expect: 100-continue
        C>
        O< PUT / HTTP/1.1
        O< Host: 127.0.0.1:{port}
        O< Expect: 100-continue
        O< X-Forwarded-For: 127.0.0.1
        O< X-Real-IP: 127.0.0.1
        O< X-Forwarded-Host: a
        O< X-Forwarded-Proto: http
        O< X-Forwarded-Port: 80
        O< Via: 1.1 p2pstream
        O< Content-Length: 5
        O<
        O> HTTP/1.1 100 Continue
        O>
        C< HTTP/1.1 100 Continue
        C<
        C> hello\\
        O< hello\\
        O> HTTP/1.1 204 No Content
        O> Date: d
        O>
        C< HTTP/1.1 204 No Content
        C< Date: d
        C< Via: 1.1 p2pstream
        C<
        """,
    )
    assert (await proxy.record()).status == 204
    assert proxy.idle == 1


async def test_an_expectation_that_the_origin_refuses(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    answer = await client.response()
    assert (answer.status, answer.fields["connection"]) == (401, "close")
    await upstream.rest()  # the body that it still expects will not come
    client.close()
    assert (await proxy.record()).error_kind is None


@pytest.mark.parametrize("interim", ["", "HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_a_body_that_the_origin_did_not_ask_for_may_be_its_next_request(
    lab: Lab, interim: str
) -> None:
    """It was sent all the same: an origin that thinks it never comes would read it as a request."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(hidden)}\r\n\r\n{hidden}"
    )
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(interim + "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    if interim:
        await client.head()
    answer = await client.response()
    assert (answer.status, "connection" in answer.fields) == (401, False)
    await upstream.expect(hidden)
    await upstream.end()
    assert (await proxy.record()).error_kind is None
    assert proxy.idle == 0
    await client.send(GET)  # ours knows where its body ended
    fresh = await origin.accept()
    await fresh.head()
    await fresh.send(OK)
    assert (await client.response()).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("then", ["reads on", "closes"])
async def test_an_early_answer_reaches_a_client_that_still_sends(
    lab: Lab, framing: str, then: str
) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5f5e100\r\n")
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nstop")
    if then == "closes":
        await upstream.half_close()
    # The answer is not read before all has been sent: a reset would destroy it.
    await client.send(bytes(30_000_000))
    answer = await client.response()
    assert (answer.status, answer.body) == (413, b"stop")
    assert answer.fields["connection"] == "close"
    client.close()
    record = await proxy.record()
    assert (record.status, record.error_kind) == (413, None)
    await proxy.quiet()
    assert proxy.idle == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_connection_with_an_unsent_rest_of_a_body_is_not_used_again(
    lab: Lab, framing: str
) -> None:
    """All of the body has come from the client, and not all of it went to the origin, which
    answers: it would take the next request for the rest of this one.
    """
    origin = await lab.origin(receive_buffer=4096)
    proxy = lab.forward(origin)
    client = await proxy.dial()
    size = 0
    if framing == "length":
        field = "Content-Length: 8000000"
        body, end = bytes(8_000_000), b""
    else:
        field = "Transfer-Encoding: chunked"
        body, end = b"%x\r\n%b\r\n" % (8_000_000, bytes(8_000_000)), b"0\r\n\r\n"
    await client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
    upstream = await origin.accept()
    await upstream.head()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stream.send_all, body + end)
        # Read until the last of the client's bytes is in our hands, and something of it stays.
        (connection,) = proxy.server.connections
        sock = connection.stream.sock  # type: ignore[attr-defined]  # it is TCP
        while nursery.child_tasks or pending(sock):
            size += len(await upstream.stream.receive_some(65_536))
            await trio.lowlevel.checkpoint()
        await upstream.send("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        answer = await client.response()
        assert answer.status == 401
    client.close()
    await proxy.record()
    await proxy.quiet()
    if proxy.idle:  # the origin took all of it
        await upstream.exactly(len(body + end) - size)
        return
    with suppress(trio.BrokenResourceError):
        await upstream.rest()


def pending(sock: socket.socket) -> int:
    """Bytes that have come and were not read (ioctl SIOCINQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


async def test_a_stalled_upload_does_not_cut_an_answer_that_is_read(lab: Lab) -> None:
    """Two deadlines: of the body that stopped coming, and of the answer that goes on being read."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_listener(idle_timeout=0.8)
    client = await proxy.dial(receive_buffer=4096)
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    upstream = await origin.accept()
    await upstream.until(b"abc")
    size = 20_000_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            upstream.send, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size))
        )
        await client.head()
        for _ in range(15):  # for a second and a half a piece now and then: slow, and not stalled
            await client.exactly(1_000_000)
            await trio.sleep(0.1)
        await client.exactly(size - 15_000_000)
    client.close()
    assert (await proxy.record()).error_kind is None


async def test_an_expectation_that_nobody_answers(lab: Lab) -> None:
    """The client waits for the origin: it is the origin that is late."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.2)
    client = await proxy.dial()
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    upstream = await origin.accept()
    await upstream.head()
    assert (await client.response()).status == 504
    assert (await proxy.record()).error_kind == "upstream_response_header_timeout"


async def test_half_of_an_interim_response_is_no_place_for_another_answer(lab: Lab) -> None:
    """Its client goes wrong with its body while it takes nothing: what it has is not whole."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial(receive_buffer=4096)
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream = await origin.accept()
    await upstream.head()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"x" * 60_000)
    (connection,) = proxy.server.connections
    waits = connection.stream.waits

    async def hint() -> None:
        with suppress(trio.BrokenResourceError):
            await upstream.stream.send_all(hints * 90)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hint)
        since = inf
        with trio.fail_after(5):
            while since == inf or since != waits.write_deadline:  # until one wait lasts
                since = waits.write_deadline
                await trio.sleep(0.02)
        await client.send("no size\r\n")
        await client.broken()
    assert b" 400 " not in client.buffer
    record = await proxy.record()
    assert (record.status, record.error_kind) == (400, "invalid_request")


async def test_a_client_that_was_told_to_go_on_has_its_time(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.2)
    client = await proxy.dial()
    await client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 100 Continue\r\n\r\n")
    await client.head()
    await trio.sleep(0.5)
    await client.send("x")
    await upstream.expect("x")
    await trio.sleep(0.5)
    await client.send("y")
    await upstream.expect("y")
    await upstream.send("HTTP/1.1 204 OK\r\n\r\n")
    assert (await client.response()).status == 204


async def test_the_response_head_may_be_late_while_the_request_comes(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.05)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
    upstream = await origin.accept()
    await upstream.head()
    await trio.sleep(0.4)
    await client.send("y")
    await upstream.expect("xy")
    answer = await client.response()  # from here on it counts
    assert answer.status == 504
    assert (await proxy.record()).error_kind == "upstream_response_header_timeout"


async def test_no_deadline_is_left_when_the_upload_ends_after_the_answers_head(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.05)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    await client.until(b"\r\n\r\na")
    await client.send("y")
    await upstream.expect("xy")
    await trio.sleep(0.4)
    await upstream.send("b")
    await client.expect("b")
    assert (await proxy.record()).error_kind is None


async def test_an_origin_that_takes_nothing(lab: Lab) -> None:
    origin = await lab.origin(receive_buffer=4096)
    proxy = lab.forward(origin)
    proxy.tune_target(response_timeout=0.05)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    upstream = await origin.accept()
    with trio.move_on_after(0.2):
        await client.stream.send_all(bytes(50_000_000))
    assert (await client.response()).status == 504
    await upstream.broken()
    assert (await proxy.record()).error_kind == "upstream_response_header_timeout"


async def test_origin_answers_and_closes_before_it_reads(lab: Lab) -> None:
    async def hasty(wire: Wire) -> None:
        await wire.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")

    origin = await lab.origin(hasty)
    proxy = lab.forward(origin)
    for request in (GET, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"):
        answer = await proxy.ask(request)
        # Whether its reset overtakes its answer is the network's choice.
        assert answer.status in (503, 502)


# --- kept-alive connections -----------------------------------------------------------------


async def one_idle(lab: Lab) -> tuple[Proxy, Origin, Wire, Wire]:
    """A proxy that keeps one connection to its origin."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(OK)
    await client.response()
    await proxy.record()
    assert proxy.idle == 1
    return proxy, origin, client, upstream


async def test_a_connection_is_used_again(lab: Lab) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    for count in range(2, 5):
        await client.send(GET)
        await upstream.head()
        await upstream.send(OK)
        await client.response()
        record = await proxy.record(count)
        assert (record.reused, record.connect) == (True, None)
    assert origin.accepted == 1


RETRIES = [
    (GET, True),
    (GET.replace("GET", "DELETE"), True),
    (GET.replace("GET", "POST"), False),
    (GET.replace("GET", "PATCH"), False),
    # Its body came with the head, so all of it is still there.
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", True),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", False),
]


@pytest.mark.parametrize(("request_", "again"), RETRIES)
@pytest.mark.parametrize("death", ["close", "reset"])
async def test_a_connection_that_dies_under_a_request(
    lab: Lab, request_: str, again: bool, death: str
) -> None:
    """Once more, and only if what was sent cannot have been acted on twice."""
    proxy, origin, client, upstream = await one_idle(lab)
    await client.send(request_)
    await upstream.request()
    getattr(upstream, death)()
    if again:
        fresh = await origin.accept()
        await fresh.request()
        await fresh.send(OK)
        assert (await client.response()).status == 200
        record = await proxy.record(2)
        assert (record.error_kind, record.reused) == (None, False)
    else:
        assert (await client.response()).status == 502
        record = await proxy.record(2)
        assert record.error_kind == "upstream_closed"
        assert origin.accepted == 1


async def test_no_retry_of_a_body_that_came_after_the_head(lab: Lab) -> None:
    _, origin, client, upstream = await one_idle(lab)
    await client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
    await upstream.until(b"\r\n\r\nx")
    await client.send("y")
    await upstream.expect("y")
    upstream.close()
    assert (await client.response()).status == 502
    assert origin.accepted == 1


async def test_the_retry_is_the_only_one(lab: Lab) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    await client.send(GET)
    await upstream.head()
    upstream.close()
    fresh = await origin.accept()
    await fresh.head()
    fresh.close()
    assert (await client.response()).status == 502
    assert (await proxy.record(2)).error_kind == "upstream_closed"
    assert origin.accepted == 2


@pytest.mark.parametrize("answered", ["H", "HTTP/1.1 103 Hints\r\n\r\n"])
async def test_no_retry_once_the_origin_has_said_anything(lab: Lab, answered: str) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    await client.send(GET)
    await upstream.head()
    await upstream.send(answered)
    upstream.close()
    assert (await client.response()).status == 502
    assert (await proxy.record(2)).error_kind == "upstream_closed"
    assert origin.accepted == 1


async def test_a_retry_that_cannot_connect(lab: Lab) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    await client.send(GET)
    await upstream.head()
    origin.close()
    assert (await client.response()).status == 502
    assert (await proxy.record(2)).error_kind == "connect_failed"
    assert [fault.kind for fault in proxy.dial_faults] == ["connect_failed"]


async def test_what_was_not_sent_is_retried_whatever_the_method(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    monkeypatch.setattr("p2pstream.net.stream.TcpStream.is_quiet", lambda _: True)
    (pool,) = proxy.upstreams._pools.values()
    sock = pool.idle[0].stream.sock  # type: ignore[attr-defined]  # it is a TcpStream
    sock.shutdown(1)  # as if the kernel knew already what we do not: the next send fails
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    fresh = await origin.accept()
    assert (await fresh.request())[1] == b"x"
    await fresh.send(OK)
    assert (await client.response()).status == 200
    assert upstream.buffer == b""


async def test_unasked_for_bytes_are_never_taken_for_an_answer(lab: Lab) -> None:
    _, origin, client, upstream = await one_idle(lab)
    await upstream.send("HTTP/1.1 200 Poison\r\nContent-Length: 6\r\n\r\npoison")
    await client.silent()
    await client.send(GET)
    fresh = await origin.accept()
    await fresh.head()
    await fresh.send(OK)
    assert (await client.response()).body == b"ok"


async def test_bytes_behind_an_answer_that_came_in_two_parts(lab: Lab) -> None:
    """The exact rest of the body is read; what stands behind it is noticed all the same."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    await client.until(b"ab")
    await upstream.send("cdHTTP/1.1 200 Poison\r\nContent-Length: 6\r\n\r\npoison")
    await client.until(b"cd")
    await client.send(GET)
    fresh = await origin.accept()
    await fresh.head()
    await fresh.send(OK)
    assert (await client.response()).body == b"ok"


@pytest.mark.parametrize("status", ["200 OK", "304 Not Modified"])
async def test_a_body_that_should_not_be_is_nobodys_answer(lab: Lab, status: str) -> None:
    """It comes a little after the head, when another request might have taken the connection."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    careless = await origin.accept()
    await careless.head()
    await careless.send(f"HTTP/1.1 {status}\r\nContent-Length: 40\r\n\r\n")
    fresh = await origin.accept()
    await careless.send("HTTP/1.1 200 Poison\r\nContent-Length: 0\r\n\r\n")
    await fresh.head()
    await fresh.send(OK)
    await client.response("HEAD")
    assert (await client.response()).body == b"ok"
    await proxy.record(2)


async def test_remembered_fields_do_not_hide_another_authority(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin, target="preserve_host = true")
    client = await proxy.dial()
    for target, host in (("/", "a"), ("http://b/", "b"), ("/", "a"), ("http://c/", "c")):
        await client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = origin.wires[0] if origin.wires else await origin.accept()
        head = await upstream.head()
        assert f"\r\nHost: {host}\r\n".encode() in head
        assert f"\r\nX-Forwarded-Host: {host}\r\n".encode() in head
        await upstream.send(OK)
        await client.response()


async def test_a_client_that_leaves_takes_no_healthy_connection_along(lab: Lab) -> None:
    proxy, origin, client, upstream = await one_idle(lab)
    other = await proxy.dial()
    await other.send(GET)
    await upstream.head()
    client.close()
    await upstream.send(OK)
    assert (await other.response()).body == b"ok"
    await proxy.record(2)
    assert proxy.idle == 1
    assert origin.accepted == 1
