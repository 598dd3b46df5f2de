"""What a routing and a balancing decision cost, in microseconds: the best of several rounds.

    python tests/bench/policy_micro.py

Promises held against it: a match among 10,000 routes costs less than twice one among 10; a pick
among 1,000 agents stays under 20 µs; 10,000 routes are compiled under a second and taken over by
the board in less than 50 ms.
"""

from __future__ import annotations

import random
import time
import timeit
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import get_args

from p2pstream.config.model import Agent, AgentSelector, Balancing, Config, Listener, Route, Target
from p2pstream.config.scalars import HostPattern, Origin
from p2pstream.policy.board import Board
from p2pstream.policy.decide import Choice, choose
from p2pstream.policy.path import inspect
from p2pstream.policy.tables import Tables

ORIGIN = Origin.parse("http://127.0.0.1:8080")
LISTENERS = (Listener(id="web", port=80),)
ROUNDS, CALLS = 7, 20_000


def cost(call: Callable[[], object]) -> float:
    """Microseconds per call."""
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def show(what: str, microseconds: float) -> None:
    """Print one figure."""
    print(f"{what:<58}{microseconds:9.2f} µs")


def routes(count: int) -> tuple[Route, ...]:
    """Routes by host, by path and by both, and a default one."""
    some = (
        Route(
            id=f"r{number}",
            listener_id="web",
            host_pattern=HostPattern.parse(f"h{number // 4}.example.com") if number % 3 else None,
            path_prefix=f"/api/s{number}",
            targets=(Target(name="t", url=ORIGIN),),
        )
        for number in range(count - 1)
    )
    default = Route(id="d", listener_id="web", is_default=True, targets=(Target(name="t"),))
    return (*some, default)


def matching() -> None:
    """Paths and routes."""
    for path in (b"/", b"/api/v1/things/42", b"/assets/js/app.2af8b1c2.chunk.min.js"):
        show(f"inspect {path.decode()}", cost(partial(inspect, path)))
    show("inspect /caf%C3%A9/x", cost(partial(inspect, b"/caf%C3%A9/x")))
    for count in (1, 10, 10_000):
        table = Tables.compile(Config(listeners=LISTENERS, routes=routes(count))).listeners["web"]
        show(
            f"match among {count} routes, by host and path",
            cost(partial(table.match, "h1.example.com", b"/api/s4/x/y")),
        )
        show(
            f"match among {count} routes, the default one",
            cost(partial(table.match, "app.example.org", b"/assets/app.js")),
        )


def match_ratio() -> float:
    """What a match among 10,000 routes costs, in matches among 10: the worse of two requests.

    Both are timed in turn, and the median of the rounds' ratios is taken, so that a machine that
    slows down meanwhile favours neither.
    """
    few, many = (
        Tables.compile(Config(listeners=LISTENERS, routes=routes(count))).listeners["web"]
        for count in (10, 10_000)
    )
    worst = 0.0
    for host, path in (("h1.example.com", b"/api/s4/x/y"), ("app.example.org", b"/assets/app.js")):
        rounds = []
        for _ in range(15):
            taken = [
                min(timeit.repeat(partial(table.match, host, path), number=2_000, repeat=3))
                for table in (few, many)
            ]
            rounds.append(taken[1] / taken[0])
        worst = max(worst, median(rounds))
    return worst


def one_route(targets: tuple[Target, ...], agents: int, policy: Balancing) -> Board:
    """A board with one route `r`, all agents connected."""
    route = Route(
        id="r",
        listener_id="web",
        is_default=True,
        target_load_balancing=policy,
        targets=targets,
    )
    config = Config(
        listeners=LISTENERS,
        agents=tuple(
            Agent(id=f"a{number}", token_hash=(), labels={"site": "x"}, weight=1 + number * 997)
            for number in range(agents)
        ),
        routes=(route,),
    )
    board = Board(Tables.compile(config))
    for agent in config.agents:
        board.agent_connected(agent.id)
    return board


def choosing() -> None:
    """A whole choice: target, agent, counting, release; 64 requests are active at any time."""
    for policy in get_args(Balancing):
        for count in (1, 4):
            targets = tuple(Target(name=f"t{n}", url=ORIGIN, weight=n + 1) for n in range(count))
            show(f"choose, {count} direct, {policy}", cost(serving(one_route(targets, 0, policy))))
        for count in (2, 1000):
            target = Target(
                name="t",
                url=ORIGIN,
                transport="agent",
                agent_selector=AgentSelector({"site": "x"}),
                agent_load_balancing=policy,
            )
            board = one_route((target,), count, "round_robin")
            show(f"choose, 1 target with {count} agents, {policy}", cost(serving(board)))


def serving(board: Board) -> Callable[[], None]:
    """One more request and the end of a random one."""
    route = board.tables.routes["r"]
    active = [choose(route, board, random.random) for _ in range(64)]
    turn = 0

    def serve() -> None:
        nonlocal turn
        turn = (turn + 37) & 63
        ended: Choice | None = active[turn]
        assert ended is not None
        ended.release()
        active[turn] = choose(route, board, random.random)

    return serve


def reloading() -> None:
    """10,000 routes with a direct and an agent target each."""
    config = Config(
        listeners=LISTENERS,
        agents=tuple(
            Agent(id=f"a{number}", token_hash=(), labels={"n": str(number)})
            for number in range(100)
        ),
        routes=tuple(
            Route(
                id=f"r{number}",
                listener_id="web",
                host_pattern=HostPattern.parse(f"h{number}.example.com"),
                targets=(
                    Target(name="a", url=ORIGIN),
                    Target(
                        name="b",
                        url=ORIGIN,
                        transport="agent",
                        agent_selector=AgentSelector({"n": str(number % 100)}),
                    ),
                ),
            )
            for number in range(10_000)
        ),
    )
    begun = time.perf_counter()
    board = Board(Tables.compile(config))
    show("compile 10,000 routes", (time.perf_counter() - begun) * 1e6)
    for route in board.tables.routes.values():
        board.state(route)
    tables = Tables.compile(config)
    begun = time.perf_counter()
    board.rebind(tables)
    show("rebind 10,000 routes, all in use", (time.perf_counter() - begun) * 1e6)
    begun = time.perf_counter()
    board.state(tables.routes["r1"])
    show("first request of a route after a reload", (time.perf_counter() - begun) * 1e6)


if __name__ == "__main__":
    matching()
    print(f"a match among 10,000 routes costs {match_ratio():.2f} times one among 10")
    choosing()
    reloading()
