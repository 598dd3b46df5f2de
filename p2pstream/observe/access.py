"""The access log: one JSON object a line for every request, written beside the traffic.

Rules:

1. Lines are made and written in a thread, a batch at a time, so that a slow disk slows no request.
2. What the disk does not take is dropped, counted and told once: a full disk costs the log, never
   traffic. What waits for a slow disk is bounded.
3. `reopen` lets a rotated file go: lines after it are in the new file, whole lines in either.
4. Nothing waits for who reads a pipe: one that nobody reads cannot be opened, and one that is not
   read for a while costs lines, as a full disk does.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Final

import trio
from attrs import frozen

from p2pstream.errors import CommandError
from p2pstream.observe.records import Record

log = logging.getLogger(__name__)

# Ten seconds of 10,000 requests a second, some 50 MB of records: a disk that is slow for longer
# than that loses lines.
MAX_WAITING: Final = 100_000
# Records in one go: a few milliseconds of a thread that shares the interpreter with requests.
_BATCH: Final = 1_000
_MODE: Final = 0o640  # addresses of clients are in it
# As `open` does with "a", but for pipes (rule 4).
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
# What takes longer to open is on a network file system whose server is gone.
OPEN_SECONDS: Final = 5.0
# How long a full pipe may be left unread: a reader that is at work needs milliseconds.
_READER_SECONDS: Final = 1.0

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


@frozen
class Opened:
    """What `AccessLog.follow` takes: a file that is open already, or None for no log."""

    path: Path | None
    file: FileIO | None

    def close(self) -> None:
        """Let it go: nobody is going to follow it."""
        if self.file is not None:
            self.file.close()


class AccessLog:
    """The file, if one is wanted. `write` is the request side's only call, and never waits."""

    def __init__(self, path: Path | None, name: Callable[[int], str]) -> None:
        """`name` makes a request id's text. Error: `CommandError`."""
        self._name = name
        self._path = path
        self._file = None if path is None else _open_first(path)
        self._next: FileIO | None = None  # in place of `_file`, once that is stale
        self._waiting: list[Record] = []
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._storing = threading.Lock()  # `close` may come while the thread is at work
        self._stale = False
        self._broken = False
        self.dropped = 0
        """Lines that were lost, since the start."""

    async def open(self, path: Path | None) -> Opened:
        """Open what `follow` is to take, if it is another file. Error: `CommandError`."""
        if path is None or path == self._path:
            return Opened(path, None)
        try:
            with trio.fail_after(OPEN_SECONDS):
                file = await trio.to_thread.run_sync(_open_first, path, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise CommandError(
                f"access_log {path}: could not be opened in {OPEN_SECONDS:g} s"
            ) from None
        return Opened(path, file)

    def follow(self, opened: Opened) -> None:
        """Write to this file from now on. Cannot fail: what could has been done by `open`."""
        if opened.path == self._path:
            return
        if opened.path is None:
            self._waiting.clear()
        if self._next is not None:
            self._next.close()  # not written to yet
        self._path, self._next = opened.path, opened.file
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
                await trio.to_thread.run_sync(self._store, *self._take())

    def close(self) -> None:
        """Write what is left, at the end of the process."""
        while self._waiting:
            self._store(*self._take())
            if self._broken:  # nor will it take the next ones, and nobody is to wait for that
                self._lost(len(self._waiting), "it takes no more")
                self._waiting.clear()
        with self._storing:
            for file in (self._file, self._next):
                if file is not None:
                    file.close()
            self._file = self._next = None

    def _take(self) -> tuple[list[Record], Path | None, FileIO | None]:
        """What `_store` is to do: a batch, where to, and a file to let go before."""
        batch, stale = self._waiting[:_BATCH], None
        del self._waiting[:_BATCH]
        if self._stale:
            self._stale = False
            stale, self._file, self._next = self._file, self._next, None
        return batch, self._path, stale

    def _store(self, batch: list[Record], path: Path | None, stale: FileIO | None) -> None:
        """Write a batch; runs in the thread."""
        with self._storing:
            if stale is not None:
                if path is not None and self._file is None:
                    with suppress(OSError):  # the next line tells
                        self._file = _open(path)
                stale.close()  # not before: who reads a pipe would see its end
            if path is not None and batch:
                self._append(batch, path)

    def _append(self, batch: list[Record], path: Path) -> None:
        name = self._name
        data = "".join(line_of(record, name) for record in batch).encode("utf-8")
        try:
            if self._file is None or self._file.closed:
                self._file = _open(path)
        except OSError as error:
            self._lost(len(batch), _why(error))
            return
        kept, problem = _write_lines(self._file.fileno(), data)
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


def _open(path: Path) -> FileIO:
    """Open for appending; closed at the latest when nobody has it any more. Error: `OSError`."""
    return FileIO(path, "ab", opener=lambda name, _: os.open(name, _FLAGS, _MODE))


def _open_first(path: Path) -> FileIO:
    """The same, while it can still be refused. Error: `CommandError`."""
    try:
        return _open(path)
    except OSError as error:
        raise CommandError(f"access_log {path}: {_why(error)}") from error


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _write_lines(fd: int, data: bytes) -> tuple[int, str | None]:
    """Write lines; returns how many bytes of whole ones stand, and what went wrong, if anything.

    Half a line is taken back, as far as the file allows that.
    """
    written = 0
    try:
        with memoryview(data) as view:
            while written < len(view):
                try:
                    written += os.write(fd, view[written:])
                except BlockingIOError:
                    _wait_for_reader(fd)
    except OSError as error:
        kept = data.rfind(b"\n", 0, written) + 1
        with suppress(OSError):  # a pipe has no length
            os.ftruncate(fd, os.fstat(fd).st_size - (written - kept))
        return kept, _why(error)
    return written, None


def _wait_for_reader(fd: int) -> None:
    """Wait until a pipe has room. Error: `OSError` (rule 4)."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(_READER_SECONDS * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "its reader takes no more")
