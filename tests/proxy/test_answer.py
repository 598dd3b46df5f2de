"""Answers of our own: static targets, redirects, `OPTIONS *`; and what becomes of a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Proxy

TEXT = """
[[listeners]]
id = "main"
port = 1
max_body_bytes = 1000000
[[routes]]
id = "moved"
listener_id = "main"
path_prefix = "/old"
action = "redirect"
redirect_target_mode = "same_host_path"
redirect_target = "/new?fixed=1"
redirect_status_code = 308
[[routes]]
id = "r"
listener_id = "main"
is_default = true
[[routes.targets]]
target_type = "static"
static_status_code = %d
static_response_headers = [["X-A", "1"], ["X-A", "2"]]
static_response_body = "hello"
"""
CLAIM = "HTTP/1.1 {status}\r\nX-A: 1\r\nX-A: 2\r\n{type}{length}Date: {date}\r\n{more}\r\n{body}"


def expected(status: str, *, body: str = "hello", more: str = "", bodiless: bool = False) -> str:
    return CLAIM.format(
        status=status,
        type="" if bodiless else "Content-Type: text/plain; charset=utf-8\r\n",
        length="" if bodiless else "Content-Length: 5\r\n",
        date="Thu, 01 Jan 1970 00:00:00 GMT",
        more=more,
        body=body,
    )


def serve(lab: Lab, status: int = 200) -> Proxy:
    return lab.serve(TEXT % status)


@pytest.mark.parametrize(
    ("status", "request_", "answer", "goes_on"),
    [
        (200, "GET / HTTP/1.1", expected("200 OK"), True),
        (200, "HEAD / HTTP/1.1", expected("200 OK", body=""), True),
        (200, "OPTIONS /x HTTP/1.1", expected("200 OK"), True),
        (404, "GET / HTTP/1.1", expected("404 Not Found"), True),
        (204, "GET / HTTP/1.1", expected("204 No Content", body="", bodiless=True), True),
        (304, "GET / HTTP/1.1", expected("304 Not Modified", body="", bodiless=True), True),
        (
            200,
            "GET / HTTP/1.1\r\nConnection: close",
            expected("200 OK", more="Connection: close\r\n"),
            False,
        ),
        (200, "GET / HTTP/1.0", expected("200 OK", more="Connection: close\r\n"), False),
        (
            200,
            "GET / HTTP/1.0\r\nConnection: keep-alive",
            expected("200 OK", more="Connection: keep-alive\r\n"),
            True,
        ),
    ],
)
async def test_static(lab: Lab, status: int, request_: str, answer: str, goes_on: bool) -> None:
    proxy = serve(lab, status)
    client = await proxy.dial()
    await client.send(f"{request_}\r\nHost: a\r\n\r\n")
    await client.expect(answer)
    await (client.silent() if goes_on else client.end())
    record = await proxy.record()
    assert (record.status, record.error_kind, record.attempts) == (status, None, 0)
    assert (record.bytes_out, record.target) == (len(answer), "target-1")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_redirect(lab: Lab, method: str) -> None:
    proxy = serve(lab)
    client = await proxy.dial()
    body = "Content-Length: 3\r\n" if method == "POST" else ""
    await client.send(f"{method} /old/x?y=z HTTP/1.1\r\nHost: a\r\n{body}\r\n" + "abc" * bool(body))
    answer = await client.response(method)
    assert (answer.status, answer.fields["location"]) == (308, "/new/x?fixed=1&y=z")
    assert answer.fields["content-length"] == "23"
    assert answer.body == (b"" if method == "HEAD" else b"308 Permanent Redirect\n")
    await client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # the body was read and dropped
    assert (await client.response()).body == b"hello"
    assert proxy.records[0].route == "moved"


@pytest.mark.parametrize(
    "target", ["* HTTP/1.1", "http://a HTTP/1.1", "/old/x HTTP/1.1\r\nMax-Forwards: 1"]
)
async def test_options_for_the_server_itself(lab: Lab, target: str) -> None:
    proxy = serve(lab)
    client = await proxy.dial()
    await client.send(f"OPTIONS {target}\r\nHost: a\r\n\r\n")
    answer = await client.response("OPTIONS")
    if "/old" in target:
        assert answer.status == 308
        return
    assert (answer.status, answer.body) == (200, b"")
    assert "OPTIONS" in answer.fields["allow"]
    assert (await proxy.record()).route is None


async def test_max_forwards_0_ends_here(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    client = await proxy.dial()
    await client.send("OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
    answer = await client.response("OPTIONS")
    assert (answer.status, answer.body) == (200, b"")
    assert origin.accepted == 0


# --- bodies that nobody wants ---------------------------------------------------------------

POST = "POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + "Content-Length: 200000\r\n\r\n" + "x" * 200_000,
        CHUNKED + "5\r\nhello\r\n" * 1000 + "0\r\nX-T: 1\r\n\r\n",
    ],
)
async def test_a_short_one_is_dropped_and_the_connection_goes_on(lab: Lab, request_: str) -> None:
    proxy = serve(lab)
    client = await proxy.dial()
    for count in (1, 2, 3):
        await client.send(request_)
        answer = await client.response("POST")
        assert (answer.body, answer.fields.get("connection")) == (b"hello", None)
        await proxy.record(count)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (POST + "Content-Length: 900000\r\n\r\n" + "x" * 900_000, True),
        (POST + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", True),
        (POST + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello", True),
        (CHUNKED + ("2710\r\n" + "x" * 10_000 + "\r\n") * 90 + "0\r\n\r\n", False),
        (CHUNKED + "5\r\nhello\r\n" + "nonsense\r\n", False),
    ],
    ids=["long", "expected", "expected but sent", "long and chunked", "bad"],
)
async def test_otherwise_the_connection_ends(lab: Lab, request_: str, told: bool) -> None:
    proxy = serve(lab)
    client = await proxy.dial()
    await client.send(request_)
    answer = await client.response("POST")
    assert answer.body == b"hello"
    assert answer.fields.get("connection") == ("close" if told else None)
    await client.end()
    await proxy.record()


async def test_a_body_that_does_not_come_ends_the_connection(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pstream.proxy.body._DRAIN_SECONDS", 0.05)
    proxy = serve(lab)
    client = await proxy.dial()
    await client.send(POST + "Content-Length: 5\r\n\r\nhel")
    assert (await client.response("POST")).body == b"hello"
    await client.end()


async def test_a_body_past_the_limit_is_refused_before_it_comes(lab: Lab) -> None:
    proxy = serve(lab)
    client = await proxy.dial()
    await client.send(POST + "Content-Length: 1000001\r\n\r\n")
    answer = await client.response("POST")
    assert (answer.status, answer.fields["connection"]) == (413, "close")


async def test_a_date_that_is_configured_is_the_only_one(lab: Lab) -> None:
    text = (TEXT % 200).replace('["X-A", "1"]', '["date", "Mon, 01 Jan 2024 00:00:00 GMT"]')
    proxy = lab.serve(text)
    client = await proxy.dial()
    await client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await client.head()
    assert head.lower().count(b"\r\ndate: ") == 1
    assert b"2024" in head
    await client.expect("hello")
