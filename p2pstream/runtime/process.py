"""One server process: its nursery tree, and what happens to it: reload and drain."""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pstream.agents.hub import Hub
from p2pstream.config.load import Loaded
from p2pstream.config.model import Config, Listener
from p2pstream.config.scalars import TokenHash, bracketed
from p2pstream.errors import CommandError, Fault, P2PStreamError
from p2pstream.health.monitor import Monitor
from p2pstream.manage import api, metrics, pages, views
from p2pstream.manage.admin import open_admin
from p2pstream.manage.checked import load_checked
from p2pstream.manage.guard import Guard
from p2pstream.manage.server import Management
from p2pstream.manage.steps import Steps
from p2pstream.net.origins import Origins
from p2pstream.net.stream import Stream
from p2pstream.net.tuning import tune_allocator, tune_collector
from p2pstream.observe import logs
from p2pstream.observe.access import AccessLog, Opened
from p2pstream.observe.records import Record, Records
from p2pstream.policy.board import Board
from p2pstream.policy.decide import Choice
from p2pstream.policy.state import TargetState
from p2pstream.proxy.server import ProxyServer
from p2pstream.proxy.upstream import Upstreams
from p2pstream.runtime.answers import Answers
from p2pstream.runtime.listeners import Listeners
from p2pstream.runtime.loading import without_text
from p2pstream.runtime.observing import Observing, Present
from p2pstream.runtime.owning import owned
from p2pstream.runtime.reload import LetGo, Ready, Reloading, let_go
from p2pstream.runtime.watching import Watching
from p2pstream.snapshot import Snapshot, TargetPlan, compile_snapshot

log = logging.getLogger(__name__)

_LEAVE: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = (*_LEAVE, signal.SIGHUP, signal.SIGUSR1)
# How often cooldowns that ran out are looked for; they are seconds long.
_EXPIRE_SECONDS: Final = 0.25
# How long the goodbyes to the agents may take after the last request has ended.
_GOODBYE_SECONDS: Final = 2.0
# What a request's system call waits at most while a reload compiles. Less costs more than it
# saves: timers of the kernel are not finer than a tenth of it.
_SWITCH_SECONDS: Final = 0.0005


