"""Parse heads, strictly: what is accepted here has one meaning for every HTTP/1.1 parser.

Rules (RFC 9112; the stricter choice wherever it leaves one):

1. Lines end in CRLF. A bare CR or LF, a line folded onto the next (obs-fold), white space before
   a colon, an empty name, or a control byte other than HTAB inside a value refuses the head.
2. A body's length is said once: `Content-Length` (digits only; repeats must agree) or
   `Transfer-Encoding: chunked` (exactly that, HTTP/1.1 only), never both.
3. HTTP/1.1 requests name exactly one valid authority in `Host`; it yields to the authority of an
   absolute-form target (RFC 9112 §3.2.2).
4. The start line is three words parted by one space. A target has no fragment, no white space and
   no byte past ASCII; a method may not be a known one that changes framing in another case.

`parse_fields` depends on its bytes alone, so that callers may remember its result: a connection
usually repeats its fields from request to request.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import define

from p2pstream.errors import P2PStreamError


class HeadError(P2PStreamError):
    """The head is refused; the text says why, for the log."""


class TargetError(HeadError):
    """The head is refused for its target, and for nothing else."""


Field = tuple[bytes, bytes, bytes]
"""(name in lower case, name as it came, value without surrounding white space)."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(rb"[!\"$-~]+")  # VCHAR without "#": RFC 9112 §3.2 has no fragment
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")  # below 2**63: fits every peer's integer
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
# RFC 3986 §3.2: registered name or IPv4, or a bracketed IPv6 literal, and a port. Percent
# encoding is left out: no public host name has it, and parsers differ on what it means.
AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# Bytes that may stand in a head: all but control characters (CR and LF are counted apart).
_ALLOWED: Final = bytes(b for b in range(256) if b in b"\t\r\n" or (b >= 0x20 and b != 0x7F))

# Fields that decide framing, routing or the life of the connection: looked at below.
_SPECIAL: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"max-forwards",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Names seen so far -> (lower case, special). Nearly every message uses the same few dozen, known
# from the start (see the end); the bound keeps a client that invents names from growing it.
_NAMES: dict[bytes, tuple[bytes, bool]] = {}
_NAMES_KEPT: Final = 1024
_NAME_KEPT_BYTES: Final = 64


@define(slots=True, eq=False)
class Fields:
    """A head's field lines, and what the special ones say."""

    lines: list[Field]
    content_length: int | None = None
    chunked: bool = False
    transfer_encoding: bool = False
    hosts: tuple[bytes, ...] = ()
    connection: frozenset[bytes] = frozenset()
    """The lower-cased options of all `Connection` fields."""
    upgrade: bytes | None = None
    expect: bytes | None = None
    """In lower case; repeats are joined, and then are no expectation that is known."""
    max_forwards: int | None = None
    """The smallest `Max-Forwards` (RFC 9110 §7.6.2); one that is not a number is none."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""
        for lower, _, value in self.lines:
            if lower == name:
                return value
        return None

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        return [value for lower, _, value in self.lines if lower == name]


@define(slots=True, eq=False)
class RequestHead:
    """A request's head. `authority` is the client's: of an absolute-form target, else `Host`."""

    method: bytes
    path: bytes
    """As it came; `*` for `OPTIONS *`."""
    query: bytes | None
    minor_version: int
    authority: bytes
    fields: Fields
    absolute: bool = False

    @property
    def target(self) -> bytes:
        """The origin-form target: path and query, byte for byte."""
        return self.path if self.query is None else b"%b?%b" % (self.path, self.query)

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.fields.chunked or bool(self.fields.content_length)

    @property
    def expects_continue(self) -> bool:
        """Whether the body may wait for a 100; without one, or in HTTP/1.0, `Expect` is nothing.

        RFC 9110 §10.1.1. Any other expectation has been refused by then.
        """
        return self.fields.expect is not None and self.minor_version == 1 and self.has_body

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to go on (RFC 9112 §9.3)."""
        options = self.fields.connection
        if b"close" in options:
            return False
        return self.minor_version == 1 or b"keep-alive" in options


