"""The access log: one JSON object a line for every request, written beside the traffic.

Rules:

1. Lines are made and written in a thread, a batch at a time, so that a slow disk slows no request.
2. What the disk does not take is dropped, counted and told once: a full disk costs the log, never
   traffic. What waits for a slow disk is bounded.
3. `reopen` lets a rotated file go: lines after it are in the new file, whole lines in either.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from p2pstream.errors import CommandError
from p2pstream.observe.records import Record

log = logging.getLogger(__name__)

# Ten seconds of 10,000 requests a second, some 50 MB of records: a disk that is slow for longer
# than that loses lines.
MAX_WAITING: Final = 100_000
# Records in one go: a few milliseconds of a thread that shares the interpreter with requests.
_BATCH: Final = 1_000
_MODE: Final = 0o640  # addresses of clients are in it

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def line_of(record: Record, name: Callable[[int], str]) -> str:
    """One record as a line, with its line end. Durations are milliseconds, sizes bytes."""
    ended = datetime.fromtimestamp(record.ended, UTC)
    fields: dict[str, Any] = {
        "time": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": name(record.request_id),
        "client": record.client,
        "listener": record.listener,
        "route": record.route,
        "target": record.target,
        "agent": record.agent,
        "method": record.method.decode("latin-1"),
        "host": record.host.decode("latin-1"),
        "path": record.path.decode("latin-1"),
        "status": record.status,
        "error_kind": record.error_kind,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_millis": _millis(record.duration),
        "first_byte_millis": _millis(record.first_byte),
        "connect_millis": _millis(record.connect),
        "reused": record.reused,
        "attempts": record.attempts,
    }
    return _encode(fields) + "\n"


def _millis(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


class AccessLog:
    """The file, if one is wanted. `write` is the request side's only call, and never waits."""

    def __init__(self, path: Path | None, name: Callable[[int], str]) -> None:
        """`name` makes a request id's text. Error: `CommandError`."""
        self._name = name
        self._path: Path | None = None
        self._fd = -1
        self._waiting: list[Record] = []
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._stale = False
        self._broken = False
        self.dropped = 0
        """Lines that were lost, since the start."""
        self.follow(path)

    def follow(self, path: Path | None) -> None:
        """Write to this file from now on, None: to none. Error: `CommandError`; all stays then."""
        if path == self._path:
            return
        if path is None:
            self._waiting.clear()
        else:
            os.close(_open(path))  # whether it can be opened is told here, while it can be refused
        self._path = path
        self.reopen()

    def reopen(self) -> None:
        """Let the file go and open it anew, by the next line: it was renamed (SIGUSR1)."""
        self._stale = True
        self._work.set()

    def write(self, records: Iterable[Record]) -> None:
        """Have these records written."""
        if self._path is None:
            return
        self._waiting += records
        excess = len(self._waiting) - MAX_WAITING
        if excess > 0:
            del self._waiting[:excess]
            self._lost(excess, "it is slower than the traffic")
        if self._waiting:
            self._work.set()

    async def run(self) -> None:
        """Write what is given, until cancelled; then `close` writes the rest."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Write what has been given so far."""
        async with self._writing:
            while self._stale or self._waiting:
                # Not to be abandoned when cancelled: the descriptor is in use.
                await trio.to_thread.run_sync(self._store, self._next())

    def close(self) -> None:
        """Write what is left, at the end of the process."""
        while self._waiting:
            self._store(self._next())
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _next(self) -> list[Record]:
        batch = self._waiting[:_BATCH]
        del self._waiting[:_BATCH]
        return batch

    def _store(self, batch: list[Record]) -> None:
        """Write a batch; runs in the thread."""
        if self._stale:
            self._stale = False
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        path, name = self._path, self._name
        if path is None or not batch:
            return
        data = "".join(line_of(record, name) for record in batch).encode("utf-8")
        try:
            if self._fd < 0:
                self._fd = _open(path)
        except CommandError as error:
            self._lost(len(batch), str(error.__cause__ or error).lower())
            return
        kept, problem = _write_lines(self._fd, data)
        if problem is not None:
            self._lost(data.count(b"\n", kept), problem)
        elif self._broken:
            self._broken = False
            log.warning("access log %s: written again; %d lines were lost", path, self.dropped)

    def _lost(self, count: int, why: str) -> None:
        self.dropped += count
        if not self._broken:
            self._broken = True
            log.error("access log %s: lines are lost: %s", self._path, why)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise CommandError(
            f"access_log {path}: {(error.strerror or str(error)).lower()}"
        ) from error


def _write_lines(fd: int, data: bytes) -> tuple[int, str | None]:
    """Write lines; returns how many bytes of whole ones stand, and what went wrong, if anything.

    Half a line is taken back, as far as the file allows that.
    """
    written = 0
    try:
        with memoryview(data) as view:
            while written < len(view):
                written += os.write(fd, view[written:])
    except OSError as error:
        kept = data.rfind(b"\n", 0, written) + 1
        with suppress(OSError):  # a pipe has no length
            os.ftruncate(fd, os.fstat(fd).st_size - (written - kept))
        return kept, (error.strerror or str(error)).lower()
    return written, None
