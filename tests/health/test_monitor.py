from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from attrs import evolve

from p2pstream.config.model import (
    Agent,
    AgentSelector,
    Config,
    HealthCheck,
    Listener,
    Route,
    Target,
)
from p2pstream.config.scalars import Origin
from p2pstream.errors import AgentDisconnected, AgentFull, ConnectFailed
from p2pstream.health.monitor import Monitor, Sightings
from p2pstream.net.stream import Stream
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import PathKey
from p2pstream.policy.decide import choose
from p2pstream.policy.tables import Tables
from p2pstream.snapshot import TargetPlan, compile_snapshot

if TYPE_CHECKING:
    from tests.health.conftest import Script

ORIGIN, OTHER = Origin.parse("http://origin.test"), Origin.parse("http://other.test")
RULES = HealthCheck()  # every 10 s, 2 s at most, thresholds 2 and 2, cooldown 30 s
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
Clock = trio.testing.MockClock


def direct(name: str, **rest: Any) -> Target:
    return Target(**{"name": name, "url": ORIGIN, "health_check": RULES, **rest})


def through(name: str, site: str = "home", **rest: Any) -> Target:
    return direct(name, transport="agent", agent_selector=AgentSelector({"site": site}), **rest)


def agent(id: str, site: str = "home", **rest: Any) -> Agent:
    return Agent(id=id, token_hash=(), labels={"site": site}, **rest)


def config(*targets: Target, agents: tuple[Agent, ...] = (), **rest: Any) -> Config:
    route = Route(id="r", listener_id="web", is_default=True, targets=targets, **rest)
    return Config(listeners=(Listener(id="web", port=80),), agents=agents, routes=(route,))


def key(target: str, agent_id: str = "") -> PathKey:
    return PathKey("r", target, agent_id)


class World:
    """A board, its monitor, and origins that answer as they are told, per `target/agent`."""

    def __init__(self, script: type[Script], one: Config, random: Callable[[], float]) -> None:
        self.script = script
        self.names: dict[TargetPlan, str] = {}
        self.board = Board(self.compile(one))
        self.monitor = Monitor(self.board, self.connect, random)
        self.answers: dict[str, bytes | Exception | None] = {}  # None: silence
        self.checks: list[tuple[float, str]] = []
        self.streams: list[Script] = []
        self.cancelled = 0

    async def connect(self, plan: TargetPlan, agent_id: str, _: str, __: float) -> Stream:
        name = self.names[plan]
        where = f"{name}/{agent_id}" if agent_id else name
        self.checks.append((trio.current_time(), where))
        answer = self.answers.get(where, FINE)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                self.cancelled += 1
                raise
        self.streams.append(self.script(answer or b""))
        return self.streams[-1]

    def compile(self, one: Config) -> Tables:
        tables = compile_snapshot(one).tables
        for target in tables.targets.values():
            if isinstance(target.extra, TargetPlan):
                self.names[target.extra] = target.name
        return tables

    def times(self, where: str) -> list[float]:
        return [at for at, path in self.checks if path == where]

    def reload(self, one: Config) -> None:
        """As `Runtime` does."""
        self.board.rebind(self.compile(one))
        self.monitor.follow()

    def connected(self, agent_id: str) -> None:
        self.board.agent_connected(agent_id)
        self.monitor.agent_connected(agent_id)

    def disconnected(self, agent_id: str) -> None:
        self.board.agent_disconnected(agent_id)
        self.monitor.agent_disconnected(agent_id)

    def status(self, target: str, agent_id: str = "") -> str:
        return self.board.path(key(target, agent_id)).health.status

    def chosen(self) -> str:
        choice = choose(self.board.tables.routes["r"], self.board, random.random)
        if choice is None:
            return "none"
        choice.release()
        return "/".join(part for part in choice.path.key[1:] if part)


Open = Callable[..., Any]


@pytest.fixture
def open_world(script: type[Script]) -> Open:
    @asynccontextmanager
    async def open_(
        one: Config, *, random: Callable[[], float] = lambda: 0.5
    ) -> AsyncIterator[World]:
        world = World(script, one, random)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.monitor.run)
            yield world
            nursery.cancel_scope.cancel()
        assert world.monitor.watched == frozenset()

    return open_


# --- who is checked, and when -------------------------------------------------------------------


