"""The websockets library (PyPI) at both far ends: its client, us, its server."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.interop.http.peers import MEGABYTE, PATIENCE, Site

try:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import ClientConnection, connect
except ImportError:
    pass  # then the site has no such origin either, and `dialled` says so

# Lengths at which a frame's own length takes another form (RFC 6455 §5.2), and more.
MIXED: list[str | bytes] = [
    *("text", "ünïcödé €", ""),
    *(b"bytes", b"", bytes(range(256))),
    *("x" * 125, "x" * 126, b"y" * 65_535, b"y" * 65_536),
]


@pytest.fixture(params=["ws", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Over the http listener, and the https one."""
    found: str = request.param
    return found


@contextmanager
def dialled(
    site: Site, way: str, path: str, scheme: str = "ws", compression: str | None = "deflate"
) -> Iterator[ClientConnection]:
    """A WebSocket through us."""
    site.need("ws")
    options: dict[str, Any] = {"compression": compression, "max_size": 1 << 21}
    options |= {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "proxy": None}
    port = site.port
    if scheme == "wss":
        options["ssl"] = context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        port = site.tls_port
    options["sock"] = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with connect(f"{scheme}://ws.{way}.test:{port}{path}", **options) as connection:
        yield connection


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_come_back_as_they_went(
    site: Site, way: str, scheme: str, compression: str | None
) -> None:
    with dialled(site, way, "/echo", scheme, compression) as connection:
        names = [extension.name for extension in connection.protocol.extensions]
        assert names == (["permessage-deflate"] if compression else [])
        for message in MIXED:
            connection.send(message)
            assert connection.recv(PATIENCE) == message


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_megabyte_each_way(site: Site, way: str, scheme: str, compression: str | None) -> None:
    with dialled(site, way, "/echo", scheme, compression) as connection:
        for message in (os.urandom(MEGABYTE), "z" * MEGABYTE):
            connection.send(message)
            assert connection.recv(PATIENCE) == message


def test_fragments_both_ways(site: Site, way: str) -> None:
    """Each frame is passed on as it is: a message may come and go in pieces."""
    with dialled(site, way, "/pieces") as connection:
        connection.send(f"{number:05}" for number in range(2_000))
        pieces = list(connection.recv_streaming())
        assert len(pieces) >= 10
        assert "".join(map(str, pieces)) == "".join(f"{number:05}" for number in range(2_000))
        connection.send([b"a" * 70_000, b"", b"b"])
        assert connection.recv(PATIENCE) == b"a" * 70_000 + b"b"


def test_pings_of_the_client(site: Site, way: str) -> None:
    with dialled(site, way, "/echo") as connection:
        for data in (b"", b"ping", bytes(125)):
            assert connection.ping(data).wait(PATIENCE)


def test_pings_of_the_server(site: Site, way: str) -> None:
    with dialled(site, way, "/ping") as connection:
        assert connection.recv(PATIENCE) == "answered"


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
def test_close_codes_of_the_server(site: Site, way: str, code: int) -> None:
    with dialled(site, way, f"/close/{code}") as connection:
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "as asked")


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_close_codes_of_the_client(site: Site, way: str, code: int) -> None:
    with dialled(site, way, "/tell") as connection:
        connection.send("hello")
        assert connection.recv(PATIENCE) == "str 5"
        connection.close(code, f"because of {way}")
    with pytest.raises(InvalidStatus) as caught, dialled(site, way, "/last"):
        pass
    assert caught.value.response.body == f"{code} because of {way}".encode()


def test_many_at_once(site: Site, way: str) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(dialled(site, way, "/echo")) for _ in range(20)]
        for number, connection in enumerate(connections):
            connection.send(f"{number}" * 1000)
        for number, connection in reversed(list(enumerate(connections))):
            assert connection.recv(PATIENCE) == f"{number}" * 1000
