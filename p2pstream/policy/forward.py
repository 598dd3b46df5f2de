"""What is forwarded, and what is said of the client on the way (spec §5).

Rules:

1. Hop-by-hop fields stop here: `Connection` and what it names, and the standard ones. Framing is
   written anew by us, whatever came.
2. What a stranger claims about forwarding (`X-Forwarded-*`, `X-Real-IP`, `Forwarded`) is
   discarded; a trusted proxy's chain is kept and appended to.
3. A name that differs from a forwarding, framing or configured field only by `_` for `-` is
   dropped: many origins (CGI, WSGI, PHP) cannot tell the two apart.
4. Everything else travels on in its order, name and value as they came.

Both block functions depend on their arguments alone, so that a connection may remember them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import Final

from attrs import field, frozen

from p2pstream.policy.chain import (
    Hop,
    IpNetwork,
    asked_for,
    claimed_chain,
    client_address,
    is_trusted,
)
from p2pstream.wire.http1.head import Field, Fields
from p2pstream.wire.http1.serialize import field_lines

__all__ = [
    "UPGRADE",
    "VIA",
    "Hop",
    "IpNetwork",
    "TargetHeaders",
    "ends_here",
    "forwarded_trailers",
    "is_trusted",
    "max_forwards_line",
    "request_block",
    "response_block",
    "upgrade_lines",
]

VIA: Final = b"Via: 1.1 p2pstream\r\n"
UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: %b\r\n"
# RFC 9110 §10.1.4: whoever sends TE names it in Connection.
_NO_FIELDS: Final = Fields([])
_TE: Final = b"Connection: TE\r\nTE: trailers\r\n"


def _spellings(names: Iterable[bytes]) -> frozenset[bytes]:
    """Each name, with `-` or `_` in each of its places (rule 3)."""
    spellings = set()
    for name in names:
        first, *others = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(others)):
            pairs = zip(marks, others, strict=True)
            spellings.add(first + b"".join(mark + part for mark, part in pairs))
    return frozenset(spellings)


_HOP_BY_HOP: Final = (
    b"connection",
    b"http2-settings",  # of an h2c upgrade; RFC 9113 §3.1 makes it connection-specific
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)
# `proxy` would become HTTP_PROXY in a CGI program's environment ("httpoxy").
_REQUEST_DROPPED: Final = _spellings(
    (*_HOP_BY_HOP, b"content-length", b"host", b"max-forwards", b"proxy", b"x-real-ip")
)
_RESPONSE_DROPPED: Final = _spellings(
    (
        *_HOP_BY_HOP,
        b"content-length",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
    )
)
# Said anew by us, whoever came before; the other `X-Forwarded-*` are kept from a trusted proxy.
_CLAIMED: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto")
)
# What a name begins with that `_may_travel` has to look at: Forwarded, Proxy-*, X-Forwarded-*.
_LOOKED_AT: Final = frozenset(b"fpx")
# RFC 9110 §6.5.1: framing, routing, authentication, request modifiers, response control and
# content format may not be said in a trailer, where a recipient that merges fields would be led
# astray.
_TRAILERS_DROPPED: Final = _REQUEST_DROPPED | {
    b"age",
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expect",
    b"expires",
    b"forwarded",
    b"location",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"vary",
    b"via",
    b"www-authenticate",
}
_TRAILER_PREFIXES: Final = (b"if-", b"proxy-", b"x-forwarded-")


@frozen(eq=False)
class TargetHeaders:
    """What a target adds to or replaces in its requests; made once, at reload."""

    host: bytes
    """The origin's authority."""
    replaced: frozenset[bytes]
    """Lower-case names that the configured lines replace."""
    configured: bytes
    """The configured lines, ready to send."""
    preserve_host: bool = False
    """The client's authority goes to the origin, if it named one."""
    hidden_cookie: bytes = b""
    """The name of a cookie that the origin does not get; empty: none."""
    kept_out: frozenset[bytes] = field(init=False)
    """`replaced`, and each of its names with `-` for `_`: what may not come from the client."""

    @kept_out.default
    def _with_lookalikes(self) -> frozenset[bytes]:
        return self.replaced | {_dashed(name) for name in self.replaced}


