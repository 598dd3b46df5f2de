"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from p2pstream.errors import CommandError, ConfigError

P = ParamSpec("P")

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="P2PSTREAM_CONFIG",
        help="The configuration file.",
        metavar="FILE",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def faults_as_json(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command: with `--json`, the faults of a file are told as JSON too."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            if not kwargs.get("as_json"):
                raise
            print_json({"ok": False, "faults": list(error.faults)})
            raise typer.Exit(error.exit_code) from error

    return told


def print_json(value: object) -> None:
    """Print one JSON document."""
    # Elsewhere than in UTF-8, what has no place must be escaped as JSON does it.
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    print(json.dumps(value, indent=2, ensure_ascii=encoding not in ("utf-8", "utf8")))


def print_line(line: str) -> None:
    """Print a line at once: whoever reads it may be a pipe. Error: `CommandError`."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> CommandError:
    """What to tell when standard output takes no more."""
    return CommandError(f"cannot write to standard output: {(error.strerror or '').lower()}")


def tell_other_file(config_file: Path, view: dict[str, Any]) -> None:
    """Say so, on standard error, if the server runs with another file than the one given."""
    theirs = view["config_file"]
    if os.path.realpath(config_file) != os.path.realpath(theirs):
        print(f"note: the server runs with {theirs}; this is about that file", file=sys.stderr)
