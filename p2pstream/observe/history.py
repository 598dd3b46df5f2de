"""The history: what happened, in an SQLite file under `state_dir` (spec §10). Blocks; for a thread.

Rules:

1. One transaction a write: after a `kill -9`, or a power cut, the file is as after one of the last
   writes (WAL, `synchronous = NORMAL`: https://sqlite.org/wal.html).
2. Opening checks the whole file. A damaged one is moved aside, never deleted, and a new one begun.
   One that a newer version made is left alone.
3. Sessions that are open when the file is opened ended unexpectedly, at the last write.
4. Every error is an `sqlite3.Error` or an `OSError`. Afterwards nothing of that write is there, and
   the object is of no more use: `close` it, and open the file anew.

A forked child must not touch what its parent has open, and does not have to: its locks are its own
(fcntl(2)), so that closing the descriptors takes none from the parent (see `runtime.loading`).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from p2pstream.observe import tables
from p2pstream.observe.counters import Count, PathId
from p2pstream.observe.overview import DAY, WINDOWS, Json, Summary
from p2pstream.observe.rollup import MINUTE, Chunk, Slot
from p2pstream.observe.sessions import REMEMBERED_DAYS, Session, Sessions

log = logging.getLogger(__name__)

FILE_NAME: Final = "history.sqlite"
KILLED: Final = "server stopped unexpectedly"
LATEST_RELOADS: Final = 200
# Lines of one reload that are kept: ten thousand new routes are told well enough by a thousand.
_MAX_LINES: Final = 1_000
# A lock that another process holds is waited for so long; who leaves waits for it as well.
_BUSY_SECONDS: Final = 1.0
# The write-ahead log after a checkpoint: large writes should not leave their size behind.
_WAL_BYTES: Final = 4 * 1024 * 1024
# 20 MB in one go, after which whoever waits for the file gets a turn.
_PAGES_GIVEN_BACK: Final = 5_000
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LEVEL_NAMES: Final = {step: name for name, step in tables.LEVELS.items()}


@frozen
class Reload:
    """A reload: what it changed, or why it was refused. `at`: epoch seconds."""

    at: float
    by: str
    """`SIGHUP`, `api`, or both."""
    lines: Sequence[str] = ()
    faults: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether the file was taken over."""
        return not self.faults

    def as_json(self) -> Json:
        """What the API shows."""
        return {
            "at": self.at,
            "by": self.by,
            "ok": self.ok,
            "lines": list(self.lines),
            "faults": list(self.faults),
        }


@frozen
class Batch:
    """What one write brings in."""

    at: float
    """Up to when it tells all, epoch seconds."""
    chunks: Sequence[Chunk] = ()
    sessions: Sequence[Session] = ()
    reloads: Sequence[Reload] = ()


@frozen
class Past:
    """What a start takes from the history."""

    minutes: Sequence[Slot]
    began: float
    """When the oldest of all minutes did."""
    sessions: Sessions
    reloads: Sequence[Reload]
    """Oldest first."""
    closed: int = 0
    """Sessions that the last run left open."""


@frozen
class Window:
    """What happened within a window, as far as it was written."""

    slots: list[Slot] = field(factory=list)
    summary: Summary = field(factory=Summary)


def is_damage(error: Exception) -> bool:
    """Whether the file cannot be read any more: it is to be moved aside."""
    if not isinstance(error, sqlite3.Error):
        return False
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def move_aside(path: Path, now: float) -> Path:
    """Give a damaged file another name, and its companions too; returns it. Error: `OSError`."""
    when = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{when}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