async def test_a_loop_per_direct_target_and_per_connected_agent_of_a_target(
    open_world: Open, autojump_clock: Clock
) -> None:
    one = config(
        direct("plain"),
        direct("unchecked", health_check=None),
        direct("switched-off", health_check=evolve(RULES, enabled=False)),
        direct("disabled", enabled=False),
        direct("draining", drain=True),
        through("home"),
        through("far", "far"),
        Target(name="static", target_type="static"),
        agents=(agent("a"), agent("b"), agent("off", enabled=False), agent("c", "far")),
    )
    async with open_world(one) as world:
        assert world.monitor.watched == {key("plain"), key("draining")}
        world.connected("a")
        world.connected("stranger")
        world.connected("off")
        assert world.monitor.watched == {key("plain"), key("draining"), key("home", "a")}
        world.connected("c")
        assert key("far", "c") in world.monitor.watched
        world.disconnected("a")
        assert key("home", "a") not in world.monitor.watched


async def test_agents_that_are_connected_before_it_runs_are_checked(
    script: type[Script], autojump_clock: Clock
) -> None:
    world = World(script, config(through("t"), agents=(agent("a"),)), lambda: 0.5)
    world.connected("a")
    async with trio.open_nursery() as nursery:
        await nursery.start(world.monitor.run)
        assert world.monitor.watched == {key("t", "a")}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("drawn", "interval"), [(0.0, 9.05), (0.5, 10.0), (1.0, 10.95)])
