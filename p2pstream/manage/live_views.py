"""What a reload would touch, and what a request would meet, in the running server: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen

from p2pstream.agents.hub import AgentStatus
from p2pstream.config.plan import Plan
from p2pstream.policy import render
from p2pstream.policy.board import Board
from p2pstream.policy.explain import Explanation
from p2pstream.policy.state import PathState

Json = dict[str, Any]

# A plan's line begins so; an id has neither blank nor colon.
_SUBJECT: Final = re.compile(r"[-+~] (listener|agent|route|target) ([^\s:]+)")
_WHAT: Final = {
    "listener": "connections",
    "agent": "streams",
    "route": "requests",
    "target": "requests",
}


@frozen
class Live:
    """What goes on now, by what a plan's lines are about: kind -> id -> how much."""

    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, board: Board, listeners: Mapping[str, int], agents: Iterable[AgentStatus]) -> Live:
        """`listeners`: connections by listener id."""
        routes = dict.fromkeys(board.tables.routes, 0)
        targets = dict.fromkeys(map("/".join, board.tables.targets), 0)
        for key, path in board.paths.items():
            routes[key.route_id] += path.active
            targets[f"{key.route_id}/{key.target_name}"] += path.active
        streams = dict.fromkeys(board.tables.agents, 0)
        streams.update({agent.agent_id: agent.streams for agent in agents})
        return cls({"listener": listeners, "agent": streams, "route": routes, "target": targets})


def plan(changes: Plan, lines: Iterable[str], live: Live) -> Json:
    """A plan, and how many connections, requests and streams each of its changes touches."""
    shown: list[str] = []
    touched: list[Json] = []
    for line in lines:
        subject = _SUBJECT.match(line)
        kind, id = (subject[1], subject[2]) if subject else ("", "")
        count = live.counts.get(kind, {}).get(id)
        if count is None:
            shown.append(line)
            continue
        what = _WHAT[kind]
        shown.append(f"{line} [{count} {what.removesuffix('s') if count == 1 else what} now]")
        touched.append({"kind": kind, "id": id, what: count})
    return {**changes.as_json(), "lines": shown, "touches": touched}


def explain(board: Board, explanation: Explanation, agents: Iterable[AgentStatus]) -> Json:
    """An explanation under what goes on now; `now` and the last lines tell what that is."""
    connected = {agent.agent_id: agent for agent in agents}
    paths = [] if explanation.route is None else _paths_of(board, explanation.route.id)
    now = [_path(board, path, connected.get(path.key.agent_id)) for path in paths]
    lines = render.as_lines(explanation)
    if now:
        lines.append("now:")
        lines += [f"  {_line(one)}" for one in now]
    return {**render.as_json(explanation), "now": now, "lines": lines}


def _paths_of(board: Board, route_id: str) -> list[PathState]:
    """The paths of a route, in the order of the file."""
    state = board.state(board.tables.routes[route_id])
    return [path for group in state.groups for target in group.targets for path in target.paths]


def _path(board: Board, path: PathState, agent: AgentStatus | None) -> Json:
    view: Json = {
        "target": path.key.target_name,
        "agent": path.key.agent_id or None,
        "health": path.health.status,
        "unusable": board.obstacle(path),
        "active": path.active,
    }
    if agent is not None:
        view["agent_connected_seconds"] = round(agent.connected_seconds, 1)
        view["agent_streams"] = agent.streams
    return view


def _line(path: Json) -> str:
    via = f" through {path['agent']}" if path["agent"] else ""
    reason = path["unusable"]
    state = path["health"] if reason in (None, path["health"]) else f"{path['health']}, {reason}"
    text = f"{path['target']}{via}  {state}, {path['active']} active"
    if "agent_streams" in path:
        seconds, streams = path["agent_connected_seconds"], path["agent_streams"]
        text += f"; agent connected for {seconds:.0f} s, {streams} streams"
    return text