class Runtime:
    """One server process."""

    def __init__(self, config_file: Path, loaded: Loaded) -> None:
        self.config = config = loaded.config
        snapshot = compile_snapshot(config)
        self.board = Board(snapshot.tables)
        self.hub = Hub(
            config.agents,
            on_connect=self._agent_here,
            on_disconnect=self._agent_gone,
            on_leaving=self._agent_leaving,
            make_room=lambda agent_id: self.upstreams.make_room(agent_id),
        )
        self.origins = Origins(self._through_agent)
        self.upstreams = Upstreams(self.origins)
        self.monitor = Monitor(self.board, self.origins.connect, random.random)
        self.proxy = ProxyServer(
            snapshot,
            self.board,
            self.upstreams,
            Records(secrets.token_hex(3)),
            self._dial_failed,
        )
        self.observing = Observing(
            config.server.state_dir,
            config.server.retention_days,
            self.proxy.records,
            recorded=self._recorded,
            present=self._present,
            agents=self.hub.status,
            wall_clock=self.proxy.wall_clock,
        )
        self.counters = self.observing.counters
        self.access_log = AccessLog(config.server.access_log, self.proxy.records.name)
        self._counted_at = 0.0  # Trio time
        self._listeners = Listeners(self.proxy.serve, self.proxy.refuse)
        self.reloading = Reloading(
            config_file, loaded, snapshot, self._listeners, self._prepare, self._swap
        )
        self.reloading.on_outcome = self.observing.reloaded
        self._reload_scope = trio.CancelScope()
        self._state_dir = state_dir = config.server.state_dir
        self._management = Management(config.management, state_dir, self.hub)
        self._management.ready = lambda: self._serving
        self._serving = False
        self._admin = open_admin(config.management, state_dir)
        self.guard = Guard(lambda: self._admin, config.management)
        self.answers = Answers(self)
        api.add_to(self._management.router, self.guard, self.answers.views())
        pages.add_to(self._management.router)
        self._management.router.add(
            "GET", metrics.PATH, metrics.handler(self.guard, self.counters, self._gauges)
        )
        self.watching = Watching(
            self._management.router,
            self.guard,
            self.answers,
            self.proxy.tracer,
            lambda: self.config,
        )

    # --- the tree -------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT. Errors: `CommandError` when it cannot start."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with self.observing, trio.open_nursery() as nursery:
                self._clients = await nursery.start(_held)
                try:
                    await self._start(nursery)
                    self._serving = True
                    served = [_shown(one) for one in self.config.listeners if one.enabled]
                    log.info("serving %s", ", ".join(served) or "nothing")
                    started()
                    async for number in signals:
                        if number == signal.SIGHUP:
                            self.reloading.ask()
                        elif number == signal.SIGUSR1:
                            self.access_log.reopen()
                        else:
                            break
                    nursery.start_soon(self._cut_on_second_signal, signals, nursery.cancel_scope)
                    await self.drain()
                finally:
                    self._listeners.close()
                    self.upstreams.close()
                    self.observing.count()
                    self.access_log.close()
                nursery.cancel_scope.cancel()

    async def _start(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.monitor.run)
        await nursery.start(self._management.serve)
        contexts = self._listeners.contexts(self.config)
        prepared = self._listeners.prepare(self.config, contexts)
        self._listeners.settle(prepared, self._clients)
        for task in (
            self.observing.run,
            self.access_log.run,
            self.upstreams.close_idle_forever,
            self._expire_forever,
            self._reload_forever,
        ):
            nursery.start_soon(task)

    async def _cut_on_second_signal(
        self, signals: AsyncIterator[int], scope: trio.CancelScope
    ) -> None:
        """Whoever signals twice does not want to wait."""
        async for number in signals:
            if number in _LEAVE:
                log.warning("second signal: leaving at once")
                scope.cancel()

    async def _expire_forever(self) -> None:
        while True:
            self.board.expire(trio.current_time())
            await trio.sleep(_EXPIRE_SECONDS)

    def _recorded(self, records: list[Record]) -> None:
        """Tell of requests that ended; what was answered since the last time proves its path."""
        self.access_log.write(records)
        used = {
            (record.route, record.target, record.agent)
            for record in records
            if record.first_byte is not None
        }
        self.monitor.answered(used, self._counted_at)
        self._counted_at = trio.current_time()

    async def _reload_forever(self) -> None:
        with self._reload_scope:
            await self.reloading.serve()

    async def drain(self) -> None:
        """Stop accepting, let requests end, say goodbye to the agents."""
        self._serving = False  # first of all: a load balancer is to look elsewhere from now on
        self._reload_scope.cancel()
        grace = self.config.server.shutdown_grace_millis / 1000
        log.info("draining: requests have %g s to end", grace)
        self._listeners.close()
        self.proxy.drain()
        with trio.move_on_after(grace) as scope:
            await self._listeners.drained()
        if scope.cancelled_caught:
            log.warning("%d connections are cut", len(self.proxy.connections))
            self._clients.cancel_scope.cancel()
            await self._listeners.drained()  # the goodbye waits for what they have of the agents
        self.monitor.stop()
        await self.watching.drain()
        self.upstreams.close()  # first: the goodbye waits for every stream, the kept-alive ones too
        with trio.move_on_after(_GOODBYE_SECONDS):
            await self.hub.drain()
        log.info("stopped")

    def status(self) -> Steps[views.Json]:
        """What `p2pstream status` shows."""
        self.observing.count()
        return views.status(
            self.board,
            self.hub.status(),
            self.counters,
            {one.id: _address(one) for one in self.config.listeners if one.enabled},
            trio.current_time(),
        )

    def _present(self) -> Present:
        return Present(
            connections=len(self.proxy.connections),
            agents_connected=len(self.board.connected),
            agents_declared=sum(agent.enabled for agent in self.config.agents),
        )

    def _gauges(self) -> metrics.Gauges:
        self.observing.count()
        return metrics.Gauges(
            self.board,
            {agent.agent_id: agent for agent in self.hub.status()},
            self.client_counts(),
            started=self.observing.started,
            reloaded=self.observing.reloaded_at,
            reload_ok=self.observing.reload_ok,
            lost_lines=self.access_log.dropped,
            history_ok=self.observing.history_problem is None,
        )

    def client_counts(self) -> dict[str, int]:
        """How many clients each listener has, by id."""
        return self._listeners.connections()

    # --- agents ---------------------------------------------------------------------------------

    async def _through_agent(
        self, agent_id: str, host: str, port: int, seconds: float, request_id: str
    ) -> Stream:
        return await self.hub.open(agent_id, host, port, request_id, seconds)

    def _agent_here(self, agent_id: str) -> None:
        self.board.agent_connected(agent_id)
        self.monitor.agent_connected(agent_id)
        self.observing.agent_here(agent_id)

    def _agent_leaving(self, agent_id: str) -> None:
        """It takes no new streams; kept-alive connections would only hold it up."""
        self.board.agent_leaving(agent_id)
        self.monitor.agent_leaving(agent_id)
        self.upstreams.forget_agent(agent_id)

    def _agent_gone(self, agent_id: str, reason: str) -> None:
        self.observing.agent_gone(agent_id, reason)
        self.board.agent_disconnected(agent_id)
        self.monitor.agent_disconnected(agent_id)
        self.upstreams.forget_agent(agent_id)

    def _dial_failed(self, choice: Choice, fault: Fault, request_id: str) -> None:
        """A real request's connect failed: passive health, and a line for the operator.

        With health checks on, the monitor has said it once: hundreds may fail on their way.
        """
        self.monitor.refused(choice.path, fault)
        log.log(
            logging.INFO if choice.target.rules is None else logging.DEBUG,
            "target %s of route %s: %s",
            choice.target.name,
            choice.target.route_id,
            fault.detail,
            extra={"fields": {"error_kind": fault.kind, "request_id": request_id}},
        )

    # --- reload ---------------------------------------------------------------------------------

    async def _prepare(self, config: Config) -> tuple[TokenHash, Opened]:
        """Open what a configuration needs beside its sockets. Error: `CommandError`."""
        admin = await trio.to_thread.run_sync(
            open_admin, config.management, self._state_dir, abandon_on_cancel=True
        )
        return admin, await self.access_log.open(config.server.access_log)

    def _swap(self, loaded: Loaded, snapshot: Snapshot, ready: Ready) -> LetGo:
        """Take over what was prepared, all of it in one step: nothing here can fail."""
        config, old = loaded.config, self.proxy.snapshot
        logs.configure(config.server.log_level, config.server.log_format)
        self._admin = ready.admin
        self.config = config
        self.observing.retain(config.server.retention_days)
        replaced = self.board.rebind(snapshot.tables)
        self.proxy.snapshot = snapshot
        gone = self._listeners.settle(ready.sockets, self._clients)
        self.hub.apply(config.agents)
        self.monitor.follow()
        self.access_log.follow(ready.log)
        return partial(self._let_go, old, snapshot, replaced, gone)

    async def _let_go(
        self, old: Snapshot, new: Snapshot, replaced: list[TargetState], gone: frozenset[str]
    ) -> None:
        """What can wait after a swap: in steps of its own, so that no single one is long."""
        await trio.lowlevel.checkpoint()
        self.proxy.drain(gone)
        self.upstreams.retain(
            target.extra
            for target in new.tables.targets.values()
            if isinstance(target.extra, TargetPlan)
        )
        self.origins.read_ca_files_anew()
        await let_go(old, new, replaced)


async def _held(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Be the parent of tasks that may be cut together, before others are."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


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
    loaded = without_text(load_checked(config_file))
    config = loaded.config
    logs.configure(config.server.log_level, config.server.log_format)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    state_dir = config.server.state_dir
    prepare_state_dir(state_dir)

    pid = pid_file(state_dir)

    def started() -> None:
        tune_interpreter()
        pid.write_text(f"{os.getpid()}\n")  # not before: another server may have the ports

    async def main() -> None:
        await Runtime(config_file, loaded).run(started)
        with suppress(OSError):
            pid.unlink()

    tune_allocator()
    logs.catch_unraisable()
    with owned(state_dir):
        try:
            trio.run(main)
        except BaseExceptionGroup as group:
            raise _told(group) from None


def _told(group: BaseExceptionGroup) -> BaseException:
    """What a command may show of it: the one fault that a nursery has wrapped, or all."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner if isinstance(inner, P2PStreamError) else group


def tune_interpreter() -> None:
    """Keep the collector away from what lives as long as the process, and threads from requests."""
    tune_collector()
    # After each system call the event loop has to get the interpreter lock back, and a thread that
    # computes holds it for this long: at the default 5 ms a request's dozen calls take 60 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
