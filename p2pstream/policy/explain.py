"""What would happen to a request, and why, told to people (`explain`, spec §11).

The verdicts come from the functions that serve live traffic: `inspect`, `RouteTable`, `Board`,
`decide`. Here they are only asked one by one and written down. Nothing is chosen or counted:
explaining a request changes nobody's turn.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from p2pstream.errors import Fault, InvalidRequestTarget, MethodNotAllowed, NoRoute, NoTarget
from p2pstream.policy.balance import expected_shares
from p2pstream.policy.board import Board
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.decide import Reason, serving_group, skipped
from p2pstream.policy.path import has_encoded_separators, inspect, prefix_matches
from p2pstream.policy.request import Request
from p2pstream.policy.route import RouteTable, matching_order
from p2pstream.policy.state import GroupState, RouteState, TargetState
from p2pstream.policy.tables import Tables

# `later`: it would match, but one before it in matching order did. `path_security`: it matched,
# and does not take the path. `path_refused`: no route was asked.
RouteVerdict = Literal[
    "matched", "path_security", "disabled", "host", "path", "later", "path_refused"
]


@frozen
class RouteView:
    """One route of the listener, and why it was not the one."""

    id: str
    verdict: RouteVerdict
    detail: str


@frozen
class AgentView:
    """One agent that a target's labels mean; `share` is of the target's requests, 0 to 1."""

    id: str
    share: float
    reason: Reason | None


@frozen
class TargetView:
    """One target; `share` is of the route's requests, 0 to 1."""

    name: str
    kind: Literal["static", "direct", "agent"]
    url: str | None
    static_status: int | None
    share: float
    reason: Reason | None
    policy: str
    labels: dict[str, str]
    agents: tuple[AgentView, ...]


@frozen
class GroupView:
    """One priority group; exactly one serves, unless nothing is usable."""

    number: int
    serves: bool
    policy: str
    targets: tuple[TargetView, ...]


@frozen(eq=False)
class Explanation:
    """Everything `explain` says. `fault` is the ending without an origin, None if there is none."""

    listener_id: str
    request: Request
    routes: tuple[RouteView, ...]
    route: CompiledRoute | None
    fault: Fault | None
    location: str | None
    groups: tuple[GroupView, ...]

    @property
    def candidates(self) -> tuple[TargetView, ...]:
        """The targets that may serve; none where a fault comes before."""
        if self.fault is not None:
            return ()
        return tuple(t for group in self.groups if group.serves for t in group.targets if t.share)


def everyone_up(tables: Tables) -> Board:
    """Return a board on which every declared and enabled agent is connected, nothing unhealthy."""
    board = Board(tables)
    for agent in tables.agents.values():
        if agent.config.enabled:
            board.agent_connected(agent.id)
    return board


def explain(board: Board, listener_id: str, request: Request) -> Explanation:
    """Explain a request to a listener under what `board` knows; `KeyError` for no such listener.

    `everyone_up` is the board to use where nothing runs.
    """
    tables = board.tables
    route, fault = _route(tables, listener_id, request)
    location = None
    groups: tuple[GroupView, ...] = ()
    if route is not None and route.redirect is not None and fault is None:
        raw = route.redirect.location(request.path, request.query)
        location = raw.decode("utf-8", "replace")
    elif route is not None and route.redirect is None:
        state = board.state(route)
        groups = _groups(board, state)
        if fault is None and serving_group(state) is None:
            fault = NoTarget(f"route {route.id} has no usable target")
    return Explanation(
        listener_id=listener_id,
        request=request,
        routes=_routes(tables, listener_id, request, route, fault),
        route=route,
        fault=fault,
        location=location,
        groups=groups,
    )


