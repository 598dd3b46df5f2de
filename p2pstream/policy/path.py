"""A request's path as routing sees it; what travels on is always what came (spec §3).

Rule 1  A path is refused when an origin could read it as another path than we did: a `.` or `..`
        segment however it is written, a raw backslash, a control character raw or encoded, an
        escape that is none. Encoded separators count as separators here, so that `..%2f` is
        refused even where a route lets `%2F` through.
Rule 2  Routing compares decoded segments. A `%2F` never separates two of them.
Rule 3  Bytes from 0x80 up pass as they came, as nginx and HAProxy do: RFC 3986 has no place for
        them, but UTF-8 written raw is common and harmless, and escapes and raw bytes match alike.
Rule 4  Decoding happens once: `%252e` is the three characters `%2e`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from p2pstream.errors import InvalidRequestTarget

# Stands for `%2F` in a seen path. Free for that use, because NUL is refused in both spellings.
ENCODED_SLASH: Final = b"\x00"

# Nearly every path: nothing to decode, nothing to refuse. One call, under half a microsecond.
_plain = re.compile(rb"(?:/(?!\.)[^/%\\\x00-\x1f\x7f]*+)+").fullmatch

_bad_byte = re.compile(rb"[\\\x00-\x1f\x7f]").search
_bad_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_encoded_control = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])").search
_dot_segment = re.compile(rb"[/\\]\.\.?(?=[/\\]|\Z)").search
_encoded_slashes = re.compile(rb"%2[Ff]")


def inspect(path: bytes) -> bytes:
    """Return the path as routing sees it: decoded, with `ENCODED_SLASH` for each `%2F`.

    `path` is without query. An empty path is `/` (RFC 9110 §4.2.3), `*` is itself (RFC 9112
    §3.2.4) and has no segments. A plain path is returned as the very same object.
    `InvalidRequestTarget` for what is refused on every route (rule 1).
    """
    if _plain(path):
        return path
    return _inspect_closely(path)


def has_encoded_separators(seen: bytes) -> bool:
    """Whether `%2F` or `%5C` stood in the path that `inspect` saw; only some routes allow them."""
    return ENCODED_SLASH in seen or b"\\" in seen


def _inspect_closely(path: bytes) -> bytes:
    if path == b"*":
        return path
    if path == b"":
        return b"/"
    if not path.startswith(b"/"):
        raise InvalidRequestTarget("the path does not start with /")
    if bad := _bad_byte(path):
        what = "a raw backslash" if bad[0] == b"\\" else "a control character"
        raise InvalidRequestTarget(f"the path has {what}")
    if _bad_escape(path):
        raise InvalidRequestTarget("the path has a % that is not followed by two hex digits")
    if _encoded_control(path):
        raise InvalidRequestTarget("the path has an encoded control character")
    if _dot_segment(unquote_to_bytes(path)):
        raise InvalidRequestTarget("the path has a . or .. segment")
    return unquote_to_bytes(_encoded_slashes.sub(ENCODED_SLASH, path))


def split_prefix(prefix: str) -> tuple[list[bytes], bool]:
    """Split a `path_prefix` into decoded segments, and whether it ends in `/` (then literal).

    `/api` is `[b"api"], False`; `/api/` is `[b"api"], True`; `/` is `[], True`.
    """
    encoded = _encoded_slashes.sub(ENCODED_SLASH, prefix.encode())
    segments = unquote_to_bytes(encoded).split(b"/")[1:]
    if segments[-1]:
        return segments, False
    return segments[:-1], True


def prefix_matches(prefix: str, seen: bytes) -> bool:
    """Whether a route's prefix matches a path from `inspect`; the index must agree with this."""
    wanted, literal = split_prefix(prefix)
    segments = seen.split(b"/")[1:]
    if segments[: len(wanted)] != wanted:
        return False
    return not literal or len(segments) > len(wanted)
