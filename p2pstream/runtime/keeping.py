"""The history's file at work: opened, used in a thread, opened anew after a fault.

Rules:

1. What goes wrong costs history, never traffic: no error leaves this module. `problem` says what
   is wrong, in words for the dashboard; the log says it once, and once that it is over.
2. After a fault the file is closed and opened anew: after a second, then after twice as long up to
   a minute. A damaged one is moved aside in the same step.
3. Who uses it holds `turn`: calls do not overlap, and what the caller keeps beside the file changes
   together with it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from p2pstream.observe.history import FILE_NAME, History, Past, is_damage, move_aside

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS: Final = 1.0
_LAST_RETRY_SECONDS: Final = 60.0
# Who uses it often rests so many times as long as that took: writing costs a twentieth of a
# processor at most, however many paths move, and so does a view.
SHARE: Final = 20

T = TypeVar("T")


class Keeping:
    """The history of one server process."""

    def __init__(self, state_dir: Path, started: float) -> None:
        """`started`: wall clock of this process's begin."""
        self.path = state_dir / FILE_NAME
        self.turn = trio.Lock()
        self.problem: str | None = None
        self.past: Past | None = None
        """What was read from it, until somebody takes it."""
        self._loaded = False
        self.used_seconds = 0.0
        """Processor time of all that was done in threads."""
        self._started = started
        self._history: History | None = None
        self._check = True
        self._retry_at = 0.0  # Trio time
        self._retry_seconds = _FIRST_RETRY_SECONDS

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._history is not None

    def retry_seconds(self) -> float | None:
        """How long until the next try; None if nothing is wrong."""
        if self._history is not None:
            return None
        return max(self._retry_at - trio.current_time(), 0.0)

    async def open(self, now: float, retention_days: int, *, again: bool = False) -> bool:
        """Open the file if that is due, or with `again` before it is; whether that was done.

        The first time, `past` is there to be taken afterwards.
        """
        if self._history is not None or (trio.current_time() < self._retry_at and not again):
            return False
        with trio.CancelScope(shield=True):
            opened = await self._guarded(partial(_open, self.path, self._check, now))
            if opened is None:
                return False
            self._history, aside = opened
            self._check = False
            if aside is not None:
                log.error("the history was damaged and begins anew; what it was is in %s", aside)
            if not self._loaded:
                self.past = await self.use(lambda it: it.load(now, self._started, retention_days))
                self._loaded = self.past is not None
        if self.past is not None and self.past.closed:
            log.warning(
                "the last run did not end by itself: agents' sessions left open: %d",
                self.past.closed,
            )
        return self._history is not None

    async def use(self, do: Callable[[History], T]) -> T | None:
        """Do something with the open file; None if there is none, or if it failed."""
        if self._history is None:
            return None
        return await self._guarded(partial(do, self._history))

    def worked(self) -> None:
        """Something was written: what was wrong is over."""
        if self.problem is not None:
            log.info("the history is written again: %s", self.path)
        self.problem = None
        self._retry_seconds = _FIRST_RETRY_SECONDS

    async def close(self) -> None:
        """Let go of the file."""
        if self._history is not None:
            history, self._history = self._history, None
            await trio.to_thread.run_sync(history.close)

    async def in_thread(self, do: Callable[[], T]) -> T:
        """Do something that takes a while, and wait for it whatever happens; adds up its cost."""

        def timed() -> T:
            begun = time.thread_time()
            try:
                return do()
            finally:
                self.used_seconds += time.thread_time() - begun

        return await trio.to_thread.run_sync(timed)

    async def _guarded(self, do: Callable[[], T]) -> T | None:
        """Do it in a thread, which is waited for; a fault is noted (rules 1 and 2)."""
        try:
            return await self.in_thread(do)
        except (sqlite3.Error, OSError) as error:
            with trio.CancelScope(shield=True):
                await self.close()
            self._check = self._check or is_damage(error)
            self._retry_at = trio.current_time() + self._retry_seconds
            self._retry_seconds = min(self._retry_seconds * 2, _LAST_RETRY_SECONDS)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if self.problem is None:
                log.error("the history cannot be kept, traffic goes on: %s: %s", self.path, reason)
            self.problem = f"{self.path}: {reason}"
            return None


def _open(path: Path, check: bool, now: float) -> tuple[History, Path | None]:
    """Open it; a damaged one is moved aside, and its new name returned as well."""
    try:
        return History(path, check=check), None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    aside = move_aside(path, now)
    return History(path, check=False), aside
