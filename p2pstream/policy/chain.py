"""Who asked: the chain of addresses that trusted proxies vouch for (spec §1, `trusted_proxies`).

Rule 1  A chain is read right to left. Each entry was written by whoever stands right of it, so it
        is believed as long as all those are trusted; the first that is not trusted is the client.
        What a believed element of `Forwarded` says of host and scheme is believed as well.
Rule 2  An entry that is no address (`unknown`, obfuscated, nonsense) ends the walk: the client is
        then the last address known, a proxy.
Rule 3  So does the `_MOST_HOPS`th entry: to understand one takes microseconds, and a client behind
        a trusted proxy can write thousands.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from p2pstream.wire.http1.head import AUTHORITY, Fields

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNKNOWN: Final = "unknown"
# Rule 3: more proxies than anybody has in a row.
_MOST_HOPS: Final = 64
_NODE: Final = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)"
)
# RFC 7239 §4: `name=value` with a token or a quoted string, and what parts it from the next.
_FORWARDED_PAIR: Final = re.compile(
    rb"[ \t]*+(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]++)="
    rb'(?:([!#$%&\'*+\-.^_`|~0-9A-Za-z:\[\]]++)|"((?:[^"\\]|\\.)*)"))?[ \t]*+([;,]|\Z)'
)


@frozen(eq=False)
class Hop:
    """The client's side of a connection."""

    peer: str
    """The address of whoever connected (or of whom the PROXY protocol names), without a port."""
    trusted: bool
    """Whether the listener's `trusted_proxies` hold the peer."""
    scheme: bytes
    trusted_proxies: tuple[IpNetwork, ...] = ()

    def client(self, fields: Fields) -> str:
        """Who asked, given a request's fields."""
        return client_address(self, claimed_chain(fields)) if self.trusted else self.peer


def is_trusted(address: str, networks: Sequence[IpNetwork]) -> bool:
    """Whether an address stands in any of the networks; an unreadable one does not."""
    if not networks:
        return False
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)


def claimed_chain(fields: Fields) -> list[str]:
    """The nodes named by `X-Forwarded-For`, or else by `Forwarded`, leftmost first.

    Those of `X-Forwarded-For` are as they came; those of `Forwarded` are addresses without port
    and brackets, or `unknown`, and only as many as are looked at.
    """
    chain = [
        part.strip().decode("latin-1")
        for value in fields.get_all(b"x-forwarded-for")
        for part in value.split(b",")
        if part.strip()
    ]
    if chain:
        return chain
    return [_node(element) for element in _forwarded(fields)]


def asked_for(hop: Hop, fields: Fields) -> tuple[bytes, bytes]:
    """(host, scheme) that the client asked for by `Forwarded`, as far as that is believed.

    Either is empty where nobody says it, or not so that it could be one.
    """
    element: _Element = {}
    for one in reversed(_forwarded(fields)):
        element = one
        if not is_trusted(_node(one), hop.trusted_proxies):
            break
    host, scheme = element.get(b"host", b""), element.get(b"proto", b"").lower()
    return (
        host if AUTHORITY.fullmatch(host) else b"",
        scheme if scheme in (b"http", b"https") else b"",
    )


_Element = dict[bytes, bytes]
"""The parameters of one element of `Forwarded`; without a value for what it says twice."""


def _node(element: _Element) -> str:
    return _address(element.get(b"for", b"").decode("latin-1")) or _UNKNOWN


def _forwarded(fields: Fields) -> list[_Element]:
    elements = [one for value in fields.get_all(b"forwarded") for one in _elements(value)]
    return elements[-_MOST_HOPS:]


def _elements(value: bytes) -> list[_Element]:
    """The elements of one `Forwarded` field; an empty one alone for a malformed field.

    It is read pair by pair because a quoted string may hold anything: `host="x;for=10.0.0.1"`.
    """
    elements: list[_Element] = []
    element: _Element = {}
    position = 0
    while True:
        match = _FORWARDED_PAIR.match(value, position)
        if match is None:
            return [{}]
        name, bare, quoted, end = match.groups()
        if name is not None:
            lower = name.lower()
            text = bare if bare is not None else quoted
            element[lower] = b"" if lower in element else text  # said twice: which one?
        if end != b";":
            if element:
                elements.append(element)
            element = {}
            if not end:
                return elements
        position = match.end()


def _address(node: str) -> str | None:
    """The IP address of a node, which may have a port and brackets; None if it is none."""
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    try:
        ip = ipaddress.ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return str(ip)


def client_address(hop: Hop, chain: Sequence[str]) -> str:
    """Who asked: the chain walked right to left past trusted proxies (spec §1, `[[listeners]]`)."""
    client = hop.peer
    if not hop.trusted:
        return client
    for node in reversed(chain[-_MOST_HOPS:]):
        address = _address(node)
        if address is None:
            return client  # `unknown`, obfuscated or nonsense: what stands right of it is known
        client = address
        if not is_trusted(address, hop.trusted_proxies):
            return client
    return client
