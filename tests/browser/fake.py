"""A management server with made-up sites, for what the real one would take hundreds of processes:
`python fake.py --agents 1000 --routes 1000`. It prints its port, and serves until it is killed.

The pages are those of the package, the server and its WebSockets too; only what it tells is made
up. There is nothing to log in to: everybody has a session.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from p2pstream.agents.hub import Hub
from p2pstream.config import model
from p2pstream.manage import pages
from p2pstream.manage.replies import as_json
from p2pstream.manage.server import Exchange, Management
from p2pstream.manage.websocket import Query, Socket, Sockets, Talk
from p2pstream.net.http import Response

Json = dict[str, Any]

WINDOWS: Final = {
    "5m": (300, 5),
    "1h": (3_600, 60),
    "24h": (86_400, 600),
    "30d": (2_592_000, 21_600),
}
STATES: Final = ("connected",) * 94 + ("disconnected",) * 3 + ("unproven", "draining", "disabled")


class Site:
    """What there is to see. `random` is seeded: two fakes of one size are alike."""

    def __init__(self, agents: int, routes: int, now: float) -> None:
        self.random = random.Random(7)
        self.started = now - 308_000
        self.agents = {one["id"]: one for one in (self._agent(i, now) for i in range(agents))}
        ids = list(self.agents)
        self.routes = {one["id"]: one for one in (self._route(i, ids, now) for i in range(routes))}
        self.count = 0

    def _agent(self, number: int, now: float) -> Json:
        state = STATES[self.random.randrange(len(STATES))]
        here = state in ("connected", "unproven", "draining")
        requests = self.random.randrange(1_000_000) if here else 0
        return {
            "id": f"agent-{number:05d}",
            "name": f"site-{number:04d}",
            "state": state,
            "labels": {"site": f"s{number % 40}", "rack": str(number % 7)},
            "system_labels": {"p2pstream.io/agent-id": f"agent-{number:05d}"},
            "weight": 100,
            "drain": state == "draining",
            "version": "0.1.0" if here else None,
            "address": f"192.0.2.{number % 250}:40000" if here else None,
            "connected_since": now - self.random.randrange(900_000) if here else None,
            "offline_since": None if here else now - self.random.randrange(90_000),
            "uptime_percent": 100 - self.random.random() ** 6 * 9,
            "connections": 3,
            "disconnections": 2,
            "round_trip_millis": 5 + self.random.random() * 60 if here else None,
            "active_requests": self.random.randrange(9) if here else 0,
            "streams": self.random.randrange(9) if here else 0,
            "received_bytes": requests * 2_000 if here else None,
            "sent_bytes": requests * 300 if here else None,
            "memory_bytes": 41_000_000 if here else None,
            "cpu_percent": 1.5 if here else None,
            "requests": requests,
            "failures": requests // 5_000,
            "p95_millis": 10 + self.random.random() * 200 if here else None,
        }

    def _route(self, number: int, agents: list[str], now: float) -> Json:
        paths = [
            {
                "agent": agent,
                "state": "healthy"
                if self.agents[agent]["state"] == "connected"
                else "disconnected",
                "unusable": None if self.agents[agent]["state"] == "connected" else "disconnected",
                "reason": "200 in time",
                "proved_at": now,
                "cooldown_until": None,
                "last_check": {"passed": True, "reason": "200", "at": now - 4, "millis": 8.5},
                "active": 0,
                "share": 0.5,
                "requests": 1_000,
                "failures": 1,
            }
            for agent in agents[number % max(1, len(agents)) :][:2]
        ]
        usable = any(path["unusable"] is None for path in paths)
        return {
            "id": f"route-{number:04d}",
            "listener": "public",
            "enabled": True,
            "priority": number // 100,
            "host_pattern": f"app-{number}.example.com",
            "path_prefix": None,
            "is_default": False,
            "action": "forward",
            "redirect": None,
            "balancing": "round_robin",
            "serving_group": 0 if usable else None,
            "requests": self.random.randrange(1_000_000),
            "failures": self.random.randrange(50),
            "p95_millis": 10 + self.random.random() * 200,
            "targets": [
                {
                    "name": "home",
                    "transport": "agent",
                    "url": "http://127.0.0.1:8080",
                    "static_status": None,
                    "priority_group": 0,
                    "weight": 100,
                    "balancing": "round_robin",
                    "unusable": None if usable else "no_usable_agent",
                    "active": 0,
                    "share": 1.0 if usable else 0.0,
                    "paths": paths,
                }
            ],
        }

    def live(self) -> None:
        """A second goes by: one object in twenty has something new to say."""
        for one in self.random.sample(list(self.agents.values()), max(1, len(self.agents) // 20)):
            if one["state"] == "connected":
                one["requests"] += self.random.randrange(400)
                one["active_requests"] = self.random.randrange(9)
        for one in self.random.sample(list(self.routes.values()), max(1, len(self.routes) // 20)):
            one["requests"] += self.random.randrange(400)

    def view(self, name: str, window: str) -> Json:
        """A live view."""
        if name == "agents":
            return {"agents": self.agents}
        if name == "routes":
            listener = {
                "id": "public",
                "enabled": True,
                "protocol": "http",
                "address": "*:80",
                "connections": 120,
                "toml": '[[listeners]]\nid = "public"\nport = 80\n',
                "where": "p2pstream.toml:3",
            }
            order = {"public": list(self.routes)}
            return {"listeners": {"public": listener}, "order": order, "routes": self.routes}
        return self.overview(window, time.time())  # noqa: TID251 - a fake of the shell

    def overview(self, window: str, now: float) -> Json:
        """The Overview: waves by day and hour, with a bad quarter of an hour not long ago."""
        seconds, step = WINDOWS[window]
        start = int(now // step) * step - seconds
        points = range(start, int(now) + 1, step)
        wave = [300 + 200 * math.sin(at / (seconds / 9)) + 40 * math.sin(at * 1.7) for at in points]
        hurt = [0.7 < i / len(wave) < 0.76 for i in range(len(wave))]
        requests = [round(value * step) for value in wave]
        requests[-1] = round(wave[-1] * (now - points[-1]))  # it is not over yet
        failures = [
            value // 12 if bad else value // 4_000
            for value, bad in zip(requests, hurt, strict=True)
        ]
        p50 = [9 + value / 60 for value in wave]
        p95 = [value * (6 if bad else 3.2) for value, bad in zip(p50, hurt, strict=True)]
        here = sum(one["connected_since"] is not None for one in self.agents.values())
        total, failed = sum(requests), sum(failures)
        return {
            "window": window,
            "now": now,
            "started": self.started,
            "version": "0.1.0",
            "totals": {
                "requests": total,
                "failures": failed,
                "origin_errors": 12,
                "success_percent": math.floor(10_000 * (total - failed) / total) / 100,
                "rate": round(total / seconds, 3),
                "p50_millis": 13.1,
                "p95_millis": 44.2,
                "p99_millis": 96.4,
                "bytes_in": total * 800,
                "bytes_out": total * 14_000,
            },
            "active_requests": 37,
            "connections": 214,
            "agents_connected": here,
            "agents_declared": len(self.agents),
            "series": {
                "start": start,
                "step_seconds": step,
                "requests": requests,
                "failures": failures,
                "p50_millis": p50,
                "p95_millis": p95,
                "p99_millis": [value * 1.8 for value in p95],
                "bytes_in": [value * 800 for value in requests],
                "bytes_out": [value * 14_000 for value in requests],
                "agents_connected": [here - (3 if bad else 0) for bad in hurt],
            },
            "hotspots": {
                "listeners": [_hot("public", total, failed, 44.2)],
                "routes": [
                    _hot(one["id"], one["requests"], one["failures"], one["p95_millis"])
                    for one in list(self.routes.values())[:14]
                ],
                "targets": [
                    _hot(f"{one['id']}/home", one["requests"], one["failures"], one["p95_millis"])
                    for one in list(self.routes.values())[:14]
                ],
                "agents": [
                    _hot(one["id"], one["requests"], one["failures"], one["p95_millis"])
                    for one in list(self.agents.values())[:14]
                ],
            },
            "problems": [
                {
                    "error_kind": "connect_failed",
                    "count": failed,
                    "last_seen": now - 90,
                    "routes": [["route-0003", failed]],
                },
                {
                    "error_kind": "client_cancelled",
                    "count": 31,
                    "last_seen": now - 4,
                    "routes": [["route-0001", 20], ["route-0002", 11]],
                },
            ],
            "reloads": [
                {
                    "at": now - 5_000,
                    "by": "SIGHUP",
                    "ok": True,
                    "faults": [],
                    "lines": ["~ target route-0003/home: weight 100 -> 50", "+ agent site-0999"],
                },
                {
                    "at": now - 90_000,
                    "by": "p2pstream reload",
                    "ok": False,
                    "lines": [],
                    "faults": [
                        "p2pstream.toml:12: routes[media].targets[home].weight: "
                        "must be between 1 and 1000000, got 0"
                    ],
                },
            ],
            "history": {"ok": True},
        }

    def events(self) -> list[Json]:
        """One request's way, as `trace` tells it."""
        self.count += 1
        id, at = f"fake-{self.count}", time.time()  # noqa: TID251 - a fake of the shell
        route = self.random.choice(list(self.routes.values()))
        agent = route["targets"][0]["paths"][0]["agent"]
        took = 4 + self.random.random() * 60
        status = self.random.choice((200,) * 12 + (304, 404, 502))
        stages: list[Json] = [
            {
                "stage": "received",
                "listener": "public",
                "method": "GET",
                "host": route["host_pattern"],
                "path": f"/api/items/{self.count}",
                "client": "203.0.113.9",
            },
            {"stage": "route_resolved", "route": route["id"]},
            {
                "stage": "target_selected",
                "target": "home",
                "transport": "agent",
                "priority_group": 0,
                "attempt": 1,
            },
            {"stage": "agent_selected", "agent": agent},
            {
                "stage": "upstream_started",
                "origin": "http://127.0.0.1:8080",
                "reused": True,
                "connect_millis": None,
            },
        ]
        if status == 502:
            stages.append(
                {
                    "stage": "failed",
                    "status": 502,
                    "error_kind": "upstream_closed",
                    "why": "closed before its answer",
                }
            )
        else:
            stages.append({"stage": "upstream_responded", "status": status})
            stages.append(
                {"stage": "response_sent", "status": status, "bytes_in": 0, "bytes_out": 5_200}
            )
        steps = (0, 0.05, 0.1, 0.12, 0.3, took, took * 1.2)
        return [
            {"id": id, "at": at, "millis": round(millis, 3), **one}
            for one, millis in zip(stages, steps, strict=False)
        ]


