"""Connections to origins, and to servers by agents: `Dial` is the joint between them.

Rules:

1. A literal address costs one non-blocking `connect`: no thread, no lookup, no nursery.
2. A name is looked up for every dial by the system's resolver; addresses of both families are
   tried in turn, a quarter of a second apart, and the first that answers wins (RFC 8305).
3. Environment proxies are ignored.
4. Errors are `ConnectFailed` and `ConnectTimeout` only, and say which address.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from math import inf
from typing import Final

import trio
from attrs import frozen

from p2pstream.errors import ConnectFailed, ConnectTimeout, DeadlineExpired, bare
from p2pstream.net.stream import Stream, TcpStream, prepare_socket

# RFC 8305 §5 "Connection Attempt Delay": 250 ms is its recommended value.
_STAGGER_SECONDS: Final = 0.25
# Names with more addresses than this are tried no further: the rest would wait past any deadline.
_MAX_ADDRESSES: Final = 16


@frozen
class Endpoint:
    """Where a connection should lead: `host` is a name or a literal address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """As it stands in a request to an agent and in logs: `host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Dial = Callable[[Endpoint], Awaitable[Stream]]
"""How a target is reached; fails with one of `errors.DIAL_FAULTS`."""


async def dial_tcp(host: str, port: int, timeout_seconds: float) -> TcpStream:
    """Connect to a name or literal address. `timeout_seconds` covers lookup and connection.

    Errors: `ConnectFailed` (no address, refused, unreachable), `ConnectTimeout`.
    """
    deadline = trio.current_time() + timeout_seconds
    if is_literal(host):
        return await connect(host, port, deadline)
    return await connect_first(await resolve(host, port, deadline), port, deadline)


def is_literal(host: str) -> bool:
    """Whether `host` is an address rather than a name; a zone (`fe80::1%eth0`) may follow."""
    if not host[-1:].isdigit() and ":" not in host:
        return False
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int, deadline: float) -> list[str]:
    """The addresses of a name, families alternating, the resolver's favourite first.

    `deadline` is Trio time. Errors: `ConnectFailed`, `ConnectTimeout`.
    """
    found: list[str] = []
    with trio.move_on_at(deadline) as scope:
        try:
            infos = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ConnectFailed(f"{host}: {error.strerror}") from error
        except UnicodeError as error:  # Python's own IDNA refuses over-long and empty labels
            raise ConnectFailed(f"{host}: not a host name") from error
        found = [str(info[4][0]) for info in infos]
    if scope.cancelled_caught:
        raise ConnectTimeout(f"{host}: its name was not resolved in time")
    addresses = list(dict.fromkeys(found))
    if not addresses:
        raise ConnectFailed(f"{host}: no address")
    return _alternate(addresses)[:_MAX_ADDRESSES]


def _alternate(addresses: Sequence[str]) -> list[str]:
    """Interleave the families, beginning with that of the first address (RFC 8305 §4)."""
    six_first = ":" in addresses[0]
    first = [address for address in addresses if (":" in address) == six_first]
    second = [address for address in addresses if (":" in address) != six_first]
    mixed: list[str] = []
    for at in range(max(len(first), len(second))):
        mixed += first[at : at + 1] + second[at : at + 1]
    return mixed


async def connect(address: str, port: int, deadline: float) -> TcpStream:
    """Connect to one literal address by `deadline` (Trio time).

    Errors: `ConnectFailed`, `ConnectTimeout`.
    """
    where = Endpoint(address, port)
    try:
        stream, pending = _start(address, port)
    except OSError as error:
        raise ConnectFailed(f"{where}: {error.strerror or error}") from error
    if not pending:
        return stream
    waits = stream.waits
    waits.deadline = deadline
    try:
        await waits.wait_write()
        code = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise ConnectFailed(f"{where}: {os.strerror(code)}")
    except DeadlineExpired as error:
        stream.close()
        raise ConnectTimeout(f"{where}: no answer in time") from error
    except BaseException:
        stream.close()
        raise
    waits.deadline = inf
    return stream


def _start(address: str, port: int) -> tuple[TcpStream, bool]:
    """Begin to connect; the second value says whether it is still under way. Errors: `OSError`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        prepare_socket(sock)
        code = sock.connect_ex((address, port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        return TcpStream(sock), code != 0
    except BaseException:
        sock.close()
        raise


async def connect_first(addresses: Sequence[str], port: int, deadline: float) -> TcpStream:
    """Connect to whichever of the literal `addresses` answers first, tried in their order.

    Errors: of the first address tried, if all fail; `ConnectTimeout`.
    """
    if len(addresses) == 1:
        return await connect(addresses[0], port, deadline)
    winners: list[TcpStream] = []
    failures: dict[str, ConnectFailed | ConnectTimeout] = {}

    async def attempt(address: str, over: trio.Event) -> None:
        try:
            stream = await connect(address, port, deadline)
        except (ConnectFailed, ConnectTimeout) as failure:
            failures[address] = bare(failure)
            over.set()
        else:
            winners.append(stream)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                over = trio.Event()
                nursery.start_soon(attempt, address, over)
                with trio.move_on_after(_STAGGER_SECONDS):
                    await over.wait()
    except BaseException:
        for stream in winners:
            stream.close()
        raise
    if winners:
        for late in winners[1:]:  # two may answer in one step of the event loop
            late.close()
        return winners[0]
    raise failures[addresses[0]]
