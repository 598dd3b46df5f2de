"""An explanation as lines for a terminal, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import asdict

from p2pstream.policy.explain import Explanation, GroupView, TargetView

REASONS = {
    "disabled": "disabled",
    "draining": "draining: gets no new requests",
    "disconnected": "not connected",
    "unhealthy": "unhealthy",
    "cooldown": "cooling down after failed connects",
    "no_agent": "no agent has these labels",
    "no_usable_agent": "none of its agents is usable",
    "other_group": "another group serves",
    "tried": "tried already",
}


def as_lines(explanation: Explanation) -> list[str]:
    """Return the text of `explain`, a line each, without line ends."""
    return list(_lines(explanation))


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return the same as values that `json` takes. Shares are fractions of 1."""
    request, fault, route = explanation.request, explanation.fault, explanation.route
    return {
        "request": str(request),
        "listener": explanation.listener_id,
        "host": request.host,
        "path": request.path.decode("utf-8", "replace"),
        "routes": [asdict(view) for view in explanation.routes],
        "route": None if route is None else route.id,
        "status": _status(explanation),
        "error_kind": None if fault is None else fault.kind,
        "error": None if fault is None else fault.detail,
        "location": explanation.location,
        "groups": [asdict(group) for group in explanation.groups],
    }


def _status(explanation: Explanation) -> int | None:
    """The status, where it is known without an origin."""
    if explanation.fault is not None:
        return explanation.fault.status
    if explanation.route is not None and explanation.route.redirect is not None:
        return explanation.route.redirect.status
    return None


def _lines(explanation: Explanation) -> Iterator[str]:
    yield str(explanation.request)
    yield f"listener {explanation.listener_id}"
    yield "routes, in matching order:"
    for view in explanation.routes:
        mark = "->" if view.verdict in ("matched", "path_security") else "  "
        text = view.verdict.replace("_", " ") + (f": {view.detail}" if view.detail else "")
        yield f"  {mark} {view.id}  {text}"
    if not explanation.routes:
        yield "     (none)"
    for group in explanation.groups:
        yield from _group_lines(group)
    if explanation.location is not None:
        yield f"answer: {_status(explanation)}, Location: {explanation.location}"
    elif explanation.fault is not None:
        fault = explanation.fault
        yield f"answer: {fault.status} {fault.kind}: {fault.detail}"


def _group_lines(group: GroupView) -> Iterator[str]:
    yield f"group {group.number}, {group.policy}{', serves' if group.serves else ''}:"
    for target in group.targets:
        state = f"{target.share:.1%}" if target.share else REASONS[target.reason or "other_group"]
        yield f"  {'->' if target.share else '  '} {target.name}  {_what(target)}  {state}"
        for agent in target.agents:
            usable = agent.reason is None
            state = f"{agent.share:.1%}" if usable else REASONS[agent.reason or "other_group"]
            yield f"       {agent.id}  {state}"


def _what(target: TargetView) -> str:
    if target.kind == "static":
        return f"static {target.static_status}"
    if target.kind == "direct":
        return f"direct {target.url}"
    labels = ", ".join(f"{key}={value}" for key, value in target.labels.items())
    return f"{target.url} through agents with {labels} ({target.policy})"
