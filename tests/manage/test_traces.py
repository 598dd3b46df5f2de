from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.config.load import load_text
from p2pstream.config.scalars import HostPattern
from p2pstream.errors import InvalidRequest
from p2pstream.manage.replies import Unavailable
from p2pstream.manage.traces import MAX_VIEWERS, Traces, known, parse
from p2pstream.observe.trace import Tracer
from p2pstream.observe.watch import MAX_EVENTS, Filter
from p2pstream.policy.chain import Hop

HOP = Hop("192.0.2.1", False, b"http")


class Plan:
    """In place of a `ListenerPlan`."""

    id = "main"


class Viewer:
    """In place of a `Socket`; a message takes `slow` seconds."""

    def __init__(self, slow: float = 0.0) -> None:
        self.told: list[dict[str, Any]] = []
        self.slow = slow

    async def send(self, message: str) -> None:
        await trio.sleep(self.slow)
        self.told.append(json.loads(message))

    @property
    def events(self) -> int:
        return sum(len(message["events"]) for message in self.told)

    @property
    def dropped(self) -> int:
        return sum(message["dropped"] for message in self.told)


def requests(tracer: Tracer, count: int) -> None:
    """Requests of two stages each."""
    plan: Any = Plan()
    for number in range(count):
        tracer.refuse(number, plan, HOP, InvalidRequest("no"))


CONFIG = load_text(
    """
[[listeners]]
id = "web"
port = 1
[[agents]]
id = "agent-1"
name = "attic"
token_hash = "sha256:%s"
[[routes]]
id = "media"
listener_id = "web"
is_default = true
targets = [{ target_type = "static" }]
"""
    % ("a" * 64)
)


async def look(tracer: Tracer, viewer: Any, **query: str) -> None:
    talk = Traces(tracer, lambda: CONFIG).prepare({name: [value] for name, value in query.items()})
    await talk(viewer)


@pytest.mark.parametrize(
    ("query", "level", "wanted"),
    [
        ({}, 0, Filter()),
        ({"level": ""}, 0, Filter()),
        ({"level": "debug"}, 3, Filter()),
        ({"listener": "l", "route": "r", "agent": "a"}, 0, Filter("l", "r", agent="a")),
        ({"host": "*.Example.test"}, 0, Filter(host=HostPattern.parse("*.example.test"))),
        ({"path_prefix": "/a", "level": "detailed"}, 1, Filter(path_prefix="/a")),
        ({"status": "502"}, 0, Filter(status=(502, 502))),
        ({"status": "5XX"}, 0, Filter(status=(500, 599))),
        ({"status": "499"}, 0, Filter(status=(499, 499))),
    ],
)
def test_questions(query: dict[str, str], level: int, wanted: Filter) -> None:
    assert parse({name: [value] for name, value in query.items()}) == (level, wanted)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("level", "all", "level must be one of basic, detailed, headers, debug"),
        ("rout", "x", 'there is no parameter "rout" here, only level, listener, route, '),
        ("status", "6xx", "status must be one, like 502, or a class of them, like 5xx"),
        ("status", "5x5", "status must be"),
        ("status", "50", "status must be"),
        ("status", "5²²", "status must be"),
        ("path_prefix", "x", "path_prefix must start with /"),
        ("host", "a*b", "host: "),
    ],
)
def test_questions_that_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse({name: [value]})
    with pytest.raises(ValueError, match="level: given 2 times"):
        parse({"level": ["debug", "basic"]})


@pytest.mark.parametrize("agent", ["agent-1", "attic"])
def test_what_is_watched_is_in_the_file(agent: str) -> None:
    wanted = Filter("web", "media", agent=agent, status=(500, 599))
    assert known(wanted, CONFIG) == Filter("web", "media", agent="agent-1", status=(500, 599))


@pytest.mark.parametrize("name", ["listener", "route", "agent"])
def test_who_asks_for_what_is_not_there_does_not_wait_for_it(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}: there is no "nope"'):
        Traces(Tracer(str), lambda: CONFIG).prepare({name: ["nope"]})


async def test_events_are_told_together_after_an_empty_first_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracer, viewer = Tracer(str), Viewer()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, tracer, viewer)
            await trio.testing.wait_all_tasks_blocked()
            assert viewer.told == [{"events": [], "dropped": 0}]
            requests(tracer, 10)
            await trio.sleep(0.2)
            assert len(viewer.told) == 2
    assert len(viewer.told) == 2
    assert [event["stage"] for event in viewer.told[1]["events"]] == ["received", "failed"] * 10
    assert tracer.watches == ()


async def test_what_comes_too_fast_is_dropped_and_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracer, viewer = Tracer(str), Viewer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look, tracer, viewer)
        for _ in range(50):
            await trio.sleep(0.1)
            requests(tracer, 1_000)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert 0 < viewer.events <= 51 * MAX_EVENTS
    assert viewer.events / 2 + viewer.dropped == 50_000


async def test_viewers_share_what_may_be_told(autojump_clock: trio.testing.MockClock) -> None:
    tracer = Tracer(str)
    viewers = [Viewer() for _ in range(4)]
    with trio.move_on_after(2.05):
        async with trio.open_nursery() as nursery:
            for viewer in viewers:
                nursery.start_soon(look, tracer, viewer)
            for _ in range(20):
                await trio.sleep(0.1)
                requests(tracer, 1_000)
    assert max(len(one["events"]) for viewer in viewers for one in viewer.told) == MAX_EVENTS // 4
    assert sum(viewer.events for viewer in viewers) <= 21 * MAX_EVENTS


async def test_drops_are_told_even_when_nothing_else_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracer, viewer = Tracer(str), Viewer()
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, tracer, viewer)
            await trio.testing.wait_all_tasks_blocked()
            tracer.watches[0].has_room = False
            requests(tracer, 7)
    assert viewer.told[1:] == [{"events": [], "dropped": 7}]


async def test_there_is_a_limit_to_viewers() -> None:
    tracer = Tracer(str)
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_VIEWERS):
            nursery.start_soon(look, tracer, Viewer())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="16 viewers are watching already"):
            Traces(tracer, lambda: CONFIG).prepare({})
        nursery.cancel_scope.cancel()
