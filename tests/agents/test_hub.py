from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from attrs import define, evolve

from p2pstream.agents.hub import Busy, Hub, Visitor
from p2pstream.agents.tunnel import Serve, Tunnel, receive_opening
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.config.model import Agent
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import (
    AgentDialFailed,
    AgentDisconnected,
    AgentFull,
    TunnelLost,
)
from p2pstream.net.stream import Stream
from p2pstream.wire.opening import ErrorKind, OpenRequest, Verdict
from tests.agents.memory import memory_pair

OLD, NEW = TokenHash.of("old"), TokenHash.of("new")
ONE = Agent("one", (OLD,))
TWO = Agent("two", (OLD,))
VISITOR = Visitor("n", "1.0")


async def echo(stream: TunnelStream) -> None:
    """An agent whose every origin says what it hears; port 1 is refused."""
    asked = OpenRequest.parse(await receive_opening(stream))
    if asked.port == 1:
        await stream.send(Verdict(False, ErrorKind.DIAL_FAILED, "refused").encode())
        return
    await stream.send(Verdict(True).encode())
    while data := await stream.receive(65_536):
        await stream.send(data)


@define
class Field:
    """A hub, agents of it, and what it was heard to say."""

    hub: Hub
    nursery: trio.Nursery
    events: list[tuple[str, ...]]

    async def connect(
        self,
        agent: Agent = ONE,
        *,
        answers: bool = True,
        visitor: Visitor = VISITOR,
        serve: Serve = echo,
    ) -> Tunnel | Stream:
        """An agent that is connected; one that never `answers` is the bare far end of its link."""
        near, far = memory_pair()
        self.nursery.start_soon(self.hub.attach, agent, near, visitor, "192.0.2.1")
        if not answers:
            await trio.testing.wait_all_tasks_blocked()
            return far
        tunnel = Tunnel(far, client=True, serve=serve)
        self.nursery.start_soon(tunnel.run)
        await trio.testing.wait_all_tasks_blocked()
        return tunnel

    async def connect_tunnel(self, agent: Agent = ONE) -> Tunnel:
        tunnel = await self.connect(agent)
        assert isinstance(tunnel, Tunnel)
        return tunnel


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    events: list[tuple[str, ...]] = []
    hub = Hub(
        [ONE, TWO],
        on_connect=lambda agent_id: events.append(("connected", agent_id)),
        on_disconnect=lambda agent_id, why: events.append(("gone", agent_id, why)),
        on_leaving=lambda agent_id: events.append(("leaving", agent_id)),
    )
    async with trio.open_nursery() as nursery:
        yield Field(hub, nursery, events)
        nursery.cancel_scope.cancel()


async def test_open_goes_through_the_agent(field: Field) -> None:
    await field.connect()
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    await stream.send(b"hello")
    assert await stream.receive(10) == b"hello"
    stream.close()
    with pytest.raises(AgentDialFailed, match="dial_failed: refused"):
        await field.hub.open("one", "origin", 1, "r", 5)


async def test_an_agent_that_is_not_there_is_a_dial_that_failed(field: Field) -> None:
    with pytest.raises(AgentDisconnected, match="agent one is not connected"):
        await field.hub.open("one", "origin", 80, "r", 5)