def request_block(fields: Fields, hop: Hop, authority: bytes, target: TargetHeaders) -> bytes:
    """The forwarded field lines of a request, from `Host` on.

    Without what depends on more than these arguments: framing, upgrade, `Max-Forwards`.
    """
    named = fields.connection
    kept_out = target.kept_out
    hidden = target.hidden_cookie
    trusted = hop.trusted
    kept: list[tuple[bytes, bytes]] = []
    asks_te = False
    for lower, name, value in fields.lines:
        if lower in _REQUEST_DROPPED or lower in named:
            if lower == b"te":
                asks_te = True
            continue
        if lower[0] in _LOOKED_AT and not _may_travel(lower, trusted):
            continue
        if kept_out and (lower in kept_out or (b"_" in lower and _dashed(lower) in kept_out)):
            continue
        if lower == b"cookie" and hidden and hidden in value:
            value = _without_cookie(hidden, value)
            if not value:
                continue
        kept.append((name, value))
    if b"host" in kept_out:
        host = b""
    else:
        host = b"Host: %b\r\n" % (authority if target.preserve_host and authority else target.host)
    if trusted or kept_out or len(authority) > _LONGEST_REMEMBERED:
        claims = field_lines(
            claim for claim in _claims(fields, hop, authority) if claim[0].lower() not in kept_out
        )
    else:
        claims = _claims_of_stranger(hop.peer, hop.scheme, authority)
    te = _TE if asks_te and _wants_trailers(fields) else b""
    return b"".join((host, field_lines(kept), claims, te, VIA, target.configured))


def _without_cookie(name: bytes, value: bytes) -> bytes:
    """A `Cookie` value (RFC 6265 §4.2) without the pairs of this name."""
    pairs = value.split(b";")
    return b";".join(
        pair for pair in pairs if pair.partition(b"=")[0].strip(b" \t") != name
    ).lstrip(b" \t")


# Names are at most this long (RFC 1035 §2.3.4), and so the memory below is bounded.
_LONGEST_REMEMBERED: Final = 255


@lru_cache(maxsize=1024)
def _claims_of_stranger(peer: str, scheme: bytes, authority: bytes) -> bytes:
    """What we say of a client that nobody vouches for: it repeats from request to request."""
    return field_lines(_claims(_NO_FIELDS, Hop(peer, False, scheme), authority))


def _dashed(name: bytes) -> bytes:
    return name.replace(b"_", b"-")


def _may_travel(lower: bytes, trusted: bool) -> bool:
    """Whether a name is none that speaks of forwarding, or one that a trusted proxy may use."""
    dashed = _dashed(lower)
    if dashed.startswith(b"x-forwarded-"):
        return trusted and lower == dashed and lower not in _CLAIMED
    return not dashed.startswith(b"proxy-") and (trusted or lower != b"forwarded")


def _claims(fields: Fields, hop: Hop, authority: bytes) -> Iterable[tuple[bytes, bytes]]:
    """What we say of the client. Nothing is said that is not known (a host, in HTTP/1.0)."""
    peer = hop.peer.encode("latin-1")
    if hop.trusted:
        yield from _claims_of_proxy(fields, hop, authority)
        return
    yield b"X-Forwarded-For", peer
    yield b"X-Real-IP", peer
    if authority:
        yield b"X-Forwarded-Host", authority
    yield b"X-Forwarded-Proto", hop.scheme
    yield b"X-Forwarded-Port", _port(authority, hop.scheme)


def _claims_of_proxy(fields: Fields, hop: Hop, authority: bytes) -> Iterable[tuple[bytes, bytes]]:
    """What a trusted proxy says of the client, and what follows from that."""
    chain = claimed_chain(fields)
    yield b"X-Forwarded-For", ", ".join((*chain, hop.peer)).encode("latin-1")
    yield b"X-Real-IP", client_address(hop, chain).encode("latin-1")
    host, scheme, port = (b", ".join(fields.get_all(name)) for name in _ASKED_FOR)
    # Who says X-Forwarded-For may pass on a Forwarded that a stranger wrote.
    if not (host and scheme) and fields.get(b"x-forwarded-for") is None:
        told_host, told_scheme = asked_for(hop, fields)
        host, scheme = host or told_host, scheme or told_scheme
    host, scheme = host or authority, scheme or hop.scheme
    if host:
        yield b"X-Forwarded-Host", host
    yield b"X-Forwarded-Proto", scheme
    yield b"X-Forwarded-Port", port or _port(*(_first(value) for value in (host, scheme)))


