"""What the API shows, as plain JSON values made from the state: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from p2pstream.agents.hub import AgentStatus
from p2pstream.observe.counters import Count, Counters
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import CompiledTarget, PathKey
from p2pstream.policy.tables import Tables

Json = dict[str, Any]

_NOTHING = Count()


def status(
    tables: Tables,
    board: Board,
    agents: Iterable[AgentStatus],
    counters: Counters,
    listeners: Mapping[str, str],
) -> Json:
    """Everything `p2pstream status` prints; `listeners` maps ids to where they listen."""
    counts = {path[1:]: count for path, count in counters.by_path.items()}
    connected = {agent.agent_id: agent for agent in agents}
    return {
        "listeners": [{"id": id, "address": where} for id, where in listeners.items()],
        "agents": [
            _agent(id, agent.config.name, agent.config.enabled, connected.get(id))
            for id, agent in tables.agents.items()
        ],
        "paths": [
            _path(target, key, board, counts.get((*key[:2], key.agent_id or None), _NOTHING))
            for target in tables.targets.values()
            for key in _keys(target)
        ],
        "requests": sum(count.requests for count in counters.by_path.values()),
        "failures": dict(counters.by_kind),
    }


def _agent(id: str, name: str, enabled: bool, now: AgentStatus | None) -> Json:
    view: Json = {"id": id, "name": name, "state": "disconnected" if enabled else "disabled"}
    if now is not None:
        view.update(
            state="draining" if now.leaving else "connected",
            version=now.version,
            address=now.peer,
            connected_seconds=round(now.connected_seconds, 1),
            proven_seconds_ago=_rounded(now.proven_seconds_ago, 1),
            round_trip_millis=_rounded(now.round_trip_seconds, 1000),
            streams=now.streams,
            received_bytes=now.received_bytes,
            sent_bytes=now.sent_bytes,
        )
    return view


def _rounded(seconds: float | None, factor: int) -> float | None:
    return None if seconds is None else round(seconds * factor, 2)


def _keys(target: CompiledTarget) -> list[PathKey]:
    agents = [agent.id for agent in target.agents] if target.kind == "agent" else [""]
    return [PathKey(target.route_id, target.name, agent) for agent in agents]


def _path(target: CompiledTarget, key: PathKey, board: Board, count: Count) -> Json:
    path = board.path(key)
    return {
        "route": key.route_id,
        "target": key.target_name,
        "agent": key.agent_id or None,
        "transport": target.kind,
        "priority_group": target.group,
        "health": path.health.status,
        "unusable": board.obstacle(path),
        "active": path.active,
        "requests": count.requests,
        "failures": count.failures,
    }
