from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.config.scalars import HostPattern
from p2pstream.errors import InvalidRequest
from p2pstream.observe.trace import Trace, Tracer
from p2pstream.observe.watch import MAX_BYTES, MAX_EVENTS, Event, Filter, Watch
from p2pstream.policy.chain import Hop

HOP = Hop("192.0.2.1", False, b"http")


class Plan:
    """In place of a `ListenerPlan`: all that a head that was refused needs."""

    id = "main"


def trace() -> Trace:
    return Trace(lambda id: f"req-{id}", 1, 0.0, Plan(), None, HOP)  # type: ignore[arg-type]


def has_room(watch: Watch) -> bool:
    """As it is now: mypy takes an attribute for what it was when it was last asserted."""
    return watch.has_room


def event(size: int = 0) -> Event:
    if size:
        return trace(), "upstream_started", 0.0, (None, False, None, False, b"x" * size)
    return trace(), "agent_selected", 0.0, None


@pytest.mark.parametrize(
    ("wanted", "begins"),
    [
        (Filter(), True),
        (Filter(listener="main"), True),
        (Filter(listener="other"), False),
        (Filter(host=HostPattern.parse("app.test")), True),
        (Filter(host=HostPattern.parse("*.test")), True),
        (Filter(host=HostPattern.parse("*.app.test")), False),
        (Filter(path_prefix="/a"), True),
        (Filter(path_prefix="/a/b/"), False),
        (Filter(path_prefix="/ax"), False),
        (Filter(route="x", agent="x", status=(1, 1)), True),
    ],
)
def test_what_a_beginning_says(wanted: Filter, begins: bool) -> None:
    assert wanted.begins("main", b"APP.test:8080", b"/%61/b") is begins
    assert wanted.is_early or begins


@pytest.mark.parametrize("authority", [b"", b"bad host", b"\xff"])
def test_a_host_that_is_none_matches_no_host(authority: bytes) -> None:
    assert not Filter(host=HostPattern.parse("*.test")).begins("main", authority, b"/")


@pytest.mark.parametrize("path", [b"", b"*", b"/..", b"/%zz", b"\xff"])
def test_any_path_can_be_asked_about(path: bytes) -> None:
    assert not Filter(path_prefix="/a").begins("main", b"", path)


@pytest.mark.parametrize(
    ("wanted", "route", "agents", "status", "verdicts"),
    [
        # (before its end, at its end)
        (Filter(), None, (), 200, (True, True)),
        (Filter(route="r"), None, (), 404, (None, False)),
        (Filter(route="r"), "r", (), 200, (True, True)),
        (Filter(route="r"), "q", (), 200, (False, False)),
        (Filter(agent="a"), "r", (), 200, (None, False)),
        (Filter(agent="a"), "r", ("b", "a"), 200, (True, True)),
        (Filter(agent="a"), "r", ("b",), 200, (None, False)),
        (Filter(status=(500, 599)), "r", (), 502, (None, True)),
        (Filter(status=(500, 599)), "r", (), 200, (None, False)),
        (Filter(route="q", status=(500, 599)), "r", (), 502, (False, False)),
        (Filter(agent="a", status=(500, 599)), "r", ("a",), 502, (None, True)),
        (Filter(agent="a", status=(500, 599)), "r", ("b",), 502, (None, False)),
    ],
)
def test_verdicts(
    wanted: Filter,
    route: str | None,
    agents: tuple[str, ...],
    status: int,
    verdicts: tuple[bool | None, bool],
) -> None:
    one = trace()
    one.route_id, one.agents, one.status = route, agents, status
    assert (wanted.verdict(one, ended=False), wanted.verdict(one, ended=True)) == verdicts


async def test_a_queue_holds_so_many_events_and_gives_them_in_order() -> None:
    watch = Watch(Filter(), 0)
    events = [event() for _ in range(MAX_EVENTS)]
    assert all(map(watch.put, events))
    assert not watch.has_room
    assert not watch.put(event())
    first, _ = watch.take(300)
    assert first == events[:300]
    assert has_room(watch)
    assert watch.take(MAX_EVENTS)[0] == events[300:]
    assert watch.take(MAX_EVENTS) == ([], 0)


async def test_a_queue_holds_so_many_bytes() -> None:
    watch = Watch(Filter(), 2)
    taken = 0
    while watch.put(event(60_000)):
        taken += 1
    assert MAX_BYTES // 61_000 <= taken <= MAX_BYTES // 60_000
    assert not watch.has_room
    watch.take(taken)
    assert has_room(watch)


async def test_waiting_ends_with_the_first_event_and_drops_are_told_once() -> None:
    watch = Watch(Filter(), 0)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait)
            await trio.testing.wait_all_tasks_blocked()
            watch.put(event())
    watch.dropped = 3
    assert watch.take(10)[1] == 3
    assert watch.take(10)[1] == 0
    with trio.move_on_after(0) as scope:
        await watch.wait()
    assert scope.cancelled_caught


async def test_watches_come_and_go() -> None:
    tracer = Tracer(str)
    with tracer.watch(Filter(), 0) as one, tracer.watch(Filter(), 1) as other:
        assert tracer.watches == (one, other)
    assert len(tracer.watches) == 0


async def test_a_refused_head_is_told_and_counted_where_there_is_no_room() -> None:
    tracer = Tracer(str)
    plan: Any = Plan()
    with tracer.watch(Filter(), 0) as full, tracer.watch(Filter(status=(400, 400)), 0) as late:
        full.has_room = False
        tracer.refuse(1, plan, HOP, InvalidRequest("no"))
        assert full.take(10) == ([], 1)
        assert [stage for _, stage, *_ in late.take(10)[0]] == ["received", "failed"]
