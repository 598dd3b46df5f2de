"""One value of one field: text in, a checked value in its one spelling out, or a `ValueError` whose
text goes straight to the operator ("must be ..."). Hosts and origins live in `hosts` and are
handed on from here; secrets live in `secret`.

Rule 1  A parser knows its own value only; anything that needs a second field is `check`'s.
Rule 2  A fault text that could repeat a secret repeats nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final

from p2pstream.config.hosts import HostPattern, Origin, Url, bracketed, normalize_host, parse_host
from p2pstream.config.secret import Secret, TokenHash
from p2pstream.config.wording import quote

__all__ = [
    "AGENT_ID_LABEL",
    "HostPattern",
    "Origin",
    "Secret",
    "TokenHash",
    "Url",
    "bracketed",
    "normalize_host",
    "parse_agent_name",
    "parse_base_url",
    "parse_bind_address",
    "parse_cidr",
    "parse_header_value",
    "parse_host",
    "parse_id",
    "parse_labels",
    "parse_path",
    "parse_path_prefix",
    "parse_request_header_name",
    "parse_response_header_name",
    "parse_selector_labels",
]

ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
LABEL_KEY_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,126}[A-Za-z0-9])?"
RESERVED_LABEL_PREFIX: Final = "p2pstream.io/"
AGENT_ID_LABEL: Final = "p2pstream.io/agent-id"
MAX_LABELS: Final = 64
MAX_LABEL_VALUE_BYTES: Final = 256
MAX_AGENT_NAME_BYTES: Final = 128

_ID = re.compile(ID_PATTERN)
_LABEL_KEY = re.compile(LABEL_KEY_PATTERN)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ENCODED_CONTROL = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_SEPARATOR = re.compile(r"/|%2[Ff]|%5[Cc]")  # one that is encoded makes a `..` no less of one
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Nearly every prefix: nothing in it that could be at fault. Looked at closely, ten thousand cost
# thirty milliseconds.
_PLAIN_PREFIX = re.compile(r"/|(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")

# Fields that say where a message ends or belong to one hop (RFC 9110 §7.6.1, RFC 9112 §6): ours
# to write. `Proxy-*` goes with them.
FRAMING_NAMES: Final = frozenset(
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"]
)


def parse_id(text: str) -> str:
    """Parse an id, or a target's name."""
    if not _ID.fullmatch(text):
        raise ValueError(
            "must be 1-64 letters, digits, `_`, `.` or `-`, beginning with a letter or digit, "
            f"got {quote(text)}"
        )
    return text


def parse_agent_name(text: str) -> str:
    """Parse what people call an agent: 1-128 bytes of UTF-8, no control characters."""
    if not 1 <= len(text.encode()) <= MAX_AGENT_NAME_BYTES:
        raise ValueError(
            f"must be between 1 and {MAX_AGENT_NAME_BYTES} bytes, got {len(text.encode())}"
        )
    if _CONTROL.search(text):
        raise ValueError("must not have control characters in it")
    return text


def parse_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Parse an agent's labels, sorted by key; the reserved prefix is refused."""
    for key in labels:
        if key.startswith(RESERVED_LABEL_PREFIX):
            raise ValueError(f"label `{key}`: keys under `{RESERVED_LABEL_PREFIX}` are ours to set")
    return _labels(labels)