class Idle:
    """Streams that nobody uses, as the proxy keeps them."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def make_room(self, agent_id: str) -> bool:
        assert agent_id == "one"
        if not self.streams:
            return False
        self.streams.pop(0).abort()
        return True


async def test_an_idle_stream_gives_way_and_a_full_agent_says_so_at_once(
    field: Field, caplog: pytest.LogCaptureFixture
) -> None:
    idle = Idle()
    hub = field.hub = Hub([ONE], make_room=idle.make_room)
    await field.connect(visitor=Visitor(max_streams=2))
    held, kept = [await hub.open("one", "origin", 80, "r", 5) for _ in range(2)]
    idle.streams.append(kept)
    newer = await hub.open("one", "origin", 80, "r", 5)
    assert (kept.is_quiet(), held.is_quiet()) == (False, True)
    for _ in range(2):
        sent = hub.status()[0].sent_bytes
        with pytest.raises(AgentFull, match="agent_capacity: as many streams as were agreed"):
            await hub.open("one", "origin", 80, "r", 5)
        assert hub.status()[0].sent_bytes == sent  # without asking
    assert caplog.text.count("agent one takes no more streams: it has 2") == 1
    held.abort()
    (await hub.open("one", "origin", 80, "r", 5)).close()
    newer.close()


async def test_an_agent_that_counts_otherwise_is_asked_twice(field: Field) -> None:
    idle = Idle()
    hub = field.hub = Hub([ONE], make_room=idle.make_room)
    asked = []

    async def serve(stream: TunnelStream) -> None:
        asked.append(OpenRequest.parse(await receive_opening(stream)))
        full = len(asked) in (2, 4)
        verdict = Verdict(False, ErrorKind.AGENT_CAPACITY, "full") if full else Verdict(True)
        await stream.send(verdict.encode())
        await stream.receive(1)

    await field.connect(serve=serve)
    idle.streams.append(await hub.open("one", "origin", 80, "r", 5))
    last = await hub.open("one", "origin", 80, "r", 5)
    assert (len(asked), idle.streams) == (3, [])
    with pytest.raises(AgentFull, match="agent_capacity: full"):
        await hub.open("one", "origin", 80, "r", 5)
    assert len(asked) == 4
    last.close()


async def test_who_comes_and_goes_is_told(field: Field) -> None:
    tunnel = await field.connect_tunnel()
    await field.connect(TWO)
    assert field.events == [("connected", "one"), ("connected", "two")]
    tunnel.end(TunnelLost("killed"))
    await trio.testing.wait_all_tasks_blocked()
    assert field.events[2:] == [("gone", "one", "the peer closed the connection")]
    assert not field.hub.is_connected("one")
    assert field.hub.is_connected("two")


async def test_a_lost_tunnel_is_told_before_any_of_its_requests_run_on(field: Field) -> None:
    tunnel = await field.connect_tunnel()
    seen: list[list[tuple[str, ...]]] = []

    async def request() -> None:
        stream = await field.hub.open("one", "origin", 80, "r", 5)
        with pytest.raises(TunnelLost):
            await stream.receive(10)
        seen.append(list(field.events))
        stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await trio.testing.wait_all_tasks_blocked()
        tunnel.end(TunnelLost("killed"))
    assert seen[0][-1][:2] == ("gone", "one")


async def test_the_newest_connection_replaces_the_older(field: Field) -> None:
    old = await field.connect_tunnel()
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    new = await field.connect_tunnel()
    why = "replaced by a newer connection from 192.0.2.1"
    assert field.events == [("connected", "one"), ("gone", "one", why), ("connected", "one")]
    with pytest.raises(TunnelLost, match=why):
        await stream.receive(10)
    stream.close()
    assert old.session.peer_going_away  # it was told, so that it does not take it for a failure
    assert new.reason is None
    again = await field.hub.open("one", "origin", 80, "r", 5)
    again.close()
    await trio.testing.wait_all_tasks_blocked()
    assert len(field.events) == 3


async def test_twins_are_detected_named_and_end_their_fight(
    field: Field, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(6):
        assert await field.hub.admit(ONE) is None
        await field.connect()
        await trio.sleep(2)
    assert "agent one was replaced 5 times in 60 s" in caplog.text
    for _ in range(10):  # the other twin asks as it was told to
        busy = await field.hub.admit(ONE)
        assert isinstance(busy, Busy)
        assert (busy.status, busy.retry_after_seconds) == (409, 30)
        await trio.sleep(30)
    assert "two programs use one token: the one at 192.0.2.1" in caplog.text
    assert field.events.count(("connected", "one")) == 6
    assert await field.hub.admit(TWO) is None


async def test_a_ghost_is_replaced_even_under_suspicion(
    field: Field, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(5):
        await field.connect()
    ghost = await field.connect(answers=False)
    start = trio.current_time()
    assert await field.hub.admit(ONE) is None
    assert trio.current_time() - start == pytest.approx(3, abs=0.2)
    assert isinstance(ghost, Stream)
    ghost.close()


async def test_a_flapping_network_is_no_twin(
    field: Field, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(12):
        assert await field.hub.admit(ONE) is None
        await field.connect()
        await trio.sleep(16)
    assert "two programs" not in caplog.text


async def test_when_the_twin_left_the_other_gets_in(
    field: Field, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(5):
        await field.connect()
    last = await field.connect_tunnel()
    assert await field.hub.admit(ONE) is not None
    last.close()
    await trio.testing.wait_all_tasks_blocked()
    assert await field.hub.admit(ONE) is None


async def test_a_changed_secret_ends_a_suspicion(
    field: Field, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(6):
        await field.connect()
    field.hub.apply([evolve(ONE, weight=5), TWO])
    assert await field.hub.admit(ONE) is not None
    rotating = evolve(ONE, token_hash=(OLD, NEW))
    field.hub.apply([rotating, TWO])
    assert await field.hub.admit(rotating) is None


@pytest.mark.parametrize(
    ("after", "stays"),
    [
        ([ONE, TWO], True),
        ([evolve(ONE, weight=5, drain=True, labels={"a": "b"}), TWO], True),
        ([evolve(ONE, token_hash=(OLD, NEW)), TWO], True),
        ([evolve(ONE, token_hash=(NEW,)), TWO], False),
        ([evolve(ONE, token_hash=(NEW, TokenHash.of("newest"))), TWO], False),
        ([evolve(ONE, enabled=False), TWO], False),
        ([TWO], False),
    ],
)
async def test_a_reload_cuts_who_may_not_stay(
    field: Field, after: list[Agent], stays: bool
) -> None:
    tunnel = await field.connect_tunnel()
    await field.connect(TWO)
    field.hub.apply(after)
    assert field.hub.is_connected("one") is stays
    assert field.hub.is_connected("two")
    gone = [event for event in field.events if event[0] == "gone"]
    assert gone == ([] if stays else [("gone", "one", "the configuration no longer lets it in")])
    await trio.testing.wait_all_tasks_blocked()
    assert (tunnel.reason is None) is stays


async def test_an_agent_removed_while_it_came_in_does_not_stay(field: Field) -> None:
    field.hub.apply([TWO])
    tunnel = await field.connect_tunnel()
    await trio.testing.wait_all_tasks_blocked()
    assert tunnel.reason is not None
    assert field.events == []


async def test_an_agent_that_leaves_is_told_of_and_ends_its_streams(field: Field) -> None:
    tunnel = await field.connect_tunnel()
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tunnel.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert field.events[-1] == ("leaving", "one")
        assert field.hub.status()[0].leaving
        with pytest.raises(AgentDisconnected):
            await field.hub.open("one", "origin", 80, "r", 5)
        await stream.send(b"still")
        assert await stream.receive(10) == b"still"
        stream.close()
    tunnel.close()
    await trio.testing.wait_all_tasks_blocked()
    assert field.events[-1][:2] == ("gone", "one")


async def test_drain_lets_streams_end_and_then_cuts(field: Field) -> None:
    one, two = await field.connect_tunnel(), await field.connect_tunnel(TWO)
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(field.hub.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert one.session.peer_going_away
        assert one.reason is None
        busy = await field.hub.admit(ONE)
        assert busy is not None
        assert busy.status == 503
        await stream.send(b"last")
        assert await stream.receive(10) == b"last"
        stream.close()
    assert field.events[-2:] == [
        ("gone", "one", "the server is leaving"),
        ("gone", "two", "the server is leaving"),
    ]
    await trio.testing.wait_all_tasks_blocked()
    assert two.reason is not None


async def test_a_drain_that_is_cut_short_cuts_the_tunnels(field: Field) -> None:
    tunnel = await field.connect_tunnel()
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    with trio.move_on_after(0.01):
        await field.hub.drain()
    assert not field.hub.is_connected("one")
    await trio.testing.wait_all_tasks_blocked()
    assert tunnel.reason is not None
    stream.close()


async def test_status_tells_of_each(field: Field, autojump_clock: trio.testing.MockClock) -> None:
    await field.connect(TWO)
    await field.connect(ONE)
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    await trio.sleep(50)
    one, two = field.hub.status()
    assert (one.agent_id, two.agent_id) == ("one", "two")
    assert (one.name, one.version, one.peer) == ("n", "1.0", "192.0.2.1")
    assert 50 <= one.connected_seconds < 51
    assert one.proven_seconds_ago <= 20
    assert (one.streams, two.streams) == (1, 0)
    assert one.received_bytes > two.received_bytes > 0
    assert one.sent_bytes > two.sent_bytes > 0
    stream.close()


async def test_memory_is_given_back_once_after_a_burst_of_newcomers(
    field: Field, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    given_back: list[float] = []
    monkeypatch.setattr(
        "p2pstream.agents.hub.give_back_memory", lambda: given_back.append(trio.current_time())
    )
    for _ in range(150):
        await field.connect(answers=False)
        await trio.sleep(0.1)
    assert given_back == []
    await trio.sleep(100)
    assert len(given_back) == 1
    for _ in range(99):
        await field.connect(answers=False)
    await trio.sleep(100)
    assert len(given_back) == 1
