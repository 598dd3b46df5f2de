"""A tunnel: one Yamux session driven over one connection, the server's side or the agent's.

    tunnel = Tunnel(connection, client=True, serve=handle)     the agent
    tunnel = Tunnel(connection, client=False)                  the server
    await tunnel.run()                                         until it ends; never raises for it

Tasks, and what each still says when it is cancelled:

* The reader (in `run`'s own task) feeds the session and wakes the tasks of the streams that have
  news. The writer (`sender`) sends what did not go straight out. `keepalive` proves that the peer
  answers. These three live and end together with the tunnel; whoever of them meets the end of
  the connection, or a breach of protocol, ends the tunnel. Cancelling `run` ends it at once,
  and the peer hears the connection close; to say GoAway first, `drain` or `close`.
* A task per stream the peer opened (`serve`), in the tunnel's nursery: ends with its stream at
  the latest, closed if it returned, reset if it failed. Cancelled with the tunnel.
* The tasks that use streams are not the tunnel's. Cancelling one never concerns the session: a
  cancelled `open` resets its stream, a cancelled `send` or `receive` see `tunnel_stream`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

import trio

from p2pstream.agents.keepalive import PONG_SECONDS, Keepalive
from p2pstream.agents.sender import Sender
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.errors import (
    AgentDialFailed,
    AgentDialTimeout,
    AgentDisconnected,
    DeadlineExpired,
    Fault,
    StreamBroken,
    StreamClosed,
    StreamError,
    TunnelLost,
)
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.wire.opening import OpeningError, OpeningReader, OpenRequest, Verdict
from p2pstream.wire.yamux import stream as yamux
from p2pstream.wire.yamux.frame import GoAwayCode, ProtocolError
from p2pstream.wire.yamux.session import Session
from p2pstream.wire.yamux.streams import ACCEPT_BACKLOG

_log = logging.getLogger("p2pstream.agents.tunnel")

# One read: four full frames, or some hundred small ones.
READ_BYTES: Final = 256 * 1024

# What the kernel may hold unsent of ours. Whatever stands there is ahead of every later frame:
# at 10 Mbit/s, 128 KiB is a tenth of a second, the kernel's default of megabytes several.
_UNSENT_IN_KERNEL: Final = 128 * 1024
_TCP_NOTSENT_LOWAT: Final = 25  # tcp(7); the socket module does not name it
# Bytes that the peer's kernel has not acknowledged for so long, or has no room for, are as good as
# an unanswered ping: a link that lost its other end under load is found in this time, not in 30 s.
_UNTAKEN_MILLIS: Final = int(1_000 * PONG_SECONDS)

Serve = Callable[[TunnelStream], Awaitable[None]]
"""What an agent does with a stream; when it returns, the stream is closed."""


class Tunnel:
    """Drives one session over `connection`, which it owns from here on."""

    def __init__(self, connection: Stream, *, client: bool, serve: Serve | None = None) -> None:
        self.session = Session(client=client)
        self._keepalive = Keepalive(self.session)
        self.leaving = trio.Event()
        """Set when the peer said GoAway, or when the tunnel ended: open no more streams here."""
        self.reason: StreamError | None = None
        """Why the tunnel ended; None while it has not."""
        self.received = 0
        """Bytes that came over the connection, frames included."""
        self.aside: yamux.Stream | None = None
        """A stream that is no request's (`report`): not counted, and no draining waits for it."""
        self.sender = Sender(
            connection,
            self.session,
            self._keepalive,
            news=self._pass_on_news,
            lost=self.end,
            start=self._start_writer,
        )
        self._connection = connection
        self._serve = serve
        self._nursery: trio.Nursery | None = None
        self._unanswered = 0  # streams that we opened and the peer has not answered
        self._line: trio.lowlevel.ParkingLot | None = None  # who waits to open one more
        self._lingering: list[yamux.Stream] = []  # closed by us since the last ping, ...
        self._lingering_longer: list[yamux.Stream] = []  # ... or before it; not by the peer
        self._idle: trio.Event | None = None  # no stream is open, while draining
        prepare_connection(connection)

    # --- what the program asks -----------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams are open, the one `aside` apart."""
        streams, aside = self.session.streams, self.aside
        return len(streams) - (aside is not None and aside.id in streams)

    @property
    def sent(self) -> int:
        """Bytes that the connection took, frames included."""
        return self.sender.sent

    @property
    def proven_at(self) -> float:
        """Trio time of the last answered ping: when the peer was last known to be there."""
        return self._keepalive.proven_at

    @property
    def round_trip(self) -> float | None:
        """The path's round trip in seconds, once measured."""
        return self.session.round_trip.seconds

    async def run(self) -> None:
        """Drive the tunnel until it ends, by whatever end; `reason` says which."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.reason is not None:
                    return
                if self.session.has_output or not self.sender.is_between_frames:
                    self.sender.wake_writer()  # what was to be sent before we ran
                nursery.start_soon(self._ending_with_it, self._keepalive.run, self._reset_lingering)
                try:
                    await self._read()
                except StreamError as error:
                    self._ended_by(error)
                nursery.cancel_scope.cancel()
        finally:
            self.end(TunnelLost("the tunnel was shut down"))

    async def open(
        self,
        host: str,
        port: int,
        *,
        request_id: str,
        timeout_seconds: float,
    ) -> TunnelStream:
        """A connection to `host`, `port`, dialled by the agent (spec §8).

        Errors: `AgentDisconnected`, `AgentDialFailed`, `AgentDialTimeout`.
        """
        deadline = trio.current_time() + timeout_seconds
        if self._unanswered < ACCEPT_BACKLOG:  # the peer would have to refuse one more
            self._unanswered += 1
        else:
            await self._wait_in_line(deadline, timeout_seconds)
        try:
            return await self._open(OpenRequest(request_id, host, port), deadline, timeout_seconds)
        finally:
            if self._line:  # the place goes to who has waited longest
                self._line.unpark()
            else:
                self._unanswered -= 1

    async def _wait_in_line(self, deadline: float, timeout_seconds: float) -> None:
        """Take over the place of a stream that was answered, or failed."""
        if self._line is None:
            self._line = trio.lowlevel.ParkingLot()
        try:
            with trio.fail_at(deadline):
                await self._line.park()
        except trio.TooSlowError:
            raise AgentDialTimeout(
                f"the agent left {ACCEPT_BACKLOG} streams unanswered for {timeout_seconds:g} s"
            ) from None

    async def _open(
        self, request: OpenRequest, deadline: float, timeout_seconds: float
    ) -> TunnelStream:
        stream = self._open_stream()
        stream.waits.deadline = deadline
        try:
            self.session.send(stream.core, request.encode())
            self.push()
            self._keepalive.doubt(current_reactor().now)
            verdict = Verdict.parse(await receive_opening(stream))
            if not verdict.ok:
                raise verdict.fault()
        except (StreamError, OpeningError) as error:
            stream.abort()
            raise _fault_of(error, timeout_seconds) from error
        except BaseException:
            stream.abort()
            raise
        stream.waits.deadline = inf
        return stream

    def _open_stream(self) -> TunnelStream:
        if self.reason is not None:
            raise AgentDisconnected(str(self.reason))
        try:
            return TunnelStream(self, self.session.open())
        except StreamClosed as error:
            raise AgentDisconnected(str(error)) from error

    async def drain(self) -> None:
        """Say GoAway, so that the peer opens no more; return when the last stream has ended.

        The tunnel itself goes on: `close` it, or cancel `run`.
        """
        if not self.session.going_away:
            self.session.go_away()
            self.push()
        self._idle = trio.Event()
        self._note_idle()
        await self._idle.wait()

    async def delivered(self) -> None:
        """Return when the peer has taken in what was sent so far, or when the tunnel has ended.

        A stream of ours has ended once its last frame is queued: what is closed after `drain`
        alone may take the last bytes along.
        """
        if self.reason is None:
            answered = self._keepalive.ask()
            self.push()
            await answered.wait()

    def close(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Say GoAway as far as that takes no waiting, and end the tunnel."""
        if self.reason is None:
            self.session.go_away(code)
            self.push()
            self.end(TunnelLost("the tunnel was closed"))

    def end(self, reason: StreamError) -> None:
        """Break every stream with `reason` and close the connection. Idempotent."""
        if self.reason is not None:
            return
        self.reason = reason
        self.session.end(reason)
        self._dispatch()
        self._connection.close()
        self.leaving.set()
        self._note_idle()
        self._keepalive.end()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # --- what its streams ask ------------------------------------------------------------------

    def grant(self, core: yamux.Stream) -> None:
        """The reader of `core` took bytes: tell the peer if that is due."""
        self.session.update_window(core, trio.current_time())
        self.sender.push_soon()

    def close_stream(self, core: yamux.Stream) -> None:
        """End a stream nobody uses any more: in order if all was read, else by a reset."""
        session = self.session
        if core.inbox or core.state is yamux.State.IDLE:
            session.reset(core)
        elif core.sending and not core.fin_queued:
            session.finish(core)
        if core.id in session.streams:
            self._lingering.append(core)
        self.push()

    def reset_stream(self, core: yamux.Stream) -> None:
        """Cut a stream in both directions."""
        self.session.reset(core)
        self.push()

    def push(self) -> None:
        """Send what waits, as far as the connection takes it now; the writer has the rest."""
        if self.reason is None:
            self.sender.push()

    def _pass_on_news(self) -> None:
        self._dispatch()
        self._note_idle()

    # --- the three tasks -----------------------------------------------------------------------

    def _start_writer(self) -> bool:
        if self._nursery is None or self.reason is not None:
            return False
        self._nursery.start_soon(self._ending_with_it, self.sender.run)
        return True

    async def _ending_with_it(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run `task`; a `StreamError` out of it ends the tunnel."""
        try:
            await task(*args)
        except StreamError as error:
            self._ended_by(error)

    def _ended_by(self, error: StreamError) -> None:
        self.end(error if isinstance(error, TunnelLost) else TunnelLost(str(error)))

    async def _read(self) -> None:
        receive = self._connection.receive
        session = self.session
        keepalive = self._keepalive
        reactor = current_reactor()
        keepalive.heard_at = reactor.now
        while True:
            data = await receive(READ_BYTES)
            if not data:
                session.receive_eof()
                raise TunnelLost("the peer closed the connection")
            self.received += len(data)
            keepalive.heard = True
            keepalive.heard_at = reactor.now
            while not self._take_in(data):
                data = b""
                await trio.lowlevel.checkpoint()
            if len(data) == READ_BYTES:
                await trio.lowlevel.checkpoint()  # who got something takes it before we go on
            # A few bytes at the front of what was a large buffer would pin it while we wait: a
            # thousand tunnels that heard a ping each kept 16 KB so.
            del data

    def _take_in(self, data: bytes) -> bool:
        """Feed the session, and see to what came of it; False: the next turn has more of it."""
        session = self.session
        try:
            whole = session.receive_data(data)
        except ProtocolError as error:
            self._say_goodbye(error)
            raise
        if self._dispatch() > 1:
            self.sender.corked = True
        self._note_idle()
        if session.pongs:
            self._keepalive.take_pongs()
        if session.peer_going_away:
            self.leaving.set()
        if session.has_output:
            self.push()
        return whole

    # --- details -------------------------------------------------------------------------------

    def _dispatch(self) -> int:
        """Wake the tasks of the streams that have news; how many streams these are."""
        touched = self.session.take_touched()
        for core in touched:
            bits, core.touched = core.touched, 0
            stream = core.owner
            if stream is not None:
                stream.wake(bits, self.reason)
            elif bits & yamux.OPENED:
                self._admit(core, bits)
            elif core.inbox:  # closed by us, and the peer goes on sending
                self.session.reset(core)
        return len(touched)

    def _admit(self, core: yamux.Stream, bits: int) -> None:
        """A stream the peer opened; only agents take any."""
        nursery = self._nursery
        if self._serve is None or nursery is None or self.reason is not None:
            self.session.reset(core)
            return
        self.session.accept(core)
        if not bits & yamux.BROKEN:
            nursery.start_soon(self._serve_stream, self._serve, TunnelStream(self, core))

    async def _serve_stream(self, serve: Serve, stream: TunnelStream) -> None:
        try:
            await serve(stream)
            stream.close()
        except StreamError:
            pass  # its peer is told by the reset below
        except Exception:  # noqa: BLE001 - a bulkhead: one stream's fault is not the tunnel's
            _log.exception("a stream of the tunnel failed")
        finally:
            stream.abort()

    def _note_idle(self) -> None:
        if self._idle is not None and not self.streams:
            self._idle.set()

    def _reset_lingering(self) -> None:
        """Streams that we closed before the last ping and the peer still has not: cut them."""
        for core in self._lingering_longer:
            self.session.reset(core)
        self._lingering_longer, self._lingering = self._lingering, []
        self.push()

    def _say_goodbye(self, error: ProtocolError) -> None:
        """Tell a peer that broke the protocol, if we are not in the middle of a frame."""
        if error.answer is not None and self.sender.is_between_frames:
            self.session.go_away(error.answer)
            self.push()


async def receive_opening(stream: Stream) -> bytes:
    """The JSON of the opening frame, and not a byte of what follows it.

    Errors: `OpeningError`; those of the stream.
    """
    reader = OpeningReader()
    while True:
        data = await stream.receive(reader.missing)
        if not data:
            reader.receive_eof()
        payload = reader.receive_data(data)
        if payload is not None:
            return payload


def _fault_of(error: StreamError | OpeningError, timeout_seconds: float) -> Fault:
    """What a failed opening is for the request."""
    if isinstance(error, DeadlineExpired):
        return AgentDialTimeout(f"no answer from the agent within {timeout_seconds} s")
    if isinstance(error, StreamBroken):
        return AgentDialFailed("the agent reset the stream")
    if isinstance(error, OpeningError):
        return AgentDialFailed(f"the agent's answer: {error}")
    return AgentDisconnected(str(error))


def prepare_connection(connection: Stream) -> None:
    """Keep the kernel's queue short, so that frames are ordered by us and not by it; and let it
    tell of a network that takes nothing of ours, where that comes before a keepalive's turn.
    """
    while (inner := getattr(connection, "inner", None)) is not None:
        connection = inner
    if isinstance(connection, TcpStream):
        sock = connection.sock
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_IN_KERNEL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MILLIS)