async def test_the_first_check_comes_at_once_and_the_interval_is_jittered_by_a_tenth(
    open_world: Open, autojump_clock: Clock, drawn: float, interval: float
) -> None:
    begun = trio.current_time()
    async with open_world(config(direct("t")), random=lambda: drawn) as world:
        await trio.sleep(100.1)
        times = world.times("t")
    assert times[0] - begun < 0.05
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps == pytest.approx([interval] * len(gaps), abs=0.051)
    assert all(9 <= round(gap, 6) <= 11 for gap in gaps)
    assert len(gaps) == int(100 // interval)


async def test_a_slow_check_does_not_shift_the_next_one(
    open_world: Open, autojump_clock: Clock
) -> None:
    rules = evolve(RULES, interval_millis=2000, timeout_millis=2000)
    async with open_world(config(direct("t", health_check=rules)), random=lambda: 0.0) as world:
        world.answers["t"] = None
        await trio.sleep(19)
        times = world.times("t")
    gaps = [after - before for before, after in pairwise(times)]
    # Due after 1.8 s, and never two at a time.
    assert gaps == pytest.approx([2.0] * len(gaps), abs=0.03)


async def test_two_thousand_loops_are_no_burst(open_world: Open, autojump_clock: Clock) -> None:
    targets = tuple(direct(f"t{number}") for number in range(2000))
    drawn = random.Random(6)
    async with open_world(config(*targets), random=drawn.random) as world:
        begun = trio.current_time()
        await trio.sleep(40)
        times = sorted(at - begun for at, _ in world.checks)
    assert len({path for at, path in world.checks if at - begun <= 10}) == 2000
    busiest = max(sum(1 for at in times if s <= at < s + 1) for s in range(39))
    assert busiest < 320  # 200 on average


# --- what follows -------------------------------------------------------------------------------


async def test_a_failing_path_is_left_and_taken_back(
    open_world: Open, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2pstream.health")
    one = config(through("home-lab"), direct("backup", priority_group=1), agents=(agent("a"),))
    async with open_world(one) as world:
        world.connected("a")
        assert world.chosen() == "home-lab/a"  # unknown is usable
        await trio.sleep(15)
        assert world.status("home-lab", "a") == "healthy"
        world.answers["home-lab/a"] = BUSY
        await trio.sleep(10)
        assert world.chosen() == "home-lab/a"  # once is not enough
        await trio.sleep(10)
        assert world.status("home-lab", "a") == "unhealthy"
        assert world.chosen() == "backup"
        del world.answers["home-lab/a"]
        await trio.sleep(10)
        assert world.chosen() == "backup"
        await trio.sleep(10)
        assert world.chosen() == "home-lab/a"
    messages = [line.message for line in caplog.records if "home-lab" in line.message]
    assert messages == [
        "path r/home-lab via a: unknown -> healthy: status 200",
        "path r/home-lab via a: healthy -> unhealthy: status 503, expected 200 to 399",
        "path r/home-lab via a: unhealthy -> healthy: status 200",
    ]
    assert [line.levelname for line in caplog.records if "home-lab" in line.message] == [
        "INFO",
        "WARNING",
        "INFO",
    ]


async def test_the_last_check_is_kept_for_people(open_world: Open, autojump_clock: Clock) -> None:
    async with open_world(config(direct("t"))) as world:
        await trio.sleep(1)
        seen = world.board.path(key("t")).extra
        assert isinstance(seen, Sightings)
        assert seen.check is not None
        assert (seen.check.passed, seen.check.reason) == (True, "status 200")
        world.answers["t"] = ConnectFailed("10.0.0.1:80: Connection refused")
        await trio.sleep(10)
        assert seen.check.reason == "10.0.0.1:80: Connection refused"


async def test_one_path_through_two_agents_has_two_states(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(through("t"), agents=(agent("a"), agent("b")))) as world:
        world.answers["t/b"] = ConnectFailed("refused")
        world.connected("a")
        world.connected("b")
        await trio.sleep(15)
        assert (world.status("t", "a"), world.status("t", "b")) == ("healthy", "unhealthy")
        assert {world.chosen() for _ in range(4)} == {"t/a"}


# --- bulkheads ----------------------------------------------------------------------------------


async def test_a_silent_path_delays_no_other(open_world: Open, autojump_clock: Clock) -> None:
    begun = trio.current_time()
    async with open_world(config(direct("mute"), direct("fine"))) as world:
        world.answers["mute"] = None
        await trio.sleep(35)
        assert [at - begun for at in world.times("fine")] == pytest.approx(
            [0, 10, 20, 30], abs=0.06
        )
        assert world.status("mute") == "unhealthy"
        assert world.status("fine") == "healthy"


async def test_a_check_that_crashes_is_a_failed_check_and_ends_nothing(
    open_world: Open, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(config(direct("odd"), direct("fine"))) as world:
        world.answers["odd"] = ExceptionGroup("deep", [ZeroDivisionError("ours")])
        await trio.sleep(15)
        assert world.status("odd") == "unhealthy"
        assert world.status("fine") == "healthy"
        assert "crashed" in world.board.path(key("odd")).extra.check.reason
        assert "ZeroDivisionError" in caplog.text
        del world.answers["odd"]
        await trio.sleep(20)
        assert world.status("odd") == "healthy"


# --- agents come and go -------------------------------------------------------------------------


async def test_a_reconnected_agent_is_unknown_and_checked_at_once(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(through("t"), agents=(agent("a"),))) as world:
        world.answers["t/a"] = BUSY
        world.connected("a")
        await trio.sleep(15)
        assert world.status("t", "a") == "unhealthy"
        world.disconnected("a")
        assert world.status("t", "a") == "disconnected"
        assert world.board.path(key("t", "a")).extra is None
        count = len(world.checks)
        await trio.sleep(100)
        assert len(world.checks) == count
        world.connected("a")
        assert world.status("t", "a") == "unknown"
        assert world.chosen() == "t/a"
        await trio.sleep(0.05)
        assert len(world.checks) == count + 1


async def test_a_check_under_way_ends_with_its_tunnel_and_counts_nothing(
    open_world: Open, autojump_clock: Clock
) -> None:
    rules = evolve(RULES, unhealthy_threshold=1)
    one = config(through("t", health_check=rules), agents=(agent("a"),))
    async with open_world(one) as world:
        world.answers["t/a"] = None
        world.connected("a")
        await trio.sleep(1)
        world.disconnected("a")
        world.connected("a")  # another tunnel in the same step
        del world.answers["t/a"]
        await trio.sleep(5)
        assert world.cancelled == 1
        assert world.status("t", "a") == "unknown"
        assert world.board.path(key("t", "a")).health.failures == 0


async def test_an_agent_that_leaves_is_checked_no_more(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(through("t"), agents=(agent("a"),))) as world:
        world.connected("a")
        await trio.sleep(15)
        world.board.agent_leaving("a")
        world.monitor.agent_leaving("a")
        assert world.monitor.watched == frozenset()
        world.reload(config(through("t"), direct("new"), agents=(agent("a"),)))
        assert world.monitor.watched == {key("new")}
        world.answers["t/a"] = AgentDisconnected("leaving")
        await trio.sleep(50)
        assert world.status("t", "a") == "healthy"
        world.connected("a")  # its next tunnel, before the old one ended
        assert key("t", "a") in world.monitor.watched


async def test_a_server_that_leaves_checks_nothing_any_more(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(direct("d"), through("t"), agents=(agent("a"),))) as world:
        world.connected("a")
        await trio.sleep(1)
        world.monitor.stop()
        world.connected("a")
        count = len(world.checks)
        await trio.sleep(50)
        assert len(world.checks) == count


# --- reload -------------------------------------------------------------------------------------


async def test_a_reload_keeps_state_and_loop_of_what_stays(
    open_world: Open, autojump_clock: Clock
) -> None:
    def one(**rest: Any) -> Config:
        return config(through("t", **rest), direct("d", **rest), agents=(agent("a"), agent("b")))

    begun = trio.current_time()
    async with open_world(one()) as world:
        world.connected("a")
        await trio.sleep(15)
        world.reload(one(weight=7, upstream_request_headers={"X-Key": "new"}))
        assert world.status("t", "a") == "healthy"
        assert world.status("d") == "healthy"
        await trio.sleep(1)
        assert len(world.times("d")) == 2  # no check besides
        world.streams.clear()
        await trio.sleep(15)
        assert [at - begun for at in world.times("d")] == pytest.approx([0, 10, 20, 30], abs=0.1)
        assert len(world.times("t/a")) == 4
        assert all(b"x-key: new" in stream.sent for stream in world.streams)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"weight": 3}, True),
        ({"drain": True}, True),
        ({"url": OTHER}, False),
        ({"health_check": evolve(RULES, path="/other")}, False),
    ],
)
async def test_another_url_or_check_begins_anew(
    open_world: Open, autojump_clock: Clock, change: dict[str, Any], kept: bool
) -> None:
    async with open_world(config(direct("t"))) as world:
        await trio.sleep(15)
        world.reload(config(direct("t", **change)))
        assert world.status("t") == ("healthy" if kept else "unknown")
        await trio.sleep(0.1)
        assert len(world.times("t")) == (2 if kept else 3)


