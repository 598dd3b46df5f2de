"""What the API shows of listeners and routes, as plain values made from the state: pure.

Shares are fractions of a route's requests, as its policies would deal them out now. "Healthy" is
said only of what was proven lately (spec §7): a path whose last proof is too old is `unknown`.
Times are points in time, never "so many seconds ago": where nothing happens, nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from p2pstream.config.model import Listener
from p2pstream.config.scalars import bracketed
from p2pstream.health.monitor import Sightings
from p2pstream.manage import shapes
from p2pstream.manage.clock import Clock
from p2pstream.manage.steps import Steps, sliced
from p2pstream.manage.traffic import Traffic, p95_millis
from p2pstream.policy.balance import expected_shares
from p2pstream.policy.board import Board, Obstacle
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.decide import Reason, serving_group, skipped
from p2pstream.policy.health import Status, is_proven
from p2pstream.policy.state import PathState, RouteState, TargetState


@frozen
class RouteSources:
    """All that is known of routes, at one moment."""

    board: Board
    traffic: Traffic
    clock: Clock


def order(board: Board) -> dict[str, list[str]]:
    """The ids of each listener's enabled routes, in the order in which they are tried."""
    return {
        listener_id: [route.id for route in table.ranked]
        for listener_id, table in board.tables.listeners.items()
    }


def routes(sources: RouteSources) -> Steps[dict[str, shapes.Route]]:
    """Every route of the file, in its order."""
    view: dict[str, shapes.Route] = {}
    for one, pause in sliced(sources.board.tables.routes.values()):
        view[one.id] = route(sources, one)
        if pause:
            yield
    return view


def route(sources: RouteSources, compiled: CompiledRoute) -> shapes.Route:
    """One route with its targets, in the order of the file."""
    config = compiled.config
    state = sources.board.state(compiled)
    serving = serving_group(state)
    count = sources.traffic.route(compiled.id)
    targets = {
        each.target.name: _target(sources, each, share, reason)
        for each, share, reason in shares(sources.board, state)
    }
    return {
        "id": compiled.id,
        "listener": compiled.listener_id,
        "enabled": config.enabled,
        "priority": config.priority,
        "host_pattern": None if config.host_pattern is None else str(config.host_pattern),
        "path_prefix": config.path_prefix,
        "is_default": config.is_default,
        "action": config.action,
        "redirect": _redirect(compiled),
        "balancing": config.target_load_balancing,
        "serving_group": None if serving is None else serving.group.number,
        "requests": count.requests,
        "failures": count.failures,
        "origin_errors": count.origin_errors,
        "p95_millis": p95_millis(count),
        "targets": [targets[each.name] for each in compiled.targets],
    }


def shares(board: Board, state: RouteState) -> Iterator[tuple[TargetState, float, Reason | None]]:
    """Each target by group, its share of the route's requests, and why it has none."""
    serving = serving_group(state)
    reasons = {(one.target, one.agent): one.reason for one in skipped(board, state)}
    for group in state.groups:
        config = group.group
        dealt = {}
        if group is serving:
            dealt = expected_shares(config.policy, config.weights, group.usable)
        for target in group.targets:
            share = dealt.get(target.target.position, 0.0)
            yield target, share, reasons.get((target.target.name, ""))


def _redirect(compiled: CompiledRoute) -> shapes.Redirect | None:
    config = compiled.config
    if config.redirect_target_mode is None or config.redirect_target is None:
        return None
    return {
        "mode": config.redirect_target_mode,
        "target": config.redirect_target,
        "status": config.redirect_status_code,
    }


def _target(
    sources: RouteSources, state: TargetState, share: float, reason: Reason | None
) -> shapes.Target:
    target = state.target
    config = target.config
    dealt = {0: 1.0}
    if target.selection is not None:
        dealt = expected_shares(target.policy, target.selection.weights, state.usable)
    return {
        "name": target.name,
        "transport": target.kind,
        "url": None if config.url is None else str(config.url),
        "static_status": config.static_status_code if target.kind == "static" else None,
        "priority_group": target.group,
        "weight": config.weight,
        "balancing": target.policy if target.kind == "agent" else None,
        "unusable": reason,
        "active": sum(path.active for path in state.paths),
        "share": round(share, 4),
        "paths": [
            _path(sources, path, share * dealt.get(position, 0.0))
            for position, path in enumerate(state.paths)
        ],
    }


def _path(sources: RouteSources, path: PathState, share: float) -> shapes.Path:
    key, health, clock = path.key, path.health, sources.clock
    count = sources.traffic.path(key.route_id, key.target_name, key.agent_id or None)
    obstacle = sources.board.obstacle(path)
    return {
        "agent": key.agent_id or None,
        "state": shown_status(path, clock.now),
        "unusable": obstacle,
        "reason": reason(path, obstacle, clock.now),
        "proved_at": None if health.proved_at is None else clock.epoch(health.proved_at),
        "cooldown_until": (
            clock.epoch(health.cooldown_until) if health.cooldown_until > clock.now else None
        ),
        "last_check": _last_check(path, clock),
        "active": path.active,
        "share": round(share, 4),
        "requests": count.requests,
        "failures": count.failures,
    }


def _last_check(path: PathState, clock: Clock) -> shapes.LastCheck | None:
    check = seen_of(path).check
    if check is None:
        return None
    return {
        "passed": check.passed,
        "reason": check.reason,
        "at": clock.epoch(check.at),
        "millis": round(check.seconds * 1000, 1),
    }


def seen_of(path: PathState) -> Sightings:
    """What was seen of a path last."""
    seen: Sightings = path.extra or Sightings()
    return seen


def shown_status(path: PathState, now: float) -> Status:
    """A path's state; `unknown` where the last proof is too old."""
    rules, health = path.target.rules, path.health
    if health.status == "healthy" and rules is not None and not is_proven(health, now, rules):
        return "unknown"
    return health.status


def reason(path: PathState, obstacle: Obstacle | None, now: float) -> str:
    """Why a path is in its state, in words that time alone does not change."""
    seen = seen_of(path)
    match obstacle:
        case "disabled":
            return "disabled in the file"
        case "disconnected":
            return "its agent is not connected"
        case "draining":
            declared = not path.target.open or (path.agent and path.agent.config.drain)
            return "drained in the file" if declared else "its agent is leaving"
        case "cooldown":
            return seen.refusal
        case _:
            pass
    if path.target.kind == "static":
        return "static"
    if path.target.rules is None:
        return "no health check"
    if path.health.status == "healthy" and shown_status(path, now) == "unknown":
        return "not proven lately"
    return "not checked yet" if seen.check is None else seen.check.reason


def address(listener: Listener) -> str:
    """Where a listener listens, as people write it; `*` is every address."""
    return f"{listener.protocol}://{bracketed(listener.bind_address) or '*'}:{listener.port}"


def listener(
    config: Listener, connections: Mapping[str, int], toml: str, where: str | None
) -> shapes.Listener:
    """One listener."""
    return {
        "id": config.id,
        "enabled": config.enabled,
        "protocol": config.protocol,
        "address": address(config),
        "connections": connections.get(config.id, 0),
        "toml": toml,
        "where": where,
    }