def parse_selector_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Parse `match_labels`: at least one; of the reserved keys only the one that exists."""
    if not labels:
        raise ValueError("must have at least one label")
    for key in labels:
        if key.startswith(RESERVED_LABEL_PREFIX) and key != AGENT_ID_LABEL:
            raise ValueError(
                f"label `{key}`: no agent has it; the only one under `{RESERVED_LABEL_PREFIX}` "
                f"is `{AGENT_ID_LABEL}`"
            )
    return _labels(labels)


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise ValueError(f"must have at most {MAX_LABELS} labels, got {len(labels)}")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"label {quote(key)}: a key is 1-128 letters, digits, `_`, `.`, `/` or `-`, "
                "beginning and ending with a letter or digit"
            )
        if len(value.encode()) > MAX_LABEL_VALUE_BYTES:
            raise ValueError(
                f"label `{key}`: a value has at most {MAX_LABEL_VALUE_BYTES} bytes, "
                f"got {len(value.encode())}"
            )
        if _CONTROL.search(value):
            raise ValueError(f"label `{key}`: a value has no control characters")
    return dict(sorted(labels.items()))


def parse_cidr(text: str) -> str:
    """Parse a network such as `10.0.0.0/8`; a bare address is a network of one."""
    try:
        network = ip_network(text, strict=False)
    except ValueError as reason:
        raise ValueError(
            f"must be a network such as 10.0.0.0/8 or fd00::/8, got {quote(text)}"
        ) from reason
    address = ip_address(text.partition("/")[0])
    if address != network.network_address:
        raise ValueError(f"has bits set past its prefix: {network} is the network of {text}")
    return str(network)


def parse_bind_address(text: str) -> str:
    """Parse an IPv4 or IPv6 address of this host, brackets allowed; empty for all of them."""
    if text == "":
        return ""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ip_address(inner).compressed
    except ValueError as reason:
        raise ValueError(
            f"must be an IPv4 or IPv6 address, or empty for all, got {quote(text)}"
        ) from reason


def parse_base_url(text: str) -> str:
    """Parse an http(s) URL that may have a path; the result has no final `/`."""
    url = Url.parse(text)
    if url.query is not None or url.fragment is not None:
        raise ValueError("must not have a query or a fragment")
    if url.path:
        parse_path(url.path)
    return f"{url.origin}{url.path.rstrip('/')}"


def parse_path(text: str) -> str:
    """Check a path (with a query, if any) as it may stand in a request line (RFC 9112 §3.2.1)."""
    if not text.startswith("/"):
        raise ValueError("must start with `/`")  # not repeated: it may be a URL with a password
    if not text.isascii() or _CONTROL.search(text) or " " in text or "\\" in text or "#" in text:
        raise ValueError(
            "must be as it stands in a URL: no blanks, controls, `\\`, `#` or non-ASCII; "
            "percent-encode them"
        )
    if _BAD_ESCAPE.search(text):
        raise ValueError("has a `%` that is not followed by two hexadecimal digits")
    return text


def parse_path_prefix(text: str) -> str:
    """Check a route's prefix, kept as written; escapes mean what they mean in a request."""
    if _PLAIN_PREFIX.fullmatch(text):
        return text
    if not text.startswith("/"):
        raise ValueError(f"must start with `/`, got {quote(text)}")
    if _CONTROL.search(text) or any(character in text for character in "\\?#"):
        raise ValueError("must be a path: no control characters, `\\`, `?` or `#`")
    if _BAD_ESCAPE.search(text):
        raise ValueError("has a `%` that is not followed by two hexadecimal digits (`%25` is a %)")
    if _ENCODED_CONTROL.search(text):
        raise ValueError("must not have an encoded control character: such requests are refused")
    segments = _SEPARATOR.split(re.sub("%2[eE]", ".", text))
    if "." in segments or ".." in segments:
        raise ValueError("must not have a `.` or `..` segment: such requests are always refused")
    return text


def parse_request_header_name(text: str) -> str:
    """Check a name for `upstream_request_headers`: not framing, not hop-by-hop, not Host."""
    if text.lower() == "host":
        raise ValueError(
            "`Host` cannot be set: it is the origin's, or the client's with preserve_host = true"
        )
    if text.lower() == "expect":
        raise ValueError("`Expect` cannot be set: it belongs to one hop")
    return parse_response_header_name(text)


def parse_response_header_name(text: str) -> str:
    """Check a name for `static_response_headers`: not framing, not hop-by-hop (RFC 9110)."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quote(text)} is not a field name (RFC 9110: letters, digits and `-`)")
    plain = text.lower().replace("_", "-")  # some origins read `Content_Length` as the real one
    if plain in FRAMING_NAMES or plain.startswith("proxy-"):
        raise ValueError(f"`{text}` cannot be set: it is a framing or hop-by-hop field")
    return text


def parse_header_value(text: str) -> str:
    """Check a field value (RFC 9110 §5.5): ASCII alone. Never repeated: it may be a secret."""
    if not text.isascii() or _CONTROL.search(text.replace("\t", " ")):
        raise ValueError("must be a field value: ASCII, and no line breaks or control characters")
    if text != text.strip(" \t"):
        raise ValueError("must not begin or end with a blank")
    return text
