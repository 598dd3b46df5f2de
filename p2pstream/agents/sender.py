"""What leaves a tunnel: straight away, together with others, or in its turn.

Rules:

1. Bytes go straight to the connection as long as it takes them. What it does not take is the
   writer's: it goes out before anything else, so frames are never torn apart.
2. Small frames of several streams that act in one step of the event loop leave in one system call
   (and one TLS record): they are corked until the writer's turn, which comes after theirs. One
   that waited alone waited for nothing, and ends it until several streams have news again.
3. Nothing overtakes what is queued before it.
4. The writer is started when it is needed first. An idle agent never needs one, and a task is more
   than a kilobyte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from p2pstream.agents.keepalive import DOUBT_SECONDS, Keepalive
from p2pstream.errors import StreamError, TunnelLost
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Bytes, Stream
from p2pstream.wire.yamux import stream as yamux
from p2pstream.wire.yamux.frame import HEADER_BYTES
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.turns import SMALL_REST

# Small frames collected for one system call before it is made all the same. While they are
# collected the peer has nothing to do, and we have nothing while it works: at 32 connections 16
# move a sixth more requests than 64 do at the same cost each; 4 pay for more system calls.
_MOST_CORKED: Final = 16


class Sender:
    """The sending half of one tunnel."""

    __slots__ = (
        "_connection",
        "_corks",
        "_keepalive",
        "_lost",
        "_news",
        "_parked",
        "_reactor",
        "_session",
        "_start",
        "_started",
        "_unsent",
        "corked",
        "sent",
    )

    def __init__(
        self,
        connection: Stream,
        session: Session,
        keepalive: Keepalive,
        *,
        news: Callable[[], object],
        lost: Callable[[TunnelLost], object],
        start: Callable[[], bool],
    ) -> None:
        """`news`: streams may have been touched by what went out. `lost`: it cannot go on. `start`:
        have `run` run; whether that can be.
        """
        self._connection = connection
        self._session = session
        self._keepalive = keepalive
        self._reactor = current_reactor()
        self._news = news
        self._lost = lost
        self._start = start
        self._started = False
        self._unsent: memoryview | None = None  # goes before everything else; the writer's
        self._parked: trio.lowlevel.Task | None = None  # the writer, while it has nothing to do
        self._corks = 0  # how many small frames wait for one another
        self.corked = False
        """Several streams have news: let their small frames wait for one another."""
        self.sent = 0
        """Bytes that the connection took."""

    @property
    def is_between_frames(self) -> bool:
        """Whether what is sent next begins a frame for the peer."""
        return self._unsent is None

    def send_now(self, core: yamux.Stream, data: Bytes) -> int:
        """Send as much of `data` as one frame carries, past no one; how much. 0: wait your turn."""
        session = self._session
        # Here, because a kept-alive stream is relied upon anew with each request: the two numbers
        # are compared before `doubt` is called at all, since every frame passes.
        if self._reactor.now - self._keepalive.heard_at > DOUBT_SECONDS:
            self._keepalive.doubt(self._reactor.now)
        if self._unsent is not None:
            return 0
        corked = self.corked and len(data) <= SMALL_REST and self._corks < _MOST_CORKED
        if session.has_output and not corked:
            self.push()
            if self._unsent is not None or not core.sending:
                return 0
        frame = session.frame(core, data)
        if not frame:
            return 0
        if corked:
            session.queue(frame)
            self._corks += 1
            self.wake_writer()
        else:
            self._offer(frame)
        return len(frame) - HEADER_BYTES

    def push_soon(self) -> None:
        """Send what waits, together with what else is small and leaves in this step."""
        if self._session.has_output:
            if self.corked:
                self.wake_writer()
            else:
                self.push()

    def push(self) -> None:
        """Send what waits, as far as the connection takes it now; the writer has the rest."""
        session = self._session
        self._corks = 0
        while self._unsent is None and session.has_output:
            batch = session.next_batch()
            if batch and not self._offer(batch[0] if len(batch) == 1 else b"".join(batch)):
                break
        self._news()

    async def run(self) -> None:
        """The writer: sends what others could not send without waiting. Errors: `StreamError`."""
        while True:
            rest = self._unsent
            if rest is not None:
                # Tried again although it failed just now: readiness in between told nobody.
                self._unsent = None
                if not self._offer(rest):
                    await self._connection.flush()  # or learn that the tunnel has ended
            elif self._session.has_output:
                self.corked = self._corks > 1
                self.push()
            else:
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_parking)

    def _abort_parking(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake_writer(self) -> None:
        """There is something to send that waits for its turn."""
        task = self._parked
        if task is not None:
            self._parked = None
            trio.lowlevel.reschedule(task)
        elif not self._started:
            self._started = self._start()

    def _offer(self, data: Bytes) -> bool:
        """Give `data` to the connection; False if it did not take all, or is gone."""
        try:
            taken = self._connection.try_send(data)
            if taken != len(data):
                data = memoryview(data)
                while taken and len(data) > taken:
                    self.sent += taken
                    data = data[taken:]
                    taken = self._connection.try_send(data)
        except StreamError as error:
            self._lost(TunnelLost(str(error)))
            return False
        self.sent += taken
        if taken == len(data):
            return True
        self._unsent = memoryview(data)
        self.wake_writer()
        return False
