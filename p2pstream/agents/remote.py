"""The agent program: keeps a tunnel to each of its servers, and dials origins for them.

Rules:

1. It needs no inbound port and keeps no state.
2. Servers are strangers to each other: each has a task, its own delays, its own tunnel, and a
   bulkhead around it: whatever one of them makes us stumble over ends its session only.
3. Draining says GoAway on every tunnel, lets the streams end, and leaves; what arrives meanwhile
   is refused by the tunnel.
"""

from __future__ import annotations

import logging
import random
import signal
import socket
from collections.abc import Sequence, Set
from math import inf
from typing import Final

import trio

from p2pstream.agents.allow import Allow
from p2pstream.agents.backoff import Backoff
from p2pstream.agents.bootstrap import (
    MAX_STREAMS,
    Joined,
    RefusedByServer,
    Server,
    join,
)
from p2pstream.agents.origin import receive_request, serve_request
from p2pstream.agents.report import send_reports
from p2pstream.agents.tunnel import Tunnel
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.errors import Fault, P2PStreamError
from p2pstream.wire.opening import ReportRequest

log = logging.getLogger(__name__)

# As the server's default `shutdown_grace_millis`.
GRACE_SECONDS: Final = 30.0
# A server that says GoAway is being restarted: its agents return to the next one spread over this.
_RETURN_SECONDS: Final = 5.0


class RemoteAgent:
    """One agent process's connections."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        allow: Allow,
        name: str = "",
        max_streams: int = MAX_STREAMS,
    ) -> None:
        """`name` is what the server shows, by default this host's; `max_streams` holds for each
        server (1-2048).
        """
        self._servers = servers
        self._allow = allow
        self._name = name or socket.gethostname()
        self._max_streams = max_streams
        self._started_at = trio.current_time()
        self._leaving = trio.Event()
        self.tunnels: dict[Server, Tunnel] = {}
        """The tunnels that are up. Two tokens may name one URL: these are two servers here."""

    async def run(self) -> None:
        """Stay connected to every server; returns after `drain`."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(self._stay_connected, server)

    def drain(self) -> None:
        """Take no new streams, let those that run end, then leave."""
        self._leaving.set()

    def cut(self) -> None:
        """End every tunnel now, as a whole: its requests learn that the agent left, and not that
        each of their origins did.
        """
        for tunnel in list(self.tunnels.values()):
            tunnel.close()

    async def _stay_connected(self, server: Server) -> None:
        backoff = Backoff(random.random)
        while not self._leaving.is_set():
            try:
                delay = await self._one_session(server, backoff)
            except Exception:  # rule 2: the bulkhead around one server's session
                delay = backoff.after_refusal()
                log.exception("%s: the session failed; next attempt in %.0f s", server, delay)
            with trio.move_on_after(delay):
                await self._leaving.wait()

    async def _one_session(self, server: Server, backoff: Backoff) -> float:
        """Join, serve until the tunnel ends; how many seconds to wait then."""
        try:
            joined = await self._join_unless_leaving(server)
        except RefusedByServer as refusal:
            delay = backoff.after_refusal(refusal.retry_after_seconds)
            log.error("%s: %s; next attempt in %.0f s", server, refusal, delay)
            return delay
        except P2PStreamError as error:
            delay = backoff.after_session(0)
            log.warning("%s: %s; next attempt in %.1f s", server, _told(error), delay)
            return delay
        if joined is None:
            return 0
        start = trio.current_time()
        told_to_go, reason = await self._serve(server, joined)
        if self._leaving.is_set():
            return 0
        delay = backoff.after_session(trio.current_time() - start)
        if told_to_go:
            delay = random.uniform(delay, _RETURN_SECONDS) if delay < _RETURN_SECONDS else delay
            reason = "the server told us to leave"
        log.warning("%s: tunnel lost: %s; next attempt in %.1f s", server, reason, delay)
        return delay

    async def _join_unless_leaving(self, server: Server) -> Joined | None:
        """Join; None if `drain` came first."""
        joined: Joined | None = None
        failure: P2PStreamError | None = None

        async def join_it() -> None:
            nonlocal joined, failure
            try:
                joined = await join(server, self._name, self._max_streams)
            except P2PStreamError as error:
                failure = error  # raised outside the nursery, which would wrap it
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join_it)
                await self._leaving.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            if joined is not None:
                joined.stream.close()
            raise
        if failure is not None:
            raise failure
        return joined

    async def _serve(self, server: Server, joined: Joined) -> tuple[bool, str]:
        """One tunnel, until it ends: whether the server said GoAway, and why it ended."""
        joined.stream.waits.deadline = inf
        served: set[int] = set()  # ids of the streams that ask for connections

        async def serve(stream: TunnelStream) -> None:
            request = await receive_request(stream)
            if isinstance(request, ReportRequest):
                await send_reports(stream, tunnel, lambda: len(served), self._started_at)
            elif request is not None:
                served.add(stream.core.id)
                try:
                    has_room = _has_room(tunnel, served, joined.max_streams)
                    await serve_request(stream, request, self._allow, has_room)
                finally:
                    served.discard(stream.core.id)

        tunnel = Tunnel(joined.stream, client=True, serve=serve)
        self.tunnels[server] = tunnel
        log.info("connected to %s as %s", server, server.agent_id)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain_when_leaving, tunnel)
                await tunnel.run()
                nursery.cancel_scope.cancel()
        finally:
            del self.tunnels[server]
        return tunnel.session.peer_going_away, str(tunnel.reason)

    async def _drain_when_leaving(self, tunnel: Tunnel) -> None:
        await self._leaving.wait()
        await tunnel.drain()
        await tunnel.delivered()
        tunnel.close()


async def run_agent(
    servers: Sequence[Server],
    *,
    allow: Allow | None = None,
    name: str = "",
    max_streams: int = MAX_STREAMS,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """`p2pstream agent`: run until SIGTERM or SIGINT, then drain for `grace_seconds` at most; a
    second signal leaves at once.
    """
    agent = RemoteAgent(servers, allow=allow or Allow(), name=name, max_streams=max_streams)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def leave_when_told() -> None:
                await anext(signals)
                log.info("draining: streams have %g s to end", grace_seconds)
                agent.drain()
                with trio.move_on_after(grace_seconds):
                    await anext(signals)
                agent.cut()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_when_told)
            await agent.run()
            nursery.cancel_scope.cancel()
    log.info("left")


def _has_room(tunnel: Tunnel, served: Set[int], most: int) -> bool:
    """Whether those that are served, a newcomer among them, are as many as was agreed.

    A stream that was reset is gone at once, though its task takes a few steps more: the server may
    have reset it to make room.
    """
    return len(served) <= most or len(served & tunnel.session.streams.keys()) <= most


def _told(error: P2PStreamError) -> str:
    return error.detail if isinstance(error, Fault) else str(error)
