"""One client's connection: a head, its exchange, the next cycle.

Rules:

1. A deadline stands on the client's stream only while the client is waited for; whoever sets one
   takes it away again. How long it may take nothing of what we send is `stall_seconds`.
2. What was received and not used stays in `buffer`, at most one read.
3. A connection that ends while the client may still be sending lingers: closing with unread bytes
   resets it, and a reset can destroy our answer on its way (RFC 9112 §9.6).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import trio

from p2pstream.errors import (
    ClientCancelled,
    DeadlineExpired,
    Fault,
    HeaderTooLarge,
    InvalidRequest,
    InvalidRequestTarget,
    RequestTimeout,
    StreamClosed,
    StreamError,
)
from p2pstream.net.stream import Stream
from p2pstream.observe.records import Record
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.forward import Hop, is_trusted
from p2pstream.proxy.exchange import exchange
from p2pstream.proxy.replies import CLOSE, fault_answer
from p2pstream.snapshot import ListenerPlan, TargetPlan
from p2pstream.wire.http1.head import (
    Fields,
    HeadError,
    RequestHead,
    TargetError,
    find_head_end,
    leading_empty_lines,
    may_start_request,
    parse_fields,
    parse_request,
    split_head,
)

if TYPE_CHECKING:
    from p2pstream.proxy.server import ProxyServer

# One call takes any usual head and a small body.
_READ_SIZE: Final = 64 * 1024
# Field blocks longer than this are parsed anew for every request rather than remembered: an idle
# connection should not hold much.
_REMEMBERED_BYTES: Final = 2048
# A client that goes on sending after our last answer is read from this long, and only while
# something comes at least so often (nginx's lingering_time and lingering_timeout: 30 s, 5 s).
_LINGER_SECONDS: Final = 30.0
_LINGER_STALL_SECONDS: Final = 2.0


class Connection:
    """One client's connection."""

    __slots__ = (
        "buffer",
        "draining",
        "hop",
        "idle",
        "memo_block",
        "memo_fields",
        "memo_for",
        "memo_head",
        "memo_lines",
        "memo_plan",
        "memo_raw",
        "memo_route",
        "peer",
        "plan",
        "server",
        "stream",
    )

    def __init__(self, server: ProxyServer, plan: ListenerPlan, stream: Stream, peer: str) -> None:
        self.server = server
        self.stream = stream
        self.peer = peer
        self.buffer = b""
        """Received and not yet used: the beginning of a body, or of the next head."""
        self.draining = server.draining
        self.idle = False
        """Waiting for a request of which nothing has come: nothing is lost by closing."""
        # The last head with the route it takes, its fields, and the lines forwarded for them: the
        # next request's fields are usually the same to the byte, and often all of its head is.
        self.memo_raw = b""
        self.memo_head: RequestHead | None = None
        self.memo_route: CompiledRoute | None = None
        self.memo_lines = b""
        self.memo_fields: Fields | None = None
        self.memo_for: Fields | None = None
        self.memo_plan: TargetPlan | None = None
        self.memo_block = b""
        self._adopt(plan)

    def _adopt(self, plan: ListenerPlan) -> None:
        """Go by this configuration of the listener from now on."""
        self.plan = plan
        trusted = is_trusted(self.peer, plan.trusted_proxies)
        self.hop = Hop(self.peer, trusted, plan.scheme, plan.trusted_proxies)
        self.memo_plan = None
        self.memo_route = None
        self.stream.waits.stall_seconds = plan.idle_timeout

    def drain(self) -> None:
        """End after the request under way, or now."""
        self.draining = True
        if self.idle:
            self.stream.waits.fail_read(StreamClosed("draining"))

    async def run(self) -> None:
        """Serve requests until one is the last."""
        listeners = self.server.snapshot.listeners
        wait_seconds = self.plan.header_timeout  # of a new connection a head is expected at once
        while True:
            try:
                raw = await self._read_head(wait_seconds)
                if raw is None:
                    return
                if len(raw) > _REMEMBERED_BYTES:
                    # Turns are counted by calls, and this may cost what a hundred usual ones do.
                    await trio.lowlevel.checkpoint()
                if listeners is not self.server.snapshot.listeners:
                    listeners = self.server.snapshot.listeners
                    self._reloaded()
                head = self._understand(raw)
            except Fault as fault:
                await self.refuse(fault)
                return
            if not await exchange(self, self.plan, head):
                await self._linger()
                return
            wait_seconds = self.plan.idle_timeout

    def _reloaded(self) -> None:
        """Take over what the new configuration says of our listener."""
        plan = self.server.snapshot.listeners.get(self.plan.id)
        if plan is None:
            self.draining = True  # its last request is served as it was promised
        else:
            self._adopt(plan)

    async def _read_head(self, wait_seconds: float) -> bytes | None:
        """The next head, whole; None when the client has ended or idled for too long."""
        data: bytes | bytearray | None = self.buffer
        if not data or data[:1] == b"\r":
            data = await self._first_bytes(wait_seconds)
            if data is None:
                return None
        limit = self.plan.max_header_bytes
        waits = self.stream.waits
        searched = 0
        while True:
            try:
                end = find_head_end(data, searched)
            except HeadError as error:
                raise InvalidRequest(str(error)) from error
            if 0 <= end <= limit:
                self.buffer = bytes(data[end:])
                waits.deadline = inf
                return bytes(data[:end])
            if len(data) > limit:
                raise HeaderTooLarge(f"the head is past {limit} bytes")
            if not may_start_request(data[0]):
                raise InvalidRequest("not HTTP")
            if not searched:
                waits.deadline = trio.current_time() + self.plan.header_timeout
                data = bytearray(data)
            searched = len(data)
            data += await self._more_of_head()

    async def _first_bytes(self, wait_seconds: float) -> bytes | None:
        """What the next request begins with; None when there will be none.

        Empty lines before a request are ignored (RFC 9112 §2.2): they neither begin one nor make
        the wait longer.
        """
        stream = self.stream
        stream.waits.deadline = self.server.reactor.after(wait_seconds)
        data = self.buffer
        ignored = 0
        while True:
            if data[:1] == b"\r":
                empty = leading_empty_lines(data)
                data = data[empty:]
                ignored += empty
            if data and data != b"\r":
                return data
            if ignored > self.plan.max_header_bytes:
                return None
            more = await self._next_bytes()
            if not more:
                return None
            data = data + more if data else more

    async def _next_bytes(self) -> bytes | None:
        """Bytes from an idle client; None or `b""` when it ended, idled for too long, or we go."""
        stream = self.stream
        try:
            if not self.draining:
                self.idle = True
                try:
                    return await stream.receive_later(_READ_SIZE)
                except StreamClosed:
                    if not self.draining:
                        raise
                finally:
                    self.idle = False
            # A request that came before we said goodbye is still served.
            return stream.receive_nowait(_READ_SIZE)
        except StreamError:
            return None

    async def _more_of_head(self) -> bytes:
        try:
            more = await self.stream.receive(_READ_SIZE)
        except DeadlineExpired as error:
            raise RequestTimeout("the head came too slowly") from error
        except StreamError as error:
            raise ClientCancelled(f"inside a head: {error}") from error
        if not more:
            raise ClientCancelled("the client closed inside a head")
        return more

    def _understand(self, raw: bytes) -> RequestHead:
        """Parse a head; the last one, and its field lines, are known already."""
        if raw == self.memo_raw and self.memo_head is not None:
            return self.memo_head
        try:
            start, lines = split_head(raw)
            if lines == self.memo_lines and self.memo_fields is not None:
                fields = self.memo_fields
            else:
                fields = parse_fields(lines)
                if len(lines) <= _REMEMBERED_BYTES:
                    self.memo_lines = lines
                    self.memo_fields = fields
            head = parse_request(start, fields)
        except TargetError as error:
            raise InvalidRequestTarget(str(error)) from error
        except HeadError as error:
            raise InvalidRequest(str(error)) from error
        if len(raw) <= _REMEMBERED_BYTES:
            self.memo_raw = raw
            self.memo_head = head
            self.memo_route = None
        return head

    async def refuse(self, fault: Fault) -> None:
        """Answer a head that cannot be understood, and end the connection."""
        server = self.server
        records = server.records
        request_id = records.next_id()
        answer = b""
        if not isinstance(fault, ClientCancelled):
            answer = fault_answer(
                fault,
                records.name(request_id),
                date=server.date(),
                connection=CLOSE,
                accept=b"",
                head=False,
            )
        records.append(
            Record(
                server.wall_clock(), request_id, self.plan.id, None, None, None, b"", b"", b"",
                fault.status, fault.kind, 0, len(answer), 0.0, None, None, False, 0, self.peer,
            )
        )  # fmt: skip
        if server.tracer.watches:
            server.tracer.refuse(request_id, self.plan, self.hop, fault)
        if answer:
            self.stream.waits.deadline = trio.current_time() + self.plan.header_timeout
            await self.stream.send(answer)
            await self._linger()

    async def _linger(self) -> None:
        """Let the client read our last answer before the connection goes (rule 3)."""
        stream = self.stream
        waits = stream.waits
        try:
            waits.deadline = trio.current_time() + _LINGER_STALL_SECONDS
            await stream.send_eof()
            over = trio.current_time() + _LINGER_SECONDS
            while await stream.receive(_READ_SIZE):
                now = trio.current_time()
                if now > over:
                    break
                waits.deadline = min(now + _LINGER_STALL_SECONDS, over)
        except StreamError:
            pass  # gone already
