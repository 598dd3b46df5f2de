"""When a request may be sent again (spec §5); everything else is never replayed."""

from __future__ import annotations

from typing import Final

MAX_ATTEMPTS: Final = 3
"""Candidates tried, in all, before any byte of the request has been sent."""

# RFC 9110 §9.2.2. TRACE is idempotent too, but never forwarded.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


def may_retry_pooled(method: bytes, has_body: bool, sent: bool = True) -> bool:
    """Whether a request that a kept-alive connection lost without any answer may be sent again.

    `sent` is whether any byte of it may have left: what has not may always be sent again. Of one
    with a body, the body has been consumed from the client.
    """
    return not sent or (method in IDEMPOTENT and not has_body)
