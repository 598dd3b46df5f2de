"""What an agent may dial: the rules of `--allow`. No I/O.

    HOST:PORT    HOST:*    CIDR:PORT-PORT    [IPv6 or CIDR]:PORT

Rules:

1. Without rules everything is allowed. With rules, what no rule allows is refused.
2. A host rule allows a *name*, whatever it resolves to: whoever writes it trusts that name's DNS.
3. An address or network rule allows *addresses*, also those that a name resolves to. The addresses
   that were checked are the ones that are dialled, without a second lookup, so a name cannot change
   its mind in between (DNS rebinding).
4. `::ffff:a.b.c.d` is the IPv4 address that the connection would go to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from attrs import frozen

from p2pstream.config.scalars import parse_host

_LAST_PORT = 65_535
# RFC 4291 §2.5.5.2: how many bits of `::ffff:a.b.c.d` stand before the IPv4 address.
_MAPPED_BITS = 96


@frozen
class AllowRule:
    """One `--allow`: a name or a network, and a range of ports, both ends included."""

    host: str | None
    network: IPv4Network | IPv6Network | None
    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> AllowRule:
        """Read one rule. Errors: `ValueError`, in words."""
        where, colon, ports = text.strip().rpartition(":")
        if not colon or not where:
            raise ValueError(f"{text!r}: must be HOST:PORT, HOST:* or CIDR:PORT-PORT")
        low, high = _ports(text, ports)
        bare = where.removeprefix("[").replace("]", "", 1) if where.startswith("[") else where
        if ":" in bare and bare == where:
            raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:80")
        try:
            return cls(None, _unmapped(ip_network(bare, strict=False)), low, high)
        except ValueError:
            if "/" in bare:
                raise ValueError(f"{text!r}: {bare} is not a network such as 10.0.0.0/8") from None
        try:
            return cls(parse_host(bare), None, low, high)
        except ValueError as error:
            raise ValueError(f"{text!r}: {bare} {error}") from error

    def __str__(self) -> str:
        where = self.host or str(self.network)
        where = f"[{where}]" if ":" in where else where
        if (self.low, self.high) == (1, _LAST_PORT):
            return f"{where}:*"
        return f"{where}:{self.low}" if self.low == self.high else f"{where}:{self.low}-{self.high}"


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The IPv4 network that an IPv6 one stands for (rule 4), or the network itself."""
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def _ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return 1, _LAST_PORT
    first, dash, last = ports.partition("-")
    bounds = (first, last) if dash else (first, first)
    if not all(bound.isascii() and bound.isdigit() and len(bound) <= 5 for bound in bounds):
        raise ValueError(f"{text!r}: the port must be a number, a range such as 80-90, or *")
    low, high = map(int, bounds)
    if not 1 <= low <= high <= _LAST_PORT:
        raise ValueError(f"{text!r}: ports go from 1 to {_LAST_PORT}, the lower one first")
    return low, high


@frozen
class Allow:
    """All rules of an agent."""

    rules: tuple[AllowRule, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Allow:
        """Read the rules. Errors: `ValueError` for the first that is none."""
        return cls(tuple(AllowRule.parse(text) for text in texts))

    def allows_name(self, host: str, port: int) -> bool:
        """Whether a rule allows this name itself, or there are no rules."""
        if not self.rules:
            return True
        name = host.lower().removesuffix(".")
        return any(rule.host == name and rule.low <= port <= rule.high for rule in self.rules)

    def allows_address(self, address: str, port: int) -> bool:
        """Whether a rule allows this literal address, or there are no rules."""
        if not self.rules:
            return True
        found: IPv4Address | IPv6Address = ip_address(address)
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(
            rule.network is not None and found in rule.network and rule.low <= port <= rule.high
            for rule in self.rules
        )

    def allowed(self, host: str, addresses: Sequence[str], port: int) -> list[str]:
        """Those of a name's `addresses` that may be dialled for it."""
        if self.allows_name(host, port):
            return list(addresses)
        return [address for address in addresses if self.allows_address(address, port)]
