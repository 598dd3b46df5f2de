"""`[[expectations]]`: routing tests that run without any traffic (spec §1).

Each request is explained with every declared and enabled agent connected and nothing unhealthy;
what it expects must then hold whichever candidate a balancer would name:

* `expect_route`: this route matches (also if it then refuses the path, or redirects).
* `expect_target`: it is among the candidates, the usable targets of the group that serves.
* `expect_agent_in`: every agent that could get the request is in the list, there is at least one,
  and no candidate works without an agent; with `expect_target`, of that target alone.
* `expect_status`: the status of every ending that is decided here: a fault, a redirect, a static
  target. With `expect_target`, of that target alone. A proxy target's status is its origin's to
  decide, so expecting one is a failure.
* `expect_location`: the `Location` of a redirect, whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from p2pstream.config.model import Config, Expectation
from p2pstream.policy.board import Board
from p2pstream.policy.explain import Explanation, TargetView, everyone_up, explain
from p2pstream.policy.request import Request
from p2pstream.policy.tables import Tables


@frozen
class Failure:
    """One field of one expectation that does not hold; `position` counts from 0 in the file."""

    position: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"expectations[{self.position}].{self.field}: {self.message}"


def check_expectations(config: Config) -> list[Failure]:
    """Run every expectation of a checked configuration; return what failed, in file order."""
    board = everyone_up(Tables.compile(config))
    return [
        Failure(position, field, message)
        for position, expectation in enumerate(config.expectations)
        for field, message in _failures(board, expectation)
    ]


def _failures(board: Board, expectation: Expectation) -> Iterator[tuple[str, str]]:
    try:
        request = Request.parse(expectation.request)
    except ValueError as reason:
        yield "request", str(reason)
        return
    if expectation.listener_id not in board.tables.listeners:
        yield "listener_id", f"there is no listener {expectation.listener_id}"
        return
    seen = explain(board, expectation.listener_id, request)
    got = "no route" if seen.route is None else seen.route.id
    if expectation.expect_route is not None and expectation.expect_route != got:
        yield "expect_route", f"expected {expectation.expect_route}, got {got}"
    candidates = {target.name: target for target in seen.candidates}
    wanted = expectation.expect_target
    if wanted is not None:
        if wanted not in candidates:
            yield "expect_target", f"expected {wanted}, candidates are {_list(candidates)}"
            return
        candidates = {wanted: candidates[wanted]}
    if expectation.expect_agent_in:
        yield from _agents(expectation.expect_agent_in, candidates)
    if expectation.expect_status is not None:
        yield from _status(expectation.expect_status, seen, candidates)
    location = expectation.expect_location
    if location is not None and location != seen.location:
        yield "expect_location", f"expected {location}, got {seen.location or 'no redirect'}"


def _agents(
    allowed: tuple[str, ...], candidates: dict[str, TargetView]
) -> Iterator[tuple[str, str]]:
    without = [name for name, target in candidates.items() if target.kind != "agent"]
    agents = {a.id for target in candidates.values() for a in target.agents if a.reason is None}
    if without:
        yield "expect_agent_in", f"target {without[0]} works without an agent"
    elif not agents:
        yield "expect_agent_in", "no agent could get this request"
    elif strangers := agents.difference(allowed):
        yield "expect_agent_in", f"{_list(sorted(strangers))} could get it too"


def _status(
    wanted: int, seen: Explanation, candidates: dict[str, TargetView]
) -> Iterator[tuple[str, str]]:
    if seen.fault is not None:
        if wanted != seen.fault.status:
            yield "expect_status", f"expected {wanted}, got {seen.fault.status} {seen.fault.kind}"
        return
    if seen.route is not None and seen.route.redirect is not None:
        if wanted != seen.route.redirect.status:
            yield "expect_status", f"expected {wanted}, got {seen.route.redirect.status}"
        return
    for name, target in candidates.items():
        if target.static_status is None:
            yield "expect_status", f"the origin of target {name} decides the status"
        elif target.static_status != wanted:
            yield "expect_status", f"expected {wanted}, target {name} gives {target.static_status}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
