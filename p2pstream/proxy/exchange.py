"""One request, told top to bottom (spec §2): `exchange` is its life, `forward` its longest part.

An `Exchange` is also what the record is made of. It takes the snapshot once, at its start.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pstream.config.hosts import normalize_host
from p2pstream.errors import (
    DIAL_FAULTS,
    ClientCancelled,
    ExpectationFailed,
    Fault,
    InvalidRequest,
    MethodNotAllowed,
    NoTarget,
    StreamError,
    bare,
)
from p2pstream.observe.records import MOST_KEPT, Record, shortened
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.decide import Choice, Tried, choose
from p2pstream.policy.forward import ends_here
from p2pstream.policy.retry import MAX_ATTEMPTS
from p2pstream.proxy.answer import (
    answer_cut,
    answer_fault,
    answer_options,
    answer_redirect,
    answer_static,
)
from p2pstream.proxy.body import RequestBody
from p2pstream.proxy.forward import forward
from p2pstream.proxy.replies import connection_line
from p2pstream.proxy.upstream import Upstream
from p2pstream.snapshot import ListenerPlan, StaticReply, TargetPlan
from p2pstream.wire.http1.head import RequestHead

if TYPE_CHECKING:
    from p2pstream.proxy.connection import Connection

_REFUSED = frozenset((b"CONNECT", b"TRACE"))
_clock = time.perf_counter


class Exchange:
    """What is known of one request while it lasts."""

    __slots__ = (
        "agent_id",
        "attempts",
        "body",
        "bytes_in",
        "bytes_out",
        "choice",
        "connect",
        "connection",
        "fault",
        "first_byte",
        "head",
        "id",
        "keep",
        "plan",
        "responding",
        "reused",
        "route_id",
        "started",
        "status",
        "target_name",
        "trace",
    )

    def __init__(self, connection: Connection, plan: ListenerPlan, head: RequestHead) -> None:
        self.connection = connection
        self.plan = plan
        self.head = head
        self.id = connection.server.records.next_id()
        self.body = RequestBody(connection, head, plan) if head.has_body else None
        self.keep = head.keep_alive
        """Whether the connection goes on after this request."""
        self.responding = False
        """Whether any byte of the final response has been sent."""
        self.started = _clock()
        self.status = 0
        self.fault: Fault | None = None
        self.bytes_in = 0
        """Bytes from the client after an upgrade; those of a body are counted there."""
        self.bytes_out = 0
        self.route_id: str | None = None
        self.target_name: str | None = None
        self.agent_id: str | None = None
        self.choice: Choice | None = None
        self.first_byte: float | None = None
        self.connect: float | None = None
        self.reused = False
        self.attempts = 0
        tracer = connection.server.tracer
        self.trace = (
            tracer.begin(self.id, self.started, plan, head, connection.hop)
            if tracer.watches
            else None
        )

    @property
    def name(self) -> str:
        """The request id, as text."""
        return self.connection.server.records.name(self.id)

    def connection_line(self) -> bytes:
        """The `Connection` line of the answer: from here on `keep` is a promise."""
        if self.connection.draining:
            self.keep = False
        return connection_line(self.keep, self.head.minor_version)

    def choose(self, choice: Choice) -> None:
        """Take a choice over; the one before it, if any, is no longer active."""
        self.release()
        self.choice = choice
        self.target_name = choice.target.name
        self.agent_id = choice.agent.id if choice.agent is not None else None

    async def send(self, data: bytes) -> None:
        """Send to the client what no body follows. Errors: `ClientCancelled`."""
        try:
            await self.connection.stream.send(data)
        except StreamError as error:
            raise ClientCancelled(f"while sending: {error}") from error
        self.bytes_out += len(data)

    def release(self) -> None:
        """The chosen target and agent are no longer busy with this request."""
        choice = self.choice
        if choice is not None:
            self.choice = None
            choice.release()


async def exchange(connection: Connection, plan: ListenerPlan, head: RequestHead) -> bool:
    """Serve one request; returns whether the connection goes on. Raises no `P2PStreamError`."""
    x = Exchange(connection, plan, head)
    try:
        try:
            await _answer(x)
        except Fault as fault:
            x.fault = bare(fault)
            x.release()
            await answer_fault(x, fault)
    except BaseException as error:
        error.add_note(f"request id: {x.name}")
        answer_cut(x, error)  # at the end of the grace period, or by a bug; the bulkhead says which
        raise
    finally:
        x.release()
        _record(x)
        if x.trace is not None:
            received = x.bytes_in if x.body is None else x.body.received
            x.trace.end(x.status, x.fault, received, x.bytes_out, x.attempts)
    if x.keep and x.body is not None and not x.body.complete:
        return await x.body.drain()
    return x.keep


async def _answer(x: Exchange) -> None:
    """Steps 2 to 9 of spec §2."""
    head = x.head
    if head.method in _REFUSED:
        raise MethodNotAllowed(head.method.decode("latin-1"))
    expect = head.fields.expect
    if expect is not None and expect != b"100-continue" and head.minor_version == 1:
        raise ExpectationFailed("an Expect other than 100-continue")
    if head.path == b"*":
        await answer_options(x)
        return
    route = _route(x, head)
    x.route_id = route.id
    if x.trace is not None:
        x.trace.route(route)
    if route.redirect is not None:
        await answer_redirect(x, route)
        return
    if head.fields.max_forwards is not None and ends_here(head.method, head.fields):
        await answer_options(x)
        return
    if x.body is not None:
        x.body.check_length()
    target, upstream = await _reach(x, route)
    if isinstance(target, StaticReply):
        await answer_static(x, target)
    else:
        assert upstream is not None
        await forward(x, target, upstream, partial(_connect, x, target))


def _route(x: Exchange, head: RequestHead) -> CompiledRoute:
    """The route of a request; a head that comes again on its connection takes the same one."""
    connection = x.connection
    again = head is connection.memo_head
    if again and connection.memo_route is not None:
        return connection.memo_route
    route = x.plan.table.match(_host(head.authority), head.path)
    if again:
        connection.memo_route = route
    return route


async def _reach(
    x: Exchange, route: CompiledRoute
) -> tuple[StaticReply, None] | tuple[TargetPlan, Upstream]:
    """Choose until a candidate can be reached: nothing of the request has been sent yet."""
    server = x.connection.server
    tried: tuple[Tried, ...] = ()
    fault: Fault = NoTarget(f"route {route.id} has no usable target")
    while x.attempts < MAX_ATTEMPTS:
        trail = None if x.trace is None else x.trace.new_trail()
        choice = choose(route, server.board, random.random, tried, trail)
        if choice is None:
            break
        x.choose(choice)
        if x.trace is not None:
            x.trace.chosen(choice, x.attempts + 1, fault if tried else None)
        target = choice.target.extra
        if isinstance(target, StaticReply):
            return target, None
        x.attempts += 1
        upstream = server.upstreams.pool(target, x.agent_id or "").take(server.reactor.now)
        if upstream is not None:
            x.reused = True
            return target, upstream
        try:
            return target, await _connect(x, target)
        except DIAL_FAULTS as dial_fault:
            fault = bare(dial_fault)
            tried = (*tried, (choice.target, choice.agent))
    raise fault


async def _connect(x: Exchange, plan: TargetPlan) -> Upstream:
    """A new connection for this request; ends at once when the client leaves meanwhile.

    Errors: the `DIAL_FAULTS`, which count against the target's health; `ClientCancelled`.
    """
    server = x.connection.server
    waits = x.connection.stream.waits
    x.reused = False
    begun = _clock()
    agent_id = x.agent_id or ""
    with trio.CancelScope() as scope:
        waits.watcher = lambda _gone: scope.cancel()
        if waits.hung_up:
            scope.cancel()
        try:
            stream = await server.upstreams.connect(plan, agent_id, x.name)
        except DIAL_FAULTS as fault:
            assert x.choice is not None
            server.dial_failed(x.choice, fault, x.name)
            raise
        finally:
            waits.watcher = None
            x.connect = _clock() - begun
    if scope.cancelled_caught:
        raise ClientCancelled("the client hung up while we connected")
    return Upstream(stream, server.upstreams.pool(plan, agent_id))


def _host(authority: bytes) -> str:
    """The host that routes are matched with; empty for an HTTP/1.0 request that names none."""
    if not authority:
        return ""
    try:
        return normalize_host(authority.decode("ascii"))
    except ValueError as error:
        raise InvalidRequest(f"Host: {error}") from error


def _record(x: Exchange) -> None:
    """Make the request's one record."""
    head = x.head
    method, host, path = head.method, head.authority, head.path
    if len(method) + len(host) + len(path) > MOST_KEPT:
        method, host, path = shortened(method), shortened(host), shortened(path)
    fault = x.fault
    ended = _clock()
    server = x.connection.server
    server.records.append(
        _new_record(
            Record,
            (
                server.wall_clock(),
                x.id,
                x.plan.id,
                x.route_id,
                x.target_name,
                x.agent_id,
                method,
                host,
                path,
                x.status,
                None if fault is None else fault.kind,
                x.bytes_in if x.body is None else x.body.received,
                x.bytes_out,
                ended - x.started,
                x.first_byte,
                x.connect,
                x.reused,
                x.attempts,
                x.connection.hop.client(head.fields),
            ),
        )
    )


# Twice as fast as calling the class, which takes nineteen arguments apart and puts them together.
_new_record = tuple.__new__
