"""A client's connection: heads and their limits, what is waited for and how long, goodbyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from tests.proxy.conftest import InARow, Lab, Proxy

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nok"
STATIC = """
[[listeners]]
id = "main"
port = 1
%s
[[routes]]
id = "r"
listener_id = "main"
is_default = true
[[routes.targets]]
target_type = "static"
static_response_body = "hello"
"""


def static(lab: Lab, listener: str = "") -> Proxy:
    return lab.serve(STATIC % listener)


# --- heads ----------------------------------------------------------------------------------


async def test_a_head_byte_by_byte(lab: Lab) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    for count in (1, 2):
        await client.send(GET, bytewise=True)
        assert (await client.response()).body == b"hello"
        await proxy.record(count)


@pytest.mark.parametrize("size", [1024, 1025])
@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("tail", ["", GET])
async def test_the_limit_is_exact(lab: Lab, size: int, bytewise: bool, tail: str) -> None:
    proxy = static(lab, "max_header_bytes = 1024")
    head = GET[:-2] + "X: " + "x" * (size - len(GET) - 5) + "\r\n\r\n"
    assert len(head) == size
    client = await proxy.dial()
    await client.send(head + tail, bytewise=bytewise)
    answer = await client.response()
    assert answer.status == (200 if size == 1024 else 431)
    if size == 1024 and tail:
        assert (await client.response()).status == 200


async def test_pipelined_requests_are_answered_in_order(lab: Lab) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    await client.send((GET + "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n") * 500)
    for _ in range(500):
        assert (await client.response()).body == b"hello"
        assert (await client.response("HEAD")).body == b""
    await proxy.record(1000)


async def test_a_flood_of_pipelined_requests_does_not_starve_others(lab: Lab) -> None:
    proxy = static(lab)
    flood = await proxy.dial()
    await flood.send(GET * 2000)
    other = await proxy.dial()
    await other.send(GET)
    assert (await other.response()).body == b"hello"
    assert len(proxy.records) < 2000
    for _ in range(2000):
        await flood.response()


async def test_long_heads_let_others_have_their_turn(
    lab: Lab, in_a_row: InARow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 64 KiB takes tens of milliseconds, and turns are counted by reads, sixteen of them."""
    in_a_row.heads(monkeypatch, "proxy.connection")
    proxy = static(lab)
    client = await proxy.dial()
    requests = [f"{GET[:-2]}X-{n}: {'x' * 3000}\r\n\r\n" for n in range(200)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, "".join(requests))
        for _ in requests:
            assert (await client.response()).body == b"hello"
    assert 0 < in_a_row.most <= 4


async def test_a_client_that_sends_and_never_reads_is_stopped(lab: Lab) -> None:
    """Answers go out before the next request is read: what we hold does not grow."""
    proxy = static(lab)
    proxy.tune_listener(idle_timeout=0.1)
    client = await proxy.dial(receive_buffer=4096)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        while True:
            await client.stream.send_all((GET * 100).encode())
    assert proxy.records[-1].error_kind == "client_cancelled"


async def test_fields_that_repeat_are_told_apart_from_others(lab: Lab) -> None:
    """The last request's fields are remembered; the bytes decide, and the start line is new."""
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    requests = [("/a", "one"), ("/b", "one"), ("/b", "two"), ("/b", "one")]
    for path, host in requests:
        await client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
        upstream = origin.wires[0] if origin.wires else await origin.accept()
        head = await upstream.head()
        assert head.startswith(f"GET {path} ".encode())
        assert f"X-Forwarded-Host: {host}\r\n".encode() in head
        await upstream.send(OK)
        await client.response()


# --- deadlines ------------------------------------------------------------------------------


async def test_nothing_came(lab: Lab) -> None:
    proxy = static(lab)
    proxy.tune_listener(header_timeout=0.05)
    client = await proxy.dial()
    await client.end()
    assert proxy.records == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_head_that_comes_too_slowly(lab: Lab, first: bool) -> None:
    proxy = static(lab)
    proxy.tune_listener(header_timeout=0.05, idle_timeout=5)
    client = await proxy.dial()
    if not first:
        await client.send(GET)
        await client.response()
    await client.send("GET / HTTP/1.1\r\nHost: ")
    answer = await client.response()
    assert (answer.status, answer.fields["connection"]) == (408, "close")
    await client.end()
    record = await proxy.record(1 if first else 2)
    assert (record.status, record.error_kind) == (408, "request_timeout")


