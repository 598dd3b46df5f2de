from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from p2pstream.errors import (
    BodyTooLarge,
    DeadlineExpired,
    HeaderTooLarge,
    InvalidRequest,
    P2PStreamError,
    StreamClosed,
    UpstreamClosed,
    UpstreamInvalidResponse,
)
from p2pstream.net.http import (
    ClientConnection,
    Request,
    Response,
    ServerConnection,
    Upgraded,
    fetch,
    tokens,
    upgrade,
)
from p2pstream.net.stream import TcpStream

GET = Request("GET", "/x?y=1", (("host", "origin.test"),))


@pytest.fixture
async def ends() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    socks = socket.socketpair()
    for sock in socks:
        sock.setblocking(False)
    near, far = map(TcpStream, socks)
    yield near, far
    near.close()
    far.close()


async def everything(stream: TcpStream) -> bytes:
    data = b""
    while piece := await stream.receive(65_536):
        data += piece
    return data


async def serve(stream: TcpStream, answer: Callable[[Request], Awaitable[Response]]) -> None:
    connection = ServerConnection(stream)
    while (request := await connection.next_request()) is not None:
        await connection.respond(await answer(request), head=request.method == "HEAD")
        if not connection.start_next():
            break
    stream.close()


def test_list_fields_are_joined_and_split() -> None:
    headers = (("connection", "Keep-Alive, "), ("connection", "UPGRADE"), ("x", "a"))
    assert tokens(headers, "connection") == {"keep-alive", "upgrade"}
    assert tokens(headers, "upgrade") == frozenset()
    assert Request("GET", "/", headers).header("connection") == "Keep-Alive, , UPGRADE"
    assert Response(200).header("x") is None


def test_a_target_is_path_and_query() -> None:
    assert (GET.path, GET.query) == ("/x", "y=1")
    assert Request("GET", "/x", ()).query == ""


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://a.test/x/y?z=1", "/x/y", "z=1"),
        ("HTTPS://a.test:8081/", "/", ""),
        ("http://a.test", "/", ""),
        ("http://a.test?z=/1", "/", "z=/1"),
        ("/x?u=http://a.test/y", "/x", "u=http://a.test/y"),
        ("/http://a.test/y", "/http://a.test/y", ""),
        ("*", "*", ""),
        ("ftp://a.test/x", "ftp://a.test/x", ""),
    ],
)
def test_a_target_may_be_a_whole_url(target: str, path: str, query: str) -> None:
    request = Request("GET", target, ())
    assert (request.path, request.query) == (path, query)


