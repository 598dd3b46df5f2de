"""What the API answers about the running server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage import api, live_views
from p2pstream.manage.question import parse_question
from p2pstream.manage.views import Json
from p2pstream.policy.explain import explain
from p2pstream.runtime.reload import told

if TYPE_CHECKING:
    from p2pstream.runtime.process import Runtime


class Answers:
    """The views of one server process, see `manage.api`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def views(self) -> Mapping[tuple[str, str], api.View]:
        """By method and path."""
        return {
            ("GET", api.STATUS): self.status,
            ("GET", api.PLAN): self.plan,
            ("GET", api.EXPLAIN): self.explain,
            ("POST", api.RELOAD): self.reload,
        }

    async def status(self, _: api.Query) -> Json:
        """What runs."""
        return self._runtime.status()

    async def plan(self, _: api.Query) -> Json:
        """What a reload would change. Errors: `ConfigError`, `CommandError`."""
        changes = await self._runtime.reloading.plan()
        live = live_views.Live.of(
            self._runtime.board, self._runtime.client_counts(), self._runtime.hub.status()
        )
        return {**self._file(), **live_views.plan(changes, told(changes), live)}

    async def explain(self, query: api.Query) -> Json:
        """Where a request would go now. Error: `ValueError`."""
        board = self._runtime.board
        listener_id, request = parse_question(
            self._runtime.config,
            _one(query, "method"),
            _one(query, "url"),
            _one(query, "listener"),
            query.get("header", ()),
        )
        explanation = explain(board, listener_id, request)
        agents = self._runtime.hub.status()
        return {**self._file(), **live_views.explain(board, explanation, agents)}

    async def reload(self, _: api.Query) -> Json:
        """Take over the file. Errors: `ConfigError`, `CommandError`."""
        outcome = await self._runtime.reloading.reload()
        if outcome.exit_code == ConfigError.exit_code:
            raise ConfigError(outcome.faults)
        if outcome.exit_code:
            raise CommandError("\n".join(outcome.faults))
        return {
            **self._file(),
            "changed": bool(outcome.lines),
            "lines": list(outcome.lines),
            "warnings": list(outcome.warnings),
        }

    def _file(self) -> Json:
        return {"config_file": str(self._runtime.reloading.config_file.absolute())}


def _one(query: api.Query, name: str) -> str:
    return query.get(name, [""])[-1]
