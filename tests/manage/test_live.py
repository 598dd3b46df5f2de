from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.manage.live import Feed, Live, apply, changes, merge_patch

# --- merge patch ------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
keys = st.sampled_from(["a", "b", "c", "now"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=4)


def without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(one) for key, one in value.items() if one is not None}


@given(objects, objects)
@settings(max_examples=200)
def test_a_patch_turns_the_old_into_the_new(old: Any, new: Any) -> None:
    before = deepcopy(old)
    patch = merge_patch(old, new)
    assert without_nulls(apply(old, patch)) == without_nulls(new)
    assert old == before
    assert merge_patch(old, old) == {}


@given(objects, objects)
@settings(max_examples=100)
def test_slices_make_the_same_patch(old: Any, new: Any) -> None:
    async def sliced() -> None:
        assert await changes(old, new) == merge_patch(old, new)

    trio.run(sliced)


# RFC 7396, appendix A; what a patch cannot say (a null in the target) left out.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert apply(target, patch) == result


def test_what_is_unchanged_is_not_in_the_patch() -> None:
    old = {"agents": {"a": {"state": "connected", "n": 1}, "b": {"n": 2}}, "order": [1, 2]}
    new = {"agents": {"a": {"state": "draining", "n": 1}, "c": {"n": 2}}, "order": [1, 2]}
    assert merge_patch(old, new) == {
        "agents": {"a": {"state": "draining"}, "b": None, "c": {"n": 2}}
    }


async def test_large_objects_are_worked_on_in_slices() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    view = {"agents": {str(n): {"n": n} for n in range(1_000)}}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await changes(view, {"agents": {}}) == {"agents": dict.fromkeys(view["agents"])}
        nursery.cancel_scope.cancel()
    assert turns >= 10


# --- feeds ------------------------------------------------------------------------------------


class Source:
    """A view that counts how often it was made."""

    def __init__(self) -> None:
        self.view: dict[str, Any] = {"n": 0}
        self.made = 0
        self.takes = 0.0

    async def __call__(self) -> dict[str, Any]:
        self.made += 1
        await trio.sleep(self.takes)
        return deepcopy(self.view)


class Viewer:
    """In place of a `Socket`: keeps what it was told, and when; a message takes `slow` seconds."""

    def __init__(self, slow: float = 0.0) -> None:
        self.told: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.slow = slow

    async def send(self, message: str) -> None:
        await trio.sleep(self.slow)
        self.told.append(json.loads(message))
        self.times.append(trio.current_time())

    @property
    def view(self) -> Any:
        view: Any = None
        for message in self.told:
            view = message["view"] if message["type"] == "whole" else apply(view, message["patch"])
        return view


def live_of(source: Source) -> Live:
    return Live({("overview", "5m"): source, ("overview", "1h"): source, ("agents", ""): source})


async def look(live: Live, viewer: Viewer, **query: str) -> None:
    talk = live.prepare({name: [value] for name, value in query.items()})
    await talk(viewer)  # type: ignore[arg-type]  # all it needs of a Socket


async def watching(
    seconds: float, live: Live, *viewers: Viewer, change: Callable[[], object] | None = None
) -> None:
    """Let viewers look for a while; `change` is called every 0.25 s."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for viewer in viewers:
                nursery.start_soon(look_at_agents, live, viewer)
            while True:
                await trio.sleep(0.25)
                if change is not None:
                    change()


async def look_at_agents(live: Live, viewer: Viewer) -> None:
    await look(live, viewer, view="agents")


async def test_the_whole_comes_once_and_nothing_while_nothing_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source, viewer = Source(), Viewer()
    live = live_of(source)
    await watching(10.1, live, viewer)
    assert viewer.told == [{"type": "whole", "view": {"n": 0}}]
    assert source.made == 11
    assert len(live) == 0


async def test_patches_come_at_most_once_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source, viewer = Source(), Viewer()

    def change() -> None:
        source.view["n"] += 1

    await watching(5.1, live_of(source), viewer, change=change)
    assert [one["type"] for one in viewer.told] == ["whole", *["patch"] * 5]
    assert all(b - a >= 1 for a, b in zip(viewer.times, viewer.times[1:], strict=False))
    assert viewer.view["n"] >= 19


async def test_that_time_goes_by_is_no_change(autojump_clock: trio.testing.MockClock) -> None:
    source, viewer = Source(), Viewer()

    def change() -> None:
        source.view["now"] = trio.current_time()

    await watching(5.1, live_of(source), viewer, change=change)
    assert len(viewer.told) == 1


async def test_many_viewers_cost_one_view(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    viewers = [Viewer() for _ in range(20)]

    def change() -> None:
        source.view["n"] += 1

    await watching(5.1, live_of(source), *viewers, change=change)
    assert source.made == 6
    assert all(viewer.view == viewers[0].view for viewer in viewers)
    assert {len(viewer.told) for viewer in viewers} == {6}


async def test_a_slow_viewer_gets_the_whole_again_and_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source, slow, fast = Source(), Viewer(3.5), Viewer()

    def change() -> None:
        source.view["n"] += 1

    await watching(12.1, live_of(source), slow, fast, change=change)
    assert len(fast.told) == 13
    assert [one["type"] for one in slow.told] == ["whole"] * 3


async def test_a_view_that_takes_long_is_made_less_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source, viewer = Source(), Viewer()
    source.takes = 1.0
    await watching(10.9, live_of(source), viewer)
    assert source.made == 3  # begun at 0, 5, 10


async def test_when_the_one_who_makes_it_leaves_the_next_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source, other = Source(), Viewer()
    live = live_of(source)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1.5):
            nursery.start_soon(look_at_agents, live, other)
            await look_at_agents(live, Viewer())
        source.view["n"] = 7
        await trio.sleep(1.1)
        nursery.cancel_scope.cancel()
    assert other.view == {"n": 7}


async def test_nobody_looking_costs_nothing_and_who_comes_back_sees_the_present(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    live = live_of(source)
    await watching(2.1, live, Viewer())
    made = source.made
    await trio.sleep(100)
    assert source.made == made
    source.view["n"] = 9
    viewer = Viewer()
    await watching(0.1, live, viewer)
    assert viewer.view == {"n": 9}


async def test_windows_are_views_of_their_own(autojump_clock: trio.testing.MockClock) -> None:
    hour, minutes = Source(), Source()
    minutes.view["n"] = 5
    live = Live({("overview", "5m"): minutes, ("overview", "1h"): hour})
    first, second = Viewer(), Viewer()
    with trio.move_on_after(0.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: look(live, first, view="overview"))
            nursery.start_soon(lambda: look(live, second, view="overview", window="1h"))
            await trio.sleep(0.1)
            assert len(live) == 2
    assert (first.view, second.view) == ({"n": 5}, {"n": 0})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "view must be one of overview, agents"),
        ({"view": ["x"]}, "view must be one of overview, agents"),
        ({"view": ["overview"], "window": ["2h"]}, "window must be one of 5m, 1h"),
        ({"view": ["overview"], "bogus": ["1"]}, 'no parameter "bogus" here, only view, window'),
        ({"view": ["agents", "agents"]}, "view: given 2 times"),
    ],
)
def test_what_is_not_there_is_refused(query: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        live_of(Source()).prepare(query)


async def test_a_view_that_fails_ends_only_who_asked() -> None:
    async def broken() -> dict[str, Any]:
        raise RuntimeError("a bug")

    feed = Feed(broken)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await feed.news(0)
