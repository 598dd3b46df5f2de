"""Credit: how much may be sent on a stream, how much may arrive, and when to grant more.

All in bytes; time and round trips in seconds, given as arguments.

Rules:

1. A receive window of `size` bytes is at all times divided in three: `credit` (what the peer
   may still send), `unread` (what arrived and waits for its reader) and `owed` (what was read
   but not granted again). So what is buffered can never exceed the window.
2. Credit goes back only for bytes that the *reader* took, so a slow reader slows the sender; and
   only in lumps of half the window (`LUMP` at most), so that it costs next to no frames.
3. A window grows to `HEADROOM` times what its reader takes in a round trip: the measured
   bandwidth-delay product, as in TCP's dynamic right-sizing (Fisk and Feng, 2001). At most
   twofold a round trip, as TCP's own window does. The growth is granted on top of an ordinary
   update: no peer needs to know.
4. Growth is borrowed from one `Budget` a session and goes back when the stream ends, or earlier
   when the budget is short and the stream needs less: then credit that is owed is withheld.

The initial window is given by the protocol to every stream and is not part of the budget: the
most that a session can hold is `streams * INITIAL_WINDOW + Budget.total`.
"""

from __future__ import annotations

from typing import Final

from p2pstream.wire.yamux.frame import MAX_U32, ProtocolError

# Every stream begins with it, on both sides (spec, "Flow Control").
INITIAL_WINDOW: Final = 256 * 1024

# 16 MiB fill 1.3 Gbit/s at a round trip of 100 ms; more belongs to nobody's uplink.
MAX_WINDOW: Final = 16 * 1024 * 1024

# Four streams at full size, or some hundred at half a megabyte, for each connected agent.
SESSION_BUDGET: Final = 64 * 1024 * 1024

# Credit that is owed is not with the sender: with lumps of half of 16 MiB, half the window would
# be idle. Up to a megabyte it is the half of rule 2.
LUMP: Final = 512 * 1024

# A sender held back by its window shows at least half of it per round trip, measured between two
# lumps at any phase of its bursts. So four times the measure doubles the window each round trip
# until something else is the limit; with two it creeps (simulated: 9 MiB after 15 s at 100 ms).
HEADROOM: Final = 4

# Round trips remembered. Queues in between make a round trip longer, never shorter, so the least
# of the last few is the path itself; eight keepalives are under three minutes, after which a
# changed route is believed.
_RTT_SAMPLES: Final = 8


class SendWindow:
    """What the peer lets us send."""

    __slots__ = ("credit",)

    def __init__(self, credit: int = INITIAL_WINDOW) -> None:
        self.credit = credit
        self._check_invariants()

    def take(self, wanted: int) -> int:
        """Use up to `wanted` bytes of credit; how many it may be."""
        taken = min(wanted, self.credit)
        self.credit -= taken
        self._check_invariants()
        return taken

    def grant(self, delta: int) -> None:
        """The peer grants `delta` bytes. Errors: `ProtocolError` past 32 bits."""
        if delta > MAX_U32 - self.credit:
            raise ProtocolError(f"window update of {delta} on a credit of {self.credit}")
        self.credit += delta
        self._check_invariants()

    def _check_invariants(self) -> None:
        assert 0 <= self.credit <= MAX_U32, "credit fits the length field"


class Budget:
    """Memory that the receive windows of one session may promise beyond their initial size."""

    __slots__ = ("total", "used")

    def __init__(self, total: int = SESSION_BUDGET) -> None:
        self.total = total
        self.used = 0

    @property
    def is_short(self) -> bool:
        """Less than a quarter is left: who needs less should give back."""
        return self.total - self.used < self.total // 4

    def borrow(self, wanted: int) -> int:
        """Promise up to `wanted` bytes; how many there are."""
        granted = max(0, min(wanted, self.total - self.used))
        self.used += granted
        self._check_invariants()
        return granted

    def give_back(self, amount: int) -> None:
        """Return what was borrowed."""
        self.used -= amount
        self._check_invariants()

    def _check_invariants(self) -> None:
        assert 0 <= self.used <= self.total, "no more is promised than there is"


