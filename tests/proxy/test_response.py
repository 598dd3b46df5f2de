"""Framing of answers, for every kind of client; what is said before them; upgrades."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from tests.proxy.conftest import InARow, Lab, Origin, Proxy, Wire

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
UPGRADE = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

# (request, what the origin answers, what the client gets, whether both connections go on)
FRAMING = {
    "length": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello",
        "client origin",
    ),
    "no Date": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Content-Length: 0||",
        "HTTP/1.1 200 OK|Date: {date}|Via: 1.1 p2pstream|Content-Length: 0||",
        "client origin",
    ),
    "chunked": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Date: d||2;ext=1|he|3|llo|0||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Transfer-Encoding: chunked||5|hello|0||",
        "client origin",
    ),
    "an upgrade that is required": (
        "GET / HTTP/1.1",
        "HTTP/1.1 426 Upgrade|Connection: Upgrade|Upgrade: h2c, chess/2|"
        "Content-Length: 0|Date: d||",
        "HTTP/1.1 426 Upgrade|Date: d|Via: 1.1 p2pstream|Content-Length: 0|"
        "Connection: Upgrade|Upgrade: chess/2||",
        "client origin",
    ),
    "an upgrade that HTTP/1.0 cannot have": (
        "GET / HTTP/1.0",
        "HTTP/1.1 426 Upgrade|Connection: Upgrade|Upgrade: chess/2|Content-Length: 0|Date: d||",
        "HTTP/1.1 426 Upgrade|Date: d|Via: 1.1 p2pstream|Content-Length: 0|Connection: close||",
        "origin",
    ),
    "an upgrade that is offered": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Connection: Upgrade|Upgrade: h2,chess/2|Content-Length: 0|Date: d||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 0||",
        "client origin",
    ),
    "trailers": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Trailer: X-Sum|Date: d|"
        "|5|hello|0|X-Sum: 7|Content-Length: 3||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Transfer-Encoding: chunked|"
        "|5|hello|0|X-Sum: 7||",
        "client origin",
    ),
    "until close": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Date: d||hello[end]",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Transfer-Encoding: chunked||5|hello|0||",
        "client",
    ),
    "HTTP/1.0 origin": (
        "GET / HTTP/1.1",
        "HTTP/1.0 200 OK|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello",
        "client",
    ),
    "HTTP/1.0 origin that keeps alive": (
        "GET / HTTP/1.1",
        "HTTP/1.0 200 OK|Content-Length: 5|Connection: keep-alive|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello",
        "client origin",
    ),
    "origin closes": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Content-Length: 5|Connection: close, X-Hop|X-Hop: 1|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello",
        "client",
    ),
    "client closes": (
        "GET / HTTP/1.1|Connection: close",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5|Connection: close||hello",
        "origin",
    ),
    "HEAD": (
        "HEAD / HTTP/1.1",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||",
        "client origin",
    ),
    "HEAD chunked": (
        "HEAD / HTTP/1.1",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Date: d||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream||",
        "client origin",
    ),
    "204": (
        "GET / HTTP/1.1",
        "HTTP/1.1 204 No Content|Date: d||",
        "HTTP/1.1 204 No Content|Date: d|Via: 1.1 p2pstream||",
        "client origin",
    ),
    "204 that lies": (
        "GET / HTTP/1.1",
        "HTTP/1.1 204 No Content|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 204 No Content|Date: d|Via: 1.1 p2pstream||",
        "client",
    ),
    "304": (
        "GET / HTTP/1.1",
        "HTTP/1.1 304 Not Modified|Content-Length: 5|ETag: x|Date: d||",
        "HTTP/1.1 304 Not Modified|ETag: x|Date: d|Via: 1.1 p2pstream|Content-Length: 5||",
        "client origin",
    ),
    "more than the length": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||helloHTTP/1.1 200 Poison|Content-Length: 0||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello",
        "client",
    ),
    "more than the last chunk": (
        "GET / HTTP/1.1",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Date: d||0||HTTP/1.1 200 Poison||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Transfer-Encoding: chunked||0||",
        "client",
    ),
    "unknown status": (
        "GET / HTTP/1.1",
        "HTTP/1.1 799 |Content-Length: 0|Date: d||",
        "HTTP/1.1 799 |Date: d|Via: 1.1 p2pstream|Content-Length: 0||",
        "client origin",
    ),
    "HTTP/1.0 client": (
        "GET / HTTP/1.0",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5|Connection: close||hello",
        "origin",
    ),
    "HTTP/1.0 client that keeps alive": (
        "GET / HTTP/1.0|Connection: keep-alive",
        "HTTP/1.1 200 OK|Content-Length: 5|Date: d||hello",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5|"
        "Connection: keep-alive||hello",
        "client origin",
    ),
    "HTTP/1.0 client, chunked": (
        "GET / HTTP/1.0|Connection: keep-alive",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Date: d||2|he|3|llo|0|X-Sum: 7||",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Connection: close||hello",
        "origin",
    ),
    "HTTP/1.0 client, until close": (
        "GET / HTTP/1.0",
        "HTTP/1.1 200 OK|Date: d||hello[end]",
        "HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Connection: close||hello",
        "",
    ),
    "interim": (
        "GET / HTTP/1.1",
        "HTTP/1.1 103 Early Hints|Link: </a>|Date: d||HTTP/1.1 204 No Content|Date: d||",
        "HTTP/1.1 103 Early Hints|Link: </a>|Date: d|Via: 1.1 p2pstream||"
        "HTTP/1.1 204 No Content|Date: d|Via: 1.1 p2pstream||",
        "client origin",
    ),
    "interim for an HTTP/1.0 client": (
        "GET / HTTP/1.0",
        "HTTP/1.1 103 Early Hints|Link: </a>||HTTP/1.1 204 No Content|Date: d||",
        "HTTP/1.1 204 No Content|Date: d|Via: 1.1 p2pstream|Connection: close||",
        "origin",
    ),
    "upgrade refused": (
        "GET / HTTP/1.1|Connection: Upgrade|Upgrade: websocket",
        "HTTP/1.1 400 No|Content-Length: 0|Date: d||",
        "HTTP/1.1 400 No|Date: d|Via: 1.1 p2pstream|Content-Length: 0||",
        "client origin",
    ),
}


def lines(text: str) -> str:
    return text.replace("|", "\r\n").replace("{date}", "Thu, 01 Jan 1970 00:00:00 GMT")


@pytest.mark.parametrize("how", ["whole", "bytewise"])
@pytest.mark.parametrize("case", FRAMING)
async def test_framing(lab: Lab, case: str, how: str) -> None:
    request, answer, expected, goes_on = FRAMING[case]
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(lines(request + "|Host: a||"), bytewise=how == "bytewise")
    upstream = await origin.accept()
    await upstream.head()
    sent, end, _ = lines(answer).partition("[end]")
    with suppress(trio.BrokenResourceError):  # what comes too late meets a closed connection
        await upstream.send(sent, bytewise=how == "bytewise")
    if end:
        await upstream.half_close()
    if how == "whole" or "|5|hello" not in expected:
        await client.expect(lines(expected))
    else:  # chunks are cut as they come
        start, _, trailers = lines(expected).partition("5\r\nhello\r\n0\r\n")
        await client.expect(start)
        body = b""
        while size := int(await client.until(b"\r\n"), 16):
            body += (await client.exactly(size + 2))[:-2]
        assert body == b"hello"
        await client.expect(trailers)
    if "client" not in goes_on:
        await client.end()
    record = await proxy.record()
    assert record.error_kind is None
    assert record.status == int(expected.rpartition("HTTP/1.1 ")[2][:3])
    if "client" in goes_on:
        await client.silent()
    if "origin" in goes_on:
        assert proxy.idle == 1
    else:
        assert proxy.idle == 0 or how == "bytewise"  # what came late is met when it is taken
        proxy.close_idle()
        with suppress(trio.BrokenResourceError):
            await upstream.rest()


async def test_bytes_are_counted(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    upstream = await origin.accept()
    await upstream.request()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: d\r\n\r\nhello")
    expected = lines("HTTP/1.1 200 OK|Date: d|Via: 1.1 p2pstream|Content-Length: 5||hello")
    await client.expect(expected)
    record = await proxy.record()
    assert (record.bytes_in, record.bytes_out) == (3, len(expected))
    assert record.first_byte is not None
    assert 0 < record.first_byte <= record.duration


async def test_interim_responses_let_others_have_their_turn(
    lab: Lab, in_a_row: InARow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred of 64 KiB may have come at once, each tens of milliseconds of work."""
    in_a_row.heads(monkeypatch, "proxy.response")
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 103 Early Hints\r\n\r\n" * 90 + "HTTP/1.1 204 No\r\n\r\n")
    assert len((await client.response()).informational) == 90
    assert 0 < in_a_row.most <= 4