def _route(
    tables: Tables, listener_id: str, request: Request
) -> tuple[CompiledRoute | None, Fault | None]:
    table = tables.listeners[listener_id]
    if request.method in ("CONNECT", "TRACE"):
        return None, MethodNotAllowed(f"{request.method} is not forwarded")
    try:
        return table.match(request.host, request.path), None
    except NoRoute as fault:
        return None, fault
    except InvalidRequestTarget as fault:
        try:
            seen = inspect(request.path)
        except InvalidRequestTarget:
            return None, fault
        return table.find(request.host, seen), fault


def _routes(
    tables: Tables,
    listener_id: str,
    request: Request,
    matched: CompiledRoute | None,
    fault: Fault | None,
) -> tuple[RouteView, ...]:
    mine = [route for route in tables.routes.values() if route.listener_id == listener_id]
    mine.sort(key=matching_order)
    if matched is None and fault is not None and not isinstance(fault, NoRoute):
        return tuple(RouteView(route.id, "path_refused", fault.detail) for route in mine)
    seen = inspect(request.path)
    return tuple(_route_view(route, request.host, seen, matched) for route in mine)


def passed_over(
    table: RouteTable, host: str, seen: bytes, matched: CompiledRoute | None, most: int
) -> tuple[RouteView, ...]:
    """Return the nearest enabled routes that a request came past on its way to `matched`.

    They are the last `most` before it in matching order, or before the end if nothing matched.
    """
    ranked = table.ranked
    end = len(ranked) if matched is None else ranked.index(matched)
    before = ranked[max(end - most, 0) : end]
    return tuple(_route_view(route, host, seen, matched) for route in before)


def _route_view(
    route: CompiledRoute, host: str, seen: bytes, matched: CompiledRoute | None
) -> RouteView:
    config = route.config
    pattern, prefix = config.host_pattern, config.path_prefix
    if not config.enabled:
        return RouteView(route.id, "disabled", "it is disabled")
    if pattern is not None and not pattern.matches(host):
        return RouteView(route.id, "host", f"host {host or '(none)'} is not {pattern}")
    if prefix is not None and not prefix_matches(prefix, seen):
        return RouteView(route.id, "path", f"the path is not under {prefix}")
    if route is matched:
        if route.strict and has_encoded_separators(seen):
            return RouteView(route.id, "path_security", "%2F and %5C are refused (strict)")
        return RouteView(route.id, "matched", "the default route" if config.is_default else "")
    winner = "nothing" if matched is None else matched.id
    return RouteView(route.id, "later", f"{winner} comes before it")


def _groups(board: Board, state: RouteState) -> tuple[GroupView, ...]:
    serving = serving_group(state)
    reasons = {(s.target, s.agent): s.reason for s in skipped(board, state)}
    return tuple(_group_view(group, group is serving, reasons) for group in state.groups)


def _group_view(
    group: GroupState, serves: bool, reasons: dict[tuple[str, str], Reason]
) -> GroupView:
    config = group.group
    shares = expected_shares(config.policy, config.weights, group.usable) if serves else {}
    targets = tuple(
        _target_view(state, shares.get(state.target.position, 0.0), reasons)
        for state in group.targets
    )
    return GroupView(config.number, serves, config.policy, targets)


def _target_view(
    state: TargetState, share: float, reasons: dict[tuple[str, str], Reason]
) -> TargetView:
    target = state.target
    agents: tuple[AgentView, ...] = ()
    if target.selection is not None:
        shares = expected_shares(target.policy, target.selection.weights, state.usable)
        agents = tuple(
            AgentView(agent.id, shares.get(position, 0.0), reasons.get((target.name, agent.id)))
            for position, agent in enumerate(target.agents)
        )
    selector = target.config.agent_selector
    return TargetView(
        name=target.name,
        kind=target.kind,
        url=None if target.config.url is None else str(target.config.url),
        static_status=target.config.static_status_code if target.kind == "static" else None,
        share=share,
        reason=reasons.get((target.name, "")),
        policy=target.policy,
        labels={} if target.selection is None or selector is None else selector.match_labels,
        agents=agents,
    )
