"""`p2pstream status`: what runs, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer

from p2pstream.cli.options import ConfigOption, JsonOption, faults_as_json, print_json
from p2pstream.config.wording import printable

Row = tuple[str, ...]

_PATH_HEADS: Final = (
    *("ROUTE", "TARGET", "VIA", "STATE", "REASON", "CHECKED"),
    *("ACTIVE", "SHARE", "REQUESTS", "FAILURES"),
)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(status)


@faults_as_json
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show listeners, agents, routes, targets, and every path with its health and share.

    A path is a target, seen directly or through one agent. SHARE is of the route's requests, as
    they would be dealt out now.

    Example: p2pstream status --config p2pstream.toml
    """
    from p2pstream.manage.api import STATUS
    from p2pstream.manage.client import ask, settings

    view = ask(settings(config), STATUS)
    if as_json:
        print_json(view)
    else:
        print("\n".join(lines(view)))


def lines(view: dict[str, Any]) -> Iterator[str]:
    """Return the tables, a line each."""
    names = {one["id"]: one["name"] for one in view["agents"]}
    yield from _table(
        ("LISTENER", "ADDRESS"), [(one["id"], one["address"]) for one in view["listeners"]]
    )
    if names:
        yield ""
        yield from _table(
            ("AGENT", "STATE", "FROM", "SINCE", "ROUND TRIP", "STREAMS"),
            [_agent(one) for one in view["agents"]],
        )
    yield ""
    yield from _table(
        ("ROUTE", "LISTENER", "MATCHES", "BALANCING", "SERVES"),
        [_route(one) for one in view["routes"]],
    )
    yield ""
    yield from _table(
        ("ROUTE", "TARGET", "ORIGIN", "GROUP", "WEIGHT", "STATE", "ACTIVE", "SHARE"),
        [_target(one) for one in view["targets"]],
    )
    yield ""
    yield from _table(
        _PATH_HEADS,
        [_path(one, names.get(one["agent"], one["transport"])) for one in view["paths"]],
    )


def _agent(one: dict[str, Any]) -> Row:
    return (
        one["name"],
        one["state"],
        one.get("address", "-"),
        f"{one['connected_seconds']:.0f} s" if "connected_seconds" in one else "-",
        f"{one['round_trip_millis']} ms" if one.get("round_trip_millis") else "-",
        str(one.get("streams", "-")),
    )


def _route(one: dict[str, Any]) -> Row:
    matches = f"{one['host_pattern'] or ''}{one['path_prefix'] or ''}"
    group = one["serving_group"]
    if not one["enabled"]:
        serves = "disabled"
    elif one["action"] == "redirect":
        serves = "redirect"
    else:
        serves = "nothing: 503" if group is None else f"group {group}"
    balancing = one["balancing"] if one["action"] == "forward" else "-"
    return (one["id"], one["listener"], matches or "(default)", balancing, serves)


def _target(one: dict[str, Any]) -> Row:
    from p2pstream.policy.render import REASONS

    reason = one["unusable"]
    return (
        one["route"],
        one["name"],
        one["url"] or "(static)",
        str(one["priority_group"]),
        str(one["weight"]),
        "serves" if reason is None else REASONS[reason],
        str(one["active"]),
        _percent(one["share"]),
    )


def _path(one: dict[str, Any], via: str) -> Row:
    state, obstacle, check = one["state"], one["unusable"], one["last_check"]
    return (
        one["route"],
        one["target"],
        via,
        state if obstacle is None or obstacle == state else f"{state} ({obstacle})",
        one["reason"],
        "-" if check is None else f"{check['seconds_ago']:.0f} s ago",
        str(one["active"]),
        _percent(one["share"]),
        str(one["requests"]),
        str(one["failures"]),
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share else "-"


def _table(heads: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    plain = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    for row in plain:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
