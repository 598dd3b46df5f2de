"""Listening sockets: bind, accept, hand each connection to its handler, drain.

Rules:

1. A connection costs one task and nothing else.
2. The bulkhead is `_serve_one`: whatever a handler raises ends its own connection, is logged and
   counted. (The others are around a probe, and around an agent's session with one server.)
3. Past `max_connections` accepting waits, and so it does while the system has no descriptor or
   memory to give; the kernel's backlog holds who comes meanwhile. Public clients never get the
   last descriptors (`PUBLIC_SHARE`): without one for its connection to an origin a request fails,
   and the origin looks dead; agents and operators could not connect.
4. `close` stops accepting and touches no connection; when those end is their owner's decision.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from p2pstream.errors import CommandError, StreamError
from p2pstream.net.stream import TcpStream, prepare_socket

log = logging.getLogger(__name__)

Handler = Callable[[TcpStream, str], Awaitable[None]]
"""Serves one connection; the second argument is the peer's address without its port."""

# What the kernel may hold for us; it cuts this down to net.core.somaxconn (4096 on Linux).
_BACKLOG: Final = 4_096
# Connections taken before other tasks get their turn: about two milliseconds' worth.
_BATCH: Final = 64
# The share of the process's descriptors that public clients may reach. Where each is served by a
# connection to an origin, twice as many are needed; but idle clients have none.
PUBLIC_SHARE: Final = 0.75
# How long accepting rests when there is nothing to accept with: long enough not to spin, short
# enough that nobody notices once there is.
_REST_SECONDS: Final = 0.1
# So long after the last refusal it is over, and worth a line: clients that come and go at the
# limit would fill the log otherwise.
_CALM_SECONDS: Final = 5.0
# The process or the system is out of descriptors, buffers or memory: accept(2).
_EXHAUSTED: Final = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
# How often another port is tried for "any port" when both families must have the same.
_PORT_ATTEMPTS: Final = 16