def _hot(id: str, requests: int, failures: int, p95: float | None) -> Json:
    good = math.floor(10_000 * (requests - failures) / requests) / 100 if requests else None
    return {
        "id": id,
        "requests": requests,
        "failures": failures,
        "success_percent": good,
        "p95_millis": p95,
        "bytes_in": requests * 300,
        "bytes_out": requests * 2_000,
    }


def patch(old: Any, new: Any) -> Any:
    """What leads from one to the other (RFC 7396)."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    gone = dict.fromkeys(old.keys() - new.keys())
    return gone | {
        key: patch(old.get(key), value)
        for key, value in new.items()
        if old.get(key) != value or key not in old
    }


def talks(site: Site, per_second: int) -> tuple[Callable[[Query], Talk], Callable[[Query], Talk]]:
    """The two WebSockets."""

    def live(query: Query) -> Talk:
        name, window = query["view"][0], query.get("window", ["5m"])[0]

        async def talk(socket: Socket) -> None:
            old = json.loads(json.dumps(site.view(name, window)))
            await socket.send(json.dumps({"type": "whole", "view": old}))
            while True:
                await trio.sleep(1)
                site.live()
                new = json.loads(json.dumps(site.view(name, window)))
                await socket.send(json.dumps({"type": "patch", "patch": patch(old, new)}))
                old = new

        return talk

    def trace(_: Query) -> Talk:
        async def talk(socket: Socket) -> None:
            while True:
                events = [event for _ in range(max(1, per_second // 10)) for event in site.events()]
                await socket.send(json.dumps({"events": events, "dropped": 0}))
                await trio.sleep(0.1)

        return talk

    return live, trace


def answers(site: Site) -> Mapping[str, Callable[[Exchange], Json]]:
    """The plain part of the API, by path."""

    def agent(exchange: Exchange) -> Json:
        one = site.agents[exchange.values["id"]]
        sessions = [
            {
                "start": site.started + 86_400 * i,
                "end": None if i == 3 else site.started + 86_400 * i + 80_000,
                "reason": None if i == 3 else "keepalive unanswered",
                "address": "192.0.2.1:40000",
                "version": "0.1.0",
            }
            for i in (3, 2, 1)
        ]
        return {
            **one,
            "sessions": sessions,
            "targets": [["route-0001", "home"]],
            "where": "agents.d/site.toml:1",
            "setup": "p2pstream agent --token p2ps_…",
            "toml": f'[[agents]]\nid = "{one["id"]}"\nname = "{one["name"]}"\n',
        }

    def route(exchange: Exchange) -> Json:
        one = site.routes[exchange.values["id"]]
        return {
            **one,
            "where": "p2pstream.toml:10",
            "toml": f'[[routes]]\nid = "{one["id"]}"\n\n[[routes.targets]]\nname = "home"\n',
        }

    return {
        "session": lambda _: {"authenticated": True},
        "agents": lambda _: site.view("agents", ""),
        "agents/{id}": agent,
        "routes/{id}": route,
    }


async def main() -> None:
    """Serve."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--agents", type=int, default=12)
    arguments.add_argument("--routes", type=int, default=12)
    arguments.add_argument(
        "--requests", type=int, default=20, help="a second, for the traffic page"
    )
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    site = Site(given.agents, given.routes, time.time())  # noqa: TID251 - a fake of the shell
    config = model.Management(tls="off", port=given.port)

    def answer(make: Callable[[Exchange], Json]) -> Callable[[Exchange], Awaitable[Response]]:
        async def handle(exchange: Exchange) -> Response:
            return as_json(make(exchange))

        return handle

    with tempfile.TemporaryDirectory() as folder:
        management = Management(config, Path(folder), Hub(()))
        pages.add_to(management.router)
        for path, make in answers(site).items():
            management.router.add("GET", f"/api/v1/{path}", answer(make))
        sockets = Sockets(lambda _: None)
        for path, talk in zip(("live", "trace"), talks(site, given.requests), strict=True):
            management.router.add("GET", f"/api/v1/{path}", sockets.handler(talk))
        async with trio.open_nursery() as nursery:
            await nursery.start(management.serve)
            print(management.port, flush=True)


if __name__ == "__main__":
    trio.run(main)
