"""How often somebody may be wrong about the admin token. Pure: time is an argument.

Rules:

1. An address has a few wrong tries, and gets back one every so often; so has everybody together.
   IPv6 counts by /64: that is what one host is given.
2. Who was right not long ago is known, and stops for nothing: an attacker at another address, or
   even at the same one, locks no operator out who is at work.
3. What is kept is bounded: of addresses, the one not heard of for longest is forgotten.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import ceil
from typing import Final

from attrs import define, field

# A person who pastes the wrong line tries two or three times; a script gets 2,880 tries a day.
_BURST: Final = 5
_REFILL_SECONDS: Final = 30.0
# All addresses together: twenty at their full burst, then as fast as thirty of them.
_GLOBAL_BURST: Final = 100
_GLOBAL_REFILL_SECONDS: Final = 1.0
# Addresses kept: about 1 MB. Forgetting one gives it a new burst, and that costs an attacker as
# many addresses; all together stay bounded by the global bucket.
_MAX_ADDRESSES: Final = 4_096
# A working day and a night: whoever looks in every day is never a stranger.
_KNOWN_SECONDS: Final = 86_400.0
_MAX_KNOWN: Final = 256


@define(slots=True)
class _Bucket:
    """Tries left, as of `at`; refilled as time passes."""

    burst: int
    refill_seconds: float
    at: float
    left: float = field()

    @left.default
    def _full(self) -> float:
        return self.burst

    def wait(self, now: float) -> float:
        """Seconds until there is a try; 0 if there is one."""
        self.left = min(self.left + (now - self.at) / self.refill_seconds, self.burst)
        self.at = now
        return max((1 - self.left) * self.refill_seconds, 0.0)

    def take(self, now: float) -> bool:
        """Use a try up; whether it was the last one."""
        self.wait(now)
        self.left = max(self.left - 1, 0.0)
        return self.left < 1


class Throttle:
    """Wrong tries of one server process. `now` is seconds of a clock that only goes forward."""

    def __init__(self, now: float = 0.0) -> None:
        self._all = _Bucket(_GLOBAL_BURST, _GLOBAL_REFILL_SECONDS, now)
        self._by_address: dict[str, _Bucket] = {}  # the latest heard of last
        self._known: dict[str, float] = {}  # address -> until when

    def wait(self, peer: str, now: float, *, alone: bool = False) -> int:
        """Whole seconds that this peer has to wait before its next try; 0 if it may try now.

        `alone`: what all others do does not count.
        """
        address = _network(peer)
        if self._known.get(address, now) > now:
            return 0
        bucket = self._by_address.get(address)
        seconds = 0.0 if bucket is None else bucket.wait(now)
        if not alone:
            seconds = max(seconds, self._all.wait(now))
        return ceil(seconds)

    def wrong(self, peer: str, now: float, *, alone: bool = False) -> bool:
        """Count a wrong try; whether this address has none left now."""
        address = _network(peer)
        bucket = self._by_address.pop(address, None) or _Bucket(_BURST, _REFILL_SECONDS, now)
        while len(self._by_address) >= _MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        self._by_address[address] = bucket
        if not alone:
            self._all.take(now)
        return bucket.take(now)

    def right(self, peer: str, now: float) -> None:
        """Know this address from now on (rule 2)."""
        address = _network(peer)
        self._known.pop(address, None)
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[address] = now + _KNOWN_SECONDS


def is_loopback(peer: str) -> bool:
    """Whether the peer is on this host."""
    address = _address(peer)
    return address is not None and address.is_loopback


def _network(peer: str) -> str:
    """What a peer counts by; what is no address counts by itself."""
    address = _address(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return peer if address is None else str(address)


def _address(peer: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
