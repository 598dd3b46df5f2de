"""Which agents are connected, and a way through each of them: `open` is a `Dial`.

Rules:

1. The newest authenticated connection of an id replaces the older one, whose streams end: after a
   network failed, the older one is a ghost, and nobody may be locked out by his own ghost.
2. Unless two programs use one token: then each newest one would throw out the other for ever. An
   id that was replaced `_TWIN_COUNT` times in `_TWIN_SECONDS` is suspected for a while, and then a
   newcomer gets in only if the one that is connected shows no sign of life (`admit`).
3. Who asks is told in the step in which something happens: `on_disconnect` is called as a tunnel
   ends, before any task of it runs.
4. An agent gets as many streams as it said that it takes. Where one more is needed, a kept-alive
   connection gives way (`make_room`); if none is idle the dial fails at once (`AgentFull`), so that
   another agent is tried. A full agent is a busy one: its health has nothing to do with it.
5. `apply` cuts who may not stay (removed, disabled, secret withdrawn) and touches nobody else.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import ceil, inf
from typing import Final

import trio
from attrs import frozen

from p2pstream.agents.report import Reports
from p2pstream.agents.tunnel import Tunnel
from p2pstream.config.model import Agent
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import AgentDisconnected, AgentFull, StreamError, TunnelLost
from p2pstream.net.stream import Stream
from p2pstream.net.tuning import give_back_memory
from p2pstream.wire.report import Report

log = logging.getLogger(__name__)

# Twins throw each other out once a second, later with the reconnect delays; a network that comes
# and goes does not get an agent in again five times a minute.
_TWIN_COUNT: Final = 5
_TWIN_SECONDS: Final = 60.0
# A suspicion lasts this long after it was last confirmed: twenty asks of the refused twin.
_SUSPECT_SECONDS: Final = 600.0
# Time for a sign of life: a round trip by satellite with a loss or two.
_PROOF_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.05
# A refused twin may ask again after this; the longest of our agents' own delays.
_TWIN_RETRY_SECONDS: Final = 30
# Agents told to leave come back spread over this many seconds, to us or to our successor.
_RETURN_SECONDS: Final = 5.0
# Handshakes that overlap leave holes behind, 5 KB for each of a thousand agents that come at once:
# so many since the last time are a burst, and it is over after so many seconds.
_BURST: Final = 100
_BURST_SECONDS: Final = 10.0
# Of a full agent the log tells so often at most: requests may meet it hundreds of times a second.
_TELL_SECONDS: Final = 60.0
# What `attach` pings with; the keepalive never draws it (`keepalive._any_value`).
_PROOF_PING: Final = 0xFFFF_FFFF

OnAgent = Callable[[str], object]
OnLost = Callable[[str, str], object]
MakeRoom = Callable[[str], bool]


@frozen
class Visitor:
    """What an agent says of itself when it dials in."""

    name: str = ""
    version: str = ""
    max_streams: int = 64
    reports: bool = False
    """It can tell how it is doing (`wire.report`)."""


@frozen
class Busy:
    """Why an agent with good credentials may not come in now."""

    status: int
    message: str
    retry_after_seconds: int


@frozen
class AgentStatus:
    """One connected agent, at one moment. Byte counts are the connection's, frames included."""

    agent_id: str
    name: str
    version: str
    peer: str
    connected_seconds: float
    proven_seconds_ago: float
    round_trip_seconds: float | None
    streams: int
    max_streams: int
    received_bytes: int
    sent_bytes: int
    leaving: bool
    report: Report | None = None
    """What its program said last; None until it did, and for agents that do not report."""
    reported_seconds_ago: float | None = None


