"""Keepalive: who answers is proven and measured, who does not is lost."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import trio
from trio.testing import MockClock

from p2pstream.agents.keepalive import DOUBT_SECONDS, PING_SECONDS, PONG_SECONDS, Keepalive
from p2pstream.errors import TunnelLost
from p2pstream.wire.yamux.session import Session


class Peers:
    """Two sessions; the far one answers after `delay` seconds, or never (None)."""

    def __init__(self, delay: float | None) -> None:
        self.near, self.far = Session(client=False), Session(client=True)
        self.keepalive = Keepalive(self.near)
        self.delay = delay
        self.asked: list[float] = []
        self.nursery: trio.Nursery

    def send(self) -> None:
        self.asked.append(trio.current_time())
        self.far.receive_data(b"".join(self.near.next_batch()))
        answer = b"".join(self.far.next_batch())
        if self.delay is not None:
            self.nursery.start_soon(self.answer, answer)

    async def answer(self, answer: bytes) -> None:
        assert self.delay is not None
        await trio.sleep(self.delay)
        self.near.receive_data(answer)
        self.keepalive.heard = True
        self.keepalive.take_pongs()


async def test_an_answering_peer_is_pinged_and_measured(autojump_clock: MockClock) -> None:
    peers = Peers(delay=0.25)
    assert peers.keepalive.proven_at == -inf
    start = trio.current_time()
    async with trio.open_nursery() as peers.nursery:
        with trio.move_on_after(3 * PING_SECONDS + 2):
            await peers.keepalive.run(peers.send)
    turns = [1 + i * PING_SECONDS for i in range(4)]
    assert [at - start for at in peers.asked] == pytest.approx([0, *turns], abs=1)  # sweeps
    assert peers.keepalive.proven_at == peers.asked[-1] + 0.25
    assert peers.near.round_trip.seconds == 0.25


async def test_a_silent_peer_is_lost_in_time(autojump_clock: MockClock) -> None:
    peers = Peers(delay=None)
    start = trio.current_time()
    with pytest.raises(TunnelLost, match="within 10 s"):
        await peers.keepalive.run(peers.send)
    assert PONG_SECONDS <= trio.current_time() - start < PONG_SECONDS + 0.3


@pytest.mark.parametrize("delay", [PONG_SECONDS + 1, 3 * PONG_SECONDS + 1])
async def test_an_answer_may_be_late_while_bytes_come(
    autojump_clock: MockClock, delay: float
) -> None:
    peers = Peers(delay)

    async def bytes_come() -> None:
        while True:
            await trio.sleep(1)
            peers.keepalive.heard = True

    async with trio.open_nursery() as peers.nursery:
        peers.nursery.start_soon(bytes_come)
        if delay < 3 * PONG_SECONDS:
            with trio.move_on_after(3 * PING_SECONDS):
                await peers.keepalive.run(peers.send)
            assert peers.keepalive.proven_at > 0
        else:
            with pytest.raises(TunnelLost, match="within 30 s"):
                await peers.keepalive.run(peers.send)
        peers.nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("silent", "answers", "pings"),
    [(DOUBT_SECONDS - 1, True, 2), (DOUBT_SECONDS + 1, True, 3), (DOUBT_SECONDS + 1, False, 3)],
)
async def test_who_begins_something_on_a_silent_connection_asks_at_once(
    autojump_clock: MockClock, silent: float, answers: bool, pings: int
) -> None:
    peers = Peers(delay=0.25)
    start = trio.current_time()
    with trio.move_on_after(PING_SECONDS) as scope:
        async with trio.open_nursery() as peers.nursery:

            async def run() -> None:
                with pytest.raises(TunnelLost):
                    await peers.keepalive.run(peers.send)
                assert trio.current_time() - start == pytest.approx(5 + PONG_SECONDS, abs=0.3)

            peers.nursery.start_soon(run)
            await trio.sleep(5)
            if not answers:
                peers.delay = None
            peers.keepalive.heard_at = trio.current_time() - silent
            for _ in range(3):  # while an answer is waited for, nobody needs to ask again
                peers.keepalive.doubt(trio.current_time())
                await trio.sleep(0.01)
    assert len(peers.asked) == pings
    assert scope.cancelled_caught == answers


async def test_the_next_ping_cannot_be_answered_in_advance(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = Peers(delay=0.25)
    values: list[int] = []
    ping = peers.near.ping

    def spy(value: int) -> None:
        values.append(value)
        ping(value)

    monkeypatch.setattr(peers.near, "ping", spy)
    async with trio.open_nursery() as peers.nursery:
        with trio.move_on_after(10 * PING_SECONDS):
            await peers.keepalive.run(peers.send)
    steps = {after - before for before, after in pairwise(values)}
    assert (len(values), len(steps)) == (11, 10)
    assert max(values) > 2**24


async def test_old_and_foreign_answers_prove_nothing(autojump_clock: MockClock) -> None:
    peers = Peers(delay=None)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(TunnelLost):
                await peers.keepalive.run(peers.send)

        nursery.start_soon(run)
        await trio.sleep(1)
        peers.near.pongs.extend([0, 2, 77])
        peers.keepalive.take_pongs()
    assert peers.near.pongs == []
    assert peers.keepalive.proven_at == -inf
