"""`/api/v1/live?view=…&window=…`: a view of the API, kept up to date over a WebSocket.

`{"type": "whole", "view": {…}}` comes first, then `{"type": "patch", "patch": {…}}`, a JSON Merge
Patch (RFC 7396): null removes, arrays are replaced whole.

Rules:

1. A view is made once for all who look at it, at most once a second, and only while somebody
   looks. There is no task for it: whoever waits for news first makes them, for all; when that
   viewer leaves, the next one in the queue goes on.
2. What does not change is not sent; that time goes by (`now`) is no change.
3. A viewer that is too slow for a patch gets the whole view again: nothing is queued for anyone.
4. Nobody's request waits for a view: work on large ones is done in slices.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import trio

from p2pstream.manage.encoding import encoded
from p2pstream.manage.endpoints import single
from p2pstream.manage.websocket import Query, Socket, Talk

LIVE: Final = "/api/v1/live"

# The spec's pace of a live view.
_SECONDS: Final = 1.0
# Making a view may take this part of the time: one that takes longer comes less often.
_MOST_OF_TIME: Final = 0.2
# Entries worked on between two turns of others: about a millisecond.
_SLICE: Final = 32
# What says only when a view was made (rule 2).
_CLOCK: Final = "now"

Json = dict[str, Any]
View = Mapping[str, Any]
Make = Callable[[], Awaitable[View]]
"""Makes a view; gives up its turn now and then when that takes more than a few milliseconds."""


class Live:
    """The live views of one server, by (view, window); the window is `""` where there is none.

    Asked for without a window, a view's first one is meant.
    """

    def __init__(self, views: Mapping[tuple[str, str], Make]) -> None:
        self._views = views
        self._feeds: dict[tuple[str, str], Feed] = {}

    def __len__(self) -> int:
        """How many views are being made now."""
        return len(self._feeds)

    def prepare(self, query: Query) -> Talk:
        """What to tell one viewer. Error: `ValueError`, ready to show."""
        said = single(query, ("view", "window"))
        key = self._find(said.get("view", ""), said.get("window", ""))

        async def talk(socket: Socket) -> None:
            feed = self._feeds.setdefault(key, Feed(self._views[key]))
            feed.viewers += 1
            try:
                await _show(feed, socket)
            finally:
                feed.viewers -= 1
                if not feed.viewers:
                    del self._feeds[key]

        return talk

    def _find(self, view: str, window: str) -> tuple[str, str]:
        windows = [known for name, known in self._views if name == view]
        if not windows:
            names = dict.fromkeys(name for name, _ in self._views)
            raise ValueError(f"view must be one of {', '.join(names)}")
        if windows == [""] or not window:
            return view, windows[0]
        if window not in windows:
            raise ValueError(f"window must be one of {', '.join(windows)}")
        return view, window


async def _show(feed: Feed, socket: Socket) -> None:
    """Tell one viewer, until it leaves."""
    seen = 0
    while True:
        await feed.news(seen)
        version = feed.version
        if version == seen + 1 and seen:
            await socket.send(feed.patch)
        else:
            version, whole = await feed.whole()
            await socket.send(whole)
        seen = version


class Feed:
    """One view for all who look at it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._making = trio.Lock()
        self._writing = trio.Lock()
        self._due = -1.0  # trio time
        self._view: View = {}
        self._whole = (0, "")
        self.viewers = 0
        self.version = 0
        """How often the view changed; 0 is before it was made."""
        self.patch = ""
        """The message that leads from the version before to this one."""

    async def news(self, seen: int) -> None:
        """Wait until there is another version than `seen`; make it, if nobody else does."""
        if self.version == seen:
            async with self._making:  # rule 1
                while self.version == seen:
                    await self._look()

    async def whole(self) -> tuple[int, str]:
        """The latest version, and the message that is all of it."""
        async with self._writing:
            if self._whole[0] != self.version:
                version, view = self.version, self._view
                text = (await encoded(view)).decode()
                self._whole = version, f'{{"type":"whole","view":{text}}}'
            return self._whole

    async def _look(self) -> None:
        """Make the view once it is due, and take it over if it changed."""
        await trio.sleep_until(self._due)
        begun = trio.current_time()
        view = await self._make()
        patch = await changes(self._view, view) if self.version else {}
        changed = bool(patch.keys() - {_CLOCK}) or not self.version
        text = (await encoded(patch)).decode() if changed else ""
        self._due = begun + max(_SECONDS, (trio.current_time() - begun) / _MOST_OF_TIME)
        if changed:
            self._view = view
            self.patch = f'{{"type":"patch","patch":{text}}}'
            self.version += 1


# --- JSON Merge Patch (RFC 7396) --------------------------------------------------------------


def merge_patch(old: View, new: View) -> Json:
    """What turns `old` into `new`; empty when nothing does.

    A member that is null is as good as none (RFC 7396 §1): where `new` has null, `apply` removes.
    """
    patch: Json = {key: None for key, value in old.items() if value is not None and key not in new}
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[key] = inner
        else:
            patch[key] = value
    return patch


def apply(target: Any, patch: Any) -> Any:
    """`target` after a patch, as RFC 7396 §2 has it; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


async def changes(old: View, new: View) -> Json:
    """`merge_patch`, of large objects in slices (rule 4)."""
    patch: Json = {}
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner: Json = {}
            for part in _slices([*before, *(name for name in after if name not in before)]):
                inner |= merge_patch(_only(before, part), _only(after, part))
                await trio.lowlevel.checkpoint()
            if inner:
                patch[key] = inner
        else:
            patch |= merge_patch(_only(old, [key]), _only(new, [key]))
    return patch


def _slices(keys: list[str]) -> Iterator[list[str]]:
    return (keys[start : start + _SLICE] for start in range(0, len(keys), _SLICE))


def _only(value: View, keys: list[str]) -> Json:
    return {key: value[key] for key in keys if key in value}
