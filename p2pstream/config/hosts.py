"""Names on the net: hosts, host patterns, origins, URLs. Everything here is parsed once, at load,
except `normalize_host`, which every request passes through.

Rule 1  A host has one spelling: lower-case, A-labels (UTS 46), no brackets, no trailing dot, IPv6
        compressed. Pattern, origin and request are brought to it and then compared as strings.
Rule 2  What the operator writes is refused when in doubt; a name whose last label is all digits
        is an IPv4 address or a fault (WHATWG URL, "ends in a number").
Rule 3  No fault text repeats a URL: it may carry a password.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal, cast

import idna
from attrs import frozen

from p2pstream.config.wording import quote

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# 253: the longest name DNS can carry in text form (RFC 1035 §2.3.4); it also bounds matching work.
MAX_HOST_LENGTH: Final = 253

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL,
)
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")

# A request's plain host: labels of ASCII letters, digits, `-`, `_`, none empty, maybe a port.
_PLAIN = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?(?::([0-9]{0,5}))?")
# The rest of RFC 3986's `reg-name`, without the comma that would make a list of it (spec §5).
_REG_NAME = re.compile(
    r"((?:[A-Za-z0-9_~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+"
    r"(?:\.(?:[A-Za-z0-9_~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)*)\.?(?::([0-9]{0,5}))?"
)
_LITERAL = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{0,5}))?")


def _ipv6(text: str) -> str:
    try:
        if "%" in text:
            raise AddressValueError("a zone means something on one host only")
        return IPv6Address(text).compressed
    except AddressValueError as reason:
        raise ValueError(f"`{text}` is not an IPv6 address") from reason


# Nearly every host as it is written: one spelling already, and no address (the last label of a
# name begins with a letter). Worth a tenth of a second with ten thousand routes.
_ONE_SPELLING: Final = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9_-]{0,61}[a-z0-9])?"
)


def parse_host(text: str) -> str:
    """Bring a host that an operator wrote to its one spelling; IPv6 with or without brackets."""
    if _ONE_SPELLING.fullmatch(text) and len(text) <= MAX_HOST_LENGTH:
        return text
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if text.count(":") > 1:
        return _ipv6(text)
    if ":" in text:
        raise ValueError("must be a host without a port")
    if not text.isascii():
        try:
            # Three positional flags of UTS 46: no STD3 rules (`_` is used in practice), and
            # non-transitional processing, as browsers do.
            text = idna.uts46_remap(text, False, False)
        except idna.IDNAError as reason:
            raise ValueError(f"is not a host name: {reason}") from reason
    name = text.lower().removesuffix(".")
    if not name:
        raise ValueError("must not be empty")
    labels = [_ascii_label(label) for label in name.split(".")]
    name = ".".join(labels)
    if len(name) > MAX_HOST_LENGTH:
        raise ValueError(f"is a host name longer than {MAX_HOST_LENGTH} characters")
    if labels[-1].isdigit():
        try:
            return str(IPv4Address(name))
        except AddressValueError as reason:
            raise ValueError(f"`{name}` is neither a name nor an IPv4 address") from reason
    return name


def _ascii_label(label: str) -> str:
    if not label.isascii():
        try:
            label = idna.alabel(label).decode("ascii")
        except UnicodeError as reason:  # IDNAError is one
            raise ValueError(f"is not a host name: {reason}") from reason
    if not label:
        raise ValueError("is not a host name: it has an empty label (two dots in a row)")
    if not _LABEL.fullmatch(label):
        raise ValueError(
            f"is not a host name: label {quote(label)} must be 1-63 letters, digits, `-` or `_`, "
            "with no `-` at its ends"
        )
    return label


def normalize_host(text: str) -> str:
    """Bring a request's `Host` (or absolute-form authority) to its one spelling, without port.

    `ValueError` if it is not a valid authority (RFC 3986 §3.2 without userinfo, RFC 9110 §7.2).
    """
    match = _PLAIN.fullmatch(text)
    if match is None:
        match = _REG_NAME.fullmatch(text)
        if match is None:
            return _normalize_literal(text)
    host, port = match.groups()
    if len(host) > MAX_HOST_LENGTH or (port and int(port) > 65535):
        raise ValueError("not a valid authority")
    return cast(str, host.lower())


def _normalize_literal(text: str) -> str:
    match = _LITERAL.fullmatch(text)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise ValueError("not a valid authority")
    return _ipv6(match[1])


def bracketed(host: str) -> str:
    """Write a host as it stands in front of `:port`."""
    return f"[{host}]" if ":" in host else host


@frozen
class HostPattern:
    """An exact host, or `*.` and a suffix: one or more labels before it, never the suffix itself.

    `host` is the exact host or that suffix, `text` the pattern in its one spelling.
    """

    text: str
    wildcard: bool
    host: str

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """`ValueError` unless it is a host, or `*.` followed by a name."""
        wildcard = text.startswith("*.")
        rest = text[2:] if wildcard else text
        if text == "*":
            raise ValueError("`*` alone is no pattern: leave the key out to match any host")
        if "*" in rest:
            raise ValueError("may have a `*` only as its whole first label, as in `*.example.com`")
        host = parse_host(rest)
        if wildcard and (":" in host or host.rpartition(".")[2].isdigit()):
            raise ValueError("must be a name after `*.`, not an address")
        return cls(text=f"*.{host}" if wildcard else host, wildcard=wildcard, host=host)

    def matches(self, host: str) -> bool:
        """Whether a host from `normalize_host` is meant."""
        if self.wildcard:
            return len(host) > len(self.host) + 1 and host.endswith("." + self.host)
        return host == self.host

    def __str__(self) -> str:
        return self.text


@frozen
class Url:
    """An http or https URL taken apart; `path`, `query`, `fragment` are as they were written."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    query: str | None
    fragment: str | None

    @classmethod
    def parse(cls, text: str) -> Url:
        """`ValueError` unless it is an absolute http or https URL without user or password."""
        match = _URL.fullmatch(text)
        if match is None:
            raise ValueError("must be a URL that begins with http:// or https://")
        if _NOT_IN_URL.search(text):
            raise ValueError("must not have blanks, control characters or backslashes in it")
        scheme = match["scheme"].lower()
        if scheme not in DEFAULT_PORTS:
            raise ValueError(f"must begin with http:// or https://, not {scheme}://")
        host, port = _host_and_port(match["authority"], DEFAULT_PORTS[scheme])
        return cls(
            scheme=cast('Literal["http", "https"]', scheme),
            host=host,
            port=port,
            path=match["path"],
            query=match["query"],
            fragment=match["fragment"],
        )

    @property
    def origin(self) -> Origin:
        """Scheme, host and port alone."""
        return Origin(scheme=self.scheme, host=self.host, port=self.port)


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if "@" in authority:
        raise ValueError("must not carry a user or password")
    host, colon, port = authority, "", ""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("has a bracket that is not around an IPv6 address")
        host, colon, port = host + bracket, rest[:1], rest[1:]
    elif authority.count(":") > 1:
        raise ValueError("must have its IPv6 address in brackets, as in http://[::1]:8080")
    else:
        host, colon, port = authority.partition(":")
    if not host:
        raise ValueError("has no host")
    if not colon:
        return parse_host(host), default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("must have a port between 1 and 65535 after the colon")
    return parse_host(host), int(port)


@frozen
class Origin:
    """Scheme, host (one spelling, no brackets) and port of an http or https origin (RFC 6454)."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """`ValueError` for anything but `http[s]://host[:port]`, with or without a final `/`."""
        return _parse_origin(text)

    @property
    def authority(self) -> str:
        """As in a `Host` field: no port where it is the scheme's own, IPv6 in brackets."""
        host = bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """`host:port`, what is dialled; IPv6 in brackets."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@lru_cache(maxsize=1024)  # many routes share few origins, and then one object of each
def _parse_origin(text: str) -> Origin:
    url = Url.parse(text)
    for part, there in (
        ("a path", url.path not in ("", "/")),
        ("a query", url.query is not None),
        ("a fragment", url.fragment is not None),
    ):
        if there:
            raise ValueError(f"must be an origin alone, without {part}: {url.origin}")
    return url.origin
