"""What the API shows of agents, as plain values made from the state: pure.

"Connected" is said only of what was proven lately (spec §7): an agent whose last sign of life is
too old is `unproven`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen

from p2pstream.agents.hub import AgentStatus
from p2pstream.agents.keepalive import PING_SECONDS, PONG_SECONDS
from p2pstream.config.model import Agent
from p2pstream.config.scalars import AGENT_ID_LABEL
from p2pstream.manage import shapes
from p2pstream.manage.steps import Steps, sliced
from p2pstream.manage.traffic import Traffic, p95_millis
from p2pstream.policy.board import Board

# A keepalive answer every 20 s, each at most 10 s late: an older proof is none.
PROOF_SECONDS: Final = PING_SECONDS + PONG_SECONDS

# The form of the command that connects an agent; the secret is in its token and nowhere else.
SETUP: Final = "p2pstream agent --token p2ps_…"

AgentHistory = Callable[[str], Mapping[str, Any]]
"""Agent id -> `uptime_percent`, `connections`, `disconnections`, `connected_since`, `last_seen`."""


@frozen
class AgentSources:
    """All that is known of agents, at one moment."""

    board: Board
    connected: Mapping[str, AgentStatus]
    history: AgentHistory
    traffic: Traffic
    active: Mapping[str, int]


def state(agent: Agent, now: AgentStatus | None) -> shapes.AgentState:
    """An agent's state in one word."""
    if not agent.enabled:
        return "disabled"
    if now is None:
        return "disconnected"
    if now.leaving or agent.drain:
        return "draining"
    return "connected" if now.proven_seconds_ago <= PROOF_SECONDS else "unproven"


def agents(sources: AgentSources) -> Steps[shapes.Agents]:
    """Every agent of the file, in its order."""
    view: dict[str, shapes.Agent] = {}
    for one, pause in sliced(sources.board.tables.agents.values()):
        view[one.id] = agent(sources, one.config)
        if pause:
            yield
    return {"agents": view}


def agent(sources: AgentSources, config: Agent) -> shapes.Agent:
    """One agent."""
    now = sources.connected.get(config.id)
    history = sources.history(config.id)
    count = sources.traffic.agent(config.id)
    report = None if now is None else now.report
    return {
        "id": config.id,
        "name": config.name,
        "state": state(config, now),
        "labels": config.labels,
        "system_labels": {AGENT_ID_LABEL: config.id},
        "weight": config.weight,
        "drain": config.drain,
        "version": None if now is None else now.version,
        "address": None if now is None else now.peer,
        "connected_since": None if now is None else history["connected_since"],
        "offline_since": None if now is not None else history["last_seen"],
        "uptime_percent": history["uptime_percent"],
        "connections": history["connections"],
        "disconnections": history["disconnections"],
        "round_trip_millis": None if now is None else millis(now.round_trip_seconds),
        "active_requests": sources.active.get(config.id, 0),
        "streams": 0 if now is None else now.streams,
        "received_bytes": None if now is None else now.received_bytes,
        "sent_bytes": None if now is None else now.sent_bytes,
        "memory_bytes": None if report is None else report.memory_bytes,
        "cpu_percent": None if report is None else report.cpu_percent,
        "requests": count.requests,
        "failures": count.failures,
        "origin_errors": count.origin_errors,
        "p95_millis": p95_millis(count),
    }


def active_requests(board: Board) -> dict[str, int]:
    """How many requests are under way through each agent that has any."""
    active: dict[str, int] = {}
    for path in board.paths.values():
        if path.active and path.agent is not None:
            active[path.agent.id] = active.get(path.agent.id, 0) + path.active
    return active


def carried(board: Board, agent_id: str) -> list[tuple[str, str]]:
    """The targets whose selector means the agent, by route and target."""
    return [
        key
        for key, target in board.tables.targets.items()
        if target.selection is not None and agent_id in target.selection.position
    ]


def millis(seconds: float | None) -> float | None:
    """Milliseconds, to two places."""
    return None if seconds is None else round(seconds * 1000, 2)
