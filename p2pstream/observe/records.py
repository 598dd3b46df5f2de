"""One record per request, made at its end, whatever the end was (spec §10).

A record is one tuple appended to a list: the hot path does nothing else. `flush`, about once a
second, hands them on to be counted and keeps the latest in a bounded ring.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

# At 20,000 requests a second this is half a second, at 50 three minutes.
RING_SIZE: Final = 10_000
# Of a method, host or path: a client may make each as long as a head, ten thousand times.
MOST_KEPT: Final = 2048


class Record(NamedTuple):
    """What happened to one request. Times are seconds, sizes bytes."""

    ended: float
    """Wall clock."""
    request_id: int
    """Counted per process; `Records.name` makes the text that the client was told."""
    listener: str
    route: str | None
    target: str | None
    agent: str | None
    method: bytes
    host: bytes
    path: bytes
    status: int
    error_kind: str | None
    bytes_in: int
    """Body bytes from the client."""
    bytes_out: int
    """Bytes of the answer."""
    duration: float
    first_byte: float | None
    """From the head's arrival to the origin's response head."""
    connect: float | None
    """Spent connecting, when no kept-alive connection served."""
    reused: bool
    attempts: int
    client: str
    """The client's address; behind trusted proxies the one that they vouch for."""


def shortened(text: bytes) -> bytes:
    """As much of a method, host or path as a record keeps; three dots say that there was more."""
    return text if len(text) <= MOST_KEPT else text[:MOST_KEPT] + b"..."


class Records:
    """Records not yet added up, and the ring of the latest; names of requests."""

    __slots__ = ("_pending", "_prefix", "_ring", "append", "count")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._pending: list[Record] = []
        self._ring: deque[Record] = deque(maxlen=RING_SIZE)
        self.append = self._pending.append
        self.count = 0
        """Requests begun; the newest one's id."""

    def next_id(self) -> int:
        """An id for a request that begins."""
        self.count += 1
        return self.count

    def name(self, request_id: int) -> str:
        """The request id as clients, logs and agents see it: unique across restarts."""
        return f"{self._prefix}-{request_id:x}"

    def flush(self) -> list[Record]:
        """Take the records made since the last flush; the latest stay in the ring.

        Whoever flushes does so every second or so: what is pending is not bounded otherwise.
        """
        flushed = self._pending.copy()
        self._pending.clear()
        self._ring.extend(flushed)
        return flushed

    def latest(self) -> list[Record]:
        """The records still held, oldest first."""
        return [*self._ring, *self._pending][-RING_SIZE:]