async def test_the_date_we_add_is_todays(lab: Lab) -> None:
    """Heads that repeat are understood once, but the clock goes on."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    dates = []
    for second in (0, 0, 1):
        proxy.server.wall_clock = lambda second=second: second  # type: ignore[misc]  # a default
        await client.send(GET)
        upstream = origin.wires[0] if origin.wires else await origin.accept()
        await upstream.head()
        await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        dates.append((await client.response()).fields["date"][-6:])
    assert dates == ["00 GMT", "00 GMT", "01 GMT"]


async def test_heads_that_repeat_are_told_apart_from_others(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    for tag in ("a", "a", "b", "a"):
        await client.send(GET)
        upstream = origin.wires[0] if origin.wires else await origin.accept()
        await upstream.head()
        await upstream.send(f"HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: 1\r\n\r\n{tag}")
        answer = await client.response()
        assert (answer.fields["etag"], answer.body) == (tag, tag.encode())


# --- upgrades -------------------------------------------------------------------------------


async def switched(proxy: Proxy, origin: Origin) -> tuple[Wire, Wire]:
    """Both ends of an upgraded connection: the client's, the origin's."""
    client = await proxy.dial()
    await client.send(UPGRADE)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(SWITCH)
    await client.head()
    return client, upstream


async def test_an_upgrade_joins_both_ends(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    await lab.play(
        proxy,
        origin,
        """
        C> GET /chat HTTP/1.1
        C> Host: a
        C> Connection: keep-alive, Upgrade
        C> Upgrade: websocket
        C> Sec-WebSocket-Key: k
        C>
        C> early\\
        O< GET /chat HTTP/1.1
        O< Host: 127.0.0.1:{port}
        O< Sec-WebSocket-Key: k
        O< X-Forwarded-For: 127.0.0.1
        O< X-Real-IP: 127.0.0.1
        O< X-Forwarded-Host: a
        O< X-Forwarded-Proto: http
        O< X-Forwarded-Port: 80
        O< Via: 1.1 p2pstream
        O< Connection: Upgrade
        O< Upgrade: websocket
        O<
        O> HTTP/1.1 101 Switching Protocols
        O> Upgrade: WebSocket
        O> Connection: upgrade
        O> Sec-WebSocket-Accept: a
        O> Date: d
        O>
        O> leftover\\
        C< HTTP/1.1 101 Switching Protocols
        C< Sec-WebSocket-Accept: a
        C< Date: d
        C< Via: 1.1 p2pstream
        C< Connection: Upgrade
        C< Upgrade: WebSocket
        C<
        C< leftover\\
        O< early\\
        C> ping\\
        O< ping\\
        O> pong\\
        C< pong\\
        C> [end]
        O< [end]
        O> after the half-close\\
        C< after the half-close\\
        O> [end]
        C< [end]
        """,
    )
    record = await proxy.record()
    assert (record.status, record.error_kind, record.bytes_in) == (101, None, 9)


async def test_the_origin_may_end_first(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(UPGRADE)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(SWITCH)
    await upstream.half_close()
    await client.head()
    await client.end()
    await client.send("still here")
    await upstream.expect("still here")
    await client.half_close()
    await upstream.end()
    assert (await proxy.record()).error_kind is None


@pytest.mark.parametrize(
    ("who", "kind"), [("client", "client_cancelled"), ("origin", "upstream_aborted")]
)
async def test_a_reset_after_the_upgrade_reaches_the_other_end(
    lab: Lab, who: str, kind: str
) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client, upstream = await switched(proxy, origin)
    one, other = (client, upstream) if who == "client" else (upstream, client)
    one.reset()
    await other.broken()
    record = await proxy.record()
    assert (record.status, record.error_kind) == (101, kind)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while the other sends"])
@pytest.mark.parametrize("who", ["client", "origin"])
async def test_the_last_words_before_a_reset_arrive(lab: Lab, who: str, busy: bool) -> None:
    """As without us: who closes with something unread resets, and has said before why it does."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    for _ in range(10):
        client, upstream = await switched(proxy, origin)
        one, other = (client, upstream) if who == "client" else (upstream, client)
        if busy:  # until nothing more fits in between
            with trio.move_on_after(0.05):
                while True:
                    await other.stream.send_all(bytes(1_000_000))
        await one.send("goodbye")
        one.reset()
        await other.expect("goodbye")
        await other.broken()


async def test_an_upgraded_connection_may_idle(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_listener(idle_timeout=0.01, header_timeout=0.01)
    proxy.tune_target(response_timeout=0.3)
    client, upstream = await switched(proxy, origin)
    await client.silent()
    await trio.sleep(0.4)  # past every deadline there was, and two sweeps
    await client.send("ping")
    await upstream.expect("ping")
    upstream.close()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, SWITCH),
        (UPGRADE, SWITCH.replace("websocket", "h2c")),
        (UPGRADE, SWITCH.replace("websocket", "chess")),
        (UPGRADE, SWITCH.replace("Upgrade: websocket\r\n", "")),
        (UPGRADE, SWITCH.replace("Connection: Upgrade\r\n", "")),
        (UPGRADE.replace("1.1", "1.0"), SWITCH),
        (UPGRADE.replace("websocket", "h2c"), SWITCH.replace("websocket", "h2c")),
        (UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), SWITCH),
    ],
)
async def test_101_that_was_not_asked_for(lab: Lab, request_: str, answer: str) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(request_)
    upstream = await origin.accept()
    await upstream.request()
    await upstream.send(answer)
    assert (await client.response()).status == 502
    assert (await proxy.record()).error_kind == "upstream_invalid_response"