class _AgentTunnel(Tunnel):
    """A connected agent: tells the hub of its GoAway and of its own end in the step of either.

    A task that waits for these would come too late by a step, and cost 4 KiB an agent.
    """

    def __init__(self, hub: Hub, agent: Agent, connection: Stream, visitor: Visitor, peer: str):
        super().__init__(connection, client=False)
        self.agent_id = agent.id
        self.token_hash = agent.token_hash
        self.visitor = visitor
        self.peer = peer
        self.since = trio.current_time()
        self.reports: Reports | None = None
        self._hub = hub
        self._told_leaving = False

    def _dispatch(self) -> int:
        if self.session.peer_going_away and not self._told_leaving and self.reason is None:
            self._told_leaving = True
            self._hub._leaves(self)
        return super()._dispatch()

    def end(self, reason: StreamError) -> None:
        """See `Tunnel`."""
        if self.reason is None:
            super().end(reason)
            self._hub._lost(self, str(reason))

    def leave(self, why: str) -> None:
        """Say GoAway as far as that takes no waiting, and end with this reason."""
        if self.reason is None:
            self.session.go_away()
            self.push()
            self.end(TunnelLost(why))


class Hub:
    """The connected agents of one server process."""

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        on_connect: OnAgent = lambda _: None,
        on_disconnect: OnLost = lambda _, __: None,
        on_leaving: OnAgent = lambda _: None,
        make_room: MakeRoom = lambda _: False,
    ) -> None:
        """Callbacks get an agent id; `on_disconnect` also the reason, for people.

        In `on_connect`, `status_of` tells who came; when a newer connection replaces an older
        one, `on_disconnect` of that comes first.
        `on_leaving`: the agent takes no new streams, and ends those that it has.
        `make_room`: cut a stream of the agent that nobody uses, and say whether there was one.
        """
        self.agents: Mapping[str, Agent] = {agent.id: agent for agent in agents}
        """Who may come in, by id."""
        self.draining = False
        """We are leaving: nobody gets in any more."""
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_leaving = on_leaving
        self._make_room = make_room
        self._attached: dict[str, _AgentTunnel] = {}
        self._replaced: dict[str, deque[float]] = {}  # Trio times, per id, at most _TWIN_COUNT
        self._suspected: dict[str, float] = {}  # until when (Trio time), per id
        self._told_full: dict[str, float] = {}  # when (Trio time), per id
        self._newcomers = 0  # since memory was last given back

    # --- the way in -----------------------------------------------------------------------------

    async def admit(self, agent: Agent) -> Busy | None:
        """Whether an authenticated agent may attach now; takes `_PROOF_SECONDS` at most."""
        if self.draining:
            return Busy(503, "this server is leaving", ceil(_return_seconds()))
        old = self._attached.get(agent.id)
        if old is None or self._suspected.get(agent.id, -inf) < trio.current_time():
            return None
        if not await _shows_life(old):
            return None
        self._suspected[agent.id] = trio.current_time() + _SUSPECT_SECONDS
        log.error(
            "agent %s: two programs use one token: the one at %s is connected and alive, another "
            "is refused; give each a token of its own",
            agent.id,
            old.peer,
        )
        message = "another program with this token is connected; give each a token of its own"
        return Busy(409, message, _TWIN_RETRY_SECONDS)

    async def attach(self, agent: Agent, stream: Stream, visitor: Visitor, peer: str) -> None:
        """Be this agent's connection until it ends. `stream` speaks Yamux from here on.

        The configuration may have changed since the agent was let in: then it ends at once.
        """
        stream.waits.deadline = inf
        tunnel = _AgentTunnel(self, agent, stream, visitor, peer)
        if self.draining or not self._may_stay(tunnel):
            tunnel.leave("the configuration no longer lets it in")
            return
        self._replace(tunnel)
        log.info("agent %s connected from %s, version %s", agent.id, peer, visitor.version or "?")
        self._on_connect(agent.id)
        if visitor.reports:
            tunnel.reports = Reports(tunnel, agent.id)
            tunnel.reports.ask()
        self._newcomers += 1
        if self._newcomers == _BURST:
            trio.lowlevel.spawn_system_task(self._tidy_up_later)
        await tunnel.run()

    async def _tidy_up_later(self) -> None:
        """Give back memory once a burst is over; Trio cancels it at the end of the run."""
        before = 0
        while before != self._newcomers:
            before = self._newcomers
            await trio.sleep(_BURST_SECONDS)
        self._newcomers = 0
        give_back_memory()

    def _replace(self, newest: _AgentTunnel) -> None:
        old = self._attached.pop(newest.agent_id, None)
        self._attached[newest.agent_id] = newest
        if old is None:
            return
        self._suspect(newest)
        reason = f"replaced by a newer connection from {newest.peer}"
        old.leave(reason)
        self._tell_lost(old, reason)

    def _suspect(self, newest: _AgentTunnel) -> None:
        """Count a replacement; so many in so short a time are not a network's doing."""
        agent_id, now = newest.agent_id, newest.since
        times = self._replaced.setdefault(agent_id, deque(maxlen=_TWIN_COUNT))
        times.append(now)
        if len(times) == _TWIN_COUNT and now - times[0] < _TWIN_SECONDS:
            self._suspected[agent_id] = now + _SUSPECT_SECONDS
            times.clear()
            log.warning(
                "agent %s was replaced %d times in %.0f s: do two programs use its token?",
                agent_id,
                _TWIN_COUNT,
                _TWIN_SECONDS,
            )

    def _lost(self, attached: _AgentTunnel, reason: str) -> None:
        """A tunnel ended, in this very step. A replaced one was told of already."""
        if self._attached.get(attached.agent_id) is attached:
            del self._attached[attached.agent_id]
            self._tell_lost(attached, reason)

    def _tell_lost(self, attached: _AgentTunnel, reason: str) -> None:
        held = trio.current_time() - attached.since
        log.info("agent %s disconnected after %.0f s: %s", attached.agent_id, held, reason)
        self._on_disconnect(attached.agent_id, reason)

    def _leaves(self, attached: _AgentTunnel) -> None:
        """The agent said GoAway; its streams go on."""
        if self._attached.get(attached.agent_id) is attached:
            log.info("agent %s is leaving: no new requests go to it", attached.agent_id)
            self._on_leaving(attached.agent_id)

    # --- the way through ------------------------------------------------------------------------

    async def open(
        self, agent_id: str, host: str, port: int, request_id: str, timeout_seconds: float
    ) -> Stream:
        """A connection to `host`, `port`, dialled by the agent.

        Errors: `AgentDisconnected`, `AgentDialFailed`, `AgentFull`, `AgentDialTimeout`.
        """
        attached = self._attached.get(agent_id)
        if attached is None:
            raise AgentDisconnected(f"agent {agent_id} is not connected")
        deadline = trio.current_time() + timeout_seconds
        made_room = self._see_to_room(attached)
        try:
            return await attached.open(
                host, port, request_id=request_id, timeout_seconds=timeout_seconds
            )
        except AgentFull:
            # It counts otherwise, or is not done yet with the stream that gave way to this one.
            if not made_room and not self._make_room(agent_id):
                self._tell_full(attached)
                raise
        left = max(0.0, deadline - trio.current_time())
        return await attached.open(host, port, request_id=request_id, timeout_seconds=left)

    def _see_to_room(self, attached: _AgentTunnel) -> bool:
        """See that there is room for one more stream (rule 4); whether another gave way for it.

        Errors: `AgentFull`.
        """
        made_room = False
        while attached.streams >= attached.visitor.max_streams:
            made_room = self._make_room(attached.agent_id)
            if not made_room:
                self._tell_full(attached)
                raise AgentFull("agent_capacity: as many streams as were agreed are open")
        return made_room

    def _tell_full(self, attached: _AgentTunnel) -> None:
        now = trio.current_time()
        if now - self._told_full.get(attached.agent_id, -inf) >= _TELL_SECONDS:
            self._told_full[attached.agent_id] = now
            log.warning(
                "agent %s takes no more streams: it has %d", attached.agent_id, attached.streams
            )

    def is_connected(self, agent_id: str) -> bool:
        """Whether the agent has a tunnel."""
        return agent_id in self._attached

    def status_of(self, agent_id: str) -> AgentStatus | None:
        """One agent, if it is connected."""
        attached = self._attached.get(agent_id)
        return None if attached is None else _status(attached, trio.current_time())

    def status(self) -> list[AgentStatus]:
        """The connected agents, by id."""
        now = trio.current_time()
        return [_status(self._attached[agent_id], now) for agent_id in sorted(self._attached)]

    # --- what happens to all --------------------------------------------------------------------

    def apply(self, agents: Iterable[Agent]) -> None:
        """Take over a reloaded configuration (rule 5)."""
        before, self.agents = self.agents, {agent.id: agent for agent in agents}
        for attached in list(self._attached.values()):
            if not self._may_stay(attached):
                self._say_goodbye(attached, "the configuration no longer lets it in")
        for table in (self._replaced, self._suspected, self._told_full):
            for agent_id in list(table):
                if _hashes(self.agents, agent_id) != _hashes(before, agent_id):
                    del table[agent_id]  # twins with one token are no more, or not with this one

    def _may_stay(self, attached: _AgentTunnel) -> bool:
        """Whether the agent is still declared, enabled, and has the hash that it came in with."""
        agent = self.agents.get(attached.agent_id)
        if agent is None or not agent.enabled:
            return False
        return not set(agent.token_hash).isdisjoint(attached.token_hash)

    def _say_goodbye(self, attached: _AgentTunnel, why: str) -> None:
        del self._attached[attached.agent_id]
        attached.leave(why)
        self._tell_lost(attached, why)

    async def drain(self) -> None:
        """Tell all agents to go elsewhere, wait for their streams to end, cut the tunnels.

        The caller sets the limit; cancelled, the tunnels are cut all the same.
        """
        self.draining = True
        try:
            async with trio.open_nursery() as nursery:
                for attached in list(self._attached.values()):
                    nursery.start_soon(attached.drain)
        finally:
            for attached in list(self._attached.values()):
                self._say_goodbye(attached, "the server is leaving")


