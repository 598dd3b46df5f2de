"""A Go origin (net/http): what needs more than a request and its answer.

The client's side is raw: every byte that it gets is looked at.
"""

from __future__ import annotations

import json
import os
import threading
from itertools import count
from typing import Any

import pytest

from tests.interop.http.peers import MEGABYTE, Raw, Site
from tests.programs import wait_until

NAMES = count()


@pytest.fixture
def host(site: Site, way: str) -> str:
    site.need("go")
    return f"go.{way}.test"


def head(host: str, start: str, *lines: str) -> bytes:
    """A request's head."""
    return "\r\n".join((start, f"Host: {host}", *lines, "", "")).encode()


def told(answer: Raw) -> dict[str, Any]:
    """The next answer of `/echo`."""
    fields = answer.until(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 200 OK\r\n"), fields
    size = int(fields.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    view: dict[str, Any] = json.loads(answer.exactly(size))
    return view


def log_of(site: Site, case: str) -> list[dict[str, Any]]:
    """What the origin was asked under a case, from itself."""
    with site.connect_past("go") as past:
        past.send(head("x", f"GET /log?case={case} HTTP/1.1", "Connection: close"))
        view: list[dict[str, Any]] = json.loads(past.rest().partition(b"\r\n\r\n")[2])
        return view


def chunked(answer: Raw) -> tuple[bytes, bytes]:
    """(payload, trailer lines) of a chunked body."""
    body = b""
    while size := int(answer.until(b"\r\n"), 16):
        body += answer.exactly(size + 2)[:-2]
    trailers = b""
    while (line := answer.until(b"\r\n")) != b"\r\n":
        trailers += line
    return body, trailers


def test_trailers_both_ways(site: Site, host: str) -> None:
    with site.connect() as client:
        lines = ("Transfer-Encoding: chunked", "Trailer: X-Sum", "TE: trailers")
        client.send(head(host, "POST /echo HTTP/1.1", *lines))
        client.send(b"4;ext=1\r\nbody\r\n0\r\nX-Sum: 42\r\nHost: evil\r\nContent-Length: 9\r\n\r\n")
        seen = told(client)
        assert (seen["body"], seen["coding"]) == ("body", ["chunked"])
        # Trailer stops at a hop; Go keeps what it was not announced all the same.
        assert seen["trailers"] == {"X-Sum": ["42"]}
        assert (seen["host"], seen["body_error"]) == (host, "")
        client.send(head(host, "GET /chunked HTTP/1.1"))
        assert b"Transfer-Encoding: chunked\r\n" in client.until(b"\r\n\r\n")
        assert chunked(client) == (b"one two three", b"X-Announced: yes\r\nX-Unannounced: too\r\n")


def test_interim_answers_come_when_they_are_made(site: Site, host: str) -> None:
    with site.connect() as client:
        client.send(head(host, "GET /hints HTTP/1.1"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 102 Processing\r\n")
        first, second = client.until(b"\r\n\r\n"), client.until(b"\r\n\r\n")
        for hint in (first, second):
            assert hint.startswith(b"HTTP/1.1 103 Early Hints\r\n")
        assert (first.count(b"Link: "), second.count(b"Link: ")) == (1, 2)
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.exactly(7) == b"at last"
    with site.connect() as client:
        client.send(head(host, "GET /hints HTTP/1.0"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.rest() == b"at last"


def test_each_event_arrives_before_the_next_is_made(site: Site, host: str) -> None:
    key = f"{host}-{next(NAMES)}"
    with site.connect() as client, site.connect() as other:
        client.send(head(host, f"GET /events?key={key} HTTP/1.1"))
        assert b"Content-Type: text/event-stream\r\n" in client.until(b"\r\n\r\n")
        for number in (1, 2, 3):
            assert b"data: %d" % number in client.until(b"\n\n")
            other.send(head(host, f"GET /step?key={key} HTTP/1.1"))
            assert other.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_answer_comes_while_the_request_still_does(site: Site, host: str, framing: str) -> None:
    """Piece by piece in turn: nothing waits for the end of either body."""
    pieces = [os.urandom(size) for size in (1, 1000, 100_000, 1, MEGABYTE)]
    size = sum(map(len, pieces))
    by_length = framing == "length"
    coding = f"Content-Length: {size}" if by_length else "Transfer-Encoding: chunked"
    with site.connect() as client:
        client.send(head(host, "POST /duplex HTTP/1.1", coding))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        for piece in pieces:
            client.send(piece if by_length else b"%x\r\n%b\r\n" % (len(piece), piece))
            got = b""
            while len(got) < len(piece):
                got += client.exactly(int(client.until(b"\r\n"), 16) + 2)[:-2]
            assert got == piece
        if not by_length:
            client.send(b"0\r\n\r\n")
        assert client.rest() == b"0\r\n\r\n"


def test_an_early_answer_ends_the_upload(site: Site, host: str) -> None:
    with site.connect() as client:
        client.send(head(host, "PUT /early HTTP/1.1", f"Content-Length: {100 * MEGABYTE}"))
        stop = threading.Event()

        def upload() -> None:
            try:
                while not stop.is_set():
                    client.send(bytes(65_536))
            except OSError:
                pass

        sender = threading.Thread(target=upload)
        sender.start()
        try:
            answer = client.rest_or_reset()
        finally:
            stop.set()
            client.sock.close()
            sender.join()
        assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"too much")
        assert b"Connection: close\r\n" in answer


def test_pipelined_requests_are_answered_in_order(site: Site, host: str) -> None:
    requests = [
        head(host, "GET /echo?1 HTTP/1.1"),
        head(host, "POST /echo?2 HTTP/1.1", "Content-Length: 5") + b"hello",
        head(host, "HEAD /echo?3 HTTP/1.1"),
        head(host, "POST /echo?4 HTTP/1.1", "Transfer-Encoding: chunked") + b"2\r\nhi\r\n0\r\n\r\n",
        head(host, "GET /chunked HTTP/1.1"),
        head(host, "GET /echo?6 HTTP/1.1", "Connection: close"),
        head(host, "GET /echo?7 HTTP/1.1"),
    ]
    with site.connect() as client:
        client.send(b"".join(requests))
        assert told(client)["target"] == "/echo?1"
        assert told(client)["body"] == "hello"
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert told(client)["body"] == "hi"
        client.until(b"\r\n\r\n")
        assert chunked(client)[0] == b"one two three"
        assert told(client)["target"] == "/echo?6"
        assert client.rest() == b""


@pytest.mark.parametrize("keep", [False, True])
def test_a_client_of_http_1_0(site: Site, host: str, keep: bool) -> None:
    lines = ("Connection: keep-alive",) if keep else ()
    with site.connect() as client:
        client.send(head(host, "POST /echo HTTP/1.0", "Content-Length: 3", *lines) + b"abc")
        assert told(client)["body"] == "abc"
        if keep:
            client.send(head(host, "GET /chunked HTTP/1.0", *lines))
            answer = client.until(b"\r\n\r\n")
            assert b"Connection: close\r\n" in answer and b"chunked" not in answer
            assert client.rest() == b"one two three"
        else:
            assert client.rest() == b""


def test_answers_without_a_body(site: Site, host: str) -> None:
    with site.connect() as client:
        for method, path, status in (
            ("GET", "/nothing", b"204"),
            ("GET", "/unchanged", b"304"),
            ("HEAD", "/unchanged", b"304"),
            ("HEAD", "/chunked", b"200"),
            ("HEAD", "/close", b"200"),
            ("GET", "/nothing", b"204"),
        ):
            client.send(head(host, f"{method} {path} HTTP/1.1"))
            assert client.until(b"\r\n\r\n").split(b" ")[1] == status
        client.send(head(host, "GET /echo HTTP/1.1", "Connection: close"))
        assert told(client)["target"] == "/echo"
        assert client.rest() == b""


def test_what_is_expected_and_what_not(site: Site, host: str) -> None:
    with site.connect() as client:
        expect = ("Content-Length: 4", "Expect: 100-continue")
        client.send(head(host, "POST /echo HTTP/1.1", *expect))
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert told(client)["body"] == "body"
        client.send(head(host, "POST /echo HTTP/1.1", "Content-Length: 4", "Expect: a-miracle"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 417 ")


UPGRADE = ("Connection: Upgrade", "Upgrade: lines")


def upgraded(site: Site, host: str, first: str, case: str) -> Raw:
    """A connection that speaks `lines` now."""
    client = site.connect()
    start = f"GET /upgrade?first={first} HTTP/1.1"
    client.send(head(host, start, f"X-Case: {case}", *UPGRADE) + b"early ")
    answer = client.until(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Connection: Upgrade\r\nUpgrade: lines\r\n" in answer
    return client


def test_an_upgrade_whose_client_ends_first(site: Site, host: str) -> None:
    """The other direction goes on after the end of one."""
    with upgraded(site, host, "client", f"case-{next(NAMES)}") as client:
        client.send(bytes(MEGABYTE))
        client.end()
        assert client.rest() == b"got %d bytes" % (MEGABYTE + len("early "))


def test_an_upgrade_whose_origin_ends_first(site: Site, host: str) -> None:
    case = f"case-{next(NAMES)}"
    with upgraded(site, host, "origin", case) as client:
        assert client.rest() == b"my part"
        client.send(b"and mine")
        assert log_of(site, case) == []
        client.end()
        wait_until("the origin to get it", lambda: log_of(site, case))
    assert [one["body"] for one in log_of(site, case)] == ["early and mine"]


def test_an_upgrade_whose_client_vanishes(site: Site, host: str) -> None:
    """The origin sees a broken connection, not an end."""
    case = f"case-{next(NAMES)}"
    with upgraded(site, host, "client", case) as client:
        client.send(b"half")
        client.sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER: reset
    wait_until("the origin to notice", lambda: log_of(site, case))
    (seen,) = log_of(site, case)
    assert "reset" in seen["body_error"]
