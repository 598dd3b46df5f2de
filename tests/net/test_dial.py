from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.abc
import trio.testing

from p2pstream.errors import ConnectFailed, ConnectTimeout
from p2pstream.net.dial import Endpoint, connect_first, dial_tcp, is_literal, resolve
from p2pstream.net.listen import bind
from p2pstream.net.reactor import current_reactor


class Names(trio.abc.HostnameResolver):
    """A resolver of our own: names to addresses, or to an error."""

    def __init__(self, **names: list[str] | Exception) -> None:
        self.names = names

    async def getaddrinfo(  # type: ignore[override]  # trio's stub fixes return types more narrowly
        self, host: bytes, port: int, *_: object, **__: object
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        await trio.lowlevel.checkpoint()
        found = self.names.get(host.decode(), socket.gaierror(-2, "Name or service not known"))
        if isinstance(found, Exception):
            raise found
        return [(0, 0, 0, "", (address, port)) for address in found]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    (sock,) = bind("127.0.0.1", 0)
    yield sock
    sock.close()


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    (sock,) = bind("127.0.0.1", 0)
    port = port_of(sock)
    sock.close()
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose queue is full, so that a connection to it gets no answer."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            fillers.append(filler)
        yield port_of(sock)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::a", True),
        ("fe80::1%eth0", True),
        ("localhost", False),
        ("host1", False),
        ("1.2.3", False),
        ("1.2.3.4.example", False),
        ("", False),
    ],
)
def test_literals_are_told_from_names(host: str, literal: bool) -> None:
    assert is_literal(host) is literal


def test_an_endpoint_shows_as_an_authority() -> None:
    assert str(Endpoint("db.test", 5432)) == "db.test:5432"
    assert str(Endpoint("::1", 80)) == "[::1]:80"


async def test_a_literal_is_connected_to(listener: socket.socket) -> None:
    stream = await dial_tcp("127.0.0.1", port_of(listener), 5)
    peer, _ = listener.accept()
    assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert not os.get_blocking(stream.sock.fileno())
    peer.sendall(b"hello")
    assert await stream.receive(10) == b"hello"
    assert not stream.waits.hung_up
    stream.close()
    peer.close()


async def test_a_refusal_says_where(closed_port: int) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await dial_tcp("127.0.0.1", closed_port, 5)
    assert caught.value.detail == f"127.0.0.1:{closed_port}: Connection refused"
    assert current_reactor().streams == 0


async def test_an_impossible_address_is_a_failure() -> None:
    with pytest.raises(ConnectFailed):
        await dial_tcp("255.255.255.255", 80, 5)


async def test_silence_is_a_timeout(
    silent_port: int, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    with pytest.raises(ConnectTimeout):
        await dial_tcp("127.0.0.1", silent_port, 2)
    assert 2 <= trio.current_time() - start < 2.5
    assert current_reactor().streams == 0


async def test_a_cancelled_dial_leaves_nothing(silent_port: int) -> None:
    with trio.move_on_after(0.01) as scope:
        await dial_tcp("127.0.0.1", silent_port, 5)
    assert scope.cancelled_caught
    assert current_reactor().streams == 0


async def test_the_real_resolver_is_asked_for_names(listener: socket.socket) -> None:
    stream = await dial_tcp("localhost", port_of(listener), 5)
    assert stream.sock.getpeername() == listener.getsockname()
    stream.close()


async def test_an_unknown_name_fails() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(ConnectFailed) as caught:
        await dial_tcp("nowhere.test", 80, 5)
    assert caught.value.detail == "nowhere.test: Name or service not known"


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
async def test_what_cannot_be_a_name_fails(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await dial_tcp(host, 80, 5)


async def test_a_slow_resolver_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Names):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]  # as above
            await trio.sleep(60)
            return []

    trio.socket.set_custom_hostname_resolver(Slow())
    with pytest.raises(ConnectTimeout):
        await dial_tcp("slow.test", 80, 3)


async def test_addresses_alternate_families_without_doubles() -> None:
    trio.socket.set_custom_hostname_resolver(
        Names(**{"many.test": ["::1", "::2", "::1", "127.0.0.1", "::3", "127.0.0.2"]})
    )
    addresses = await resolve("many.test", 80, trio.current_time() + 5)
    assert addresses == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]


async def test_a_refusing_address_hands_over_at_once(
    listener: socket.socket, mock_clock: trio.testing.MockClock
) -> None:
    port = port_of(listener)  # time stands still: waiting for the next one's turn would be for ever
    stream = await connect_first(["127.0.0.2", "127.0.0.1"], port, trio.current_time() + 5)
    assert stream.sock.getpeername() == ("127.0.0.1", port)
    stream.close()
    assert current_reactor().streams == 0


async def test_a_silent_address_is_passed_after_a_quarter_second(
    silent_port: int, autojump_clock: trio.testing.MockClock
) -> None:
    (listener,) = bind("127.0.0.2", silent_port)
    start = trio.current_time()
    stream = await connect_first(["127.0.0.1", "127.0.0.2"], silent_port, start + 5)
    assert stream.sock.getpeername() == ("127.0.0.2", silent_port)
    assert 0.2 < trio.current_time() - start < 1
    stream.close()
    listener.close()
    assert current_reactor().streams == 0


async def test_when_all_fail_the_first_reason_is_told(closed_port: int) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await connect_first(["127.0.0.1", "127.0.0.2"], closed_port, trio.current_time() + 5)
    assert caught.value.detail.startswith("127.0.0.1:")