async def _shows_life(tunnel: Tunnel) -> bool:
    """Ping, and see whether anything comes back in time."""
    before = tunnel.received
    tunnel.session.ping(_PROOF_PING)
    tunnel.push()
    with trio.move_on_after(_PROOF_SECONDS):
        while tunnel.reason is None:
            await trio.sleep(_LOOK_SECONDS)
            if tunnel.received != before:
                return True
    return False


def _hashes(agents: Mapping[str, Agent], agent_id: str) -> tuple[TokenHash, ...]:
    """Of the agent's secrets; none if there is no such agent."""
    agent = agents.get(agent_id)
    return () if agent is None else agent.token_hash


def _return_seconds() -> float:
    return random.uniform(1.0, _RETURN_SECONDS)


def _status(tunnel: _AgentTunnel, now: float) -> AgentStatus:
    reports = tunnel.reports
    report = None if reports is None else reports.last
    return AgentStatus(
        agent_id=tunnel.agent_id,
        name=tunnel.visitor.name,
        version=tunnel.visitor.version,
        peer=tunnel.peer,
        connected_seconds=now - tunnel.since,
        proven_seconds_ago=now - max(tunnel.proven_at, tunnel.since),
        round_trip_seconds=tunnel.round_trip,
        streams=tunnel.streams,
        max_streams=tunnel.visitor.max_streams,
        received_bytes=tunnel.received,
        sent_bytes=tunnel.sent,
        leaving=tunnel.session.peer_going_away,
        report=report,
        reported_seconds_ago=None if reports is None or report is None else now - reports.at,
    )