_ASKED_FOR: Final = (b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port")


def _first(values: bytes) -> bytes:
    return values.partition(b",")[0].strip(b" \t")


def _port(authority: bytes, scheme: bytes) -> bytes:
    """The port of a URL with these."""
    if _HAS_PORT.search(authority):
        return authority.rpartition(b":")[2]
    return b"443" if scheme.lower() == b"https" else b"80"


_HAS_PORT: Final = re.compile(rb":[0-9]+\Z")


def _wants_trailers(fields: Fields) -> bool:
    """Whether `TE` names `trailers`, the one member that is passed on.

    Not beside an upgrade: some origins read one `Connection` field only, and need it for that.
    """
    return b"upgrade" not in fields.connection and any(
        b"trailers" in (part.strip().lower() for part in value.split(b","))
        for value in fields.get_all(b"te")
    )


def max_forwards_line(method: bytes, fields: Fields) -> bytes:
    """The `Max-Forwards` line of a request that is forwarded (RFC 9110 §7.6.2), or nothing.

    It counts down for OPTIONS (an OPTIONS that came with 0 is ours to answer, see
    `ends_here`) and means nothing, and so travels on, for other methods.
    """
    left = fields.max_forwards
    if left is None:
        return b""
    if method == b"OPTIONS":
        left = max(0, left - 1)
    return b"Max-Forwards: %d\r\n" % left


def ends_here(method: bytes, fields: Fields) -> bool:
    """Whether the request may not be forwarded, because its `Max-Forwards` is used up."""
    return fields.max_forwards == 0 and method == b"OPTIONS"


# RFC 9110 §7.8: `name` or `name/version`, tokens both.
_PROTOCOL: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?")


def upgrade_lines(fields: Fields) -> bytes:
    """The lines that ask for (or grant) an upgrade; empty when there is none to pass on.

    `h2c` is not passed on: it would hand the origin a connection that we do not understand.
    """
    offered = fields.upgrade
    if offered is None or b"upgrade" not in fields.connection:
        return b""
    kept = []
    for part in offered.split(b","):
        protocol = part.strip(b" \t")
        match = _PROTOCOL.fullmatch(protocol)
        if match is not None and match[1].lower() not in (b"h2c", b"h2", b"http"):
            kept.append(protocol)
    return UPGRADE % b", ".join(kept) if kept else b""


def response_block(fields: Fields, date: bytes) -> bytes:
    """The forwarded field lines of a response, without framing; `date` if the origin gave none."""
    named = fields.connection
    kept = []
    dated = False
    for lower, name, value in fields.lines:
        if lower in _RESPONSE_DROPPED or lower in named:
            continue
        if lower == b"date":
            dated = True
        kept.append((name, value))
    lines = field_lines(kept)
    # RFC 9110 §6.6.1: a recipient with a clock supplies the Date that is missing.
    return b"".join((lines, VIA) if dated else (lines, b"Date: %b\r\n" % date, VIA))


def forwarded_trailers(
    trailers: list[Field],
    connection: frozenset[bytes],
    kept_out: frozenset[bytes] = frozenset(),
) -> list[Field]:
    """The trailer fields that may travel on; `kept_out` as in `TargetHeaders`, for requests.

    `connection`: what the head's `Connection` names, which goes no further (RFC 9110 §7.6.1).
    """
    return [
        trailer
        for trailer in trailers
        if (dashed := _dashed(trailer[0])) not in _TRAILERS_DROPPED
        and dashed not in kept_out
        and trailer[0] not in kept_out
        and trailer[0] not in connection
        and not dashed.startswith(_TRAILER_PREFIXES)
    ]
