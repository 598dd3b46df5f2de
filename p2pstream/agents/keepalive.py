"""Proof that a tunnel's peer is there: it answers pings, or it is lost (spec §8).

Rules:

1. A ping every `PING_SECONDS`; answered within `PONG_SECONDS`. The first goes at once and the
   second soon after it, because the first measures a cold start besides the path.
2. A line full of bulk may delay the answer while bytes keep coming, which prove the peer as well:
   then it may take `_BUSY_EXTENSIONS` times longer. A silent peer gets no more than its time.
3. Who opens a stream, or sends on one, on a connection that was silent for `DOUBT_SECONDS` asks at
   once (`doubt`): a ghost is found by its first request, be it on a stream kept alive, and not
   only by the next ping in turn.
4. The answers measure the round trip by which receive windows grow.
5. Nobody can answer a ping that it has not read: its value is drawn when it is sent.
6. Who answers has taken in all that was sent before the ping (`ask`): a kernel that took bytes
   proves nothing, and loses them if the connection is closed with something unread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from math import inf
from typing import Final

import trio

from p2pstream.errors import DeadlineExpired, TunnelLost
from p2pstream.net.reactor import Waits, current_reactor
from p2pstream.wire.yamux.frame import MAX_U32
from p2pstream.wire.yamux.session import Session

PING_SECONDS: Final = 20.0
PONG_SECONDS: Final = 10.0
_SECOND_PING_SECONDS: Final = 1.0
# An agent that reports does so every five seconds: one that is there is rarely doubted.
DOUBT_SECONDS: Final = 6.0
_BUSY_EXTENSIONS: Final = 2


class Keepalive:
    """The keepalive of one tunnel."""

    __slots__ = (
        "_answered",
        "_asked",
        "_pinged_at",
        "_pong",
        "_resting",
        "_session",
        "_value",
        "_waits",
        "heard",
        "heard_at",
        "proven_at",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self.proven_at = -inf
        """Trio time of the last answered ping."""
        self.heard = False
        """Something arrived since it was last looked at; the reader says so."""
        self.heard_at = -inf
        """Trio time, a sweep old at most, at which something arrived; the reader says so too."""
        self._value = 0
        self._asked = 0
        self._answered: trio.Event | None = None  # the answer to `ask` is here, or never will be
        self._pinged_at = 0.0
        self._waits = Waits()  # a scope and an event would be a kilobyte a tunnel
        self._pong = False  # the ping is answered
        self._resting = False  # between pings

    async def run(self, send: Callable[[], object]) -> None:
        """Ping for ever; `send` is called after each was queued.

        Errors: `TunnelLost` when the peer is not there any more.
        """
        reactor = current_reactor()
        reactor.add(self._waits)
        try:
            await self._ping_forever(send)
        finally:
            reactor.remove(self._waits)

    async def _ping_forever(self, send: Callable[[], object]) -> None:
        pause = _SECOND_PING_SECONDS
        while True:
            self._value = _any_value()
            self._pinged_at = trio.current_time()
            self._pong = False
            self.heard = False
            self._session.ping(self._value)
            send()
            await self._wait_for_pong()
            self._resting = True
            await self._wait_until(self._pinged_at + pause)
            self._resting = False
            pause = PING_SECONDS

    async def _wait_until(self, time: float) -> None:
        """Wait to be woken, until then at most and a sweep or two (`net.reactor`, rule 3)."""
        self._waits.deadline = time
        try:
            await self._waits.wait_read()
        except DeadlineExpired:
            pass

    async def _wait_for_pong(self) -> None:
        for _ in range(1 + _BUSY_EXTENSIONS):
            if not self._pong:
                await self._wait_until(trio.current_time() + PONG_SECONDS)
            if self._pong:
                return
            if not self.heard:
                break
            self.heard = False
        waited = trio.current_time() - self._pinged_at
        raise TunnelLost(f"no answer to a keepalive ping within {waited:.0f} s")

    def doubt(self, now: float) -> None:
        """Somebody is about to rely on the peer at `now` (Trio time): ask, if it was silent."""
        if self._resting and now - self.heard_at > DOUBT_SECONDS:
            self._waits.wake_read()

    def ask(self) -> trio.Event:
        """Queue a ping besides those in turn; set once it is answered (rule 6), or with `end`."""
        self._asked = _any_value()
        self._answered = trio.Event()
        self._session.ping(self._asked)
        return self._answered

    def end(self) -> None:
        """Nothing will be answered any more."""
        if self._answered is not None:
            self._answered.set()

    def take_pongs(self) -> None:
        """Look at the answers that the session received."""
        pongs = self._session.pongs
        if self._answered is not None and self._asked in pongs:
            self._answered.set()
        if self._value in pongs and not self._resting and not self._pong:
            self.proven_at = trio.current_time()
            self._session.round_trip.record(self.proven_at - self._pinged_at)
            self._pong = True
            self._waits.wake_read()
        pongs.clear()


def _any_value() -> int:
    """A value for a ping; never the one that the hub's own pings have (`hub._PROOF_PING`)."""
    return secrets.randbelow(MAX_U32)
