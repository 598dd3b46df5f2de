"""A request as someone writes it down: `GET https://app.example.com/api?x=1`.

For `explain` and `[[expectations]]`; live requests come from `wire.http1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, cast

from attrs import frozen

from p2pstream.config.hosts import DEFAULT_PORTS
from p2pstream.config.model import Config, Listener
from p2pstream.config.scalars import bracketed, normalize_host

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 §5.6.2
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL | re.IGNORECASE,
)
_PORT = re.compile(r":([0-9]+)\Z")


@frozen
class Request:
    """What routing sees of a request; `path` and `query` are bytes as they would come.

    `port` is the URL's, or its scheme's own. A fragment is never sent, so it is dropped.
    """

    method: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    path: bytes
    query: bytes | None

    @classmethod
    def parse(cls, text: str, headers: Iterable[tuple[str, str]] = ()) -> Request:
        """Parse `METHOD URL`; a `Host` among `headers` stands for the URL's host.

        `ValueError` with a text for the operator. The path is not judged: that is routing's.
        """
        method, _, url = text.strip().partition(" ")
        if not _METHOD.fullmatch(method) or not url.strip():
            raise ValueError("must be a method and a URL, as in `GET https://app.example.com/api`")
        match = _URL.fullmatch(url.strip())
        if match is None:
            raise ValueError("must have a URL that begins with http:// or https://")
        if " " in url.strip():
            raise ValueError("must not have a blank in its URL; write it %20")
        scheme = cast('Literal["http", "https"]', match["scheme"].lower())
        authority = match["authority"]
        port = _PORT.search(authority)
        query = match["query"]
        named = next((value for name, value in headers if name.lower() == "host"), authority)
        try:
            host = normalize_host(named.strip())
        except ValueError as reason:
            raise ValueError(f"has a host that is none: {named}") from reason
        return cls(
            method=method,
            scheme=scheme,
            host=host,
            port=int(port[1]) if port else DEFAULT_PORTS[scheme],
            path=match["path"].encode() or b"/",
            query=None if query is None else query.encode(),
        )

    def __str__(self) -> str:
        authority = bracketed(self.host)
        if self.port != DEFAULT_PORTS[self.scheme]:
            authority += f":{self.port}"
        target = self.path if self.query is None else self.path + b"?" + self.query
        return f"{self.method} {self.scheme}://{authority}{target.decode('utf-8', 'replace')}"


def find_listener(config: Config, request: Request) -> Listener:
    """Return the enabled listener that a URL means: by scheme and port, or the only one there is.

    `LookupError` with a text for the operator if that leaves none, or a choice.
    """
    enabled = [listener for listener in config.listeners if listener.enabled]
    same_scheme = [listener for listener in enabled if listener.protocol == request.scheme]
    same_port = [listener for listener in same_scheme if listener.port == request.port]
    for found in (same_port, same_scheme, enabled):
        if len(found) == 1:
            return found[0]
    names = ", ".join(f"{listener.id} (port {listener.port})" for listener in enabled)
    raise LookupError(f"which listener? There are: {names or 'none that is enabled'}")
