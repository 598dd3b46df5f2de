"""`p2pstream status`: what runs, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from p2pstream.cli.options import ConfigOption, JsonOption, print_json
from p2pstream.config.load import load
from p2pstream.manage.api import STATUS
from p2pstream.manage.client import ask


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(status)


def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show listeners, agents, and every path with its health and requests.

    Example: p2pstream status --config p2pstream.toml
    """
    view = ask(load(config), STATUS)
    if as_json:
        print_json(view)
    else:
        print("\n".join(_lines(view)))


def _lines(view: dict[str, Any]) -> Iterator[str]:
    yield from _table(
        ("LISTENER", "ADDRESS"), [(one["id"], one["address"]) for one in view["listeners"]]
    )
    names = {one["id"]: one["name"] for one in view["agents"]}
    if names:
        yield ""
        yield from _table(
            ("AGENT", "STATE", "FROM", "SINCE", "ROUND TRIP", "STREAMS"),
            [
                (
                    one["name"],
                    one["state"],
                    one.get("address", "-"),
                    f"{one['connected_seconds']:.0f} s" if "connected_seconds" in one else "-",
                    f"{one['round_trip_millis']} ms" if one.get("round_trip_millis") else "-",
                    str(one.get("streams", "-")),
                )
                for one in view["agents"]
            ],
        )
    yield ""
    yield from _table(
        ("ROUTE", "TARGET", "VIA", "HEALTH", "ACTIVE", "REQUESTS", "FAILURES"),
        [
            (
                one["route"],
                one["target"],
                names.get(one["agent"], one["transport"]),
                one["health"] + (f" ({one['unusable']})" if one["unusable"] else ""),
                str(one["active"]),
                str(one["requests"]),
                str(one["failures"]),
            )
            for one in view["paths"]
        ],
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
