"""Answers of our own: a fault -> status, body, close?; redirects; static targets.

Short `text/plain`, naming the request id and nothing of the inside (spec §5).
"""

from __future__ import annotations

import re
from typing import Final

from p2pstream.errors import (
    BodyTooLarge,
    Fault,
    HeaderTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
)
from p2pstream.wire.http1.serialize import reason_phrase, status_line

CLOSE: Final = b"Connection: close\r\n"
KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"

# After these nobody can tell where the next request would begin, or wants to read on to there.
CLOSING: Final = (InvalidRequest, HeaderTooLarge, RequestTimeout, BodyTooLarge)

ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n"

# Seconds. A target or agent that is gone is usually back within a health check or a reconnect.
RETRY_AFTER: Final = 5

_HTML: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    'content="width=device-width"><title>{status} {phrase}</title>'
    "<h1>{phrase}</h1><p>This service cannot be reached at the moment. Please try again "
    "shortly.</p><p><small>Request id: {request_id}</small></p></html>\n"
)


def connection_line(keep: bool, minor_version: int) -> bytes:
    """The `Connection` line of an answer, where the version's default is not what we mean."""
    if not keep:
        return CLOSE
    return b"" if minor_version == 1 else KEEP_ALIVE


def own_answer(
    status: int,
    body: bytes,
    content_type: bytes,
    *,
    date: bytes,
    extra: bytes = b"",
    with_body: bool = True,
) -> bytes:
    """A whole answer but for its `Connection` line, which `extra` may bring."""
    head = b"".join(
        (
            status_line(status),
            b"Date: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            % (date, content_type, len(body)),
            extra,
            b"\r\n",
        )
    )
    return head + body if with_body else head


def fault_answer(
    fault: Fault, request_id: str, *, date: bytes, connection: bytes, accept: bytes, head: bool
) -> bytes:
    """What a client is told of a fault."""
    phrase = reason_phrase(fault.status).decode()
    extra = connection
    body = f"{fault.status} {phrase}\nrequest id: {request_id}\n"
    content_type = b"text/plain; charset=utf-8"
    if fault.status == 503:
        extra += b"Retry-After: %d\r\n" % RETRY_AFTER
        if prefers_html(accept):
            content_type = b"text/html; charset=utf-8"
            body = _HTML.format(status=fault.status, phrase=phrase, request_id=request_id)
    elif isinstance(fault, MethodNotAllowed):
        extra += ALLOW
    return own_answer(
        fault.status, body.encode(), content_type, date=date, extra=extra, with_body=not head
    )


def prefers_html(accept: bytes) -> bool:
    """Whether `Accept` prefers `text/html` to `text/plain` (RFC 9110 §12.5.1); a tie is text."""
    qualities: dict[bytes, float] = {}
    for member in accept.lower().split(b","):
        media_type, *parameters = (part.strip(b" \t") for part in member.split(b";"))
        weights = [match for part in parameters if (match := _QVALUE.fullmatch(part))]
        qualities[media_type] = float(weights[0][1]) if weights else 1.0
    anything = qualities.get(b"text/*", qualities.get(b"*/*", 0.0))
    return qualities.get(b"text/html", anything) > qualities.get(b"text/plain", anything)


_QVALUE: Final = re.compile(rb"q=([01](?:\.[0-9]{0,3})?)")
