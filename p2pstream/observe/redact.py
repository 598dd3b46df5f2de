"""What traces show of requests' fields and queries: never a credential (spec §10). Pure.

Rules, at every level:

1. A field or a query parameter whose name speaks of credentials shows as `[redacted]`, and so does
   a value that begins like one (`Bearer ...`). Better too much than too little.
2. What the operator's file adds to requests is nobody's business, whatever it is called: the value
   is hidden by its field's name, and wherever an origin repeats it.
3. URLs inside values (`Referer`, `Location`, a query's `next=`) lose user information and such
   parameters too, and so do paths (`;jsessionid=...`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import unquote_plus

from p2pstream.wire.http1.head import Field

REDACTED: Final = "[redacted]"

# Parts of names, as in `Proxy-Authorization`, `Set-Cookie`, `X-Api-Key`, `X-Amz-Security-Token`.
_SPEAKING: Final = re.compile(
    "auth|cookie|token|secret|passw|key|session|credential|signature|jwt|csrf|xsrf|saml|assertion",
    re.IGNORECASE,
)
# Parameters that are credentials by custom: an OAuth code, an Azure signature, a session id.
_PARAMETERS: Final = frozenset(
    ("code", "hash", "hmac", "nonce", "otp", "pass", "pin", "pw", "pwd", "sid", "sig", "ticket")
)
_CREDENTIAL: Final = re.compile(
    r"(?:basic|bearer|digest|negotiate|ntlm|hmac|token|apikey|aws4-hmac-sha256)\s+\S", re.IGNORECASE
)
_USER: Final = re.compile(r"://[^/?#\s]*@")
_IN_PATH: Final = re.compile(r";([^;/=?#\s]*)=[^;/?#\s]*")
_QUERY: Final = re.compile(r"(?<=[?#])[^?#\s]+")
# A bare parameter this long is more likely a token than a flag.
_LONG: Final = 16
# A shorter configured value (`1`, `on`) would hide half of what an origin says.
_REPEATED: Final = 4
# People read this; the longest fields are policies and tokens.
_SHOWN: Final = 1_024


def text(raw: bytes) -> str:
    """Bytes of a request as text, cut to what can be read."""
    return _cut(decoded(raw))


def path(raw: bytes) -> str:
    """A path; rule 3."""
    return _cut(_segments(decoded(raw)))


def sentence(words: str) -> str:
    """Words of ours that may repeat what a request said."""
    return _cut(_value(words, ()))


def fields(
    lines: Iterable[Field], hidden: Collection[bytes] = (), values: Iterable[str] = ()
) -> list[list[str]]:
    """Fields as [name, value]. `hidden`: lower-case names (rule 2); `values`: what they say."""
    values = [value for value in values if len(value) >= _REPEATED]
    shown = []
    for lower, name, raw in lines:
        label = text(name)
        if lower in hidden or _SPEAKING.search(label):
            value = REDACTED
        else:
            value = _cut(_value(decoded(raw), values))  # not before: half a secret is one
        shown.append([label, value])
    return shown


def query(raw: bytes) -> str:
    """A query, without its `?`."""
    return _cut(_parameters(decoded(raw)))


def decoded(raw: bytes) -> str:
    """Bytes as text, whole: what is hidden is looked for in it."""
    return raw.decode("utf-8", "backslashreplace")


def _cut(shown: str) -> str:
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _value(value: str, hidden: Iterable[str]) -> str:
    if _CREDENTIAL.match(value):
        return REDACTED
    for one in hidden:
        if one in value:
            return REDACTED
    value = _segments(_USER.sub(f"://{REDACTED}@", value))
    return _QUERY.sub(lambda found: _parameters(found[0]), value)


def _segments(raw: str) -> str:
    """Without the values of path parameters that speak of credentials (RFC 3986 §3.3)."""
    return _IN_PATH.sub(
        lambda found: f";{found[1]}={REDACTED}" if _speaks(found[1]) else found[0], raw
    )


def _speaks(name: str) -> bool:
    plain = unquote_plus(name)
    return plain.lower() in _PARAMETERS or _SPEAKING.search(plain) is not None


def _parameters(raw: str) -> str:
    return "&".join(map(_parameter, raw.split("&")))


def _parameter(raw: str) -> str:
    name, equals, value = raw.partition("=")
    if not equals:
        return REDACTED if len(name) >= _LONG or _SPEAKING.search(unquote_plus(name)) else raw
    plain = unquote_plus(value)
    if _speaks(name) or _CREDENTIAL.match(plain):
        return f"{name}={REDACTED}"
    if "%" in value and _value(plain, ()) != plain:  # a URL in a URL
        return f"{name}={REDACTED}"
    return raw
