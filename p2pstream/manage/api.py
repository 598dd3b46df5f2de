"""The JSON API under `/api/v1/`, for the administrator alone.

| request | answer |
|---|---|
| `GET status` | what `p2pstream status` shows |
| `GET plan` | what a reload of the server's own file would change, and touch |
| `GET explain?method=…&url=…[&listener=…][&header=…]…` | where that request would go now |
| `POST reload` | does what SIGHUP does, and tells what came of it |

What is refused answers `{"faults": [...], "exit_code": n}`, with the exit code that a command
leaves with: 422 and 3 for the file, 400 and 2 for the question, 500 and 1 for the system.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final
from urllib.parse import parse_qs

from p2pstream.config.scalars import TokenHash
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.admin import UNAUTHORIZED, is_admin
from p2pstream.manage.server import Exchange, Router
from p2pstream.manage.views import Json
from p2pstream.net.http import Response

STATUS: Final = "/api/v1/status"
PLAN: Final = "/api/v1/plan"
EXPLAIN: Final = "/api/v1/explain"
RELOAD: Final = "/api/v1/reload"

_JSON: Final = (("content-type", "application/json"), ("cache-control", "no-store"))
_STATUS_OF: Final = {1: 500, 2: 400, 3: 422}

Query = Mapping[str, list[str]]
View = Callable[[Query], Awaitable[Json]]
"""Makes an answer; `ConfigError`, `CommandError` and `ValueError` are refusals."""


def add_to(
    router: Router, admin: Callable[[], TokenHash], views: Mapping[tuple[str, str], View]
) -> None:
    """Serve each view, by method and path, to who has the admin token of the moment."""
    for (method, path), view in views.items():
        router.add(method, path, _guarded(admin, view))


def _guarded(
    admin: Callable[[], TokenHash], view: View
) -> Callable[[Exchange], Awaitable[Response | None]]:
    async def handle(exchange: Exchange) -> Response:
        if not is_admin(exchange.request, admin()):
            return UNAUTHORIZED
        try:
            answer = await view(parse_qs(exchange.request.query, keep_blank_values=True))
        except ConfigError as error:
            return refusal(error.faults, error.exit_code)
        except CommandError as error:
            return refusal((str(error),), error.exit_code)
        except ValueError as error:
            return refusal((str(error),), 2)
        return Response(200, json.dumps(answer).encode(), _JSON)

    return handle


def refusal(faults: Iterable[str], exit_code: int) -> Response:
    """The answer to what cannot be done."""
    body = {"faults": list(faults), "exit_code": exit_code}
    return Response(_STATUS_OF[exit_code], json.dumps(body).encode(), _JSON)
