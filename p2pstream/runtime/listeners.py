"""The public sockets: opened before a reload's swap, settled after it.

Rules:

1. A socket is known by where it is bound: renaming a listener, changing its limits, its
   certificates or its protocol keeps the socket; changing its address or port opens another and
   closes the old.
2. Who is in the backlog of a socket when it closes is still taken in: closing it alone would
   reset connections whose requests may be on their way.
3. Connections outlive their listener: the request under way ends as it began, an upgraded
   connection whenever its ends want it to. `drained` waits for them too.
4. An address may overlap one of our own that this reload closes ("127.0.0.1" becomes ""): for that
   moment both sockets share the port (`SO_REUSEPORT`), so that nobody is refused between them.
5. With `proxy_protocol`, a connection from a trusted proxy begins with a PROXY header, before TLS,
   and is from then on the client's that it names; one that does not is closed. From anyone else a
   connection is what it looks like, and such a header in it a malformed request.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from p2pstream.config.model import Config, Listener
from p2pstream.errors import CommandError, Fault, InvalidRequest, StreamBroken
from p2pstream.net.listen import PUBLIC_SHARE, Listening, bind
from p2pstream.net.proxied import receive_source
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls import CertificateTable, self_signed_context, server_context, sni_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.policy.chain import IpNetwork, is_trusted
from p2pstream.wire.proxy_protocol import BadProxyHeader

log = logging.getLogger(__name__)

Bind = tuple[str, int]
"""(address, port)."""

Contexts = Mapping[Bind, ssl.SSLContext | None]
"""What each enabled listener shows of certificates; None for plain http."""

ServeClient = Callable[[str, Stream, str], Awaitable[None]]
"""(listener id, stream, peer address)."""
RefuseClient = Callable[[str, Stream, str, Fault], Awaitable[None]]
"""Likewise, and why it is refused."""

# As `net.listen` has it: the kernel cuts it down to its own limit.
_BACKLOG: Final = 4_096


class _Public(Listening):
    """A listening socket that lets nobody down who is in its backlog (rule 2)."""

    connections: trio.Nursery | None = None
    """Where they are served, once it is settled."""

    def close(self) -> None:
        """See `Listening`."""
        if self.connections is not None:
            for sock in self.sockets:
                if sock.fileno() >= 0:
                    with suppress(OSError):
                        while self._accept_batch(sock, self.connections):
                            pass
        super().close()


@define(slots=True, eq=False)
class _Open:
    """A listening socket, and whose it is now."""

    listener: Listener
    context: ssl.SSLContext | None
    announcing: tuple[IpNetwork, ...] = ()
    """Whose connections begin with a PROXY header."""
    listening: _Public | None = None


@define(slots=True, eq=False)
class Prepared:
    """What `settle` will serve; the sockets in `sharing` share their ports until then."""

    opened: dict[Bind, _Open] = field(factory=dict)
    sharing: list[socket.socket] = field(factory=list)


class Listeners:
    """All public sockets of the process."""

    def __init__(self, serve_client: ServeClient, refuse_client: RefuseClient) -> None:
        self._serve_client = serve_client
        self._refuse_client = refuse_client
        self._open: dict[Bind, _Open] = {}
        self._closed: list[Listening] = []  # those that still have connections
        self._fallback: ssl.SSLContext | None = None

    def connections(self) -> dict[str, int]:
        """How many clients each listener has now, by id."""
        return {
            opened.listener.id: opened.listening.active
            for opened in self._open.values()
            if opened.listening is not None
        }

    def contexts(self, config: Config, renewed: Collection[Path] = frozenset()) -> Contexts:
        """Read the certificates of a configuration; those that stayed the same are kept.

        `renewed` are files that have another content than when they were read. May run in a
        thread while nothing else is prepared or settled. Errors: `CommandError`.
        """
        return {
            bind_of(one): self._context(one, renewed) for one in config.listeners if one.enabled
        }

    def prepare(self, config: Config, contexts: Contexts) -> Prepared:
        """Bind what is new; all or nothing. Nothing is served until `settle`.

        Errors: `CommandError`.
        """
        prepared = Prepared()
        wanted = {bind_of(one): one for one in config.listeners if one.enabled}
        try:
            for where, listener in wanted.items():
                opened = prepared.opened[where] = _Open(
                    listener, contexts[where], _announcing(listener)
                )
                if where not in self._open:
                    opened.listening = _Public(
                        self._bind(where, prepared, self._open.keys() - wanted.keys()),
                        partial(self._serve, opened),
                        max_connections=listener.max_connections,
                        name=f"listener {listener.id}",
                        share=PUBLIC_SHARE,
                    )
        except BaseException:
            self.forget(prepared)
            raise
        return prepared

    def forget(self, prepared: Prepared) -> None:
        """Close again what was bound and is not going to be settled; what was settled stays."""
        _share(prepared.sharing, False)
        for where, opened in prepared.opened.items():
            if opened.listening is not None and self._open.get(where) is not opened:
                opened.listening.close()

    def settle(self, prepared: Prepared, nursery: trio.Nursery) -> frozenset[str]:
        """Serve what was prepared and close the rest; returns ids of the listeners that are gone.

        Connections run in the nursery and outlive their listener.
        """
        gone = set()
        for where, new in prepared.opened.items():
            current = self._open.get(where)
            if current is None:
                assert new.listening is not None
                self._open[where] = new
                new.listening.connections = nursery
                nursery.start_soon(new.listening.serve, nursery)
            else:
                assert current.listening is not None
                current.listener = new.listener
                current.context = new.context
                current.announcing = new.announcing
                current.listening.resize(new.listener.max_connections)
        for where in self._open.keys() - prepared.opened.keys():
            opened = self._open.pop(where)
            assert opened.listening is not None
            opened.listening.close()
            self._closed.append(opened.listening)
            gone.add(opened.listener.id)
        self._closed = [one for one in self._closed if one.active]
        _share(prepared.sharing, False)
        return frozenset(gone - {opened.listener.id for opened in self._open.values()})

    def close(self) -> None:
        """Stop accepting everywhere; connections go on."""
        for opened in self._open.values():
            assert opened.listening is not None
            opened.listening.close()

    async def drained(self) -> None:
        """Wait until no client is left, of listeners that were closed before neither."""
        for listening in self._closed:
            await listening.drained()
        for opened in list(self._open.values()):
            assert opened.listening is not None
            await opened.listening.drained()

    def _bind(
        self, where: Bind, prepared: Prepared, leaving: Iterable[Bind]
    ) -> Sequence[socket.socket]:
        """Listen there, beside our own sockets on that port that are about to close (rule 4)."""
        beside = [
            sock
            for other in leaving
            if other[1] == where[1] and (listening := self._open[other].listening) is not None
            for sock in listening.sockets
        ]
        if not beside:
            return bind(*where)
        _share(beside, True)
        prepared.sharing += beside
        sockets = _bind_shared(*where)
        prepared.sharing += sockets
        return sockets

    def _context(self, listener: Listener, renewed: Collection[Path]) -> ssl.SSLContext | None:
        """The certificates of an https listener; SNI picks, a self-signed one fills in."""
        if listener.protocol != "https":
            return None
        current = self._open.get(bind_of(listener))
        if (
            current is not None
            and current.context is not None
            and current.listener.certificates == listener.certificates
            and _files(listener).isdisjoint(renewed)
        ):
            return current.context
        if self._fallback is None:
            self._fallback = self_signed_context("p2pstream.invalid", datetime.now(UTC))
        entries = [
            (one.hostname_pattern, server_context(one.certificate_file, one.key_file))
            for one in listener.certificates
        ]
        return sni_context(CertificateTable(entries, self._fallback))

    async def _serve(self, opened: _Open, stream: TcpStream, peer: str) -> None:
        listener = opened.listener
        if is_trusted(peer, opened.announcing):
            stream.waits.deadline = trio.current_time() + listener.header_timeout_millis / 1000
            try:
                peer = await receive_source(stream, peer)
            except BadProxyHeader as error:
                log.warning("listener %s: connection from %s: %s", listener.id, peer, error)
                return
        if opened.context is None:
            await self._serve_client(listener.id, stream, peer)
            return
        secure = TlsStream(stream, opened.context, server_side=True)
        stream.waits.deadline = trio.current_time() + listener.header_timeout_millis / 1000
        try:
            await secure.handshake()
        except StreamBroken:
            if secure.plain_http:
                fault = InvalidRequest("plain HTTP on an https listener")
                await self._refuse_client(listener.id, stream, peer, fault)
            raise
        await self._serve_client(listener.id, secure, peer)


def bind_of(listener: Listener) -> Bind:
    """What a listener's socket is known by."""
    return (listener.bind_address, listener.port)


def _announcing(listener: Listener) -> tuple[IpNetwork, ...]:
    if not listener.proxy_protocol:
        return ()
    return tuple(map(ipaddress.ip_network, listener.trusted_proxies))


def _files(listener: Listener) -> set[Path]:
    return {path for one in listener.certificates for path in (one.certificate_file, one.key_file)}


def _share(sockets: Iterable[socket.socket], shared: bool) -> None:
    """Let others of this user bind the same port, or no longer. One that is closed is passed by."""
    for sock in sockets:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)


def _bind_shared(address: str, port: int) -> tuple[socket.socket, ...]:
    """Do what `net.listen.bind` does, beside sockets that share the port. Error: `CommandError`."""
    sockets: list[socket.socket] = []
    try:
        for host in (address,) if address else ("0.0.0.0", "::"):
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                sock = socket.create_server(
                    (host, port), family=family, backlog=_BACKLOG, reuse_port=True
                )
            except OSError as error:
                if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # a system without IPv6
                raise
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(sock)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise CommandError(
            f"cannot listen on {address or '*'}:{port}: {(error.strerror or str(error)).lower()}"
        ) from error
    return tuple(sockets)