async def test_what_a_reload_takes_away_is_checked_no_more(
    open_world: Open, autojump_clock: Clock
) -> None:
    agents = (agent("a"), agent("b"))
    full = config(direct("d"), through("t"), direct("off"), agents=agents)
    async with open_world(full) as world:
        world.connected("a")
        world.connected("b")
        assert len(world.monitor.watched) == 4
        world.reload(
            config(
                direct("new"),
                through("t"),
                direct("off", enabled=False),
                agents=(agent("a", "moved"), agent("b")),
            )
        )
        assert world.monitor.watched == {key("new"), key("t", "b")}
        world.checks.clear()
        await trio.sleep(50)
        assert {path for _, path in world.checks} == {"new", "t/b"}
        world.reload(full)
        assert len(world.monitor.watched) == 4
        assert world.status("off") == "unknown"


async def test_a_disabled_route_is_not_checked(open_world: Open, autojump_clock: Clock) -> None:
    async with open_world(config(direct("t"))) as world:
        world.reload(config(direct("t"), enabled=False))
        assert world.monitor.watched == frozenset()
        assert world.status("t") == "disabled"


# --- real requests ------------------------------------------------------------------------------


async def test_a_refused_request_rests_the_path_until_a_check_passes(
    open_world: Open, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2pstream.health")
    one = config(direct("t"), direct("other", health_check=None))
    async with open_world(one) as world:
        await trio.sleep(15)
        path = world.board.path(key("t"))
        fault = ConnectFailed("10.0.0.1:80: Connection refused")
        for _ in range(3):  # of requests chosen before
            world.monitor.refused(path, fault)
        assert {world.chosen() for _ in range(4)} == {"other"}
        assert path.extra.refusal == fault.detail
        await trio.sleep(10)  # the next check passes
        assert "t" in {world.chosen() for _ in range(4)}
    assert [line.message for line in caplog.records] == [
        "path r/t: unknown -> healthy: status 200",
        "path r/t: not used for 30 s: 10.0.0.1:80: Connection refused",
        "path r/t: used again: status 200",
    ]


async def test_an_agent_without_room_says_nothing_of_its_paths(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(through("t"), agents=(agent("a"),))) as world:
        world.answers["t/a"] = AgentFull("agent_capacity")
        world.connected("a")
        await trio.sleep(45)
        path = world.board.path(key("t", "a"))
        world.monitor.refused(path, AgentFull("agent_capacity"))
        assert len(world.times("t/a")) == 5
        assert (world.status("t", "a"), world.chosen()) == ("unknown", "t/a")
        assert (path.health.failures, path.health.refusals, path.extra) == (0, 0, None)
        world.answers["t/a"] = FINE
        await trio.sleep(25)
        assert world.status("t", "a") == "healthy"


async def test_refusals_count_nothing_without_health_checks(
    open_world: Open, autojump_clock: Clock
) -> None:
    async with open_world(config(direct("t", health_check=None))) as world:
        world.monitor.refused(world.board.path(key("t")), ConnectFailed("refused"))
        assert world.chosen() == "t"
        assert world.board.path(key("t")).extra is None


async def test_real_answers_prove_a_path(open_world: Open, autojump_clock: Clock) -> None:
    one = config(direct("t"), direct("unchecked", health_check=None))
    async with open_world(one) as world:
        await trio.sleep(1)
        path = world.board.path(key("t"))
        checked_at = path.health.proved_at
        assert checked_at is not None
        used = {("r", "t", None), ("r", "unchecked", None), ("gone", "x", "y"), (None, None, None)}
        world.monitor.answered(used, checked_at - 1)  # older news than the check
        assert path.health.proved_at == checked_at
        world.monitor.answered(used, checked_at + 1)
        assert path.health.proved_at == checked_at + 1
        assert world.board.path(key("unchecked")).health.proved_at is None
