"""Reload: a transaction from the file to the running server (spec §1).

    read      the file, its expectations, what it changes       in a child: see `loading`
    compile   the snapshot, where it differs; certificates      in a thread
    prepare   admin token and access log are opened, new sockets bound
    swap      one step, in which nothing can fail               `process`
    let go    what the old configuration left is freed

Rules:

1. Any fault before the swap leaves everything as it was: what runs, what the next reload is
   compared with, and what is open.
2. One reload at a time. Who asks while one runs gets the one after it, which reads the file later
   than the asking; all who ask meanwhile get the same one.
3. A setting that needs another start is told, and waits for it; everything else is in force.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, evolve, field, frozen

from p2pstream.config.load import Loaded
from p2pstream.config.model import Config
from p2pstream.config.plan import Plan
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.replies import Unavailable
from p2pstream.observe.access import Opened
from p2pstream.policy.route import RouteTable
from p2pstream.policy.state import TargetState
from p2pstream.runtime.listeners import Contexts, Listeners, Prepared
from p2pstream.runtime.loading import Read, read_aside, without_text
from p2pstream.snapshot import Snapshot, compile_snapshot

log = logging.getLogger(__name__)

# What a running server takes over of `[server]` and `[management]`; the rest is bound to its
# sockets, its directory or its certificate.
_AT_ONCE: Final = frozenset(
    {
        "server.log_level",
        "server.log_format",
        "server.shutdown_grace_millis",
        "server.retention_days",
        "server.access_log",
        "management.admin_token_hash",
    }
)
# Routes freed in one go: about a millisecond.
_SLICE: Final = 500
# Routes and connections with which a whole collection takes less than about ten milliseconds.
_FEW: Final = 2_000
_NOWHERE: Final = RouteTable((), None)
_LATER: Final = "takes effect at the next start"


@frozen
class Outcome:
    """What came of a reload: the lines of its plan, none if nothing changed; or its faults."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    exit_code: int = 0
    """As of a command: 3 if the file is at fault, 1 if the system is."""


@define(eq=False)
class _Run:
    """A reload that was asked for."""

    done: trio.Event = field(factory=trio.Event)
    outcome: Outcome = field(factory=Outcome)
    by: set[str] = field(factory=set)
    """Who asked: `SIGHUP`, `api`."""


@frozen
class Ready:
    """What a configuration needs beside its snapshot, and what could have failed."""

    admin: TokenHash
    log: Opened
    sockets: Prepared


LetGo = Callable[[], Awaitable[None]]

Swap = Callable[[Loaded, Snapshot, Ready], LetGo]
"""Takes a configuration over, in one step; returns what is to be done when that is done."""

# What is asked for a reload while the server leaves.
STOPPING: Final = Outcome(faults=("the server is stopping",), exit_code=CommandError.exit_code)

# An empty file is valid TOML, and what an editor or a copy leaves behind for a moment.
_NOTHING_LEFT: Final = (
    "has no enabled listener any more, as if it were only half written; to serve nothing, stop "
    "the server"
)


def _serves(config: Config) -> bool:
    return any(listener.enabled for listener in config.listeners)


def told(changes: Plan) -> list[str]:
    """The lines of a plan, and which of them wait for the next start."""
    later = {f"~ {text}" for text in changes.settings if text.partition(":")[0] not in _AT_ONCE}
    return [f"{line} ({_LATER})" if line in later else line for line in changes.lines()]


