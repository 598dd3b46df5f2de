"""Every pair of method and circumstance: what may be sent again."""

from __future__ import annotations

import pytest

from p2pstream.policy.retry import IDEMPOTENT, MAX_ATTEMPTS, may_retry_pooled

METHODS = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"POST", b"PATCH", b"CONNECT", b"TRACE"]
METHODS += [b"get", b"Put", b"MKCOL", b"X", b""]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sent", [False, True])
def test_what_may_be_sent_again(method: bytes, whole: bool, sent: bool) -> None:
    """Spec §5: none of it was sent, or its method is idempotent and all of it is still there."""
    idempotent = method in (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE")
    assert may_retry_pooled(method, whole, sent) is (not sent or (idempotent and whole))


def test_what_is_not_said_to_be_unsent_counts_as_sent() -> None:
    assert not may_retry_pooled(b"POST", True)
    assert may_retry_pooled(b"GET", True)


def test_a_mutable_method_is_never_idempotent() -> None:
    assert {b"POST", b"PATCH", b"CONNECT"}.isdisjoint(IDEMPOTENT)


def test_attempts() -> None:
    assert MAX_ATTEMPTS == 3