class RoundTrip:
    """The path's round trip, in seconds: the least of the last few measured."""

    __slots__ = ("_samples", "seconds")

    def __init__(self) -> None:
        self._samples: tuple[float, ...] = ()
        self.seconds: float | None = None
        """None until one has been measured: then no window grows."""

    def record(self, seconds: float) -> None:
        """One ping took `seconds` (≥ 0) to be answered."""
        self._samples = (*self._samples[1 - _RTT_SAMPLES :], seconds)
        self.seconds = min(self._samples)


class ReceiveWindow:
    """What we let the peer send on one stream."""

    __slots__ = (
        "_budget",
        "_limit",
        "_round_bytes",
        "_round_start",
        "credit",
        "due_at",
        "owed",
        "size",
        "unread",
    )

    def __init__(self, budget: Budget, limit: int = MAX_WINDOW) -> None:
        self._budget = budget
        self._limit = limit
        self.size = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW
        self.unread = 0
        self.owed = 0
        self.due_at = INITIAL_WINDOW // 2
        """When this much is owed, it is time for `update`."""
        self._round_start: float | None = None
        self._round_bytes = 0
        self._check_invariants()

    def check(self, amount: int) -> None:
        """`amount` bytes are announced. Errors: `ProtocolError` past the credit."""
        if amount > self.credit:
            raise ProtocolError(f"{amount} bytes on a credit of {self.credit}")

    def receive(self, amount: int) -> None:
        """`amount` bytes arrive. Errors: as `check`; nothing is taken then."""
        if amount > self.credit:
            self.check(amount)
        self.credit -= amount
        self.unread += amount
        self._check_invariants()

    def consume(self, amount: int) -> bool:
        """The reader took `amount` of the unread bytes; whether an `update` is due."""
        self.unread -= amount
        self.owed += amount
        self._check_invariants()
        return self.owed >= self.due_at

    def update(self, now: float, rtt: float | None) -> int:
        """The credit to grant now, growth included; 0 if no lump (rule 2) is owed yet.

        `now` is any monotonic time in seconds, `rtt` the path's round trip if it is known.
        """
        if self.owed < self.due_at:
            return 0
        self._round_bytes += self.owed
        delta = self.owed + self._resize(now, rtt)
        self.credit += delta
        self.owed = 0
        self._check_invariants()
        return delta

    def close(self) -> None:
        """The peer will send no more: what is left is what waits for its reader.

        Growth goes back to the budget as far as no unread bytes stand in it.
        """
        self.credit = 0
        self.owed = 0
        self._resize_to(max(INITIAL_WINDOW, self.unread))
        self.owed = self.size - self.unread
        self._check_invariants()

    def discard(self) -> None:
        """The unread bytes are thrown away, and no more will come."""
        self.unread = 0
        self.close()

    def _resize(self, now: float, rtt: float | None) -> int:
        """Compare the size with what the last round trip needed; the change made to it."""
        if self._round_start is None or rtt is None:
            self._round_start, self._round_bytes = now, 0
            return 0
        elapsed = now - self._round_start
        if elapsed < rtt:
            return 0
        taken = self._round_bytes * rtt / elapsed if elapsed > 0 else self._round_bytes
        needed = HEADROOM * int(taken)
        self._round_start, self._round_bytes = now, 0
        if needed > self.size:
            return self._resize_to(min(needed, 2 * self.size, self._limit))
        if self._budget.is_short and needed <= self.size // 2:
            return self._resize_to(max(needed, self.size - self.owed, INITIAL_WINDOW))
        return 0

    def _resize_to(self, wanted: int) -> int:
        """Make the size `wanted` as far as the budget goes; the change made."""
        change = wanted - self.size
        if change > 0:
            change = self._budget.borrow(change)
        elif change < 0:
            self._budget.give_back(-change)
        self.size += change
        self.due_at = min(self.size // 2, LUMP)
        return change

    def _check_invariants(self) -> None:
        assert self.credit >= 0, "the peer never owes us room"
        assert self.unread >= 0, "nobody reads what has not arrived"
        assert self.owed >= 0, "nothing is granted twice"
        assert self.credit + self.unread + self.owed == self.size, "the window is its three parts"
        assert self.size >= INITIAL_WINDOW, "the initial window is never taken back"