class Reloading:
    """Which configuration runs, and how another one takes its place."""

    def __init__(
        self,
        config_file: Path,
        loaded: Loaded,
        snapshot: Snapshot,
        listeners: Listeners,
        prepare: Callable[[Config], Awaitable[tuple[TokenHash, Opened]]],
        swap: Swap,
    ) -> None:
        """`prepare` opens what is no socket; it may raise `CommandError`."""
        self.config_file = config_file
        self.loaded = without_text(loaded)
        self._snapshot = snapshot
        self._listeners = listeners
        self._prepare = prepare
        self._swap = swap
        self._stopping = False
        self._next = _Run()
        self._wanted = trio.Event()
        self.on_outcome: Callable[[str, Outcome], object] = lambda _, __: None
        """Told who asked, and what came of it."""

    def ask(self, by: str = "SIGHUP") -> _Run:
        """Want a reload; does not wait for it. There is none any more once `serve` has ended."""
        self._next.by.add(by)
        self._wanted.set()
        return self._next

    async def reload(self) -> Outcome:
        """Want a reload, and wait for what comes of it: `STOPPING` if the server leaves."""
        if self._stopping:
            return STOPPING
        run = self.ask("api")
        await run.done.wait()
        return run.outcome

    async def serve(self) -> None:
        """Do the reloads that are wanted, one after another, until cancelled (rule 2)."""
        run = self._next
        try:
            while True:
                await self._wanted.wait()
                run, self._next, self._wanted = self._next, _Run(), trio.Event()
                run.outcome = await self._once()
                self.on_outcome(", ".join(sorted(run.by)), run.outcome)
                run.done.set()
        finally:
            self._stopping = True
            for waiting in {run, self._next}:
                if not waiting.done.is_set():
                    waiting.outcome = STOPPING
                    waiting.done.set()

    async def plan(self) -> Plan:
        """What a reload would change. Errors: `ConfigError`, `CommandError` (`Unavailable`)."""
        if self._stopping:
            raise Unavailable(*STOPPING.faults)
        return (await read_aside(self.config_file, self.loaded)).changes

    async def _once(self) -> Outcome:
        begun = trio.current_time()
        gc.disable()  # most of what is made now stays: looking it through would be a pause
        try:
            read = await read_aside(self.config_file, self.loaded)
            if not _serves(read.loaded.config) and _serves(self.loaded.config):
                raise ConfigError((f"{self.config_file}: {_NOTHING_LEFT}",))
            if read.changes.is_empty:
                self.loaded = evolve(self.loaded, declared=read.loaded.declared)  # lines may move
            else:
                await self._take_over(read)
        except ConfigError as error:
            return _refused(error.faults, error.exit_code)
        except CommandError as error:
            return _refused((str(error),), error.exit_code)
        except Exception as error:  # rule 1: a bulkhead, for what nobody foresaw
            log.exception("reload crashed")
            # Not its text, which may repeat what was read: the token of the administrator, say.
            why = f"an unforeseen {type(error).__name__}; the server's log says more"
            return _refused((why,), CommandError.exit_code)
        finally:
            gc.enable()
        for warning in read.loaded.warnings:
            log.warning("%s", warning)
        lines = told(read.changes)
        for line in lines:
            log.info("reload: %s", line)
        if lines:
            log.info("reload done in %.2f s", trio.current_time() - begun)
        else:
            log.info("reload: nothing changed")
        return Outcome(tuple(lines), read.loaded.warnings)

    async def _take_over(self, read: Read) -> None:
        loaded, config = read.loaded, read.loaded.config
        renewed = loaded.renewed_since(self.loaded)
        snapshot, contexts = await trio.to_thread.run_sync(
            partial(_compile, loaded, self._snapshot, self._listeners, renewed)
        )
        with ExitStack() as undo:
            admin, opened = await self._prepare(config)
            undo.callback(opened.close)
            sockets = self._listeners.prepare(config, contexts)
            undo.callback(self._listeners.forget, sockets)
            let_go = self._swap(loaded, snapshot, Ready(admin, opened, sockets))
            self.loaded, self._snapshot = loaded, snapshot
            undo.pop_all()
        await self._finish(let_go, len(config.routes))

    async def _finish(self, let_go: LetGo, routes: int) -> None:
        """Let the old configuration go. The new one is in force, whatever goes wrong here."""
        try:
            with trio.CancelScope(shield=True):
                await let_go()
        except Exception:  # a bulkhead, for what nobody foresaw
            log.exception("reload: not all that was before could be let go")
        self._tidy(routes)

    def _tidy(self, routes: int) -> None:
        """Find what the old configuration left in cycles, or put it off if that took long."""
        if routes + sum(self._listeners.connections().values()) <= _FEW:
            gc.collect()
        else:
            # Everything counts as old from now on, without having been looked through: otherwise
            # the next collection of the young would begin with all that was just made.
            gc.freeze()
            gc.unfreeze()


def _compile(
    loaded: Loaded, before: Snapshot, listeners: Listeners, renewed: frozenset[Path]
) -> tuple[Snapshot, Contexts]:
    return compile_snapshot(loaded.config, before), listeners.contexts(loaded.config, renewed)


async def let_go(old: Snapshot, new: Snapshot, states: list[TargetState]) -> None:
    """Free a configuration that was swapped out, a little at a time, but for what the new one kept.

    `states` are those that the board had for what changed; the list is emptied. They and their
    groups know each other, so that only the collector would free them, and what they belong to.

    Its tables are emptied rather than left: an idle or upgraded connection holds the plan of its
    listener until its next request, and a hundred of those could hold a hundred configurations.
    Nobody asks them any more, because a request takes the newest plan of its listener. Only where
    that is gone, a connection's last request is still served by the old one.
    """
    for listener_id in old.listeners.keys() & new.listeners.keys():
        object.__setattr__(old.listeners[listener_id], "table", _NOWHERE)
    while states:
        for _ in range(min(_SLICE, len(states))):
            del states.pop().group
        await trio.lowlevel.checkpoint()
    for table in (old.tables.targets, old.tables.routes, old.tables.listeners):
        assert isinstance(table, dict)
        while table:
            for _ in range(min(_SLICE, len(table))):
                table.popitem()
            await trio.lowlevel.checkpoint()


def _refused(faults: tuple[str, ...], exit_code: int) -> Outcome:
    for fault in faults:
        log.error("reload refused: %s", fault)
    return Outcome(faults=faults, exit_code=exit_code)
