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

from collections.abc import Iterable
from math import inf
from typing import Final

import trio
from attrs import define, field

from p2pstream.net.origins import Origins
from p2pstream.net.stream import Stream
from p2pstream.snapshot import TargetPlan
from p2pstream.wire.http1.head import ResponseHead

# Below the idle timeouts of common origins (nginx 75 s, Apache 5 s is the exception), so that we
# are usually the one who closes.
IDLE_SECONDS: Final = 60.0
_SWEEP_SECONDS: Final = 1.0
# Rule 3: longer than a round trip and an origin's next `write` take.
_REST_SECONDS: Final = 1.0

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

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._pools: dict[PoolKey, Pool] = {}

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
        return await self._origins.connect(plan, agent_id, request_id, plan.connect_timeout)

    def forget_agent(self, agent_id: str) -> None:
        """Close what is idle through an agent that leaves or left; it waits for nothing else."""
        for key in [key for key in self._pools if key[1] == agent_id]:
            _retire(self._pools.pop(key))

    def make_room(self, agent_id: str) -> bool:
        """Cut what has been idle longest through a full agent; whether there was anything.

        By a reset: the agent is to be rid of it before it hears of what takes its place.
        """
        pools = [pool for key, pool in self._pools.items() if key[1] == agent_id and pool.idle]
        if not pools:
            return False
        min(pools, key=lambda pool: pool.idle[0].idle_since).idle.pop(0).stream.abort()
        return True

    def retain(self, plans: Iterable[TargetPlan]) -> None:
        """Keep the pools that a new configuration still uses (on reload)."""
        keys = {plan.pool_key for plan in plans}
        for key in list(self._pools):
            if key[0] not in keys:
                _retire(self._pools.pop(key))

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
