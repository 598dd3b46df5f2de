"""nginx (Debian) as the origin: what it says itself, a client hears through us.

Each request goes to nginx directly and through p2pstream; the answers must be the same but for the
fields of the hop.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from typing import Any

import pytest
from attrs import field, frozen

from tests.interop.http.peers import MEGABYTE, PATIENCE, Site

OF_THE_HOP = {
    "connection",
    "via",
    "date",
    "keep-alive",
    "trailer",
    "transfer-encoding",
    "x-connection",
}


@frozen
class Ask:
    """A request."""

    method: str
    path: str
    status: int
    fields: dict[str, str] = field(factory=dict)
    body: bytes | None = None
    version: int = 11


@frozen
class Said:
    """An answer, without what may differ."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes


@pytest.fixture
def nginx(site: Site) -> Site:
    site.need("nginx")
    return site


def ask(port: int, host: str, request: Ask) -> tuple[Said, http.client.HTTPMessage]:
    """Ask one server; what it said, and all of its fields."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection._http_vsn = request.version  # type: ignore[attr-defined]  # there is no other way
    connection._http_vsn_str = f"HTTP/1.{request.version - 10}"  # type: ignore[attr-defined]  # nor here
    try:
        fields = {"Host": host, **request.fields}
        connection.request(request.method, request.path, request.body, fields)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    # Sorted by name alone: framing is written anew, behind the others.
    kept = sorted(
        ((n.lower(), v) for n, v in response.getheaders() if n.lower() not in OF_THE_HOP),
        key=lambda pair: pair[0],
    )
    return Said(response.status, response.reason, kept, body), response.headers


def both(site: Site, way: str, request: Ask) -> tuple[Said, Said]:
    """(nginx itself, nginx behind us)."""
    host = f"nginx.{way}.test"
    return ask(site.ports["nginx"], host, request)[0], ask(site.port, host, request)[0]


REQUESTS = [
    Ask("GET", "/", 200),
    Ask("GET", "/big.txt", 200),
    Ask("HEAD", "/big.txt", 200),
    Ask("GET", "/empty.txt", 200),
    Ask("GET", "/random.bin", 200),
    Ask("GET", "/said?a=b&c", 200),
    Ask("GET", "/big.txt", 200, {"Accept-Encoding": "gzip"}),
    Ask("HEAD", "/big.txt", 200, {"Accept-Encoding": "gzip"}),
    Ask("GET", "/big.txt", 200, version=10),
    Ask("GET", "/big.txt", 200, {"Connection": "keep-alive"}, version=10),
    Ask("GET", "/big.txt", 200, {"Connection": "close"}),
    Ask("GET", "/big.txt", 206, {"Range": "bytes=0-9"}),
    Ask("GET", "/big.txt", 206, {"Range": "bytes=-7"}),
    Ask("GET", "/random.bin", 206, {"Range": "bytes=1000000-"}),
    Ask("HEAD", "/big.txt", 206, {"Range": "bytes=0-9"}),
    Ask("GET", "/big.txt", 416, {"Range": "bytes=99999999-"}),
    Ask("GET", "/big.txt", 206, {"Range": "bytes=0-9", "If-Range": "ETAG"}),
    Ask("GET", "/big.txt", 200, {"Range": "bytes=0-9", "If-Range": '"another"'}),
    Ask("GET", "/big.txt", 304, {"If-None-Match": "ETAG"}),
    Ask("HEAD", "/big.txt", 304, {"If-None-Match": "ETAG"}),
    Ask("GET", "/big.txt", 304, {"If-Modified-Since": "MODIFIED"}),
    Ask("GET", "/big.txt", 412, {"If-Match": '"another"'}),
    Ask("GET", "/nothing", 204),
    Ask("HEAD", "/nothing", 204),
    Ask("GET", "/moved", 302),
    Ask("GET", "/not-there", 404),
    Ask("POST", "/big.txt", 405, body=b"data"),
    Ask("GET", "/until-close", 200),
    Ask("GET", "/until-close", 200, version=10),
    Ask("GET", "/go/chunked", 200),
    Ask("HEAD", "/go/chunked", 200),
    Ask("GET", "/go/unchanged", 304),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r.method} {r.path} {r.fields}")
def test_the_answer_is_nginxs(nginx: Site, way: str, request_: Ask) -> None:
    _, plain = ask(nginx.ports["nginx"], "x", Ask("HEAD", "/big.txt", 200))
    known = {"ETAG": plain["ETag"], "MODIFIED": plain["Last-Modified"]}
    fields = {name: known.get(value, value) for name, value in request_.fields.items()}
    alone, behind = both(nginx, way, Ask(request_.method, request_.path, 0, fields, request_.body,
                                         request_.version))  # fmt: skip
    if request_.path == "/moved":
        alone, behind = without_host(alone), without_host(behind)
    assert alone.status == request_.status
    assert behind == alone


def without_host(said: Said) -> Said:
    """nginx puts its own port into an absolute redirect."""
    kept = [pair for pair in said.fields if pair[0] != "location"]
    assert len(kept) == len(said.fields) - 1
    return Said(said.status, said.reason, kept, said.body)


def test_ranges_of_two_parts(nginx: Site, way: str) -> None:
    """The boundary is another each time."""
    request = Ask("GET", "/big.txt", 206, {"Range": "bytes=0-4,10-14"})
    for said in both(nginx, way, request):
        assert said.status == 206
        kind = dict(said.fields)["content-type"]
        assert kind.startswith("multipart/byteranges; boundary=")
        boundary = kind.partition("=")[2].encode()
        assert said.body.count(b"--" + boundary) == 3
        assert b"\r\n\r\nline \r\n" in said.body


def test_kept_alive_connections_are_used_again(nginx: Site, way: str) -> None:
    used = {
        ask(nginx.port, f"nginx.{way}.test", Ask("GET", path, 200))[1]["X-Connection"]
        for path in ("/", "/big.txt", "/nothing", "/go/chunked", "/random.bin")
    }
    assert len(used) == 1


def test_nginx_hangs_up_without_an_answer(nginx: Site, way: str) -> None:
    said, _ = ask(nginx.port, f"nginx.{way}.test", Ask("GET", "/hangs-up", 502))
    assert said.status == 502
    assert said.body.startswith(b"502 Bad Gateway\nrequest id: ")


def test_files_put_and_taken_away(nginx: Site, way: str) -> None:
    host, path = f"nginx.{way}.test", f"/upload/{way}/file.bin"
    for body, status in ((b"first", 201), (b"x" * (3 * MEGABYTE), 204)):
        assert ask(nginx.port, host, Ask("PUT", path, status, body=body))[0].status == status
        assert ask(nginx.port, host, Ask("GET", path, 200))[0].body == body
    assert ask(nginx.port, host, Ask("DELETE", path, 204))[0].status == 204
    assert ask(nginx.port, host, Ask("GET", path, 404))[0].status == 404


def test_uploads_with_100_continue(nginx: Site, way: str) -> None:
    """nginx says 100 when it begins to read, and 413 instead when it never will."""
    request = (
        f"POST %s HTTP/1.1\r\nHost: nginx.{way}.test\r\nContent-Length: %d\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    body = b"y" * 100_000
    with nginx.connect() as client:
        client.send((request % ("/go/echo", len(body))).encode())
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        head = client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        seen: dict[str, Any] = json.loads(client.exactly(size))
        assert seen["body_sha256"] == hashlib.sha256(body).hexdigest()
    with nginx.connect() as client:
        client.send((request % ("/small-only", len(body))).encode())
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_an_upload_that_is_refused_while_it_comes(nginx: Site, way: str) -> None:
    """nginx answers 413 to the head alone, and its answer is read whatever is still sent."""
    for _ in range(3):
        with nginx.connect() as client:
            client.send(
                f"POST /small-only HTTP/1.1\r\nHost: nginx.{way}.test\r\nConnection: close\r\n"
                f"Content-Length: {4 * MEGABYTE}\r\n\r\n".encode()
            )
            try:
                client.send(bytes(4 * MEGABYTE))
            except (BrokenPipeError, ConnectionResetError):
                pass  # the answer is there all the same
            assert client.rest_or_reset().startswith(b"HTTP/1.1 413 ")
