"""When a request may be sent again (spec §5); everything else is never replayed."""

from __future__ import annotations

from typing import Final

MAX_ATTEMPTS: Final = 3
"""Candidates tried, in all, before any byte of the request has been sent."""

# RFC 9110 §9.2.2. TRACE is idempotent too, but never forwarded.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


def may_retry_pooled(method: bytes, whole: bool, sent: bool = True) -> bool:
    """Whether a request that a kept-alive connection lost without any answer may be sent again.

    `sent` is whether any byte of it may have left: what has not may always be sent again. `whole`
    is whether all of it is still there: a body that came after the head is not kept.
    """
    return not sent or (method in IDEMPOTENT and whole)
