"""Answers of the management port: JSON, refusals, and the fields that all of them carry.

Rules:

1. What is refused under `/api/` answers `{"faults": [...], "exit_code": n}`, with the exit code
   that a command leaves with.
2. Every answer tells browsers to guess no type, to name this page to nobody, and to load and frame
   nothing; a page says itself what it may load.
3. There is no CORS field anywhere: no other site's script may read what stands here.
4. There is no `Strict-Transport-Security`: it counts for every port of the host name, and whether
   the public listeners beside this one speak HTTPS is not ours to promise. Plain HTTP on the
   management port is answered 400 anyway, and cookies are `Secure`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from attrs import evolve

from p2pstream.errors import CommandError
from p2pstream.net.http import Headers, Response

Json = dict[str, Any]


class Unavailable(CommandError):
    """It cannot be had now, and may be later: 503 (RFC 9110 §15.6.4)."""


API: Final = "/api/"

# As commands leave: 3 for the file, 2 for the question, 1 for the system.
_STATUS_OF: Final = {1: 500, 2: 400, 3: 422}
_JSON: Final[Headers] = (("content-type", "application/json"), ("cache-control", "no-store"))
_ALWAYS: Final[Headers] = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    # For browsers that know no `frame-ancestors`, and against being loaded as another site's part.
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
)


def json_response(body: bytes, status: int = 200, headers: Headers = ()) -> Response:
    """An answer whose body is JSON already."""
    return Response(status, body, (*_JSON, *headers))


def as_json(value: object, status: int = 200, headers: Headers = ()) -> Response:
    """A small value as an answer; a large one is encoded by `encoding`."""
    return json_response(json.dumps(value).encode(), status, headers)


def refusal(
    faults: Iterable[str], exit_code: int = 1, status: int = 0, headers: Headers = ()
) -> Response:
    """The answer to what cannot be done (rule 1); the exit code says the status if nothing does."""
    body = {"faults": list(faults), "exit_code": exit_code}
    return as_json(body, status or _STATUS_OF[exit_code], headers)


def not_found(path: str) -> Response:
    """The answer where nothing is; `path` is without the base path."""
    if path.startswith(API):
        return refusal([f"there is nothing at {path}"], status=404)
    return Response.text(404, "not found")


def wrong_method(path: str, allowed: Iterable[str]) -> Response:
    """The answer to a method that means nothing here (RFC 9110 §15.5.6)."""
    text = ", ".join(sorted(allowed))
    allow = (("allow", text),)
    if path.startswith(API):
        return refusal([f"{path} takes {text} alone"], status=405, headers=allow)
    return Response.text(405, "method not allowed", allow)


def secured(response: Response) -> Response:
    """The same with the fields of rule 2, where it has none of its own."""
    have = {name for name, _ in response.headers}
    missing = tuple(field for field in _ALWAYS if field[0] not in have)
    return evolve(response, headers=(*response.headers, *missing))
