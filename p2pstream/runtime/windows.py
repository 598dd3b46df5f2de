"""What happened within a window of time, put together from memory and the file, and kept a while.

The last five minutes are in memory, with the charts of an hour and a day. What single paths did in
an hour and longer is in the file, and what has not been written yet beside it; without a file, what
waits to be written is all there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final

import trio
from attrs import define, field

from p2pstream.observe import history, overview
from p2pstream.observe.overview import WINDOWS, Json, Summary
from p2pstream.observe.rollup import Chunk, Rollup, Slot
from p2pstream.runtime.keeping import SHARE, Keeping

# How old a view may be. The longer its window, the more it costs, and the less it changes.
_FRESH_SECONDS: Final[Mapping[str, float]] = {"5m": 1.0, "1h": 5.0, "24h": 30.0, "30d": 300.0}


@define(eq=False)
class _View:
    """A window as it was measured last, and until when that is fresh enough (Trio time)."""

    json: Json = field(factory=dict)
    until: float = 0.0
    turn: trio.Lock = field(factory=trio.Lock)


class Windows:
    """The views of all windows; `pull` brings the roll-up up to now."""

    def __init__(
        self, rollup: Rollup, keeping: Keeping, pull: Callable[[], Awaitable[None]]
    ) -> None:
        self._rollup = rollup
        self._keeping = keeping
        self._pull = pull
        self._views = {name: _View() for name in WINDOWS}

    async def view(self, name: str) -> Json:
        """See `overview.view`. Error: `ValueError` for a window that there is not."""
        view = self._views.get(name)
        if view is None:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {name!r}")
        async with view.turn:
            if trio.current_time() >= view.until:
                used = self._keeping.used_seconds
                view.json = await self._measure(name)
                rest = (self._keeping.used_seconds - used) * SHARE
                view.until = trio.current_time() + max(_FRESH_SECONDS[name], rest)
        return view.json

    async def _measure(self, window: str) -> Json:
        """Put a view together: what the file has, and what is not in it yet."""
        await self._pull()
        rollup, past = self._rollup, None
        began = rollup.started if window == "5m" else rollup.began
        if window == "5m":
            now, slots = rollup.now, _kept(rollup.fine)
            chunks = rollup.recent(WINDOWS[window].start(now))
        else:
            async with self._keeping.turn:
                now, slots = rollup.now, _kept(rollup.minutes)
                chunks = rollup.waiting(WINDOWS[window].start(now))
                past = await self._keeping.use(lambda it: it.window(window, now))
        if past is None:
            past = history.Window()
        elif window == "30d":
            slots = [*past.slots, *(slot for chunk in chunks for slot in chunk.slots.values())]
        return await self._keeping.in_thread(
            partial(_view, (window, began, now), slots, past.summary, chunks)
        )


def _kept(slots: Iterable[Slot]) -> list[Slot]:
    """Slots for a thread: the last one still grows."""
    kept = list(slots)
    if kept:
        last = Slot(kept[-1].at)
        last.add(kept[-1])
        kept[-1] = last
    return kept


def _view(
    what: tuple[str, float, float], slots: list[Slot], summary: Summary, chunks: list[Chunk]
) -> Json:
    for chunk in chunks:
        summary.add(chunk)
    return overview.view(*what, slots, summary)
