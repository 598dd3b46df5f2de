"""`p2pstream trace`: the running server's requests, as they happen."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from p2pstream.cli.options import ConfigOption, JsonOption, print_line
from p2pstream.config.wording import printable

Event = dict[str, Any]

# A request that has not ended after this long is shown as it stands: it may be the one looked for.
_LONG_SECONDS: Final = 2.0
_INDENT: Final = " " * 14
_ENDS: Final = ("response_sent", "failed")
_COLOURS: Final = {
    "dim": "\x1b[2m",
    "bold": "\x1b[1m",
    "2": "\x1b[32m",
    "3": "\x1b[36m",
    "4": "\x1b[33m",
    "5": "\x1b[31m",
}


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(trace)


def _filter(help: str, metavar: str) -> Any:
    return typer.Option(help=help, metavar=metavar, show_default=False)


def trace(
    config: ConfigOption,
    level: Annotated[
        str, typer.Option(help="basic, detailed, headers or debug.", metavar="LEVEL")
    ] = "basic",
    listener: Annotated[str, _filter("Only requests of this listener.", "ID")] = "",
    route: Annotated[str, _filter("Only requests that took this route.", "ID")] = "",
    host: Annotated[str, _filter("Only requests for this host, or *.suffix.", "HOST")] = "",
    path_prefix: Annotated[str, _filter("Only requests below this path.", "PATH")] = "",
    agent: Annotated[str, _filter("Only requests through this agent.", "ID")] = "",
    status: Annotated[str, _filter("Only requests that end so, like 502 or 5xx.", "STATUS")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show requests as they happen, with what became of each and why; Ctrl-C ends it.

    At basic a request is one line: how it ended, how long it took, and its way from listener to
    origin. The other levels show each stage. Credentials and cookies are hidden at every level;
    with --json each stage is a line as the server tells it.

    Example: p2pstream trace --config p2pstream.toml --status 5xx --level detailed
    """
    from p2pstream.manage.client import settings
    from p2pstream.manage.traces import TRACE
    from p2pstream.manage.viewer import watch

    filters = {
        "level": level,
        "listener": listener,
        "route": route,
        "host": host,
        "path_prefix": path_prefix,
        "agent": agent,
        "status": status,
    }
    query = [(name, value) for name, value in filters.items() if value]
    for name, value in query:
        if not value.isprintable():
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} {printable(value)}: has what cannot be printed")
    if as_json:
        watch(settings(config), TRACE, query, _announced(_print_json, quiet=True))
        return
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    printer = Printer(print_line, colour=colour, stages=level != "basic")
    tell = _announced(printer.tell, quiet=False)
    watch(settings(config), TRACE, query, tell, printer.tick)


def _announced(tell: Callable[[Any], None], *, quiet: bool) -> Callable[[Any], None]:
    """`tell`, for all but the first message: that one says that the server has begun to trace."""
    begun = False

    def told(message: Any) -> None:
        nonlocal begun
        if begun:
            tell(message)
        elif not quiet:
            print("tracing; Ctrl-C ends it", file=sys.stderr, flush=True)
        begun = True

    return told


def _print_json(message: Any) -> None:
    for event in message["events"]:
        print_line(json.dumps(event))
    if message["dropped"]:
        print_line(json.dumps({"dropped": message["dropped"]}))


class Printer:
    """Puts the stages of each request together, and prints a request when it has ended."""

    def __init__(
        self, out: Callable[[str], None], *, colour: bool = False, stages: bool = False
    ) -> None:
        """`stages`: each on a line of its own."""
        self._out = out
        self._colour = colour
        self._stages = stages
        self._open: dict[str, list[Event]] = {}
        self._ages: dict[str, float] = {}

    def tell(self, message: Any) -> None:
        """Take a message of the server."""
        for event in message["events"]:
            id = event["id"]
            self._open.setdefault(id, []).append(event)
            if event["stage"] in _ENDS:
                self._ages.pop(id, None)
                self._print(self._open.pop(id))
        dropped = message["dropped"]
        if dropped:
            what = "request was" if dropped == 1 else "requests were"
            self._out(self._paint("4", f"{dropped} more {what} too many to show"))

    def tick(self, seconds: float = 1.0) -> None:
        """So much time has passed: show, once, what takes long."""
        for id, events in self._open.items():
            before = self._ages.get(id, 0.0)
            self._ages[id] = before + seconds
            if before < _LONG_SECONDS <= self._ages[id]:
                self._print(events)

    def _print(self, events: list[Event]) -> None:
        self._out(self._line(events))
        if self._stages:
            for event in events:
                for line in _details(event):
                    self._out(self._paint("dim", f"{_INDENT}{printable(line)}"))

    def _line(self, events: list[Event]) -> str:
        """A request as one line: when, what, how it ended, how long it took, its way, its id."""
        by_stage = {event["stage"]: event for event in events}
        received, last = by_stage.get("received", {}), events[-1]
        at = datetime.fromtimestamp(events[0]["at"]).strftime("%H:%M:%S.%f")[:-3]
        asked = f"{received.get('method') or '-'} {received.get('host')}{received.get('path')}"
        status = str(last["status"]) if last["stage"] in _ENDS else "..."
        took = f"{last['millis']:.1f} ms" if last["stage"] in _ENDS else last["stage"]
        why = f"  {last['error_kind']}: {last['why']}" if last["stage"] == "failed" else ""
        return "  ".join(
            (
                self._paint("dim", at),
                self._paint(status[0], status),
                f"{took:>9}",
                self._paint("bold", printable(asked)),
                printable(" > ".join(_way(by_stage))) + printable(why),
                self._paint("dim", events[0]["id"]),
            )
        )

    def _paint(self, colour: str, text: str) -> str:
        if not self._colour or colour not in _COLOURS:
            return text
        return f"{_COLOURS[colour]}{text}\x1b[0m"


def _way(by_stage: dict[str, Event]) -> Iterator[str]:
    """Listener, route, target, agent, origin: as far as it came."""
    for stage, name in (
        ("received", "listener"),
        ("route_resolved", "route"),
        ("target_selected", "target"),
        ("agent_selected", "agent"),
        ("upstream_started", "origin"),
    ):
        if stage in by_stage:
            yield str(by_stage[stage][name])


def _details(event: Event) -> Iterator[str]:
    """A stage, and what is known of it: its own fields, lists a line each."""
    hidden = ("id", "stage", "at", "millis")
    plain = {k: v for k, v in event.items() if k not in hidden and not isinstance(v, list)}
    shown = ", ".join(f"{name} {_plain(value)}" for name, value in plain.items())
    yield f"{event['millis']:>9.1f} ms  {event['stage']}: {shown}"
    for name, value in event.get("headers", ()):
        yield f"{'':14}{name}: {value}"
    for one in event.get("considered", ()):
        yield f"{'':14}not route {one['route']}: {one['why']}"
    for one in event.get("skipped", ()):
        yield f"{'':14}not {_candidate(one)}: {_reason(one['reason'])}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _candidate(one: dict[str, Any]) -> str:
    target = f"target {one['target']}"
    return f"agent {one['agent']} of {target}" if one["agent"] else target


def _reason(reason: str) -> str:
    from p2pstream.policy.render import REASONS

    return REASONS.get(reason, reason)