async def test_requests_follow_one_another(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends

    async def answer(request: Request) -> Response:
        return Response.text(200, f"{request.method} {request.target}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, answer)
        await client.send(
            b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n"  # pipelined
            b"HEAD /two HTTP/1.1\r\nHost: x\r\n\r\n"
            b"POST /three HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
            b"GET /four HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        text = (await everything(client)).decode()
    assert text.count("HTTP/1.1 200") == 4
    assert "GET /one\n" in text
    assert "HEAD /two\n" not in text
    assert "POST /three\n" in text
    assert "GET /four\n" in text
    assert text.lower().count("connection: close") == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_no_length(
    ends: tuple[TcpStream, TcpStream], status: int
) -> None:
    client, server = ends
    connection = ServerConnection(server)
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await connection.next_request()
    await connection.respond(Response(status))
    assert b"content-length" not in await client.receive(1000)


async def test_a_body_is_read_to_its_limit(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    connection = ServerConnection(server)
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    await client.send(head + b"Expect: 100-continue\r\n\r\n")
    await connection.next_request()
    await client.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert await connection.read_body(5) == b"abcde"
    assert await client.receive(100) == b"HTTP/1.1 100 \r\n\r\n"
    await connection.respond(Response(200))
    assert connection.start_next()
    await client.receive(1000)
    await client.send(head + b"\r\n6\r\nabcdef\r\n")
    await connection.next_request()
    with pytest.raises(BodyTooLarge):
        await connection.read_body(5)


async def test_an_unread_body_ends_the_connection(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    connection = ServerConnection(server)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbeginning")
    await connection.next_request()
    await connection.respond(Response.text(404, "no"))
    assert b"connection: close" in await client.receive(1000)
    assert not connection.start_next()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"nonsense\r\n\r\n", InvalidRequest),
        (b"GET / HTTP/1.1\r\n\r\n", InvalidRequest),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, HeaderTooLarge),
    ],
)
async def test_a_bad_head_can_be_answered(
    ends: tuple[TcpStream, TcpStream], sent: bytes, error: type[P2PStreamError]
) -> None:
    client, server = ends
    connection = ServerConnection(server)
    await client.send(sent)
    with pytest.raises(error):
        await connection.next_request()
    await connection.respond(Response.text(400, "no"))
    answer = await client.receive(1000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer


async def test_a_client_that_leaves_between_requests_is_the_end(
    ends: tuple[TcpStream, TcpStream],
) -> None:
    client, server = ends
    client.close()
    assert await ServerConnection(server).next_request() is None


async def test_a_head_that_stops_half_way_is_invalid(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    await client.send(b"GET / HT")
    await client.send_eof()
    with pytest.raises(InvalidRequest):
        await ServerConnection(server).next_request()


async def test_a_slow_head_meets_the_deadline(
    ends: tuple[TcpStream, TcpStream], autojump_clock: trio.testing.MockClock
) -> None:
    client, server = ends
    await client.send(b"GET / HTTP/1.1\r\n")
    server.waits.deadline = trio.current_time() + 5
    with pytest.raises(DeadlineExpired):
        await ServerConnection(server).next_request()


UPGRADE = b"GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\n"


@pytest.mark.parametrize(
    ("sent", "later", "early"),
    [
        (UPGRADE + b"\r\n", b"", False),
        (UPGRADE + b"\r\nX", b"", True),
        (UPGRADE + b"\r\n", b"X", True),
        (UPGRADE + b"Content-Length: 1\r\n\r\nX", b"", True),
        (UPGRADE + b"Content-Length: 1\r\n\r\n", b"", True),
        (UPGRADE + b"Content-Length: 0\r\n\r\n", b"", False),
    ],
)
async def test_early_bytes_are_noticed_wherever_they_are(
    ends: tuple[TcpStream, TcpStream], sent: bytes, later: bytes, early: bool
) -> None:
    client, server = ends
    connection = ServerConnection(server)
    await client.send(sent)
    await connection.next_request()
    await client.send(later)
    assert connection.early_bytes() is early
    await connection.respond(Response.text(400, "no"))
    assert (await client.receive(1000)).startswith(b"HTTP/1.1 400 ")


async def test_both_ends_switch_and_nothing_is_lost(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    got: list[Upgraded | Response] = []

    async def ask() -> None:
        fields = (("host", "x"), ("connection", "Upgrade"), ("upgrade", "other"))
        got.append(await upgrade(client, Request("GET", "/up", fields)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        connection = ServerConnection(server)
        request = await connection.next_request()
        assert request is not None
        assert tokens(request.headers, "upgrade") == {"other"}
        await connection.switch((("connection", "Upgrade"), ("upgrade", "other")))
        await server.send(b"first words")
    (answer,) = got
    assert isinstance(answer, Upgraded)
    assert tokens(answer.headers, "upgrade") == {"other"}
    rest = answer.leftover
    while len(rest) < 11:
        rest += await client.receive(100)
    assert rest == b"first words"


async def respond_with(stream: TcpStream, data: bytes, *, close: bool = True) -> None:
    """A server of few words: reads a head, sends `data`."""
    while not (await stream.receive(65_536)).endswith(b"\r\n\r\n"):
        pass
    try:
        await stream.send(data)
    except P2PStreamError:
        pass  # the client had read enough
    if close:
        stream.close()


async def fetched(ends: tuple[TcpStream, TcpStream], data: bytes, limit: int) -> Response:
    client, server = ends
    got: list[Response] = []
    failed: list[P2PStreamError] = []

    async def ask() -> None:
        try:
            got.append(await fetch(client, GET, max_body_bytes=limit))
        except P2PStreamError as error:
            failed.append(error)
        client.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(respond_with, server, data)
    if failed:
        raise failed[0]
    return got[0]


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            200,
            b"hello",
        ),
        (b"HTTP/1.0 404 No\r\n\r\nuntil the end", 404, b"until the "),
        (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 None\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, 200, b"x" * 10),
    ],
)
async def test_responses_are_read_up_to_a_limit(
    ends: tuple[TcpStream, TcpStream], data: bytes, status: int, body: bytes
) -> None:
    response = await fetched(ends, data, 10)
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UpstreamClosed),
        (b"HTTP/1.1 20", UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", UpstreamClosed),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UpstreamInvalidResponse),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, UpstreamInvalidResponse),
        (b"HTTP/1.1 101 Switching\r\n\r\n", UpstreamInvalidResponse),
    ],
)
async def test_bad_responses_are_told_from_missing_ones(
    ends: tuple[TcpStream, TcpStream], data: bytes, error: type[P2PStreamError]
) -> None:
    with pytest.raises(error):
        await fetched(ends, data, 10)


async def test_a_refused_upgrade_is_a_response(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    async with trio.open_nursery() as nursery:
        data = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nunauthorized\n"
        nursery.start_soon(respond_with, server, data)
        answer = await upgrade(client, GET)
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (401, b"unauthorized\n")


async def test_a_request_body_goes_with_its_length(ends: tuple[TcpStream, TcpStream]) -> None:
    client, server = ends
    connection = ClientConnection(client)
    await connection.request(Request("POST", "/", (("host", "x"),)), b"hello")
    assert (await server.receive(1000)).endswith(b"content-length: 5\r\n\r\nhello")


async def test_a_closed_stream_says_so(ends: tuple[TcpStream, TcpStream]) -> None:
    client, _ = ends
    client.close()
    with pytest.raises(StreamClosed):
        await fetch(client, GET, max_body_bytes=1)
