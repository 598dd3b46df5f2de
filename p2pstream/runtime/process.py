"""One server process: its nursery tree, and what happens to it: reload and drain."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from p2pstream.agents.hub import Hub
from p2pstream.config.load import Loaded, load_with_warnings
from p2pstream.config.model import Config, Listener
from p2pstream.config.plan import plan
from p2pstream.config.scalars import bracketed
from p2pstream.errors import CommandError, ConfigError, Fault
from p2pstream.manage import api, views
from p2pstream.manage.admin import open_admin
from p2pstream.manage.server import Management
from p2pstream.net.stream import Stream
from p2pstream.observe import logs
from p2pstream.observe.counters import Counters
from p2pstream.observe.records import Records
from p2pstream.policy.board import Board
from p2pstream.policy.decide import Choice
from p2pstream.proxy.server import ProxyServer
from p2pstream.proxy.upstream import Upstreams
from p2pstream.runtime.listeners import Listeners, Prepared
from p2pstream.snapshot import Snapshot, TargetPlan, compile_snapshot

log = logging.getLogger(__name__)

# How often cooldowns that ran out are looked for; they are seconds long.
_EXPIRE_SECONDS: Final = 0.25
# How long the goodbyes to the agents may take after the last request has ended.
_GOODBYE_SECONDS: Final = 2.0
_COUNT_SECONDS: Final = 1.0


class Runtime:
    """One server process."""

    def __init__(self, config_file: Path, loaded: Loaded) -> None:
        self.config_file = config_file
        self._loaded = loaded
        self.config = config = loaded.config
        snapshot = compile_snapshot(config)
        self.board = Board(snapshot.tables)
        self.hub = Hub(
            config.agents,
            on_connect=self.board.agent_connected,
            on_disconnect=self._agent_gone,
            on_leaving=self._agent_leaving,
        )
        self.upstreams = Upstreams(self._through_agent)
        self.proxy = ProxyServer(
            snapshot,
            self.board,
            self.upstreams,
            Records(secrets.token_hex(3)),
            self._dial_failed,
        )
        self.counters = Counters()
        self._listeners = Listeners(self.proxy.serve)
        state_dir = config.server.state_dir
        self._management = Management(config.management, state_dir, self.hub)
        api.add_to(self._management.router, open_admin(config.management, state_dir), self.status)

    # --- the tree -------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT. Errors: `CommandError` when it cannot start."""
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                prepared = self._listeners.prepare(self.config)
                await nursery.start(self._management.serve)
                self._listeners.settle(prepared, nursery)
                nursery.start_soon(self._count_forever)
                nursery.start_soon(self.upstreams.close_idle_forever)
                nursery.start_soon(self._expire_forever)
                log.info("serving %s", ", ".join(map(_shown, self.config.listeners)) or "nothing")
                started()
                async for number in signals:
                    if number == signal.SIGHUP:
                        self.reload()
                    else:
                        break
                nursery.start_soon(self._cut_on_second_signal, signals, nursery.cancel_scope)
                await self.drain()
                nursery.cancel_scope.cancel()

    async def _cut_on_second_signal(
        self, signals: AsyncIterator[int], scope: trio.CancelScope
    ) -> None:
        """Whoever signals twice does not want to wait."""
        async for number in signals:
            if number != signal.SIGHUP:
                log.warning("second signal: leaving at once")
                scope.cancel()

    async def _expire_forever(self) -> None:
        while True:
            self.board.expire(trio.current_time())
            await trio.sleep(_EXPIRE_SECONDS)

    async def _count_forever(self) -> None:
        while True:
            await trio.sleep(_COUNT_SECONDS)
            self.counters.add(self.proxy.records.flush())

    async def drain(self) -> None:
        """Stop accepting, let requests end, say goodbye to the agents."""
        grace = self.config.server.shutdown_grace_millis / 1000
        log.info("draining: requests have %g s to end", grace)
        self._listeners.close()
        self.proxy.drain()
        with trio.move_on_after(grace) as scope:
            await self._listeners.drained()
        if scope.cancelled_caught:
            log.warning("%d connections are cut", len(self.proxy.connections))
        with trio.move_on_after(_GOODBYE_SECONDS):
            await self.hub.drain()
        self.upstreams.close()
        log.info("stopped")

    def status(self) -> views.Json:
        """What `p2pstream status` shows."""
        self.counters.add(self.proxy.records.flush())
        return views.status(
            self.proxy.snapshot.tables,
            self.board,
            self.hub.status(),
            self.counters,
            {one.id: _address(one) for one in self.config.listeners if one.enabled},
        )

    # --- agents ---------------------------------------------------------------------------------

    async def _through_agent(
        self, agent_id: str, host: str, port: int, seconds: float, request_id: str
    ) -> Stream:
        return await self.hub.open(agent_id, host, port, request_id, seconds)

    def _agent_leaving(self, agent_id: str) -> None:
        """It takes no new streams; kept-alive connections would only hold it up."""
        self.board.agent_leaving(agent_id)
        self.upstreams.forget_agent(agent_id)

    def _agent_gone(self, agent_id: str, _reason: str) -> None:
        self.board.agent_disconnected(agent_id)
        self.upstreams.forget_agent(agent_id)

    def _dial_failed(self, choice: Choice, fault: Fault) -> None:
        """A real request's connect failed: passive health, and a line for the operator."""
        self.board.report(choice.path, "refused", trio.current_time())
        log.info(
            "target %s of route %s: %s",
            choice.target.name,
            choice.target.route_id,
            fault.detail,
            extra={"fields": {"error_kind": fault.kind}},
        )

    # --- reload ---------------------------------------------------------------------------------

    def reload(self) -> bool:
        """Take over the file as it is now; returns whether it was. Never raises."""
        try:
            loaded = load_with_warnings(self.config_file)
            snapshot = compile_snapshot(loaded.config)
        except ConfigError as error:
            for fault in error.faults:
                log.error("reload refused: %s", fault)
            return False
        for warning in loaded.warnings:
            log.warning("%s", warning)
        changes = plan(self.config, loaded.config, loaded.renewed_since(self._loaded))
        if changes.is_empty:
            log.info("reload: nothing changed")
            return True
        try:
            prepared = self._listeners.prepare(loaded.config)
        except CommandError as error:
            log.error("reload refused: %s", error)
            return False
        self._loaded = loaded
        self._swap(loaded.config, snapshot, prepared)
        for line in changes.lines():
            log.info("reload: %s", line)
        return True

    def _swap(self, config: Config, snapshot: Snapshot, prepared: Prepared) -> None:
        """From here on nothing can fail."""
        logs.configure(config.server.log_level, config.server.log_format)
        self.config = config
        self.board.rebind(snapshot.tables)
        self.proxy.snapshot = snapshot
        gone = self._listeners.settle(prepared, self._nursery)
        self.proxy.drain(gone)
        self.upstreams.retain(
            target.extra
            for target in snapshot.tables.targets.values()
            if isinstance(target.extra, TargetPlan)
        )
        self.hub.apply(config.agents)