class History:
    """One open file. Errors of all methods: `sqlite3.Error`, `OSError` (rule 4)."""

    def __init__(self, path: Path, *, check: bool) -> None:
        """Open the file, make it if need be; `check` reads all of it."""
        self.path = path
        self._ids: dict[PathId, int] = {}
        _make(path)
        self._inode = path.stat().st_ino
        # Threads take turns with it, one call at a time.
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(check=check)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; never fails."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _prepare(self, *, check: bool) -> None:
        run = self._connection.execute
        (version,) = run("PRAGMA user_version").fetchone()
        if version > len(tables.MIGRATIONS):
            raise sqlite3.NotSupportedError("it was made by a newer version of p2pstream")
        if check:
            (verdict,) = run("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                error = sqlite3.DatabaseError(f"integrity_check: {verdict}")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
        if version == 0:
            run("PRAGMA auto_vacuum = INCREMENTAL")  # before there is any table
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        run("PRAGMA temp_store = MEMORY")
        if version < len(tables.MIGRATIONS):
            with self._transaction():
                for migration in tables.MIGRATIONS[version:]:
                    for statement in migration:
                        run(statement)
                run(f"PRAGMA user_version = {len(tables.MIGRATIONS)}")
        for statement in tables.FRESH:
            run(statement)
        for number, *where in run(tables.PATHS):
            self._ids[PathId(*where)] = number

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    # --- writing --------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """Take in what happened."""
        if self.path.stat().st_ino != self._inode:
            raise sqlite3.OperationalError("the file was replaced")
        run, many = self._connection.execute, self._connection.executemany
        with self._transaction():
            many(tables.ADD_FRESH, self._rows(batch.chunks))
            many(tables.ADD_FRESH_KIND, self._kinds(batch.chunks))
            for statement in (*tables.SPREAD, *tables.EMPTY_FRESH):
                run(statement)
            slots = [slot for chunk in batch.chunks for slot in chunk.slots.values()]
            many(tables.ADD_TOTAL, ((one.at, one.agents, *_numbers(one.total)) for one in slots))
            many(tables.ADD_SESSION, map(_session_row, batch.sessions))
            many(tables.ADD_RELOAD, map(_reload_row, batch.reloads))
            run(tables.SET_WRITTEN_AT, (batch.at,))

    def _rows(self, chunks: Iterable[Chunk]) -> Iterator[Sequence[Any]]:
        for chunk in chunks:
            for path, count in chunk.counts.items():
                yield chunk.at, self._id(path), *_numbers(count)

    def _kinds(self, chunks: Iterable[Chunk]) -> Iterator[Sequence[Any]]:
        for chunk in chunks:
            for (path, kind), seen in chunk.last_seen.items():
                yield chunk.at, self._id(path), kind, chunk.counts[path].kinds[kind], seen

    def _id(self, path: PathId) -> int:
        number = self._ids.get(path)
        if number is None:
            row = self._connection.execute(tables.ADD_PATH, [part or "" for part in path])
            assert row.lastrowid is not None
            number = self._ids[path] = row.lastrowid
        return number

    def prune(self, now: float, retention_days: int) -> None:
        """Forget what is older than the retention; the space is free for what comes, or given back.

        Days are whole: what began within the first of them stays.
        """
        before = int(now // DAY - retention_days) * DAY
        run = self._connection.execute
        with self._transaction():
            for level in tables.LEVELS:
                oldest = before
                if level == "minutes":
                    oldest = max(before, int(now) - tables.MINUTES_KEPT)
                run(f"DELETE FROM {level} WHERE at < ?", (oldest,))
                run(f"DELETE FROM {level}_kinds WHERE at < ?", (oldest,))
            run("DELETE FROM totals WHERE at < ?", (before,))
            run("DELETE FROM reloads WHERE at < ?", (before,))
            long_before = min(before, now - REMEMBERED_DAYS * DAY)
            run(tables.FORGET_SESSIONS, {"before": before, "long_before": long_before})
            run(tables.FORGET_PATHS)
            self._ids = {PathId(*where): number for number, *where in run(tables.PATHS)}
        # It takes a step a page, of which `execute` does one.
        self._connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK})")

    # --- reading --------------------------------------------------------------------------------

    def load(self, now: float, started: float, retention_days: int) -> Past:
        """What happened before `started`, when this process began; closes what it left open."""
        run = self._connection.execute
        with self._transaction():
            row = run(tables.WRITTEN_AT).fetchone()
            written_at = min(row[0], started) if row else 0.0
            closed = run(tables.CLOSE_SESSIONS, (written_at, KILLED, started)).rowcount
        sessions = Sessions(retention_days)
        for row in run(tables.SESSIONS, (started,)):
            sessions.remember(Session(*row))
        sessions.forget(now)
        reloads = [_reload(*row) for row in run(tables.LATEST_RELOADS, (LATEST_RELOADS,))]
        start = WINDOWS["24h"].start(now)
        (began,) = run(tables.BEGAN).fetchone()
        began = started if began is None else began
        return Past(self._slots(start, now, MINUTE), began, sessions, reloads[::-1], closed)

    def window(self, name: str, now: float) -> Window:
        """What happened within one of `overview.WINDOWS`; slots of the step of its charts."""
        window = WINDOWS[name]
        start = window.start(now)
        level = _LEVEL_NAMES[window.level]
        summary = Summary()
        for listener, route, target, agent, *numbers in self._connection.execute(
            tables.SUMS_BY_PATH[level], (start, now)
        ):
            summary.paths[PathId(listener, route, target, agent)] = _count(numbers)
        for listener, route, target, agent, kind, count, seen in self._connection.execute(
            tables.KINDS_BY_PATH[level], (start, now)
        ):
            path = PathId(listener, route, target, agent)
            summary.paths.setdefault(path, Count()).kinds[kind] = count
            summary.last_seen[kind] = max(seen, summary.last_seen.get(kind, seen))
        return Window(self._slots(start, now, window.step), summary)

    def _slots(self, start: int, now: float, step: int) -> list[Slot]:
        asked = {"start": start, "now": now, "step": step}
        rows = self._connection.execute(tables.TOTALS_BY_STEP, asked)
        return [Slot(at, _count(numbers), agents) for at, agents, *numbers in rows]


def _make(path: Path) -> None:
    """A new file is its owner's alone; SQLite gives its companions the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        for suffix in ("-wal", "-shm"):  # of a file that somebody took away
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _numbers(count: Count) -> Sequence[float]:
    return (
        count.requests,
        count.failures,
        count.bytes_in,
        count.bytes_out,
        count.seconds,
        count.origin_errors,
        *count.histogram,
    )


def _count(numbers: Sequence[Any]) -> Count:
    requests, failures, bytes_in, bytes_out, seconds, origin_errors, *histogram = numbers
    return Count(requests, failures, bytes_in, bytes_out, seconds, origin_errors, histogram)


def _session_row(session: Session) -> Sequence[Any]:
    return (
        session.agent,
        session.start,
        session.end,
        None if session.reason is None else _plain(session.reason),
        _plain(session.address),
        _plain(session.version),
    )


def _plain(text: str) -> str:
    """What SQLite takes: no lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _reload_row(reload: Reload) -> Sequence[Any]:
    return (
        reload.at,
        reload.by,
        reload.ok,
        json.dumps(shortened(reload.lines)),
        json.dumps(shortened(reload.faults)),
    )


def _reload(at: float, by: str, _ok: int, lines: str, faults: str) -> Reload:
    return Reload(at, by, tuple(json.loads(lines)), tuple(json.loads(faults)))


def shortened(lines: Sequence[str]) -> Sequence[str]:
    """The first lines of many, and how many there were more."""
    if len(lines) <= _MAX_LINES:
        return lines
    return (*lines[:_MAX_LINES], f"... and {len(lines) - _MAX_LINES} more")
