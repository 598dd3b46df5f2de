"""The JSON API under `/api/v1/`: the endpoints of `endpoints`, served.

    who asks       `guard`: the administrator, or 401, 403, 429
    what is asked  `endpoints`: what the table does not allow is 400
    the answer     a view of the running server, from `runtime.answers`

What is refused answers `{"faults": [...], "exit_code": n}`, with the exit code that a command
leaves with: 422 and 3 for the file, 400 and 2 for the question, 404 for an id that is not there,
500 and 1 for the system, 503 and 1 for what cannot be had now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.encoding import encoded
from p2pstream.manage.endpoints import ENDPOINTS, EXPLAIN, PLAN, RELOAD, STATUS, Endpoint
from p2pstream.manage.guard import Guard
from p2pstream.manage.openapi import description
from p2pstream.manage.replies import Unavailable, json_response, refusal
from p2pstream.manage.server import Exchange, Handler, Router
from p2pstream.net.http import Response

__all__ = ["EXPLAIN", "PLAN", "RELOAD", "STATUS", "NotThere", "Question", "View", "add_to"]

_USAGE: Final = 2

Question = Mapping[str, Any]
"""The values of a question's parameters, and of the names in its path."""

View = Callable[[Question], Awaitable[object]]
"""Makes an answer that JSON takes; `ConfigError`, `CommandError` and `ValueError` are refusals."""


class NotThere(CommandError):
    """There is no object of this id."""


def add_to(router: Router, guard: Guard, views: Mapping[str, View]) -> None:
    """Serve every endpoint; `views` are by the endpoint's name."""

    async def openapi(_: Question) -> object:
        return description(router.base)

    handlers: dict[str, Handler] = {
        "login": guard.login,
        "logout": guard.logout,
        "session": guard.session,
    }
    for name, view in {**views, "openapi": openapi}.items():
        handlers[name] = _handler(guard, ENDPOINTS[name], view)
    for name, handler in handlers.items():
        router.add(ENDPOINTS[name].method, ENDPOINTS[name].path, handler)


def _handler(guard: Guard, endpoint: Endpoint, view: View) -> Handler:
    async def handle(exchange: Exchange) -> Response:
        refused = guard.refuse(exchange)
        if refused is not None:
            return refused
        try:
            answer = await view(endpoint.read(exchange.request.query, exchange.values))
        except ConfigError as error:
            return refusal(error.faults, error.exit_code)
        except NotThere as error:
            return refusal((str(error),), error.exit_code, status=404)
        except Unavailable as error:
            return refusal((str(error),), error.exit_code, status=503)
        except CommandError as error:
            return refusal((str(error),), error.exit_code)
        except ValueError as error:
            return refusal((str(error),), _USAGE)
        return json_response(await encoded(answer))

    return handle