def bind(address: str, port: int) -> tuple[socket.socket, ...]:
    """Listen on a literal address; "" is all of IPv4 and, where the system has it, IPv6.

    Port 0 takes a free one, the same for both families. Errors: `CommandError`.
    """
    for attempts_left in reversed(range(_PORT_ATTEMPTS)):
        sockets: list[socket.socket] = []
        try:
            for host in (address,) if address else ("0.0.0.0", "::"):
                if host == "::" and sockets and not _has_ipv6():
                    continue
                chosen = sockets[0].getsockname()[1] if sockets else port
                sockets.append(_listen(host, chosen))
            return tuple(sockets)
        except OSError as error:
            for sock in sockets:
                sock.close()
            if port == 0 and sockets and attempts_left and error.errno == errno.EADDRINUSE:
                continue
            shown = f"[{address}]" if ":" in address else address or "*"
            reason = (error.strerror or str(error)).lower()
            raise CommandError(f"cannot listen on {shown}:{port}: {reason}") from error
    raise AssertionError("the last attempt returns or raises")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        prepare_socket(sock)  # inherited by what is accepted, which saves system calls
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own, so that peers show as themselves, not as ::ffff:….
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _has_ipv6() -> bool:
    """Whether a socket of that family can be bound: the kernel may be without, or told so."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class Listening:
    """Bound sockets with their handler and the connections accepted on them."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        handler: Handler,
        *,
        max_connections: int,
        name: str = "listener",
        share: float = 1.0,
    ) -> None:
        """`name` is what the log calls it; `share`: of all descriptors, what it may reach."""
        self.sockets = tuple(sockets)
        self.handler = handler
        self.max_connections = max_connections
        self.active = 0
        """Connections open now."""
        self.accepted = 0
        """Connections accepted since the start."""
        self.crashed = 0
        """Connections that an unforeseen exception ended."""
        self._name = name
        self._ended = trio.Event()  # set, and replaced, whenever a connection ends
        self._exhausted = False
        self._refused_at = 0.0  # Trio time at which accepting last had to rest
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Descriptors are given out from the lowest.
        self._ceiling = int(soft * share) if soft > 0 else sys.maxsize

    @property
    def port(self) -> int:
        """The port that is listened on, for when 0 was asked for."""
        port: int = self.sockets[0].getsockname()[1]
        return port

    async def serve(self, connections: trio.Nursery) -> None:
        """Accept until `close`. Connections run in the nursery given, and may outlive this."""
        async with trio.open_nursery() as nursery:
            for sock in self.sockets:
                nursery.start_soon(self._accept_from, sock, connections)

    def resize(self, max_connections: int) -> None:
        """Change the limit; connections beyond a lower one end in their own time."""
        self.max_connections = max_connections
        self._wake()

    def close(self) -> None:
        """Stop accepting and free the port at once. Idempotent; connections go on."""
        for sock in self.sockets:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def drained(self) -> None:
        """Wait until no connection is left."""
        while self.active:
            await self._ended.wait()

    async def _accept_from(self, sock: socket.socket, connections: trio.Nursery) -> None:
        while sock.fileno() >= 0:
            if self.active >= self.max_connections:
                await self._ended.wait()
                continue
            try:
                taken = self._accept_batch(sock, connections)
            except OSError as error:
                if sock.fileno() < 0:
                    return
                await self._rest(error)
                continue
            if taken < _BATCH and self.active < self.max_connections:
                try:
                    await trio.lowlevel.wait_readable(sock)
                except trio.ClosedResourceError:
                    return
            else:
                await trio.lowlevel.checkpoint()

    def _accept_batch(self, sock: socket.socket, connections: trio.Nursery) -> int:
        """Take who is there; the count says whether there may be more. Errors: `OSError`."""
        accept = sock.accept
        start_soon = connections.start_soon
        serve_one = self._serve_one
        count = min(_BATCH, self.max_connections - self.active)
        for taken in range(count):
            if self._exhausted:
                self._look_for_room()
            try:
                peer, address = accept()
            except BlockingIOError:
                return taken
            except ConnectionAbortedError:
                continue  # it left before its turn came
            peer.setblocking(False)
            self.active += 1
            self.accepted += 1
            start_soon(serve_one, peer, address[0])
            if peer.fileno() >= self._ceiling:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return count

    def _look_for_room(self) -> None:
        """Whether the next descriptor is one for clients again. Errors: `OSError`, it is not."""
        lowest = os.dup(self.sockets[0].fileno())
        os.close(lowest)
        if lowest >= self._ceiling:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if trio.current_time() > self._refused_at + _CALM_SECONDS:
            self._exhausted = False
            log.warning("%s: accepting again", self._name)

    async def _rest(self, error: OSError) -> None:
        """Wait for better times; whoever called tries again."""
        if error.errno in _EXHAUSTED:
            self._refused_at = trio.current_time()
            if not self._exhausted:
                self._exhausted = True
                log.error("%s: accepting rests: %s", self._name, error.strerror)
        else:
            # accept(2) passes on the network errors of the connection that it would have given.
            log.warning("%s: a connection was lost on arrival: %s", self._name, error.strerror)
        await trio.sleep(_REST_SECONDS)

    async def _serve_one(self, sock: socket.socket, address: str) -> None:
        stream: TcpStream | None = None
        try:
            stream = TcpStream(sock)  # may fail: the kernel limits how many sockets are watched
            await self.handler(stream, address)
        except StreamError as error:
            log.debug("%s: connection from %s ended: %s", self._name, address, error)
        except Exception:  # the bulkhead: a fault in one connection ends only it
            self.crashed += 1
            log.exception("%s: connection from %s crashed", self._name, address)
        finally:
            (stream or sock).close()
            self.active -= 1
            self._wake()

    def _wake(self) -> None:
        """Let those look again who wait for a connection to end."""
        self._ended.set()
        self._ended = trio.Event()
