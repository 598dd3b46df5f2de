"""The PROXY protocol: who a connection is really from, said by what stands in front (v1 and v2).

Source: "The PROXY protocol", versions 1 & 2, haproxy.org, 2020-03-05.

Rules:

1. Whoever is configured to send a header must send one: a receiver never guesses (§2 there).
2. Exactly the header is taken. `length` tells how long it is; what follows is the client's.
3. Where the header names no address (v1 `UNKNOWN`; v2 `LOCAL`, unspecified, Unix socket), the
   connection is from whoever opened it: that is how balancers send their own health checks.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from attrs import frozen

# Enough to read every header's addresses: the longest v1 line (§2.1 there); v2 needs 52 bytes.
PEEK_BYTES: Final = 107

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD: Final = 16
_LOCAL, _PROXY = 0x20, 0x21  # the version's high nibble, and the command
_NO_ADDRESS: Final = frozenset((0x00, 0x31))  # unspecified, Unix stream
# (family, transport) of TCP -> bytes of one address; both addresses, then both ports follow.
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
_PORT: Final = re.compile(rb"(?:0|[1-9][0-9]{0,4})\Z")
_MAX_PORT: Final = 65_535


class BadProxyHeader(ValueError):
    """What came is no PROXY header; the message says why."""


@frozen
class ProxyHeader:
    """One header: how many bytes it is, and the client's address, None where it names none."""

    length: int
    source: str | None


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header that `data` begins with; None while more of it is needed.

    `PEEK_BYTES` bytes are always enough. Error: `BadProxyHeader`.
    """
    if data.startswith(_V2):
        return _parse_v2(data)
    if data.startswith(_V1):
        return _parse_v1(data)
    if _V2.startswith(data) or _V1.startswith(data):
        return None
    raise BadProxyHeader("the connection does not begin with a PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, PEEK_BYTES)
    if end < 0:
        if len(data) >= PEEK_BYTES:
            raise BadProxyHeader(f"a PROXY line is longer than {PEEK_BYTES} bytes")
        return None
    words = data[len(_V1) : end].split(b" ")
    if words[0] == b"UNKNOWN":
        return ProxyHeader(end + 2, None)
    if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("a PROXY line has to read TCP4 or TCP6, two addresses, two ports")
    version = 4 if words[0] == b"TCP4" else 6
    source, _ = (_parse_address(word, version) for word in words[1:3])
    for port in words[3:]:
        if not _PORT.match(port) or int(port) > _MAX_PORT:
            raise BadProxyHeader("a PROXY line has a bad port")
    return ProxyHeader(end + 2, source)


def _parse_address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError as error:
        raise BadProxyHeader("a PROXY line has a bad address") from error
    # A zone means something on the sender's host alone.
    if address.version != version or b"%" in word:
        raise BadProxyHeader("a PROXY line has a bad address")
    return _plain(address)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_HEAD:
        return None
    command, kind = data[12], data[13]
    payload = int.from_bytes(data[14:16], "big")
    length = _V2_HEAD + payload
    if command == _LOCAL:
        return ProxyHeader(length, None)
    if command != _PROXY:
        raise BadProxyHeader(f"a PROXY header has version and command {command:#04x}")
    if kind in _NO_ADDRESS:
        return ProxyHeader(length, None)
    size = _ADDRESS_BYTES.get(kind)
    if size is None:
        raise BadProxyHeader(f"a PROXY header has family and transport {kind:#04x}, not TCP")
    if payload < 2 * size + 4:
        raise BadProxyHeader("a PROXY header is too short for its addresses")
    if len(data) < _V2_HEAD + size:
        return None
    source = ipaddress.ip_address(data[_V2_HEAD : _V2_HEAD + size])
    return ProxyHeader(length, _plain(source))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Write the address as a socket's peer has it: IPv4 is never dressed up as IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
