"""Answers of our own, sent: static targets, redirects, `OPTIONS *`, and the table of endings.

What is left of the request's body decides whether the connection can go on: a little of it is
read and dropped afterwards (`RequestBody.drain`), for more the client is told to close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pstream.errors import ClientCancelled, Fault, ServerLeft, StreamError
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.proxy.replies import ALLOW, CLOSING, fault_answer, own_answer
from p2pstream.snapshot import StaticReply
from p2pstream.wire.http1.serialize import reason_phrase

if TYPE_CHECKING:
    from p2pstream.proxy.exchange import Exchange

_TEXT = b"text/plain; charset=utf-8"


async def answer_options(x: Exchange) -> None:
    """`OPTIONS *`, or one with `Max-Forwards: 0`, asks this server itself (RFC 9110 §9.3.7)."""
    await _send_own(x, 200, b"", extra=ALLOW)


async def answer_redirect(x: Exchange, route: CompiledRoute) -> None:
    """Send the client elsewhere (spec §4)."""
    assert route.redirect is not None
    status = route.config.redirect_status_code
    location = route.redirect.location(x.head.path, x.head.query)
    body = b"%d %b\n" % (status, reason_phrase(status))
    await _send_own(x, status, body, extra=b"Location: %b\r\n" % location)


async def answer_static(x: Exchange, reply: StaticReply) -> None:
    """Send what the configuration says."""
    connection = _settle(x)
    date = b"" if reply.dated else b"Date: %b\r\n" % x.connection.server.date()
    head = b"".join((reply.head, date, connection, b"\r\n"))
    x.status = reply.status
    await _send(x, head if x.head.method == b"HEAD" else head + reply.body)


async def answer_fault(x: Exchange, fault: Fault) -> None:
    """Tell the client, if there still is one and it has not been told anything else."""
    stream = x.connection.stream
    if isinstance(fault, ClientCancelled) or x.responding:
        x.keep = False
        x.status = x.status or fault.status
        stream.abort()
        return
    answer = _fault_answer(x, fault)
    try:
        await _send(x, answer)
    except ClientCancelled:  # it takes no answer: the fault is still what happened
        x.keep = False
        stream.abort()


def answer_cut(x: Exchange, error: BaseException) -> None:
    """End a request whose task is being ended: by shutdown, or by an exception nobody foresaw.

    Does not wait. A response under way is cut so that it cannot be taken for whole.
    """
    stream = x.connection.stream
    x.keep = False
    if x.fault is None:
        x.fault = Fault(repr(error)) if isinstance(error, Exception) else ServerLeft("cut")
    if x.responding or not isinstance(error, Exception):
        x.status = x.status or x.fault.status
        stream.abort()
        return
    try:
        x.bytes_out += stream.try_send(_fault_answer(x, x.fault))
    except StreamError:
        pass  # nobody is left to be told


def _fault_answer(x: Exchange, fault: Fault) -> bytes:
    if isinstance(fault, CLOSING) or x.head.method == b"CONNECT":
        x.keep = False
    x.status = fault.status
    return fault_answer(
        fault,
        x.name,
        date=x.connection.server.date(),
        connection=_settle(x),
        accept=b", ".join(x.head.fields.get_all(b"accept")),
        head=x.head.method == b"HEAD",
    )


def _settle(x: Exchange) -> bytes:
    """The `Connection` line of an answer of our own, given what is left of the request's body."""
    body = x.body
    if body is not None and (x.head.fields.expect is not None or not body.is_drainable):
        x.keep = False  # after Expect nobody can tell whether the body comes
    return x.connection_line()


async def _send_own(x: Exchange, status: int, body: bytes, *, extra: bytes) -> None:
    x.status = status
    answer = own_answer(
        status,
        body,
        _TEXT,
        date=x.connection.server.date(),
        extra=extra + _settle(x),
        with_body=x.head.method != b"HEAD",
    )
    await _send(x, answer)


async def _send(x: Exchange, data: bytes) -> None:
    x.responding = True
    await x.send(data)