@define(slots=True, eq=False)
class ResponseHead:
    """A response's head."""

    status: int
    reason: bytes
    minor_version: int
    fields: Fields

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can be used again after this response.

        Not when a response that has no body by its status says that it has one: an origin that
        is mistaken about that may send it, and the next response would begin with it.
        """
        fields = self.fields
        options = fields.connection
        if b"close" in options:
            return False
        if (self.status == 204 or self.status < 200) and (fields.chunked or fields.content_length):
            return False
        return self.minor_version == 1 or b"keep-alive" in options


def split_head(head: bytes) -> tuple[bytes, bytes]:
    """(start line, field block) of a whole head, which ends in CRLF CRLF.

    Every line of the block ends in CRLF; it is empty when there are no fields.
    """
    end = head.find(b"\r\n")
    return head[:end], head[end + 2 : -2]


def parse_fields(block: bytes) -> Fields:
    """The field lines of a head. Error: `HeadError`."""
    if block.translate(None, _ALLOWED):
        raise HeadError("control character in a field")
    lines = block.count(b"\r\n")
    if block.count(b"\n") != lines or block.count(b"\r") != lines:
        raise HeadError("bare CR or LF")
    parsed: list[Field] = []
    fields = Fields(parsed)
    if not block:
        return fields
    special: list[tuple[bytes, bytes]] = []
    known = _NAMES.get
    for line in block[:-2].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            raise HeadError("field line without a colon")
        lower, is_special = known(name) or _learn(name)
        value = value.strip(b" \t")
        parsed.append((lower, name, value))
        if is_special:
            special.append((lower, value))
    if special:
        _read_special(fields, special)
    return fields


def _learn(name: bytes) -> tuple[bytes, bool]:
    """Validate a name not seen before, and remember it."""
    if not _TOKEN.fullmatch(name):
        if name[:1] in (b" ", b"\t"):
            raise HeadError("folded field line (obs-fold)")
        raise HeadError("field line without a valid name")
    lower = name.lower()
    entry = (lower, lower in _SPECIAL)
    if len(name) <= _NAME_KEPT_BYTES and len(_NAMES) < _NAMES_KEPT:
        _NAMES[name] = entry
    return entry


def _read_special(fields: Fields, special: list[tuple[bytes, bytes]]) -> None:
    """Fill in framing, hosts and connection options, in time linear in their number."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in special:
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    if b"host" in values:
        fields.hosts = tuple(values[b"host"])
    if b"connection" in values:
        fields.connection = _options(values[b"connection"])
    if b"upgrade" in values:
        fields.upgrade = b", ".join(values[b"upgrade"])
    if b"expect" in values:
        fields.expect = b", ".join(values[b"expect"]).lower() or None
    if b"max-forwards" in values:
        numbers = [int(value) for value in values[b"max-forwards"] if _DIGITS.fullmatch(value)]
        fields.max_forwards = min(numbers, default=None)
    codings = values.get(b"transfer-encoding")
    lengths = values.get(b"content-length")
    if codings:
        if lengths:
            raise HeadError("both Content-Length and Transfer-Encoding")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise HeadError("Transfer-Encoding other than chunked")
        fields.chunked = fields.transfer_encoding = True
    elif lengths:
        fields.content_length = _length(lengths)


def _options(values: list[bytes]) -> frozenset[bytes]:
    """The options of all `Connection` fields."""
    if len(values) == 1 and (usual := _USUAL_OPTIONS.get(values[0])) is not None:
        return usual
    members = b",".join(values).lower().split(b",")
    return frozenset(option for member in members if (option := member.strip(b" \t")))


_USUAL_OPTIONS: Final = {
    value: frozenset((value.lower(),))
    for value in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade")
}


def _length(values: list[bytes]) -> int:
    """One length from all `Content-Length` values (RFC 9110 §8.6: equal repeats are one)."""
    members = {part.strip(b" \t") for value in values for part in value.split(b",")}
    if len(members) != 1:
        raise HeadError("Content-Length values differ")
    (member,) = members
    if not _DIGITS.fullmatch(member):
        raise HeadError("Content-Length is not a number")
    return int(member)


def parse_request(start: bytes, fields: Fields) -> RequestHead:
    """A request from its start line and parsed fields. Error: `HeadError`."""
    parts = start.split(b" ")
    if len(parts) != 3:
        raise HeadError("request line is not three words")
    method, target, version = parts
    if version == b"HTTP/1.1":
        minor = 1
        if len(fields.hosts) != 1:
            raise HeadError("HTTP/1.1 needs exactly one Host")
    elif version == b"HTTP/1.0":
        minor = 0
        if fields.transfer_encoding:
            raise HeadError("Transfer-Encoding in HTTP/1.0")
        if len(fields.hosts) > 1:
            raise HeadError("more than one Host")
    else:
        raise HeadError("unknown protocol version")
    if method not in _METHODS:
        _check_method(method)
    if not _TARGET.fullmatch(target):
        raise TargetError("invalid byte in the request target")
    authority = fields.hosts[0] if fields.hosts else b""
    if authority and not AUTHORITY.fullmatch(authority):
        raise HeadError("invalid Host")
    absolute = False
    if target[:1] != b"/":
        target, authority, absolute = _other_form(method, target, authority)
    elif not authority and minor == 1:
        raise HeadError("empty Host")
    path, mark, query = target.partition(b"?")
    return RequestHead(method, path, query if mark else None, minor, authority, fields, absolute)


_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"))
# Methods are case-sensitive (RFC 9110 §9.1), but not to every origin; with these a mistake would
# be about where the response ends, or get past their refusal.
_FRAMING_METHODS: Final = frozenset((b"HEAD", b"CONNECT", b"TRACE"))


