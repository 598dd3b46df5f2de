r"""The `Location` of a redirect route (spec §4), most of it worked out at reload.

Rule 1  The authority is the configured one or none. A suffix is joined with exactly one `/`, so
        that what a client sends can never begin a new authority (`//evil`, `/\evil`).
Rule 2  What the client sent keeps its encoding; the path was inspected before (`path.inspect`).
Rule 3  Order: configured path, suffix, configured query, incoming query, configured fragment.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from p2pstream.config.model import Route
from p2pstream.config.scalars import Origin, Url
from p2pstream.policy.path import split_prefix

_LOCAL = re.compile(r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?", re.DOTALL)
# RFC 3986's reserved characters and `%`: what is written stays; what no URI may have is encoded.
_KEEP = "/?#[]@!$&'()*+,;=:%-._~"


class Redirect:
    """One redirect route, ready to answer; `status` is 301, 302, 307 or 308."""

    __slots__ = (
        "_base",
        "_depth",
        "_fragment",
        "_keep_query",
        "_keep_suffix",
        "_query",
        "_whole_path",
        "status",
    )

    def __init__(self, route: Route) -> None:
        self.status: int = route.redirect_status_code
        self._keep_query = route.redirect_preserve_query
        base, query, fragment = _taken_apart(route)
        self._base = base
        self._query = query
        self._fragment = b"" if fragment is None else b"#" + fragment
        self._whole_path = route.redirect_target_mode == "external_origin_keep_path"
        self._keep_suffix = route.redirect_preserve_path_suffix
        self._depth = 0 if route.path_prefix is None else len(split_prefix(route.path_prefix)[0])

    def location(self, path: bytes, query: bytes | None) -> bytes:
        """Return the field's value. `path` and `query` are as they came; None is no `?` at all."""
        parts = [self._path(path)]
        separator = b"?"
        if self._query is not None:
            parts += (separator, self._query)
            separator = b"&" if self._query else b""
        if query and self._keep_query:
            parts += (separator, query)
        parts.append(self._fragment)
        return b"".join(parts)

    def _path(self, path: bytes) -> bytes:
        if self._whole_path:
            return self._base + (path if path.startswith(b"/") else b"/")
        suffix = self._suffix_of(path) if self._keep_suffix else b""
        if not suffix:
            return self._base
        return self._base.rstrip(b"/") + b"/" + suffix

    def _suffix_of(self, path: bytes) -> bytes:
        """What follows the prefix, which has `_depth` segments, without the `/` that joins it."""
        pieces = path.split(b"/", self._depth + 1)
        return pieces[-1].lstrip(b"/") if len(pieces) == self._depth + 2 else b""


def _taken_apart(route: Route) -> tuple[bytes, bytes | None, bytes | None]:
    """Base (all before the query), query and fragment of `redirect_target`, in ASCII."""
    text = route.redirect_target or "/"
    if route.redirect_target_mode == "external_origin_keep_path":
        return str(Origin.parse(text)).encode(), None, None
    if route.redirect_target_mode == "absolute_url":
        url = Url.parse(text)
        base = str(url.origin) + quote(url.path, safe=_KEEP)
        return base.encode(), _encoded(url.query), _encoded(url.fragment)
    match = _LOCAL.fullmatch(text)
    assert match is not None  # the pattern takes any text
    path = "/" + match["path"].lstrip("/")
    return quote(path, safe=_KEEP).encode(), _encoded(match["query"]), _encoded(match["fragment"])


def _encoded(part: str | None) -> bytes | None:
    return None if part is None else quote(part, safe=_KEEP).encode()
