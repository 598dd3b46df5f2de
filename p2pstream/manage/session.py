"""Browsers that have logged in. Pure: time is an argument, and so is where random bytes come from.

Rules:

1. A session is known by 32 random bytes in a cookie. Only their SHA-256 is kept: whoever reads our
   memory dump cannot pose as anybody, and looking a hash up tells nothing by its time.
2. It ends when it was not used for an hour, and twelve hours after its login at the latest.
3. It belongs to the admin token that it was opened with, and ends when another one counts.
4. They live in this process alone: a restart ends them all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Final

from attrs import define

from p2pstream.config.scalars import TokenHash

# The dashboard's own requests are use: an hour without any is a closed lid or a forgotten tab.
IDLE_SECONDS: Final = 3_600.0
# A working day: a cookie that somebody copied is worth nothing tomorrow.
LIFETIME_SECONDS: Final = 43_200.0
# Only who has the token opens one; past this many, the one unused for longest ends.
MAX_SESSIONS: Final = 100
_BYTES: Final = 32


@define(slots=True)
class _Session:
    token_hash: TokenHash
    begun: float
    used: float


class Sessions:
    """The sessions of one server process. `now` is seconds of a clock that only goes forward."""

    def __init__(self, random: Callable[[int], str] = secrets.token_urlsafe) -> None:
        self._random = random
        self._sessions: dict[bytes, _Session] = {}  # by hash, the latest used last

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token_hash: TokenHash, now: float) -> str:
        """Open one; returns what the cookie says."""
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        value = self._random(_BYTES)
        self._sessions[_hash(value)] = _Session(token_hash, now, now)
        return value

    def use(self, value: str, token_hash: TokenHash, now: float) -> bool:
        """Whether the cookie's session goes on; being asked is use."""
        key = _hash(value)
        session = self._sessions.pop(key, None)
        if (
            session is None
            or session.token_hash != token_hash
            or now - session.used > IDLE_SECONDS
            or now - session.begun > LIFETIME_SECONDS
        ):
            return False
        session.used = now
        self._sessions[key] = session
        return True

    def end(self, value: str) -> None:
        """Log out."""
        self._sessions.pop(_hash(value), None)


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode("latin-1", "replace")).digest()
