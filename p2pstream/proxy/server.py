"""The data plane of one process: what all connections of all listeners share.

A reload puts another snapshot into it; a request takes the snapshot that is there when its head
is whole.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable

from p2pstream.errors import Fault
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream
from p2pstream.observe.records import Records
from p2pstream.observe.trace import Tracer
from p2pstream.policy.board import Board
from p2pstream.policy.decide import Choice
from p2pstream.proxy.connection import Connection
from p2pstream.proxy.upstream import Upstreams
from p2pstream.snapshot import Snapshot

DialFailed = Callable[[Choice, Fault, str], None]
"""Told of every connect that failed, with the request id, before the next candidate is tried."""


class ProxyServer:
    """The data plane of one process."""

    def __init__(
        self,
        snapshot: Snapshot,
        board: Board,
        upstreams: Upstreams,
        records: Records,
        dial_failed: DialFailed,
    ) -> None:
        self.snapshot = snapshot
        self.board = board
        self.upstreams = upstreams
        self.records = records
        self.tracer = Tracer(records.name)
        self.dial_failed = dial_failed
        self.draining = False
        self.connections: set[Connection] = set()
        self.wall_clock = time.time  # noqa: TID251 -- records and Date carry wall-clock time
        self.reactor = current_reactor()
        self._date = b""
        self._date_second = -1

    def date(self) -> bytes:
        """The time as a `Date` field has it (RFC 9110 §5.6.7); the same object all second long."""
        second = int(self.wall_clock())
        if second != self._date_second:
            self._date_second = second
            self._date = email.utils.formatdate(second, usegmt=True).encode()
        return self._date

    async def serve(self, listener_id: str, stream: Stream, peer: str) -> None:
        """Serve one client until it or we end it. Raises `StreamError` at worst."""
        plan = self.snapshot.listeners.get(listener_id)
        if plan is None:  # a reload took the listener away since this connection was accepted
            stream.close()
            return
        connection = Connection(self, plan, stream, peer)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            stream.close()

    async def refuse(self, listener_id: str, stream: Stream, peer: str, fault: Fault) -> None:
        """Answer a client whose first bytes are no request, and record it. Errors: as `serve`."""
        plan = self.snapshot.listeners.get(listener_id)
        if plan is not None:
            await Connection(self, plan, stream, peer).refuse(fault)

    def drain(self, listener_ids: frozenset[str] | None = None) -> None:
        """End idle connections now and busy ones after their request; all, or some listeners'."""
        if listener_ids is None:
            self.draining = True
        for connection in list(self.connections):
            if listener_ids is None or connection.plan.id in listener_ids:
                connection.drain()
