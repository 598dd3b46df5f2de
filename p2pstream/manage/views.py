"""What `p2pstream status` shows, as plain JSON values made from the state: pure.

Shares are fractions of a route's requests, as its policies would deal them out now. "Fine" is said
only of what was proven lately (spec §7): a path whose last proof is too old is `unknown`, such an
agent `unproven`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from p2pstream.agents.hub import AgentStatus
from p2pstream.manage.agent_views import PROOF_SECONDS
from p2pstream.manage.route_views import reason, seen_of, shares, shown_status
from p2pstream.manage.steps import Steps, sliced
from p2pstream.observe.counters import Count, Counters
from p2pstream.policy.balance import expected_shares
from p2pstream.policy.board import Board, Obstacle
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.decide import Reason, serving_group
from p2pstream.policy.state import PathState, RouteState, TargetState

Json = dict[str, Any]

_Counts = Mapping[tuple[str | None, str | None, str | None], Count]

_NOTHING: Final = Count()


def status(
    board: Board,
    agents: Iterable[AgentStatus],
    counters: Counters,
    listeners: Mapping[str, str],
    now: float,
) -> Steps[Json]:
    """Everything `p2pstream status` prints; `listeners` maps ids to where they listen.

    `now` is of the clock that health is kept by.
    """
    counts = {path[1:]: count for path, count in counters.by_path.items()}
    connected = {agent.agent_id: agent for agent in agents}
    view: Json = {
        "listeners": [{"id": id, "address": where} for id, where in listeners.items()],
        "agents": [
            _agent(id, agent.config.name, agent.config.enabled, connected.get(id))
            for id, agent in board.tables.agents.items()
        ],
        "routes": [],
        "targets": [],
        "paths": [],
        "requests": sum(count.requests for count in counters.by_path.values()),
        "failures": dict(counters.by_kind),
    }
    for route, pause in sliced(board.tables.routes.values()):
        state = board.state(route)
        view["routes"].append(_route(route, state))
        for target, share, why in shares(board, state):
            view["targets"].append(_target(target, share, why))
            view["paths"] += _paths(board, target, share, counts, now)
        if pause:
            yield
    return view


def _agent(id: str, name: str, enabled: bool, now: AgentStatus | None) -> Json:
    view: Json = {"id": id, "name": name, "state": "disconnected" if enabled else "disabled"}
    if now is not None:
        proven = now.proven_seconds_ago <= PROOF_SECONDS
        view.update(
            state="draining" if now.leaving else "connected" if proven else "unproven",
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


def _route(route: CompiledRoute, state: RouteState) -> Json:
    config = route.config
    serving = serving_group(state)
    return {
        "id": route.id,
        "listener": route.listener_id,
        "enabled": config.enabled,
        "action": config.action,
        "host_pattern": None if config.host_pattern is None else str(config.host_pattern),
        "path_prefix": config.path_prefix,
        "balancing": config.target_load_balancing,
        "serving_group": None if serving is None else serving.group.number,
    }


def _target(state: TargetState, share: float, reason: Reason | None) -> Json:
    target = state.target
    config = target.config
    return {
        "route": target.route_id,
        "name": target.name,
        "transport": target.kind,
        "url": None if config.url is None else str(config.url),
        "priority_group": target.group,
        "weight": config.weight,
        "balancing": target.policy if target.kind == "agent" else None,
        "unusable": reason,
        "active": sum(path.active for path in state.paths),
        "share": round(share, 4),
    }


def _paths(
    board: Board,
    state: TargetState,
    share: float,
    counts: _Counts,
    now: float,
) -> Iterator[Json]:
    target = state.target
    shares = {0: 1.0}
    if target.selection is not None:
        shares = expected_shares(target.policy, target.selection.weights, state.usable)
    for position, path in enumerate(state.paths):
        key = path.key
        count = counts.get((*key[:2], key.agent_id or None), _NOTHING)
        obstacle = board.obstacle(path)
        yield {
            "route": key.route_id,
            "target": key.target_name,
            "agent": key.agent_id or None,
            "transport": target.kind,
            "priority_group": target.group,
            "state": shown_status(path, now),
            "unusable": obstacle,
            "reason": _reason(path, obstacle, now),
            "last_check": _last_check(path, now),
            "active": path.active,
            "share": round(share * shares.get(position, 0.0), 4),
            "requests": count.requests,
            "failures": count.failures,
        }


def _reason(path: PathState, obstacle: Obstacle | None, now: float) -> str:
    """Why a path is in its state, in words, and for how long."""
    health = path.health
    if obstacle == "cooldown":
        seconds = max(health.cooldown_until - now, 0.0)
        return f"{reason(path, obstacle, now)}; used again in {seconds:.0f} s"
    if obstacle is None and health.status == "healthy" != shown_status(path, now):
        return f"not proven for {now - (health.proved_at or now):.0f} s"
    return reason(path, obstacle, now)


def _last_check(path: PathState, now: float) -> Json | None:
    check = seen_of(path).check
    if check is None:
        return None
    return {
        "passed": check.passed,
        "reason": check.reason,
        "seconds_ago": round(now - check.at, 1),
        "millis": round(check.seconds * 1000, 1),
    }
