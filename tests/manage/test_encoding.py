from __future__ import annotations

import json
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.manage.encoding import encoded
from p2pstream.manage.steps import Steps, at_once, run, sliced

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_it_is_what_json_says(value: Any) -> None:
    async def main() -> bytes:
        return await encoded(value)

    assert json.loads(trio.run(main)) == value


async def steps_of(nursery: trio.Nursery, work: Any) -> tuple[Any, int]:
    """What some work gives, and how often others had their turn meanwhile."""
    turns = 0
    done = trio.Event()

    async def count(task_status: trio.TaskStatus[None]) -> None:
        nonlocal turns
        task_status.started()
        while not done.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()

    await nursery.start(count)
    result = await work
    done.set()
    return result, turns


async def test_large_values_leave_others_their_turn(nursery: trio.Nursery) -> None:
    value = {"routes": {str(number): {"text": "x" * 1_000} for number in range(1_000)}}
    result, turns = await steps_of(nursery, encoded(value))
    assert json.loads(result) == value
    assert turns >= 10


async def test_long_work_leaves_others_their_turn(nursery: trio.Nursery) -> None:
    def work() -> Steps[int]:
        total = 0
        for number, pause in sliced(range(1_000), 50):
            total += number
            if pause:
                yield
        return total

    assert at_once(work()) == sum(range(1_000))
    result, turns = await steps_of(nursery, run(work()))
    assert result == sum(range(1_000))
    assert turns >= 20


def test_what_changes_meanwhile_is_seen_as_it_was() -> None:
    values = {1: "a", 2: "b"}
    for value, _ in sliced(values.values()):
        values[len(values) + 1] = value
    assert len(values) == 4
