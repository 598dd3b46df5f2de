"""Connections to origins: kept alive, reused last-in first-out, made through a `Dial` (spec §5).

Rules:

1. Decide, then await: taking and giving back are synchronous.
2. A connection goes back only when its response ended where its framing said and nothing came
   after it; one on which anything has arrived while idle is never used again.
3. A response that tells of a body and has none (to HEAD, or a 304) may be followed by it all the
   same, from an origin that knows no better. It would be taken for the next response, which may
   be somebody else's: such a connection rests until what was on its way has come.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Final

import trio
from attrs import define, field

from p2pstream.errors import (
    AgentDisconnected,
    CommandError,
    ConnectTimeout,
    StreamError,
    TlsFailed,
    TunnelLost,
)
from p2pstream.net.dial import dial_tcp
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.snapshot import TargetPlan, TlsSettings
from p2pstream.wire.http1.head import ResponseHead

# Below the idle timeouts of common origins (nginx 75 s, Apache 5 s is the exception), so that we
# are usually the one who closes.
IDLE_SECONDS: Final = 60.0
_SWEEP_SECONDS: Final = 1.0
# Rule 3: longer than a round trip and an origin's next `write` take.
_REST_SECONDS: Final = 1.0

OpenThroughAgent = Callable[[str, str, int, float, str], Awaitable[Stream]]
"""(agent id, host, port, seconds, request id) -> Stream; raises the dial's `Fault`."""

PoolKey = tuple[object, str]


class Upstream:
    """One connection to an origin, and the last response head seen on it."""

    __slots__ = (
        "idle_since",
        "memo_block",
        "memo_date",
        "memo_head",
        "memo_raw",
        "pool",
        "rests",
        "stream",
    )

    def __init__(self, stream: Stream, pool: Pool) -> None:
        self.stream = stream
        self.pool = pool
        self.idle_since = 0.0
        self.rests = False
        """Rule 3, for the last response."""
        # Origins repeat their response heads (a second's worth of `Date` at least): parsed and
        # re-serialised once, compared after.
        self.memo_raw = b""
        self.memo_head: ResponseHead | None = None
        self.memo_block = b""
        self.memo_date: bytes | None = None
        """The `Date` that we put into the block; None when the origin gave one."""


@define(slots=True, eq=False)
class Pool:
    """The idle connections of one (transport, origin, TLS settings, agent)."""

    max_idle: int
    idle: list[Upstream] = field(factory=list)
    retired: bool = False
    """Its target is gone from the configuration, or its agent is leaving: nothing is kept."""

    def take(self, now: float) -> Upstream | None:
        """The connection used last that still looks usable."""
        resting = []
        found = None
        while self.idle and found is None:
            upstream = self.idle.pop()
            if upstream.rests and now < upstream.idle_since + _REST_SECONDS:
                resting.append(upstream)
            elif upstream.stream.is_quiet():
                found = upstream
            else:
                upstream.stream.close()
        if resting:
            self.idle += reversed(resting)
        return found

    def give(self, upstream: Upstream, now: float) -> None:
        """Keep a connection whose response has ended cleanly."""
        if self.retired or len(self.idle) >= self.max_idle:
            upstream.stream.close()
        else:
            upstream.idle_since = now
            self.idle.append(upstream)

    def close_idle(self, before: float) -> None:
        """Close what has been idle since before that time, or whose origin has closed."""
        kept = []
        for upstream in self.idle:
            if upstream.idle_since < before or not upstream.stream.is_quiet():
                upstream.stream.close()
            else:
                kept.append(upstream)
        self.idle = kept


class Upstreams:
    """All pools; `connect` makes what they lack."""

    def __init__(self, through_agent: OpenThroughAgent) -> None:
        self._through_agent = through_agent
        self._pools: dict[PoolKey, Pool] = {}
        self._contexts: dict[TlsSettings, ssl.SSLContext] = {}

    def pool(self, plan: TargetPlan, agent_id: str) -> Pool:
        """The pool of a target, through an agent or (`""`) direct."""
        found: Pool | None = plan.pools.get(agent_id)
        if found is None or found.retired:
            key = (plan.pool_key, agent_id)
            found = self._pools.get(key)
            if found is None:
                found = self._pools[key] = Pool(plan.max_idle)
            found.max_idle = plan.max_idle
            plan.pools[agent_id] = found
        return found

    async def connect(self, plan: TargetPlan, agent_id: str, request_id: str) -> Stream:
        """A new connection, TLS included. Errors: the `DIAL_FAULTS`."""
        origin = plan.origin
        seconds = plan.connect_timeout
        deadline = trio.current_time() + seconds
        if agent_id:
            stream = await self._through_agent(
                agent_id, origin.host, origin.port, seconds, request_id
            )
        else:
            stream = await dial_tcp(origin.host, origin.port, seconds)
        if plan.tls is None:
            return stream
        try:
            with trio.fail_at(deadline):
                return await self._handshake(stream, plan.tls)
        except trio.TooSlowError:
            stream.abort()
            raise ConnectTimeout(f"TLS handshake not done within {seconds} s") from None
        except TunnelLost as error:
            stream.abort()
            raise AgentDisconnected(str(error)) from error
        except (StreamError, CommandError, ssl.SSLError, ValueError) as error:
            stream.abort()
            raise TlsFailed(str(error)) from error
        except BaseException:
            stream.abort()
            raise

    async def _handshake(self, stream: Stream, settings: TlsSettings) -> Stream:
        context = self._contexts.get(settings)
        skip_verify, ca_file, server_name = settings
        if context is None:
            context = client_context(ca_file=ca_file, verify=not skip_verify)
            self._contexts[settings] = context
        wrapped = TlsStream(stream, context, server_hostname=server_name)
        await wrapped.handshake()
        return wrapped

    def forget_agent(self, agent_id: str) -> None:
        """Close what is idle through an agent that leaves or left; it waits for nothing else."""
        for key in [key for key in self._pools if key[1] == agent_id]:
            _retire(self._pools.pop(key))

    def retain(self, plans: Iterable[TargetPlan]) -> None:
        """Keep the pools that a new configuration still uses; read CA files anew (on reload)."""
        keys = {plan.pool_key for plan in plans}
        for key in list(self._pools):
            if key[0] not in keys:
                _retire(self._pools.pop(key))
        self._contexts.clear()

    async def close_idle_forever(self) -> None:
        """Keep the pools fresh until cancelled."""
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            before = trio.current_time() - IDLE_SECONDS
            for pool in self._pools.values():
                pool.close_idle(before)

    def close(self) -> None:
        """Close every idle connection, and keep none from now on."""
        for pool in self._pools.values():
            _retire(pool)


def _retire(pool: Pool) -> None:
    pool.retired = True
    pool.close_idle(inf)