async def test_a_byte_now_and_then_does_not_prolong_the_deadline(lab: Lab) -> None:
    proxy = static(lab)
    proxy.tune_listener(header_timeout=0.1)
    client = await proxy.dial()
    with pytest.raises((trio.BrokenResourceError, AssertionError)), trio.fail_after(5):
        for byte in GET[:-1] * 100:
            await client.send(byte)
            await trio.sleep(0.01)
            assert client.stream.socket.fileno() >= 0
            assert not proxy.records
    assert (await proxy.record()).error_kind == "request_timeout"


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_a_client_that_sends_empty_lines_only(lab: Lab, pause: float) -> None:
    proxy = static(lab)
    proxy.tune_listener(header_timeout=0.1)
    client = await proxy.dial()
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        while True:
            await client.stream.send_all(b"\r\n" * (1 if pause else 5_000))
            await trio.sleep(pause)
    assert proxy.records == []


async def test_idle_for_too_long(lab: Lab) -> None:
    proxy = static(lab)
    proxy.tune_listener(idle_timeout=0.05)
    client = await proxy.dial()
    await client.send(GET)
    await client.response()
    await client.end()
    assert len(proxy.records) == 1


async def test_an_empty_line_after_a_request_begins_no_head(lab: Lab) -> None:
    proxy = static(lab)
    proxy.tune_listener(header_timeout=0.01, idle_timeout=0.3)
    client = await proxy.dial()
    await client.send(GET + "\r\n")
    await client.response()
    await client.silent()
    await client.end()  # by the idle timeout, and without a 408
    assert len(proxy.records) == 1


async def test_no_deadline_is_left_from_the_head(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    proxy.tune_listener(header_timeout=0.05, idle_timeout=0.05)
    client = await proxy.dial()
    await client.send(GET[:20])
    await client.send(GET[20:])
    upstream = await origin.accept()
    await trio.sleep(0.4)
    await upstream.send(OK)
    assert (await client.response()).status == 200


# --- the client's end -----------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["", "\r\n"])
async def test_a_client_that_only_looked_in(lab: Lab, sent: str) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    await client.send(sent)
    client.close()
    await proxy.quiet()
    assert proxy.records == []


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_inside_a_head(lab: Lab, leave: str) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    await client.send("GET /")
    await trio.sleep(0.01)
    getattr(client, leave)()
    record = await proxy.record()
    assert (record.status, record.error_kind) == (499, "client_cancelled")


async def test_an_answer_is_not_destroyed_by_what_still_comes(lab: Lab) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    await client.send("GET / HTTP/1.1\r\nHost a\r\n\r\n" + "x" * 10_000_000)
    assert (await client.response()).status == 400
    await client.end()


async def test_a_client_that_never_stops_sending_is_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pstream.proxy.connection._LINGER_SECONDS", 0.1)
    proxy = static(lab)
    client = await proxy.dial()
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        while True:
            await client.stream.send_all(b"\n" * 100_000)
    await proxy.quiet()


async def test_a_client_that_never_closes_is_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pstream.proxy.connection._LINGER_STALL_SECONDS", 0.05)
    proxy = static(lab)
    client = await proxy.dial()
    await client.send(GET.replace("1.1", "1.0"))
    assert (await client.response()).body == b"hello"
    await client.end()
    await proxy.quiet()


# --- drain ----------------------------------------------------------------------------------


async def test_drain_ends_idle_connections_at_once(lab: Lab) -> None:
    proxy = static(lab)
    fresh = await proxy.dial()
    used = await proxy.dial()
    await used.send(GET)
    await used.response()
    await fresh.silent()
    proxy.server.drain()
    await fresh.end()
    await used.end()
    await proxy.quiet()
    assert len(proxy.records) == 1


@pytest.mark.parametrize("when", ["before the answer", "within the answer"])
async def test_drain_lets_a_request_end(lab: Lab, when: str) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    if when == "before the answer":
        proxy.server.drain()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    head = await client.head()
    if when == "within the answer":
        proxy.server.drain()
    await upstream.send("k")
    await client.expect("ok")
    await client.end()
    assert (b"Connection: close" in head) == (when == "before the answer")
    assert (await proxy.record()).error_kind is None


async def test_drain_lets_a_head_that_began_end(lab: Lab) -> None:
    proxy = static(lab)
    client = await proxy.dial()
    await client.send(GET[:10])
    await client.silent()
    proxy.server.drain()
    await client.silent()
    await client.send(GET[10:])
    answer = await client.response()
    assert (answer.body, answer.fields["connection"]) == (b"hello", "close")
    await client.end()


async def test_drain_serves_what_was_pipelined_before(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send(GET + GET + GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    await client.until(b"\r\n\r\no")
    proxy.server.drain()  # the first one's answer has promised that the connection goes on
    await upstream.send("k")
    await client.expect("k")
    await upstream.head()
    await upstream.send(OK)
    assert (await client.response()).fields["connection"] == "close"
    await client.end()
    await proxy.record(2)


async def test_drain_lets_an_upgraded_connection_go_on(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    await client.head()
    proxy.server.drain()
    await client.send("ping")
    await upstream.expect("ping")
    upstream.close()
    await client.end()