def _check_method(method: bytes) -> None:
    """Refuse a method that is no token, or means another to an origin that ignores case."""
    if not _TOKEN.fullmatch(method):
        raise HeadError("method is not a token")
    if method not in _FRAMING_METHODS and method.upper() in _FRAMING_METHODS:
        raise HeadError("HEAD, CONNECT or TRACE in another case")


def _other_form(method: bytes, target: bytes, authority: bytes) -> tuple[bytes, bytes, bool]:
    """(origin-form target, authority, absolute?) of a target that does not start with `/`."""
    if target == b"*" and method == b"OPTIONS":
        return target, authority, False
    if method == b"CONNECT":  # authority-form; refused later, by method
        return b"/", authority, False
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise HeadError("request target is neither a path nor an http(s) URL")
    cut = min(i for i in (rest.find(b"/"), rest.find(b"?"), len(rest)) if i >= 0)
    authority = rest[:cut]
    if not AUTHORITY.fullmatch(authority):
        raise HeadError("invalid authority in the request target")
    rest = rest[cut:]
    if rest[:1] != b"/":
        # RFC 9112 §3.2.4: OPTIONS for a URL without a path is OPTIONS *.
        if method == b"OPTIONS" and not rest:
            return b"*", authority, True
        rest = b"/" + rest
    return rest, authority, True


def parse_response(start: bytes, fields: Fields) -> ResponseHead:
    """A response from its start line and parsed fields. Error: `HeadError`."""
    match = _STATUS.fullmatch(start)
    if match is None:
        raise HeadError("malformed status line")
    version, status, reason = match.groups()
    minor = 1 if version == b"1" else 0
    if minor == 0 and fields.transfer_encoding:
        raise HeadError("Transfer-Encoding in HTTP/1.0")
    return ResponseHead(int(status), reason or b"", minor, fields)


def find_head_end(buffer: bytes | bytearray, searched: int) -> int:
    """Where the head ends (past CRLF CRLF), or -1; the first `searched` bytes had no end.

    Error: `HeadError` for a bare LF, which would otherwise be waited on in vain.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if end >= 0:
        return end + 4
    position = buffer.find(b"\n", searched)
    while position >= 0:
        if position == 0 or buffer[position - 1] != 0x0D:
            raise HeadError("bare LF")
        position = buffer.find(b"\n", position + 1)
    return -1


def leading_empty_lines(buffer: bytes | bytearray) -> int:
    """How many bytes of empty lines the buffer begins with (RFC 9112 §2.2)."""
    match = _EMPTY_LINES.match(buffer)
    return match.end() if match else 0


def may_start_request(first: int) -> bool:
    """Whether a head, or an empty line before it, may begin with this byte (not a TLS hello)."""
    return first in _FIRST_BYTES


_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_FIRST_BYTES: Final = frozenset(b for b in range(256) if b == 0x0D or _TOKEN.fullmatch(bytes((b,))))


def _learn_usual_names() -> None:
    """Fill `_NAMES` with what browsers, programs and origins send, in their spellings.

    A client that fills the rest with invented names then slows down nobody.
    """
    usual = (
        b"Accept Accept-Charset Accept-Encoding Accept-Language Accept-Ranges "
        b"Access-Control-Allow-Credentials Access-Control-Allow-Headers "
        b"Access-Control-Allow-Methods Access-Control-Allow-Origin Access-Control-Expose-Headers "
        b"Access-Control-Max-Age Access-Control-Request-Headers Access-Control-Request-Method "
        b"Age Allow Alt-Svc Authorization Cache-Control Cache-Status Connection "
        b"Content-Disposition Content-Encoding Content-Language Content-Length Content-Location "
        b"Content-Range Content-Security-Policy Content-Type Cookie Cross-Origin-Embedder-Policy "
        b"Cross-Origin-Opener-Policy Cross-Origin-Resource-Policy DNT Date ETag Etag Expect "
        b"Expires Forwarded From Host If-Match If-Modified-Since If-None-Match If-Range "
        b"If-Unmodified-Since Keep-Alive Last-Modified Link Location Max-Forwards Origin "
        b"Permissions-Policy Pragma Priority Proxy-Authenticate Proxy-Authorization "
        b"Proxy-Connection Range Referer Referrer-Policy Retry-After Sec-CH-UA Sec-CH-UA-Mobile "
        b"Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User Sec-GPC "
        b"Sec-WebSocket-Accept Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol "
        b"Sec-WebSocket-Version Server Server-Timing Set-Cookie Strict-Transport-Security TE Te "
        b"Trailer Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent Vary Via "
        b"WWW-Authenticate Www-Authenticate X-Content-Type-Options X-Forwarded-For "
        b"X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto X-Frame-Options X-Powered-By "
        b"X-Real-IP X-Request-ID X-Requested-With X-XSS-Protection"
    )
    for name in usual.split():
        lower = name.lower()
        _NAMES[name] = _NAMES[lower] = (lower, lower in _SPECIAL)


_learn_usual_names()