def _address(listener: Listener) -> str:
    return f"{listener.protocol}://{bracketed(listener.bind_address) or '*'}:{listener.port}"


def _shown(listener: Listener) -> str:
    return f"{listener.id} on {_address(listener)}"


def prepare_state_dir(state_dir: Path) -> None:
    """Make the state directory, for its owner alone. Error: `CommandError`."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        state_dir.chmod(0o700)
    except OSError as error:
        raise CommandError(f"state_dir {state_dir}: {error.strerror}") from error


def pid_file(state_dir: Path) -> Path:
    """Where a server leaves its process id for `p2pstream reload`."""
    return state_dir / "p2pstream.pid"


def serve(config_file: Path) -> None:
    """`p2pstream serve`. Errors: `ConfigError`, `CommandError`."""
    loaded = load_with_warnings(config_file)
    config = loaded.config
    logs.configure(config.server.log_level, config.server.log_format)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    state_dir = config.server.state_dir
    prepare_state_dir(state_dir)

    async def main() -> None:
        runtime = Runtime(config_file, loaded)
        pid = pid_file(state_dir)
        pid.write_text(f"{os.getpid()}\n")
        try:
            await runtime.run(started=tune_collector)
        finally:
            with suppress(OSError):
                pid.unlink()

    trio.run(main)


def tune_collector() -> None:
    """Keep the cyclic collector away from what lives as long as the process (gc docs, `freeze`)."""
    import gc

    gc.collect()
    gc.freeze()
    # Requests leave almost no cycles; the default (700) would walk the young heap every few
    # hundred requests.
    gc.set_threshold(50_000, 20, 50)
