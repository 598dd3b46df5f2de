"""The JSON API under `/api/v1/`, for the administrator alone."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Final

from p2pstream.config.scalars import TokenHash
from p2pstream.manage.admin import UNAUTHORIZED, is_admin
from p2pstream.manage.server import Exchange, Router
from p2pstream.manage.views import Json
from p2pstream.net.http import Response

STATUS: Final = "/api/v1/status"

_JSON: Final = (("content-type", "application/json"), ("cache-control", "no-store"))


def add_to(router: Router, admin: TokenHash, status: Callable[[], Json]) -> None:
    """Add the API's handlers."""
    router.add("GET", STATUS, _guarded(admin, status))


def _guarded(
    admin: TokenHash, view: Callable[[], Json]
) -> Callable[[Exchange], Awaitable[Response | None]]:
    """A handler that shows a view to who has the admin token."""

    async def handle(exchange: Exchange) -> Response:
        if not is_admin(exchange.request, admin):
            return UNAUTHORIZED
        return Response(200, json.dumps(view()).encode(), _JSON)

    return handle
