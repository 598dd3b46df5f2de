"""Request smuggling, attacked with real origins behind: what do Go and nginx see of `corpus`?

h11 reads every message as a strict server would. An origin's log may tell of nothing that h11 does
not see: no message with another method, target or body; and a client gets exactly as many answers
from the origin as the origin was asked. From the origin's side: no answer of one request is ever
given to the next, and every answer is whole or known to be cut.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import h11
import pytest

from tests.interop.http.corpus import ANSWERS, Case, Maker
from tests.interop.http.peers import PATIENCE, Raw, Site
from tests.programs import wait_until

Seen = tuple[str, str, int]
"""(method, target, bytes of body)."""

NUMBERS = count()
FAMILIES = ("codings", "lengths", "chunks", "lines", "hosts", "others")


def read_by_h11(data: bytes) -> list[Seen]:
    """The whole messages that h11 finds, up to the first that it refuses, or the last."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data.lstrip(b"\r\n"))  # empty lines before a request: RFC 9112 §2.2
    found: list[Seen] = []
    method = target = ""
    size = 0
    with contextlib.suppress(h11.RemoteProtocolError):
        while True:
            event = server.next_event()
            if isinstance(event, h11.Request):
                method, target, size = event.method.decode(), event.target.decode(), 0
            elif isinstance(event, h11.Data):
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, origin_form(target), size))
                server.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is h11.MUST_CLOSE:
                    break
                server.start_next_cycle()
            else:
                break
    return found


def is_part_of(seen: list[Seen], meant: list[Seen]) -> bool:
    """Whether all that was seen was meant, in that order; we may have answered some ourselves."""
    left = iter(meant)
    return all(
        any((method, target) == one[:2] and size in (-1, one[2]) for one in left)
        for method, target, size in seen
    )


def origin_form(target: str) -> str:
    """A proxy takes an absolute target apart."""
    return re.sub(r"^http://[^/]*", "", target) or "/"


def asked_of_go(site: Site, tag: str) -> list[Seen]:
    """What the Go origin was asked under a tag."""
    with site.connect_past("go") as past:
        request = f"GET /log?case={tag} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        past.send(request.encode())
        log: list[dict[str, Any]] = json.loads(past.rest().partition(b"\r\n\r\n")[2])
    assert not [one for one in log if one["body_error"]]
    return [(one["method"], one["target"], one["body_size"]) for one in log]


def asked_of_nginx(site: Site) -> dict[str, list[Seen]]:
    """What nginx was asked, by tag. Of a chunked body it tells no length: -1."""
    found: dict[str, list[Seen]] = {}
    for line in (site.folder / "nginx" / "access.log").read_text().splitlines():
        tag, request, _, length, *_ = line.split("\t")
        method, target, _ = request.split(" ")
        found.setdefault(tag, []).append((method, target, int(length.strip("-") or 0) or -1))
    return found


def attack(site: Site, case: Case, maker: Maker) -> bytes:
    """Send one case with a request behind it; all that comes back."""
    with site.connect() as client:
        client.send(case.data + maker.tail)
        return client.rest_or_reset()


@pytest.mark.parametrize("family", FAMILIES)
def test_go_sees_what_h11_sees(site: Site, way: str, family: str) -> None:
    site.need("go")
    accepted = 0
    for case in getattr(Maker("HOST", "TAG"), family)():
        tag = f"smuggle-{next(NUMBERS)}"
        maker = Maker(f"go.{way}.test", tag)
        (case,) = [one for one in getattr(maker, family)() if one.what == case.what]
        answers = attack(site, case, maker)
        seen = asked_of_go(site, tag)
        meant = read_by_h11(case.data + maker.tail)
        assert is_part_of(seen, meant), case.what
        assert answers.count(b'"body_sha256"') == sum(one[0] != "HEAD" for one in seen), case.what
        accepted += bool(seen)
    assert accepted >= 2, "the corpus has honest requests too"


