"""When an agent that lost its server tries again (spec §8). No clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0
# A session that held this long was good: the next failure is a new one.
GOOD_SECONDS: Final = 20.0
# The longest that a server may ask a refused agent to wait: it may be well again long before.
MOST_RETRY_AFTER_SECONDS: Final = 300.0
# ±20 %, so that agents that lost one server together do not return together.
JITTER: Final = 0.2


class Backoff:
    """Delays of one server's reconnects: 1 s, doubled up to 30 s, from 1 s after a good session."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives numbers from 0 to 1."""
        self._random = random
        self._next = FIRST_SECONDS

    def after_session(self, seconds: float) -> float:
        """How long to wait after a session of so many seconds; one that never began has 0."""
        if seconds >= GOOD_SECONDS:
            self._next = FIRST_SECONDS
        delay = self._next
        self._next = min(2 * delay, LONGEST_SECONDS)
        return self._jittered(delay)

    def after_refusal(self, retry_after_seconds: float = 0.0) -> float:
        """How long to wait when asking again soon cannot help."""
        self._next = LONGEST_SECONDS
        asked = min(retry_after_seconds, MOST_RETRY_AFTER_SECONDS)
        return self._jittered(max(LONGEST_SECONDS, asked))

    def _jittered(self, delay: float) -> float:
        return delay * (1 - JITTER + 2 * JITTER * self._random())
