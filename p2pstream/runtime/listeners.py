"""The public sockets: opened before a reload's swap, settled after it.

A listener is known by where it is bound: renaming one, changing its limits, its certificates or
its protocol keeps the socket; changing its address or port opens another and closes the old.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import trio
from attrs import define

from p2pstream.config.model import Config, Listener
from p2pstream.net.listen import Listening, bind
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.net.tls import CertificateTable, self_signed_context, server_context, sni_context
from p2pstream.net.tls_stream import TlsStream

Bind = tuple[str, int]
"""(address, port)."""

ServeClient = Callable[[str, Stream, str], Awaitable[None]]
"""(listener id, stream, peer address)."""


@define(slots=True, eq=False)
class _Open:
    """A listening socket, and whose it is now."""

    listener: Listener
    context: ssl.SSLContext | None
    listening: Listening | None = None


Prepared = dict[Bind, _Open]


class Listeners:
    """All public sockets of the process."""

    def __init__(self, serve_client: ServeClient) -> None:
        self._serve_client = serve_client
        self._open: dict[Bind, _Open] = {}
        self._fallback: ssl.SSLContext | None = None

    def prepare(self, config: Config) -> Prepared:
        """Read certificates and bind what is new; all or nothing. Errors: `CommandError`.

        Nothing is served until `settle`.
        """
        prepared: Prepared = {}
        try:
            for listener in config.listeners:
                if listener.enabled:
                    where = bind_of(listener)
                    opened = _Open(listener, self._context(listener))
                    prepared[where] = opened
                    if where not in self._open:
                        opened.listening = Listening(
                            bind(listener.bind_address, listener.port),
                            partial(self._serve, where),
                            max_connections=listener.max_connections,
                            name=f"listener {listener.id}",
                        )
        except BaseException:
            for opened in prepared.values():
                if opened.listening is not None:
                    opened.listening.close()
            raise
        return prepared

    def settle(self, prepared: Prepared, nursery: trio.Nursery) -> frozenset[str]:
        """Serve what was prepared and close the rest; returns ids of the listeners that are gone.

        Connections run in the nursery and outlive their listener.
        """
        gone = set()
        for where in self._open.keys() - prepared.keys():
            opened = self._open.pop(where)
            assert opened.listening is not None
            opened.listening.close()
            gone.add(opened.listener.id)
        for where, new in prepared.items():
            current = self._open.get(where)
            if current is None:
                assert new.listening is not None
                self._open[where] = new
                nursery.start_soon(new.listening.serve, nursery)
            else:
                assert current.listening is not None
                current.listener = new.listener
                current.context = new.context
                current.listening.resize(new.listener.max_connections)
        return frozenset(gone - {opened.listener.id for opened in self._open.values()})

    def close(self) -> None:
        """Stop accepting everywhere; connections go on."""
        for opened in self._open.values():
            assert opened.listening is not None
            opened.listening.close()

    async def drained(self) -> None:
        """Wait until no client is left."""
        for opened in list(self._open.values()):
            assert opened.listening is not None
            await opened.listening.drained()

    def _context(self, listener: Listener) -> ssl.SSLContext | None:
        """The certificates of an https listener; SNI picks, a self-signed one fills in."""
        if listener.protocol != "https":
            return None
        if self._fallback is None:
            self._fallback = self_signed_context("p2pstream.invalid", datetime.now(UTC))
        entries = [
            (one.hostname_pattern, server_context(one.certificate_file, one.key_file))
            for one in listener.certificates
        ]
        return sni_context(CertificateTable(entries, self._fallback))

    async def _serve(self, where: Bind, stream: TcpStream, peer: str) -> None:
        opened = self._open.get(where)
        if opened is None:  # accepted in the moment in which its listener was closed
            return
        listener = opened.listener
        if opened.context is None:
            await self._serve_client(listener.id, stream, peer)
            return
        secure = TlsStream(stream, opened.context, server_side=True)
        stream.waits.deadline = trio.current_time() + listener.header_timeout_millis / 1000
        await secure.handshake()
        await self._serve_client(listener.id, secure, peer)


def bind_of(listener: Listener) -> Bind:
    """What a listener's socket is known by."""
    return (listener.bind_address, listener.port)