@pytest.mark.parametrize("family", FAMILIES)
def test_nginx_sees_what_h11_sees(site: Site, way: str, family: str) -> None:
    site.need("nginx")
    tags: dict[str, tuple[str, list[Seen]]] = {}
    for number, case in enumerate(getattr(Maker(f"nginx.{way}.test", "TAG"), family)()):
        tag = f"nginx-{way}-{family}-{number:03}"
        maker = Maker(f"nginx.{way}.test", tag)
        (case,) = [one for one in getattr(maker, family)() if one.what == case.what]
        attack(site, case, maker)
        tags[tag] = case.what, read_by_h11(case.data + maker.tail)
    with site.connect() as last:  # the log is written in order
        last.send(f"GET /said HTTP/1.1\r\nHost: nginx.{way}.test\r\n".encode())
        last.send(f"X-Case: end-of-{family}-{way}\r\n\r\n".encode())
        last.until(b"\r\n\r\n")
    wait_until("nginx's log", lambda: f"end-of-{family}-{way}" in asked_of_nginx(site))
    asked = asked_of_nginx(site)
    assert sum(tag in asked for tag in tags) >= 2
    for tag, (what, meant) in tags.items():
        seen = asked.get(tag, [])
        assert is_part_of(seen, meant), what


# --- from the origin's side -----------------------------------------------------------------

HONEST = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest"


class Origin:
    """Gives each request of `/case` the same bytes, and `HONEST` to every other."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.answer = b""
        self._ended = False
        self._open: list[tuple[Raw, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._serve)
        self._accepting.start()

    def _serve(self) -> None:
        while True:
            connection = self.site.accept()
            if self._ended:
                connection.sock.close()
                return
            serving = threading.Thread(target=self._converse, args=(connection,))
            self._open.append((connection, serving))
            serving.start()

    def _converse(self, connection: Raw) -> None:
        with connection, contextlib.suppress(OSError, AssertionError):
            while True:
                request = connection.until(b"\r\n\r\n")
                is_case = b" /case " in request.partition(b"\r\n")[0]
                connection.send(self.answer if is_case else HONEST)

    def end(self) -> None:
        """Nothing is left over for who listens next."""
        self._ended = True
        self.site.connect_past("raw").sock.close()
        self._accepting.join()
        for connection, serving in self._open:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            serving.join()


@pytest.fixture
def evil(site: Site) -> Iterator[Origin]:
    site.raw.settimeout(None)
    origin = Origin(site)
    yield origin
    origin.end()
    site.raw.settimeout(PATIENCE)


def answer_by_h11(data: bytes, method: str) -> tuple[int, bytes] | None:
    """(status, body) of a whole answer; None if it is cut. Fails on one that h11 refuses."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    status, body = 0, b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        elif event is h11.NEED_DATA:
            return None
        else:
            assert isinstance(event, h11.InformationalResponse), event


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_answer_is_given_to_another_request(
    site: Site, way: str, evil: Origin, method: str
) -> None:
    host = f"raw.{way}.test"
    whole = 0
    for answer in ANSWERS:
        evil.answer = answer
        for _ in range(2):
            with site.connect() as client:
                client.sock.settimeout(0.3)
                head = f"{method} /case HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                client.send(head.encode())
                try:
                    data = client.rest_or_reset()
                except TimeoutError:
                    data = client.buffer  # the origin promised more than it sent
            understood = answer_by_h11(data, method)
            if understood is not None:
                status, body = understood
                assert body in (b"", b"ok", b"X", b"honest", b"forged") or status == 502, answer
                assert status != 101
                whole += status == 200
        for _ in range(3):
            with site.connect() as client:
                client.send(f"GET /next HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert client.until(b"honest").startswith(b"HTTP/1.1 200 OK\r\n"), answer
                assert not client.buffer, answer
    assert whole >= 4
